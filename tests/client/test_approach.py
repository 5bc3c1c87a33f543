"""Which of the server's endpoints is tried when."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.approach import Approach
from pyvpn.config import load_client


class TurnTests(SynchronousTestCase):
    """Of a server with two endpoints."""

    def setUp(self) -> None:
        file = Path(self.mktemp())
        pin = "A" * 43
        file.write_text(f"[client]\nserver = pyvpn://a.example,b.example?pin=sha256:{pin}\n")
        self.approach = Approach(MemoryReactorClock(), load_client(file))

    def turn(self) -> str:
        return str(self.approach.next_of()).partition(":")[0]

    def test_in_turn(self) -> None:
        """One after the other, and the first again."""
        self.assertEqual(["a.example", "b.example"] * 2, [self.turn() for _ in range(4)])

    def test_worked(self) -> None:
        """Who led to the server is tried first the next time."""
        self.turn(), self.turn()
        self.approach.worked()
        self.assertEqual(["b.example", "a.example"], [self.turn() for _ in range(2)])

    def test_again(self) -> None:
        """So is who was given up for no fault of its own."""
        self.turn()
        self.approach.again()
        self.assertEqual(["a.example", "b.example"], [self.turn() for _ in range(2)])
