"""What a fresh TUN's interface needs before anybody else sees to it."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path

from pyvpn.errors import HostError

_SIOCSIFMTU = 0x8922
_REQUEST = struct.Struct("16si20x")  # struct ifreq: name, number
_NO_LINK_LOCAL = "1"  # IN6_ADDR_GEN_MODE_NONE
_SETTINGS = Path("/proc/sys/net/ipv6/conf")


def prepare_link(name: str, mtu: int) -> None:
    """Give the interface its MTU (bytes), and see to it that it gets no link-local address.

    Nobody in a tunnel would answer to one, and the kernel would solicit routers from it.  (The
    kernel's own WireGuard interfaces have none either.)  Where that cannot be set, it is left.

    Raises:
        HostError: the MTU cannot be set.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking, _SIOCSIFMTU, _REQUEST.pack(name.encode(), mtu))
        except OSError as error:
            cure = "; that needs root or CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
            raise HostError(f"cannot set the MTU of {name}: {error.strerror}{cure}") from error
    with suppress(OSError):  # no IPv6, or /proc/sys is not ours to write
        (_SETTINGS / name / "addr_gen_mode").write_text(_NO_LINK_LOCAL)
