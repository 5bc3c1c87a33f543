"""Handshakes: two ends that know each other come to a session."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.tai64n import tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE, Path, kind_of, sender_of
from tests.tunnel.packets import packed
from tests.tunnel.wires import EPOCH, End, Pair, Sent, hand_in, hello, initiation, state_of


class HandshakeTests(SynchronousTestCase):
    """Two ends that know each other's key."""

    def test_whole(self) -> None:
        """A packet brings about initiation, response and itself, in this order and size."""
        pair = Pair()
        pair.from_left()

        self.assertEqual([hello()], pair.right.received)
        self.assertEqual([148, 32 + 32], [len(sent.datagram) for sent in pair.left.sent])
        self.assertEqual([92], [len(sent.datagram) for sent in pair.right.sent])
        self.assertEqual((1, 1), (pair.left.wg.handshakes, pair.right.wg.handshakes))
        self.assertEqual(0, pair.left.counters.total() + pair.right.counters.total())

    def test_marked_for_speed(self) -> None:
        """Handshakes are marked AF41, data is not marked at all."""
        pair = Pair()
        pair.from_left()

        self.assertEqual([0x88, 0], [sent.tos for sent in pair.left.sent])
        self.assertEqual([0x88], [sent.tos for sent in pair.right.sent])

    def test_nothing_to_send(self) -> None:
        """An initiator with nothing to send confirms with a keepalive, 32 bytes."""
        pair = Pair()
        pair.to_right.initiate(pair.net.now)
        pair.net.settle()

        self.assertEqual([148, 32], [len(sent.datagram) for sent in pair.left.sent])
        self.assertEqual([], pair.right.received)
        self.assertIsNotNone(pair.to_left.current)

    def test_when_it_was(self) -> None:
        """Both ends know when the handshake was, in unix time; before it, zero."""
        pair = Pair()
        self.assertEqual((0, 0), (pair.to_right.last_handshake, pair.to_left.last_handshake))
        pair.net.now += 50.0
        pair.meet()

        expected = EPOCH + pair.net.now
        self.assertEqual(expected, pair.to_right.last_handshake)
        self.assertEqual(expected, pair.to_left.last_handshake)

    def test_traffic_is_counted(self) -> None:
        """What one end has sent, handshakes included, the other has received."""
        pair = Pair()
        pair.meet()

        self.assertEqual(148 + 64, pair.to_right.tx_bytes)
        self.assertEqual(148 + 64, pair.to_left.rx_bytes)
        self.assertEqual(92 + 64, pair.to_left.tx_bytes)
        self.assertEqual(92 + 64, pair.to_right.rx_bytes)

    def test_preshared_key(self) -> None:
        """With the same preshared key they meet."""
        pair = Pair(psk=b"\7" * 32)
        pair.meet()

        self.assertEqual([hello()], pair.left.received)

    def test_wrong_preshared_key(self) -> None:
        """With different ones there is no session, and the initiator says nothing about it."""
        pair = Pair()
        pair.to_left.preshared_key = b"\7" * 32
        pair.from_left()
        pair.net.run(4.9)

        self.assertEqual([INITIATION], [sent.kind for sent in pair.left.sent])
        self.assertEqual([RESPONSE], [sent.kind for sent in pair.right.sent])
        self.assertEqual(1, pair.left.dropped(Drop.BAD_HANDSHAKE))
        self.assertIsNone(pair.to_right.current)
        self.assertIsNone(pair.to_left.current)
        self.assertEqual([], pair.right.received)
        self.assertEqual((0, 0), (pair.left.wg.handshakes, pair.right.wg.handshakes))

    def test_response_twice(self) -> None:
        """The same response again is refused and changes nothing."""
        pair = Pair()
        pair.from_left()
        state = state_of(pair.to_right)
        response = pair.right.of_kind(RESPONSE)[0].datagram

        self.assertEqual([], hand_in(pair.left, response, pair.right.place))
        self.assertEqual(1, pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(state, state_of(pair.to_right))

    def test_response_twice_at_once(self) -> None:
        """Nor does it help to send it twice before the first is worked on."""
        pair = Pair()
        pair.net.lose = lambda end, sent: sent.kind == RESPONSE
        pair.from_left()
        response = pair.right.of_kind(RESPONSE)[0].datagram
        pair.left.wg.received([response, response], pair.right.place, 0, pair.net.now)
        pair.left.wg.work(pair.net.now)

        self.assertEqual(1, pair.left.wg.handshakes)
        self.assertEqual(1, pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(1, len(pair.left.of_kind(DATA)))

    def test_forged_response(self) -> None:
        """A response that does not open spoils nothing: the real one is taken after it."""
        pair = Pair()
        pair.net.lose = lambda end, sent: sent.kind == RESPONSE
        pair.from_left()
        real = pair.right.of_kind(RESPONSE)[0].datagram
        state = state_of(pair.to_right)
        for position in (4, 12, 44):  # the sender's index, the ephemeral key, the tag
            forged = bytearray(real[:60])
            forged[position] ^= 1
            whole = CookieJar(pair.left.public).add_macs(bytes(forged), 0.0)
            if position == 4:  # nothing covers the sender's index but mac1
                continue
            self.assertEqual([], hand_in(pair.left, whole, Path(packed("203.0.113.9"), 9)))
            self.assertEqual(state, state_of(pair.to_right))

        self.assertEqual(2, pair.left.dropped(Drop.BAD_HANDSHAKE))
        self.assertEqual(1, len(hand_in(pair.left, real, pair.right.place)))
        self.assertIsNotNone(pair.to_right.current)

    def test_indices(self) -> None:
        """Four handshakes have eight different indices, all of them random."""
        pair = Pair()
        for _ in range(4):
            pair.net.now += 130.0
            pair.from_left()
        indices = [sender_of(sent.datagram) for sent in pair.left.of_kind(INITIATION)]
        indices += [sender_of(sent.datagram) for sent in pair.right.of_kind(RESPONSE)]

        self.assertEqual(8, len(set(indices)))
        self.assertGreater(max(indices), 2**24)

    def test_lossy(self) -> None:
        """With every fifth datagram lost both ways a session is there within a minute."""
        for seed in range(20):
            pair = Pair()
            dice = random.Random(seed)
            pair.net.lose = lambda end, sent, dice=dice: dice.random() < 0.2  # type: ignore[misc]
            for _ in range(60):
                pair.from_left(b"again")
                pair.net.run(1.0)

            self.assertGreater(len(pair.right.received), 20, f"seed {seed}")
            self.assertLessEqual(len(pair.right.received), 60)


class CrossingTests(SynchronousTestCase):
    """Both ends begin at the same moment."""

    def cross(self, delay: float = 0.05) -> Pair:
        """Both have something to send, before either has heard anything."""
        pair = Pair()
        pair.net.delay = delay
        pair.to_right.send_packets([hello(b"from left")], pair.net.now)
        pair.to_left.send_packets([hello(b"from right")], pair.net.now)
        pair.net.run(1.0, step=0.01)
        return pair

    def test_both_complete(self) -> None:
        """Neither disturbs the other: both packets arrive after one round trip."""
        pair = self.cross()

        self.assertEqual([hello(b"from left")], pair.right.received)
        self.assertEqual([hello(b"from right")], pair.left.received)
        self.assertEqual(
            (1, 1), (len(pair.left.of_kind(RESPONSE)), len(pair.right.of_kind(RESPONSE)))
        )
        self.assertEqual(0, pair.left.counters.total() + pair.right.counters.total())

    def test_one_keypair_in_the_end(self) -> None:
        """Both ends settle on the keypair that the smaller public key has begun."""
        for delay in (0.0, 0.05, 0.3):
            pair = self.cross(delay)
            left, right = pair.to_right.current, pair.to_left.current
            assert left is not None
            assert right is not None

            self.assertEqual(left.remote_index, right.local_index)
            self.assertEqual(right.remote_index, left.local_index)
            self.assertEqual(pair.left.public < pair.right.public, left.initiator)
            self.assertEqual(not left.initiator, right.initiator)

    def test_renewed_without_loss(self) -> None:
        """After that, with traffic both ways for ten minutes, nothing is ever lost."""
        pair = self.cross()
        for number in range(6000):
            load = b"%d" % number
            pair.to_right.send_packets([hello(load)], pair.net.now)
            pair.to_left.send_packets([hello(load)], pair.net.now)
            pair.net.run(0.1, step=0.05)
        pair.net.run(1.0)

        expected = [hello(b"%d" % number) for number in range(6000)]
        self.assertEqual(expected, pair.left.received[1:])
        self.assertEqual(expected, pair.right.received[1:])
        self.assertEqual(0, pair.left.counters.total() + pair.right.counters.total())
        begun = len(pair.left.of_kind(INITIATION)) + len(pair.right.of_kind(INITIATION))
        self.assertEqual(2 + 4, begun)

    def test_response_lost(self) -> None:
        """When one of the two responses is lost, both use the other's handshake at once."""
        for loser in (0, 1):
            pair = Pair()
            pair.net.delay = 0.05
            victim = pair.net.ends[loser]
            pair.net.lose = lambda end, sent, victim=victim: (  # type: ignore[misc]
                end is victim and sent.kind == RESPONSE
            )
            pair.to_right.send_packets([hello(b"from left")], pair.net.now)
            pair.to_left.send_packets([hello(b"from right")], pair.net.now)
            pair.net.run(1.0, step=0.01)

            self.assertEqual([hello(b"from left")], pair.right.received)
            self.assertEqual([hello(b"from right")], pair.left.received)

    def test_response_late(self) -> None:
        """A response that comes when the other handshake is in use already changes nothing."""
        pair = Pair()
        late: list[Sent] = []

        def lose(end: End, sent: Sent) -> bool:
            if end is pair.right and sent.kind == RESPONSE:
                late.append(sent)
            return end is pair.right and sent.kind == RESPONSE

        pair.net.lose = lose
        pair.net.delay = 0.05
        pair.to_right.send_packets([hello()], pair.net.now)
        pair.to_left.send_packets([hello()], pair.net.now)
        pair.net.run(1.0, step=0.01)
        state = state_of(pair.to_right)

        self.assertEqual([], hand_in(pair.left, late[0].datagram, pair.right.place))
        self.assertEqual(1, pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(state, state_of(pair.to_right))


class QueueTests(SynchronousTestCase):
    """Handshakes are worked on a few at a time."""

    def test_eight_at_once(self) -> None:
        """Twenty initiations are worked off in three goes."""
        pair = Pair()
        messages = [
            initiation(pair.left, pair.right, tai64n(EPOCH + n), seed=n) for n in range(20)
        ]
        self.assertEqual([INITIATION] * 20, [kind_of(message) for message in messages])
        pair.right.wg.received(messages, pair.left.place, 0, pair.net.now)
        goes = [pair.right.wg.work(pair.net.now + n) for n in range(4)]

        self.assertEqual([True, True, False, False], goes)
        self.assertEqual(3, len(pair.right.sent))  # the others were too soon
        self.assertEqual(17, pair.right.dropped(Drop.TOO_SOON))
