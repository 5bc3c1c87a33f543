"""Keepalives: the one answer that data needs, and those that hold a path open."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.datagram import DATA, INITIATION
from tests.tunnel.wires import End, Pair, hello


def keepalives(end: End) -> list[float]:
    """When *end* has sent keepalives, in seconds after the beginning."""
    return [round(s.at - 1000.0, 3) for s in end.of_kind(DATA) if len(s.datagram) == 32]


class PassiveTests(SynchronousTestCase):
    """Data has come, and we have nothing to say."""

    def test_ten_seconds(self) -> None:
        """Ten seconds after a packet one keepalive says that it has come, and that is all."""
        pair = Pair()
        pair.from_left()
        pair.net.run(9.9)
        self.assertEqual([], keepalives(pair.right))
        pair.net.run(600.0)

        self.assertEqual([10.0], keepalives(pair.right))
        self.assertEqual([], keepalives(pair.left))

    def test_one_more(self) -> None:
        """If more has come meanwhile there is another one ten seconds later, and no third."""
        pair = Pair()
        pair.from_left()
        pair.net.run(3.0)
        for _ in range(5):
            pair.from_left()
        pair.net.run(600.0)

        self.assertEqual([10.0, 20.0], keepalives(pair.right))

    def test_answered(self) -> None:
        """Who answers with a packet sends no keepalive."""
        pair = Pair()
        pair.from_left()
        pair.net.run(5.0)
        pair.from_right()
        pair.net.run(60.0)

        self.assertEqual([], keepalives(pair.right))
        self.assertEqual([15.0], keepalives(pair.left))

    def test_answered_by_a_handshake(self) -> None:
        """A handshake message, too, says that we are here."""
        pair = Pair()
        pair.from_left()
        pair.net.run(7.0)
        pair.to_left.initiate(pair.net.now)  # its confirmation is a keepalive
        pair.net.settle()
        pair.net.run(60.0)

        self.assertEqual([7.0], keepalives(pair.right))

    def test_no_answer_to_keepalives(self) -> None:
        """A keepalive is never answered."""
        pair = Pair()
        pair.meet()
        pair.net.run(60.0)
        before = len(pair.right.sent)
        for _ in range(5):
            pair.to_right.send_keepalive(pair.net.now)
            pair.net.settle()
            pair.net.run(11.0)

        self.assertEqual(before, len(pair.right.sent))

    def test_idle(self) -> None:
        """Once both are done an idle line is silent for ever."""
        pair = Pair()
        pair.meet()
        pair.net.run(30.0)
        before = len(pair.left.sent) + len(pair.right.sent)
        pair.net.run(7200.0, step=100.0)

        self.assertEqual(before, len(pair.left.sent) + len(pair.right.sent))
        self.assertEqual([float("inf")] * 2, [end.wg.next_due for end in pair.net.ends])


class PersistentTests(SynchronousTestCase):
    """A path that is to be held open."""

    def test_switched_on(self) -> None:
        """The first one is sent at once, and with no session a handshake for it."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()

        self.assertEqual([INITIATION, DATA], [sent.kind for sent in pair.left.sent])
        self.assertEqual([0.0], keepalives(pair.left))

    def test_interval(self) -> None:
        """Then one every so many seconds, for hours."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        pair.net.run(101.0)
        self.assertEqual([0.0, 25.0, 50.0, 75.0, 100.0], keepalives(pair.left))
        pair.net.run(3600.0)

        times = keepalives(pair.left)
        self.assertTrue(all(b - a <= 25.0 + 1e-3 for a, b in pairwise(times)))
        self.assertEqual([], pair.right.of_kind(INITIATION))

    def test_after_the_last_packet(self) -> None:
        """It counts from the last packet of either direction."""
        pair = Pair()
        pair.meet()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.run(10.0)
        pair.from_right()  # which has its own keepalive ten seconds later
        pair.net.run(5.0)
        pair.from_left()
        pair.net.run(24.9)
        # Right answers the packet of 15 s at 25 s: from then on it is silent.
        self.assertEqual([0.0], keepalives(pair.left))
        pair.net.run(40.0)

        self.assertEqual([0.0, 50.0, 75.0], keepalives(pair.left))

    def test_switched_off(self) -> None:
        """Zero ends it, and silence follows."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        pair.net.run(30.0)
        pair.to_right.set_keepalive(0, pair.net.now)
        pair.net.run(600.0)

        self.assertEqual([0.0, 25.0], keepalives(pair.left))

    def test_changed(self) -> None:
        """Another interval holds from the next packet on; setting the same sends none."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.to_right.set_keepalive(10, pair.net.now)
        pair.net.settle()
        pair.net.run(46.0)

        self.assertEqual([0.0, 25.0, 35.0, 45.0], keepalives(pair.left))

    def test_nobody_there(self) -> None:
        """It goes on trying for ever while nobody answers, with 5 s between two tries."""
        pair = Pair()
        pair.net.lose = lambda end, sent: True
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.run(3600.0)
        times = [sent.at for sent in pair.left.of_kind(INITIATION)]

        self.assertGreater(times[-1], 4590.0)
        self.assertTrue(all(b - a >= 5.0 for a, b in pairwise(times)))
        self.assertLessEqual(pair.to_right.staged, 1)

    def test_without_endpoint(self) -> None:
        """With no place to send to nothing is sent, and with one it begins."""
        pair = Pair()
        pair.to_left.endpoint = None
        pair.to_left.set_keepalive(5, pair.net.now)
        pair.net.run(20.0)
        self.assertEqual([], pair.right.sent)
        pair.from_left()
        pair.net.run(12.0)

        self.assertEqual([25.0, 30.0], keepalives(pair.right))

    def test_after_up(self) -> None:
        """A peer that is switched on again holds its path open again."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        pair.to_right.down()
        pair.net.run(60.0)
        pair.to_right.up(pair.net.now)
        pair.net.settle()

        self.assertEqual([0.0, 60.0], keepalives(pair.left))
        self.assertEqual(2, len(pair.left.of_kind(INITIATION)))

    def test_with_data(self) -> None:
        """Data holds the path open just as well: no keepalive comes between."""
        pair = Pair()
        pair.to_right.set_keepalive(25, pair.net.now)
        pair.net.settle()
        for number in range(20):
            pair.net.run(5.0)
            pair.to_right.send_packets([hello(b"%d" % number)], pair.net.now)
            pair.net.settle()

        self.assertEqual([0.0], keepalives(pair.left))
