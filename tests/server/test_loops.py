"""What is done again and again, and the end."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.server.loops import Loops, finish


class LoopsTests(SynchronousTestCase):
    """A call at intervals."""

    def setUp(self) -> None:
        self.clock, self.calls = Clock(), 0
        self.loops = Loops(self.clock)

    def run_three(self, *outcomes: Any) -> list[LogLevel]:
        """Have the call end so, and go on; what is logged."""

        def body() -> Deferred[Any] | None:
            self.calls += 1
            outcome = outcomes[min(self.calls, len(outcomes)) - 1]
            if isinstance(outcome, ZeroDivisionError):
                raise outcome
            return fail(outcome) if isinstance(outcome, Exception) else outcome

        self.loops.start(body, 2.0)
        with capturedLogs() as logs:
            self.clock.advance(1.9)
            self.assertEqual(0, self.calls)
            self.clock.pump([0.2, 2, 2])
        return [event["log_level"] for event in logs]

    def test_interval(self) -> None:
        """It is made at each interval, until all are stopped."""
        self.assertEqual([], self.run_three(None))
        self.assertEqual(3, self.calls)
        self.loops.stop()
        self.clock.advance(10)

        self.assertEqual(3, self.calls)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_waits(self) -> None:
        """It is not made while the one before is under way."""
        waiting: Deferred[None] = Deferred()
        self.run_three(waiting, None)
        self.assertEqual(1, self.calls)
        waiting.callback(None)
        self.clock.advance(2)

        self.assertEqual(2, self.calls)

    def test_bug(self) -> None:
        """A bug is logged with its traceback, and ends nothing."""
        for outcome in (ZeroDivisionError(), ValueError("later")):
            self.setUp()
            self.assertEqual([LogLevel.critical], self.run_three(outcome, None))
            self.assertEqual(3, self.calls)
            self.assertEqual(1, len(self.flushLoggedErrors(type(outcome))))

    def test_trouble(self) -> None:
        """Trouble with the host is a line without one."""
        self.assertEqual([LogLevel.warn], self.run_three(HostError("disk full"), None))
        self.assertEqual(3, self.calls)

    def test_given_up(self) -> None:
        """What is given up because the process ends is nothing to speak of."""
        self.assertEqual([], self.run_three(CancelledError()))


class FinishTests(SynchronousTestCase):
    """The last things."""

    def finished(self, **work: Deferred[Any]) -> tuple[Clock, Deferred[list[str]]]:
        clock = Clock()
        return clock, Deferred.fromCoroutine(finish(work, 1.5, clock))

    def test_done(self) -> None:
        """When all is done there is nothing to say, and no time is lost."""
        clock, found = self.finished(host=succeed(["x"]), store=succeed(None))

        self.assertEqual([], self.successResultOf(found))
        self.assertEqual([], clock.getDelayedCalls())

    def test_not_in_time(self) -> None:
        """What hangs is given up, and said."""
        clock, found = self.finished(host=Deferred(), store=succeed(None))
        clock.advance(1.4)
        self.assertNoResult(found)
        clock.advance(0.2)

        self.assertEqual(["host: not within 1.5 s"], self.successResultOf(found))

    def test_failed(self) -> None:
        """What fails is said with its reason; the rest is waited for."""
        late: Deferred[None] = Deferred()
        _, found = self.finished(host=fail(HostError("nft is gone")), store=late)
        self.assertNoResult(found)
        late.callback(None)

        self.assertEqual(["host: nft is gone"], self.successResultOf(found))
