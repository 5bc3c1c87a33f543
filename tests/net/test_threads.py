"""Blocking work beside the reactor."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import pyvpn
from pyvpn.errors import Misuse
from pyvpn.net.threads import Busy, DaemonThreads

PATIENCE = 20  # seconds; only a failing test waits that long


@implementer(IReactorFromThreads)
class HandTurnedReactor:
    """Keeps what threads ask for until the test turns it."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> None:
        self.asked.put((callable, args))

    def turn(self) -> None:
        function, args = self.asked.get(timeout=PATIENCE)
        function(*args)


class Gate:
    """A call that stays inside its thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.let_go.wait(PATIENCE)
        return "passed"


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    """Run Python source from the folder where pyvpn is (trial works in another)."""
    return subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(pyvpn.__file__).resolve().parent.parent,
    )


class DaemonThreadsTests(SynchronousTestCase):
    """Work is done elsewhere, in order, in bounds, and never holds the process."""

    def setUp(self) -> None:
        self.reactor = HandTurnedReactor()

    def make(self, count: int = 1, limit: int = 10) -> DaemonThreads:
        threads = DaemonThreads(self.reactor, count, "test", limit)
        self.addCleanup(threads.stop)
        return threads

    def blocked(self, threads: DaemonThreads) -> tuple[Gate, Deferred[str]]:
        """Occupy one thread; it is let go when the test ends, if not before."""
        gate = Gate()
        self.addCleanup(gate.let_go.set)
        deferred = threads.run(gate)
        assert gate.entered.wait(PATIENCE)
        return gate, deferred

    def test_result(self) -> None:
        """What the call returns arrives, in the reactor's thread and not before it turns."""
        deferred = self.make().run(lambda a, b: (a, b, threading.current_thread().name), 1, b=2)
        function, args = self.reactor.asked.get(timeout=PATIENCE)
        self.assertNoResult(deferred)

        function(*args)

        self.assertEqual((1, 2, "test"), self.successResultOf(deferred))

    def test_exception(self) -> None:
        """What the call raises arrives as a failure, and the thread lives on."""
        threads = self.make()
        first = threads.run(int, "seven")
        second = threads.run(int, "7")
        self.reactor.turn()
        self.reactor.turn()

        self.failureResultOf(first, ValueError)
        self.assertEqual(7, self.successResultOf(second))

    def test_exit_inside(self) -> None:
        """A call that ends its thread is an answer like any other."""
        threads = self.make()
        deferred = threads.run(sys.exit, 3)
        self.reactor.turn()

        self.failureResultOf(deferred, SystemExit)
        self.assertEqual(7, threads.call(int, "7"))

    def test_order(self) -> None:
        """One thread takes the calls in the order in which they were made."""
        threads = self.make(limit=100)
        gate, _ = self.blocked(threads)
        order: list[int] = []
        for number in range(50):
            threads.run(order.append, number)
        gate.let_go.set()
        for _ in range(51):
            self.reactor.turn()

        self.assertEqual(list(range(50)), order)

    def test_at_once(self) -> None:
        """As many calls run at once as there are threads, and one more waits."""
        threads = self.make(count=2)
        first, _ = self.blocked(threads)
        _second, _ = self.blocked(threads)
        third = Gate()
        third.let_go.set()
        threads.run(third)
        self.assertFalse(third.entered.wait(0.02))

        first.let_go.set()

        self.assertTrue(third.entered.wait(PATIENCE))

    def test_threads_are_reused(self) -> None:
        """Calls made one after the other need a single thread."""
        threads = self.make(count=8, limit=0)

        self.assertEqual(1, len({threads.call(threading.get_ident) for _ in range(20)}))

    def test_busy(self) -> None:
        """More work than may wait is refused at once; what waits is still done."""
        threads = self.make(limit=1)
        gate, running = self.blocked(threads)
        waiting = threads.run(int, "7")
        self.failureResultOf(threads.run(int, "8"), Busy)
        self.assertRaises(Busy, threads.call, int, "8")

        gate.let_go.set()
        self.reactor.turn()
        self.reactor.turn()

        self.assertEqual("passed", self.successResultOf(running))
        self.assertEqual(7, self.successResultOf(waiting))

    def test_no_queue(self) -> None:
        """With no room to wait an idle thread still takes a call, every time."""
        threads = self.make(limit=0)

        for _ in range(200):
            self.assertEqual(7, threads.call(int, "7"))

    def test_cancel_waiting(self) -> None:
        """A cancelled call that waits is never made, and its place is free again."""
        threads = self.make(limit=1)
        gate, _ = self.blocked(threads)
        made: list[int] = []
        waiting = threads.run(made.append, 1)

        waiting.cancel()

        self.failureResultOf(waiting, CancelledError)
        threads.run(made.append, 2)
        gate.let_go.set()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual([2], made)

    def test_cancel_running(self) -> None:
        """A cancelled call that runs already ends in silence."""
        gate, running = self.blocked(self.make())

        running.cancel()

        self.failureResultOf(running, CancelledError)
        gate.let_go.set()
        self.reactor.turn()

    def test_stop(self) -> None:
        """Stopping drops what waits, leaves what runs, and waits for neither."""
        threads = self.make()
        gate, running = self.blocked(threads)
        waiting = threads.run(int, "7")

        threads.stop()

        self.failureResultOf(waiting, CancelledError)
        self.assertNoResult(running)
        gate.let_go.set()
        self.reactor.turn()
        self.assertEqual("passed", self.successResultOf(running))

    def test_stopped(self) -> None:
        """After the stop nothing is begun, and stopping again is allowed."""
        threads = self.make()
        threads.stop()
        threads.stop()

        self.failureResultOf(threads.run(int, "7"), CancelledError)
        self.assertRaises(CancelledError, threads.call, int, "7")

    def test_stop_frees_callers(self) -> None:
        """Who waits in a blocking call is let go by the stop, not left hanging."""
        threads = self.make()
        self.blocked(threads)
        outcome: queue.Queue[str] = queue.Queue()

        def caller() -> None:
            try:
                threads.call(int, "7")
            except CancelledError:
                outcome.put("cancelled")

        thread = threading.Thread(target=caller)
        thread.start()
        while not threads._waiting:  # the caller is on its way into the queue
            thread.join(0.001)
        threads.stop()

        self.assertEqual("cancelled", outcome.get(timeout=PATIENCE))
        thread.join()

    def test_idle_threads_end(self) -> None:
        """A stop ends the threads that have nothing to do."""
        threads = self.make()
        thread = threads.call(threading.current_thread)

        threads.stop()
        thread.join(PATIENCE)

        self.assertFalse(thread.is_alive())

    def test_blocking_call(self) -> None:
        """The blocking call gives the value or the exception itself."""
        threads = self.make()

        self.assertEqual(7, threads.call(int, "7"))
        self.assertRaises(ValueError, threads.call, int, "seven")

    def test_waiting_for_itself(self) -> None:
        """A blocking call from inside the thread is refused instead of never returning."""
        threads = self.make()

        self.assertRaises(Misuse, threads.call, lambda: threads.call(int, "7"))

    def test_senseless(self) -> None:
        """No threads, or less than no queue, is our own mistake."""
        self.assertRaises(Misuse, DaemonThreads, self.reactor, 0, "test", 1)
        self.assertRaises(Misuse, DaemonThreads, self.reactor, 1, "test", -1)

    def test_exit_is_not_held(self) -> None:
        """The process exits while a call still hangs."""
        program = (
            "import threading, time\n"
            "from twisted.internet import reactor\n"
            "from pyvpn.net.threads import DaemonThreads\n"
            "entered = threading.Event()\n"
            "threads = DaemonThreads(reactor, 1, 'test', 1)\n"
            "threads.run(lambda: (entered.set(), time.sleep(600)))\n"
            "entered.wait()\n"
            "print('over')\n"
        )
        done = run_program(program)

        self.assertEqual((0, "over\n", ""), (done.returncode, done.stdout, done.stderr))

    def test_fork(self) -> None:
        """After twistd has forked into the background new threads do the work."""
        program = (
            "import os, warnings\n"
            "warnings.simplefilter('ignore')\n"  # 3.12 and later warn of forks beside threads
            "from twisted.internet import reactor\n"
            "from pyvpn.net.threads import DaemonThreads\n"
            "threads = DaemonThreads(reactor, 1, 'test', 0)\n"
            "threads.call(int, '7')\n"
            "if os.fork():\n"
            "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
            "os._exit(threads.call(int, '7'))\n"
        )
        done = run_program(program)

        self.assertEqual((7, ""), (done.returncode, done.stderr))
