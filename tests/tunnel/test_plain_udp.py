"""The first generation's UDP protocol at the server: who is taken in, and what is answered."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.plain_udp import (
    WRONG_AT_ONCE,
    WRONG_SECONDS,
    Place,
    PlainDrop,
    PlainUdpClients,
    Refusal,
)
from pyvpn.tunnel.session import Session
from pyvpn.wire.plain_udp import ANSWER_SECONDS, EXPIRY_SECONDS, with_header
from tests.tunnel.packets import packed, packet
from tests.tunnel.plain_udp_lab import (
    ANNA,
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


class LogInTests(SynchronousTestCase):
    """Who gets an address, and which."""

    def test_first(self) -> None:
        """The password brings both ends' addresses, from the lowest one on."""
        lab = Lab()
        self.assertEqual([b"10.0.0.2;10.0.0.1"], lab.put(ANNA, PASSWORD))
        self.assertEqual([b"10.0.0.3;10.0.0.1"], lab.put(BOB, PASSWORD))
        [anna, bob] = lab.clients.sessions

        self.assertEqual((0, 0), (anna.user, bob.user))
        self.assertTrue(anna.device < 0 > bob.device)
        self.assertNotEqual(anna.device, bob.device)
        self.assertEqual(["plain/10.0.0.2 arrived", "plain/10.0.0.3 arrived"], lab.events)

    def test_again(self) -> None:
        """A password that comes again is answered again, by the same address."""
        lab = Lab()
        self.assertEqual([b"10.0.0.2;10.0.0.1"] * 3, lab.put(ANNA, PASSWORD, PASSWORD, PASSWORD))
        self.assertEqual(1, len(lab.clients.sessions))
        self.assertEqual([], lab.tun.packets)

    def test_source_is_address_and_port(self) -> None:
        """Another port is another client."""
        lab = Lab()
        self.assertEqual([FIRST, SECOND], [lab.log_in((ANNA[0], port)) for port in (40001, 40002)])

    def test_nobodys(self) -> None:
        """Network, broadcast and server have their addresses for themselves."""
        lab = Lab("10.0.0.0/29")
        given = [lab.log_in((ANNA[0], port)) for port in range(5)]

        self.assertEqual([f"10.0.0.{n}" for n in range(2, 7)], given)
        self.assertEqual([], lab.put(BOB, PASSWORD))

    def test_full(self) -> None:
        """With no address left nothing is answered, since anything would be taken for one."""
        lab = Lab("10.0.0.0/30")
        lab.log_in(ANNA)
        self.assertEqual([], lab.put(BOB, PASSWORD, PASSWORD))
        self.assertEqual({Refusal.POOL_EMPTY: 2}, lab.clients.refused)
        self.assertEqual([b"r"], lab.put(BOB, b"\0"))

    def test_oldest_first(self) -> None:
        """When all addresses were used, the one that was left first is given first."""
        lab = Lab("10.0.0.0/29")
        places = [(ANNA[0], port) for port in range(5)]
        for place in places:
            lab.log_in(place)
        for index in (3, 0, 2):
            lab.put(places[index], b"e")
            lab.advance(2)
        lab.advance(20)

        self.assertEqual(
            ["10.0.0.5", "10.0.0.2", "10.0.0.4"], [lab.log_in((BOB[0], n)) for n in range(3)]
        )

    def test_not_sent(self) -> None:
        """Where the answer cannot be sent there is no client: it would take a packet for it."""
        lab = Lab()
        lab.broken = True
        self.assertEqual([], lab.put(ANNA, PASSWORD))
        self.assertEqual([], lab.clients.sessions)
        self.assertEqual({Refusal.NOT_SENT: 1}, lab.clients.refused)
        lab.broken = False
        self.assertEqual([], lab.from_office(packet(OFFICE, FIRST)))

        self.assertEqual(b"10.0.0.", lab.put(ANNA, PASSWORD)[0][:7])

    def test_answer_before_packets(self) -> None:
        """What was sent to the address before does not reach the client before its answer."""
        lab = Lab()
        self.assertEqual([], lab.from_office(packet(OFFICE, FIRST)))
        lab.put(ANNA, PASSWORD)
        lab.from_office(packet(OFFICE, FIRST))

        self.assertEqual(
            [b"10.0.0.2;10.0.0.1", with_header(packet(OFFICE, FIRST))],
            [datagram for _, datagram in lab.sent],
        )

    def test_password(self) -> None:
        """A password that would be a command is our own mistake."""
        for password in (b"", b"e", b"r", b"a\0"):
            with self.assertRaises(Misuse):
                PlainUdpClients(
                    network=IPv4Network("10.0.0.0/24"),
                    bypass=IPv4Network("192.168.77.0/24"),
                    password=password,
                    router=Lab().router,
                    send=lambda *_: True,
                    arrived=lambda _: None,
                    left=lambda *_: None,
                )


class StrangerTests(SynchronousTestCase):
    """Who has not logged in."""

    def test_heartbeat(self) -> None:
        """One heartbeat of a stranger is answered by "r", one byte by one byte."""
        self.assertEqual([b"r"], Lab().put(ANNA, b"\0"))

    def test_nothing_else(self) -> None:
        """Nothing else is answered, and none of it makes state."""
        lab = Lab()
        for datagram in (
            b"",
            b"e",
            b"r",
            b"x",
            b"\0\0",
            PASSWORD[:-1],
            PASSWORD + b"\0",
            ping(FIRST),
            with_header(packet("fe80::1", "ff02::2")),
            bytes(4096),
            b"x" * 4097,
        ):
            self.assertEqual([], lab.put(ANNA, datagram), datagram)
        self.assertEqual(([], []), (lab.clients.sessions, lab.tun.packets))
        self.assertEqual([], lab.events)

    def test_counted(self) -> None:
        """All of it is counted by what it was."""
        lab = Lab()
        lab.put(ANNA, b"e", ping(FIRST), b"", b"r", bytes(9), b"wrong")

        self.assertEqual({PlainDrop.UNKNOWN: 2, Drop.MALFORMED: 3}, lab.counters.dropped)
        self.assertEqual({Refusal.PASSWORD: 1}, lab.clients.refused)

    def test_not_twice(self) -> None:
        """A second "r" would be taken for the answer to the log-in: none within its time."""
        lab = Lab()
        self.assertEqual([b"r"], lab.put(ANNA, b"\0", b"\0"))
        lab.now += ANSWER_SECONDS - 0.1
        self.assertEqual([], lab.put(ANNA, b"\0"))
        self.assertEqual([b"r"], lab.put(BOB, b"\0"))
        lab.now += 0.1
        self.assertEqual([b"r"], lab.put(ANNA, b"\0"))
        self.assertEqual({Refusal.HEARTBEAT: 2}, lab.clients.refused)

    def test_not_for_ever(self) -> None:
        """Heartbeats in the name of one host, from all its ports, get few answers."""
        lab = Lab()
        answers = [answer for port in range(1000) for answer in lab.put((ANNA[0], port), b"\0")]
        lab.now += 1.0
        later = [answer for port in range(1000) for answer in lab.put((ANNA[0], port), b"\0")]

        self.assertEqual(64, len(answers))
        self.assertEqual(8, len(later))
        self.assertEqual([b"r"], lab.put(BOB, b"\0"))

    def test_wrong_passwords(self) -> None:
        """Five guesses, then the right password is not looked at either, for a while."""
        lab = Lab()
        lab.put(EVE, *(b"guess %d" % n for n in range(WRONG_AT_ONCE)))
        self.assertEqual([], lab.put((EVE[0], 9), PASSWORD))
        self.assertEqual([b"10.0.0.2;10.0.0.1"], lab.put(ANNA, PASSWORD))
        lab.now += WRONG_SECONDS - 0.1
        self.assertEqual([], lab.put(EVE, PASSWORD))
        lab.now += 0.1

        self.assertEqual([b"10.0.0.3;10.0.0.1"], lab.put(EVE, PASSWORD))
        self.assertEqual({Refusal.PASSWORD: 5, Refusal.TOO_OFTEN: 2}, lab.clients.refused)

    def test_right_passwords_are_free(self) -> None:
        """A class of thirty behind one router comes in at once, also after a restart."""
        lab = Lab()
        places = [(ANNA[0], port) for port in range(30)]
        for place in places:
            self.assertEqual([b"r"], lab.put(place, ping(FIRST), b"\0"))
        self.assertEqual(30, len({lab.log_in(place) for place in places}))

    def test_packets_are_no_guesses(self) -> None:
        """What a forgotten client goes on sending does not keep it from logging in."""
        lab = Lab()
        lab.put(ANNA, *[ping(FIRST)] * 100)

        self.assertEqual([b"r", b"10.0.0.2;10.0.0.1"], lab.put(ANNA, b"\0", PASSWORD))

    def test_kept_out(self) -> None:
        """Guesses in somebody's name do not keep out who was here before, nor who is here."""
        lab = Lab()
        lab.log_in(ANNA)
        guesses = [b"guess %d" % n for n in range(20)]
        lab.put((ANNA[0], 9), *guesses)
        self.assertEqual(FIRST, lab.log_in(ANNA))
        lab.advance(EXPIRY_SECONDS)
        lab.put((ANNA[0], 9), *guesses)

        self.assertEqual(FIRST, lab.log_in(ANNA))

    def test_ipv6_source(self) -> None:
        """From IPv6, everybody in one /64 is one source of guesses; scopes break nothing."""
        lab = Lab()
        lab.put(("2001:db8::1", 1), *[b"wrong"] * WRONG_AT_ONCE)
        self.assertEqual([], lab.put(("2001:db8::2", 2), PASSWORD))
        self.assertEqual(FIRST, lab.log_in(("2001:db8:1::1", 1)))
        self.assertEqual(SECOND, lab.log_in(("fe80::1%eth0", 1)))


places = st.sampled_from([ANNA, BOB, EVE, (ANNA[0], 1), (ANNA[0], 2)])
said = st.sampled_from(
    [PASSWORD, PASSWORD, b"\0", b"e", b"r", b"wrong", ping(FIRST), ping(SECOND), b""]
) | st.binary(max_size=40)


class AnythingTests(SynchronousTestCase):
    """Whatever is sent by whomever, and however time goes by."""

    @settings(deadline=None)
    @given(st.lists(st.tuples(places, said, st.sampled_from([0.0, 0.5, 4.0, 10.0, 61.0]))))
    def test_rules(self, story: list[tuple[Place, bytes, float]]) -> None:
        """Addresses are one client's each, the answer comes first, and nothing is amplified."""
        lab = Lab("10.0.0.0/29")
        known: dict[Place, str] = {}
        for place, datagram, pause in story:
            lab.now += pause
            if pause:
                lab.clients.tick(lab.now)
            known = {
                target: IPv4Address(session.addresses[0]).exploded
                for target, session in self.here(lab).items()
            }
            before = len(lab.sent)
            lab.clients.received(datagram, place, lab.now)
            replies = lab.sent[before:]

            self.assertTrue(all(target == place for target, _ in replies))
            if replies and datagram != PASSWORD:
                self.assertEqual([(place, b"r")], replies)
                self.assertEqual(b"\0", datagram)
                self.assertNotIn(place, known)
            elif replies and place in known:
                self.assertEqual([(place, f"{known[place]};{OWN}".encode())], replies)
            here = self.here(lab)
            given = [session.addresses[0] for session in here.values()]
            self.assertEqual(len(set(given)), len(given))
            self.assertLessEqual(set(given), {packed(f"10.0.0.{n}") for n in range(2, 7)})
            for target, session in here.items():
                answer = f"{IPv4Address(session.addresses[0])};{OWN}".encode()
                self.assertIn((target, answer), lab.sent)
            self.assertEqual(len(here), len(lab.router.sessions))

    def here(self, lab: Lab) -> dict[Place, Session]:
        """Who is here, by where."""
        return {place: client.session for place, client in lab.clients._clients.items()}
