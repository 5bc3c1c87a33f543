"""Stock WireGuard on the simulated network."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.ends import WireGuardEnd, introduce, load_of, packet_between
from pyvpn.testing.simulator.trace import Event
from pyvpn.wire.datagram import Path
from tests.simulator.lab import OFFICE, Office, packed


class EndTests(SynchronousTestCase):
    """A server, and clients that know it."""

    def test_packets(self) -> None:
        """Packets pass both ways, whole, and each once."""
        office = Office(3)
        for number in range(3):
            office.greet(number)
        self.assertEqual(3, len(office.server.tun.packets))
        self.assertEqual([1, 1, 1], [len(client.tun.packets) for client in office.clients])
        self.assertEqual(3, office.server.wireguard.handshakes)
        self.assertEqual(0, office.server.counters.total())

    def test_versions(self) -> None:
        """A packet of either version comes out as it went in."""
        for source, target in (("10.0.0.1", "10.9.0.1"), ("fd00::1", "fd00:9::1")):
            packet = packet_between(packed(source), packed(target), b"load")
            self.assertEqual(b"load", load_of(packet))

    def test_foreign_source(self) -> None:
        """A client cannot speak in another's name."""
        office = Office(2)
        office.greet()
        before = list(office.server.tun.packets)
        office.clients[0].send(packet_between(office.inner[1], OFFICE, b""))
        office.clock.advance(5)
        self.assertEqual(before, office.server.tun.packets)

    def test_killed_server(self) -> None:
        """A server killed knows nobody's keys; the client notices after 15 s of silence."""
        office = Office(1)
        office.greet()
        sent = office.network.trace.counts[Event.SENT]
        office.server.kill()
        self.assertFalse(office.server.is_running)
        self.assertEqual(sent, office.network.trace.counts[Event.SENT])
        office.clock.advance(3)
        office.server.start()
        self.assertRaises(Misuse, office.server.start)

        lost = office.up()
        office.clock.advance(14)
        office.up()
        self.assertNotIn(lost, office.server.tun.packets)
        office.clock.advance(3)
        office.greet()
        self.assertNotIn(lost, office.server.tun.packets)

    def test_remembering_server(self) -> None:
        """One that wrote down where its clients were can speak first."""
        for remembers in (True, False):
            office = Office(1, remembers=remembers)
            office.greet()
            office.server.kill()
            office.server.start()
            packet = office.down()
            office.clock.advance(1)
            self.assertEqual(remembers, packet in office.clients[0].tun.packets)

    def test_killed_client(self) -> None:
        """A client that was killed begins anew, from another port, with a later timestamp."""
        office = Office(1)
        office.greet()
        before = office.server.peer(office.clients[0].public).endpoint
        office.clients[0].kill()
        office.up()
        office.clients[0].start()
        office.greet()
        self.assertNotEqual(before, office.server.peer(office.clients[0].public).endpoint)

    def test_rebound(self) -> None:
        """A client whose NAT is rebound stays in its session with its next packet."""
        office = Office(1)
        nat = office.network.nat(packed("203.0.113.1"))
        office.greet()
        office.clients[0].host.move(packed("192.168.0.2"), nat=nat)
        office.greet()
        office.greet()
        handshakes = office.server.wireguard.handshakes
        for other in ((), (packed("203.0.113.2"),)):
            nat.rebind(*other)
            unreachable = office.down()
            office.clock.advance(1)
            self.assertNotIn(unreachable, office.clients[0].tun.packets)
            office.greet()
        self.assertEqual(handshakes, office.server.wireguard.handshakes)

    def test_expired_mapping(self) -> None:
        """Behind a NAT that forgets soon the keepalive is what keeps one reachable."""
        for keepalive in (25, 0):
            office = Office(0)
            nat = office.network.nat(packed("203.0.113.1"), udp_seconds=30.0)
            host = office.network.host("client", packed("192.168.0.2"), nat=nat)
            office.clients.append(WireGuardEnd(host, 0))
            office.inner.append(bytes((10, 0, 0, 1)))
            introduce(office.server, office.clients[0], office.inner[0], keepalive=keepalive)
            office.greet()
            office.clock.advance(100)
            packet = office.down()
            office.clock.advance(1)
            self.assertEqual(bool(keepalive), packet in office.clients[0].tun.packets)

    def test_roaming(self) -> None:
        """A client moves to another network, and to another version of IP, in its session."""
        office = Office(1)
        client, public = office.clients[0], office.server.public
        office.greet()
        client.host.move(packed("203.0.113.77"))
        office.greet()
        client.host.move(packed("2001:db8:7::1"))
        office.up()  # there is no way to the address it knows
        client.set_endpoint(public, office.server.place_of(1))
        office.greet()
        there = office.server.peer(client.public).endpoint
        assert there is not None
        self.assertEqual(packed("2001:db8:7::1"), there.host)
        self.assertEqual(1, office.server.wireguard.handshakes)
        client.host.move(packed("203.0.113.78"))
        client.set_endpoint(public, Path(packed("192.0.2.1"), 51820))
        office.greet()
        self.assertEqual(1, office.server.wireguard.handshakes)

    def test_nobody_home(self) -> None:
        """Without an answer a client asks every five seconds for ninety, and then no more."""
        office = Office(1)
        client, server = office.clients[0], office.server
        server.kill()
        client.peer(server.public).set_keepalive(0, office.clock.seconds())
        office.clock.advance(85)
        asked = office.network.trace.counts[Event.SENT]
        self.assertApproximates(85 / 5, asked, 2)
        office.clock.advance(20)
        asked = office.network.trace.counts[Event.SENT]
        office.clock.advance(300)
        self.assertEqual(asked, office.network.trace.counts[Event.SENT])
        self.assertEqual(asked, office.network.trace.counts[Event.NO_PORT])


class IdleTests(SynchronousTestCase):
    """What it costs that nothing happens."""

    def test_hour(self) -> None:
        """Fifty idle clients with keepalive cost some twenty thousand events an hour."""
        office = Office(50)
        office.clock.advance(3600)
        # Every 25 s a packet each, every fifth time with a handshake of three, for an hour.
        counts = office.network.trace.counts
        self.assertApproximates(50 * (3600 / 25 + 2 * 3600 / 125), counts[Event.SENT], 1500)
        self.assertEqual(counts[Event.SENT], counts[Event.DELIVERED])
        self.assertLess(office.clock.events, 30_000)
        self.assertEqual(0, office.server.counters.total())
