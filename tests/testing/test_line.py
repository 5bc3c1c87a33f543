"""A bad line: when each packet leaves it, and which never do."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import ConfigError
from pyvpn.testing.box import read_command
from pyvpn.testing.line import ETHERNET_HEADER, NAMES, Faults, Line


def frame(size: int = 1000, mark: int = 0) -> bytes:
    """A frame with an IP packet of *size* bytes, the last of which is *mark*."""
    return bytes(ETHERNET_HEADER + size - 1) + bytes([mark])


class Turns(Random):
    """Chance that is none: it says what it was given."""

    def __init__(self, says: list[float]) -> None:
        super().__init__(0)
        self._says = iter(says)

    def random(self) -> float:
        """The next of them."""
        return next(self._says)


class LineTests(SynchronousTestCase):
    """Times are exact here: 1000 bytes at 8000 bit/s are a second."""

    def setUp(self) -> None:
        self.line = Line(Random(1))

    def have(self, now: float = 0.0, **faults: float | bool) -> None:
        """Have *faults* beside those there are."""
        self.line.change(self.line.faults.changed(faults), now)

    def marks(self, now: float) -> list[int]:
        """The marks of the frames that leave at *now*."""
        return [left[-1] for left in self.line.leave(now)]

    def test_nothing_wrong(self) -> None:
        """What enters leaves at once, in order, as it was."""
        for mark in range(3):
            self.line.enter(frame(mark=mark), 5.0)
        self.assertEqual(5.0, self.line.due())
        self.assertEqual([frame(mark=mark) for mark in range(3)], self.line.leave(5.0))
        self.assertIsNone(self.line.due())

    def test_delay(self) -> None:
        """Each leaves when its delay is over, and not before."""
        self.have(delay_ms=100)
        self.line.enter(frame(mark=1), 5.0)
        self.line.enter(frame(mark=2), 5.05)
        self.assertEqual([], self.marks(5.099))
        self.assertEqual([1], self.marks(5.1))
        self.assertEqual([], self.marks(5.149))
        self.assertEqual([2], self.marks(5.151))

    def test_rate(self) -> None:
        """One after the other; looked at late, each has still left at its own moment."""
        self.have(rate_bps=8000, queue_ms=10_000, delay_ms=500)
        for mark in range(3):
            self.line.enter(frame(mark=mark), 0.0)
        self.assertEqual(3000, self.line.waiting_bytes)
        self.assertEqual([], self.marks(1.4))
        self.assertEqual([0], self.marks(1.5))
        self.assertEqual([1, 2], self.marks(3.5))
        self.line.enter(frame(mark=3), 10.0)
        self.assertEqual([], self.marks(11.4))
        self.assertEqual([3], self.marks(11.5))

    def test_queue(self) -> None:
        """What finds the queue full is dropped, newest first; what is being sent counts."""
        self.have(rate_bps=8000, queue_bytes=3000)
        for mark in range(5):
            self.line.enter(frame(mark=mark), 0.0)
        self.assertEqual(2, self.line.counts["queue_full"])
        self.assertEqual([0], self.marks(1.0))
        self.line.enter(frame(mark=9), 1.0)
        self.assertEqual([1, 2, 9], self.marks(10.0))

    def test_queue_in_milliseconds(self) -> None:
        """It has room for so much time at the rate, and for two full packets at the least."""
        self.assertEqual(125_000, Faults(rate_bps=5e6, queue_ms=200).room)
        self.assertEqual(3000, Faults(rate_bps=8000, queue_ms=10).room)

    def test_a_packet_always_fits_an_empty_queue(self) -> None:
        """Or a small queue would be a black hole."""
        self.have(rate_bps=8000, queue_bytes=100)
        self.line.enter(frame(), 0.0)
        self.assertEqual([0], self.marks(1.0))

    def test_a_rate_that_changes(self) -> None:
        """What waits leaves at the new rate, or at once if there is none any more."""
        self.have(rate_bps=8, queue_bytes=10_000)
        for mark in range(4):
            self.line.enter(frame(mark=mark), 0.0)
        self.have(1.0, rate_bps=8000)
        self.assertEqual([0], self.marks(2.0))
        self.assertEqual([1], self.marks(3.0))
        self.have(3.0, rate_bps=0)
        self.assertEqual([2, 3], self.marks(3.0))

    def test_a_queue_that_shrinks(self) -> None:
        """What does not fit any more is dropped, newest first: the bound holds at all times."""
        self.have(rate_bps=8000, queue_bytes=10_000)
        for mark in range(5):
            self.line.enter(frame(mark=mark), 0.0)
        self.have(0.5, queue_bytes=2500)
        self.assertEqual(2000, self.line.waiting_bytes)
        self.assertEqual(3, self.line.counts["queue_full"])
        self.assertEqual([0, 1], self.marks(100.0))

    def test_a_delay_that_changes(self) -> None:
        """What flies does not arrive later than what enters now."""
        self.have(delay_ms=60_000)
        self.line.enter(frame(mark=1), 0.0)
        self.have(1.0, delay_ms=100)
        self.line.enter(frame(mark=2), 1.0)
        self.assertEqual([1, 2], self.marks(1.1))

    def test_cut(self) -> None:
        """What is under way is lost as well, and all is counted."""
        self.have(rate_bps=8000, delay_ms=1000, queue_bytes=10_000)
        for mark in range(3):
            self.line.enter(frame(mark=mark), 0.0)
        self.have(1.5, cut=True)
        self.line.enter(frame(), 1.6)
        self.assertEqual([], self.marks(100.0))
        self.assertEqual(4, self.line.counts["cut"])
        self.have(200.0, cut=False, rate_bps=0, delay_ms=0)
        self.line.enter(frame(mark=7), 200.0)
        self.assertEqual([7], self.marks(200.0))

    def test_black_hole(self) -> None:
        """The size is that of the IP packet, and may be reached."""
        self.have(largest_bytes=1280)
        self.line.enter(frame(1280, mark=1), 0.0)
        self.line.enter(frame(1281, mark=2), 0.0)
        self.assertEqual([1], self.marks(0.0))

    def test_chance(self) -> None:
        """The same seed has the same fate, and the shares are about what was asked for."""
        fates = []
        for _ in range(2):
            self.line = Line(Random(7))
            self.have(loss_percent=30, duplicate_percent=20)
            for number in range(2000):
                self.line.enter(frame(mark=number % 256), 0.0)
            fates.append(self.marks(0.0))
        self.assertEqual(fates[0], fates[1])
        self.assertTrue(500 < self.line.counts["lost"] < 700, self.line.counts)
        self.assertTrue(200 < self.line.counts["duplicated"] < 360, self.line.counts)

    def test_reordering(self) -> None:
        """One that is held back is overtaken by those behind, which do not wait for it."""
        self.line = Line(Turns([0.1, 0.9]))
        self.have(reorder_percent=50, reorder_ms=50)
        self.line.enter(frame(mark=1), 0.0)
        self.line.enter(frame(mark=2), 0.01)
        self.assertEqual([2], self.marks(0.01))
        self.assertEqual([1], self.marks(0.05))

    @given(
        st.lists(st.tuples(st.floats(0, 0.1), st.integers(20, 1500)), max_size=60),
        st.sampled_from([0, 8e3, 1e6]),
        st.sampled_from([0, 30]),
        st.sampled_from([0, 10]),
    )
    def test_order_and_number(
        self, steps: list[tuple[float, int]], rate: float, delay: float, jitter: float
    ) -> None:
        """Whatever the delay, jitter and rate: order is kept, and each left or was counted."""
        self.line = Line(Random(3))
        self.have(rate_bps=rate, delay_ms=delay, jitter_ms=jitter)
        now, marks = 0.0, []
        for number, (pause, size) in enumerate(steps):
            now += pause
            self.line.enter(frame(size, mark=number), now)
            marks += self.marks(now)
        marks += self.marks(now + 1e6)
        self.assertEqual(marks, sorted(marks))
        self.assertEqual(len(steps), len(marks) + self.line.counts["queue_full"])
        self.assertEqual(0, self.line.waiting_bytes)
        self.assertIsNone(self.line.due())


class CommandTests(SynchronousTestCase):
    """What may be written to the box."""

    def setUp(self) -> None:
        self.faults = {"up": Faults(delay_ms=5), "down": Faults()}

    def test_understood(self) -> None:
        """What is not named stays as it was, and null is nothing wrong."""
        both = read_command('{"both": {"rate_bps": 1e6}}', self.faults)
        self.assertEqual(Faults(delay_ms=5, rate_bps=1e6), both["up"])
        self.assertEqual(Faults(rate_bps=1e6), both["down"])
        self.assertEqual(Faults(), read_command('{"up": null}', self.faults)["up"])
        self.assertEqual(self.faults, read_command("{}", self.faults))

    def test_refused(self) -> None:
        """What cannot be is refused with what can."""
        for command, words in (
            ("", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("[]", 'write an object, such as {"both"'),
            ('{"left": {}}', "up, down and both"),
            ('{"cut": true}', 'write {"both": {"cut": ...}}'),
            ('{"up": 5}', "an object of faults, or null"),
            ('{"up": {"delay": 5}}', f"write {', '.join(NAMES)}"),
            ('{"up": {"cut": 1}}', "true or false"),
            ('{"up": {"delay_ms": "5"}}', "write a number"),
            ('{"up": {"delay_ms": true}}', "write a number"),
            ('{"up": {"delay_ms": NaN}}', "from 0 to"),
            ('{"up": {"loss_percent": 100.1}}', "from 0 to 100"),
            ('{"up": {"rate_bps": -1}}', "from 0 to"),
        ):
            error = self.assertRaises(ConfigError, read_command, command, self.faults)
            self.assertIn(words, str(error), command)
