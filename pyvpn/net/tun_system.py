"""The system calls behind a TUN device."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence

from zope.interface import Interface, implementer

from pyvpn.wire.segments import VNET_SIZE

DEVICE = "/dev/net/tun"

CHECKSUM = 0x01
"""Offload: the reader completes the checksums of TCP and UDP.  Needed for all others."""
TCP_SEGMENTS = 0x02 | 0x04
"""Offload: the reader cuts TCP super-packets of IPv4 and IPv6."""
UDP_SEGMENTS = 0x20 | 0x40
"""Offload: the same of UDP, from Linux 6.2 on."""

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000  # no 4-byte header of the kernel's own before each packet
_IFF_VNET_HDR = 0x4000
_REQUEST = struct.Struct("16sH22x")  # struct ifreq: name, flags, padding
_INT = struct.Struct("=i")


class ITunSystem(Interface):
    """The system calls a TUN needs.  All raise OSError, as the kernel would."""

    def open() -> int:
        """Open the clone device, non-blocking and closed on exec."""

    def attach(fd: int, name: str, headers: bool = False) -> str:
        """Make *fd* the TUN *name* (not persistent, no packet information); return its name.

        *headers*: a virtio header (:data:`~pyvpn.wire.segments.VNET_SIZE` bytes) stands before
        each packet, in both directions.
        """

    def offload(fd: int, what: int) -> None:
        """Have packets handed out with this left to the reader; 0: nothing.

        What may be written does not depend on it.
        """

    def read(fd: int, size: int) -> bytes:
        """Read one packet; what is longer than *size* bytes is cut without a word."""

    def readv(fd: int, buffers: Sequence[bytearray]) -> int:
        """Read one packet into *buffers*; return its bytes."""

    def write(fd: int, packet: bytes) -> int:
        """Write one packet."""

    def writev(fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write one packet, in pieces."""

    def close(fd: int) -> None:
        """Close *fd*; the device vanishes with its addresses and routes."""


@implementer(ITunSystem)
class KernelTunSystem:
    """The real one."""

    read = staticmethod(os.read)
    readv = staticmethod(os.readv)
    write = staticmethod(os.write)
    writev = staticmethod(os.writev)
    close = staticmethod(os.close)

    @staticmethod
    def open() -> int:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    @staticmethod
    def attach(fd: int, name: str, headers: bool = False) -> str:
        flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if headers else 0)
        answer: bytes = fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
        if headers:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(VNET_SIZE))
        return str(_REQUEST.unpack(answer)[0].rstrip(b"\0").decode())

    @staticmethod
    def offload(fd: int, what: int) -> None:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, what)  # the value itself, not a pointer to it
