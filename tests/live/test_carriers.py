"""The native client between UDP and TLS: what happens to the network, and to what runs inside.

In each story a download runs and must arrive whole, and pings tell the longest silence.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pyvpn.testing import faults
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from pyvpn.testing.vpn import Program
from tests.live.figures import below
from tests.live.office import SOAKING, Office, SteadyPing, Web, tell, wait_until
from tests.live.test_stock_roaming import transfer
from tests.live.travellers import Download, Source

BRIDGED = 10.0
BACK = 60.0
ROAMED = 1.0 if SOAKING else 3.0
"""Promised is one second; the machine that this runs on is shared."""


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


def carrier(office: Office, client: Program) -> str:
    """What the client says of how its packets travel."""
    found = re.search(r"packets (go by \w+|do not travel)", office.status(client))
    assert found is not None
    return found[1].removeprefix("go by ")


@contextmanager
def story(
    office: Office, web: Web, more: str = "", mebibytes: int = 8
) -> Iterator[tuple[Program, SteadyPing]]:
    """A client that uses UDP, with a download and a ping under way."""
    client = office.join(more=more)
    client.says(r"packets go by UDP")
    with office.steady_ping() as ping, transfer(office, web, "laptop", mebibytes):
        time.sleep(0.5)
        yield client, ping


def sessions(office: Office) -> int:
    """How many log-ins the server has seen."""
    return office.server.log.read_text().count(" is here from ")


@pytest.mark.parametrize(("up", "down"), [(True, True), (True, False), (False, True)])
def test_udp_blocked(
    office: Office, lab: Lab, web: Web, source: Source, up: bool, down: bool
) -> None:
    """In both directions, or one: bridged within 10 s, and taken up again; nothing breaks."""
    office.open()
    with (
        story(office, web, mebibytes=25) as (client, ping),
        closing(Download(office, "laptop")) as download,
    ):
        lease = office.lease()
        with faults.blocked(lab, up=up, down=down):
            client.says("packets go by TCP", BRIDGED + 2)
            time.sleep(60 if SOAKING else 1)
            assert carrier(office, client) == "TCP"
        began = time.monotonic()
        client.says("it answers again", BACK)
        took = time.monotonic() - began
        time.sleep(1)
        assert carrier(office, client) == "UDP"
        assert office.lease() == lease
        download.arrive(20)
    tell(f"blocked, up {up}, down {down}: gap {ping.gap:.1f} s; back on UDP after {took:.1f} s")
    below(ping.gap, BRIDGED)
    assert sessions(office) == 1


def test_control_connection_lost(office: Office, lab: Lab, web: Web) -> None:
    """TCP is blocked for a minute while UDP carries: no packet of the tunnel is lost."""
    office.open("[tunnel]\nheartbeat = 2s\n")
    with story(office, web, mebibytes=30) as (client, ping):
        with faults.blocked(lab, "tcp"):
            client.says("does not answer heartbeats", 30)
            time.sleep(5)
            assert carrier(office, client) == "UDP"
        wait_until(lambda: sessions(office) == 2, 30, "registered again")
        time.sleep(1)
        assert carrier(office, client) == "UDP"
    tell(f"control connection lost and back: gap {ping.gap:.2f} s, {ping.lost} pings lost")
    below(ping.gap, 1.0)


@pytest.mark.parametrize("version", [4, 6])
def test_the_laptop_moves(office: Office, lab: Lab, web: Web, version: int) -> None:
    """To another network, of the other family too, and home again."""
    with_second_network(lab)
    office.open(endpoint=f"{SERVER_ADDRESS}, [{SERVER_ADDRESS6}]")
    with story(office, web) as (client, ping):
        faults.move(lab, version=version)
        time.sleep(3)
        faults.move_back(lab)
        time.sleep(2)
        assert carrier(office, client) == "UDP"
    tell(f"moved to another network (IPv{version}) and back: longest gap {ping.gap:.2f} s")
    below(ping.gap, ROAMED)


def with_second_network(lab: Lab) -> None:
    """Lay the second cable, once for all tests."""
    if lab.run("laptop", ["ip", "link", "show", "mobile"], check=False).returncode != 0:
        faults.add_second_network(lab)


def test_the_nat_is_rebound(office: Office, lab: Lab, web: Web) -> None:
    """The home gets another public address, again and again."""
    office.open()
    try:
        with story(office, web, mebibytes=12) as (client, ping):
            for last in (7, 8, 9):
                faults.renumber_home(lab, last)
                time.sleep(2.5)
            assert carrier(office, client) == "UDP"
    finally:
        faults.renumber_home(lab, 2)
    tell(f"three new public addresses: longest gap {ping.gap:.2f} s")
    below(ping.gap, BRIDGED)


def test_server_killed(office: Office, lab: Lab, web: Web) -> None:
    """And started again: the download goes on, by UDP."""
    office.open()
    with story(office, web, mebibytes=12) as (client, ping):
        office.kill(office.server)
        office.start_server()
        time.sleep(5)
        assert carrier(office, client) == "UDP"
    tell(f"server killed and started again: longest gap {ping.gap:.2f} s")
    below(ping.gap, BRIDGED)


def test_transport(office: Office, lab: Lab) -> None:
    """``transport = tcp`` sends no datagram; ``udp`` does not fall back."""
    office.open()
    client = office.join(more="transport = tcp\n")
    office.wait_for_ping()
    assert carrier(office, client) == "TCP"
    assert lab.run("laptop", ["ss", "-Hlnup"]).stdout.strip() == ""
    office.end(client)
    client = office.join(more="transport = udp\n")
    office.wait_for_ping()
    assert carrier(office, client) == "UDP"
    with faults.blocked(lab):
        time.sleep(9)
        assert carrier(office, client) == "UDP"
        assert office.pings("laptop", OFFICE_ADDRESS, 2) == 0
    office.wait_for_ping()


def test_flaps(office: Office, lab: Lab, web: Web) -> None:
    """UDP comes and goes at random; the session and the download stay."""
    chance = random.Random(7)
    office.open()
    flaps = 50 if SOAKING else 4
    with story(office, web, mebibytes=9 * flaps + 24) as (client, ping):
        for _ in range(flaps):
            with faults.blocked(lab, up=chance.random() < 0.7, down=chance.random() < 0.7):
                time.sleep(chance.uniform(1, 9))
            time.sleep(chance.uniform(0.5, 5))
    moves = client.log.read_text().count("packets go by ") - 1
    tell(f"{flaps} flaps, {moves} moves: longest gap {ping.gap:.1f} s")
    below(ping.gap, BRIDGED)
    assert sessions(office) == 1
