"""Timers: when a handshake is begun, tried again, given up, and when keys end."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import MOST_RETRIES
from pyvpn.tunnel.surroundings import JITTER_SECONDS
from pyvpn.tunnel.wireguard import PEERS_AT_ONCE
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE, Path
from tests.tunnel.packets import packed
from tests.tunnel.wires import End, Net, Pair, hello, in_use


def begun(end: End) -> list[float]:
    """When *end* has sent its initiations."""
    return [sent.at for sent in end.of_kind(INITIATION)]


class RenewalTests(SynchronousTestCase):
    """A session gets a new keypair in time."""

    def test_initiator_sends(self) -> None:
        """The initiator renews with the first packet it sends 120 s after the handshake."""
        pair = Pair()
        pair.meet()
        pair.net.now += 119.9
        pair.from_left()
        self.assertEqual(1, len(begun(pair.left)))
        pair.net.now += 0.1
        pair.from_left()

        self.assertEqual([1000.0, 1120.0], begun(pair.left))
        self.assertEqual(2, pair.left.wg.handshakes)
        self.assertEqual(3, len(pair.right.received))

    def test_responder_sends(self) -> None:
        """The responder never renews because of age: it sends up to the last moment."""
        pair = Pair()
        pair.meet()
        pair.net.lose = lambda end, sent: end is pair.right  # left hears nothing: nothing to renew
        for seconds in (119.9, 0.1, 30.0, 29.9):
            pair.net.now += seconds
            pair.from_right()

        self.assertEqual([], begun(pair.right))
        self.assertEqual(5, len(pair.right.of_kind(DATA)))

    def test_initiator_receives(self) -> None:
        """An initiator that only receives renews with the first packet after 165 s, once."""
        pair = Pair()
        pair.meet()
        pair.net.now += 164.9
        pair.from_right()
        self.assertEqual(1, len(begun(pair.left)))
        pair.net.lose = lambda end, sent: end is pair.left
        pair.net.now += 0.1
        pair.from_right()
        self.assertEqual([1000.0, 1165.0], begun(pair.left))
        pair.to_right._retransmit_at = float("inf")
        pair.net.now += 10.0
        pair.from_right()

        self.assertEqual([1000.0, 1165.0], begun(pair.left))

    def test_initiator_receives_in_time(self) -> None:
        """Then the renewal keeps a stream from the responder whole beyond 180 s."""
        pair = Pair()
        pair.meet()
        for _ in range(400):
            pair.from_right()
            pair.net.run(1.0, step=1.0)

        self.assertEqual(401, len(pair.left.received))
        # Its keepalives are packets that it sends: with those it renews every 120 s.
        self.assertEqual(4, len(begun(pair.left)))
        self.assertEqual([], begun(pair.right))

    def test_responder_receives(self) -> None:
        """A responder that only receives does not renew."""
        pair = Pair()
        pair.meet()
        pair.to_right.endpoint = None  # left cannot begin
        pair.net.now += 170.0
        keypair = pair.to_right.current
        assert keypair is not None
        pair.right.wg.received(keypair.seal([hello()], 0), pair.left.place, 0, pair.net.now)

        self.assertEqual(2, len(pair.right.received))
        self.assertEqual([], begun(pair.right))


class ExpiryTests(SynchronousTestCase):
    """A keypair ends."""

    def test_sending(self) -> None:
        """From 180 s on nothing is sent with it: packets wait, a handshake is begun."""
        for far in (False, True):
            pair = Pair()
            pair.meet()
            pair.net.lose = lambda end, sent: True
            pair.net.now += 180.0
            end, peer = (pair.right, pair.to_left) if far else (pair.left, pair.to_right)
            sent = len(end.sent)
            peer.send_packets([hello()], pair.net.now)

            self.assertEqual([INITIATION], [one.kind for one in end.sent[sent:]])
            self.assertEqual(1, peer.staged)

    def test_sending_just_before(self) -> None:
        """Just before that it still is: the negative twin."""
        pair = Pair()
        pair.meet()
        pair.net.now += 179.9
        pair.from_right(b"late")

        self.assertEqual(hello(b"late"), pair.left.received[-1])
        self.assertEqual([], begun(pair.right))

    def test_receiving(self) -> None:
        """From 180 s on nothing that comes on it is taken, and it disturbs nothing."""
        pair = Pair()
        pair.meet()
        keypair = pair.to_right.current
        assert keypair is not None
        first, second = keypair.seal([hello(b"1"), hello(b"2")], 0)
        elsewhere = pair.left.place._replace(host=packed("203.0.113.9"))
        pair.right.wg.received([first], elsewhere, 0, pair.net.now + 179.9)
        self.assertEqual(hello(b"1"), pair.right.received[-1])
        pair.to_left.endpoint = pair.left.place
        pair.right.wg.received([second], elsewhere, 0, pair.net.now + 180.0)

        self.assertEqual(hello(b"1"), pair.right.received[-1])
        self.assertEqual(1, pair.right.dropped(Drop.EXPIRED_KEY))
        self.assertEqual(pair.left.place, pair.to_left.endpoint)

    def test_erased(self) -> None:
        """540 s after the last handshake all keys are gone, at both ends; not before."""
        pair = Pair()
        pair.meet()
        pair.net.run(539.0, step=10.0)
        self.assertEqual((1, 1), (pair.to_right.keypairs, pair.to_left.keypairs))
        pair.net.run(1.1)

        self.assertEqual((0, 0), (pair.to_right.keypairs, pair.to_left.keypairs))
        self.assertEqual({}, pair.left.wg._world.indices)
        self.assertEqual({}, pair.right.wg._world.indices)
        self.assertEqual(1000.0, pair.to_right.last_handshake - 1_700_000_000.0)

    def test_erased_after_the_last(self) -> None:
        """A renewal puts that off."""
        pair = Pair()
        pair.meet()
        pair.net.run(300.0, step=10.0)
        pair.from_left()
        pair.net.run(539.0, step=10.0)

        self.assertEqual((2, 2), (pair.to_right.keypairs, pair.to_left.keypairs))
        pair.net.run(1.1)
        self.assertEqual((0, 0), (pair.to_right.keypairs, pair.to_left.keypairs))

    def test_erased_open_handshake(self) -> None:
        """A handshake that nobody answered is erased 540 s after we gave up.

        What remains are the numbers of the first ones: they are no secret, and say when the other
        end goes on (``test_wireguard_frozen.py``).
        """
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left()
        pair.net.run(130.0)
        self.assertIsNotNone(pair.to_right.initiation)
        self.assertEqual(1 + MOST_RETRIES, len(in_use(pair.left)))
        pair.net.run(540.0, step=10.0)

        self.assertIsNone(pair.to_right.initiation)
        self.assertEqual(in_use(pair.left), set(pair.left.wg._world.indices))
        self.assertEqual(MOST_RETRIES, len(in_use(pair.left)))

    def test_asleep_for_hours(self) -> None:
        """After a sleep in which everything fell due, the first handshake is not thrown away."""
        pair = Pair()
        pair.meet()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        pair.net.now += 36_000.0
        for end in pair.net.ends:
            end.wg.tick(pair.net.now)
        pair.net.settle()

        self.assertEqual(2, pair.left.wg.handshakes)
        self.assertEqual(pair.net.now, pair.left.sent[-1].at)


class RetryTests(SynchronousTestCase):
    """Nobody answers."""

    def test_every_five_seconds(self) -> None:
        """It is tried again after 5 s and up to a third more, never the same twice."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left()
        pair.net.run(120.0)
        gaps = [after - before for before, after in pairwise(begun(pair.left))]

        self.assertTrue(all(5.0 <= gap <= 5.0 + JITTER_SECONDS + 1e-3 for gap in gaps), gaps)
        self.assertGreater(max(gaps) - min(gaps), 0.1)

    def test_five_seconds_to_the_next(self) -> None:
        """New packets do not hurry it: none is begun before 5 s, then the next packet begins."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left()
        pair.net.now += 4.99
        pair.from_left()
        self.assertEqual([1000.0], begun(pair.left))
        pair.net.now += 0.01
        pair.from_left()

        self.assertEqual([1000.0, 1005.0], begun(pair.left))

    def test_given_up(self) -> None:
        """After 90 s and a last try what waits is dropped, and it is silent."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left(b"1", b"2", b"3")
        pair.net.run(600.0)

        self.assertEqual(20, len(begun(pair.left)))
        self.assertEqual({Drop.NO_ANSWER: 3}, dict(pair.left.counters.dropped))
        self.assertEqual(0, pair.to_right.staged)
        self.assertTrue(90.0 < begun(pair.left)[-1] - 1000.0 < 105.0)

    def test_begins_again_with_new_traffic(self) -> None:
        """The next packet begins it all again, and is delivered when somebody answers."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.from_left(b"1")
        pair.net.run(200.0)
        tries = len(begun(pair.left))
        pair.net.lose = lambda end, sent: False
        pair.from_left(b"2")

        self.assertEqual(tries + 1, len(begun(pair.left)))
        self.assertEqual([hello(b"2")], pair.right.received)

    def test_traffic_keeps_trying(self) -> None:
        """New packets keep it trying for as long as they come."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        for _ in range(300):
            pair.from_left()
            pair.net.run(1.0, step=1.0)
        times = begun(pair.left)

        self.assertGreater(times[-1], 1290.0)
        self.assertTrue(all(after - before >= 5.0 for before, after in pairwise(times)))

    def test_not_after_a_response(self) -> None:
        """A response just sent counts as a try: the own handshake waits for its 5 s."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        pair.from_left()
        pair.net.now += 1.0
        pair.from_right(b"waits")
        self.assertEqual([], begun(pair.right))
        pair.net.run(3.9)
        self.assertEqual([], begun(pair.right))
        pair.net.run(0.5)

        self.assertEqual(1, len(begun(pair.right)))
        self.assertTrue(5.0 <= begun(pair.right)[0] - 1000.0 <= 5.0 + JITTER_SECONDS)

    def test_called_back(self) -> None:
        """A call without a packet has three tries."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.to_right.call_back(pair.net.now)
        pair.net.run(200.0)

        self.assertEqual(3, len(begun(pair.left)))
        self.assertEqual(0, pair.left.counters.total())

    def test_source_is_chosen_anew(self) -> None:
        """With each new try our own address is left to the kernel: it may be what is wrong."""
        pair = Pair()
        pair.meet()
        assert pair.to_right.endpoint is not None
        self.assertEqual(packed("192.0.2.1"), pair.to_right.endpoint.local)
        pair.net.lose = lambda end, sent: True
        pair.net.now += 130.0
        pair.from_left()
        pair.net.run(5.4)

        sources = [sent.path.local for sent in pair.left.of_kind(INITIATION)[-2:]]
        self.assertEqual([packed("192.0.2.1"), b""], sources)


class UnansweredTests(SynchronousTestCase):
    """Data goes out and nothing comes back."""

    def test_fifteen_seconds(self) -> None:
        """Then a handshake is begun 15 s after the first of it, and up to a third later."""
        for far in (False, True):
            pair = Pair()
            pair.meet()
            end, peer = (pair.right, pair.to_left) if far else (pair.left, pair.to_right)
            pair.net.run(20.0)
            pair.net.lose = lambda end, sent: True
            start, tries = pair.net.now, len(begun(end))
            for _ in range(10):
                peer.send_packets([hello()], pair.net.now)
                pair.net.run(1.0)
            pair.net.run(4.9)
            self.assertEqual(tries, len(begun(end)))
            pair.net.run(0.5)

            self.assertEqual(tries + 1, len(begun(end)))
            self.assertTrue(15.0 <= begun(end)[-1] - start <= 15.0 + JITTER_SECONDS + 1e-3)

    def test_anything_authenticated_ends_the_wait(self) -> None:
        """A keepalive from the other end is enough; the next packet begins to wait anew."""
        pair = Pair()
        pair.meet()
        pair.net.now += 20.0
        pair.from_left()  # right answers with a keepalive 10 s later
        pair.net.run(60.0)

        self.assertEqual(1, len(begun(pair.left)))
        self.assertEqual(32, len(pair.right.sent[-1].datagram))

    def test_keepalives_need_no_answer(self) -> None:
        """A keepalive that nobody answers begins no handshake."""
        pair = Pair()
        pair.meet()
        pair.net.lose = lambda end, sent: True
        pair.net.now += 20.0
        pair.to_right.send_keepalive(pair.net.now)
        pair.net.run(60.0)

        self.assertEqual(1, len(begun(pair.left)))

    def test_replay_is_no_answer(self) -> None:
        """A recorded packet from the other end does not end the wait."""
        pair = Pair()
        pair.meet()
        recorded = pair.right.of_kind(DATA)[-1].datagram
        pair.net.lose = lambda end, sent: True
        pair.net.now += 20.0
        pair.from_left()
        pair.net.run(5.0)
        pair.left.wg.received([recorded], pair.right.place, 0, pair.net.now)
        pair.net.run(10.5)

        self.assertEqual(2, len(begun(pair.left)))
        self.assertEqual(1, len(pair.right.of_kind(RESPONSE)))


class ManyTests(SynchronousTestCase):
    """Timers of more peers than are looked at in one go."""

    def test_bounded(self) -> None:
        """A tick does a part of what is due, says that there is more, and the next goes on."""
        net = Net()
        end = net.end("192.0.2.1")
        for number in range(PEERS_AT_ONCE + 1):
            peer = end.wg.add_peer(bytes((number + 1, 7)) * 16)
            assert peer is not None
            peer.endpoint = Path(packed("192.0.2.9"), 1000 + number)
            peer.set_keepalive(10, net.now)
        end.sent.clear()
        net.now += 10
        end.wg.tick(net.now)
        self.assertEqual(PEERS_AT_ONCE, len(end.sent))
        self.assertLessEqual(end.wg.next_due, net.now)
        end.wg.tick(net.now)
        self.assertEqual(PEERS_AT_ONCE + 1, len(end.sent))
        self.assertGreater(end.wg.next_due, net.now)
