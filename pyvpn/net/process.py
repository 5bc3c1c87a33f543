"""What a daemon of ours does as a process: one copy, own signals, an honest exit status."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.logger import Logger

from pyvpn.errors import ConfigError, HostError

_log = Logger()


def boottime() -> float:
    """Seconds since boot, sleep included: the only clock that the deaf rooms are shown."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic_clock(reactor: Any) -> None:
    """Make *reactor* count in a clock nobody can set.

    Twisted's default is the wall clock (twisted #2424): set back by an hour, every timer
    waits an hour longer.  Must be called before anything is scheduled.
    """
    reactor.seconds = time.monotonic


def refuse_shed_privileges(options: Any) -> None:
    """Refuse ``twistd --uid``: it would drop the capability that the TUN needs.

    Raises:
        ConfigError: naming what to use instead.
    """
    if options is not None and (options.get("uid"), options.get("gid")) != (None, None):
        raise ConfigError(
            "twistd --uid and --gid would drop CAP_NET_ADMIN with root: use the systemd unit in "
            "etc/systemd/, or  setpriv --reuid NAME --regid NAME --init-groups "
            "--ambient-caps +net_admin --inh-caps +net_admin  twistd ..."
        )


def without_pidfile_in_foreground(twistd: Any) -> None:
    """No ``twistd.pid`` for ``twistd -n``, so that both commands run side by side in one folder.

    Our own lock says better who runs already.  An explicit ``--pidfile`` stays.
    """
    if twistd is not None and twistd["nodaemon"] and twistd["pidfile"] == "twistd.pid":
        twistd["pidfile"] = None


class StateLock:
    """One process per state directory, held by ``flock`` so that no crash leaves it behind."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, "lock")
        self._fd: int | None = None

    def take(self) -> None:
        """Make the directory (0700) if need be and lock it.

        Raises:
            HostError: another process has it, or the directory cannot be used.
        """
        directory = os.path.dirname(self._path)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise HostError(
                f"{directory}: cannot be used as state directory: {problem.strerror}; "
                "run as root, or name another with state_dir = ..."
            ) from problem
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise HostError(
                f"{directory}: in use by another pyvpn process (pid {holder or 'unknown'}); "
                "stop that one first, or give this one its own state_dir"
            ) from None
        self._fd = fd

    def write_pid(self) -> None:
        """Note who we are, for the message above (after daemonising: the pid changes then)."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def own_signals(
    reactor: Any,
    *,
    stop: Callable[[], None],
    reload: Callable[[], None],
    status: Callable[[], None],
) -> None:
    """Take SIGTERM, SIGINT, SIGHUP and SIGUSR2 once the reactor runs.

    Twisted's own SIGTERM ends in twistd raising the signal again (exit 143); ours ends in 0.
    Nothing is done inside the signal: the reactor is told, and does it in its own time.
    """

    def take() -> None:
        def later(what: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
            return lambda _number, _frame: reactor.callFromThread(what)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, later(stop))
        signal.signal(signal.SIGHUP, later(reload))
        signal.signal(signal.SIGUSR2, later(status))

    reactor.callWhenRunning(take)


def refuse_to_start(error: Exception, daemonised: bool) -> None:
    """Leave with one line and status 1, before the reactor ever ran.

    Raises:
        SystemExit: in the foreground, where twistd would print a traceback for anything else.
        HostError: when daemonised, since twistd reports only an ``Exception`` to the shell.
    """
    if daemonised:
        _log.critical("{error}", error=str(error))
        raise HostError(str(error)) from None
    sys.stdout.flush()
    raise SystemExit(f"pyvpn: {error}")


def end_with_failure(reactor: Any, why: str) -> None:
    """Stop a running reactor so that the process ends with status 1.

    twistd exits 0 after any orderly stop; a service supervisor could not tell that from success.
    """
    _log.critical("stopping: {why}", why=why)

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)
    if reactor.running:
        reactor.stop()
