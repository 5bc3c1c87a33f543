"""What the tests of the simulator build again and again."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from pyvpn.testing.simulator.ends import WireGuardEnd, introduce, packet_between
from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.network import Host, Network
from pyvpn.testing.simulator.tcp import TcpSettings
from pyvpn.wire.datagram import Path, Run

OFFICE = bytes((10, 9, 0, 1))
"""Somebody behind the server."""


def packed(address: str) -> bytes:
    """An address as the packet path knows it."""
    return ip_address(address).packed


class Two:
    """Two hosts with a UDP port each, and what arrived there."""

    def __init__(self, seed: int = 1, conditions: Conditions | None = None) -> None:
        self.network = Network(seed, conditions, keep=True)
        self.clock = self.network.clock
        self.left = self.network.host("left", packed("192.0.2.1"), packed("2001:db8::1"))
        self.right = self.network.host("right", packed("192.0.2.2"), packed("2001:db8::2"))
        self.link = self.network.link(self.left, self.right)
        self.begun = self.clock.seconds()
        self.arrived: list[tuple[float, bytes]] = []
        self.runs: list[Run] = []
        self.returned: list[Run] = []
        self.to_left = self.left.udp(1000, self.returned.extend)
        self.to_right = self.right.udp(2000, self._take)

    def _take(self, runs: list[Run]) -> None:
        self.runs += runs
        since = self.clock.seconds() - self.begun
        self.arrived += [(since, datagram) for datagrams, _, _ in runs for datagram in datagrams]

    @property
    def target(self) -> Path:
        return Path(self.right.addresses[0], 2000)

    def send(self, *datagrams: bytes, tos: int = 0) -> None:
        """Send from left to right."""
        self.to_left.send_datagrams(list(datagrams), self.target, tos)

    def numbered(self, count: int, every: float, size: int = 100) -> None:
        """Send so many datagrams, one after the other, and wait for the last."""
        for number in range(count):
            self.send(number.to_bytes(size, "big"))
            self.clock.advance(every)
        self.clock.advance(60)

    @property
    def numbers(self) -> list[int]:
        """Which of the numbered ones arrived, in order."""
        return [int.from_bytes(datagram, "big") for _, datagram in self.arrived]


class Office:
    """A server and some stock clients with addresses 10.0.0.1 and so on, at a public address."""

    def __init__(self, clients: int, seed: int = 1, *, remembers: bool = False) -> None:
        self.network = Network(seed)
        self.clock = self.network.clock
        addresses = packed("192.0.2.1"), packed("2001:db8::1")
        self.server = WireGuardEnd(self.network.host("server", *addresses), remembers=remembers)
        self.clients: list[WireGuardEnd] = []
        self.inner: list[bytes] = []
        self._serial = 0
        for number in range(1, clients + 1):
            host = self.network.host(f"client {number}", bytes((198, 51, 100, number)))
            self.clients.append(WireGuardEnd(host, 0))
            self.inner.append(bytes((10, 0, 0, number)))
            introduce(self.server, self.clients[-1], self.inner[-1])

    def up(self, number: int = 0) -> bytes:
        """Send a packet that there was not before, from a client; return it."""
        self._serial += 1
        load = self._serial.to_bytes(8, "big")
        packet = packet_between(self.inner[number], OFFICE, load)
        self.clients[number].send(packet)
        return packet

    def down(self, number: int = 0) -> bytes:
        """Send one to a client."""
        self._serial += 1
        load = self._serial.to_bytes(8, "big")
        packet = packet_between(OFFICE, self.inner[number], load)
        self.server.send(packet)
        return packet

    def greet(self, number: int = 0) -> None:
        """Let a client and the server exchange a packet each."""
        there = self.up(number)
        self.clock.advance(2)
        back = self.down(number)
        self.clock.advance(2)
        assert there in self.server.tun.packets
        assert back in self.clients[number].tun.packets


class Keeping(Protocol):
    """A protocol that keeps what it is told."""

    transport: Any  # a stream, of which Twisted's annotation knows less

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        assert self.lost is None, "lost twice"
        self.lost = reason


class Line:
    """A stream from left to right, with a protocol at each end."""

    def __init__(
        self,
        seed: int = 1,
        conditions: Conditions | None = None,
        tcp: TcpSettings | None = None,
        patience: float = 60.0,
    ) -> None:
        self.network = Network(seed, conditions, tcp=tcp)
        self.clock = self.network.clock
        self.left: Host = self.network.host("left", packed("192.0.2.1"))
        self.right: Host = self.network.host("right", packed("192.0.2.2"))
        self.accepted: list[Keeping] = []
        self.port = self.right.listen(443, Factory.forProtocol(self._accept))
        self.results: list[object] = []
        self.asked = self.left.connect(
            self.right.addresses[0], 443, Factory.forProtocol(Keeping), patience
        )
        self.asked.addBoth(self.results.append)

    def _accept(self) -> Keeping:
        self.accepted.append(Keeping())
        return self.accepted[-1]

    def open(self) -> tuple[Keeping, Keeping]:
        """Wait until it is open; return the protocols."""
        self.clock.run_while(lambda: not (self.results and self.accepted), 120)
        [left], [right] = self.results, self.accepted
        assert isinstance(left, Keeping), left
        return left, right

    def cut(self, cut: bool = True) -> None:
        self.network.both(self.left, self.right, cut=cut)
