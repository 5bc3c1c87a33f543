"""Work that would block the reactor, done in threads that never hold the process.

Twisted's own thread pool joins its threads at exit, so one name lookup that hangs makes SIGTERM
take as long as the lookup.  These threads are daemons: nobody ever waits for them.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from pyvpn.errors import HostError, Misuse, PyvpnError

P = ParamSpec("P")
T = TypeVar("T")


class Busy(PyvpnError):
    """As much work waits already as was allowed to wait; nothing was begun."""


class _Job(Generic[T]):
    """A call for some thread to make, and where its outcome goes."""

    __slots__ = ("_work", "done", "drop")

    def __init__(
        self,
        work: Callable[[], T],
        done: Callable[[T | Failure], None],
        drop: Callable[[], None],
    ) -> None:
        self._work = work
        self.done = done
        self.drop = drop

    def outcome(self) -> T | Failure:
        try:
            return self._work()
        except BaseException:  # noqa: BLE001 - whatever it was, it belongs to who asked
            return Failure()


class _Answer(Generic[T]):
    """What a blocking caller waits for."""

    __slots__ = ("_arrived", "_outcome")

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._outcome: T | Failure | None = None

    def set(self, outcome: T | Failure) -> None:
        self._outcome = outcome
        self._arrived.set()

    def wait(self) -> T:
        self._arrived.wait()
        if isinstance(self._outcome, Failure):
            self._outcome.raiseException()
        return cast(T, self._outcome)


class DaemonThreads:
    """At most *count* threads, begun when first needed, and a queue for at most *limit* calls.

    Calls are begun in the order in which they were made; with a count of one they also end in
    that order and share one thread, which is what a netlink socket needs.

    Args:
        reactor: results reach it by ``callFromThread``.
        count: how many calls may run at once.
        name: of the threads, for whoever reads a stack dump, and in error texts.
        limit: how many calls may wait for a thread.
    """

    def __init__(self, reactor: IReactorFromThreads, count: int, name: str, limit: int) -> None:
        if count < 1 or limit < 0:
            raise Misuse(f"{name} threads: count {count}, limit {limit}")
        self._reactor = reactor
        self._count = count
        self._name = name
        self._limit = limit
        self._stopped = False
        self._begin_in_this_process()

    def run(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call *f* in a thread; fires, in the reactor's thread, with what it returned or raised.

        Itself never raises.  Fails with `Busy` when the queue is full, with `HostError` when the
        kernel gives us no thread, with ``CancelledError`` after `stop`.  Cancelling takes a call
        that waits back; one that runs already runs to its end and its outcome is dropped.
        """
        deferred: Deferred[T] = Deferred(lambda _: self._take_back(job))

        def fire(outcome: T | Failure) -> None:
            if not deferred.called:  # else cancelled meanwhile
                deferred.callback(outcome)

        job = _Job(
            lambda: f(*args, **kwargs),
            lambda outcome: self._reactor.callFromThread(fire, outcome),
            # Whoever stops us is the reactor's thread, perhaps in its last turn.
            lambda: fire(Failure(CancelledError())),
        )
        try:
            self._submit(job)
        except (PyvpnError, CancelledError):
            return fail()
        return deferred

    def call(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *f* in a thread and wait for it: for the time when the reactor does not run.

        Raises what *f* raises, and what `run` fails with.

        Raises:
            Misuse: called in one of these threads, which would wait for itself.
        """
        if threading.current_thread() in self._threads:
            raise Misuse(f"a {self._name} thread cannot wait for the {self._name} threads")
        answer: _Answer[T] = _Answer()
        job = _Job(
            lambda: f(*args, **kwargs),
            answer.set,
            lambda: answer.set(Failure(CancelledError())),
        )
        self._submit(job)
        return answer.wait()

    def stop(self) -> None:
        """Drop what waits (``CancelledError``) and let the threads end; wait for none.

        What runs already runs on, and its outcome arrives if the reactor still turns then.
        To be called in the reactor's thread; a second time does nothing.
        """
        with self._change:
            self._stopped = True
            dropped = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for job in dropped:  # outside the lock: they call who knows whom
            job.drop()

    def _begin_in_this_process(self) -> None:
        self._pid = os.getpid()
        self._change = threading.Condition(threading.Lock())
        self._waiting: OrderedDict[_Job[Any], None] = OrderedDict()
        self._running = 0
        self._threads: set[threading.Thread] = set()

    def _submit(self, job: _Job[Any]) -> None:
        if self._pid != os.getpid():
            # twistd forks to become a daemon after it built its services, and threads do not
            # survive a fork: what we began before is not there any more.
            self._begin_in_this_process()
        with self._change:
            if self._stopped:
                raise CancelledError(f"the {self._name} threads have been stopped")
            if self._running + len(self._waiting) >= self._count + self._limit:
                raise Busy(f"{len(self._waiting)} calls wait for the {self._name} threads already")
            if self._running + len(self._waiting) >= len(self._threads) < self._count:
                self._begin_thread()
            self._waiting[job] = None
            self._change.notify()

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._threads.add(thread)  # before it runs: a very quick one takes itself out again
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            if not self._threads:  # else the others will come to it
                raise HostError(f"no {self._name} thread: {error} (see: ulimit -u)") from None

    def _take_back(self, job: _Job[Any]) -> None:
        with self._change:
            self._waiting.pop(job, None)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting:
                    if self._stopped:
                        self._threads.discard(threading.current_thread())
                        return
                    self._change.wait()
                job, _ = self._waiting.popitem(last=False)
                self._running += 1
            outcome = job.outcome()
            with self._change:  # before anybody hears of it and asks for the next
                self._running -= 1
            job.done(outcome)
            del job, outcome  # an idle thread keeps nobody's password alive
