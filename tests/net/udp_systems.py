"""UDP without a kernel, and what both it and the kernel's look like from outside."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

from pyroute2 import IPRoute
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from pyvpn.net.bpf import SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF
from pyvpn.net.udp import RunProtocol
from pyvpn.net.udp_sockets import IUdpSystem, KernelUdpSystem
from pyvpn.wire.datagram import Path, Run
from tests.net.bpf_machine import attached, run
from tests.net.own_namespace import enter_own_namespace

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
OUTSIDE_PORT = 40_000
BIND_TO_INTERFACE = 62
IP_PKTINFO = 8


def packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


class Heard(NamedTuple):
    """A datagram as it came out of the port under test."""

    datagram: bytes
    host: str
    port: int
    tos: int


class Outside(Protocol):
    """Somebody at the loopback address who talks with the port under test."""

    system: IUdpSystem

    def put(self, datagram: bytes, port: int, version: int = 4, tos: int = 0) -> None:
        """Send one datagram to the port."""

    def get(self, version: int = 4) -> list[Heard]:
        """Return what came, oldest first."""

    def path(self, version: int = 4) -> Path:
        """Where we are, without a word on the port's own address."""


class KeepingProtocol(RunProtocol):
    """Keeps what it is given, and when it was started and stopped."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[bytes], Path, int]] = []
        self.told: list[str] = []
        self.receive: Callable[[], object] = lambda: None

    def startProtocol(self) -> None:
        self.told.append("started")

    def stopProtocol(self) -> None:
        self.told.append("stopped")

    def runs_received(self, runs: list[Run]) -> None:
        self.runs += [(list(datagrams), path, ecn) for datagrams, path, ecn in runs]
        self.receive()

    def take(self) -> list[bytes]:
        """What has come since the last time, without its paths."""
        datagrams = [datagram for run_, _, _ in self.runs for datagram in run_]
        self.runs.clear()
        return datagrams


def read_all(reactor: MemoryReactorClock) -> None:
    """Wake everybody who reads."""
    for reader in reactor.getReaders():
        reader.doRead()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeSocket:
    """One UDP socket."""

    def __init__(self, system: FakeUdpSystem, family: int, number: int) -> None:
        self._system = system
        self._number = number
        self.family = family
        self.options: dict[tuple[int, int], Any] = {}
        self.name: tuple[Any, ...] | None = None
        self.waiting: list[tuple[bytes, list[Any], int, tuple[Any, ...]]] = []

    def fileno(self) -> int:
        return self._number

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if number := self._system.refuse_option.get((level, option)):
            raise _error(number)
        if level == socket.SOL_SOCKET and option in (SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF):
            value = attached(value)
        self.options[level, option] = value

    def getsockopt(self, level: int, option: int) -> int:
        value = self.options.get((level, option), 0)
        return struct.unpack("=I", value)[0] if isinstance(value, bytes) else value

    def shares(self) -> bool:
        return bool(self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))

    def bind(self, address: tuple[Any, ...]) -> None:
        self._system.bind(self, address)

    def getsockname(self) -> tuple[Any, ...]:
        assert self.name is not None
        return self.name

    def recvmsg(self, size: int, room: int) -> tuple[bytes, list[Any], int, tuple[Any, ...]]:
        if self._system.refuse_read:
            raise _error(self._system.refuse_read.pop(0))
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "later")
        return self.waiting.pop(0)

    def recvmsg_into(
        self, buffers: list[bytearray], room: int
    ) -> tuple[int, list[Any], int, tuple[Any, ...]]:
        data, ancillary, flags, address = self.recvmsg(len(buffers[0]), room)
        buffers[0][: len(data)] = data
        return len(data), ancillary, flags, address

    def sendmsg(
        self, buffers: Any, ancillary: list[Any], flags: int, address: tuple[Any, ...]
    ) -> int:
        whole = b"".join(buffers)
        sizes = [value for level, _, value in ancillary if level == socket.IPPROTO_UDP]
        size = struct.unpack("=H", sizes[0])[0] if sizes else max(1, len(whole))
        datagrams = [whole[at : at + size] for at in range(0, len(whole), size)] or [b""]
        assert len(datagrams) <= 64
        for datagram in datagrams:
            if number := self._system.refuse_send(datagram, ancillary):
                raise _error(number)
        assert self.name is not None
        self._system.calls += 1
        for datagram in datagrams:
            self._system.sent.append((datagram, ancillary, address, self))
        return len(whole)

    def close(self) -> None:
        self._system.sockets.discard(self)


class FakeQuestions:
    """Knows one answer."""

    def __init__(self, system: FakeUdpSystem) -> None:
        self._system = system

    def interface_for(self, destination: bytes, source: bytes, mark: int) -> int:
        self._system.asked.append((destination, source, mark))
        if isinstance(self._system.leaves_by, OSError):
            raise self._system.leaves_by
        return self._system.leaves_by

    def close(self) -> None:
        self._system.open_questions -= 1


class FakeNews:
    """Tells nothing; the test calls what it was given."""

    def __init__(self, system: FakeUdpSystem) -> None:
        self._system = system

    def open(self) -> None:
        self._system.open_news += 1

    def close(self) -> None:
        self._system.open_news = 0


@implementer(IUdpSystem)
class FakeUdpSystem:
    """Sockets that are lists.  Is its own `Outside`."""

    def __init__(self) -> None:
        self.system = self
        self.sockets: set[FakeSocket] = set()
        self.sent: list[tuple[bytes, list[Any], tuple[Any, ...], FakeSocket]] = []
        self.calls = 0
        self.leaves_by: int | OSError = 1
        self.asked: list[tuple[bytes, bytes, int]] = []
        self.change_routes: Callable[[], None] = lambda: None
        self.open_questions = 0
        self.open_news = 0
        # What goes wrong: numbers of errors.
        self.refuse_family: dict[int, int] = {}
        self.refuse_bind: Callable[[int, int], int] = lambda family, port: 0
        self.refuse_option: dict[tuple[int, int], int] = {}
        self.refuse_read: list[int] = []
        self.refuse_send: Callable[[bytes, list[Any]], int] = lambda datagram, ancillary: 0
        self._numbers = count(1000)
        self._ports = count(50_000)

    def socket(self, family: int) -> Any:
        if number := self.refuse_family.get(family):
            raise _error(number)
        made = FakeSocket(self, family, next(self._numbers))
        self.sockets.add(made)
        return made

    def questions(self) -> Any:
        self.open_questions += 1
        return FakeQuestions(self)

    def news(self, reactor: Any, heard: Callable[[], None]) -> Any:
        self.change_routes = heard
        return FakeNews(self)

    def bind(self, sock: FakeSocket, address: tuple[Any, ...]) -> None:
        port = address[1] or next(self._ports)
        if number := self.refuse_bind(sock.family, port):
            raise _error(number)
        others = self._bound(sock.family, port)
        if others and not (sock.shares() and all(other.shares() for other in others)):
            raise _error(errno.EADDRINUSE)
        sock.name = (address[0], port, *address[2:])

    def _bound(self, family: int, port: int) -> list[FakeSocket]:
        found = [s for s in self.sockets if s.family == family and s.name and s.name[1] == port]
        return sorted(found, key=FakeSocket.fileno)

    def put(self, datagram: bytes, port: int, version: int = 4, tos: int = 0) -> None:
        group = [
            sock
            for sock in self._bound(FAMILIES[version], port)
            if (socket.SOL_SOCKET, BIND_TO_INTERFACE) not in sock.options
        ]
        split = [
            sock.options[socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF]
            for sock in group
            if (socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF) in sock.options
        ]
        chosen = group[run(split[0], datagram) if split else 0]
        junk = chosen.options.get((socket.SOL_SOCKET, SO_ATTACH_FILTER))
        if junk is not None and not run(junk, bytes(8) + datagram):
            return
        local = packed(LOOPBACK[version])
        if version == 4:
            info = struct.pack("=I4s4s", 1, local, local)
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, info)]
            ancillary.append((socket.IPPROTO_IP, socket.IP_TOS, bytes([tos])))
            address: tuple[Any, ...] = (LOOPBACK[4], OUTSIDE_PORT)
        else:
            info = struct.pack("=16sI", local, 1)
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
            traffic_class = struct.pack("=i", tos)
            ancillary.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class))
            address = (LOOPBACK[6], OUTSIDE_PORT, 0, 0)
        chosen.waiting.append((datagram, ancillary, 0, address))

    def get(self, version: int = 4) -> list[Heard]:
        got = []
        for datagram, ancillary, address, sock in self.sent:
            if sock.family == FAMILIES[version] and address[1] == OUTSIDE_PORT:
                [tos] = [
                    struct.unpack("=i", value)[0]
                    for _, kind, value in ancillary
                    if kind in (socket.IP_TOS, socket.IPV6_TCLASS)
                ] or [0]
                got.append(Heard(datagram, LOOPBACK[version], sock.getsockname()[1], tos))
        self.sent.clear()
        return got

    def path(self, version: int = 4) -> Path:
        return Path(packed(LOOPBACK[version]), OUTSIDE_PORT)


class KernelOutside:
    """The kernel's sockets, in a namespace of its own.

    Raises:
        SkipTest: there is no namespace to be had here, and why.
    """

    def __init__(self, add_cleanup: Callable[..., object]) -> None:
        enter_own_namespace(add_cleanup)
        with IPRoute() as netlink:
            netlink.link("set", index=1, state="up")
        self.system = KernelUdpSystem()
        self._sockets = {}
        for version, family in FAMILIES.items():
            made = socket.socket(family, socket.SOCK_DGRAM)
            add_cleanup(made.close)
            made.setblocking(False)
            made.bind((LOOPBACK[version], 0))
            level, told = (
                (socket.IPPROTO_IP, socket.IP_RECVTOS)
                if version == 4
                else (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)
            )
            made.setsockopt(level, told, 1)
            self._sockets[version] = made

    def put(self, datagram: bytes, port: int, version: int = 4, tos: int = 0) -> None:
        level, kind = (
            (socket.IPPROTO_IP, socket.IP_TOS)
            if version == 4
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        )
        ancillary = [(level, kind, struct.pack("=i", tos))]
        self._sockets[version].sendmsg([datagram], ancillary, 0, (LOOPBACK[version], port))

    def get(self, version: int = 4) -> list[Heard]:
        got = []
        while True:
            try:
                datagram, ancillary, _, address = self._sockets[version].recvmsg(65_536, 64)
            except BlockingIOError:
                return got
            [(_, _, value)] = ancillary
            got.append(Heard(datagram, address[0], address[1], value[0]))

    def path(self, version: int = 4) -> Path:
        return Path(packed(LOOPBACK[version]), self._sockets[version].getsockname()[1])
