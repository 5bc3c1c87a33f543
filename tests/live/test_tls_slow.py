"""The tunnel over a slow and far line: somebody downloads, and the others still get an answer.

::

    laptop ---- router ==box== internet ---- server ---- office (sends without end)

What is asked for: wherever the line is the bottleneck, few packets wait before it; so a ping
beside the download takes some hundred milliseconds, no heartbeat is late, and the line is used.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from pyvpn.testing.box import Box
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import wait_for_line
from pyvpn.testing.vpn import Program
from tests.live.figures import above, below, between
from tests.live.office import SOAKING, Office, tell

PORT = 7100
HEARTBEAT = 2
DIRECTIONS = ("down", "up") if SOAKING else ("down",)

_BULK = [sys.executable, "-m", "tests.live.bulk"]
_ANSWER = re.compile(r"time=([\d.]+) ms")
_CONNECTIONS = ["ss", "-Htn", "state", "established", "dport", "=", "51820"]


@pytest.fixture(scope="module")
def the_box(lab: Lab) -> Box:
    """The cable of the home."""
    return lab.add_box()


@pytest.fixture
def box(the_box: Box) -> Iterator[Box]:
    """The box with nothing wrong, before and after."""
    the_box.clear()
    yield the_box
    the_box.clear()


@dataclass
class UnderLoad:
    """What was measured while the bulk passed."""

    mbits: float
    times: list[float]
    """Milliseconds that pings took."""
    lost: int
    heartbeat: float
    """Milliseconds that the last took."""

    def __str__(self) -> str:
        least, middle, most = min(self.times), median(self.times), max(self.times)
        return (
            f"{self.mbits:.2f} Mbit/s; ping beside it {least:.0f} / {middle:.0f} / {most:.0f} ms "
            f"(least, median, most), {self.lost} of {self.lost + len(self.times)} lost; "
            f"heartbeat {self.heartbeat:.0f} ms"
        )


@contextmanager
def bulk(lab: Lab, direction: str) -> Iterator[Path]:
    """Have bulk pass between office and laptop all the while; yield the log of who takes it."""
    verbs = ("send", "take") if direction == "down" else ("take", "send")
    logs = [lab.folder / f"bulk-{verb}-{time.monotonic_ns()}.log" for verb in verbs]
    where = [OFFICE_ADDRESS, str(PORT)]
    serving = lab.start("office", [*_BULK, verbs[0], *where], logs[0])
    wait_for_line(logs[0], "ready", process=serving)
    calling = lab.start("laptop", [*_BULK, "--to", verbs[1], *where], logs[1])
    try:
        yield logs[verbs.index("take")]
    finally:
        calling.kill()
        serving.kill()
        calling.wait()
        serving.wait()


def ping(lab: Lab, count: int) -> list[float]:
    """Ping the office five times a second; return how many milliseconds each answer took."""
    ping = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", "5", OFFICE_ADDRESS]
    said = lab.run("laptop", ping, check=False, timeout=count * 0.2 + 30).stdout
    return [float(took) for took in _ANSWER.findall(said)]


@contextmanager
def same_connection(office: Office, lab: Lab) -> Iterator[None]:
    """Fail if the client's connection is another one afterwards: somebody has hung up."""
    before = lab.run("laptop", _CONNECTIONS).stdout.split()[2]
    yield
    assert before == lab.run("laptop", _CONNECTIONS).stdout.split()[2], "another connection"
    assert "connection lost" not in office.server.log.read_text()


def load(office: Office, lab: Lab, client: Program, direction: str, seconds: float) -> UnderLoad:
    """Have bulk pass through the tunnel and ping beside it, from two seconds on."""
    count = int((seconds - 2) / 0.2)
    with same_connection(office, lab), bulk(lab, direction) as log:
        time.sleep(2)
        times = ping(lab, count)
        took, size = re.findall(r"^([\d.]+) (\d+)$", log.read_text(), re.MULTILINE)[-1]
        beat = re.search(r"round trip ([\d.]+) ms", office.status(client))
    mbits = int(size) * 8 / float(took) / 1e6
    return UnderLoad(mbits, times, count - len(times), float(beat[1]) if beat else 0)


def open_and_join(office: Office) -> Program:
    """Open a VPN whose clients say often that they live, and join it."""
    office.open(f"[tunnel]\nheartbeat = {HEARTBEAT}s\nexpiry = 30s\n")
    return office.join(more="transport = tcp\n")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_five_megabits(office: Office, lab: Lab, box: Box, direction: str) -> None:
    """5 Mbit/s, 50 ms: pings beside the bulk within half a second, 60 % of the line are used.

    Without bulk, on the same line, a ping takes little more than the line's 50 ms; and what is
    measured beside it is not: that there is a load shows in its time.
    """
    client = open_and_join(office)
    box.set(delay_ms=25, rate_bps=5e6, queue_ms=200)
    alone = ping(lab, 10)
    # Where the outer TCP overshoots at its start seconds go by before it is as fast as the line.
    measured = load(office, lab, client, direction, 60 if SOAKING else 12)
    tell(f"5 Mbit/s, 50 ms, {direction}: {measured}; alone {median(alone):.0f} ms")

    between(50, median(alone), 75)
    between(median(alone), median(measured.times), 500)
    assert measured.lost <= 2
    above(measured.mbits, 3)
    between(1, measured.heartbeat, 1500)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_hundred_kilobits(office: Office, lab: Lab, box: Box, direction: str) -> None:
    """100 kbit/s: under load for 20 s it stays the same connection, and pings are answered.

    Each takes its time: 4 KiB in each of two buffers and what the line holds are a second. And
    some find the queue full: so short a one has no room for them beside the bulk.
    """
    client = open_and_join(office)
    box.set(delay_ms=25, rate_bps=1e5, queue_ms=500)
    measured = load(office, lab, client, direction, 120 if SOAKING else 20)
    tell(f"100 kbit/s, 50 ms, {direction}: {measured}")

    below(median(measured.times), 4000)
    assert len(measured.times) >= 0.4 * (measured.lost + len(measured.times))
    above(measured.mbits, 0.05)
    between(1, measured.heartbeat, 6000)


@pytest.mark.parametrize(
    ("rate", "queue_ms"), [(1e6, 200), (5e6, 1000), (1e6, 1000)][: 3 if SOAKING else 1]
)
def test_other_lines(office: Office, lab: Lab, box: Box, rate: float, queue_ms: float) -> None:
    """Also on slower lines, and before routers with a deep queue, it is not the tunnel's fault."""
    client = open_and_join(office)
    box.set(delay_ms=25, rate_bps=rate, queue_ms=queue_ms)
    measured = load(office, lab, client, "down", 20 if SOAKING else 5)
    tell(f"{rate / 1e6:g} Mbit/s, queue of {queue_ms:g} ms: {measured}")

    below(median(measured.times), 500 + queue_ms)
    above(measured.mbits, 0.6 * rate / 1e6)


def test_another_connection(office: Office, lab: Lab, box: Box) -> None:
    """That these tests can fail: a connection that ended under load is noticed."""
    open_and_join(office)
    meanwhile = same_connection(office, lab)
    meanwhile.__enter__()
    with bulk(lab, "down"):
        office.kill(office.server)
        office.start_server()
        office.wait_for_ping()

    with pytest.raises(AssertionError, match="another connection"):
        meanwhile.__exit__(None, None, None)
