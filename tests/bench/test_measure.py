"""How the loss-free rate is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.measure import FIGURES, HALVINGS, MOST_DOUBLINGS, TESTS, loss_free


class Line:
    """Carries so many bits a second and loses the rest; a sender that is no faster than it is."""

    def __init__(self, most: float, sender: float = float("inf"), lossy: float = 0.0) -> None:
        self.most, self.sender, self.lossy = most, sender, lossy
        self.probes = 0

    def send(self, rate: float) -> tuple[float, float]:
        self.probes += 1
        sent = min(rate, self.sender)
        return max(self.lossy, 1 - self.most / sent), sent


class LossFreeTests(SynchronousTestCase):
    """:func:`bench.measure.loss_free`"""

    @given(st.floats(1e6, 1e10))
    def test_found(self, most: float) -> None:
        """It is never more than the line carries, and less by an eighth of a doubling at most."""
        line = Line(most)
        found = loss_free(line.send, 1e7)
        self.assertLessEqual(found, most * 1.0011)
        if 1e7 <= most <= 1e7 * 2 ** (MOST_DOUBLINGS - 1):
            self.assertGreaterEqual(found, most * 0.88)
        self.assertLessEqual(line.probes, MOST_DOUBLINGS + HALVINGS)

    def test_sender(self) -> None:
        """Where the sender is the limit, that is how fast it was, not what was asked for."""
        self.assertEqual(3e8, loss_free(Line(1e9, sender=3e8).send, 1e8))

    def test_little(self) -> None:
        """One in a thousand may be lost, and no more."""
        self.assertGreater(loss_free(Line(1e9, lossy=0.001).send, 1e8), 8e8)
        self.assertEqual(0.0, loss_free(Line(1e9, lossy=0.0011).send, 1e8))


class FiguresTests(SynchronousTestCase):
    """What is measured."""

    def test_named(self) -> None:
        """Each test gives a figure that has a title and a unit."""
        self.assertLessEqual({"tcp", "reverse", "four", "udp", "small"}, FIGURES.keys())
        self.assertLessEqual(set(TESTS) - {"idle"}, FIGURES.keys())
