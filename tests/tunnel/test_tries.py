"""How often each source may try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.tries import Tries


class TriesTests(SynchronousTestCase):
    """Some at once, then one at a time, in bounded memory."""

    def test_at_once(self) -> None:
        """Three at once, and no fourth."""
        tries = Tries(3, 10.0)
        found = []
        for _ in range(4):
            found.append(tries.blocked("anna", 100.0))
            tries.count("anna", 100.0)

        self.assertEqual([False, False, False, True], found)

    def test_then(self) -> None:
        """Then one for each ten seconds, not before; quiet for long enough, all of them again."""
        tries = Tries(3, 10.0)
        for _ in range(3):
            tries.count("anna", 100.0)

        self.assertEqual(
            [True, False], [tries.blocked("anna", 109.9), tries.blocked("anna", 110.0)]
        )
        tries.count("anna", 110.0)
        self.assertTrue(tries.blocked("anna", 119.9))
        for _ in range(3):
            self.assertFalse(tries.blocked("anna", 200.0))
            tries.count("anna", 200.0)
        self.assertTrue(tries.blocked("anna", 200.0))

    def test_each_its_own(self) -> None:
        """What one does is not counted for another."""
        tries = Tries(1, 10.0)
        tries.count("anna", 0.0)

        self.assertEqual([True, False], [tries.blocked(each, 0.0) for each in ("anna", "bob")])

    def test_looking(self) -> None:
        """To look counts nothing."""
        tries = Tries(1, 10.0)
        self.assertEqual([False] * 9, [tries.blocked("anna", 0.0) for _ in range(9)])
        self.assertEqual(0, len(tries))

    def test_bounded(self) -> None:
        """A thousand sources leave no more than the table holds: the latest."""
        tries = Tries(1, 1000.0, capacity=5)
        for number in range(1000):
            tries.count(number, float(number))

        self.assertEqual(5, len(tries))
        self.assertEqual(
            [995, 996, 997, 998, 999], [n for n in range(1000) if tries.blocked(n, 1000.0)]
        )

    @given(st.lists(st.floats(0, 30), max_size=60))
    def test_rate(self, pauses: list[float]) -> None:
        """In any stretch of time there are not more than the burst and what it gave meanwhile."""
        tries, now, taken = Tries(4, 5.0), 0.0, list[float]()
        for pause in pauses:
            now += pause
            if not tries.blocked("anna", now):
                tries.count("anna", now)
                taken.append(now)
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                self.assertLessEqual(
                    last - first + 1, 4 + (taken[last] - taken[first]) / 5.0 + 1e-6
                )
