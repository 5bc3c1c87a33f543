"""Time that passes only when told to, for everything in one simulation.

Rules of this file: what is due at the same time happens in the order in which it was asked for,
and an exception ends the run where it happens.  The reactor would log it and go on; a test wants
to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

_FEW = 64
"""So many outdated entries are not worth a sweep."""


@implementer(IDelayedCall)
class SimCall:
    """One call to come."""

    __slots__ = ("_args", "_clock", "_keywords", "_state", "at", "function", "order", "process")

    def __init__(
        self,
        clock: SimClock,
        at: float,
        function: Callable[..., object],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        process: ProcessClock | None = None,
    ) -> None:
        self._clock = clock
        self.process = process
        """Whose it is, if it dies with a process."""
        self.function = function
        self._args = args
        self._keywords = keywords
        self._state = ""
        self.at = at
        self.order = 0
        """Which of our entries in the clock's heap holds; those before a change do not."""

    def getTime(self) -> float:
        return self.at

    def active(self) -> bool:
        return not self._state

    def cancel(self) -> None:
        self._check()
        self._state = "cancelled"
        self.order = -1
        self._clock.outdated()

    def reset(self, secondsFromNow: float) -> None:
        self._move(self._clock.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._move(self.at + secondsLater)

    def begin(self) -> None:
        """Be no call to come any more; for the clock, which makes it."""
        self._state = "called"

    def entry(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """What to call with which arguments; for the clock."""
        if self._keywords:
            return partial(self.function, *self._args, **self._keywords), ()
        return self.function, self._args

    def _move(self, at: float) -> None:
        self._check()
        self.at = at
        self._clock.add(self)
        self._clock.outdated()

    def _check(self) -> None:
        if self._state == "called":
            raise AlreadyCalled
        if self._state:
            raise AlreadyCancelled


@implementer(IReactorTime)
class SimClock:
    """The clock of a simulation; to whoever asks for a reactor's time, the reactor.

    ``twisted.internet.task.Clock`` sorts all its calls at each change; this is a heap, and beside
    it a queue of what is to be done at this very time, which is half of everything.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._heap: list[tuple[float, int, SimCall | None, Callable[..., object], Any]] = []
        # Whatever the heap has for this time is older than all of it.
        self._soon: deque[tuple[int, SimCall | None, Callable[..., object], Any]] = deque()
        self._orders = count(1)
        self._outdated = 0
        self.events = 0
        """How many calls were made."""

    def seconds(self) -> float:
        return self._now

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        assert delay >= 0, f"{delay} s from now is in the past"
        call = SimCall(self, self._now + delay, callable, args, kw)
        self.add(call)
        return call

    def call_at(self, at: float, function: Callable[..., object], *args: object) -> SimCall:
        """Call *function* at the time *at*, and not a rounding error before."""
        call = SimCall(self, at, function, args, {})
        self.add(call)
        return call

    def schedule(self, at: float, function: Callable[..., object], *args: object) -> None:
        """Call *function* at the time *at*, and have no way to change one's mind.

        For each datagram on its way: it costs half of :meth:`callLater`.
        """
        if at > self._now:
            heappush(self._heap, (at, next(self._orders), None, function, args))
        else:
            self._soon.append((0, None, function, args))

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Call *function* at this time, after everything that is due now."""
        self._soon.append((0, None, function, args))

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return [*self._calls()]

    def _calls(self) -> list[SimCall]:
        """All calls to come, in order."""
        entries = [*((order, call) for _, order, call, *_ in sorted(self._heap))]
        entries += ((order, call) for order, call, *_ in self._soon)
        calls = [call for order, call in entries if call and call.order == order]
        return sorted(calls, key=lambda call: (call.at, call.order))

    def add(self, call: SimCall) -> None:
        """Put *call* where its time is; for the call."""
        if call.process is not None and not call.process.is_alive:
            call.order = 0  # it is never made
            return
        call.order = next(self._orders)
        function, args = call.entry()
        if call.at > self._now:
            heappush(self._heap, (call.at, call.order, call, function, args))
        else:
            self._soon.append((call.order, call, function, args))

    def outdated(self) -> None:
        """Note that an entry does not hold any more; for the calls."""
        self._outdated += 1
        if self._outdated > _FEW + len(self._heap) // 2:
            # In place, for a run has both in its hands.
            self._heap[:] = [each for each in self._heap if not _is_outdated(each[2], each[1])]
            heapify(self._heap)
            here = [each for each in self._soon if not _is_outdated(each[1], each[0])]
            self._soon.clear()
            self._soon.extend(here)
            self._outdated = 0

    def hold(self, is_held: Callable[[SimCall], bool]) -> list[SimCall]:
        """Take out the calls to come of which *is_held* says so, for :meth:`release`."""
        held = [call for call in self._calls() if is_held(call)]
        for call in held:
            call.order = 0  # it is still to be made, but no entry of ours holds
            self.outdated()
        return held

    def release(self, calls: list[SimCall], later: float) -> None:
        """Put back what :meth:`hold` has returned, each call so many seconds *later*."""
        for call in calls:
            if call.active() and not call.order:
                call.at += later
                self.add(call)

    # -- letting time pass

    @property
    def next_due(self) -> float:
        """When the next call is due; infinity: there is none."""
        heap, soon = self._heap, self._soon
        while heap and _is_outdated(heap[0][2], heap[0][1]):
            heappop(heap)
            self._outdated -= 1
        while soon and _is_outdated(soon[0][1], soon[0][0]):
            soon.popleft()
            self._outdated -= 1
        if soon:
            return self._now
        return heap[0][0] if heap else float("inf")

    def step(self, until: float = float("inf")) -> bool:
        """Make the next call if it is due by *until*; False when there is none."""
        heap, soon = self._heap, self._soon
        due = self.next_due
        if due > until or not (soon or heap):
            return False
        if soon and (not heap or heap[0][0] > self._now):
            _, call, function, args = soon.popleft()
        else:
            at, _, call, function, args = heappop(heap)
            self._now = max(self._now, at)
        if call is not None:
            call.begin()
        self.events += 1
        function(*args)
        return True

    def run(self, until: float) -> None:
        """Make every call that is due up to the time *until*, each at its time."""
        # As `step` again and again, in half the time.
        heap, soon = self._heap, self._soon
        while True:
            if soon and (not heap or heap[0][0] > self._now):
                if self._now > until:
                    break
                order, call, function, args = soon.popleft()
                if call is not None and call.order != order:
                    self._outdated -= 1
                    continue
            elif heap:
                at, order, call, function, args = heap[0]
                if call is not None and call.order != order:
                    heappop(heap)
                    self._outdated -= 1
                    continue
                if at > until:
                    break
                heappop(heap)
                if at > self._now:
                    self._now = at
            else:
                break
            if call is not None:
                call.begin()
            self.events += 1
            function(*args)
        self._now = max(self._now, until)

    def advance(self, amount: float) -> None:
        """Let *amount* seconds pass, as ``task.Clock`` calls it; but each call has its time."""
        self.run(self._now + amount)

    def run_while(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Run until *condition* is no longer true; False when it still is after *seconds*."""
        until = self._now + seconds
        while condition():
            if not self.step(until):
                self._now = max(self._now, until)
                return not condition()
        return True


@implementer(IReactorTime)
class ProcessClock:
    """The time of one process: when that is killed, none of its calls is made any more.

    What a process arms with the clock itself would go on after its death.
    """

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self.seconds = clock.seconds
        self.is_alive = True

    def kill(self) -> None:
        """Make no call any more, now or later."""
        self.is_alive = False
        self._clock.hold(lambda call: call.process is self)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        assert delay >= 0, f"{delay} s from now is in the past"
        call = SimCall(self._clock, self.seconds() + delay, callable, args, kw, self)
        self._clock.add(call)
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return [
            call
            for call in self._clock.getDelayedCalls()
            if isinstance(call, SimCall) and call.process is self
        ]


def _is_outdated(call: SimCall | None, order: int) -> bool:
    return call is not None and call.order != order
