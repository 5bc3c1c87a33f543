"""Sessions: three keypairs, and which of them sends and receives when."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import MOST_STAGED
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE, counter_of, receiver_of
from tests.tunnel.wires import End, Pair, Sent, hello, in_use


class InitiatorTests(SynchronousTestCase):
    """The slots of the end that begins."""

    def test_first(self) -> None:
        """The first response gives the current keypair, and no other."""
        pair = Pair()
        pair.from_left()
        peer = pair.to_right

        assert peer.current is not None
        self.assertTrue(peer.current.initiator)
        self.assertIsNone(peer.previous)
        self.assertIsNone(peer.next)

    def test_second(self) -> None:
        """With the second response the current one becomes the previous one."""
        pair = Pair()
        pair.meet()
        first = pair.to_right.current
        pair.net.now += 10.0
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()

        self.assertIs(first, pair.to_right.previous)
        self.assertIsNot(first, pair.to_right.current)
        self.assertEqual(2, pair.to_right.keypairs)

    def test_third(self) -> None:
        """With the third the first is gone: what comes on it is for nobody."""
        pair = Pair()
        pair.meet()
        pair.net.lose = lambda end, sent: end is pair.right and sent.kind == DATA
        pair.from_right(b"for later")
        straggler = pair.right.sent[-1].datagram
        pair.net.lose = lambda end, sent: False
        for expected in (0, 1):
            pair.net.now += 10.0
            pair.to_right.initiate(pair.net.now)
            pair.net.settle()
            if not expected:
                pair.left.wg.received([straggler], pair.right.place, 0, pair.net.now)
                self.assertEqual(hello(b"for later"), pair.left.received[-1])
        pair.left.wg.received([straggler], pair.right.place, 0, pair.net.now)

        self.assertEqual(1, pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(2, pair.to_right.keypairs)

    def test_staged_packets_confirm(self) -> None:
        """What waits is sent with the response, oldest first; no keepalive is needed then."""
        pair = Pair()
        loads = [b"%d" % n for n in range(5)]
        for load in loads:
            pair.to_right.send_packets([hello(load)], pair.net.now)
        self.assertEqual(5, pair.to_right.staged)
        pair.net.settle()

        self.assertEqual([hello(load) for load in loads], pair.right.received)
        self.assertEqual(
            [0, 1, 2, 3, 4], [counter_of(s.datagram) for s in pair.left.of_kind(DATA)]
        )
        self.assertEqual(0, pair.to_right.staged)


class ResponderTests(SynchronousTestCase):
    """The slots of the end that answers."""

    def test_waits_for_the_first_packet(self) -> None:
        """A responder sends nothing before a packet has come on the new keypair."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        pair.from_left()
        self.assertIsNotNone(pair.to_left.next)
        self.assertIsNone(pair.to_left.current)
        for load in (b"1", b"2"):
            pair.from_right(load)
        pair.net.run(1.0)

        self.assertEqual([RESPONSE], [sent.kind for sent in pair.right.sent])
        self.assertEqual((2, []), (pair.to_left.staged, pair.left.received))

    def test_flushes_with_the_first_packet(self) -> None:
        """With that packet, which may be a keepalive, what waits is sent in order."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        pair.from_left()
        pair.from_right(b"1", b"2")
        pair.net.lose = lambda end, sent: False
        pair.to_right.send_keepalive(pair.net.now)
        pair.net.settle()

        self.assertEqual([hello(b"1"), hello(b"2")], pair.left.received)
        self.assertEqual(0, pair.to_left.staged)
        self.assertIsNone(pair.to_left.next)
        self.assertIsNotNone(pair.to_left.current)

    def test_goes_on_with_the_old_one(self) -> None:
        """Until then it sends with the current keypair."""
        pair = Pair()
        pair.meet()
        current = pair.to_left.current
        assert current is not None
        pair.net.now += 10.0
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()
        pair.from_right(b"old key")

        self.assertEqual(hello(b"old key"), pair.left.received[-1])
        self.assertEqual(current.remote_index, receiver_of(pair.right.sent[-1].datagram))
        self.assertIs(current, pair.to_left.current)

    def test_slots_move_up(self) -> None:
        """The first packet makes next current and current previous."""
        pair = Pair()
        pair.meet()
        first = pair.to_left.current
        pair.net.now += 10.0
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()

        self.assertIs(first, pair.to_left.previous)
        self.assertIsNone(pair.to_left.next)
        assert pair.to_left.current is not None
        self.assertFalse(pair.to_left.current.initiator)

    def test_new_answer_drops_the_previous_one(self) -> None:
        """A new next drops the previous keypair, and a next that nobody has used."""
        pair = Pair()
        pair.meet()
        pair.net.now += 10.0
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        seen = []
        for _ in range(2):
            self.assertLessEqual(pair.to_left.keypairs, 3)
            pair.net.now += 10.0
            pair.to_right.initiate(pair.net.now)
            pair.net.settle()
            seen.append(pair.to_left.next)
            self.assertIsNone(pair.to_left.previous)

        self.assertIsNot(*seen)
        self.assertEqual(in_use(pair.right), set(pair.right.wg._world.indices))

    def test_straggler_on_the_previous_one(self) -> None:
        """A packet that was under way during a renewal is delivered."""
        pair = Pair()
        pair.meet()
        pair.net.lose = lambda end, sent: sent.kind == DATA
        pair.from_left(b"under way")
        straggler = pair.left.sent[-1].datagram
        pair.net.lose = lambda end, sent: False
        pair.net.now += 10.0
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()
        pair.right.wg.received([straggler], pair.left.place, 0, pair.net.now)

        self.assertEqual(hello(b"under way"), pair.right.received[-1])

    def test_open_initiation_is_given_up(self) -> None:
        """A handshake that the other end completes ends the one that we have begun."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.right and sent.kind == INITIATION
        pair.to_left.initiate(pair.net.now)
        pair.net.settle()
        self.assertIsNotNone(pair.to_left.initiation)
        pair.from_left()

        self.assertIsNone(pair.to_left.initiation)
        self.assertEqual(in_use(pair.right), set(pair.right.wg._world.indices))
        pair.net.run(9.0)
        self.assertEqual(1, len(pair.right.of_kind(INITIATION)))


class LossTests(SynchronousTestCase):
    """Renewal under traffic."""

    def test_nothing_is_lost(self) -> None:
        """With packets under way in both directions each renewal loses none, in either role."""
        pair = Pair()
        pair.net.delay = 0.05
        pair.from_left()
        pair.net.run(1.0, step=0.01)
        for number in range(4000):
            load = b"%d" % number
            pair.to_left.send_packets([hello(load)], pair.net.now)
            pair.to_right.send_packets([hello(load)], pair.net.now)
            pair.net.run(0.1, step=0.025)
        pair.net.run(1.0)

        expected = [hello(b"%d" % number) for number in range(4000)]
        self.assertEqual(expected, pair.left.received)
        self.assertEqual(expected, pair.right.received[1:])
        self.assertEqual([], pair.right.of_kind(INITIATION))
        self.assertEqual(4, len(pair.left.of_kind(INITIATION)))
        self.assertEqual(0, pair.left.counters.total() + pair.right.counters.total())

    def test_a_fifth_is_lost(self) -> None:
        """With loss both ways what arrives is in order and arrives once."""
        pair = Pair()
        lost = iter(range(10**9))

        def lose(end: End, sent: Sent) -> bool:
            return next(lost) % 5 == 0

        pair.net.lose = lose
        for number in range(3000):
            pair.to_right.send_packets([hello(b"%05d" % number)], pair.net.now)
            pair.net.run(0.1)
        numbers = [int(packet[-5:]) for packet in pair.right.received]

        self.assertGreater(len(numbers), 2300)
        self.assertTrue(all(one < other for one, other in pairwise(numbers)))


class StagedTests(SynchronousTestCase):
    """What waits for a key."""

    def test_newest_stay(self) -> None:
        """Of 130 packets the oldest two make room, and are counted."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left(*(b"%d" % n for n in range(100)))
        pair.from_left(*(b"%d" % n for n in range(100, 130)))
        self.assertEqual(MOST_STAGED, pair.to_right.staged)
        self.assertEqual({Drop.STAGED_FULL: 2}, dict(pair.left.counters.dropped))
        pair.net.lose = lambda end, sent: False
        pair.net.run(6.0)

        self.assertEqual([hello(b"%d" % n) for n in range(2, 130)], pair.right.received)

    def test_no_endpoint(self) -> None:
        """Without a place to send to nothing is taken."""
        pair = Pair()
        pair.to_right.endpoint = None

        self.assertEqual(0, pair.to_right.send_packets([hello()], pair.net.now))
        self.assertEqual((0, []), (pair.to_right.staged, pair.left.sent))
        self.assertEqual(Drop.NO_ENDPOINT, pair.to_right.refusal)


class CounterTests(SynchronousTestCase):
    """Keypairs that have sealed too much."""

    def test_limit(self) -> None:
        """Two before the limit two are sent; the third waits for a new keypair, behind them."""
        pair = Pair()
        pair.meet()
        pair.net.now += 10.0
        assert pair.to_right.current is not None
        pair.to_right.current.counter = REJECT_AFTER_MESSAGES - 2
        pair.net.lose = lambda end, sent: True
        pair.from_left(b"1", b"2", b"3")
        self.assertEqual(1, pair.to_right.staged)
        self.assertEqual(
            [REJECT_AFTER_MESSAGES - 2, REJECT_AFTER_MESSAGES - 1],
            [counter_of(sent.datagram) for sent in pair.left.of_kind(DATA)[-2:]],
        )
        pair.net.lose = lambda end, sent: False
        pair.from_left(b"4")
        pair.net.run(6.0)

        self.assertEqual([hello(b"3"), hello(b"4")], pair.right.received[1:])

    def test_limit_while_flushing(self) -> None:
        """The same among packets that have waited: their order stays."""
        pair = Pair()
        pair.meet()
        pair.net.now += 10.0
        assert pair.to_right.current is not None
        pair.to_right.current.counter = REJECT_AFTER_MESSAGES - 2
        pair.to_right._staged.extend([hello(b"1"), hello(b"2"), hello(b"3")])
        pair.from_left(b"4")
        pair.net.run(6.0)

        loads = (b"1", b"2", b"3", b"4")
        self.assertEqual([hello(load) for load in loads], pair.right.received[1:])

    def test_renewed_long_before(self) -> None:
        """After 2**60 messages either end begins a handshake, and goes on sending."""
        for far in (False, True):
            pair = Pair()
            pair.meet()
            pair.net.now += 10.0
            end, peer = (pair.right, pair.to_left) if far else (pair.left, pair.to_right)
            begun = len(end.of_kind(INITIATION))
            assert peer.current is not None
            peer.current.counter = REKEY_AFTER_MESSAGES - 1
            peer.send_packets([hello(b"1")], pair.net.now)
            self.assertEqual(begun, len(end.of_kind(INITIATION)))
            peer.send_packets([hello(b"2")], pair.net.now)
            peer.send_packets([hello(b"3")], pair.net.now)

            self.assertEqual(begun + 1, len(end.of_kind(INITIATION)))
            self.assertEqual(0, peer.staged)
