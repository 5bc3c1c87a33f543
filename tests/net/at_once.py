"""Work for threads, done without any: at once, or when the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from pyvpn.net.threads import Busy

P = ParamSpec("P")
T = TypeVar("T")


class AtOnce:
    """Stands for DaemonThreads (tests/net/test_at_once.py holds the two against each other).

    Keeps the names of the functions that it ran.  The function called *failing* fails with
    *failure*, as if the disk were full; while *held* is set, calls wait for :meth:`go_on`.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.made: list[str] = []
        self.failing = ""
        self.failure: Exception = Busy("too much to do")
        self.held = False
        self._limit = limit
        self._stopped = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        deferred: Deferred[T] = Deferred()
        if self._stopped:
            return fail(CancelledError("stopped"))
        if len(self._waiting) >= self._limit:
            return fail(Busy("too many calls wait"))
        self._waiting.append((lambda: self._do(f, *args, **kwargs), deferred))
        if not self.held:
            self.go_on()
        return deferred

    def call(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._stopped:
            raise CancelledError("stopped")
        return self._do(f, *args, **kwargs)

    def stop(self) -> None:
        self._stopped = True
        waiting, self._waiting = self._waiting, []
        for _, deferred in waiting:
            deferred.errback(Failure(CancelledError("stopped")))

    def go_on(self, most: int = 1000) -> None:
        """Do what waits, the oldest first."""
        while self._waiting and most:
            most -= 1
            work, deferred = self._waiting.pop(0)
            try:
                outcome: Any = work()
            except BaseException:  # noqa: BLE001 - whatever it was, it belongs to who asked
                outcome = Failure()
            deferred.callback(outcome)

    def _do(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.made.append(f.__name__)
        if f.__name__ == self.failing:
            raise self.failure
        return f(*args, **kwargs)
