"""What the stand-in for threads promises, and the threads themselves."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pyvpn.net.threads import Busy, DaemonThreads
from tests.net.at_once import AtOnce

PATIENCE = 20  # seconds; only a failing test waits that long


class Threads(Protocol):
    """What both are."""

    def run(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]: ...

    def call(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...

    def stop(self) -> None: ...


@implementer(IReactorFromThreads)
class _Reactor:
    """Keeps what threads ask for until it is turned."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()

    def callFromThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:
        self.asked.put((callable, args))


class ThreadsMixin:
    """The same claims of both."""

    assertEqual: Callable[..., None]
    assertRaises: Callable[..., Any]
    failureResultOf: Callable[..., Any]
    successResultOf: Callable[..., Any]
    threads: Threads

    def wait(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """Let *deferred* fire."""
        return deferred

    def test_result(self) -> None:
        """What the call returns arrives."""
        answer = self.wait(self.threads.run(int, "11", base=2))

        self.assertEqual(3, self.successResultOf(answer))
        self.assertEqual(3, self.threads.call(int, "11", base=2))

    def test_exception(self) -> None:
        """What the call raises arrives, and the next call is made all the same."""
        self.failureResultOf(self.wait(self.threads.run(int, "x")), ValueError)
        self.assertRaises(ValueError, self.threads.call, int, "x")
        self.assertEqual(3, self.successResultOf(self.wait(self.threads.run(int, "3"))))

    def test_order(self) -> None:
        """Calls are made in the order in which they were asked for."""
        made: list[int] = []
        answers = [self.threads.run(made.append, number) for number in range(9)]
        for answer in answers:
            self.wait(answer)

        self.assertEqual(list(range(9)), made)

    def test_stopped(self) -> None:
        """After the end nothing is done any more, and that is said."""
        self.threads.stop()

        self.failureResultOf(self.threads.run(int, "3"), CancelledError)
        self.assertRaises(CancelledError, self.threads.call, int, "3")


class AtOnceTests(ThreadsMixin, SynchronousTestCase):
    """The stand-in."""

    def setUp(self) -> None:
        self.threads = AtOnce()

    def test_held(self) -> None:
        """A held call is made when the test says, too many are refused, an end drops them."""
        threads = AtOnce(limit=2)
        threads.held = True
        first, second = threads.run(int, "1"), threads.run(int, "2")
        self.failureResultOf(threads.run(int, "3"), Busy)
        self.assertNoResult(first)

        threads.go_on(1)
        self.assertEqual(1, self.successResultOf(first))
        threads.stop()
        self.failureResultOf(second, CancelledError)

    def test_failing(self) -> None:
        """A function can be made to fail."""
        threads = AtOnce()
        threads.failing = "int"
        self.failureResultOf(threads.run(int, "1"), Busy)
        self.assertEqual("1", self.successResultOf(threads.run(str, 1)))


class DaemonThreadsTests(ThreadsMixin, SynchronousTestCase):
    """The real ones."""

    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.threads = DaemonThreads(self.reactor, 1, "test", 1000)
        self.addCleanup(self.threads.stop)

    def wait(self, deferred: Deferred[Any]) -> Deferred[Any]:
        while not deferred.called:
            function, args = self.reactor.asked.get(timeout=PATIENCE)
            function(*args)
        return deferred
