"""Peers, our own key and indices: what comes and goes with them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.tai64n import tai64n
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import INITIATION, receiver_of
from tests.tunnel.wires import EPOCH, Pair, hello, in_use, initiation, state_of


class MembershipTests(SynchronousTestCase):
    """Peers and our own key come and go."""

    def test_removed(self) -> None:
        """With a peer go its keys: what still comes on them is for nobody."""
        pair = Pair()
        pair.meet()
        self.assertTrue(pair.right.wg.remove_peer(pair.left.public))
        self.assertFalse(pair.right.wg.remove_peer(pair.left.public))
        pair.from_left()

        self.assertEqual(1, pair.right.dropped(Drop.UNKNOWN_INDEX))
        self.assertEqual({}, pair.right.wg._world.indices)
        self.assertEqual(0, pair.to_left.keypairs)
        self.assertEqual(set(), pair.right.wg.take_changed())
        self.assertEqual(0, pair.to_left.send_packets([hello()], pair.net.now))
        self.assertEqual(float("inf"), pair.right.wg.next_due)

    def test_removed_while_its_handshake_waits(self) -> None:
        """An initiation that waits when its peer is removed gets silence."""
        pair = Pair()
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        pair.right.wg.received([message], pair.left.place, 0, pair.net.now)
        pair.right.wg.remove_peer(pair.left.public)
        pair.right.wg.work(pair.net.now)

        self.assertEqual([], pair.right.sent)

    def test_added_twice(self) -> None:
        """A peer that is there already is returned as it is."""
        pair = Pair()
        pair.meet()
        current = pair.to_right.current

        self.assertIs(pair.to_right, pair.left.wg.add_peer(pair.right.public))
        self.assertIs(current, pair.to_right.current)

    def test_ourselves(self) -> None:
        """Our own key is no peer's: it is not added, and removed when we take it."""
        pair = Pair()
        self.assertIsNone(pair.left.wg.add_peer(pair.left.public))
        assert pair.right.wg.static is not None
        pair.left.wg.set_private_key(pair.right.wg.static.private)

        self.assertEqual({}, pair.left.wg.peers)
        self.assertEqual(0, pair.to_right.send_packets([hello()], pair.net.now))

    def test_another_private_key(self) -> None:
        """After a change of key nothing is sent on the old sessions, which still receive."""
        pair = Pair()
        pair.meet()
        other = StaticKey(b"\x55" * 32)
        pair.left.wg.set_private_key(other.private)
        pair.from_right(b"on its way")
        pair.from_left(b"for later")

        self.assertEqual(hello(b"on its way"), pair.left.received[-1])
        self.assertEqual([hello()], pair.right.received)
        self.assertEqual(2, len(pair.left.of_kind(INITIATION)))  # the 5 s do not count any more
        self.assertEqual(1, pair.right.dropped(Drop.UNKNOWN_PEER))
        known = pair.right.wg.add_peer(other.public)
        assert known is not None
        pair.net.run(6.0)
        self.assertEqual(hello(b"for later"), pair.right.received[-1])

    def test_the_same_private_key(self) -> None:
        """Setting the key that is there already disturbs no session."""
        pair = Pair()
        pair.meet()
        state = state_of(pair.to_right)
        assert pair.left.wg.static is not None
        private = pair.left.wg.static.private
        pair.left.wg.set_private_key(private)
        pair.left.wg.set_private_key(bytes((private[0] | 7,)) + private[1:])  # clamped, the same

        self.assertEqual(state, state_of(pair.to_right))
        pair.from_left(b"still")
        self.assertEqual(hello(b"still"), pair.right.received[-1])

    def test_key_after_peers(self) -> None:
        """The private key may come after the peers and their packets."""
        pair = Pair()
        assert pair.left.wg.static is not None
        private = pair.left.wg.static.private
        pair.left.wg.set_private_key(None)
        pair.from_left(b"early")
        self.assertEqual([], pair.left.sent)
        pair.left.wg.set_private_key(private)
        pair.from_left(b"late")

        self.assertEqual([hello(b"early"), hello(b"late")], pair.right.received)

    def test_handshake_that_waits_for_the_old_key(self) -> None:
        """What was queued for the old key is not answered with the new one."""
        pair = Pair()
        message = initiation(pair.left, pair.right, tai64n(EPOCH))
        pair.right.wg.received([message], pair.left.place, 0, pair.net.now)
        pair.right.wg.set_private_key(b"\x55" * 32)

        self.assertFalse(pair.right.wg.work(pair.net.now))
        self.assertEqual([], pair.right.sent)
        self.assertEqual(0, pair.right.counters.total())  # it was not even looked at

    def test_down_and_up(self) -> None:
        """A peer that is down sends nothing and forgets its keys; up, it can begin at once."""
        pair = Pair()
        pair.meet()
        pair.to_right.down()
        sent = len(pair.left.sent)
        self.assertEqual(0, pair.to_right.send_packets([hello()], pair.net.now))
        pair.to_right.initiate(pair.net.now)
        pair.to_right.send_keepalive(pair.net.now)
        pair.net.run(30.0, step=1.0)

        self.assertEqual(sent, len(pair.left.sent))
        self.assertEqual({}, pair.left.wg._world.indices)
        self.assertEqual(float("inf"), pair.left.wg.next_due)
        pair.to_right.up(pair.net.now)
        pair.from_left(b"back")
        self.assertEqual(hello(b"back"), pair.right.received[-1])

    def test_index_in_use(self) -> None:
        """No index is given out while somebody has it."""
        pair = Pair()
        world = pair.left.wg._world
        numbers = iter([5, 5, 5, 6])
        world.random = lambda size: next(numbers).to_bytes(size, "little")

        self.assertEqual(5, world.new_index(pair.to_right))
        self.assertEqual(6, world.new_index(pair.to_right))

    def test_no_index_is_left_behind(self) -> None:
        """After ten renewals the table holds what the peer uses, and no more."""
        pair = Pair()
        for _ in range(10):
            pair.net.now += 130.0
            pair.meet()

        for end, peer in ((pair.left, pair.to_right), (pair.right, pair.to_left)):
            self.assertEqual(in_use(end), set(end.wg._world.indices))
            self.assertLessEqual(peer.keypairs, 3)
        self.assertIn(receiver_of(pair.left.sent[-1].datagram), in_use(pair.right))
