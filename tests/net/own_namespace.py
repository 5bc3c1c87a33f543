"""A network namespace for one test, so that a unit test may ask the real kernel."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from unittest import SkipTest

CLONE_NEWNET = 0x40000000


def _call(name: str, *args: int) -> None:
    if sys.version_info >= (3, 12):
        getattr(os, name)(*args)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if getattr(libc, name)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def enter_own_namespace(add_cleanup: Callable[..., object]) -> None:
    """Move this thread into a fresh, empty namespace until the test's clean-up.

    Raises:
        SkipTest: we may not; the text says what it takes.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    add_cleanup(os.close, home)
    try:
        _call("unshare", CLONE_NEWNET)
    except OSError as error:
        raise SkipTest(f"needs root, for a network namespace of its own ({error})") from error
    add_cleanup(_call, "setns", home, CLONE_NEWNET)
