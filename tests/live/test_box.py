"""The bad cable itself: each fault does what it says, and is gone when it is taken back.

::

    laptop ---- router ==box== internet ---- server

Every fault is looked at beside the same measurement without it: that is the negative twin.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pyvpn.errors import ConfigError, HostError, Misuse
from pyvpn.testing import sandbox
from pyvpn.testing.box import Box
from pyvpn.testing.lab import SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from tests.live.figures import above, below, between
from tests.live.office import SOAKING, tell, wait_until

_TIMES = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms( \(DUP!\))?")


@pytest.fixture(scope="module")
def the_box(lab: Lab) -> Box:
    """The one box of the module: there is one cable."""
    return lab.add_box(seed=1)


@pytest.fixture
def box(the_box: Box) -> Iterator[Box]:
    """The box with nothing wrong, before and after."""
    the_box.clear()
    yield the_box
    the_box.clear()


class Pings:
    """What a run of pings to the server brought back."""

    def __init__(
        self,
        lab: Lab,
        count: int = 20,
        *more: str,
        every: float = 0.01,
        address: str = SERVER_ADDRESS,
    ) -> None:
        ping = ["ping", "-n", "-c", str(count), "-i", f"{every:g}", "-W", "1", *more, address]
        said = lab.run("laptop", ping, check=False).stdout
        found = _TIMES.findall(said)
        self.numbers = [int(number) for number, _, twice in found if not twice]
        self.doubled = sum(bool(twice) for _, _, twice in found)
        self.times = sorted(float(took) for _, took, twice in found if not twice)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return self.times[len(self.times) // 2]


def mbits(lab: Lab, *more: str, seconds: float = 5 if SOAKING else 1, omit: int = 0) -> float:
    """Measure what arrives of TCP from laptop to server (or back: ``-R``), in Mbit/s."""
    if shutil.which("iperf3", path=sandbox.environment()["PATH"]) is None:
        pytest.skip("iperf3 is missing: sudo apt-get install iperf3")
    serving = lab.start("server", ["iperf3", "-s", "-1"], lab.folder / "iperf3.log")
    wait_until(lambda: ":5201" in lab.run("server", ["ss", "-Hltn"]).stdout)
    measure = ["iperf3", "-J", "-O", str(omit), "-t", f"{seconds:g}", *more, "-c", SERVER_ADDRESS]
    ended = json.loads(lab.run("laptop", measure).stdout)["end"]
    serving.wait(5)
    return float(ended["sum_received"]["bits_per_second"]) / 1e6


@pytest.mark.parametrize("address", [SERVER_ADDRESS, SERVER_ADDRESS6])
def test_nothing_wrong(box: Box, lab: Lab, address: str) -> None:
    """With nothing wrong it is a cable: all arrive, within a millisecond more."""
    pings = Pings(lab, 50, address=address)
    tell(f"{address}: rtt {pings.median:.2f} ms (median) through the box")

    assert list(range(1, 51)) == pings.numbers
    assert pings.doubled == 0
    below(pings.median, 2)


def test_speed(box: Box, lab: Lab) -> None:
    """It carries 50 Mbit/s in each direction, and more."""
    for way in "--no-delay", "-R":
        measured = mbits(lab, way)
        tell(f"iperf3 {way}: {measured:.0f} Mbit/s through the box")
        above(measured, 50)


def test_delay(box: Box, lab: Lab) -> None:
    """A ping takes the delay of both directions longer, at once and while it runs."""
    without = Pings(lab).median
    box.set("up", delay_ms=20)
    one = Pings(lab).median
    box.set("down", delay_ms=30)
    both = Pings(lab).median
    tell(f"rtt {without:.2f} ms, with 20 ms {one:.2f} ms, with 20 + 30 ms {both:.2f} ms")

    between(20, one - without + 0.5, 23)
    between(50, both - without + 0.5, 53)
    box.clear()
    below(Pings(lab).median, 2)


def test_jitter(box: Box, lab: Lab) -> None:
    """Jitter spreads the times around the delay, and keeps the order."""
    box.set("up", delay_ms=30, jitter_ms=10)
    pings = Pings(lab, 60)
    spread = pings.times[-1] - pings.times[0]

    above(spread, 8)
    above(pings.times[0], 19)
    below(abs(pings.median - 33), 10)
    assert pings.numbers == sorted(pings.numbers)
    box.set("up", jitter_ms=0)
    pings = Pings(lab, 60)
    below(pings.times[len(pings.times) * 3 // 4] - pings.times[0], 5)


@pytest.mark.parametrize(("direction", "way"), [("up", "--no-delay"), ("down", "-R")])
def test_rate(box: Box, lab: Lab, direction: str, way: str) -> None:
    """TCP gets what the line carries, in the direction that is slow only; the queue is bounded."""
    box.set(direction, rate_bps=10e6, queue_ms=50)
    slow = mbits(lab, way, omit=1)  # which fills the queue
    other = mbits(lab, "-R" if direction == "up" else "--no-delay")
    tell(f"10 Mbit/s {direction}: TCP gets {slow:.2f} Mbit/s, the other way {other:.0f} Mbit/s")

    between(8.5, slow, 10.1)
    above(other, 20)
    assert box.counts(direction)["queue_full"] > 0


def test_queue(box: Box, lab: Lab) -> None:
    """What waits for a slow line waits as long as its queue allows, and no longer."""
    box.set("up", rate_bps=1e6, queue_bytes=25_000)
    longest = Pings(lab, 60, "-s", "972", "-l", "40").times[-1]
    tell(f"25,000 bytes before 1 Mbit/s: the last waited {longest:.0f} ms of at most 200")

    between(150, longest, 230)
    assert box.counts("up")["queue_full"] > 0


def test_loss(box: Box, lab: Lab) -> None:
    """Of 400 pings, 20 % in one direction are lost, give or take four standard deviations."""
    box.set("up", loss_percent=20)
    lost = 400 - len(Pings(lab, 400, every=0.002).numbers)
    tell(f"20 % loss: {lost} of 400 lost")

    assert 48 <= lost <= 112
    assert box.counts("up")["lost"] >= lost
    box.set("up", loss_percent=0)
    assert len(Pings(lab, 100, every=0.002).numbers) == 100


def test_duplicates(box: Box, lab: Lab) -> None:
    """Some come twice, none is lost."""
    box.set("down", duplicate_percent=30)
    pings = Pings(lab, 200, every=0.002)

    assert 30 <= pings.doubled <= 90
    assert len(pings.numbers) == 200


def test_reordering(box: Box, lab: Lab) -> None:
    """Some are overtaken by those behind them, none is lost."""
    box.set("down", reorder_percent=20, reorder_ms=30)
    pings = Pings(lab, 100, every=0.005)

    assert len(pings.numbers) == 100
    assert pings.numbers != sorted(pings.numbers)


def test_cut(box: Box, lab: Lab) -> None:
    """Nothing passes while it is cut in one direction, and all when it is not."""
    assert len(Pings(lab, 5).numbers) == 5
    for direction in "up", "down":
        box.set(direction, cut=True)
        assert Pings(lab, 5, "-w", "1").numbers == []
        assert box.counts(direction)["cut"] >= 5
        assert "LOWER_UP" in lab.run("router", ["ip", "link", "show", "wan"]).stdout
        box.set(direction, cut=False)
        assert len(Pings(lab, 5).numbers) == 5


def test_black_hole(box: Box, lab: Lab) -> None:
    """Packets above the size vanish, and nobody says so; those of it pass."""
    box.set("up", largest_bytes=1280)
    assert len(Pings(lab, 5, "-M", "do", "-s", str(1280 - 28)).numbers) == 5
    assert Pings(lab, 5, "-M", "do", "-s", str(1281 - 28), "-w", "1").numbers == []
    assert box.counts("up")["too_large"] >= 5
    box.clear()
    assert len(Pings(lab, 5, "-M", "do", "-s", str(1281 - 28)).numbers) == 5


def test_connections_stay(lab: Lab) -> None:
    """A box put under a connection in use does not end it: names, addresses, routes stay."""
    host = lab.add_laptop(at_home=False)
    before = lab.hosts["internet"].state()
    route = ["ip", "route", "get", SERVER_ADDRESS]
    way = lab.run(host, route).stdout
    box = lab.add_box(host, "internet")

    assert way == lab.run(host, route).stdout
    after = lab.hosts["internet"].state()
    for command in "ip -br address", "ip -4 route show table all":
        assert sorted(before[command].split("\n"))[0] == sorted(after[command].split("\n"))[0]
    ping = ["ping", "-n", "-c", "1", "-W", "2"]
    for address in SERVER_ADDRESS, SERVER_ADDRESS6:
        lab.run(host, [*ping, address])
    box.set(cut=True)
    assert lab.run(host, [*ping, SERVER_ADDRESS], check=False).returncode == 1
    lab.run("laptop", [*ping, SERVER_ADDRESS])  # whom it does not concern


def test_laptops_own_cable(lab: Lab) -> None:
    """A box at one laptop's port of the home's switch leaves its neighbour alone."""
    host = lab.add_laptop()
    lab.add_box(host, "router").set(delay_ms=20)
    ping = ["ping", "-n", "-q", "-c", "3", "-i", "0.05", SERVER_ADDRESS]
    times = {
        name: float(lab.run(name, ping).stdout.split(" = ")[1].split("/")[1])
        for name in (host, "laptop")
    }

    above(times[host] - times["laptop"], 35)


def test_mistakes(box: Box, lab: Lab) -> None:
    """What cannot be is refused with what can, and changes nothing."""
    box.set(delay_ms=20)
    with pytest.raises(ConfigError, match="no fault is called 'delay': write delay_ms, "):
        box.set(delay=1)
    with pytest.raises(ConfigError, match="write a number from 0 to 100"):
        box.set(loss_percent=101)
    with pytest.raises(ConfigError, match="no direction is called 'sideways', but up, down"):
        box.set("sideways", delay_ms=1)
    between(39, Pings(lab, 5).median, 45)
    with pytest.raises(Misuse, match="no cable between laptop and office, or a box already"):
        lab.add_box("laptop", "office")
    with pytest.raises(HostError, match="router:wan: an interface of that name is there"):
        Box("router:wan", "internet:spare")
    with pytest.raises(HostError, match=r"nowhere:wan: .*No such file"):
        Box("nowhere:wan", "internet:spare")


def test_by_hand(lab: Lab) -> None:
    """It is a program too: told by lines of JSON, it answers each, and ends with its input."""
    command = [sys.executable, "-m", "pyvpn.testing.box", "laptop:x0", "office:x0"]
    lines = '{"up": {"rate_bps": 5e6}}\nnonsense\n{"delay_ms": 5}\n{}\n'
    ended = subprocess.run(
        [*command, "--set", '{"down": {"cut": true}}'],
        input=lines,
        capture_output=True,
        text=True,
        env=sandbox.environment(),
        timeout=10,
        check=True,
    )
    first, second, junk, hint, last = map(json.loads, ended.stdout.splitlines())

    assert first["down"]["set"] == {"cut": True}
    assert second["up"]["set"] == {"rate_bps": 5e6}
    assert "not JSON" in junk["error"]
    assert '{"both": {"delay_ms": ...}}' in hint["error"]
    assert (last["up"]["set"], last["down"]["set"]) == ({"rate_bps": 5e6}, {"cut": True})
    assert "x0" not in lab.run("laptop", ["ip", "link"]).stdout


def test_the_box_ends_with_us(lab: Lab) -> None:
    """A closed box is gone, and with it the cable."""
    host = lab.add_laptop(at_home=False)
    box = lab.add_box(host, "internet")
    began = time.monotonic()
    box.close()
    box.close()

    below(time.monotonic() - began, 2)
    assert box.process.returncode is not None
    assert "eth0" not in lab.run(host, ["ip", "link"]).stdout
    with pytest.raises(HostError, match="the box is closed"):
        box.set(cut=True)
