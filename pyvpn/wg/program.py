"""``pyvpn wg`` as a process: its log, its signals, its end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from pyvpn.net.process import own_signals, set_aside_the_past, use_monotonic_clock
from pyvpn.wg.service import WgService

_log = Logger()

_LEVELS = {"verbose": LogLevel.debug, "debug": LogLevel.debug, "silent": None}


def begin_logging(level: str) -> None:
    """Write a log to standard error: ``error`` (also for any other word), ``verbose``, ``silent``.

    These are the words of wireguard-go.
    """
    least = _LEVELS.get(level, LogLevel.error)
    observers = []
    if least is not None:
        predicate = LogLevelFilterPredicate(defaultLogLevel=least)
        observers.append(FilteringLogObserver(textFileLogObserver(sys.stderr), [predicate]))
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)


def run(name: str, started: Callable[[], None]) -> None:
    """Be the device *name* until told to end, then return.

    Args:
        started: called when the device is there and answers.

    Raises:
        HostError: it cannot be; nothing is left then.
    """
    from twisted.internet import reactor

    run_in(reactor, name, started)


def run_in(reactor: Any, name: str, started: Callable[[], None]) -> None:
    """The same, in a given *reactor* that does not run yet."""
    use_monotonic_clock(reactor)

    def end(why: str) -> None:
        _log.info("ending: {why}", why=why)
        with suppress(ReactorNotRunning):  # told twice
            reactor.stop()

    service = WgService(reactor, name, end)
    own_signals(
        reactor,
        stop=lambda: end("told to"),
        reload=lambda: end("hung up on"),  # the terminal of -f is closed; there is no file to read
        status=service.log_status,
    )
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(started)
    set_aside_the_past()
    reactor.run()
