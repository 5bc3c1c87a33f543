"""A NAT shows others one address, and lets in only what was asked for."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.network import Network
from pyvpn.testing.simulator.trace import Event
from pyvpn.wire.datagram import Path, Run
from tests.simulator.lab import Keeping, packed

OUTSIDE = packed("198.51.100.7")
OTHER = packed("198.51.100.8")
SERVER = Path(packed("192.0.2.1"), 2000)


class NatTests(SynchronousTestCase):
    """Two hosts behind one, and a server."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.clock = self.network.clock
        self.nat = self.network.nat(OUTSIDE, udp_seconds=100.0)
        self.server = self.network.host("server", SERVER.host, packed("2001:db8::1"))
        self.asked: list[Run] = []
        self.port = self.server.udp(2000, self.asked.extend)
        self.answers: list[list[Run]] = [[], []]
        self.hosts = [
            self.network.host(f"inside {n}", bytes((10, 0, 0, n)), nat=self.nat) for n in (1, 2)
        ]
        self.ports = [
            host.udp(1000, answers.extend)
            for host, answers in zip(self.hosts, self.answers, strict=True)
        ]

    def ask(self, number: int = 0) -> Path:
        """Send from inside, and return from where it came."""
        before = len(self.asked)
        self.ports[number].send_datagrams([b"question"], SERVER, 0)
        self.clock.advance(1)
        [(_, path, _)] = self.asked[before:]
        return path

    def is_answered(self, path: Path, number: int = 0) -> bool:
        before = len(self.answers[number])
        self.port.send_datagrams([b"answer"], path, 0)
        self.clock.advance(1)
        return len(self.answers[number]) > before

    def test_translation(self) -> None:
        """All have its address, each another port; answers reach who asked."""
        paths = [self.ask(0), self.ask(1)]
        self.assertEqual([OUTSIDE, OUTSIDE], [path.host for path in paths])
        self.assertEqual(2, len({path.port for path in paths}))
        self.assertEqual(paths, [self.ask(0), self.ask(1)])
        for number, path in enumerate(paths):
            self.assertTrue(self.is_answered(path, number))
            [(_, back, _)] = self.answers[number]
            self.assertEqual(Path(*SERVER[:3], self.hosts[number].addresses[0], 1), back)

    def test_unasked(self) -> None:
        """What comes from elsewhere, or to another port, is not let in."""
        path = self.ask()
        self.assertFalse(self.is_answered(path._replace(port=path.port ^ 1)))
        self.port = self.server.udp(2001, self.asked.extend)
        self.assertFalse(self.is_answered(path))
        self.assertEqual(2, self.network.trace.counts[Event.NO_MAPPING])

    def test_expiry(self) -> None:
        """A flow that nobody uses is forgotten; one that is used either way is not."""
        path = self.ask()
        for _ in range(3):
            self.clock.advance(95)
            self.assertTrue(self.is_answered(path))
        self.assertEqual(path, self.ask())
        self.clock.advance(101)
        self.assertFalse(self.is_answered(path))
        self.assertNotEqual(path.port, self.ask().port)

    def test_rebind(self) -> None:
        """Rebound, it has other ports, and what goes to the old ones is not let in."""
        path = self.ask()
        self.nat.rebind()
        self.assertFalse(self.is_answered(path))
        new = self.ask()
        self.assertEqual(path.host, new.host)
        self.assertNotEqual(path.port, new.port)
        self.assertTrue(self.is_answered(new))
        self.assertFalse(self.is_answered(path))

    def test_other_address(self) -> None:
        """It can get another address, and then does not have the old one."""
        path = self.ask()
        self.nat.rebind(OTHER)
        new = self.ask()
        self.assertEqual(OTHER, new.host)
        self.assertTrue(self.is_answered(new))
        self.assertFalse(self.is_answered(path))
        self.assertEqual(1, self.network.trace.counts[Event.NO_ROUTE])

    def test_not_while_flying(self) -> None:
        """An answer that is on its way when it is rebound does not arrive."""
        path = self.ask()
        self.port.send_datagrams([b"late"], path, 0)
        self.nat.rebind()
        self.clock.advance(1)
        self.assertEqual([], self.answers[0])

    def test_families(self) -> None:
        """In a family that it has no address of, hosts have their own."""
        self.hosts[0].move(bytes((10, 0, 0, 1)), packed("2001:db8::5"), nat=self.nat)
        self.ports[0].send_datagrams([b"x"], Path(packed("2001:db8::1"), 2000), 0)
        self.clock.advance(1)
        self.assertEqual(packed("2001:db8::5"), self.asked[-1][1].host)
        self.assertRaises(Misuse, self.network.nat, OTHER, packed("198.51.100.9"))

    def test_moved_out(self) -> None:
        """Who has left is not reached through it any more."""
        path = self.ask()
        self.hosts[0].move(packed("203.0.113.4"))
        self.assertFalse(self.is_answered(path))
        self.assertEqual(packed("203.0.113.4"), self.ask().host)

    def test_streams(self) -> None:
        """A connection through it works, and breaks when it is rebound and used."""
        accepted: list[Keeping] = []

        def accept() -> Keeping:
            accepted.append(Keeping())
            return accepted[-1]

        self.server.listen(443, Factory.forProtocol(accept))
        asked = self.hosts[0].connect(SERVER.host, 443, Factory.forProtocol(Keeping))
        self.clock.advance(1)
        client = self.successResultOf(asked)
        assert isinstance(client, Keeping)
        client.transport.write(b"x")
        self.clock.advance(1)
        self.assertEqual(b"x", accepted[0].heard)
        self.nat.rebind()
        self.clock.advance(100)
        self.assertIsNone(client.lost)
        client.transport.write(b"y")
        self.clock.advance(1)
        assert client.lost is not None
        client.lost.trap(ConnectionLost)
