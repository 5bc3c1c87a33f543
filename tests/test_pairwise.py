"""The combinations that the live matrix is made of."""

from __future__ import annotations

from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.live.cells import DIMENSIONS
from tests.pairwise import every, pairs, pairwise

SIZES = st.lists(st.integers(1, 3), min_size=2, max_size=5)


class PairwiseTests(SynchronousTestCase):
    """Every two values meet."""

    @settings(deadline=None, max_examples=25)
    @given(SIZES)
    def test_covered(self, sizes: list[int]) -> None:
        """All pairs that there are, whatever the dimensions; and each time the same."""
        dimensions = {f"d{number}": range(size) for number, size in enumerate(sizes)}
        chosen = pairwise(dimensions)

        self.assertEqual(
            set().union(*map(pairs, every(dimensions))), set().union(*map(pairs, chosen))
        )
        self.assertEqual(chosen, pairwise(dimensions))
        self.assertLessEqual(len(chosen), prod(sizes))

    def test_one_less(self) -> None:
        """None is there in vain: without it two values would not meet."""
        chosen = pairwise(DIMENSIONS)
        everything = set().union(*map(pairs, chosen))
        for one in chosen:
            rest = [each for each in chosen if each is not one]
            self.assertNotEqual(everything, set().union(*map(pairs, rest)))

    def test_of_the_matrix(self) -> None:
        """What the live tests take is few, and all of it is much."""
        self.assertEqual(prod(map(len, DIMENSIONS.values())), len(every(DIMENSIONS)))
        self.assertLessEqual(len(pairwise(DIMENSIONS)), 12)
