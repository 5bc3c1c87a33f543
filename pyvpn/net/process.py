"""What a daemon of ours does as a process: one copy, own signals, an honest exit status."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from pyvpn.errors import ConfigError, HostError

_log = Logger()


_NEW_OBJECTS = 10_000
"""After so many more than have gone the garbage collector looks at the new ones."""


def boottime() -> float:
    """Seconds since boot, sleep included: the only clock that the deaf rooms are shown."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic_clock(reactor: Any) -> None:
    """Make *reactor* count in a clock nobody can set.

    Twisted's default is the wall clock (twisted #2424): set back by an hour, every timer
    waits an hour longer.  Must be called before anything is scheduled.
    """
    reactor.seconds = time.monotonic


_M_MMAP_THRESHOLD = -3  # of malloc.h


def return_large_blocks() -> None:
    """Have the C library give memory back that was taken in blocks of a megabyte or more.

    A password's hash takes 19 MB for 60 ms.  Left to itself glibc learns from the first one that
    such blocks come and go, and keeps one for each hashing thread from then on.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


_MOST_FILES = 1 << 20  # more than clients; some containers' limit is a thousand times this
_FEW_FILES = 4096


def allow_many_files() -> None:
    """Raise the limit of open files as far as we may: each client's connection is one.

    The usual limit of 1024 is low for the sake of programs that use select(), which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        most = soft
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most != resource.RLIM_INFINITY and most < _FEW_FILES:
        _log.warn(
            "at most {most} files may be open, and each client takes one: see LimitNOFILE= of "
            "systemd, or ulimit -Hn",
            most=most,
        )


def set_aside_the_past(tidy: bool = True) -> None:
    """Spare the garbage collector everything that exists now, which is here to stay.

    *tidy*: but for what is garbage already, which takes 40 ms.

    A full collection, which stops all traffic, then takes a tenth of the time.  Of what comes
    later little is garbage that counting references does not find: to look every 700 objects, as
    Python does by itself, took a twentieth of the time in which a thousand clients came back.
    """
    if tidy:
        gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


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
            denied = isinstance(problem, PermissionError)
            reason = "it is a file" if isinstance(problem, FileExistsError) else problem.strerror
            raise HostError(
                f"{directory}: cannot be used as state directory: {reason}; "
                f"{'run as root, or ' if denied else ''}name another with state_dir = ..."
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
            with suppress(OSError):  # a full disk: whoever needs it will say so
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._fd is not None:
            # Closing alone would leave it to a child that has not got as far as its exec.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = None


def own_signals(
    reactor: Any,
    *,
    stop: Callable[[], None],
    reload: Callable[[], None],
    status: Callable[[], None],
) -> None:
    """Take SIGTERM, SIGINT, SIGHUP and SIGUSR2, to be called before anything is changed.

    Twisted's own SIGTERM ends in twistd raising the signal again (exit 143); ours ends in 0.
    Nothing is done inside the signal: the reactor is told, and does it in its own time.
    """

    def stop_once() -> None:
        with suppress(ReactorNotRunning):  # told twice
            stop()

    def later(what: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda _number, _frame: reactor.callFromThread(what)

    def take() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, later(stop_once))
        signal.signal(signal.SIGHUP, later(reload))
        signal.signal(signal.SIGUSR2, later(status))

    take()  # a start that is cut short must be undone like any other
    # When the reactor begins to run it takes the signals for itself, with its own handlers: for
    # the moment until they are ours again, those are made ours, too.
    reactor.sigInt = reactor.sigTerm = later(stop_once)
    reactor.callWhenRunning(take)


_terminal: list[int] = []
"""Standard error of the shell that is waiting for a daemon's start; at most one."""


def keep_terminal(reactor: Any) -> None:
    """Hold on to standard error past twistd's becoming a daemon, until *reactor* runs.

    twistd itself passes on 100 bytes of an error, of which most is its own type.
    """
    with suppress(OSError):  # there may be none
        _terminal.append(os.dup(2))
    reactor.callWhenRunning(_let_go_of_terminal)


def _let_go_of_terminal() -> None:
    while _terminal:
        os.close(_terminal.pop())


def refuse_to_start(error: Exception, daemonised: bool) -> NoReturn:
    """Leave with one line and status 1, before the reactor ever ran.

    Raises:
        SystemExit: in the foreground, where twistd would print a traceback for anything else.
        HostError: when daemonised, since twistd reports only an ``Exception`` to the shell.
    """
    if daemonised:
        _log.critical("{error}", error=str(error))
        sys.excepthook = lambda *_: None  # it is said; no traceback below it in the log
        if _terminal:
            with suppress(OSError):  # nobody reads there any more
                os.write(_terminal[0], f"pyvpn: {error}\n".encode())
                raise HostError("not started, as said above") from None
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

    if reactor.running:
        try:
            reactor.stop()
        except ReactorNotRunning:  # stopping already, on purpose
            return
    atexit.register(leave)
