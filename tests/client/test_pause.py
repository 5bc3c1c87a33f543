"""How long a client waits between two tries, and what makes it wait no longer."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.pause import PROOF_SECONDS, Pause
from pyvpn.tunnel.backoff import Backoff


class PauseTests(SynchronousTestCase):
    """Pauses grow until a connection has proved itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.over: list[float] = []
        self.pause = Pause(
            self.clock,
            Backoff(60.0, lambda: 0.5),
            lambda: self.over.append(self.clock.seconds()),
        )
        self.first = self.pause.begin(0.0)
        self.clock.advance(self.first)

    def test_grows(self) -> None:
        """It rings once, and the next one is longer."""
        self.assertEqual([self.first], self.over)
        self.assertGreater(self.pause.begin(0.0), self.first)
        self.clock.advance(self.first)
        self.assertEqual(1, len(self.over))

    def test_proof(self) -> None:
        """A connection that lasted makes the next pause short; one that did not, not."""
        self.pause.works()
        self.clock.advance(PROOF_SECONDS - 0.1)
        self.pause.lost()
        self.clock.advance(10)
        self.assertGreater(self.pause.begin(0.0), self.first)
        self.pause.end()
        self.pause.works()
        self.clock.advance(PROOF_SECONDS)
        self.pause.lost()
        self.assertLess(self.pause.begin(0.0), self.first)

    def test_end(self) -> None:
        """It can be ended, and then rings at once; without one nothing happens."""
        self.pause.end()
        self.assertEqual(0, len(self.clock.getDelayedCalls()))
        self.pause.begin(0.0)
        self.pause.end()
        self.clock.advance(0)
        self.assertEqual(2, len(self.over))

    def test_hurry(self) -> None:
        """A change of the network ends our own pauses, not one that the server asked for."""
        self.pause.begin(0.0)
        self.pause.hurry()
        self.clock.advance(0)
        self.assertEqual(2, len(self.over))
        asked = self.pause.begin(300.0)
        self.assertGreaterEqual(asked, 300.0)
        self.pause.hurry()
        self.clock.advance(299.0)
        self.assertEqual(2, len(self.over))
        self.clock.advance(asked)
        self.assertEqual(3, len(self.over))

    def test_stop(self) -> None:
        """Who leaves waits for nothing."""
        self.pause.begin(0.0)
        self.pause.stop()
        self.pause.stop()
        self.clock.advance(1000)
        self.assertEqual(1, len(self.over))
