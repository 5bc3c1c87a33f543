"""A line that loses packets: TCP inside the tunnel gets on as TCP beside it does.

::

    laptop ---- router ==box== internet ---- server (iperf3, at both of its addresses)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

import pytest

from pyvpn.testing.box import Box
from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.office import SOAKING, Office, tell

INSIDE = "10.73.0.1"
GOODPUT = 0.8
"""Of the same loss without a tunnel (A9)."""
ROUNDS = 5 if SOAKING else 2
SECONDS = 20 if SOAKING else 8
RATE = 20e6
"""Bits a second: far less than any processor carries, so that the line is what is compared."""
STREAMS = 8
"""Whose losses even out."""


@pytest.fixture(scope="module")
def box(lab: Lab) -> Iterator[Box]:
    """The cable of the home."""
    made = lab.add_box(seed=9)
    yield made
    made.clear()


def goodput(lab: Lab, address: str) -> float:
    """What iperf3 gets from the server, in Mbit/s."""
    client = ["iperf3", "-c", address, "-J", "-R", "-t", str(SECONDS), "-P", str(STREAMS)]
    said = json.loads(lab.run("laptop", client, timeout=SECONDS + 40).stdout)
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e6


@pytest.mark.parametrize("percent", [1, 5] if SOAKING else [1])
def test_goodput(office: Office, lab: Lab, box: Box, percent: int) -> None:
    """A9: 80 % of what the line gives with the same loss, at least; measured in turns."""
    office.open()
    client = office.join(more="transport = udp\n")
    client.says("packets go by UDP")
    log = lab.folder / f"iperf3-{percent}.log"
    serving = lab.start("server", ["iperf3", "-s", "--forceflush"], log)
    wait_for_line(log, "Server listening", process=serving)
    beside, inside = [], []
    try:
        box.set(loss_percent=percent, delay_ms=10, rate_bps=RATE, queue_ms=50)
        for _ in range(ROUNDS):
            beside.append(goodput(lab, SERVER_ADDRESS))
            inside.append(goodput(lab, INSIDE))
    finally:
        stop(serving)
    ratio = median(inside) / median(beside)
    tell(
        f"{percent} % lost each way: {median(inside):.1f} Mbit/s inside, {median(beside):.1f}"
        f" beside, {ratio:.2f}"
    )
    assert ratio >= GOODPUT
