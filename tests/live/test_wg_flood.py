"""Floods of UDP beside a tunnel in use: it keeps its throughput, and others still get in.

::

    laptop ---- router ---- internet ---- server ---- office
    laptop2 ----'              |
                           the flood (65,000 addresses)

PYVPN_KILLS makes the floods as long and as fast as they are promised to be withstood.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvpn.testing import sandbox
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from tests.live.figures import below
from tests.live.office import SOAKING, Office, tell, wait_until
from tests.live.wg_stage import (
    SERVERS_CORE,
    TUNNEL,
    add_crowds_host,
    cpu_seconds,
    dropped,
    flood,
    memory,
    pin,
    stock_client,
)

PER_SECOND = 10_000 if SOAKING else 3000
SECONDS = 30.0 if SOAKING else 3.0
STREAM = 20 if SOAKING else 10
"""Mbit/s each way of what is in the tunnel: no more than a busy machine carries anyway."""
SHARE = 0.7
PATIENCE = 10.0 if SOAKING else 17.0
"""Seconds for a new client: two tries; if the machine has other things to do, three."""

pytestmark = [
    pytest.mark.skipif(
        shutil.which(tool, path=sandbox.environment()["PATH"]) is None,
        reason=f"{tool} is missing: sudo apt-get install {package}",
    )
    for tool, package in (("iperf3", "iperf3"), ("wg-quick", "wireguard-tools wireguard-go"))
]

JUNK = ("random bytes", "wrong types", "wrong lengths")
STRANGERS = ("bad mac1", "responses", "data", "cookies")
"""What looks like WireGuard, and is nothing to us."""


@pytest.fixture(scope="module")
def crowds_host(lab: Lab) -> str:
    return add_crowds_host(lab)


@pytest.fixture(scope="module")
def another_laptop(lab: Lab) -> str:
    return lab.add_laptop()


@contextmanager
def iperf3(lab: Lab, *words: str) -> Iterator[list[dict[str, dict[str, float]]]]:
    """Measure through the tunnel while the block runs; the figures are there after it."""
    serving = lab.start("office", ["iperf3", "-s", "-1"], lab.folder / "iperf3-server.log")
    wait_until(lambda: ":5201" in lab.run("office", ["ss", "-Hltn"]).stdout)
    log = lab.folder / f"iperf3-{time.monotonic_ns()}.log"
    measure = ["iperf3", "-J", "-c", OFFICE_ADDRESS, *words]
    measuring = lab.start("laptop", measure, log)
    figures: list[dict[str, dict[str, float]]] = []
    yield figures
    measuring.wait(SECONDS + 30)
    serving.wait(5)
    figures.append(json.loads(log.read_text())["end"])


def tcp(lab: Lab, seconds: float) -> dict[str, float]:
    """Mbit/s of one TCP connection, each way after the other."""
    rates = {}
    for way, words in (("up", []), ("down", ["-R"])):
        with iperf3(lab, "-t", f"{seconds:g}", *words) as figures:
            pass
        rates[way] = figures[0]["sum_received"]["bits_per_second"] / 1e6
    return rates


@contextmanager
def stream(lab: Lab, seconds: float) -> Iterator[None]:
    """Send UDP both ways meanwhile; enough of it must arrive."""
    words = ("-u", "--bidir", "-b", f"{STREAM}M", "-l", "1200", "-t", f"{seconds:g}")
    with iperf3(lab, *words) as figures:
        yield
    for way in "sum", "sum_bidir_reverse":
        arrived = 1 - figures[0][way]["lost_percent"] / 100
        assert figures[0][way]["packets"] > 0
        tell(f"  {way}: {arrived:.1%} of {STREAM} Mbit/s arrived")
        assert arrived >= SHARE


def lines(office: Office) -> int:
    return office.server.log.read_text().count("\n")


def test_initiations(office: Office, lab: Lab, crowds_host: str, another_laptop: str) -> None:
    """Handshakes that anybody can begin, from everywhere: they cost the others little.

    Everybody is asked for a cookie then.  Who gets one is in at its next try, five seconds on.
    """
    server = office.open(TUNNEL)
    pin(server.process.pid, SERVERS_CORE)
    with stock_client(office, "laptop", "first"):
        office.wait_for_ping()
        before = tcp(lab, 5) if SOAKING else {}
        during: dict[str, float] = {}
        memory_before, said = memory(office), lines(office)
        used, began = cpu_seconds(office), time.monotonic()
        with (
            flood(office, crowds_host, "initiations", PER_SECOND, 8 + 3 * SECONDS) as flooding,
            stock_client(office, another_laptop, "second"),
            stream(lab, SECONDS),
        ):
            began_to_wait = time.monotonic()
            wait_until(lambda: office.pings(another_laptop, OFFICE_ADDRESS) == 1, PATIENCE)
            tell(f"a new client was in after {time.monotonic() - began_to_wait:.1f} s")
            if SOAKING:
                time.sleep(SECONDS)
                during = tcp(lab, 10)
            figures = flooding.says("sent", 120)
        used, passed = cpu_seconds(office) - used, time.monotonic() - began
        tell(f"  {figures}; server {used / passed:.0%} of a core")

        counted = dropped(office)
        assert counted["cookie-demanded"] > figures["sent"] / 4
        assert 0 < figures["received"] <= figures["sent"]
        assert figures["largest"] == 64
        assert figures["received_bytes"] < 0.63 * figures["sent_bytes"]
        grown = memory(office) - memory_before
        tell(f"  memory: {grown:+.1f} MiB")
        if SOAKING:
            # Before and after: from minute to minute the machine itself differs by a third.
            after = tcp(lab, 5)
            without = {way: (before[way] + after[way]) / 2 for way in before}
            tell(f"  TCP, Mbit/s: {during} of {without}")
            assert sum(during.values()) >= SHARE * sum(without.values())
        below(grown, 20)
        assert lines(office) - said < 40, "it logs what strangers do"


def test_junk(office: Office, lab: Lab, crowds_host: str) -> None:
    """Nothing comes back for it, nothing is remembered or logged, and the tunnel works on."""
    server = office.open(TUNNEL)
    pin(server.process.pid, SERVERS_CORE)
    with stock_client(office, "laptop", "first"):
        office.wait_for_ping()
        with stream(lab, 1):  # memory that everything needs once
            pass
        memory_before, said = memory(office), lines(office)
        for kind in (*JUNK, *STRANGERS):
            seconds = SECONDS if SOAKING else 1.5
            with (
                flood(office, crowds_host, kind, PER_SECOND, seconds) as flooding,
                stream(lab, seconds),
            ):
                figures = flooding.says("sent")
            tell(f"{kind}: {figures}")
            assert figures["sent"] > 0
            assert figures["received"] == 0, kind
        grown = memory(office) - memory_before
        tell(f"memory: {grown:+.1f} MiB")

        below(grown, 5)
        assert lines(office) - said < 5, "it logs what strangers do"
        counted = dropped(office)
        assert "no-wireguard-message" not in counted, "the kernel sheds that"
        assert counted["wireguard-key-not-ours"] > 0
        assert counted["unknown-receiver-index"] > 0
