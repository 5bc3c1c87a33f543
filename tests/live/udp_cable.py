"""A UDP port in one namespace, its peers in another, and cables between them.

::

    here (the port)                      there (the peers)
    left   10.0.0.1/24, fd00:a::1/64 --- left   10.0.0.2/24, fd00:a::2/64
    right  10.0.1.1/24, fd00:b::1/64 --- right  10.0.1.2/24, fd00:b::2/64
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path as File
from typing import Any, NamedTuple

from twisted.internet.epollreactor import EPollReactor

from pyvpn.net.udp import RunProtocol, UdpPort
from pyvpn.net.udp_sockets import IUdpSystem
from pyvpn.testing.namespace import Namespace, ip
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path, Run

PATIENCE = 10.0
INITIATION = bytes([1, 0, 0, 0]) + bytes(144)

HERE = {"left": ("10.0.0.1", "fd00:a::1"), "right": ("10.0.1.1", "fd00:b::1")}
THERE = {"left": ("10.0.0.2", "fd00:a::2"), "right": ("10.0.1.2", "fd00:b::2")}


def data(number: int, size: int = 96) -> bytes:
    """A data message that differs from those of other numbers."""
    return bytes([4, 0, 0, 0]) + number.to_bytes(4, "little") + bytes(size - 8)


def packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


class Heard(NamedTuple):
    """A datagram as it came to a peer."""

    datagram: bytes
    host: str
    tos: int


class Peer:
    """A socket of the other side."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        told = {
            socket.AF_INET: (socket.IPPROTO_IP, socket.IP_RECVTOS, socket.IP_TOS),
            socket.AF_INET6: (
                socket.IPPROTO_IPV6,
                socket.IPV6_RECVTCLASS,
                socket.IPV6_TCLASS,
            ),
        }[family]
        self._level, option, self._kind = told
        self.socket.setsockopt(self._level, option, 1)
        self.socket.bind((host, port))
        self.socket.settimeout(PATIENCE)

    def send(self, datagram: bytes, host: str, port: int, tos: int = 0) -> None:
        ancillary = [(self._level, self._kind, struct.pack("=i", tos))]
        self.socket.sendmsg([datagram], ancillary, 0, (host, port))

    def hear(self) -> Heard:
        """Return the next datagram; TimeoutError if there is none."""
        datagram, [(_, _, tos)], _, address = self.socket.recvmsg(65_536, 64)
        return Heard(datagram, address[0], tos[0])

    def hears_nothing(self) -> bool:
        self.socket.settimeout(0.2)
        try:
            self.socket.recv(65_536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False

    def path(self) -> Path:
        """The way to here, without a word on who is there."""
        return Path(packed(self.host), self.socket.getsockname()[1])


class Keeping(RunProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[bytes], Path, int]] = []

    def runs_received(self, runs: list[Run]) -> None:
        self.runs += runs


class Cabled:
    """The two namespaces, and the port, in a reactor of its own; see the module."""

    def __init__(self, make_namespace: Callable[[], Namespace]) -> None:
        self._ends = ExitStack()
        self.here, self.there = make_namespace(), make_namespace()
        for namespace in self.here, self.there:
            with namespace.inside():
                for kind in "all", "default":
                    File(f"/proc/sys/net/ipv6/conf/{kind}/accept_dad").write_text("0")
                    File(f"/proc/sys/net/ipv4/conf/{kind}/rp_filter").write_text("0")
        for name in "left", "right":
            ends = f"{name} netns {self.here.name} type veth peer name {name} netns"
            ip("link", "add", *ends.split(), self.there.name)
            for namespace, addresses in (self.here, HERE), (self.there, THERE):
                lines = [f"link set {name} up"]
                lines += [
                    f"address add {host}/{'64' if ':' in host else '24'} dev {name}"
                    for host in addresses[name]
                ]
                ip("-n", namespace.name, script="\n".join(lines))
        self.reactor = EPollReactor()
        self.protocol = Keeping()
        self.counters = Counters()
        self.udp = self.make()
        self.port = 0

    def make(self, system: IUdpSystem | None = None, **settings: Any) -> UdpPort:
        udp = UdpPort(self.reactor, self.protocol, self.counters, system=system, **settings)
        self._ends.callback(udp.close)
        return udp

    def open(self, udp: UdpPort | None = None, port: int = 0) -> None:
        """Open the port (that one) in its namespace."""
        self.udp = udp or self.udp
        with self.here.inside():
            self.port = self.udp.open(port)

    def peer(self, host: str) -> Peer:
        with self.there.inside():
            made = Peer(host)
        self._ends.callback(made.socket.close)
        return made

    def index(self, name: str) -> int:
        with self.here.inside():
            return socket.if_nametoindex(name)

    def ip(self, command: str) -> None:
        """Change something here."""
        ip("-n", self.here.name, *command.split())
        self.turn()

    def turn(self) -> None:
        """Let the reactor do what is there to do, also what the kernel has just been told."""
        for _ in range(5):
            self.reactor.iterate(0.01)

    def turn_until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "waited in vain"
            self.reactor.iterate(0.05)

    def taken(self) -> list[bytes]:
        """What has been received so far."""
        return [datagram for run, _, _ in self.protocol.runs for datagram in run]

    def ask(self, peer: Peer, host: str) -> Path:
        """Have *peer* send to *host*; return the path as we see it."""
        self.protocol.runs.clear()
        peer.send(data(0), host, self.port)
        self.turn_until(lambda: self.protocol.runs)
        return self.protocol.runs[0][1]

    def answer(self, path: Path, peer: Peer) -> str:
        """Send along *path*; return from which address it comes to *peer*."""
        assert self.udp.send_datagrams([data(1)], path, 0) == 1
        return peer.hear().host

    def dropped(self) -> dict[str, int]:
        return {str(reason): n for reason, n in self.counters.dropped.items() if n}

    def close(self) -> None:
        self._ends.close()
        for reader in self.reactor.removeAll():  # the reactor's own waker
            reader.connectionLost(None)
