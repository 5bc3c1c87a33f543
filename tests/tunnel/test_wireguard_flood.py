"""A flood of handshakes: cookies are demanded, and nobody else notices."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieChecker, CookieJar
from pyvpn.crypto.tai64n import tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.flood import COOKIES_BURST, LOAD_WAITING, MOST_WAITING
from pyvpn.wire.datagram import COOKIE_REPLY, DATA, INITIATION, RESPONSE, CookieReply, Path
from tests.tunnel.packets import packed
from tests.tunnel.wires import EPOCH, End, Pair, hand_in, hello, initiation, state_of

ELSEWHERE = Path(packed("203.0.113.9"), 9)
_NO_MAC = bytes(16)


def knocks(at: End, number: int, seed: int = 0) -> list[bytes]:
    """Initiations with nothing but a right mac1: what anybody makes who knows the public key."""
    dice, jar = random.Random(seed), CookieJar(at.public)
    return [jar.add_macs(b"\1\0\0\0" + dice.randbytes(112), 0.0) for _ in range(number)]


def under_load(end: End, always: bool = True) -> None:
    """Make *end* believe that too many handshakes wait, for ever or until it sees that not."""
    end.wg._load._seen = float("inf") if always else end.net.now


class CookieTests(SynchronousTestCase):
    """A responder under load."""

    def test_not_under_load(self) -> None:
        """Without load nobody looks at the second mac."""
        pair = Pair()
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        answers = hand_in(pair.right, message[:-16] + b"\x99" * 16, pair.left.place)

        self.assertEqual([RESPONSE], [sent.kind for sent in answers])

    def test_demanded(self) -> None:
        """With 512 messages waiting the next gets a cookie, 64 bytes to where it came from."""
        pair = Pair()
        pair.right.wg.received(knocks(pair.right, LOAD_WAITING), ELSEWHERE, 0, pair.net.now)
        self.assertEqual([], pair.right.sent)
        state = state_of(pair.to_left)
        place = pair.left.place._replace(local=pair.right.address)
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        pair.right.wg.received([message], place, 0, pair.net.now)

        (answer,) = pair.right.sent
        self.assertEqual((COOKIE_REPLY, 64), (answer.kind, len(answer.datagram)))
        self.assertEqual((place, 0), (answer.path, answer.tos))
        self.assertEqual(LOAD_WAITING, len(pair.right.wg._waiting))
        self.assertEqual(1, pair.right.dropped(Drop.COOKIE_DEMANDED))
        self.assertEqual(state, state_of(pair.to_left))

    def test_garbage_is_no_cookie(self) -> None:
        """A wrong second mac is answered like none."""
        pair = Pair()
        under_load(pair.right)
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        answers = hand_in(pair.right, message[:-16] + b"\x99" * 16, pair.left.place)

        self.assertEqual([COOKIE_REPLY], [sent.kind for sent in answers])

    def test_wrong_first_mac(self) -> None:
        """Who does not know our public key gets silence, under load or not."""
        for always in (True, False):
            pair = Pair()
            if always:
                under_load(pair.right)
            message = bytearray(initiation(pair.left, pair.right, tai64n(EPOCH)))
            message[116] ^= 1
            self.assertEqual([], hand_in(pair.right, bytes(message), pair.left.place))
            self.assertEqual({Drop.NOT_OURS: 1}, dict(pair.right.counters.dropped))

    def test_brought_back(self) -> None:
        """The initiator waits for its 5 s, brings the cookie and is let in."""
        pair = Pair()
        under_load(pair.right)
        pair.from_left()
        self.assertEqual([COOKIE_REPLY], [sent.kind for sent in pair.right.sent])
        pair.net.run(4.9)
        self.assertEqual(1, len(pair.left.sent))
        pair.net.run(0.5)

        first, second = (sent.datagram for sent in pair.left.of_kind(INITIATION))
        self.assertEqual(_NO_MAC, first[-16:])
        self.assertNotEqual(_NO_MAC, second[-16:])
        self.assertEqual([hello()], pair.right.received)

    def test_from_another_place(self) -> None:
        """A cookie is good for the address and port it was sent to, and for no other."""
        pair = Pair()
        under_load(pair.right)
        pair.from_left()
        pair.net.lose = lambda end, sent: True
        pair.net.run(6.0)
        message = pair.left.of_kind(INITIATION)[1].datagram
        place = pair.left.place
        for other in (
            place._replace(port=place.port + 1),
            place._replace(host=packed("192.0.2.9")),
            place._replace(host=packed("2001:db8::1")),
        ):
            answers = hand_in(pair.right, message, other)
            self.assertEqual([COOKIE_REPLY], [sent.kind for sent in answers])
        answers = hand_in(pair.right, message, place)

        self.assertEqual([RESPONSE], [sent.kind for sent in answers])

    def test_old(self) -> None:
        """A cookie is refused when its secret is 120 s old, and not used after 115 s."""
        pair = Pair()
        under_load(pair.right)
        pair.from_left()
        jar, start = pair.to_right.cookies, pair.net.now
        plain = initiation(pair.left, pair.right, tai64n(EPOCH))[:116]
        fresh = jar.add_macs(plain, start + 114.9)
        self.assertEqual(_NO_MAC, jar.add_macs(plain, start + 115.0)[-16:])
        checker = pair.right.wg._checker
        assert checker is not None
        self.assertTrue(checker.mac2_valid(fresh, pair.left.place.key, start + 119.9))
        pair.net.now = start + 120.0
        answers = hand_in(pair.right, fresh, pair.left.place)

        self.assertEqual([COOKIE_REPLY], [sent.kind for sent in answers])

    def test_response(self) -> None:
        """What answers us needs no cookie: a thousand peers that we called do so at once."""
        pair = Pair()
        under_load(pair.left)
        pair.from_left()
        self.assertEqual([], pair.left.of_kind(COOKIE_REPLY))
        self.assertEqual([hello()], pair.right.received)

    def test_responses_to_one(self) -> None:
        """But one answer at a time: who reads our number on the way can invent any number."""
        pair = Pair()
        under_load(pair.left)
        pair.net.lose = lambda end, sent: sent.kind == RESPONSE
        pair.from_left()
        answered = pair.right.of_kind(RESPONSE)[0].datagram[8:12]
        jar = CookieJar(pair.left.public)
        forged = jar.add_macs(b"\2\0\0\0" + bytes(4) + answered + bytes(48), 0.0)
        for _ in range(2):
            pair.left.wg.received([forged] * 3, pair.right.place, 0, pair.net.now)
            self.assertEqual(1, pair.left.wg.waiting)
            pair.left.wg.work(pair.net.now)
        self.assertEqual(4, pair.left.dropped(Drop.COOKIE_DEMANDED))
        self.assertEqual(2, pair.left.dropped(Drop.BAD_HANDSHAKE))

    def test_response_nobody_waits_for(self) -> None:
        """A response to nothing of ours gets no cookie."""
        pair = Pair()
        under_load(pair.left)
        jar = CookieJar(pair.left.public)
        message = jar.add_macs(b"\2\0\0\0" + bytes(56), 0.0)

        self.assertEqual([], hand_in(pair.left, message, pair.right.place))
        self.assertEqual({Drop.UNKNOWN_INDEX: 1}, dict(pair.left.counters.dropped))

    def test_sticky(self) -> None:
        """Load ends a second after it was last seen."""
        pair = Pair()
        under_load(pair.right, always=False)
        pair.net.now += 0.9
        messages = [initiation(pair.left, pair.right, tai64n(EPOCH + n)) for n in range(2)]
        first = hand_in(pair.right, messages[0], pair.left.place)
        pair.net.now += 0.1
        second = hand_in(pair.right, messages[1], pair.left.place)

        self.assertEqual([COOKIE_REPLY], [sent.kind for sent in first])
        self.assertEqual([RESPONSE], [sent.kind for sent in second])

    def test_forged_and_worked_off(self) -> None:
        """Forgers who are slow enough for the queue to stay empty are asked for cookies as well.

        Not before 200 of them: a few strangers cost nobody a try.
        """
        pair = Pair()
        asked = []
        for message in knocks(pair.right, 300):
            answers = hand_in(pair.right, message, ELSEWHERE)
            asked.append([sent.kind for sent in answers])
            pair.net.now += 0.001

        first = asked.index([COOKIE_REPLY])
        self.assertTrue(200 < first < 260, first)
        self.assertEqual([[]] * first, asked[:first])
        self.assertEqual([[COOKIE_REPLY]] * (300 - first), asked[first:])
        self.assertEqual(first, pair.right.dropped(Drop.BAD_HANDSHAKE))
        pair.from_left()
        pair.net.run(5.5)
        self.assertEqual([hello()], pair.right.received)

    def test_forged_for_long(self) -> None:
        """As long as they come, all of them are asked: no second of the flood is worked on.

        When fewer than 200 a second are left, it is over.
        """
        pair = Pair()
        asked = pair.right.of_kind(COOKIE_REPLY)
        for second in range(6):
            for message in knocks(pair.right, 1000):
                hand_in(pair.right, message, ELSEWHERE)
                pair.net.now += 0.001
            asked = pair.right.of_kind(COOKIE_REPLY)
            if second == 0:
                worked_on = pair.right.dropped(Drop.BAD_HANDSHAKE)
        self.assertEqual(worked_on, pair.right.dropped(Drop.BAD_HANDSHAKE))
        self.assertEqual(6000 - worked_on, len(asked))

        answers = []
        for message in knocks(pair.right, 300):
            answers = hand_in(pair.right, message, ELSEWHERE)
            pair.net.now += 1 / 150
        self.assertEqual([], answers)
        self.assertGreater(pair.right.dropped(Drop.BAD_HANDSHAKE), worked_on + 100)

    def test_session_goes_on(self) -> None:
        """Who has a session notices nothing of it, and renews with one try more."""
        pair = Pair()
        pair.meet()
        under_load(pair.right)
        for number in range(150):
            pair.from_left(b"%d" % number)
            pair.net.run(1.0)

        self.assertEqual([hello(b"%d" % n) for n in range(150)], pair.right.received[1:])
        self.assertEqual(3, len(pair.left.of_kind(INITIATION)))


class RefusedRepliesTests(SynchronousTestCase):
    """Cookie replies that nobody asked for."""

    def setUp(self) -> None:
        """Left has sent one initiation, which nobody has answered."""
        self.pair = Pair()
        self.pair.net.lose = lambda end, sent: True
        self.pair.from_left()
        self.asked = self.pair.left.sent[-1].datagram
        self.checker = CookieChecker(self.pair.right.public, random.Random(5).randbytes)

    def accepted(self, reply: bytes) -> bool:
        """Whether left uses the cookie in *reply*; it never answers one."""
        sent = len(self.pair.left.sent)
        self.pair.left.wg.received([reply], ELSEWHERE, 0, self.pair.net.now)
        self.assertEqual(sent, len(self.pair.left.sent))
        probe = CookieJar(self.pair.right.public)
        jar = self.pair.to_right.cookies
        state = jar._last_mac1
        used = jar.add_macs(self.asked[:116], self.pair.net.now)
        jar._last_mac1 = state
        return used != probe.add_macs(self.asked[:116], self.pair.net.now)

    def test_right_one(self) -> None:
        """The one to the last message is taken: the positive twin."""
        reply = self.checker.reply(self.asked, b"x", 0.0)
        self.assertTrue(self.accepted(reply))
        self.assertEqual(0, self.pair.left.counters.total())

    def test_to_an_earlier_message(self) -> None:
        """One to the message before the last is refused."""
        reply = self.checker.reply(self.asked, b"x", 0.0)
        self.pair.net.run(5.5)
        index = self.pair.left.sent[-1].datagram[4:8]

        self.assertFalse(self.accepted(reply))
        self.assertEqual({Drop.UNKNOWN_INDEX: 1}, dict(self.pair.left.counters.dropped))
        self.assertFalse(self.accepted(reply[:4] + index + reply[8:]))
        self.assertEqual(1, self.pair.left.dropped(Drop.BAD_COOKIE))

    def test_second_one(self) -> None:
        """The second one to a message is refused."""
        self.accepted(self.checker.reply(self.asked, b"x", 0.0))
        self.accepted(self.checker.reply(self.asked, b"y", 0.0))

        self.assertEqual({Drop.BAD_COOKIE: 1}, dict(self.pair.left.counters.dropped))

    def test_forged(self) -> None:
        """One of somebody who has not seen our message, or with any byte changed, is refused."""
        unseen = self.asked[:120] + bytes(4) + self.asked[124:]
        self.assertFalse(self.accepted(self.checker.reply(unseen, b"x", 0.0)))
        reply = self.checker.reply(self.asked, b"x", 0.0)
        for position in range(8, 64):
            forged = bytearray(reply)
            forged[position] ^= 0x10
            self.assertFalse(self.accepted(bytes(forged)))

        self.assertEqual(57, self.pair.left.dropped(Drop.BAD_COOKIE))
        self.assertTrue(self.accepted(reply))

    def test_made_with_another_key(self) -> None:
        """Only who knows the peer's public key can make one."""
        other = CookieChecker(b"\x33" * 32, random.Random(5).randbytes)
        self.assertFalse(self.accepted(other.reply(self.asked, b"x", 0.0)))


class LimitTests(SynchronousTestCase):
    """Everything before a session is bounded."""

    def with_cookies(self, pair: Pair, number: int, place: Path) -> list[bytes]:
        """Knocks of somebody at *place* who has a cookie."""
        checker, jar = pair.right.wg._checker, CookieJar(pair.right.public)
        assert checker is not None
        first = knocks(pair.right, 1, seed=77)[0]
        jar.add_macs(first[:116], 0.0)
        reply = CookieReply.parse(checker.reply(first, place.key, pair.net.now))
        self.assertTrue(jar.consume(reply, pair.net.now))
        plain = [message[:116] for message in knocks(pair.right, number)]
        return [jar.add_macs(message, pair.net.now) for message in plain]

    def test_per_source(self) -> None:
        """Five at once are worked on and then twenty a second, though all have a cookie."""
        pair = Pair()
        under_load(pair.right)
        messages = self.with_cookies(pair, 80, ELSEWHERE)
        pair.right.wg.received(messages[:30], ELSEWHERE, 0, pair.net.now)
        self.assertEqual(5, len(pair.right.wg._waiting))
        self.assertEqual(25, pair.right.dropped(Drop.SOURCE_LIMIT))
        for message in messages[30:]:
            pair.net.now += 0.0201
            pair.right.wg.received([message], ELSEWHERE, 0, pair.net.now)

        self.assertEqual(5 + 20, len(pair.right.wg._waiting))
        self.assertEqual([], pair.right.sent)

    def test_sources_of_version_6(self) -> None:
        """A /64 is one source, however many addresses it sends from."""
        pair = Pair()
        under_load(pair.right)
        for number in range(10):
            place = Path(packed(f"2001:db8::{number + 1:x}"), 1000 + number)
            messages = self.with_cookies(pair, 1, place)
            pair.right.wg.received(messages, place, 0, pair.net.now)

        self.assertEqual(5, len(pair.right.wg._waiting))
        self.assertEqual(5, pair.right.dropped(Drop.SOURCE_LIMIT))

    def test_trusted_relay(self) -> None:
        """An address that stands for many has no limit of its own, but needs cookies."""
        pair = Pair()
        pair.right.wg._trusted = lambda address: address == ELSEWHERE.host
        under_load(pair.right)
        pair.right.wg.received(self.with_cookies(pair, 30, ELSEWHERE), ELSEWHERE, 0, pair.net.now)
        self.assertEqual(30, len(pair.right.wg._waiting))
        pair.right.wg.received(knocks(pair.right, 1), ELSEWHERE, 0, pair.net.now)

        self.assertEqual([COOKIE_REPLY], [sent.kind for sent in pair.right.sent])

    def test_queue(self) -> None:
        """No more than 4096 messages wait, whoever sends them."""
        pair = Pair()
        pair.right.wg._trusted = lambda address: True
        messages = self.with_cookies(pair, MOST_WAITING + 10, ELSEWHERE)
        pair.right.wg.received(messages, ELSEWHERE, 0, pair.net.now)

        self.assertEqual(MOST_WAITING, len(pair.right.wg._waiting))
        self.assertEqual({Drop.QUEUED_TOO_MANY: 10}, dict(pair.right.counters.dropped))

    def test_waited_too_long(self) -> None:
        """What its sender has given up, after 4 s, is not answered, and takes nobody's turn."""
        for seconds, kinds in (3.9, [RESPONSE]), (4.1, []):
            pair = Pair()
            began = pair.net.now
            first = initiation(pair.left, pair.right, tai64n(EPOCH + began))
            pair.right.wg.received([first], pair.left.place, 0, began)
            pair.right.wg.work(began + seconds)
            self.assertEqual(kinds, [sent.kind for sent in pair.right.sent])
            self.assertEqual(1 - len(kinds), pair.right.dropped(Drop.QUEUED_TOO_LONG))
        stale = [initiation(pair.left, pair.right, tai64n(EPOCH + n)) for n in range(100)]
        pair.right.wg.received(stale, pair.left.place, 0, 10.0)
        fresh = initiation(pair.left, pair.right, tai64n(EPOCH))
        pair.right.wg.received([fresh], pair.left.place, 0, 15.0)

        self.assertFalse(pair.right.wg.work(15.1))
        self.assertEqual([RESPONSE], [sent.kind for sent in pair.right.sent])

    def test_cookie_replies(self) -> None:
        """Cookie replies end at their own limit, and come back with time."""
        pair = Pair()
        under_load(pair.right)
        messages = knocks(pair.right, int(COOKIES_BURST) + 5)
        pair.right.wg.received(messages, ELSEWHERE, 0, pair.net.now)
        self.assertEqual(COOKIES_BURST, len(pair.right.sent))
        self.assertEqual(5, pair.right.dropped(Drop.COOKIE_LIMIT))
        pair.net.now += 0.01
        pair.right.wg.received(messages[:5], ELSEWHERE, 0, pair.net.now)

        self.assertEqual(COOKIES_BURST + 5, len(pair.right.sent))

    def test_no_answer_is_larger(self) -> None:
        """Whatever comes, what goes back to it is smaller."""
        pair = Pair()
        pair.from_left()
        under_load(pair.right)
        hand_in(pair.right, initiation(pair.left, pair.right, tai64n(EPOCH * 2)), ELSEWHERE)

        self.assertEqual([92, 64], [len(sent.datagram) for sent in pair.right.sent])
        self.assertEqual([], pair.right.of_kind(DATA))
