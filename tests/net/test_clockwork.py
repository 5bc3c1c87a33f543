"""What drives a WireGuard: timers at their time, waiting handshakes between other things."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.clockwork import Clockwork
from pyvpn.tunnel.wireguard import HANDSHAKES_AT_ONCE
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE
from tests.tunnel.wires import Pair


class ClockworkTests(SynchronousTestCase):
    """One end of a pair is driven by a clock, the other by hand."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.clock = Clock()
        self.clock.advance(self.pair.net.now)
        self.end, self.other = self.pair.right, self.pair.left
        self.works = Clockwork(self.clock, self.end.wg, self.now)

    def now(self) -> float:
        self.pair.net.now = self.clock.seconds()
        return self.pair.net.now

    def knock(self, times: int = 1) -> None:
        """Initiations of the other end, each of which the first one's answer would stop."""
        for _ in range(times):
            self.clock.advance(6)
            self.pair.to_right.send_keepalive(self.now())
        self.pair.net.flying.clear()
        for sent in self.other.of_kind(INITIATION)[-times:]:
            self.works.runs_received([([sent.datagram], self.other.place, 0)])

    def test_handshake(self) -> None:
        """An initiation is answered in the next turn of the reactor, not within the read."""
        self.knock()
        self.assertEqual([], self.end.of_kind(RESPONSE))
        self.clock.advance(0)
        self.assertEqual(1, len(self.end.of_kind(RESPONSE)))

    def test_someATurn(self) -> None:
        """Many are worked off a few at a time; the rest is for a turn of its own."""
        self.knock(HANDSHAKES_AT_ONCE + 1)
        [first] = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.now()]
        first.func()
        self.assertEqual(1, self.end.wg.waiting)
        self.clock.advance(0)
        self.assertEqual(0, self.end.wg.waiting)

    def test_timer(self) -> None:
        """A keepalive is sent when it is due, not at the next look of a loop."""
        self.pair.from_left()
        self.end.sent.clear()
        self.works.arm()
        self.clock.advance(9.99)
        self.assertEqual([], self.end.sent)
        self.clock.advance(0.02)
        self.assertEqual([DATA], [sent.kind for sent in self.end.sent])

    def test_earlierTimer(self) -> None:
        """Who is armed for later is woken earlier if something earlier comes up."""
        self.pair.from_left()
        self.works.arm()
        self.pair.to_left.set_keepalive(2, self.now())
        self.works.arm()
        self.end.sent.clear()
        self.clock.advance(2.01)
        self.assertEqual(1, len(self.end.sent))

    def test_bug(self) -> None:
        """A bug that one handshake meets is logged, and the next one has its turn."""
        self.knock(2)
        broken = iter([1])

        def random(count: int, fair: Callable[[int], bytes] = self.end.wg._world.random) -> bytes:
            return fair(count) if next(broken, 0) == 0 else bytes(1 // 0)

        self.end.wg._world.random = random
        self.clock.advance(0)
        self.assertEqual(1, len(self.end.of_kind(RESPONSE)))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_stop(self) -> None:
        """Stopped, it does nothing any more and leaves nothing behind in the reactor."""
        self.pair.from_left()
        self.works.arm()
        self.knock()
        self.works.stop()
        self.clock.advance(600)
        self.works.runs_received([([b"x"], self.other.place, 0)])
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(0, self.end.dropped("no-wireguard-message"))
