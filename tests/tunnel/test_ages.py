"""The oldest of many."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.ages import Ages


class AgesTests(SynchronousTestCase):
    """Keys by time."""

    def test_order(self) -> None:
        """The smallest time comes first; equal times in the order they were given."""
        ages: Ages[str] = Ages()
        ages.set("late", 9)
        ages.set("first", 3)
        ages.set("second", 3)
        came = []
        while (oldest := ages.oldest()) is not None:
            came.append(oldest[1])
            ages.discard(oldest[1])

        self.assertEqual(["first", "second", "late"], came)

    def test_moved(self) -> None:
        """A key has its last time only, be that later or earlier."""
        ages: Ages[str] = Ages()
        ages.set("a", 1)
        ages.set("b", 2)
        ages.set("a", 3)
        self.assertEqual((2, "b"), ages.oldest())
        ages.set("a", 0)
        self.assertEqual((0, "a"), ages.oldest())
        self.assertEqual(2, len(ages))

    def test_memory_follows_keys(self) -> None:
        """A key that moves for ever does not grow anything."""
        ages: Ages[int] = Ages()
        for now in range(10_000):
            ages.set(now % 10, now)
        self.assertLess(len(ages._heap), 100)
        for key in range(10):
            ages.discard(key)
        self.assertLess(len(ages._heap), 20)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(0, 20)), max_size=120))
    def test_same_as_the_obvious_model(self, changes: list[tuple[int, int | None]]) -> None:
        """Agrees with sorting everything, after every change."""
        ages: Ages[int] = Ages()
        model: dict[int, tuple[int, int]] = {}
        for turn, (key, since) in enumerate(changes):
            if since is None:
                self.assertEqual(model.pop(key, None) is not None, ages.discard(key))
            else:
                model[key] = (since, turn)
                ages.set(key, since)
            first = min(model, key=lambda k: model[k], default=None)
            expected = None if first is None else (model[first][0], first)
            self.assertEqual(expected, ages.oldest())
            self.assertEqual(len(model), len(ages))
            self.assertEqual(key in model, key in ages)
