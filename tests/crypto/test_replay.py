"""The replay window, against the kernel's table of cases and against a plain set."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.replay import LIMIT, WINDOW, ReplayWindow

EDGE = WINDOW + 1
"""How far apart the two ends of a full window are, both counted."""

# The cases of the kernel's selftest/counter.c (wireguard-linux-compat), in their order.
TABLE = [
    (0, True),
    (1, True),
    (1, False),
    (9, True),
    (8, True),
    (7, True),
    (7, False),
    (EDGE, True),
    (EDGE - 1, True),
    (EDGE - 1, False),
    (EDGE - 2, True),
    (2, True),
    (2, False),
    (EDGE + 16, True),
    (3, False),
    (EDGE + 16, False),
    (4 * EDGE, True),
    (4 * EDGE - (EDGE - 1), True),
    (10, False),
    (4 * EDGE - EDGE, False),
    (4 * EDGE - (EDGE + 1), False),
    (4 * EDGE - (EDGE - 2), True),
    (4 * EDGE + 1 - EDGE, False),
    (0, False),
    (LIMIT, False),
    (LIMIT - 1, True),
    (LIMIT, False),
    (LIMIT - 1, False),
    (LIMIT - 2, True),
    (LIMIT + 1, False),
    (LIMIT + 2, False),
    (LIMIT - 2, False),
    (LIMIT - 3, True),
    (0, False),
]


def accepted(counters: list[int]) -> list[bool]:
    """What a new window says to *counters*."""
    window = ReplayWindow()
    return [window.accept(counter) for counter in counters]


class TableTests(SynchronousTestCase):
    """The kernel's own cases."""

    def test_single_counters(self) -> None:
        """Thirty-four counters, each judged as the kernel does."""
        self.assertEqual(34, len(TABLE))
        self.assertEqual(
            [fresh for _, fresh in TABLE], accepted([counter for counter, _ in TABLE])
        )

    def test_whole_windows(self) -> None:
        """A whole window upwards or downwards, and what is just inside it and just outside."""
        up, down = list(range(1, EDGE)), list(range(EDGE - 1, 0, -1))
        for counters, last in (
            ([*up, 0, 0], [True, False]),
            ([*range(2, EDGE + 1), 1, 0], [True, False]),
            ([*down, 0], [True]),
            ([*range(EDGE, 0, -1), 0], [False]),
            ([*down, EDGE, 0], [True, False]),
            ([*down, 0, EDGE], [True, True]),
        ):
            verdicts = accepted(counters)
            self.assertEqual(last, verdicts[-len(last) :])
            self.assertTrue(all(verdicts[: -len(last)]))


class WindowTests(SynchronousTestCase):
    """Everything else about it."""

    def test_highest(self) -> None:
        """The highest counter is remembered; a refused one changes nothing."""
        window = ReplayWindow()
        self.assertEqual(-1, window.highest)
        for counter, expected in ((5, 5), (3, 5), (LIMIT, 5), (20_000, 20_000), (5, 20_000)):
            window.accept(counter)
            self.assertEqual(expected, window.highest)

    def test_sizes(self) -> None:
        """The window and the last counter are the protocol's, and 1 KiB is enough for ever."""
        self.assertEqual((8128, 18_446_744_073_709_543_423), (WINDOW, LIMIT))
        window = ReplayWindow()
        for counter in (0, 5000, 8191, 8192, 12_000, 20_000, 20_100, 28_292, 10**9):
            window.accept(counter)
            self.assertEqual(1024, len(window._ring))

    def test_shuffled_blocks(self) -> None:
        """Packets up to a thousand places out of order are all taken, once."""
        window = ReplayWindow()
        for start in range(0, 50_000, 1000):
            block = [start + (place * 619) % 1000 for place in range(1000)]
            self.assertTrue(all(window.accept(counter) for counter in block))
            self.assertFalse(any(window.accept(counter) for counter in block))

    def test_after_any_jump(self) -> None:
        """However far ahead the next counter is, nothing of the old shows in the new window."""
        full = range(1000 + EDGE)  # every bit of the ring is set
        before = ReplayWindow()
        for counter in full:
            before.accept(counter)
        for jump in [*range(1, 40), *range(8110, 8210), 16_384, 16_391, 10**6, 2**63]:
            window = deepcopy(before)
            ahead = full[-1] + jump
            self.assertTrue(window.accept(ahead))
            between = range(max(full[-1], ahead - EDGE) + 1, ahead)
            for counter in (*between[:40], *between[40:][-40:]):
                self.assertTrue(window.accept(counter), (jump, counter))
            self.assertFalse(window.accept(full[-1]), jump)
            self.assertFalse(window.accept(ahead - EDGE), jump)

    @settings(deadline=None)
    @given(
        st.lists(
            st.integers(0, 40)
            | st.integers(8000, 8300)
            | st.integers(0, 20_000)
            | st.integers(0, 2**64 - 1)
            | st.integers(LIMIT - 9000, LIMIT + 10)
        )
    )
    def test_same_as_the_obvious_model(self, counters: list[int]) -> None:
        """The ring agrees with a set, for any order of any counters."""
        window, seen, highest = ReplayWindow(), set(), -1
        for counter in counters:
            fresh = counter < LIMIT and counter not in seen and counter >= highest - WINDOW
            self.assertEqual(fresh, window.accept(counter))
            if fresh:
                seen.add(counter)
                highest = max(highest, counter)
            self.assertEqual(highest, window.highest)

    @settings(deadline=None)
    @given(
        st.integers(0, 2**63),
        st.lists(st.integers(-9000, 9000) | st.integers(-20, 20), max_size=300),
    )
    def test_wandering(self, counter: int, steps: list[int]) -> None:
        """Likewise for a counter that wanders to and fro around the window's edges."""
        window, seen, highest = ReplayWindow(), set(), -1
        for step in steps:
            counter = max(0, counter + step)
            fresh = counter not in seen and counter >= highest - WINDOW
            self.assertEqual(fresh, window.accept(counter))
            if fresh:
                seen.add(counter)
                highest = max(highest, counter)

    @settings(max_examples=300)
    @given(
        st.lists(
            st.tuples(st.integers(0, 3 * WINDOW), st.integers(0, 200), st.booleans()), max_size=6
        ),
        st.sampled_from((0, 5, 10**9, LIMIT - WINDOW)),
    )
    def test_many_at_once(self, runs: list[tuple[int, int, bool]], base: int) -> None:
        """Accepting many at once is accepting each, in order: in verdicts and in what is kept."""
        one, other = ReplayWindow(), ReplayWindow()
        for start, count, gap in runs:
            counters = list(range(base + start, base + start + count))
            if gap:
                counters[count // 2 : count // 2 + 1] = []
            self.assertEqual([one.accept(n) for n in counters], other.accept_all(counters))
            self.assertEqual((one.highest, one._ring), (other.highest, other._ring))

    def test_more_than_a_window_at_once(self) -> None:
        """More at once than a window holds are all accepted, and the newest remembered."""
        window = ReplayWindow()
        counters = list(range(2 * WINDOW))
        self.assertEqual([True] * len(counters), window.accept_all(counters))
        self.assertFalse(any(window.accept_all(counters)))
