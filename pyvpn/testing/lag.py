"""How long a running daemon's reactor takes to come round, seen from another of its threads."""

from __future__ import annotations

from pathlib import Path

PAUSE = 0.01
"""Seconds between two looks."""

_WATCH = """
import os, sys, threading, time

def waited():
    # Nanoseconds that the reactor's thread and this one were ready to run, and others had the
    # processor: that is the machine's fault.
    found = 0
    for thread in os.getpid(), threading.get_native_id():
        with open(f"/proc/self/task/{{thread}}/schedstat") as file:
            found += int(file.read().split()[1])
    return found / 1e9

def watch():
    while True:
        time.sleep({pause})
        # Whoever imports it has an empty module there first: no reactor yet, and no "running".
        reactor = sys.modules.get("twisted.internet.reactor")
        if not getattr(reactor, "running", False):
            continue
        before, asked, heard = waited(), time.monotonic(), threading.Event()
        reactor.callFromThread(heard.set)
        heard.wait()
        lag = time.monotonic() - asked - (waited() - before)
        with open({file!r}, "a") as file:
            file.write(f"{{lag:.5f}}\\n")

threading.Thread(target=watch, daemon=True).start()
"""


def write_watch(folder: Path, file: Path) -> None:
    """Make *folder* one that, as ``PYTHONPATH``, has each daemon write its lags into *file*.

    One a line, in seconds, without the time in which it was others that had the processor.
    """
    (folder / "sitecustomize.py").write_text(_WATCH.format(pause=PAUSE, file=str(file)))


def read_lags(file: Path) -> list[float]:
    """What was written until now, sorted."""
    return sorted(map(float, file.read_text().split()))
