"""Roaming: a peer is where its last authentic packet came from, and nowhere else."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.tai64n import tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import DATA, RESPONSE, Path
from tests.tunnel.packets import packed
from tests.tunnel.wires import EPOCH, Pair, hand_in, hello, initiation, state_of

NEW = Path(packed("198.51.100.7"), 40_000, local=packed("192.0.2.2"), interface=3)
NEW6 = Path(packed("fe80::7"), 40_000, scope=5, local=packed("fe80::2"), interface=5)


class RoamingTests(SynchronousTestCase):
    """Data of an established session."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.pair.meet()
        self.pair.net.now += 10.0
        self.home = self.pair.to_left.endpoint
        current = self.pair.to_right.current
        assert current is not None
        self.sealed = current.seal([hello(b"%d" % n) for n in range(20)], 0)
        self.pair.right.wg.take_changed()

    def arrive(self, *numbers: int, path: Path = NEW) -> None:
        """Let the packets with these *numbers* come to right along *path*, in one run."""
        run = [self.sealed[number] for number in numbers]
        self.pair.right.wg.received(run, path, 0, self.pair.net.now)

    def test_one_packet_moves(self) -> None:
        """One packet from another place is enough, with all that is known of the way there."""
        for path, number in ((NEW, 1), (NEW6, 2)):
            self.arrive(number, path=path)
            self.pair.to_left.send_packets([hello()], self.pair.net.now)

            self.assertEqual(path, self.pair.to_left.endpoint)
            self.assertEqual(path, self.pair.right.sent[-1].path)
            self.assertEqual({self.pair.to_left}, self.pair.right.wg.take_changed())

    def test_keepalive_moves(self) -> None:
        """A keepalive is a packet like any other."""
        assert self.pair.to_right.current is not None
        self.pair.right.wg.received(self.pair.to_right.current.seal([b""], 0), NEW, 0, 0.0)

        self.assertEqual(NEW, self.pair.to_left.endpoint)

    def test_another_port(self) -> None:
        """A NAT on the way that changes only the port is a move, too."""
        assert self.home is not None
        moved = self.home._replace(port=9)
        self.arrive(1, path=moved)

        self.assertEqual(moved, self.pair.to_left.endpoint)

    def test_same_place(self) -> None:
        """A packet from where the peer is changes nothing that would have to be written down."""
        assert self.home is not None
        self.arrive(1, path=self.home)

        self.assertEqual(self.home, self.pair.to_left.endpoint)
        self.assertEqual(set(), self.pair.right.wg.take_changed())

    def test_forged(self) -> None:
        """A packet that does not open moves nothing and is no sign of life."""
        state = state_of(self.pair.to_left)
        for position in (8, 16, -1):
            forged = bytearray(self.sealed[1])
            forged[position] ^= 1
            self.pair.right.wg.received([bytes(forged)], NEW, 0, self.pair.net.now)

        self.assertEqual(3, self.pair.right.dropped(Drop.BAD_TAG))
        self.assertEqual(state, state_of(self.pair.to_left))

    def test_replayed(self) -> None:
        """A recorded packet moves nothing, from the same place or another."""
        assert self.home is not None
        self.arrive(1, path=self.home)
        state = state_of(self.pair.to_left)
        delivered = len(self.pair.right.received)
        self.arrive(1)
        self.arrive(1, 1, 1, path=self.home)

        self.assertEqual(4, self.pair.right.dropped(Drop.REPLAYED))
        self.assertEqual(delivered, len(self.pair.right.received))
        self.assertEqual(state, state_of(self.pair.to_left))

    def test_straggler(self) -> None:
        """A packet that was longer under way is delivered, but does not move the peer back."""
        assert self.home is not None
        self.arrive(5)
        self.arrive(4, 3, path=self.home)

        self.assertEqual([hello(b"5"), hello(b"4"), hello(b"3")], self.pair.right.received[-3:])
        self.assertEqual(NEW, self.pair.to_left.endpoint)
        self.arrive(2, 6, path=self.home)  # one of them is newer
        self.assertEqual(self.home, self.pair.to_left.endpoint)

    def test_straggler_of_the_previous_keypair(self) -> None:
        """Nor does one that was sealed before a renewal, once the other end has renewed."""
        assert self.home is not None
        self.arrive(1, path=self.home)
        self.pair.to_right.initiate(self.pair.net.now)
        self.pair.net.settle()
        assert self.pair.to_right.current is not None
        newest = self.pair.to_right.current.seal([hello(b"newest")], 0)
        self.pair.right.wg.received(newest, NEW, 0, self.pair.net.now)
        self.arrive(7, path=self.home)

        self.assertEqual(hello(b"7"), self.pair.right.received[-1])
        self.assertEqual(NEW, self.pair.to_left.endpoint)

    def test_move_during_renewal(self) -> None:
        """But one from an end that has not renewed yet does: it is where it says."""
        self.pair.to_left.initiate(self.pair.net.now)
        self.pair.net.lose = lambda end, sent: end is self.pair.right and sent.kind == DATA
        self.pair.net.settle()
        self.assertIsNotNone(self.pair.to_left.previous)
        self.arrive(3)

        self.assertEqual(NEW, self.pair.to_left.endpoint)

    def test_run_of_good_and_bad(self) -> None:
        """In a run the bad ones are dropped and the good ones count."""
        forged = self.sealed[3][:-1] + bytes((self.sealed[3][-1] ^ 1,))
        run = [self.sealed[1], forged, self.sealed[1], self.sealed[2]]
        self.pair.right.wg.received(run, NEW, 0, self.pair.net.now)

        self.assertEqual([hello(b"1"), hello(b"2")], self.pair.right.received[-2:])
        self.assertEqual(
            {Drop.BAD_TAG: 1, Drop.REPLAYED: 1}, dict(self.pair.right.counters.dropped)
        )
        self.assertEqual(NEW, self.pair.to_left.endpoint)

    def test_handshake_after_a_move(self) -> None:
        """The next handshake goes to the new place."""
        self.arrive(1)
        self.pair.to_left.initiate(self.pair.net.now)

        self.assertEqual(NEW, self.pair.right.sent[-1].path)


class HandshakeTests(SynchronousTestCase):
    """Where handshake messages come from."""

    def test_initiation_is_answered_where_it_came_from(self) -> None:
        """The response goes there, but the endpoint stays: who sent it is not shown yet."""
        pair = Pair()
        home = pair.to_left.endpoint
        message = initiation(pair.left, pair.right, tai64n(EPOCH * 2))
        (answer,) = hand_in(pair.right, message, NEW)

        self.assertEqual((RESPONSE, NEW), (answer.kind, answer.path))
        self.assertEqual(home, pair.to_left.endpoint)

    def test_forwarded_initiation(self) -> None:
        """An initiation that somebody else has caught and sends on disturbs no session."""
        pair = Pair()
        pair.meet()
        home = pair.to_left.endpoint
        hand_in(pair.right, initiation(pair.left, pair.right, tai64n(EPOCH * 2)), NEW)
        pair.from_right(b"still here")
        pair.from_left(b"here, too")

        self.assertEqual(hello(b"still here"), pair.left.received[-1])
        self.assertEqual(hello(b"here, too"), pair.right.received[-1])
        self.assertEqual(home, pair.to_left.endpoint)

    def test_first_packet_moves(self) -> None:
        """The endpoint is where the first packet of the new session comes from."""
        pair = Pair()
        pair.to_left.endpoint = None
        pair.to_left.send_packets([hello()], pair.net.now)
        pair.from_left()

        self.assertEqual(pair.left.place._replace(local=pair.right.address), pair.to_left.endpoint)
        self.assertEqual([hello()], pair.right.received)

    def test_what_waits_goes_to_the_new_place(self) -> None:
        """What waited for the first packet is sent to where that came from."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == DATA
        pair.from_left()
        pair.from_right(b"waits")
        first = pair.left.of_kind(DATA)[0].datagram
        pair.right.wg.received([first], NEW, 0, pair.net.now)

        self.assertEqual((DATA, NEW), (pair.right.sent[-1].kind, pair.right.sent[-1].path))

    def test_response_moves(self) -> None:
        """A response proves where it comes from: it answers what we have just made up."""
        pair = Pair()
        pair.net.lose = lambda end, sent: sent.kind == RESPONSE
        pair.from_left()
        response = pair.right.of_kind(RESPONSE)[0].datagram
        hand_in(pair.left, response, NEW)

        self.assertEqual(NEW, pair.to_right.endpoint)
        self.assertEqual((DATA, NEW), (pair.left.sent[-1].kind, pair.left.sent[-1].path))

    def test_refused_handshakes_move_nothing(self) -> None:
        """Recorded and forged handshake messages from elsewhere change nothing."""
        pair = Pair()
        pair.meet()
        recorded = [sent.datagram for sent in pair.left.sent + pair.right.sent]
        states = state_of(pair.to_left), state_of(pair.to_right)
        sent = len(pair.left.sent), len(pair.right.sent)
        jar = CookieJar(pair.right.public)
        recorded.append(jar.add_macs(recorded[0][:100] + bytes(16), 0.0))
        for message in recorded:
            for end in pair.net.ends:
                hand_in(end, message, NEW)

        self.assertEqual(states, (state_of(pair.to_left), state_of(pair.to_right)))
        self.assertEqual(sent, (len(pair.left.sent), len(pair.right.sent)))
