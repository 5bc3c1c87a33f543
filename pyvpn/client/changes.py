"""What changes around a client: its host's addresses and routes, and the time that it slept."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pyvpn.net.process import boottime
from pyvpn.net.rtnetlink import ROUTE_NEWS, News

_log = Logger()

SETTLE_SECONDS = 0.1
"""A change comes in several pieces: address, route, default route."""
LATEST_SECONDS = 0.5
"""... but where they never end nobody waits for longer."""
SLEPT_SECONDS = 2.0
LOOK_SECONDS = 1.0

ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses that nobody has, one in each family: packets for them take the default route."""


class HostChanges:
    """Calls *changed* after the host's ways out have changed, or it has slept.

    Args:
        look: returns what :func:`ways_out` does, to be compared; so what changes elsewhere, in
            our own tunnel above all, disturbs nobody.
    """

    def __init__(
        self, reactor: Any, changed: Callable[[], None], look: Callable[[], Mapping[str, str]]
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        self._ways_out = look
        self._were: Mapping[str, str] = {}
        self._news = News(reactor, ROUTE_NEWS, self._heard)
        self._call: IDelayedCall | None = None
        self._first = 0.0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._asleep = 0.0

    def begin(self) -> None:
        """Listen from now on; where the kernel refuses us the news, only sleep is noticed."""
        with suppress(OSError):
            self._news.open()
        self._asleep = boottime() - time.monotonic()
        self._were = self._ways_out()
        self._looking.start(LOOK_SECONDS, now=False)

    def end(self) -> None:
        """Listen no more; may be called without :meth:`begin`."""
        self._news.close()
        if self._looking.running:
            self._looking.stop()
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _heard(self) -> None:
        now = self._reactor.seconds()
        if self._call is not None and self._call.active():
            if now - self._first < LATEST_SECONDS - SETTLE_SECONDS:
                self._call.reset(SETTLE_SECONDS)
            return
        self._first = now
        self._call = self._reactor.callLater(SETTLE_SECONDS, self._compare)

    def _compare(self) -> None:
        before, self._were = self._were, self._ways_out()
        if any(before.get(place, way) != way for place, way in self._were.items()):
            self._tell()

    def _look(self) -> None:
        # The monotonic clock stands still while a machine sleeps, the other one does not.
        asleep = boottime() - time.monotonic()
        if asleep - self._asleep > SLEPT_SECONDS:
            self._asleep = asleep
            self._tell()

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:  # noqa: BLE001 - a LoopingCall that fails once is never called again
            _log.failure("a change of the network met a bug of ours")


def ways_out(places: Iterable[str], mark: int) -> dict[str, str]:
    """Return for each of *places* our address from which packets would go there; "": none would.

    Args:
        mark: SO_MARK, which keeps them out of the tunnel; 0: none.
    """
    found = dict.fromkeys(places, "")
    for place in found:
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            if mark:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
            probe.connect((place, 9))  # sends nothing
            found[place] = probe.getsockname()[0]
    return found


def is_ours(host: str) -> bool:
    """Whether this host has the address *host* at the moment."""
    if host.startswith("fe80:"):
        return True  # without its interface nobody can tell
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
