"""``make demo`` itself, shown to nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvpn.testing import sandbox
from pyvpn.testing.namespace import wait_for_line

DEMO = [sys.executable, "-m", "pyvpn.testing.demo"]


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes that *pid* started, and those started by them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found, more = set(), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more}
    return found - {pid}


def alive(pid: int) -> bool:
    """Tell whether *pid* runs; a zombie, which waits to be buried, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("act", ["demo", "demo_faults"])
def test_everything_works(tun: None, tmp_path: Path, act: str) -> None:
    """It ends with exit status 0, says so, and leaves no process behind."""
    log = tmp_path / "demo.log"
    show = [*DEMO[:-1], f"pyvpn.testing.{act}"]
    with log.open("w") as output:
        ended = subprocess.run(
            show, stdout=output, stderr=output, env=sandbox.environment(), timeout=180, check=False
        )
    said = log.read_text()
    assert "packets go by UDP" in said
    assert ended.returncode == 0, said
    assert "Everything worked" in said
    assert "!!" not in said


@pytest.mark.parametrize(
    ("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_interrupted(tun: None, tmp_path: Path, ending: signal.Signals, status: int) -> None:
    """However it is ended, in the middle of it, nothing of it runs a second later."""
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen(DEMO, stdout=output, stderr=output, env=sandbox.environment())
    wait_for_line(log, "the office answers", 60, demo)
    started = descendants(demo.pid)
    os.kill(demo.pid, ending)
    assert demo.wait(10) == status, log.read_text()
    assert len(started) >= 3  # web server, VPN server, VPN client
    deadline = time.monotonic() + 2
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, started))
