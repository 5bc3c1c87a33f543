"""Every condition of a link does what it says, and nothing happens without one."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.errors import Misuse
from pyvpn.interfaces import IDatagramSink
from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.trace import Event
from pyvpn.testing.simulator.udp import MOST_WAITING
from pyvpn.wire.datagram import Path
from tests.simulator.lab import Two, packed

MANY = 400


class DatagramTests(SynchronousTestCase):
    """What a UDP port hands out is what the real one does."""

    def test_good_line(self) -> None:
        """Everything arrives once, in order, unchanged, after the delay."""
        two = Two()
        two.numbered(MANY, 0.001)

        self.assertEqual(list(range(MANY)), two.numbers)
        self.assertEqual(
            {0.02}, {round(at - n / 1000, 6) for n, (at, _) in enumerate(two.arrived)}
        )
        self.assertEqual({Event.SENT: MANY, Event.DELIVERED: MANY}, two.network.trace.counts)

    def test_stopped(self) -> None:
        """For a process that stands still the first datagrams wait, and its timers are late."""
        two = Two()
        ticks: list[float] = []
        two.right.process = ticks
        two.clock.callLater(5.0, ticks.append, 5.0)
        two.right.stop_process()
        two.numbered(MOST_WAITING + 1, 0.001)
        self.assertEqual(([], []), (two.arrived, ticks))
        two.right.continue_process()
        two.clock.advance(0)
        self.assertEqual(([*range(MOST_WAITING)], [5.0]), (two.numbers, ticks))
        two.send(bytes((1, 0)))
        two.clock.advance(1)
        self.assertEqual(256, two.numbers[-1])

    def test_runs(self) -> None:
        """What arrives at once comes as runs of one path and ECN field, and can be answered."""
        two = Two()
        verifyObject(IDatagramSink, two.to_left)
        self.assertEqual(2, two.to_left.send_datagrams([b"a", b"b"], two.target, 0x88))
        two.send(b"c", tos=2)
        two.clock.advance(1)

        path = Path(packed("192.0.2.1"), 1000, 0, packed("192.0.2.2"), 1)
        self.assertEqual([([b"a", b"b"], path, 0), ([b"c"], path, 2)], two.runs)
        two.to_right.send_replies([(b"d", path), (b"e", path)])
        two.clock.advance(1)
        back = Path(packed("192.0.2.2"), 2000, 0, packed("192.0.2.1"), 1)
        self.assertEqual([([b"d", b"e"], back, 0)], two.returned)

    def test_families(self) -> None:
        """The source is of the target's family, and the one that was asked for if it is ours."""
        two = Two()
        two.left.move(packed("192.0.2.1"), packed("192.0.2.3"))
        for local, source in (("192.0.2.3", "192.0.2.3"), ("192.0.2.4", "192.0.2.1")):
            path = two.target._replace(local=packed(local))
            self.assertEqual(1, two.to_left.send_datagrams([b"x"], path, 0))
            two.clock.advance(1)
            self.assertEqual(packed(source), two.runs[-1][1].host)
        six = Path(packed("2001:db8::2"), 2000)
        self.assertEqual(0, two.to_left.send_datagrams([b"x"], six, 0))

    def test_nobody(self) -> None:
        """What goes to no host, or to no port, ends there."""
        two = Two()
        two.to_left.send_datagrams([b"x"], Path(packed("192.0.2.9"), 2000), 0)
        two.to_left.send_datagrams([b"x"], two.target._replace(port=2001), 0)
        two.clock.advance(1)
        two.right.crash()
        two.send(b"x")
        two.clock.advance(1)

        counts = two.network.trace.counts
        for event in (Event.NO_ROUTE, Event.NO_PORT, Event.DOWN):
            self.assertEqual(1, counts[event], event)

    def test_moved_meanwhile(self) -> None:
        """What is on its way to a host that moves does not follow it."""
        two = Two()
        two.send(b"x")
        two.right.move(packed("192.0.2.7"))
        two.clock.advance(1)
        self.assertEqual([], two.arrived)
        two.to_left.send_datagrams([b"y"], Path(packed("192.0.2.7"), 2000), 0)
        two.clock.advance(1)
        self.assertEqual([b"y"], [datagram for _, datagram in two.arrived])

    def test_taken(self) -> None:
        """Neither a port nor an address belongs to two."""
        two = Two()
        self.assertRaises(Misuse, two.left.udp, 1000, print)
        self.assertRaises(Misuse, two.network.host, "third", packed("192.0.2.1"))
        two.to_left.close()
        two.left.udp(1000, print)
        self.assertEqual(0, two.to_left.send_datagrams([b"x"], two.target, 0))


class ConditionTests(SynchronousTestCase):
    """Each condition alone; that a good line does none of it is shown above."""

    def with_(self, **changes: object) -> Two:
        two = Two()
        two.link.change(**changes)
        return two

    def test_loss(self) -> None:
        """About the share that was said is lost, and what is not keeps its order."""
        two = self.with_(loss=0.25)
        two.numbered(MANY, 0.001)
        self.assertApproximates(0.75 * MANY, len(two.numbers), 0.1 * MANY)
        self.assertEqual(sorted(two.numbers), two.numbers)
        self.assertEqual(MANY - len(two.numbers), two.network.trace.counts[Event.LOST])

    def test_duplicate(self) -> None:
        """About that share arrives twice, and nothing is missing."""
        two = self.with_(duplicate=0.25)
        two.numbered(MANY, 0.001)
        self.assertEqual(set(range(MANY)), set(two.numbers))
        self.assertApproximates(1.25 * MANY, len(two.numbers), 0.1 * MANY)

    def test_reorder(self) -> None:
        """Some are overtaken, and none is missing."""
        two = self.with_(reorder=0.25, reorder_seconds=0.05)
        two.numbered(MANY, 0.001)
        self.assertEqual(list(range(MANY)), sorted(two.numbers))
        self.assertNotEqual(sorted(two.numbers), two.numbers)

    def test_jitter(self) -> None:
        """Times differ, within what was said, and the order stays."""
        two = self.with_(delay=0.1, jitter=0.05)
        two.numbered(MANY, 0.1)
        self.assertEqual(list(range(MANY)), two.numbers)
        took = [at - n / 10 for n, (at, _) in enumerate(two.arrived)]
        self.assertGreater(max(took) - min(took), 0.04)
        self.assertGreaterEqual(min(took), 0.1 - 1e-6)
        self.assertLessEqual(max(took), 0.15 + 1e-6)

    def test_rate(self) -> None:
        """Packets wait for one another; the queue's end is dropped, and within it nothing is."""
        two = self.with_(rate=12_800.0, queue=100 * 128)
        two.numbered(100, 0.0)
        self.assertEqual(list(range(100)), two.numbers)
        self.assertAlmostEqual(1.02, two.arrived[-1][0], places=6)

        two = self.with_(rate=12_800.0, queue=100 * 128)
        two.numbered(150, 0.0)
        self.assertEqual(list(range(100)), two.numbers)
        self.assertEqual(50, two.network.trace.counts[Event.QUEUE_FULL])

        two = self.with_(rate=12_800.0, queue=100 * 128)
        two.numbered(150, 0.01)
        self.assertEqual(150, len(two.numbers))

    def test_corrupt(self) -> None:
        """One bit of some is another."""
        two = self.with_(corrupt=0.25)
        two.numbered(MANY, 0.001)
        flips = [
            (int.from_bytes(datagram, "big") ^ number).bit_count()
            for number, (_, datagram) in enumerate(two.arrived)
        ]
        self.assertEqual({0, 1}, set(flips))
        self.assertApproximates(0.25 * MANY, sum(flips), 0.1 * MANY)

    def test_max_size(self) -> None:
        """What is larger vanishes, header and all; what just fits does not."""
        two = self.with_(max_size=1000)
        two.send(bytes(972), bytes(973))
        two.clock.advance(1)
        self.assertEqual([972], [len(datagram) for _, datagram in two.arrived])
        self.assertEqual(1, two.network.trace.counts[Event.TOO_BIG])

    def test_cut(self) -> None:
        """Nothing passes in that direction, everything in the other; and again after it."""
        two = self.with_(cut=True)
        two.numbered(5, 0.1)
        two.to_right.send_datagrams([b"x"], Path(two.left.addresses[0], 1000), 0)
        two.clock.advance(1)
        self.assertEqual([], two.arrived)
        self.assertEqual(1, len(two.returned))
        two.network.heal()
        two.numbered(5, 0.1)
        self.assertEqual(5, len(two.arrived))

    def test_nonsense(self) -> None:
        """A condition that cannot be is refused."""
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            self.assertRaises(Misuse, self.with_, **{name: 1.1})
        for field in fields(Conditions):
            if field.type != "bool":
                self.assertRaises(Misuse, self.with_, **{field.name: -1})


probabilities = st.floats(0, 0.5)
conditions = st.builds(
    Conditions,
    probabilities,
    probabilities,
    probabilities,
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.0, 1000.0, 100_000.0]),
    st.integers(0, 5000),
    probabilities,
    st.sampled_from([0, 200]),
    st.booleans(),
)


class SeedTests(SynchronousTestCase):
    """One seed, one history."""

    @settings(max_examples=50, deadline=None)
    @given(conditions, st.integers(0, 2**64))
    def test_same(self, wanted: Conditions, seed: int) -> None:
        """The same seed gives the same to the byte, whatever the line is like."""
        traces = []
        for _ in range(2):
            two = Two(seed, wanted)
            two.numbered(20, 0.01, 150)
            two.numbered(20, 0.01, 250)
            traces.append(two.network.trace)
        self.assertEqual(str(traces[0]), str(traces[1]))
        self.assertEqual(traces[0].digest, traces[1].digest)

    def test_other(self) -> None:
        """Another seed gives another history, if anything is left to chance; else the same."""
        histories = {}
        for loss in (0.0, 0.2):
            digests = set()
            for seed in range(10):
                two = Two(seed, Conditions(loss=loss))
                two.numbered(50, 0.01)
                digests.add(two.network.trace.digest)
            histories[loss] = len(digests)
        self.assertEqual({0.0: 1, 0.2: 10}, histories)

    def test_digest(self) -> None:
        """One other byte, or one other time, is another digest."""
        digests = set()
        for load, delay in ((b"a", 0.0), (b"b", 0.0), (b"a", 1e-9)):
            two = Two()
            two.clock.advance(delay)
            two.send(load)
            two.clock.advance(1)
            digests.add(two.network.trace.digest)
        self.assertEqual(3, len(digests))
