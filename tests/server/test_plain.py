"""The first generation's TCP protocol, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.control import ControlLink
from pyvpn.server.clients import REGISTER_SECONDS, SECURE_SECONDS
from pyvpn.server.listen import LinkFactory, Relays
from pyvpn.server.plain import PlainClients
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import PLAIN_VERSION
from tests.net.links import Line, frames_in
from tests.tunnel.packets import KeepingSink, packed, packet

V1 = bytes.fromhex("3ff0000000000000")
MINE, OTHER = "182.1.1.101", "182.1.1.102"
BYPASS_HOST = "192.168.1.20"


def registration(address: str, transaction: int = 7, long: bool = True) -> bytes:
    """What the original client sends to register."""
    data = (bytes(10) + b"\xff\xff" if long else b"") + packed(address)
    head = (8 + len(data)).to_bytes(4, "big") + (1).to_bytes(4, "big")
    return head + transaction.to_bytes(4, "big") + data


def framed(inner: bytes) -> bytes:
    """What the original client sends for one packet."""
    return (8 + len(inner)).to_bytes(4, "big") + (2).to_bytes(4, "big") + bytes(4) + inner


class Lab:
    """A server of the first generation."""

    def __init__(self, *, client_to_client: bool = False, admission: Admission | None = None):
        self.clock = Clock()
        self.counters = Counters()
        self.tun = KeepingSink()
        self.router = Router(self.tun, self.counters, client_to_client=client_to_client)
        self.plain = PlainClients(
            network=IPv4Network("182.1.1.0/24"),
            bypass=IPv4Network("192.168.1.0/24"),
            now=self.clock.seconds,
            source_of=Relays().source_of,
            router=self.router,
            admission=Admission() if admission is None else admission,
            counters=self.counters,
        )
        self.factory = LinkFactory(self.plain, self.clock, version=PLAIN_VERSION, tls=False)

    def call(self, *said: bytes, place: str = "192.0.2.2") -> Original:
        return Original(self, said, place)


class Original:
    """An original client: bytes and nothing else."""

    def __init__(self, lab: Lab, said: tuple[bytes, ...], place: str) -> None:
        self.lab = lab
        self.line = Line(peerAddress=IPv4Address("TCP", place, 40000))
        self.link: ControlLink = lab.factory.buildProtocol(None)
        self.link.makeConnection(self.line)
        self.say(*said)

    def say(self, *pieces: bytes) -> bytes:
        """Send; what came back."""
        for piece in pieces:
            self.link.dataReceived(piece)
        return self.line.take()

    def register(self, address: str = MINE) -> Original:
        answer = self.say(V1, registration(address))
        assert b'"success":true' in answer, answer
        return self

    def hang_up(self) -> None:
        self.link.connectionLost(Failure(ConnectionDone()))


class BytesTests(SynchronousTestCase):
    """What the original programs put on the line and expect from it."""

    def test_the_whole_way(self) -> None:
        """Version, registration, a packet each way: these bytes and no others."""
        lab = Lab()
        client = lab.call()
        self.assertEqual(b"", client.line.take())
        self.assertEqual(b"\x01", client.say(V1))
        answer = client.say(
            bytes.fromhex("00000018 00000001 12345678 00000000000000000000ffff b6010165")
        )
        body = b'{"success":true,"message":"","bypass":"192.168.1.0/24"}'
        self.assertEqual(
            (8 + len(body)).to_bytes(4, "big") + b"\xff\xff\xff\xff\x12\x34\x56\x78" + body,
            answer,
        )
        out, back = packet(MINE, BYPASS_HOST, b"ping"), packet(BYPASS_HOST, MINE, b"pong")
        self.assertEqual(b"", client.say(framed(out)))
        self.assertEqual([out], lab.tun.packets)

        lab.router.packets_from_tun([back], 0.0)

        self.assertEqual(framed(back), client.line.take())

    @given(st.lists(st.integers(1, 90)))
    def test_any_pieces(self, cuts: list[int]) -> None:
        """The same, however the bytes arrive."""
        out = packet(MINE, BYPASS_HOST, b"ping")
        said = V1 + registration(MINE) + framed(out) * 2
        edges = [0, *sorted({min(cut, len(said)) for cut in cuts}), len(said)]
        lab = Lab()
        client = lab.call(*(said[a:b] for a, b in pairwise(edges)))

        self.assertEqual([out, out], lab.tun.packets)
        self.assertEqual(1, len(lab.plain.sessions))
        client.hang_up()

    def test_other_version(self) -> None:
        """The version of our own protocol is not spoken here; nor is any other."""
        for version, byte in (
            ("4000000000000000", b"\x02"),
            ("3ff0000000000001", b"\x02"),
            ("7ff8000000000000", b"\x00"),
        ):
            client = Lab().call()
            self.assertEqual(byte, client.say(bytes.fromhex(version) + registration(MINE)))
            self.assertTrue(client.line.is_ended())

    def test_four_bytes(self) -> None:
        """The address may be of 4 bytes as well."""
        lab = Lab()
        answer = lab.call(V1).say(registration(MINE, long=False))

        self.assertIn(b'"success":true', answer)
        self.assertEqual((packed(MINE),), lab.plain.sessions[0].addresses)

    def test_no_address(self) -> None:
        """Anything else is refused with a reason, and the connection closed."""
        for data in (b"", b"\0", bytes(5), bytes(16), packed("fd00::1"), bytes(17)):
            client = Lab().call(V1)
            client.line.take()
            head = (8 + len(data)).to_bytes(4, "big") + (1).to_bytes(4, "big")
            [answer] = frames_in(client.say(head + (9).to_bytes(4, "big") + data))
            self.assertEqual((-1, 9), answer[:2])
            self.assertIn(b'{"success":false,"message":"a registration is', answer.data)
            self.assertIn(b'"bypass":""}', answer.data)
            self.assertTrue(client.line.is_ended())

    def test_unknown_commands(self) -> None:
        """Commands of the second generation are unknown here; three of them are enough."""
        for command in (3, 4, 5, 9):
            client = Lab().call().register()
            for number in range(3):
                self.assertFalse(client.line.is_ended())
                frame = (8).to_bytes(4, "big") + command.to_bytes(4, "big")
                self.assertEqual(b"", client.say(frame + number.to_bytes(4, "big")))

            self.assertTrue(client.line.is_ended())

    def test_unasked_answer(self) -> None:
        """An answer that nobody asked for is ignored."""
        client = Lab().call().register()
        self.assertEqual(b"", client.say(bytes.fromhex("00000008 ffffffff 00000005")))
        self.assertFalse(client.line.is_ended())


class AddressTests(SynchronousTestCase):
    """Who has which address."""

    def refused(self, client: Original, address: str, why: str) -> None:
        """The registration is answered by no, with a reason, and the connection closed."""
        [answer] = frames_in(client.say(registration(address)))
        self.assertIn(b'"success":false', answer.data)
        self.assertIn(why, answer.data.decode())
        self.assertTrue(client.line.is_ended())
        client.hang_up()

    def test_taken(self) -> None:
        """An address that another connection holds is refused; the holder keeps it."""
        lab = Lab()
        first = lab.call().register()
        second = lab.call(V1)
        second.line.take()
        self.refused(second, MINE, "in use")

        self.assertFalse(first.line.is_ended())
        self.assertEqual(1, len(lab.plain.sessions))
        first.hang_up()
        lab.call().register()

    def test_outside(self) -> None:
        """So are addresses of other networks, and those that no client may have."""
        for address, why in (
            ("10.73.0.2", "not in the tunnel network 182.1.1.0/24"),
            ("192.168.1.20", "not in the tunnel network"),
            ("182.1.2.1", "not in the tunnel network"),
            ("0.0.0.1", "not in the tunnel network"),
            ("182.1.1.0", "reserved"),
            ("182.1.1.1", "reserved"),
            ("182.1.1.255", "reserved"),
        ):
            client = Lab().call(V1)
            client.line.take()
            self.refused(client, address, why)

    def test_again(self) -> None:
        """To register again replaces the address, and frees the one before."""
        lab = Lab()
        client = lab.call().register()
        self.assertIn(b"true", client.say(registration(OTHER)))
        self.assertIn(b"true", client.say(registration(OTHER)))
        lab.call().register(MINE)
        client.say(framed(packet(MINE, BYPASS_HOST)), framed(packet(OTHER, BYPASS_HOST)))

        self.assertEqual([packet(OTHER, BYPASS_HOST)], lab.tun.packets)
        self.assertEqual({Drop.SOURCE: 1}, lab.counters.dropped)
        self.assertEqual(2, len(lab.plain.sessions))

    def test_again_refused(self) -> None:
        """A second registration is judged like the first; refused, the client loses its place."""
        lab = Lab()
        lab.call().register(OTHER)
        client = lab.call().register(MINE)
        self.refused(client, OTHER, "in use")

        lab.call().register(MINE)

    def test_close(self) -> None:
        """Closing frees the address, and everything else."""
        lab = Lab()
        for _ in range(5):
            lab.call().register().hang_up()

        self.assertEqual([], lab.plain.sessions)
        self.assertEqual(0, len(lab.router.sessions))
        self.assertEqual([], lab.clock.getDelayedCalls())

    def test_end(self) -> None:
        """At a shutdown all connections are closed, registered or not."""
        lab = Lab()
        clients = [lab.call().register(), lab.call(V1), lab.call()]
        lab.plain.end()

        self.assertEqual([True] * 3, [each.line.is_ended() for each in clients])


class PacketTests(SynchronousTestCase):
    """What passes."""

    def test_own_source(self) -> None:
        """Only from the registered address, which the original never checked."""
        lab = Lab()
        client = lab.call().register()
        client.say(framed(packet(OTHER, BYPASS_HOST)), framed(packet("182.1.1.1", BYPASS_HOST)))

        self.assertEqual([], lab.tun.packets)
        self.assertEqual({Drop.SOURCE: 2}, lab.counters.dropped)

    def test_bypass_only(self) -> None:
        """Only to the bypass network: not to the server, other clients or anywhere else."""
        for client_to_client in (False, True):
            lab = Lab(client_to_client=client_to_client)
            client, other = lab.call().register(), lab.call().register(OTHER)
            native = KeepingSink()
            session = Session(1, 1, "anna/laptop", (packed("10.73.0.2"),), Prefixes(), 0.0)
            lab.router.add(session)
            session.attach(native, 0.0)
            for destination in ("182.1.1.1", OTHER, "10.73.0.2", "8.8.8.8", "192.168.2.1"):
                client.say(framed(packet(MINE, destination)))
            lab.router.packets_from_session(session, [packet("10.73.0.2", MINE)], 0.0)

            self.assertEqual([], lab.tun.packets)
            self.assertEqual([], native.packets)
            self.assertEqual((b"", b""), (other.line.take(), client.line.take()))
            self.assertEqual({Drop.DESTINATION: 6}, lab.counters.dropped)

    def test_before_registration(self) -> None:
        """Nothing passes before registration."""
        lab = Lab()
        client = lab.call(V1)
        client.say(framed(packet(MINE, BYPASS_HOST)))

        self.assertEqual([], lab.tun.packets)
        self.assertEqual({Drop.NOT_REGISTERED: 1}, lab.counters.dropped)
        self.assertFalse(client.line.is_ended())

    def test_no_address_left(self) -> None:
        """Packets for an address that is free again are dropped and counted."""
        lab = Lab()
        lab.call().register().hang_up()
        lab.router.packets_from_tun([packet(BYPASS_HOST, MINE)], 0.0)

        self.assertEqual({Drop.NO_ROUTE: 1}, lab.counters.dropped)


class PatienceTests(SynchronousTestCase):
    """Time, and who only takes places."""

    def test_says_nothing(self) -> None:
        """10 s for the version, 20 s more for the registration, then for ever."""
        lab = Lab()
        silent, half, whole = lab.call(), lab.call(V1), lab.call().register()
        lab.clock.advance(SECURE_SECONDS)
        self.assertTrue(silent.line.is_ended())
        self.assertFalse(half.line.is_ended())
        lab.clock.advance(REGISTER_SECONDS - SECURE_SECONDS)
        self.assertTrue(half.line.is_ended())
        lab.clock.advance(100_000)
        self.assertEqual([], lab.router.tick(100_000.0))

        self.assertFalse(whole.line.is_ended())

    def test_crowd(self) -> None:
        """Those that have not registered are few; a registered one keeps its place."""
        lab = Lab(admission=Admission(2, 2))
        registered = lab.call().register()
        waiting = [lab.call(V1, place=f"192.0.2.{number}") for number in range(10, 13)]

        self.assertEqual([True, False, False], [each.line.is_ended() for each in waiting])
        self.assertFalse(registered.line.is_ended())
