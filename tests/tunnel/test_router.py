"""The router: each packet is judged by itself, kept in order, and accounted for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from tests.tunnel.office import ANNA4, ANNA6, BOB4, OFFICE4, OFFICE6, PUSHED, Server, networks
from tests.tunnel.packets import KeepingSink, packed, packet, packet_between


class FromTunTests(SynchronousTestCase):
    """Packets that the kernel gives us."""

    def test_one_batch_for_each_session(self) -> None:
        """Packets of a batch reach their sessions in order, in one call for each."""
        server = Server()
        to_anna = [packet(OFFICE4, ANNA4, b"1"), packet(OFFICE6, ANNA6, b"2")]
        to_bob = [packet(OFFICE4, BOB4, b"3"), packet(OFFICE4, BOB4, b"4")]
        server.router.packets_from_tun([to_anna[0], to_bob[0], to_anna[1], to_bob[1]], 1.0)

        self.assertEqual([to_anna], server.to_anna.batches)
        self.assertEqual([to_bob], server.to_bob.batches)
        self.assertEqual((2, 62), (server.anna.packets_out, server.anna.bytes_out))
        self.assertEqual(0, server.counters.total())

    def test_nobody_has_the_address(self) -> None:
        """A packet for an address that nobody has is counted as such."""
        server = Server()
        server.router.packets_from_tun([packet(OFFICE4, "10.73.0.9")], 1.0)

        self.assertEqual({Drop.NO_ROUTE: 1}, dict(server.counters.dropped))

    def test_not_connected(self) -> None:
        """Packets for a device that is away at the moment count for it and in all."""
        server = Server()
        server.anna.detach(server.to_anna)
        server.router.packets_from_tun([packet(OFFICE4, ANNA4)] * 3, 1.0)

        self.assertEqual({Drop.NO_CARRIER: 3}, dict(server.counters.dropped))
        self.assertEqual({Drop.NO_CARRIER: 3}, dict(server.anna.drops.dropped))
        self.assertEqual(0, server.bob.drops.total())
        self.assertEqual([], server.to_anna.packets)

    def test_what_a_kernel_says_unasked(self) -> None:
        """Router solicitations and the like are told apart, also with a default route."""
        server = Server()
        server.router.add_route(bytes(4), 0, server.anna)
        server.router.add_route(bytes(16), 0, server.anna)
        local = [packet("fe80::1", "ff02::2"), packet("fd70::1", "fe80::5")]
        local += [
            packet("10.73.0.1", d) for d in ("224.0.0.251", "255.255.255.255", "169.254.1.1")
        ]
        server.router.packets_from_tun(local, 1.0)

        self.assertEqual({Drop.MULTICAST: 5}, dict(server.counters.dropped))
        self.assertEqual([], server.to_anna.batches)

    def test_no_packet_at_all(self) -> None:
        """Bytes that are no packet are counted and go nowhere."""
        server = Server()
        whole = packet(OFFICE4, ANNA4, b"payload")
        server.router.packets_from_tun([b"", b"E", whole[:-1], whole + b"x", bytes(40)], 1.0)

        self.assertEqual({Drop.MALFORMED: 5}, dict(server.counters.dropped))
        self.assertEqual([], server.to_anna.batches)


class FromSessionTests(SynchronousTestCase):
    """Packets that a peer sends us."""

    def test_to_the_office(self) -> None:
        """What a device sends from its own addresses to pushed networks goes to the TUN."""
        server = Server()
        good = [packet(ANNA4, OFFICE4, b"1"), packet(ANNA6, OFFICE6), packet(ANNA4, "10.73.0.1")]
        server.from_anna(*good)

        self.assertEqual([good], server.tun.batches)
        self.assertEqual((3, 81), (server.anna.packets_in, server.anna.bytes_in))
        self.assertEqual(0, server.counters.total())

    def test_in_somebody_elses_name(self) -> None:
        """No packet with a source that is not the device's own reaches the TUN."""
        server = Server(client_to_client=True)
        for source in (
            *(BOB4, "10.73.0.1", "10.73.0.9", OFFICE4, "127.0.0.1", "0.0.0.0", "224.0.0.1"),  # noqa: S104 - an address to forge
            "255.255.255.255",
        ):
            server.from_anna(packet(source, OFFICE4), packet(source, BOB4))
        for source in ("fd70::3", "fe80::1", "::", "::1", OFFICE6, "ff02::1"):
            server.from_anna(packet(source, OFFICE6))

        self.assertEqual({Drop.SOURCE: 22}, dict(server.anna.drops.dropped))
        self.assertEqual({Drop.SOURCE: 22}, dict(server.counters.dropped))
        self.assertEqual([], server.tun.batches + server.to_bob.batches)
        self.assertEqual((0, 0), (server.anna.packets_in, server.anna.bytes_in))

    def test_to_where_it_may_not(self) -> None:
        """A network that was not pushed is not reached."""
        server = Server()
        server.from_anna(packet(ANNA4, "192.168.78.1"), packet(ANNA6, "2001:db8::1"))

        self.assertEqual({Drop.DESTINATION: 2}, dict(server.anna.drops.dropped))
        self.assertEqual([], server.tun.batches)

    def test_never_routed(self) -> None:
        """Multicast, loopback and link-local stay out of the TUN whatever was pushed."""
        server = Server(reachable=("0.0.0.0/0", "::/0"))
        for destination in (
            *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "169.254.169.254"),
            *("127.0.0.1", "0.0.0.0", "0.1.2.3"),  # noqa: S104 - a destination to refuse
        ):
            server.from_anna(packet(ANNA4, destination))
        for destination in ("ff02::1", "ff0e::1", "fe80::1", "febf::1", "::", "::1"):
            server.from_anna(packet(ANNA6, destination))
        server.from_anna(packet_between(packed(ANNA6), bytes(10) + b"\xff\xff\x7f\0\0\1"))

        self.assertEqual({Drop.MULTICAST: 15}, dict(server.anna.drops.dropped))
        self.assertEqual([], server.tun.batches)

    def test_their_neighbours_are_routed(self) -> None:
        """The networks beside those are usual ones: the negative twin."""
        server = Server(reachable=("0.0.0.0/0", "::/0"))
        beside4 = ("1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.254", "169.253.1.1")
        beside6 = ("64:ff9b::1", "fec0::1", "fe7f::1", "feff::1", "fdff::1")
        server.from_anna(*(packet(ANNA4, d) for d in beside4))
        server.from_anna(*(packet(ANNA6, d) for d in beside6))

        self.assertEqual(10, len(server.tun.packets))
        self.assertEqual(0, server.counters.total())

    def test_clients_are_kept_apart(self) -> None:
        """One client does not reach another, even where the pool lies in a pushed network."""
        for reachable in (PUSHED, ("10.0.0.0/8",), ("0.0.0.0/0",)):
            server = Server(reachable=reachable)
            server.from_anna(packet(ANNA4, BOB4))

            self.assertEqual({Drop.DESTINATION: 1}, dict(server.anna.drops.dropped))
            self.assertEqual([], server.to_bob.batches + server.tun.batches)

    def test_clients_may_talk_if_the_operator_says_so(self) -> None:
        """With the option on, packets go from client to client and not through the kernel."""
        server = Server(client_to_client=True, reachable=("10.0.0.0/8",))
        talk = [packet(ANNA4, BOB4, b"1"), packet(ANNA4, BOB4, b"2")]
        server.from_anna(*talk)

        self.assertEqual([talk], server.to_bob.batches)
        self.assertEqual([], server.tun.batches)
        self.assertEqual((2, 2), (server.anna.packets_in, server.bob.packets_out))
        server.router.client_to_client = False
        server.from_anna(*talk)
        self.assertEqual([talk], server.to_bob.batches)

    def test_other_client_away(self) -> None:
        """A packet for a client that is not connected counts for that one."""
        server = Server(client_to_client=True)
        server.bob.detach(server.to_bob)
        server.from_anna(packet(ANNA4, BOB4))

        self.assertEqual({Drop.NO_CARRIER: 1}, dict(server.bob.drops.dropped))
        self.assertEqual(0, server.anna.drops.total())

    def test_no_packet_at_all(self) -> None:
        """Bytes that are no packet do not hurt the good ones around them."""
        server = Server()
        good = packet(ANNA4, OFFICE4)
        server.from_anna(b"", good, good[:-1], good + b"x", good)

        self.assertEqual([[good, good]], server.tun.batches)
        self.assertEqual({Drop.MALFORMED: 3}, dict(server.anna.drops.dropped))


class ClientTests(SynchronousTestCase):
    """The same router at the client's end: its one session is the server."""

    def setUp(self) -> None:
        self.tun, self.to_server, self.counters = KeepingSink(), KeepingSink(), Counters()
        self.router = Router(self.tun, self.counters)
        self.server = Session(
            0,
            0,
            "server",
            (packed("10.73.0.1"),),
            reachable=frozenset({packed(ANNA4)}),
            heard=0.0,
            sources=networks("192.168.77.0/24", "10.73.0.1/32"),
        )
        self.router.add(self.server)
        self.server.attach(self.to_server, 0.0)

    def test_pushed_routes(self) -> None:
        """Packets for accepted networks go to the server, until the route is taken back."""
        out = packet(ANNA4, OFFICE4)
        self.router.add_route(packed("192.168.77.0"), 24, self.server)
        self.router.add_route(packed("192.168.77.0"), 24, self.server)
        self.router.packets_from_tun([out, packet(ANNA4, "192.168.78.1")], 1.0)
        self.assertTrue(self.router.remove_route(packed("192.168.77.0"), 24))
        self.assertFalse(self.router.remove_route(packed("192.168.77.0"), 24))
        self.router.packets_from_tun([out], 1.0)

        self.assertEqual([out], self.to_server.packets)
        self.assertEqual({Drop.NO_ROUTE: 2}, dict(self.counters.dropped))

    def test_own_network_pushed(self) -> None:
        """Packets for us pass also where a route to the server covers our own address."""
        self.router.add_route(packed("10.73.0.0"), 24, self.server)
        come = packet(OFFICE4, ANNA4)
        self.router.packets_from_session(self.server, [come], 1.0)

        self.assertEqual([come], self.tun.packets)

    def test_hostile_server(self) -> None:
        """A server reaches only our tunnel address, and speaks only for accepted networks."""
        self.router.packets_from_session(
            self.server, [packet(OFFICE4, "192.168.50.10"), packet("8.8.8.8", ANNA4)], 1.0
        )

        self.assertEqual([], self.tun.batches)
        self.assertEqual({Drop.DESTINATION: 1, Drop.SOURCE: 1}, dict(self.server.drops.dropped))

    def test_address_survives_equal_route(self) -> None:
        """Taking back a route that equals the server's address leaves the address."""
        one = packed("10.73.0.1")
        self.router.add_route(one, 32, self.server)
        self.assertTrue(self.router.remove_route(one, 32))
        self.assertFalse(self.router.remove_route(one, 32))

        self.assertIs(self.server, self.router.sessions.lookup(one))


class WhoIsHereTests(SynchronousTestCase):
    """Sessions come and go."""

    def test_address_of_another(self) -> None:
        """Two sessions never have one address: our own mistake, and nothing is changed by it."""
        server = Server()
        free, taken = packed("10.73.0.8"), packed(BOB4)
        greedy = Session(3, 3, "x", (free, taken), frozenset(), heard=0.0)

        self.assertRaises(Misuse, server.router.add, greedy)
        self.assertIsNone(server.router.sessions.lookup(free))
        self.assertIs(server.bob, server.router.sessions.lookup(taken))
        self.assertFalse(server.router.remove(greedy))

    def test_twice(self) -> None:
        """A session is added once and removed once."""
        server = Server()
        self.assertRaises(Misuse, server.router.add, server.anna)
        self.assertTrue(server.router.remove(server.anna))
        self.assertFalse(server.router.remove(server.anna))

    def test_removed_with_everything(self) -> None:
        """With a session go its addresses and its routes, and nobody else's."""
        server = Server()
        server.router.add_route(packed("10.9.0.0"), 16, server.anna)
        server.router.add_route(packed("10.8.0.0"), 16, server.bob)
        server.router.remove(server.anna)

        self.assertEqual(2, len(server.router.sessions))
        self.assertIs(server.bob, server.router.sessions.lookup(packed("10.8.1.1")))
        self.assertEqual([], server.router.tick(59.0))
        self.assertEqual([server.bob], server.router.tick(60.0))

    def test_route_of_another(self) -> None:
        """A network is routed to one session that is here, or it is our own mistake."""
        server = Server()
        network = packed("10.9.0.0")
        server.router.add_route(network, 16, server.anna)

        self.assertRaises(Misuse, server.router.add_route, network, 16, server.bob)
        self.assertRaises(Misuse, server.router.add_route, packed(BOB4), 32, server.anna)
        server.router.remove(server.anna)
        self.assertRaises(Misuse, server.router.add_route, network, 16, server.anna)


class SilenceTests(SynchronousTestCase):
    """Sessions that nothing is heard of."""

    def test_at_its_last_second(self) -> None:
        """A silent session is reported after sixty seconds, not before, longest silence first."""
        server = Server()
        server.bob.heard_from(server.to_bob, 5.0)

        self.assertEqual([], server.router.tick(59.9))
        self.assertEqual([server.anna], server.router.tick(60.0))
        self.assertEqual([server.bob], server.router.tick(65.0))

    def test_packets_keep_it_alive(self) -> None:
        """Anything from the device counts, also a packet that is refused."""
        server = Server()
        server.router.packets_from_session(server.anna, [packet(BOB4, OFFICE4)], 50.0)

        self.assertEqual([server.bob], server.router.tick(60.0))
        self.assertEqual([], server.router.tick(109.0))
        self.assertEqual([server.anna], server.router.tick(110.0))

    def test_reported_again(self) -> None:
        """One that was neither removed nor heard is reported again, but not at every tick."""
        server = Server()
        server.router.tick(60.0)

        self.assertEqual([], server.router.tick(61.0))
        server.anna.heard_from(server.to_anna, 70.0)
        self.assertEqual([server.bob], server.router.tick(120.0))
        self.assertEqual([server.anna], server.router.tick(130.0))

    def test_expiry_changed_while_running(self) -> None:
        """A new expiry time holds for the sessions that are here."""
        server = Server()
        server.router.expiry_seconds = 20.0
        self.assertEqual(2, len(server.router.tick(20.0)))

        server = Server()
        server.router.expiry_seconds = 600.0
        self.assertEqual([], server.router.tick(599.0))
        self.assertEqual(2, len(server.router.tick(600.0)))

    def test_never(self) -> None:
        """A session heard at infinity (a protocol without heartbeats) is never reported."""
        server = Server()
        server.anna.heard = float("inf")

        self.assertEqual([server.bob], server.router.tick(10.0**9))

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["add", "remove", "hear", "wait"]), st.integers(0, 5)),
            max_size=80,
        )
    )
    def test_same_as_the_obvious_model(self, events: list[tuple[str, int]]) -> None:
        """Whatever happens, each silent session is reported, once in ten seconds, and no other."""
        router = Router(KeepingSink(), Counters(), expiry_seconds=10.0)
        carrier, now = KeepingSink(), 0.0
        sessions = [Session(n, n, str(n), (), frozenset(), heard=0.0) for n in range(6)]
        since: dict[Session, float] = {}  # last heard or reported
        for event, number in events:
            session = sessions[number]
            if event == "wait":
                now += 2 * number + 1
            elif event == "add" and session not in since:
                session.attach(carrier, now)
                router.add(session)
                since[session] = now
            elif event == "remove":
                self.assertEqual(since.pop(session, None) is not None, router.remove(session))
            elif event == "hear" and session in since:
                session.heard_from(carrier, now)
                since[session] = now
            expected = {session for session, then in since.items() if now - then >= 10.0}
            reported = router.tick(now)
            self.assertEqual(Counter(expected), Counter(reported))
            for session in reported:
                since[session] = now
