"""A process that stood still goes on: it answers the oldest initiation that waited for it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.tai64n import tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import ANEW_AFTER, MOST_RETRIES, REKEY_TIMEOUT
from pyvpn.wire.datagram import COOKIE_REPLY, INITIATION, RESPONSE
from tests.tunnel.test_wireguard_flood import under_load
from tests.tunnel.wires import EPOCH, End, Pair, Sent, hand_in, hello, in_use, initiation, state_of

SOCKET = 40
"""So many datagrams wait for the process that stands still; later ones are dropped."""


class Frozen:
    """Left has packets all the time for right, which stands still, and has nothing to send.

    Args:
        seconds: for so long.
    """

    def __init__(self, seconds: float) -> None:
        self.pair = Pair()
        self.pair.meet()
        self.waiting: list[bytes] = []
        self.pair.net.lose = self._wait
        for _ in range(round(seconds)):
            self.pair.from_left(b"are you there?")
            self.pair.net.run(1.0, step=1.0)

    def _wait(self, end: End, sent: Sent) -> bool:
        if end is self.pair.left and sent.kind == INITIATION and len(self.waiting) < SOCKET:
            self.waiting.append(sent.datagram)
        return True

    def goes_on(self) -> None:
        """Let right go on, with what waited for it."""
        pair = self.pair
        pair.net.flying.clear()
        pair.net.lose = lambda end, sent: False
        pair.right.wg.received(self.waiting, pair.left.place, 0, pair.net.now)

    def answer(self, number: int = 0) -> bytes:
        """What right answers to the initiation of that number; left does not hear it."""
        pair = self.pair
        pair.to_left.initiated = float("-inf")
        place = pair.left.place
        (response,) = hand_in(pair.right, self.waiting[number], place)
        pair.net.flying.clear()
        assert response.kind == RESPONSE
        return response.datagram

    def hear(self, *answers: bytes) -> None:
        """Left is given *answers*."""
        self.pair.left.wg.received(list(answers), self.pair.right.place, 0, self.pair.net.now)
        self.pair.left.wg.work(self.pair.net.now)

    def begun_in(self, seconds: float) -> int:
        """How many handshakes left begins in that time."""
        before = len(self.pair.left.of_kind(INITIATION))
        self.pair.net.run(seconds, step=0.01)
        return len(self.pair.left.of_kind(INITIATION)) - before


class FrozenTests(SynchronousTestCase):
    """What is heard of it."""

    def test_back_at_once(self) -> None:
        """After minutes, or an hour, packets pass within 0.2 s, by one more handshake."""
        for seconds in 200.0, 3600.0:
            story = Frozen(seconds)
            pair = story.pair
            pair.net.run(1.5)  # not when the next try is due anyway
            pair.right.received.clear()
            story.goes_on()
            self.assertEqual(1, story.begun_in(0.2), seconds)
            pair.from_left(b"at last")

            self.assertEqual(hello(b"at last"), pair.right.received[-1])
            self.assertEqual(in_use(pair.left), set(pair.left.wg._world.indices))
            self.assertEqual(0, story.begun_in(20.0))

    def test_nothing_is_adopted(self) -> None:
        """The keys of the late answer are nobody's: it is counted, and a new handshake begun."""
        story = Frozen(200.0)
        keypairs = story.pair.to_right.keypairs
        story.hear(story.answer())

        self.assertEqual(1, story.pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(keypairs, story.pair.to_right.keypairs)
        self.assertEqual(1, story.pair.left.wg.handshakes)

    def test_not_before_they_take_it(self) -> None:
        """It is begun 0.1 s after the last of several late answers, and once, packets or not."""
        story = Frozen(200.0)
        story.pair.net.lose = lambda end, sent: True
        for number in range(4):
            story.hear(story.answer(number))
            story.pair.from_left(b"and again")
            self.assertEqual(0, story.begun_in(ANEW_AFTER - 0.01))
        self.assertEqual(1, story.begun_in(0.02))
        self.assertEqual(0, story.begun_in(REKEY_TIMEOUT - 0.2))

    def test_replayed(self) -> None:
        """A late answer that comes again gains nothing."""
        story = Frozen(200.0)
        answer = story.answer()
        story.hear(answer)
        self.assertEqual(1, story.begun_in(0.2))
        story.pair.net.lose = lambda end, sent: True
        story.pair.net.run(30.0)
        last = story.pair.left.of_kind(INITIATION)[-1].at
        story.pair.net.run(last + 1.0 - story.pair.net.now)
        state, dropped = state_of(story.pair.to_right), story.pair.left.counters.dropped.copy()
        story.hear(answer)

        self.assertEqual(state, state_of(story.pair.to_right))
        dropped[Drop.UNKNOWN_INDEX] += 1
        self.assertEqual(dropped, story.pair.left.counters.dropped)

    def test_again_and_again(self) -> None:
        """Whoever has all our numbers makes us begin one handshake more in 5 s, not one each."""
        story = Frozen(200.0)
        answers = [story.answer(number) for number in range(SOCKET // 2)]
        story.pair.net.lose = lambda end, sent: True
        begun = 0
        for answer in answers:
            story.hear(answer)
            begun += story.begun_in(0.5)
        # In 10 s: each begun for a late answer puts the next try as ever off by 5 s.
        self.assertIn(begun, (2, 3, 4))

    def test_wrong_mac(self) -> None:
        """An answer by somebody who does not know our public key gains nothing."""
        story = Frozen(200.0)
        answer = bytearray(story.answer())
        answer[60] ^= 1  # mac1
        state = state_of(story.pair.to_right)
        story.hear(bytes(answer))

        self.assertEqual(1, story.pair.left.dropped(Drop.NOT_OURS))
        self.assertEqual(state, state_of(story.pair.to_right))

    def test_never_begun(self) -> None:
        """Nor does an answer to what we have not begun."""
        story = Frozen(200.0)
        state = state_of(story.pair.to_right)
        answered = max(story.pair.left.wg._world.indices) ^ 1
        head = b"\2\0\0\0" + bytes(4) + answered.to_bytes(4, "little")
        story.hear(CookieJar(story.pair.left.public).add_macs(head + bytes(48), 0.0))

        self.assertEqual(1, story.pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(state, state_of(story.pair.to_right))

    def test_met_meanwhile(self) -> None:
        """When a handshake was completed, whoever began it, late answers are nothing any more."""
        for far in False, True:
            story = Frozen(200.0)
            pair = story.pair
            late = story.answer()
            pair.net.run(10.0, step=0.01)
            pair.net.lose = lambda end, sent: False
            if far:
                pair.to_left._sent_handshake = float("-inf")
                pair.to_left.initiate(pair.net.now)
                pair.net.settle()
                pair.from_right()
            else:
                pair.net.run(6.0)
                pair.meet()
            current = pair.to_right.current
            assert current is not None
            self.assertEqual(not far, current.initiator)
            self.assertEqual(in_use(pair.left), set(pair.left.wg._world.indices))
            state = state_of(pair.to_right)
            unknown = pair.left.dropped(Drop.UNKNOWN_INDEX)
            story.hear(late)

            self.assertEqual(unknown + 1, pair.left.dropped(Drop.UNKNOWN_INDEX))
            self.assertEqual(state, state_of(pair.to_right))

    def test_gone(self) -> None:
        """A peer that is removed, down, forgotten, or of our old key: nothing is left."""
        ends: list[Callable[[Pair], object]] = [
            lambda pair: pair.left.wg.remove_peer(pair.right.public),
            lambda pair: pair.to_right.down(),
            lambda pair: pair.to_right.forget_keys(),
            lambda pair: pair.to_right.renew_identity(pair.to_right.shared),
        ]
        for end in ends:
            story = Frozen(200.0)
            pair, late = story.pair, story.answer()
            pair.net.lose = lambda end, sent: True
            end(pair)
            self.assertEqual(pair.to_right._given_up, ())
            self.assertEqual(in_use(pair.left), set(pair.left.wg._world.indices))
            state = state_of(pair.to_right)
            story.hear(late)

            self.assertEqual(1, pair.left.dropped(Drop.UNKNOWN_INDEX))
            self.assertEqual(state, state_of(pair.to_right))

    def test_after_the_last_try(self) -> None:
        """When we have long stopped trying, a late answer has us try once more."""
        story = Frozen(10.0)
        story.pair.net.run(2000.0, step=1.0)
        self.assertEqual(0, story.begun_in(60.0))
        story.goes_on()
        self.assertEqual(1, story.begun_in(0.2))

        current = story.pair.to_right.current
        assert current is not None
        self.assertTrue(current.initiator)

    def test_begun_by_both(self) -> None:
        """It asks for nothing more when the other end begins, too, and that comes to something."""
        story = Frozen(200.0)
        story.hear(story.answer())
        story.pair.net.lose = lambda end, sent: False
        story.pair.to_left._sent_handshake = float("-inf")
        story.pair.to_left.initiate(story.pair.net.now)
        story.pair.net.settle()
        self.assertEqual(0, story.begun_in(4.0))
        self.assertIsNotNone(story.pair.to_right.current)

    def test_begun_by_both_in_vain(self) -> None:
        """A stock one that begins, and then answers us, cannot take our answer: we begin, too."""
        for is_late_first in (True, False):
            story = Frozen(200.0)
            pair, late = story.pair, story.answer()
            begun = initiation(pair.right, pair.left, tai64n(EPOCH + pair.net.now + 1))
            for message in (late, begun) if is_late_first else (begun, late):
                story.hear(message)
            self.assertEqual(1, len(pair.left.of_kind(RESPONSE)))

            self.assertEqual(1, story.begun_in(0.2))
            self.assertEqual(0, story.begun_in(4.5))

    def test_how_many(self) -> None:
        """The first eighteen are remembered, and no more, for as long as it takes."""
        story = Frozen(300.0)
        begun = [sent.datagram[4:8] for sent in story.pair.left.of_kind(INITIATION)[1:]]
        expected = [int.from_bytes(each, "little") for each in begun[:MOST_RETRIES]]

        self.assertEqual(expected, [*story.pair.to_right._given_up])
        self.assertEqual(in_use(story.pair.left), set(story.pair.left.wg._world.indices))


class UnderLoadTests(SynchronousTestCase):
    """What waited is so much that whoever goes on asks for cookies."""

    def test_at_once(self) -> None:
        """A cookie for the handshake begun anew has it begun again at once, with the cookie."""
        story = Frozen(200.0)
        story.hear(story.answer())
        under_load(story.pair.right)
        story.pair.net.lose = lambda end, sent: False
        self.assertEqual(2, story.begun_in(0.2))

        self.assertEqual(1, len(story.pair.right.of_kind(COOKIE_REPLY)))
        current = story.pair.to_right.current
        assert current is not None
        self.assertTrue(current.initiator)

    def test_no_more_when_it_is_done(self) -> None:
        """With the handshake done that is over: at the next a cookie waits for its 5 s again."""
        story = Frozen(200.0)
        story.goes_on()
        story.pair.net.run(0.2, step=0.01)
        story.pair.net.run(130.0)
        under_load(story.pair.right)
        before = len(story.pair.left.of_kind(INITIATION))
        story.pair.from_left()
        self.assertEqual(1, len(story.pair.right.of_kind(COOKIE_REPLY)))
        self.assertEqual(0, story.begun_in(4.5))
        self.assertEqual(before + 1, len(story.pair.left.of_kind(INITIATION)))

    def test_once(self) -> None:
        """But whoever answers everything with cookies has one more, not one each."""
        story = Frozen(200.0)
        story.hear(story.answer())
        under_load(story.pair.right)

        def lose(end: End, sent: Sent) -> bool:
            if end is story.pair.left and sent.kind == INITIATION:  # as if it had no cookie
                flying = sent._replace(datagram=sent.datagram[:-16] + bytes(16))
                story.pair.right.wg.received([flying.datagram], story.pair.left.place, 0, sent.at)
                return True
            return False

        story.pair.net.lose = lose
        self.assertEqual(2, story.begun_in(4.0))

    def test_cookie_for_a_late_one(self) -> None:
        """One for an initiation that we gave up is nothing: it is counted, and that is all."""
        story = Frozen(200.0)
        under_load(story.pair.right)
        (reply,) = hand_in(story.pair.right, story.waiting[0], story.pair.left.place)
        self.assertEqual(COOKIE_REPLY, reply.kind)
        story.pair.net.flying.clear()
        state = state_of(story.pair.to_right)
        story.hear(reply.datagram)

        self.assertEqual(1, story.pair.left.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual(state, state_of(story.pair.to_right))
        self.assertTrue(story.pair.to_right._given_up)

    def test_cookie_as_ever(self) -> None:
        """Without a late answer a cookie waits for its 5 s, as the protocol has it."""
        story = Frozen(3.0)
        pair = story.pair
        under_load(pair.right)
        pair.net.lose = lambda end, sent: False
        pair.net.now += 130.0
        pair.from_left()
        self.assertEqual(1, len(pair.right.of_kind(COOKIE_REPLY)))
        self.assertEqual(0, story.begun_in(4.5))
        self.assertEqual(1, story.begun_in(1.0))
