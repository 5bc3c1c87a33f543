"""Our client and the first generation's server, by a program that shares no code with us."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.original import MAPPED, Connection
from tests.live.plain_lab import ADDRESS, PORT, fetches_the_page, original, pings, serve_a_page


@pytest.fixture(scope="module")
def office(lab: Lab) -> Lab:
    """The lab, with a web server in the office."""
    serve_a_page(lab)
    return lab


@pytest.fixture
def original_server(office: Lab) -> Iterator[Path]:
    """The original's server at the office; its operator has switched forwarding on."""
    office.run("server", ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    arguments = ("server", str(PORT), "182.1.1.1/24", "192.168.77.0/24", "gvpn0")
    with original(office, "server", *arguments, ready="^ready$") as log:
        yield log
    office.run("server", ["sysctl", "-qw", "net.ipv4.ip_forward=0"])


def plain_client(lab: Lab, host: str = "laptop", address: str = ADDRESS) -> vpn.Program:
    more = f"protocol = plain-tcp\n[tunnel]\naddress = {address}/24\n"
    return vpn.start_client(
        lab, f"{SERVER_ADDRESS}:{PORT}", "", host=host, name=f"plain-{host}", password=None,
        more=more,
    )  # fmt: skip


def test_our_client(office: Lab, original_server: Path) -> None:
    """Our client speaks to the original's server: registers, pings, is pinged, fetches a page."""
    client = plain_client(office)
    client.says("routes into the tunnel: .*192.168.77.0/24")
    assert "not encrypted" in client.log.read_text()
    said = wait_for_line(original_server, r"register (\w+) transaction (\d+)")
    assert said[1] == (MAPPED + socket.inet_aton(ADDRESS)).hex()
    assert 0 < int(said[2]) < 2**31
    wait_for_line(original_server, r"version 1\.0 from 198\.18\.1\.2")
    assert pings(office, "laptop", OFFICE_ADDRESS)
    assert pings(office, "office", ADDRESS)
    assert fetches_the_page(office, "laptop", OFFICE_ADDRESS)
    assert stop(client.process) == 0
    wait_for_line(original_server, "^closed")
    text = original_server.read_text()
    assert "ignored" not in text  # no heartbeat, no goodbye: it does not know them
    assert "Traceback" not in client.log.read_text() + text


def test_our_client_is_refused(office: Lab, original_server: Path) -> None:
    """A taken address is reported in the original server's own words, and not hammered at."""
    with office.hosts["laptop"].inside():
        holder = Connection(socket.create_connection((SERVER_ADDRESS, PORT), 5))
    with holder.sock:
        assert holder.say_version() == 1
        assert holder.register(ADDRESS)[1]["success"]
        client = plain_client(office)
        said = client.says(rf"refused {ADDRESS}: address already used; next try in (\S+) s")
        assert float(said[1]) >= 30
        assert stop(client.process) == 0
    assert "Traceback" not in client.log.read_text()


def test_the_network_changes(office: Lab, original_server: Path) -> None:
    """A server that knows no heartbeats is not asked for one, and not left for its silence."""
    client = plain_client(office)
    client.says("routes into the tunnel")
    beside = "192.168.50.77"
    office.run("laptop", ["ip", "address", "add", f"{beside}/24", "dev", "eth0"])
    route = ["ip", "route", "replace", "192.0.2.0/24", "via", "192.168.50.1", "src"]
    try:
        office.run("laptop", [*route, beside])  # where the client looks for its way out
        time.sleep(4.5)
        assert "next try" not in client.log.read_text()
        assert pings(office, "laptop", OFFICE_ADDRESS)
    finally:
        office.run("laptop", ["ip", "route", "del", "192.0.2.0/24"], check=False)
        office.run("laptop", ["ip", "address", "del", f"{beside}/24", "dev", "eth0"], check=False)
    assert stop(client.process) == 0


def test_our_client_comes_back(office: Lab, original_server: Path) -> None:
    """Cut off by the network, our client registers again by itself."""
    client = plain_client(office)
    client.says("routes into the tunnel")
    cut = f"ss -K dst {SERVER_ADDRESS} dport = {PORT}"
    office.run("laptop", cut.split())
    deadline = time.monotonic() + 10
    while original_server.read_text().count("register ") < 2:
        assert time.monotonic() < deadline, client.log.read_text()
        time.sleep(0.1)
    while client.log.read_text().count("routes into the tunnel") < 2:
        assert time.monotonic() < deadline, client.log.read_text()
        time.sleep(0.1)
    assert pings(office, "laptop", OFFICE_ADDRESS)
    assert stop(client.process) == 0
