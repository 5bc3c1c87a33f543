"""What a daemon of ours does as a process."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from twisted.internet.error import ReactorNotRunning
from twisted.trial.unittest import SynchronousTestCase

import pyvpn
from pyvpn.errors import ConfigError, HostError
from pyvpn.net import process
from pyvpn.net.process import (
    StateLock,
    boottime,
    own_signals,
    refuse_shed_privileges,
    refuse_to_start,
    use_monotonic_clock,
    without_pidfile_in_foreground,
)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Another process of ours."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(pyvpn.__file__).resolve().parent.parent,
    )


class ClockTests(SynchronousTestCase):
    """Clocks that nobody can set."""

    def test_boottime(self) -> None:
        """Seconds since boot, which only grow."""
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        found = boottime()
        self.assertTrue(before <= found <= time.clock_gettime(time.CLOCK_BOOTTIME))

    def test_reactor(self) -> None:
        """The reactor counts by the monotonic clock."""

        class Reactor:
            seconds = staticmethod(time.time)

        reactor = Reactor()
        use_monotonic_clock(reactor)
        self.assertTrue(0 <= reactor.seconds() - time.monotonic() + 1 < 60)


class PastTests(SynchronousTestCase):
    """The garbage collector, which stops everything while it looks at all there is."""

    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.collect)  # here, and not in the first thread that comes along
        self.addCleanup(gc.unfreeze)
        gc.disable()
        self.addCleanup(gc.enable)

    def test_set_aside(self) -> None:
        """What exists is looked at no more; what is garbage by then goes first, if told to."""
        for tidy in True, False:
            gc.unfreeze()
            gone = weakref.WeakSet[_Referred]()
            one = _Referred()
            one.itself = one
            gone.add(one)
            del one

            process.set_aside_the_past(tidy)

            self.assertEqual(tidy, not gone)
            self.assertGreater(gc.get_freeze_count(), 10_000)
            self.assertGreater(gc.get_threshold()[0], 700)


class _Referred:
    """What a weak reference can be of, and refers to itself."""

    itself: _Referred


class FilesTests(SynchronousTestCase):
    """How many files may be open."""

    def allowed(self, soft: int, hard: int) -> tuple[str, str]:
        """The limit in a process that began with these, and what it says."""
        program = (
            "import resource\n"
            "from twisted.logger import capturedLogs, formatEvent\n"
            "from pyvpn.net.process import allow_many_files\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            "with capturedLogs() as logs:\n"
            "    allow_many_files()\n"
            "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
            "print(*map(formatEvent, logs))\n"
        )
        done = run_python(program)
        self.assertEqual("", done.stderr)
        limits, said = done.stdout.splitlines()
        return limits, said

    def test_raised(self) -> None:
        """As many as the operator allows; that is said only if it is few."""
        self.assertEqual(("4096 4096", ""), self.allowed(256, 4096))
        self.assertEqual(("4096 4096", ""), self.allowed(4096, 4096))

    def test_few(self) -> None:
        """A low limit is said, with where it is set."""
        limits, said = self.allowed(256, 1000)
        self.assertEqual("1000 1000", limits)
        self.assertIn("at most 1000 files", said)
        self.assertIn("LimitNOFILE", said)


class TwistdTests(SynchronousTestCase):
    """What twistd was told."""

    def test_uid(self) -> None:
        """--uid and --gid are refused, also for root's, and what to use instead is said."""
        for options in ({"uid": 1000, "gid": None}, {"uid": None, "gid": 0}, {"uid": 0}):
            error = self.assertRaises(ConfigError, refuse_shed_privileges, options)
            self.assertIn("setpriv", str(error))
            self.assertIn("systemd", str(error))
            self.assertNotIn("\n", str(error))

    def test_no_uid(self) -> None:
        """Without them all is well."""
        for options in ({"uid": None, "gid": None}, {}, None):
            refuse_shed_privileges(options)

    def test_pidfile(self) -> None:
        """In the foreground there is no pid file, unless one was named; a daemon has its own."""
        for nodaemon, pidfile, expected in (
            (True, "twistd.pid", None),
            (True, "/run/x.pid", "/run/x.pid"),
            (True, "", ""),
            (False, "twistd.pid", "twistd.pid"),
        ):
            options = {"nodaemon": nodaemon, "pidfile": pidfile}
            without_pidfile_in_foreground(options)
            self.assertEqual(expected, options["pidfile"])
        without_pidfile_in_foreground(None)


class StateLockTests(SynchronousTestCase):
    """One process per state directory."""

    def setUp(self) -> None:
        self.place = self.mktemp()

    def lock(self) -> StateLock:
        lock = StateLock(self.place)
        self.addCleanup(lock.release)
        return lock

    def test_second(self) -> None:
        """A second one is refused, and told who holds it; after a release it is free."""
        first, second = self.lock(), self.lock()
        first.take()
        first.write_pid()
        error = self.assertRaises(HostError, second.take)
        self.assertIn(f"pid {os.getpid()}", str(error))
        self.assertIn(self.place, str(error))
        self.assertNotIn("\n", str(error))

        first.release()
        first.release()
        second.take()

    def test_unknown_holder(self) -> None:
        """A holder that has not said its name yet is unknown."""
        self.lock().take()
        self.assertIn("pid unknown", str(self.assertRaises(HostError, self.lock().take)))

    def test_left_by_a_crash(self) -> None:
        """A lock file left by a crash, with whatever in it, is in nobody's way."""
        Path(self.place).mkdir()
        (Path(self.place) / "lock").write_text("99999999999 and more\n")
        lock = self.lock()
        lock.take()
        lock.write_pid()

        self.assertEqual(f"{os.getpid()}\n", (Path(self.place) / "lock").read_text())

    def test_directory(self) -> None:
        """The directory is made, for us alone."""
        self.lock().take()
        self.assertEqual(0o700, stat.S_IMODE(os.stat(self.place).st_mode))

    def test_no_directory(self) -> None:
        """One that cannot be is the host's fault, in one line with what to do."""
        Path(self.place).write_text("")
        error = self.assertRaises(HostError, self.lock().take)
        self.assertIn(f"{self.place}: cannot be used as state directory", str(error))
        self.assertIn("state_dir", str(error))

    def test_not_inherited(self) -> None:
        """A child that outlives us does not keep the lock."""
        first = self.lock()
        first.take()
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
        )
        try:
            first.release()
            self.lock().take()
        finally:
            child.communicate(b"\n")

    def test_not_taken(self) -> None:
        """Without the lock there is nothing to note or to release."""
        lock = self.lock()
        lock.write_pid()
        lock.release()
        self.assertFalse(os.path.exists(self.place))


class _Reactor:
    """Runs what is to run, and keeps what signals ask for."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def callWhenRunning(self, what: Callable[[], None]) -> None:
        what()

    def callFromThread(self, what: Callable[[], None]) -> None:
        self.asked.append(what)


class SignalTests(SynchronousTestCase):
    """Signals."""

    def test_each(self) -> None:
        """Each signal asks the reactor for its own, and does nothing by itself."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        for number in numbers:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        said: list[str] = []
        reactor = _Reactor()
        own_signals(
            reactor,
            stop=lambda: said.append("stop"),
            reload=lambda: said.append("reload"),
            status=lambda: said.append("status"),
        )
        for number in numbers:
            signal.raise_signal(number)
        self.assertEqual([], said)
        for what in reactor.asked:
            what()

        self.assertEqual(["stop", "stop", "reload", "status"], said)

    def test_told_twice(self) -> None:
        """A second SIGTERM, while the first is being obeyed, is no error."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

        def stop() -> None:
            raise ReactorNotRunning

        reactor = _Reactor()
        own_signals(reactor, stop=stop, reload=stop, status=stop)
        signal.raise_signal(signal.SIGTERM)
        [what] = reactor.asked
        what()


class EndTests(SynchronousTestCase):
    """How it ends when it cannot go on."""

    def test_refused_in_the_foreground(self) -> None:
        """At a terminal: one line and status 1."""
        error = self.assertRaises(SystemExit, refuse_to_start, HostError("no TUN"), False)
        self.assertEqual("pyvpn: no TUN", error.code)

    def test_refused_as_daemon(self) -> None:
        """As a daemon: an exception, which is how twistd tells the shell."""
        self.patch(process, "_terminal", [])  # other tests start daemons, too
        self.patch(sys, "excepthook", sys.excepthook)
        self.patch(sys, "excepthook", sys.excepthook)
        error = self.assertRaises(HostError, refuse_to_start, ConfigError("no"), True)
        self.assertEqual("no", str(error))

    def run_program(self, running: bool, stop: str) -> subprocess.CompletedProcess[str]:
        """A process that gives up while its reactor runs, or not."""
        program = (
            "from twisted.internet.error import ReactorNotRunning\n"
            "from pyvpn.net.process import end_with_failure\n"
            "class Reactor:\n"
            f"    running = {running}\n"
            "    def stop(self):\n"
            f"        {stop}\n"
            "end_with_failure(Reactor(), 'the device is gone')\n"
            "print('last words')\n"
            "raise SystemExit(0)\n"
        )
        return run_python(program)

    def test_while_running(self) -> None:
        """An orderly stop of the reactor, and status 1 all the same; nothing said is lost."""
        done = self.run_program(True, "print('stopped')")
        self.assertEqual((1, "stopped\nlast words\n"), (done.returncode, done.stdout))

    def test_before_running(self) -> None:
        """A reactor that does not run is not stopped."""
        done = self.run_program(False, "print('stopped')")
        self.assertEqual((1, "last words\n"), (done.returncode, done.stdout))

    def test_stopping_already(self) -> None:
        """A reactor that stops already does so on purpose: the status says so."""
        done = self.run_program(True, "raise ReactorNotRunning")
        self.assertEqual((0, "last words\n"), (done.returncode, done.stdout))
