"""The fuzzer: a short run over everything, and that it finds what is there to find."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import Broken, changed, fuzz, try_target
from tests.fuzz_targets import TARGETS, Ip


class Careless(Ip):
    """Something that raises at a byte it has not thought of."""

    def run(self, data: bytes, number: int) -> None:
        if b"\x7f" in data:
            raise ValueError("a byte")


class FuzzTests(SynchronousTestCase):
    """Random changes of real input."""

    def test_every_target(self) -> None:
        """A few thousand inputs break no promise; ``make fuzz`` tries a million of each."""
        for make in TARGETS.values():
            fuzz(make(), runs=3000, seed=1)

    def test_finds(self) -> None:
        """It finds a fault, says by which bytes, and finds it again with them."""
        found = self.assertRaises(Broken, fuzz, Careless(), 10_000, 0)

        self.assertIn(b"\x7f", found.data)
        self.assertIsInstance(found.__cause__, ValueError)
        again = self.assertRaises(Broken, fuzz, Careless(), found.number + 1, 0)
        self.assertEqual(found.data, again.data)
        fuzz(Careless(), found.number, 0)

    def test_changes(self) -> None:
        """What is tried differs from the corpus, and differs from try to try."""
        dice, corpus = random.Random(3), [bytes(range(100))]
        tried = {changed(dice, corpus, [b"token"]) for _ in range(1000)}

        self.assertGreater(len(tried), 900)
        self.assertLess(len(tried & set(corpus)), 5)

    def test_what_is_said(self) -> None:
        """What was tried is said, and of a fault where it is and how to have it again."""
        TARGETS["careless"] = Careless
        self.addCleanup(TARGETS.pop, "careless")
        held, said = try_target("ip", 50, 0)
        self.assertTrue(held)
        self.assertIn("ip: 50 tries", said)
        held, said = try_target("careless", 5000, 0)

        self.assertFalse(held)
        self.assertIn("ValueError: a byte", said)
        self.assertIn("careless, seed 0: at try", said)
