"""How long a client waits between two tries."""

from __future__ import annotations

from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.backoff import FIRST_SECONDS, QUICK_SECONDS, Backoff

UNIFORM = st.floats(0, 1)
CHANCES = st.lists(UNIFORM, min_size=1, max_size=20)


def backoff(most: float, chances: list[float]) -> Backoff:
    """One whose chances are these, over and over."""
    left = cycle(chances)
    return Backoff(most, lambda: next(left))


class BackoffTests(SynchronousTestCase):
    """Quick after a loss, then slower and slower, never in step."""

    @given(st.floats(1, 3600), CHANCES)
    def test_bounds(self, most: float, chances: list[float]) -> None:
        """Every pause lies between half and one and a half of the nominal, 1 s to the most."""
        tries = backoff(most, chances)
        nominal = FIRST_SECONDS
        for _ in range(40):
            pause = tries.pause()
            self.assertTrue(nominal / 2 <= pause <= nominal * 1.5, (nominal, pause))
            nominal = min(nominal * 1.6, most)

    @given(st.floats(1, 3600), CHANCES, st.floats(0, 3600), st.booleans())
    def test_at_least(
        self, most: float, chances: list[float], least: float, established: bool
    ) -> None:
        """What the server asks for is never undercut, whatever state we are in."""
        tries = backoff(most, chances)
        if established:
            tries.established()
        for _ in range(30):
            pause = tries.pause(least)
            self.assertGreaterEqual(pause, least)
            self.assertLessEqual(pause, max(least * 1.25, most * 1.5))

    @given(CHANCES)
    def test_quick_after_a_loss(self, chances: list[float]) -> None:
        """After a loss the first ten tries come within some 6 s, however the dice fall."""
        tries = backoff(60.0, chances)
        for _ in range(20):
            tries.pause()
        tries.established()
        pauses = [tries.pause() for _ in QUICK_SECONDS]

        self.assertLessEqual(pauses[0], 0.151)
        self.assertLessEqual(max(pauses), 0.751)
        self.assertLessEqual(sum(pauses), 6.01)
        self.assertGreaterEqual(tries.pause(), FIRST_SECONDS / 2)

    def test_never_in_step(self) -> None:
        """Two clients with other dice wait differently, also when the server named the time."""
        low, high = backoff(60.0, [0.0]), backoff(60.0, [1.0])
        for least in (0.0, 60.0):
            self.assertLess(low.pause(least), high.pause(least))

    def test_shorter_limit(self) -> None:
        """A limit that is lowered while it runs holds at once."""
        tries = backoff(3600.0, [0.5])
        for _ in range(30):
            tries.pause()
        tries.most = 5.0

        self.assertLessEqual(tries.pause(), 5.0)

    def test_long_asleep(self) -> None:
        """Ten thousand tries later it still is the longest pause, and no overflow."""
        tries = backoff(60.0, [0.5])
        for _ in range(1000):
            pause = tries.pause()
        self.assertEqual(60.0, pause)
