"""Hostile datagrams: whatever comes, nothing goes in, nothing goes back, nothing changes."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.tai64n import tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import COOKIE_REPLY, INITIATION, RESPONSE, Path
from tests.tunnel.packets import packed
from tests.tunnel.wires import EPOCH, End, Pair, Sent, hand_in, initiation, state_of

ELSEWHERE = Path(packed("203.0.113.9"), 9)
LONGEST = 2048


class Watched:
    """An end of a pair that is under attack, and what it was before."""

    def __init__(self, end: End) -> None:
        self.end = end
        (self.peer,) = end.wg.peers.values()
        self.before = self.seen()

    def seen(self) -> tuple[object, ...]:
        """Everything that an attack could change."""
        return (
            state_of(self.peer),
            len(self.end.sent),
            len(self.end.received),
            dict(self.end.wg._world.indices),
            self.end.wg.handshakes,
            self.end.wg.next_due,
            self.peer.cookies.add_macs(b"", self.end.net.now) if not self.peer.initiation else b"",
        )

    def attack(self, datagrams: list[bytes], place: Path = ELSEWHERE, ecn: int = 0) -> None:
        """Let *datagrams* come, and all waiting work be done."""
        self.end.wg.received(datagrams, place, ecn, self.end.net.now)
        while self.end.wg.work(self.end.net.now):
            pass


def flipped(message: bytes, bit: int) -> bytes:
    """*message* with one bit changed."""
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def situations() -> list[tuple[str, End]]:
    """Ends in different situations: at rest, waiting for an answer, in a session, under load."""
    waiting = Pair()
    waiting.net.lose = lambda end, sent: True
    waiting.from_left()
    met = Pair()
    met.meet()
    loaded = Pair()
    loaded.meet()
    loaded.right.wg._load._seen = float("inf")
    return [
        ("at rest", Pair().left),
        ("waiting", waiting.left),
        ("met", met.right),
        ("under load", loaded.right),
    ]


class JunkTests(SynchronousTestCase):
    """Bytes that nobody has thought about."""

    def test_every_length_and_type(self) -> None:
        """Every length from 0 to 2048 with every first byte is dropped and counted."""
        for name, end in situations():
            watched = Watched(end)
            dice = random.Random(name)
            # Beyond 5 all types are alike: once is enough, and takes long enough.
            kinds = 256 if name == "met" else 6
            for kind in range(kinds):
                filler = b"\0\0\0" + (bytes(LONGEST) if kind % 2 else dice.randbytes(LONGEST))
                longest = bytes((kind,)) + filler
                run = [longest[:length] for length in range(LONGEST + 1)]
                watched.attack(run, ecn=kind % 4)
            self.assertEqual(watched.before, watched.seen(), name)
            self.assertEqual(kinds * (LONGEST + 1), end.counters.total(), name)

    def test_reserved_bytes(self) -> None:
        """A real message with anything in its three reserved bytes is none."""
        pair = Pair()
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        watched = Watched(pair.right)
        watched.attack([flipped(message, bit) for bit in range(8, 32)])

        self.assertEqual(watched.before, watched.seen())
        self.assertEqual({Drop.JUNK: 24}, dict(pair.right.counters.dropped))

    def test_data_for_every_index(self) -> None:
        """Guessing indices and counters leads nowhere, also with the right index."""
        pair = Pair()
        pair.meet()
        watched = Watched(pair.right)
        dice = random.Random(4)
        (index,) = pair.right.wg._world.indices
        run = [b"\4\0\0\0" + dice.randbytes(4 + 8 + 16) for _ in range(2000)]
        head = b"\4\0\0\0" + index.to_bytes(4, "little")
        run += [head + dice.randbytes(8 + dice.randrange(16, 80)) for _ in range(2000)]
        run += [head + b"\xff" * 8 + bytes(16), head + bytes(24)]
        watched.attack(run)

        self.assertEqual(watched.before, watched.seen())
        self.assertEqual(
            {Drop.UNKNOWN_INDEX: 2000, Drop.BAD_TAG: 2002}, dict(pair.right.counters.dropped)
        )


class MutationTests(SynchronousTestCase):
    """Real messages with one bit changed."""

    def setUp(self) -> None:
        """Left has begun; what right would answer, and its first packet, are at hand."""
        self.pair = Pair()
        kept: list[Sent] = []

        def keep(end: End, sent: Sent) -> bool:
            kept.append(sent)
            return True

        self.pair.net.lose = keep
        self.pair.from_left()
        self.initiation = kept[0].datagram
        self.kept = kept

    def response(self) -> bytes:
        hand_in(self.pair.right, self.initiation, self.pair.left.place)
        self.pair.net.settle()
        return self.kept[-1].datagram

    def test_initiation(self) -> None:
        """In an initiation every bit counts but those of a cookie that nobody asked for."""
        watched = Watched(self.pair.right)
        watched.attack([flipped(self.initiation, bit) for bit in range(8 * 132)])

        self.assertEqual(watched.before, watched.seen())
        self.assertEqual(8 * 132, self.pair.right.counters.total())
        self.assertEqual(1, len(hand_in(self.pair.right, self.initiation, ELSEWHERE)))

    def test_initiation_with_a_right_mac(self) -> None:
        """The same with a mac made anew, which everybody can: the handshake itself notices."""
        watched = Watched(self.pair.right)
        jar = CookieJar(self.pair.right.public)
        forged = [
            jar.add_macs(flipped(self.initiation[:116], bit), 0.0)
            for bit in range(8 * 116)
            if not 4 <= bit // 8 < 8  # the index for the answer, which is a claim
        ]
        for first in range(0, len(forged), 100):
            watched.attack(forged[first : first + 100])
            self.pair.net.now += 1.0  # more at once would be load, and get cookies

        self.assertEqual(watched.before, watched.seen())
        reasons = {Drop.JUNK, Drop.BAD_HANDSHAKE, Drop.UNKNOWN_INDEX}  # as type 5 it is data
        self.assertEqual(reasons, set(self.pair.right.counters.dropped))
        self.assertEqual(1, len(hand_in(self.pair.right, self.initiation, ELSEWHERE)))

    def test_response(self) -> None:
        """In a response every bit counts, too."""
        real = self.response()
        watched = Watched(self.pair.left)
        watched.attack([flipped(real, bit) for bit in range(8 * 76)])
        jar = CookieJar(self.pair.left.public)
        watched.attack(
            [jar.add_macs(flipped(real[:60], bit), 0.0) for bit in range(8 * 8, 8 * 60)]
        )

        self.assertEqual(watched.before, watched.seen())
        self.assertEqual(1, len(hand_in(self.pair.left, real, self.pair.right.place)))

    def test_cookie_reply(self) -> None:
        """And in a cookie reply."""
        self.pair.right.wg._load._seen = float("inf")
        real = self.response()
        self.assertEqual(COOKIE_REPLY, real[0])
        watched = Watched(self.pair.left)
        watched.attack([flipped(real, bit) for bit in range(8 * 64)])

        self.assertEqual(watched.before, watched.seen())
        self.assertLess(self.pair.to_right.cookies._expires, 0.0)

    def test_data(self) -> None:
        """And in data; the real one is taken afterwards."""
        hand_in(self.pair.left, self.response(), self.pair.right.place)
        self.pair.net.settle()
        real = self.kept[-1].datagram
        watched = Watched(self.pair.right)
        for bit in range(8 * len(real)):
            watched.attack([flipped(real, bit)])
        for length in range(len(real)):
            watched.attack([real[:length], real[:length] + b"\0" * (length % 3)])
        watched.attack([real + b"\0", real + bytes(16)])
        self.assertEqual(watched.before, watched.seen())
        watched.attack([real])

        self.assertEqual(1, len(self.pair.right.received))
        self.assertIsNotNone(self.pair.to_left.current)


class ReplayTests(SynchronousTestCase):
    """Everything that was ever sent, again."""

    def lived(self) -> tuple[Pair, list[bytes]]:
        """A pair with a past (cookies, renewals, keepalives, a move), and all they have sent."""
        pair = Pair()
        pair.right.wg._load._seen = float("inf")
        pair.from_left(b"first")
        pair.net.run(6.0)
        pair.right.wg._load._seen = 0.0
        for number in range(30):
            pair.from_left(b"%d" % number)
            pair.from_right(b"%d" % number)
            pair.net.run(15.0, step=1.0)
        pair.left.port = 9999
        pair.meet()
        everything = [sent.datagram for end in pair.net.ends for sent in end.sent]
        self.assertEqual({1, 2, 3, 4}, {message[0] for message in everything})
        return pair, everything

    def test_while_they_talk(self) -> None:
        """From the same place and from others, to either end: silence, and nothing changes."""
        pair, everything = self.lived()
        for end, other in ((pair.left, pair.right), (pair.right, pair.left)):
            watched = Watched(end)
            for place in (other.place, other.place._replace(port=51820), ELSEWHERE):
                watched.attack(everything, place)
                watched.attack(everything[::-1], place)
                for message in everything:
                    watched.attack([message], place)
            self.assertEqual(watched.before, watched.seen())

    def test_after_a_restart(self) -> None:
        """An end that has only its written timestamps left is not deceived either."""
        pair, everything = self.lived()
        for end, other in ((pair.left, pair.right), (pair.right, pair.left)):
            end.restart()
            watched = Watched(end)
            for place in (other.place, ELSEWHERE):
                watched.attack(everything, place)
            self.assertEqual(watched.before, watched.seen())

    def test_after_a_restart_without_them(self) -> None:
        """Without those a recorded initiation is answered, but gives no session."""
        pair, everything = self.lived()
        pair.right.restart()
        (peer,) = pair.right.wg.peers.values()
        peer.newest_stamp = bytes(12)
        home = peer.endpoint
        pair.right.sent.clear()
        pair.right.received.clear()
        Watched(pair.right).attack(everything * 2)

        self.assertEqual([RESPONSE], [sent.kind for sent in pair.right.sent])
        self.assertIsNone(peer.current)
        self.assertEqual(home, peer.endpoint)
        self.assertEqual([], pair.right.received)

    def test_recorded_initiation_of_another_time(self) -> None:
        """Each initiation that an end has sent was good once: now none of them is."""
        pair, everything = self.lived()
        initiations = [message for message in everything if message[0] == INITIATION]
        self.assertGreater(len(initiations), 3)
        pair.net.now += 1.0
        for message in initiations:
            self.assertEqual([], hand_in(pair.right, message, pair.left.place))
        self.assertEqual(len(initiations), pair.right.dropped(Drop.OLD_TIMESTAMP))
