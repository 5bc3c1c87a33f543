"""What waits for a limit goes on by itself, and a timer runs only as long as something waits."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.server.pacing import Pacing, limits_in_words
from tests.tunnel.office import ANNA4, OFFICE4, Server
from tests.tunnel.packets import packet

FULL = bytes(1380)
MEGABIT = 1_000_000


class Bug(Exception):
    """Of ours."""


class PacingTests(SynchronousTestCase):
    """A server in which anna has a limit of 5 Mbit/s."""

    def setUp(self) -> None:
        self.clock, self.server = Clock(), Server()
        self.sent = 0
        self.pacing = Pacing(self.clock, self.server.router, self.clock.seconds, self.note)
        self.server.router.limits.set(self.server.anna, 5 * MEGABIT, None, 0.0)

    def note(self) -> None:
        self.sent += 1

    def send(self, number: int) -> None:
        packets = [packet(ANNA4, OFFICE4, FULL)] * number
        self.server.router.packets_from_session(self.server.anna, packets, self.clock.seconds())

    @property
    def passed(self) -> int:
        return len(self.server.tun.packets)

    def test_goes_on(self) -> None:
        """Every 10 ms so much as the figure says, and at the end nothing runs any more."""
        self.assertEqual([], self.clock.getDelayedCalls())
        self.send(60)
        self.assertEqual(23, self.passed)
        for _ in range(3):
            before = self.passed
            self.clock.advance(0.01)
            self.assertIn(self.passed - before, (4, 5))
        self.clock.pump([0.01] * 10)
        self.assertEqual(60, self.passed)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertGreater(self.sent, 5)

    def test_figure(self) -> None:
        """Over two seconds of too much, what passes is the figure and the two per cent."""
        for _ in range(200):
            self.send(20)
            self.clock.advance(0.01)
        carried = (self.passed * 1400 - 31_875) * 8 / 2  # but for the burst in the beginning
        self.assertApproximates(1.02, carried / (5 * MEGABIT), 0.005)

    def test_one_timer(self) -> None:
        """Whoever waits, there is one timer."""
        self.server.router.limits.set(self.server.bob, None, MEGABIT, 0.0)
        self.send(60)
        self.server.router.packets_from_tun([packet(OFFICE4, "10.73.0.3", FULL)] * 9, 0.0)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))

    def test_bug(self) -> None:
        """A bug in the way of some batches is logged, once, and what else waits goes on."""
        self.send(60)
        whole = self.server.tun.send_packets

        def broken(packets: list[bytes]) -> int:
            raise Bug

        self.server.tun.send_packets = broken  # type: ignore[method-assign]
        self.clock.pump([0.01] * 3)
        self.assertEqual(1, len(self.flushLoggedErrors(Bug)))
        self.server.tun.send_packets = whole  # type: ignore[method-assign]
        before = self.passed
        self.clock.pump([0.01] * 20)
        self.assertGreater(self.passed, before + 20)

    def test_stop(self) -> None:
        """Stopped, it releases nothing and starts nothing."""
        self.send(60)
        self.pacing.stop()
        self.clock.advance(1.0)
        self.assertEqual(23, self.passed)
        self.send(60)
        self.send(60)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_words(self) -> None:
        """What the status says of limits."""
        self.assertEqual(", limited to up 5M", limits_in_words(self.server.anna))
        self.assertEqual("", limits_in_words(self.server.bob))
        self.server.router.limits.set(self.server.bob, 64_000, 2_500_000, 0.0)
        self.assertEqual(", limited to up 64k, down 2.5M", limits_in_words(self.server.bob))
