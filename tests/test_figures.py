"""What the live tests do with the figures they measure."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.live.figures import Missed, above, all_below, below, between


class FigureTests(SynchronousTestCase):
    """Met is silent; missed says by how much."""

    def test_met(self) -> None:
        below(4.99, 5)
        above(5.01, 5)
        between(1, 1, 2)
        between(1, 2, 2)
        all_below({"app": 0.9, "native": 0.0}, 1)

    def test_missed(self) -> None:
        """A bound itself is missed, too, but where two are given; so is what is no number."""
        for missed in (
            lambda: below(5, 5),
            lambda: above(5, 5),
            lambda: between(1, 0.99, 2),
            lambda: between(1, 2.01, 2),
            lambda: below(float("nan"), 5),
            lambda: all_below({"app": 0.9, "native": 1.0}, 1),
        ):
            self.assertRaises(Missed, missed)

    def test_says_by_how_much(self) -> None:
        error = self.assertRaises(Missed, all_below, {"app": 0.9, "native": 1.51}, 1)

        self.assertEqual(str(error), "not below 1: {'native': '1.51'}")
