"""The UDP ports of a server as one way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.config import Endpoint
from pyvpn.errors import HostError
from pyvpn.server import wireguard
from pyvpn.server.wireguard import Ports
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path, Run
from tests.tunnel.packets import packed

ANNA = Path(packed("203.0.113.7"), 5000)
BERT = Path(packed("2001:db8::7"), 5000)


class FakePort:
    """Stands for UdpPort: opens what it is asked for, and keeps what it is to send."""

    made: list[FakePort]
    taken = 0

    def __init__(self, reactor: Any, protocol: Any, counters: Counters, host: str) -> None:
        self.protocol, self.host = protocol, host
        self.port = 0
        self.sent: list[tuple[list[bytes], Path]] = []
        FakePort.made.append(self)

    @property
    def versions(self) -> frozenset[int]:
        return frozenset({6} if ":" in self.host else {4} if self.host else {4, 6})

    def open(self, port: int) -> int:
        if port == FakePort.taken:
            raise HostError("taken")
        self.port = port
        return port

    def close(self) -> None:
        self.port = 0

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        for reply, path in replies:
            self.send_datagrams([reply], path, 0)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        self.sent.append((datagrams, path))
        return len(datagrams)


class Works:
    """Stands for Clockwork."""

    def __init__(self) -> None:
        self.received: list[tuple[list[bytes], Path, int]] = []

    def runs_received(self, runs: list[Run]) -> None:
        self.received += runs


class PortsTests(SynchronousTestCase):
    """One way out, however many ports there are."""

    def setUp(self) -> None:
        FakePort.made, FakePort.taken = [], 0
        self.patch(wireguard, "UdpPort", FakePort)
        self.counters = Counters()
        self.ports = Ports(self.counters)
        self.works = Works()

    def open(self, *endpoints: tuple[str, int]) -> None:
        wanted = [Endpoint(host, port) for host, port in endpoints]
        self.ports.open(Clock(), wanted, self.works)  # type: ignore[arg-type]

    def test_one(self) -> None:
        """The only port takes everything, and tells its number."""
        self.open(("", 51820))
        self.assertEqual(1, self.ports.send_datagrams([b"x"], ANNA, 0))
        self.assertEqual([([b"x"], ANNA)], FakePort.made[0].sent)
        self.assertEqual(51820, self.ports.number)

    def test_whereAsked(self) -> None:
        """Of several the answer leaves by the one that the question came to."""
        self.open(("", 51820), ("", 443))
        first, second = FakePort.made
        second.protocol.runs_received([([b"q"], ANNA, 3)])
        self.assertEqual([([b"q"], ANNA, 3)], self.works.received)
        self.ports.send_datagrams([b"a"], ANNA, 0)
        self.assertEqual(([], [([b"a"], ANNA)]), (first.sent, second.sent))

    def test_whereNobodyKnows(self) -> None:
        """Who has not been heard since the start is spoken to by every port of its family."""
        self.open(("192.0.2.1", 51820), ("192.0.2.1", 443), ("2001:db8::1", 51820))
        self.assertEqual(1, self.ports.send_datagrams([b"a"], ANNA, 0))
        self.assertEqual([1, 1, 0], [len(port.sent) for port in FakePort.made])
        self.ports.send_datagrams([b"b"], BERT, 0)
        self.assertEqual([1, 1, 1], [len(port.sent) for port in FakePort.made])

    def test_noFamily(self) -> None:
        """Without a port of the peer's family it is a counted drop."""
        self.open(("192.0.2.1", 51820), ("192.0.2.1", 443))
        self.assertEqual(0, self.ports.send_datagrams([b"a", b"b"], BERT, 0))
        self.assertEqual(2, self.counters.dropped["udp-no-socket"])

    def test_taken(self) -> None:
        """If one cannot be had, none is left open."""
        FakePort.taken = 443
        self.assertRaises(HostError, self.open, ("", 51820), ("", 443))
        self.assertEqual([0, 0], [port.port for port in FakePort.made])
