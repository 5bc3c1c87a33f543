"""A TUN without a kernel, and what both it and the kernel's look like from outside."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from unittest import SkipTest

from pyroute2 import IPRoute
from zope.interface import implementer

from pyvpn.net.tun_system import ITunSystem, KernelTunSystem
from pyvpn.wire.segments import PLAIN, VNET_SIZE, cut
from tests.net.own_namespace import enter_own_namespace

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
PACKET_OUTGOING = 4
SOL_PACKET = 263
PACKET_VNET_HDR = 15


def packet(number: int, size: int = 40) -> bytes:
    """Return an IPv4 packet of *size* bytes that differs from those of other numbers."""
    head = bytes([0x45, 0]) + size.to_bytes(2, "big") + number.to_bytes(2, "big")
    head += bytes([0, 0, 64, 253, 0, 0]) + bytes([192, 0, 2, 1]) + bytes([192, 0, 2, 2])
    return head + bytes([number % 256]) * (size - len(head))


class Outside(Protocol):
    """The network's view of a device: what a TunSystem's user cannot do itself."""

    system: ITunSystem

    def set_up(self, name: str, mtu: int = 1420) -> None:
        """Set the interface up."""

    def set_down(self, name: str) -> None:
        """Set it down."""

    def delete(self, name: str) -> None:
        """Delete it under its user."""

    def put(self, name: str, packets: list[bytes]) -> None:
        """Send packets out by the interface."""

    def get(self, name: str) -> list[bytes]:
        """Return the packets that came in by it, since it was set up."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _FakeDevice:
    def __init__(self, outside: socket.socket) -> None:
        self.outside = outside
        self.name: str | None = None
        self.headers = False
        self.up = False
        self.deleted = False


@implementer(ITunSystem)
class FakeTunSystem:
    """TUN devices made of socket pairs, which keep the bounds of packets too.

    Is its own `Outside`.  `refuse_open` and `refuse_attach` are error numbers to raise.

    Args:
        old: knows no virtio headers.
        known: the offloads it knows, as bits; others are refused.
    """

    def __init__(self, old: bool = False, known: int = 0x67) -> None:
        self.old = old
        self.known = known
        self.offloads = 0
        self.writes: list[int] = []
        """Of each write, how many packets it held."""
        self.system = self
        self.refuse_open: int | None = None
        self.refuse_attach: int | None = None
        self._devices: dict[int, _FakeDevice] = {}

    def open(self) -> int:
        if self.refuse_open is not None:
            raise _error(self.refuse_open)
        inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in inside, outside:
            end.setblocking(False)
        fd = inside.detach()
        self._devices[fd] = _FakeDevice(outside)
        return fd

    def attach(self, fd: int, name: str, headers: bool = False) -> str:
        if headers and self.old:
            raise _error(errno.EINVAL)
        if self.refuse_attach is not None:
            raise _error(self.refuse_attach)
        if any(device.name == name and not device.deleted for device in self._devices.values()):
            raise _error(errno.EBUSY)
        self._devices[fd].name = name
        self._devices[fd].headers = headers
        return name

    def offload(self, fd: int, what: int) -> None:
        if what & ~self.known or (what and not what & 1):
            raise _error(errno.EINVAL)
        self.offloads = what

    def read(self, fd: int, size: int) -> bytes:
        device = self._device(fd)
        return (PLAIN if device.headers else b"") + os.read(fd, size)

    def readv(self, fd: int, buffers: list[bytearray]) -> int:
        frame = self.read(fd, sum(map(len, buffers)))
        buffers[0][: len(frame)] = frame
        return len(frame)

    def write(self, fd: int, packet: bytes) -> int:
        device = self._device(fd)
        if not device.up:
            raise _error(errno.EIO)
        if packet[:1] == b"" or packet[0] >> 4 not in (4, 6):
            raise _error(errno.EINVAL)
        self.writes.append(1)
        return os.write(fd, packet)

    def writev(self, fd: int, pieces: list[bytes]) -> int:
        frame = b"".join(pieces)
        assert self._device(fd).headers
        if frame.startswith(PLAIN):
            return self.write(fd, frame[VNET_SIZE:])
        self._device(fd)
        packets = cut(frame)
        assert packets
        if frame[1] == 5 and not self.known & 0x20:
            raise _error(errno.EINVAL)
        for each in packets:
            self.write(fd, each)
        self.writes[-len(packets) :] = [len(packets)]
        return len(frame)

    def close(self, fd: int) -> None:
        self._devices.pop(fd).outside.close()
        os.close(fd)

    def open_descriptors(self) -> int:
        return len(self._devices)

    def _device(self, fd: int) -> _FakeDevice:
        device = self._devices.get(fd)
        if device is None:
            raise _error(errno.EBADF)
        if device.deleted:
            raise _error(errno.EBADFD)
        return device

    def _named(self, name: str) -> _FakeDevice:
        return next(d for d in self._devices.values() if d.name == name and not d.deleted)

    def set_up(self, name: str, mtu: int = 1420) -> None:
        self._named(name).up = True

    def set_down(self, name: str) -> None:
        self._named(name).up = False

    def delete(self, name: str) -> None:
        self._named(name).deleted = True

    def put(self, name: str, packets: list[bytes]) -> None:
        for each in packets:
            self._named(name).outside.send(each)

    def get(self, name: str) -> list[bytes]:
        got = []
        while True:
            try:
                got.append(self._named(name).outside.recv(65_536))
            except BlockingIOError:
                return got


class KernelOutside:
    """The kernel's TUN, in a namespace of its own, seen through a packet socket.

    Raises:
        SkipTest: there is no namespace or no TUN to be had here, and why.
    """

    def __init__(self, add_cleanup: Callable[..., object]) -> None:
        enter_own_namespace(add_cleanup)
        self.system = KernelTunSystem()
        try:
            self.system.close(self.system.open())
        except OSError as error:
            raise SkipTest(f"needs a TUN driver ({error})") from error
        # Or the kernel's own router solicitations would be among the packets.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        self._add_cleanup = add_cleanup
        self._sockets: dict[str, socket.socket] = {}
        self._netlink = IPRoute()
        add_cleanup(self._netlink.close)

    def _index(self, name: str) -> int:
        return int(self._netlink.link_lookup(ifname=name)[0])

    def set_up(self, name: str, mtu: int = 1420) -> None:
        self._netlink.link("set", index=self._index(name), mtu=mtu, state="up")
        # A socket bound before the interface was up would report that it is down.
        view = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._add_cleanup(view.close)
        view.bind((name, ETH_P_ALL))
        view.setblocking(False)
        self._sockets[name] = view

    def set_down(self, name: str) -> None:
        self._netlink.link("set", index=self._index(name), state="down")

    def delete(self, name: str) -> None:
        self._netlink.link("del", index=self._index(name))

    def put(self, name: str, packets: list[bytes]) -> None:
        for each in packets:
            self._sockets[name].sendto(each, (name, ETH_P_IP))

    def put_frame(self, name: str, frame: bytes) -> None:
        """Send a super-packet, behind its virtio header, out by the interface."""
        protocol = ETH_P_IP if frame[VNET_SIZE] >> 4 == 4 else ETH_P_IPV6
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            raw.bind((name, 0))
            raw.sendto(frame, (name, protocol))

    def get(self, name: str) -> list[bytes]:
        got = []
        while True:
            try:
                each, sender = self._sockets[name].recvfrom(65_536)
            except BlockingIOError:
                return got
            if sender[2] != PACKET_OUTGOING:
                got.append(each)
