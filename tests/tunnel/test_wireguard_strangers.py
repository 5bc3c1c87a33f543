"""Who gets no session gets silence: strangers, bad keys, recorded handshakes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.tai64n import TICK, reserve, tai64n
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.wireguard import INITIATION_INTERVAL
from pyvpn.wire.datagram import RESPONSE, Path
from tests.tunnel.packets import packed
from tests.tunnel.wires import EPOCH, Net, Pair, hand_in, hello, in_use, initiation, state_of

# Every way to write a point of small order (https://cr.yp.to/ecdh.html, "Validating public
# keys"); the highest bit is ignored (RFC 7748 section 5), so there are two of each.
FIELD = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = [
    (number + high).to_bytes(32, "little")
    for number in (0, 1, *ORDER_8, FIELD - 1, FIELD, FIELD + 1)
    for high in (0, 2**255)
]


class StrangerTests(SynchronousTestCase):
    """Whoever is not to talk to us hears nothing, whatever they send."""

    def test_unknown_peer(self) -> None:
        """A key that is no peer's gets silence."""
        pair = Pair()
        pair.right.wg.remove_peer(pair.left.public)
        pair.from_left()

        self.assertEqual([], pair.right.sent)
        self.assertEqual(1, pair.right.dropped(Drop.UNKNOWN_PEER))
        self.assertEqual(set(), in_use(pair.right))
        self.assertEqual({}, pair.right.wg._world.indices)

    def test_peer_that_is_down(self) -> None:
        """So does a peer that was switched off; switched on again, it is let in."""
        pair = Pair()
        pair.to_left.down()
        pair.from_left()
        self.assertEqual([], pair.right.sent)
        self.assertEqual(1, pair.right.dropped(Drop.UNKNOWN_PEER))

        pair.to_left.up(pair.net.now)
        pair.net.run(6.0)
        self.assertEqual([hello()], pair.right.received)

    def test_message_for_another_key(self) -> None:
        """A message that was not made for our key gets silence."""
        pair = Pair()
        message = initiation(pair.left, pair.left, tai64n(EPOCH))

        self.assertEqual([], hand_in(pair.right, message, pair.left.place))
        self.assertEqual(1, pair.right.dropped(Drop.NOT_OURS))

    def test_without_a_key(self) -> None:
        """Who has no key answers nobody."""
        pair = Pair()
        pair.right.wg.set_private_key(None)
        pair.from_left()

        self.assertEqual([], pair.right.sent)
        self.assertEqual(1, pair.right.dropped(Drop.NOT_OURS))

    def test_points_of_low_order(self) -> None:
        """A peer whose key is a point of low order never gets a packet."""
        self.assertEqual(14, len(set(LOW_ORDER)))
        for point in LOW_ORDER:
            end = Net().end("192.0.2.1")
            peer = end.wg.add_peer(point)
            assert peer is not None
            peer.endpoint = Path(packed("192.0.2.9"), 9)
            peer.set_keepalive(1, end.net.now)
            peer.send_packets([hello()], end.net.now)
            peer.initiate(end.net.now)
            end.net.run(20.0, step=1.0)

            self.assertEqual([], end.sent, point.hex())
            self.assertEqual({}, end.wg._world.indices)

    def test_ephemeral_of_low_order(self) -> None:
        """An initiation with such a point for its ephemeral key gets silence."""
        pair = Pair()
        state = state_of(pair.to_left)
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        for point in LOW_ORDER:
            forged = message[:8] + point + message[40:116]
            whole = CookieJar(pair.right.public).add_macs(forged, 0.0)
            self.assertEqual([], hand_in(pair.right, whole, pair.left.place))

        self.assertEqual(len(LOW_ORDER), pair.right.dropped(Drop.BAD_HANDSHAKE))
        self.assertEqual(state, state_of(pair.to_left))


class TimestampTests(SynchronousTestCase):
    """An initiation is taken once, and never after a later one."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.right, self.place = self.pair.right, self.pair.left.place
        self.stamp = tai64n(EPOCH + 1000)
        self.message = initiation(self.pair.left, self.right, self.stamp)
        self.assertEqual(
            [RESPONSE], [s.kind for s in hand_in(self.right, self.message, self.place)]
        )
        self.pair.net.now += 1.0
        self.state = state_of(self.pair.to_left)

    def refused(self, message: bytes, reason: Drop) -> None:
        before = self.right.dropped(reason)
        self.assertEqual([], hand_in(self.right, message, self.place))
        self.assertEqual(before + 1, self.right.dropped(reason))
        self.assertEqual(self.state, state_of(self.pair.to_left))

    def test_replayed(self) -> None:
        """The same initiation again, from wherever, gets silence and changes nothing."""
        self.refused(self.message, Drop.OLD_TIMESTAMP)
        self.place = Path(packed("203.0.113.9"), 9)
        self.refused(self.message, Drop.OLD_TIMESTAMP)

    def test_not_later(self) -> None:
        """So does another one with the same time or an earlier one."""
        for stamp in (self.stamp, tai64n(EPOCH + 999), bytes(12)):
            self.refused(initiation(self.pair.left, self.right, stamp, seed=1), Drop.OLD_TIMESTAMP)

    def test_later(self) -> None:
        """One that is later by the least there is, is answered: the negative twin."""
        later = reserve(self.stamp, (TICK + 1) / 1e9)
        self.assertGreater(later, self.stamp)
        message = initiation(self.pair.left, self.right, later, seed=1)

        self.assertEqual(1, len(hand_in(self.right, message, self.place)))
        self.assertEqual(later, self.pair.to_left.newest_stamp)

    def test_restarted(self) -> None:
        """After a restart that kept the newest timestamp, a recorded initiation is refused."""
        again = Pair()
        again.to_left.newest_stamp = self.pair.to_left.newest_stamp
        state = state_of(again.to_left)

        self.assertEqual([], hand_in(again.right, self.message, self.place))
        self.assertEqual(state, state_of(again.to_left))

    def test_forged_time(self) -> None:
        """Nothing is kept of an initiation whose timestamp does not open."""
        real = initiation(self.pair.left, self.right, tai64n(EPOCH + 5000), seed=1)
        forged = bytearray(real[:116])
        forged[90] ^= 1
        whole = CookieJar(self.right.public).add_macs(bytes(forged), 0.0)
        self.refused(whole, Drop.BAD_HANDSHAKE)
        self.assertEqual(1, len(hand_in(self.right, real, self.place)))

    def test_fifty_a_second(self) -> None:
        """Within 20 ms of the last a second one is refused, and its time is not kept."""
        net, stamps = self.pair.net, [tai64n(EPOCH + 2000 + n) for n in range(3)]
        messages = [initiation(self.pair.left, self.right, stamp, seed=9) for stamp in stamps]
        self.assertEqual(1, len(hand_in(self.right, messages[0], self.place)))
        self.state = state_of(self.pair.to_left)
        net.now += INITIATION_INTERVAL - 0.001
        self.refused(messages[1], Drop.TOO_SOON)
        net.now += 0.0011

        self.assertEqual(1, len(hand_in(self.right, messages[1], self.place)))
        self.assertEqual(stamps[1], self.pair.to_left.newest_stamp)

    def test_owner_is_told(self) -> None:
        """The owner learns once of each peer with a new timestamp, to write it down."""
        self.assertEqual({self.pair.to_left}, self.right.wg.take_changed())
        self.assertEqual(set(), self.right.wg.take_changed())

    def test_stamps_of_all_peers(self) -> None:
        """What we send is later each time, also to different peers and with a clock set back."""
        net = Net()
        ends = [net.end(f"192.0.2.{n}") for n in range(1, 6)]
        sender = ends[0]
        for end in ends[1:]:
            here, there = sender.wg.add_peer(end.public), end.wg.add_peer(sender.public)
            assert here is not None
            assert there is not None
            here.endpoint = end.place
            here.initiate(net.now)
            net.settle()
        stamps = [end.wg.peers[sender.public].newest_stamp for end in ends[1:]]

        self.assertEqual(sorted(set(stamps)), stamps)
