"""``pyvpn user limit``: what iperf3 measures through the tunnel is the figure, within 5 %.

::

    laptop ---- router ---- internet ---- server ---- office (iperf3 -s)
    laptop2 ... (more of them)

Over TCP the figure is what arrives, as iperf3 has it.  Datagrams are sent twice as fast as may
be, and what passes is counted where it leaves the tunnel: how much of it a receiver on a busy
machine gets to read is another matter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, Lab
from tests.live.figures import above, below, between
from tests.live.office import CLIENT_TUN, SERVER_TUN, SOAKING, Office, tell, wait_until
from tests.live.stock import app, command, drops

FIGURES = (5, 20, 100) if SOAKING else (20,)
"""Mbit/s."""
SECONDS = 8 if SOAKING else 4
CLIENTS, SHARE = (20, 1) if SOAKING else (4, 3)
"""How many at once, and how many Mbit/s each may have: all of them, their server and both ends of
each transfer share the processors of this machine."""
SEEN = 2.0
"""Seconds within which a new figure holds."""
WITHIN = 0.05

_ports = count(5300)


class Measured:
    """An iperf3 that runs from a host to the office."""

    def __init__(self, lab: Lab, host: str, address: str, *options: str) -> None:
        port = str(next(_ports))
        self._log = lab.folder / f"limit-{port}.json"
        self._serving = lab.start("office", ["iperf3", "-s", "-1", "-p", port], self._log)
        wait_until(lambda: f":{port} " in lab.run("office", ["ss", "-Hltn"]).stdout)
        self._out = lab.folder / f"limit-{port}-{host}.json"
        measure = ["iperf3", "-J", "-p", port, "-c", address, *options]
        self._measuring = lab.start(host, measure, self._out)

    def end(self) -> dict[str, dict[str, float]]:
        """Wait for its end, and return what it says."""
        self._measuring.wait(SECONDS + 20)
        self._serving.wait(5)
        said = json.loads(self._out.read_text())
        assert "error" not in said, said["error"]
        end: dict[str, dict[str, float]] = said["end"]
        return end


def limit(office: Office, up: str, down: str, user: str = "anna") -> None:
    """Set the limits of *user*, and give the server the time it may take."""
    command(office, "user", "limit", user, "--up", up, "--down", down)
    time.sleep(SEEN)


def tcp(lab: Lab, host: str, *options: str, address: str = OFFICE_ADDRESS) -> float:
    """Mbit/s that arrive over TCP; the first second is its own, in which it finds its speed."""
    end = Measured(lab, host, address, "-t", str(SECONDS), "-O", "1", *options).end()
    return end["sum_received"]["bits_per_second"] / 1e6


@contextmanager
def flood(lab: Lab, host: str, megabits: int, *options: str) -> Iterator[None]:
    """Somebody sends so many Mbit/s in datagrams."""
    long = ["-u", "-l", "1300", "-b", f"{megabits}M", "-t", str(SECONDS + 3)]
    sending = Measured(lab, host, OFFICE_ADDRESS, *long, *options)
    time.sleep(1)
    try:
        yield
    finally:
        sending.end()


def carried(lab: Lab, host: str, interface: str, seconds: float = SECONDS) -> float:
    """Mbit/s that come into *interface* from the tunnel meanwhile, as whole packets."""

    def received() -> tuple[float, int]:
        show = ["ip", "-j", "-s", "link", "show", "dev", interface]
        stats = json.loads(lab.run(host, show).stdout)[0]["stats64"]
        return time.monotonic(), int(stats["rx"]["bytes"])

    began, before = received()
    time.sleep(seconds)
    ended, after = received()
    return (after - before) * 8 / 1e6 / (ended - began)


def check(what: str, figure: float, measured: float) -> None:
    """It is the figure, but for 5 %."""
    tell(f"{what}, limit {figure:g}: {measured:.2f} Mbit/s ({measured / figure:.3f})")
    between((1 - WITHIN) * figure, measured, (1 + WITHIN) * figure)


@contextmanager
def connected(office: Office, way: str) -> Iterator[str]:
    """Somebody is in the tunnel; the name of the interface it has."""
    if way == "stock":
        with app(office) as phone:
            yield phone.name
    else:
        office.join(more=f"transport = {way}\n")
        yield CLIENT_TUN


@pytest.mark.parametrize("way", ["udp", "tcp", "stock"])
def test_figure(office: Office, lab: Lab, way: str) -> None:
    """Each way, by each carrier, with an app, over TCP and in datagrams: the figure."""
    office.open()
    with connected(office, way) as interface:
        office.wait_for_ping()
        for figure in FIGURES:
            limit(office, f"{figure}M", f"{figure}M")
            check(f"{way}, TCP up", figure, tcp(lab, "laptop"))
            check(f"{way}, TCP down", figure, tcp(lab, "laptop", "-R"))
            with flood(lab, "laptop", 2 * figure):
                check(f"{way}, datagrams up", figure, carried(lab, "server", SERVER_TUN))
            with flood(lab, "laptop", 2 * figure, "-R"):
                check(f"{way}, datagrams down", figure, carried(lab, "laptop", interface))
        assert drops(office)["rate-limit"] > 0
        six = tcp(lab, "laptop", "-R", address=OFFICE_ADDRESS6)
        check(f"{way}, IPv6, TCP down", figure, six)


def test_live(office: Office, lab: Lab) -> None:
    """Another figure holds within two seconds, for a transfer under way and the same session."""
    office.open()
    client = office.join(more="transport = udp\n")
    office.wait_for_ping()
    serving = Measured(lab, "laptop", OFFICE_ADDRESS, "-R", "-t", str(3 * 4 + 2))
    for figure in (20, 5, 10):
        limit(office, "1M", f"{figure}M")
        check("TCP under way", figure, carried(lab, "laptop", CLIENT_TUN, 2.0))
    serving.end()
    command(office, "user", "limit", "anna", "--up", "none", "--down", "none")
    time.sleep(SEEN)
    free = tcp(lab, "laptop", "-R")
    tell(f"without a limit: {free:.0f} Mbit/s")
    above(free, 30)
    assert client.log.read_text().count("routes into the tunnel") == 1
    assert office.server.log.read_text().count(" is here from ") == 1


def test_after_a_restart(office: Office, lab: Lab) -> None:
    """The limits are on file: a server that was killed has them from its start."""
    office.open()
    office.join(more="transport = udp\n")
    limit(office, "none", "5M")
    office.kill(office.server)
    office.start_server()
    office.wait_for_ping()
    check("after a restart", 5, tcp(lab, "laptop", "-R"))


def test_several(office: Office, lab: Lab) -> None:
    """Several clients at once have each their figure, and who has none is not held up."""
    users = tuple(f"user{number}" for number in range(CLIENTS))
    office.open(users=(*users, "free"))
    hosts = [lab.add_laptop() for _ in users]
    free = lab.add_laptop()
    for host, user in zip((*hosts, free), (*users, "free"), strict=True):
        office.join(host, user, more="transport = udp\n")
    for user in users:
        command(office, "user", "limit", user, "--up", f"{SHARE}M", "--down", f"{SHARE}M")
    time.sleep(SEEN)
    for way in (), ("-R",):
        all_at_once = [
            Measured(lab, host, OFFICE_ADDRESS, "-t", str(SECONDS), "-O", "1", *way)
            for host in hosts
        ]
        answered = office.pings(free, OFFICE_ADDRESS, 20)
        rates = [each.end()["sum_received"]["bits_per_second"] / 1e6 for each in all_at_once]
        tell(f"{CLIENTS} at once {way}: {min(rates):.2f} to {max(rates):.2f} Mbit/s")
        for rate in rates:
            check(f"one of {CLIENTS}", SHARE, rate)
        assert answered == 20
    status = office.status()
    assert re.search(r"dropped \d+ packets: rate-limit", status)
    assert (
        len(re.findall(rf"limited to up {SHARE}M, down {SHARE}M$", status, re.MULTILINE))
        == CLIENTS
    )


def test_nobody_else(office: Office, lab: Lab) -> None:
    """Packets that wait for one do not wait for another: pings of bert stay quick."""
    office.open(users=("anna", "bert"))
    office.join(more="transport = udp\n")
    other = lab.add_laptop()
    office.join(other, "bert", more="transport = udp\n")
    limit(office, "1M", "1M")
    with flood(lab, "laptop", 5):
        ping = ["ping", "-n", "-q", "-c", "20", "-i", "0.05", OFFICE_ADDRESS]
        said = lab.run(other, ping).stdout
    found = re.search(r"rtt min/avg/max/mdev = [\d.]+/([\d.]+)/", said)
    assert found is not None
    tell(f"bert's pings beside anna's flood: {found[1]} ms")
    below(float(found[1]), 50)
