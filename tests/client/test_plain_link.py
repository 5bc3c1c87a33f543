"""The first generation's UDP protocol at the client: one socket from log-in to goodbye."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.client.plain_link import MOST_UNANSWERED, PlainUdpLink
from pyvpn.errors import PeerError
from pyvpn.interfaces import ICarrier
from pyvpn.net.link_owner import LinkClosed
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.plain_udp import PlainDrop
from pyvpn.wire.plain_udp import (
    ANSWER_SECONDS,
    HEARTBEAT_SECONDS,
    Addresses,
    addresses_in,
    with_header,
)
from tests.tunnel.packets import packet

PASSWORD = b"4fb88ca224e"
ANSWER, OTHER = b"10.0.0.2;10.0.0.1", b"10.0.0.3;10.0.0.1"
OUT, BACK = packet("10.0.0.2", "10.0.0.1", b"ping"), packet("10.0.0.1", "10.0.0.2", b"pong")
SOLICITATION = with_header(packet("fe80::1", "ff02::2"))


class KeepingPort:
    """Stands for the socket; keeps what is sent, or says why it is not."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.error = 0
        self.errors: Counter[str] = Counter()
        self.stranded = False
        self.looked = 0
        self.open = True

    def send(self, datagram: bytes) -> int:
        if not self.error:
            self.sent.append(datagram)
        return self.error

    def is_stranded(self) -> bool:
        self.looked += 1
        return self.stranded

    def stopListening(self) -> None:
        self.open = False

    def take(self) -> list[bytes]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


class LinkCase(SynchronousTestCase):
    """A link, its owner's ears and a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.port = KeepingPort()
        self.begun: list[str] = []
        self.arrived: list[bytes] = []
        self.agreed: list[Addresses] = []
        self.reasons: list[Exception] = []
        self.link = PlainUdpLink(self, self.clock, self.counters)
        self.link.makeConnection(self.port)  # type: ignore[arg-type]  # all that is used of one

    # -- the owner

    def connected(self, link: Any) -> None:
        self.begun.append("connected")

    def ready(self, link: Any) -> None:
        self.begun.append("ready")

    def packets(self, link: Any, packets: list[bytes]) -> None:
        self.arrived += packets

    def renewed(self, link: Any, addresses: Addresses) -> None:
        self.agreed.append(addresses)

    def lost(self, link: Any, reason: Exception) -> None:
        self.reasons.append(reason)

    # -- the server

    def hear(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.link.datagramReceived(datagram, ("192.0.2.9", 2003))

    def log_in(self) -> None:
        """Log in and forget what was said for it."""
        told = self.link.log_in(PASSWORD)
        self.hear(ANSWER)
        self.successResultOf(told)
        self.port.take()


class LogInTests(LinkCase):
    """The password and its answer."""

    def test_carrier(self) -> None:
        """A link carries packets, like any other."""
        verifyObject(ICarrier, self.link)

    def test_opened(self) -> None:
        """The owner hears of the socket; nothing is sent by itself."""
        self.link.opened()
        self.assertEqual((["connected", "ready"], []), (self.begun, self.port.sent))

    def test_answered(self) -> None:
        """The password as it stands, once; the answer brings the addresses."""
        told = self.link.log_in(PASSWORD)
        self.assertEqual([PASSWORD], self.port.take())
        self.assertNoResult(told)
        self.hear(ANSWER)

        self.assertEqual(addresses_in(ANSWER), self.successResultOf(told))
        self.assertTrue(self.link.is_up)
        self.assertEqual([], self.port.sent)

    def test_before_the_answer(self) -> None:
        """What comes before is not taken for it, and the wait goes on."""
        told = self.link.log_in(PASSWORD)
        self.clock.advance(1)
        self.hear(SOLICITATION, with_header(BACK), b"r", b"", b"\0", b"127.0.0.2;127.0.0.1", b"x")
        self.assertNoResult(told)
        self.assertEqual({PlainDrop.EARLY: 7}, self.counters.dropped)
        self.hear(ANSWER)

        self.successResultOf(told)
        self.assertEqual(([PASSWORD], []), (self.port.sent, self.arrived))

    def test_no_answer(self) -> None:
        """After 5 s it is given up, with all that it may mean."""
        told = self.link.log_in(PASSWORD)
        self.clock.advance(ANSWER_SECONDS - 0.1)
        self.assertNoResult(told)
        self.clock.advance(0.1)
        self.clock.advance(0)
        error = self.failureResultOf(told, PeerError).value

        self.assertIn("within 5 s: it is wrong, or the server has no free address", str(error))
        self.assertEqual([], self.reasons)

    def test_refused(self) -> None:
        """If the host says that nobody listens, it is not waited for."""
        told = self.link.log_in(PASSWORD)
        self.link.connectionRefused()
        self.clock.advance(0)

        self.assertIn("nobody listens", str(self.failureResultOf(told, PeerError).value))

    def test_cannot_send(self) -> None:
        """Nor if the password does not even leave this host."""
        self.port.error = errno.ENETUNREACH
        told = self.link.log_in(PASSWORD)
        self.clock.advance(0)

        self.assertIn("unreachable", str(self.failureResultOf(told, PeerError).value))

    def test_given_up(self) -> None:
        """A wait that the owner ends fails, once, and leaves nothing behind."""
        told = self.link.log_in(PASSWORD)
        self.link.abort()
        self.failureResultOf(told, LinkClosed)

        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(([PASSWORD, b"e"], False), (self.port.sent, self.port.open))

    def test_late(self) -> None:
        """What arrives after the end changes nothing."""
        told = self.link.log_in(PASSWORD)
        self.link.close()
        self.hear(ANSWER, b"r", with_header(BACK))
        self.link.connectionRefused()
        self.clock.advance(100)

        self.failureResultOf(told, LinkClosed)
        self.assertEqual(([], [], []), (self.arrived, self.agreed, self.reasons))


class UpTests(LinkCase):
    """Packets, heartbeats, goodbye."""

    def setUp(self) -> None:
        super().setUp()
        self.log_in()

    def test_packets(self) -> None:
        """They get their header, and lose it."""
        self.assertEqual(2, self.link.send_packets([OUT, OUT], 0.0))
        self.assertEqual([b"\0\0\x08\0" + OUT] * 2, self.port.sent)
        self.hear(b"\0\0\x08\0" + BACK)

        self.assertEqual([BACK], self.arrived)

    def test_not_sent(self) -> None:
        """What the kernel does not take is said to the router; the next ones are tried again."""
        for number in (errno.EAGAIN, errno.EPERM, errno.ENETUNREACH, errno.ECONNREFUSED):
            self.port.error = number
            self.assertEqual(0, self.link.send_packets([OUT, OUT], 0.0))
        self.port.error = 0
        self.assertEqual(1, self.link.send_packets([OUT], 0.0))
        self.assertEqual(([], PlainDrop.NOT_SENT), (self.reasons, self.link.refusal))

    def test_heartbeats(self) -> None:
        """One zero byte every ten seconds, whatever else is sent, and through any error."""
        for second in range(30):
            self.port.error = errno.EPERM if second < 15 else 0
            self.clock.advance(1)
        self.assertEqual([b"\0", b"\0"], self.port.take())
        self.assertEqual(10.0, HEARTBEAT_SECONDS)

    def test_goodbye(self) -> None:
        """At the end one "e", and silence."""
        self.link.close()
        self.link.close()
        self.clock.advance(100)

        self.assertEqual(([b"e"], False), (self.port.sent, self.port.open))
        self.assertEqual(0, self.link.send_packets([OUT], 0.0))
        self.assertEqual([], self.reasons)

    def test_refused(self) -> None:
        """That nobody listens, says who may be anybody: it is noted, and nothing more."""
        self.link.connectionRefused()
        self.clock.advance(100)
        self.assertEqual([], self.reasons)
        self.assertIn("nobody listens there", self.link.describe())
        self.hear(with_header(BACK))

        self.assertNotIn("nobody listens there", self.link.describe())

    def test_moved(self) -> None:
        """When this host has lost its address, the socket is of no use: begin anew."""
        self.port.error, self.port.stranded = errno.ENETUNREACH, True
        self.link.send_packets([OUT], 0.0)
        self.link.send_packets([OUT], 0.0)
        self.assertEqual([], self.reasons)
        self.clock.advance(0)

        self.assertEqual(["this host's address has changed"], list(map(str, self.reasons)))

    def test_no_network(self) -> None:
        """Without a network it waits for one; it looks for its address once a second at most."""
        self.port.error = errno.ENETUNREACH
        for _ in range(100):
            self.link.send_packets([OUT], 0.0)
            self.clock.advance(0.1)

        self.assertEqual([], self.reasons)
        self.assertLessEqual(self.port.looked, 11)

    def test_junk(self) -> None:
        """What makes no sense is counted."""
        self.hear(b"", b"e", b"\0", ANSWER, OTHER, b"x", b"\0\0\x86\xdd" + BACK)

        self.assertEqual({PlainDrop.UNASKED: 7}, self.counters.dropped)
        self.assertEqual(([], []), (self.arrived, self.agreed))

    def test_describe(self) -> None:
        """It is said what cannot be known, and what is."""
        self.port.errors["EPERM"] = 2
        self.clock.advance(7)
        self.assertEqual(
            "the server answers no heartbeats, so whether it hears us is not known; "
            "it was last heard 7 s ago; EPERM 2 times",
            self.link.describe(),
        )


class ForgottenTests(LinkCase):
    """ "r": I do not know you."""

    def setUp(self) -> None:
        super().setUp()
        self.log_in()

    def test_logs_in_again(self) -> None:
        """The password again, by the same socket; packets flow meanwhile."""
        self.hear(b"r")
        self.assertEqual([PASSWORD], self.port.take())
        self.assertEqual(1, self.link.send_packets([OUT], 0.0))
        self.hear(with_header(BACK), ANSWER)

        self.assertEqual([BACK], self.arrived)
        self.assertEqual(([], []), (self.agreed, self.reasons))
        self.assertTrue(self.link.is_up)

    def test_other_address(self) -> None:
        """Another address is told to the owner, once."""
        self.hear(b"r", OTHER, OTHER)

        self.assertEqual([addresses_in(OTHER)], self.agreed)
        self.assertEqual({PlainDrop.UNASKED: 1}, self.counters.dropped)

    def test_flood(self) -> None:
        """However many come, there is one password within 5 s."""
        for _ in range(200):
            self.hear(b"r", b"r", b"r")
            self.clock.advance(0.1)
        self.assertLessEqual(self.port.take().count(PASSWORD), 4)

    def test_answered_flood(self) -> None:
        """Also if each is answered."""
        for _ in range(200):
            self.hear(b"r", ANSWER)
            self.clock.advance(0.1)

        self.assertLessEqual(self.port.take().count(PASSWORD), 5)
        self.assertEqual([], self.reasons)

    def test_forged(self) -> None:
        """A server that knows us does not answer: we ask by a heartbeat, and stay."""
        self.hear(b"r")
        self.clock.advance(ANSWER_SECONDS)
        self.assertEqual([PASSWORD, b"\0"], self.port.take())
        self.clock.advance(1000)

        self.assertEqual([], self.reasons)
        self.assertTrue(self.link.is_up)

    def test_forged_often(self) -> None:
        """Packets show that it knows us, however often that is denied."""
        for _ in range(20):
            self.hear(b"r")
            self.clock.advance(ANSWER_SECONDS)
            self.hear(with_header(BACK))

        self.assertEqual([], self.reasons)

    def test_not_taken_back(self) -> None:
        """A server that denies us and does not answer is given up, to begin anew."""
        for _ in range(MOST_UNANSWERED):
            self.assertEqual([], self.reasons)
            self.hear(b"r")
            self.clock.advance(ANSWER_SECONDS)
        self.clock.advance(0)

        self.assertEqual(1, len(self.reasons))
        self.assertIn("does not answer the log-in", str(self.reasons[0]))


class AnythingTests(SynchronousTestCase):
    """Whatever a server sends."""

    @given(
        st.lists(
            st.sampled_from([b"r", ANSWER, OTHER, with_header(BACK), SOLICITATION, b""])
            | st.binary(max_size=60),
            max_size=40,
        ),
        st.sampled_from([0.0, 0.3, 2.0, 6.0]),
    )
    def test_never_raises(self, datagrams: list[bytes], pause: float) -> None:
        """Nothing is raised, and little is said upon it."""
        case = LinkCase()
        case.setUp()
        told: Deferred[Addresses] = case.link.log_in(PASSWORD)
        told.addErrback(lambda failure: failure.trap(PeerError))
        for datagram in datagrams:
            case.hear(datagram)
            case.clock.advance(pause)
        passwords = case.port.sent.count(PASSWORD)
        self.assertLessEqual(passwords, 2 + len(datagrams) * pause / ANSWER_SECONDS)
        self.assertLessEqual(set(case.port.sent), {PASSWORD, b"\0"})
        case.link.close()
        self.assertEqual(b"e", case.port.sent[-1])
