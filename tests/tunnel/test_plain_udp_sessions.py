"""The first generation's UDP protocol at the server: what its clients may, and for how long."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.plain_udp import LEAVING_SECONDS, PlainDrop
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.session import Session
from pyvpn.wire.plain_udp import EXPIRY_SECONDS, with_header
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.plain_udp_lab import (
    ANNA,
    BEYOND,
    BOB,
    EVE,
    FIRST,
    OFFICE,
    OWN,
    PASSWORD,
    SECOND,
    Lab,
    ping,
)


class PacketTests(SynchronousTestCase):
    """What passes."""

    def test_both_ways(self) -> None:
        """To the bypass network and back, with the header taken off and put on."""
        lab = Lab()
        lab.log_in(ANNA)
        self.assertEqual([], lab.put(ANNA, ping(FIRST)))
        self.assertEqual([packet(FIRST, OFFICE, b"ping")], lab.tun.packets)
        back = packet(OFFICE, FIRST, b"pong")

        self.assertEqual([(ANNA, b"\0\0\x08\0" + back)], lab.from_office(back))
        [session] = lab.clients.sessions
        self.assertEqual((1, 1), (session.packets_in, session.packets_out))

    def test_server(self) -> None:
        """The server's own end of the tunnel answers."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.put(ANNA, ping(FIRST, OWN))

        self.assertEqual([packet(FIRST, OWN, b"ping")], lab.tun.packets)

    def test_confined(self) -> None:
        """Nothing else is reached: not the rest of the world, other clients or devices."""
        for client_to_client in (False, True):
            lab = Lab(client_to_client=client_to_client)
            native = KeepingSink()
            session = Session(1, 1, "anna/laptop", (packed("10.73.0.2"),), Prefixes(), 0.0)
            lab.router.add(session)
            session.attach(native, 0.0)
            lab.log_in(ANNA)
            lab.log_in(BOB)
            before = len(lab.sent)
            for destination in (BEYOND, SECOND, "10.73.0.2", "8.8.8.8", "10.0.0.77"):
                lab.put(ANNA, ping(FIRST, destination))
            lab.router.packets_from_session(session, [packet("10.73.0.2", FIRST)], lab.now)

            self.assertEqual(([], []), (lab.tun.packets, native.packets))
            self.assertEqual(before, len(lab.sent))
            self.assertEqual({Drop.DESTINATION: 6}, lab.counters.dropped)

    def test_own_source(self) -> None:
        """Only from the address that was given."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.log_in(BOB)
        lab.put(ANNA, ping(SECOND), ping(OWN), ping(OFFICE), ping("10.73.0.2"))

        self.assertEqual([], lab.tun.packets)
        self.assertEqual({Drop.SOURCE: 4}, lab.counters.dropped)

    def test_ipv6(self) -> None:
        """A host sends router solicitations into every tunnel: dropped, counted, heard."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.now += 5
        lab.put(ANNA, with_header(packet("fe80::1", "ff02::2")))
        [session] = lab.clients.sessions

        self.assertEqual({PlainDrop.IPV6: 1}, lab.counters.dropped)
        self.assertEqual({PlainDrop.IPV6: 1}, session.drops.dropped)
        self.assertEqual(1005.0, session.heard)

    def test_malformed(self) -> None:
        """What is no packet and no command is dropped; it does not count as being heard."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.now += 5
        for datagram in (b"", b"r", b"wrong", bytes(5), b"\0\0\x86\xdd" + packet(FIRST, OFFICE)):
            self.assertEqual([], lab.put(ANNA, datagram))
        [session] = lab.clients.sessions

        self.assertEqual(({Drop.MALFORMED: 5}, 1000.0), (lab.counters.dropped, session.heard))

    def test_cut(self) -> None:
        """A packet shorter or longer than it says never reaches the kernel."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.put(ANNA, ping(FIRST)[:-1], ping(FIRST) + b"\0", ping(FIRST)[:10])

        self.assertEqual([], lab.tun.packets)
        self.assertEqual({Drop.MALFORMED: 3}, lab.counters.dropped)

    def test_not_sent(self) -> None:
        """What the kernel does not take is counted, and ends nothing."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.broken = True
        lab.from_office(packet(OFFICE, FIRST))
        lab.broken = False

        self.assertEqual({PlainDrop.NOT_SENT: 1}, lab.counters.dropped)
        self.assertEqual(1, len(lab.from_office(packet(OFFICE, FIRST))))


class TimeTests(SynchronousTestCase):
    """How a session ends."""

    def test_silence(self) -> None:
        """After 60 s of nothing, not before; then the source is unknown again."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.advance(EXPIRY_SECONDS - 1)
        self.assertEqual(1, len(lab.clients.sessions))
        lab.advance(1)

        self.assertEqual([], lab.clients.sessions)
        self.assertEqual(0, len(lab.router.sessions))
        self.assertEqual("plain/10.0.0.2 left: nothing was heard for 60 s", lab.events[-1])
        self.assertEqual([b"r"], lab.put(ANNA, b"\0"))

    def test_heartbeats_and_packets(self) -> None:
        """Either keeps a session; so does the password."""
        for datagram in (b"\0", ping(FIRST), ping(SECOND), PASSWORD):
            lab = Lab()
            lab.log_in(ANNA)
            for _ in range(5):
                lab.advance(EXPIRY_SECONDS - 1)
                lab.put(ANNA, datagram)
            self.assertEqual(1, len(lab.clients.sessions), datagram)

    def test_nothing_else_keeps(self) -> None:
        """Neither junk nor packets for it do."""
        lab = Lab()
        lab.log_in(ANNA)
        for _ in range(2):
            lab.advance(EXPIRY_SECONDS / 2)
            lab.put(ANNA, b"junk")
            lab.from_office(packet(OFFICE, FIRST))

        self.assertEqual([], lab.clients.sessions)

    def test_goodbye(self) -> None:
        """A goodbye ends the session 10 s later."""
        lab = Lab()
        lab.log_in(ANNA)
        self.assertEqual([], lab.put(ANNA, b"e"))
        lab.advance(LEAVING_SECONDS - 1)
        self.assertEqual(1, len(lab.clients.sessions))
        lab.advance(1)

        self.assertEqual([], lab.clients.sessions)
        self.assertEqual("plain/10.0.0.2 left: said goodbye", lab.events[-1])
        self.assertEqual([b"r"], lab.put(ANNA, b"\0"))

    def test_goodbye_twice(self) -> None:
        """To say it again does not make it last longer."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.put(ANNA, b"e")
        lab.advance(6)
        lab.put(ANNA, b"e")
        lab.advance(4)

        self.assertEqual([], lab.clients.sessions)

    def test_revived(self) -> None:
        """A heartbeat, packet or log-in after it shows that it was forged."""
        for datagram in (b"\0", ping(FIRST), ping(SECOND), PASSWORD):
            lab = Lab()
            lab.log_in(ANNA)
            lab.put(ANNA, b"e")
            lab.advance(LEAVING_SECONDS - 1)
            lab.put(ANNA, datagram)
            lab.advance(EXPIRY_SECONDS - 1)
            self.assertEqual(1, len(lab.clients.sessions), datagram)
            self.assertEqual(["plain/10.0.0.2 arrived"], lab.events)
            lab.put(ANNA, b"e")
            lab.advance(LEAVING_SECONDS)
            self.assertEqual([], lab.clients.sessions)

    def test_not_revived(self) -> None:
        """Junk does not, nor does anybody else."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.put(ANNA, b"e")
        lab.put(ANNA, b"junk")
        lab.put(BOB, b"\0", ping(FIRST))
        lab.advance(LEAVING_SECONDS)

        self.assertEqual([], lab.clients.sessions)

    def test_packets_meanwhile(self) -> None:
        """Until it is over, packets flow: who did not say it does not notice."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.put(ANNA, b"e")
        lab.advance(5)

        self.assertEqual(1, len(lab.from_office(packet(OFFICE, FIRST))))

    def test_same_address_again(self) -> None:
        """Who comes back by the same source gets its address again, if nobody has it."""
        lab = Lab()
        lab.log_in(ANNA)
        lab.log_in(BOB)
        lab.put(BOB, b"e")
        lab.advance(LEAVING_SECONDS)
        self.assertEqual("10.0.0.4", lab.log_in(EVE))
        self.assertEqual(SECOND, lab.log_in(BOB))

    def test_address_gone(self) -> None:
        """If somebody has it by then, it is another one."""
        lab = Lab("10.0.0.0/29")
        lab.log_in(ANNA)
        lab.advance(EXPIRY_SECONDS)
        for port in range(5):
            lab.log_in((BOB[0], port))
        self.assertEqual([], lab.put(ANNA, PASSWORD))
        lab.put((BOB[0], 3), b"e")
        lab.advance(LEAVING_SECONDS)
        self.assertEqual("10.0.0.6", lab.log_in(ANNA))

    def test_due_when_needed(self) -> None:
        """An address that is due is free for who needs it, though nobody came by to say so."""
        lab = Lab("10.0.0.0/30")
        lab.log_in(ANNA)
        lab.put(ANNA, b"e")
        lab.now += LEAVING_SECONDS - 0.1
        self.assertEqual([], lab.put(BOB, PASSWORD))
        lab.now += 0.1

        self.assertEqual(FIRST, lab.log_in(BOB))

    def test_memory(self) -> None:
        """Those who come and go leave no more than the network has addresses."""
        lab = Lab("10.0.0.0/29")
        for port in range(200):
            lab.log_in((ANNA[0], port))
            lab.put((ANNA[0], port), b"e")
            lab.advance(LEAVING_SECONDS)

        self.assertEqual(5, len(lab.clients._former))
        self.assertEqual((0, 0), (len(lab.clients._heard), len(lab.clients._leaving)))
