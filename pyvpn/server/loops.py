"""What is done again and again, and how the last things are done in a limited time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pyvpn.errors import PyvpnError

_log = Logger()


class Loops:
    """Calls that are made at intervals, whatever becomes of one of them.

    A LoopingCall whose body fails once is never called again, and nobody would notice.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._loops: list[LoopingCall] = []

    def start(self, body: Callable[[], Deferred[Any] | None], seconds: float) -> None:
        """Call *body* every so many *seconds*, but not before its Deferred has fired."""
        loop = LoopingCall(self._guarded, body)
        loop.clock = self._clock
        loop.start(seconds, now=False)
        self._loops.append(loop)

    def stop(self) -> None:
        """Call nothing any more; to be called once."""
        for loop in self._loops:
            loop.stop()

    def _guarded(self, body: Callable[[], Deferred[Any] | None]) -> Deferred[Any] | None:
        try:
            result = body()
        except Exception:  # noqa: BLE001 - any bug at all
            _log.failure("a periodic task failed")
            return None
        if result is not None:
            result.addErrback(self._failed)
        return result

    def _failed(self, failure: Failure) -> None:
        if failure.check(PyvpnError):
            _log.warn("{error}", error=failure.getErrorMessage())
        elif not failure.check(CancelledError):  # which is the end of the process
            _log.failure("a periodic task failed", failure)


async def finish(
    work: Mapping[str, Deferred[Any]], seconds: float, clock: IReactorTime
) -> list[str]:
    """Wait until all of *work* is done, at most *seconds*; what then goes on is given up.

    Returns:
        What was not done, and why.
    """
    waiting = DeferredList(list(work.values()), consumeErrors=True)
    # The time-out cancels each part and not the list, which tells of all of them as ever.
    results: list[Any] = await waiting.addTimeout(seconds, clock)
    return [
        f"{name}: {_reason(outcome, seconds)}"
        for name, (success, outcome) in zip(work, results, strict=True)
        if not success
    ]


def _reason(failure: Failure, seconds: float) -> str:
    late = failure.check(CancelledError)
    return f"not within {seconds:g} s" if late else failure.getErrorMessage()
