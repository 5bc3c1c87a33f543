"""What others do to a running client's interface, routes and rules."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, Lab
from pyvpn.testing.namespace import stop
from pyvpn.testing.vpn import Program

TABLE = "51820"


@pytest.fixture(scope="module")
def client(lab: Lab) -> Iterator[Program]:
    """A client that is up."""
    server = vpn.start_server(lab, name="repairs")
    link = vpn.link(server)
    vpn.add_user(lab, server, "anna")
    client = vpn.start_client(lab, link, "anna", name="repaired")
    client.says(r"routes into the tunnel")
    yield client
    stop(client.process)
    stop(server.process)


def answers(lab: Lab, address: str) -> bool:
    ping = ["ping", "-c1", "-W1", address]
    return lab.run("laptop", ping, check=False).returncode == 0


def come_back(lab: Lab, address: str) -> None:
    """Wait until *address* answers; 12 s are four times what it should take."""
    end = time.monotonic() + 12
    while not answers(lab, address):
        assert time.monotonic() < end, f"{address} does not answer any more"
        time.sleep(0.2)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("ip link set pyvpnc0 down; ip link set pyvpnc0 up", id="down and up"),
        pytest.param(
            f"ip route flush table {TABLE}; ip -6 route flush table {TABLE}", id="routes"
        ),
        pytest.param("; ".join(f"ip -{v} rule del table {TABLE}" for v in "46"), id="rules"),
        pytest.param("ip address flush dev pyvpnc0", id="addresses"),
        pytest.param("ip link del pyvpnc0", id="device"),
    ],
)
def test_damage_is_repaired(lab: Lab, client: Program, damage: str) -> None:
    """Whatever was taken away is back within seconds, for both IP versions."""
    assert answers(lab, OFFICE_ADDRESS)
    lab.run("laptop", ["sh", "-c", damage])
    come_back(lab, OFFICE_ADDRESS)
    come_back(lab, OFFICE_ADDRESS6)

    assert client.process.poll() is None
    assert "Traceback" not in client.log.read_text()


def test_second_client(lab: Lab, client: Program) -> None:
    """A second client with the same table is refused at its start, and the first goes on."""
    link = client.config.read_text().split("server = ")[1].split()[0]
    more = "[tunnel]\ndevice = pyvpnc1\n"
    second = vpn.start_client(lab, link, "anna", name="second", more=more)

    assert second.process.wait(10) == 1
    lines = second.log.read_text().splitlines()
    assert "another pyvpn client on this host uses routing table 51820" in lines[-1]
    assert "table = ..." in lines[-1]
    assert answers(lab, OFFICE_ADDRESS)


def test_second_client_with_its_own_table(lab: Lab, client: Program) -> None:
    """With its own table both run, and the first does not notice when the second goes."""
    link = client.config.read_text().split("server = ")[1].split()[0]
    more = "[tunnel]\ndevice = pyvpnc1\ntable = 51999\nfwmark = 51999\naccept_routes = no\n"
    second = vpn.start_client(lab, link, "anna", name="third", more=more)
    second.says(r"routes into the tunnel")
    assert stop(second.process) is None or second.process.returncode == 0
    assert answers(lab, OFFICE_ADDRESS)
    assert f"lookup {TABLE}" in lab.run("laptop", ["ip", "rule"]).stdout
