"""Which suite a handshake is of: AES-GCM between two ends of ours, else WireGuard's."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.noise import open_static
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import INITIATION, RESPONSE, Initiation
from tests.tunnel.wires import End, Pair, hello

BOTH = (CHACHA, AES_GCM)


def pair_of_ours() -> Pair:
    """Two ends of ours that take both suites, and have agreed on nothing."""
    pair = Pair()
    pair.left.wg.suites = pair.right.wg.suites = BOTH
    pair.to_left.is_native = pair.to_right.is_native = True
    return pair


def begun(end: End, at: End) -> list[Suite]:
    """The suites of all initiations that *end* has sent, as *at* reads them."""
    found = []
    assert at.wg.static is not None
    for sent in end.of_kind(INITIATION):
        half = open_static(Initiation.parse(sent.datagram), at.wg.static, BOTH)
        assert half is not None
        found.append(half.suite)
    return found


class SuiteTests(SynchronousTestCase):
    """Two ends, and what they have said of themselves."""

    def suites(self, pair: Pair) -> list[Suite | None]:
        """What packets are sealed with, from left to right and back."""
        return [
            None if each.current is None else each.current.suite
            for each in (pair.to_right, pair.to_left)
        ]

    def talk(self, pair: Pair, seconds: int) -> None:
        """Let a packet a second go each way, and see that all arrive, in order."""
        for number in range(seconds):
            load = [hello(b"number %d" % number)]
            for end, peer in ((pair.right, pair.to_right), (pair.left, pair.to_left)):
                end.received.clear()
                peer.send_packets(load, pair.net.now)
            pair.net.run(1.0)
            self.assertEqual([load, load], [pair.right.received, pair.left.received], number)

    def test_agreed(self) -> None:
        """Both announced it: the handshake is of AES-GCM, and packets pass both ways."""
        pair = pair_of_ours()
        self.assertEqual("", pair.to_right.cipher)
        pair.to_right.agree_on_aes(True)
        pair.meet()
        self.assertEqual([AES_GCM, AES_GCM], self.suites(pair))
        self.assertEqual([hello()], pair.left.received)
        self.assertEqual([hello()], pair.right.received)
        self.assertEqual(
            ("AES-256-GCM", "AES-256-GCM"), (pair.to_right.cipher, pair.to_left.cipher)
        )

    def test_not_announced(self) -> None:
        """Two ends that take both and have said nothing speak WireGuard's own."""
        pair = pair_of_ours()
        pair.meet()
        self.assertEqual([CHACHA, CHACHA], self.suites(pair))
        self.assertEqual("ChaCha20-Poly1305", pair.to_right.cipher)

    def test_not_ours(self) -> None:
        """An end that shall not use AES does not begin with it, whatever was agreed."""
        pair = pair_of_ours()
        pair.left.wg.suites = (CHACHA,)
        pair.to_right.agree_on_aes(True)
        pair.meet()
        self.assertEqual([CHACHA, CHACHA], self.suites(pair))

    def test_stock_peer(self) -> None:
        """A stock peer's initiation of AES is a bad handshake like any, and leaves no trace."""
        pair = pair_of_ours()
        pair.to_left.is_native = False
        pair.to_right.agree_on_aes(True)
        pair.from_left()
        self.assertEqual([AES_GCM], begun(pair.left, pair.right))
        self.assertEqual([], pair.right.sent)
        self.assertEqual({Drop.BAD_HANDSHAKE: 1}, pair.right.counters.dropped)
        self.assertEqual(bytes(12), pair.to_left.newest_stamp)
        self.assertIsNone(pair.to_left.next)
        # ... and its own one is answered.
        pair.to_right.agree_on_aes(False)
        pair.net.run(6.0)
        self.assertEqual([hello()], pair.right.received)

    def test_stock_end(self) -> None:
        """Nor does an end that knows no AES answer, whoever asks."""
        pair = pair_of_ours()
        pair.right.wg.suites = (CHACHA,)
        pair.to_right.agree_on_aes(True)
        pair.from_left()
        self.assertEqual([], pair.right.sent)
        self.assertEqual({Drop.BAD_HANDSHAKE: 1}, pair.right.counters.dropped)

    def test_three_tries(self) -> None:
        """After three initiations without an answer WireGuard's own is tried, and works."""
        pair = pair_of_ours()
        pair.right.wg.suites = (CHACHA,)
        pair.to_right.agree_on_aes(True)
        pair.from_left()
        pair.net.run(14.9)
        self.assertEqual([AES_GCM] * 3, begun(pair.left, pair.right))
        pair.net.run(2.0)
        self.assertEqual([AES_GCM] * 3 + [CHACHA], begun(pair.left, pair.right))
        self.assertEqual([hello()], pair.right.received)

    def test_three_tries_while_packets_come(self) -> None:
        """So it is when more packets want to be sent all the while."""
        pair = pair_of_ours()
        pair.right.wg.suites = (CHACHA,)
        pair.to_right.agree_on_aes(True)
        for number in range(170):
            pair.to_right.send_packets([hello(b"number %d" % number)], pair.net.now)
            pair.net.run(0.1)
        self.assertEqual([AES_GCM] * 3 + [CHACHA], begun(pair.left, pair.right))
        self.assertEqual(hello(b"number 169"), pair.right.received[-1])

    def test_lost(self) -> None:
        """Two that are lost on the way are no reason: the third is of AES still."""
        pair = pair_of_ours()
        pair.to_right.agree_on_aes(True)
        pair.net.lose = lambda end, sent: len(pair.left.of_kind(INITIATION)) < 3
        pair.from_left()
        pair.net.run(12.0)
        self.assertEqual([AES_GCM] * 3, begun(pair.left, pair.right))
        self.assertEqual([hello()], pair.right.received)

    def test_back_again(self) -> None:
        """Once one was answered the next that is due is of AES again; no packet is lost."""
        pair = pair_of_ours()
        pair.right.wg.suites = (CHACHA,)
        pair.to_right.agree_on_aes(True)
        pair.from_left()
        pair.net.run(17.0)
        self.assertEqual(
            [CHACHA], [each.current.suite for each in (pair.to_right,) if each.current]
        )
        pair.right.wg.suites = BOTH
        self.talk(pair, 125)
        self.assertEqual([AES_GCM, AES_GCM], self.suites(pair))

    def test_refused_at_each_renewal(self) -> None:
        """An end that takes AES no more has its three tries in time: nothing stands still."""
        pair = pair_of_ours()
        pair.to_right.agree_on_aes(True)
        pair.meet()
        pair.right.wg.suites = (CHACHA,)
        self.talk(pair, 300)
        self.assertEqual([CHACHA, CHACHA], self.suites(pair))

    def test_renewals(self) -> None:
        """A session goes from one suite to the other and back without a lost packet."""
        pair = pair_of_ours()
        pair.net.delay = 0.04
        pair.to_right.send_packets([hello()], pair.net.now)
        pair.net.run(1.0)
        for agreed, suite in ((True, AES_GCM), (False, CHACHA), (True, AES_GCM)):
            pair.to_right.agree_on_aes(agreed)
            pair.to_left.agree_on_aes(agreed)
            self.talk(pair, 125)
            self.assertEqual([suite, suite], self.suites(pair))

    def test_crossing(self) -> None:
        """Two that cross complete, each of its suite, whichever end has which."""
        for left, right in ((True, False), (False, True), (True, True)):
            pair = pair_of_ours()
            pair.net.delay = 0.04
            pair.to_right.agree_on_aes(left)
            pair.to_left.agree_on_aes(right)
            self.talk(pair, 3)
            self.assertEqual(
                [[AES_GCM if left else CHACHA], [AES_GCM if right else CHACHA]],
                [begun(pair.left, pair.right), begun(pair.right, pair.left)],
            )
            self.assertEqual([1, 1], [len(end.of_kind(RESPONSE)) for end in pair.net.ends])
            here, there = self.suites(pair)
            self.assertIs(here, there)

    def test_demanded_cookie(self) -> None:
        """Under load an initiation of AES is asked for a cookie, brings it, and is answered."""
        pair = pair_of_ours()
        pair.to_right.agree_on_aes(True)
        pair.right.wg._load._seen = float("inf")
        pair.from_left()
        pair.net.run(6.0)
        self.assertEqual(1, pair.right.dropped(Drop.COOKIE_DEMANDED))
        self.assertEqual([hello()], pair.right.received)
        self.assertEqual("AES-256-GCM", pair.to_right.cipher)
