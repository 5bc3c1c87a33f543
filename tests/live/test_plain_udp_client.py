"""Our client and the first generation's UDP server, by a program that shares no code with us."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.plain_lab import (
    ORIGINAL_UDP,
    UDP_PASSWORD,
    UDP_PORT,
    fetches_the_page,
    pings,
    running,
    serve_a_page,
)
from tests.live.test_plain import udp

SERVER = "10.0.0.1"
OFFICE = "accept_routes = 192.168.77.0/24"
FORBID = f"""
table ip forbid {{
    chain forward {{
        type filter hook forward priority 0;
        ip daddr {SERVER_ADDRESS} reject with icmp type admin-prohibited
    }}
}}
"""
Running = AbstractContextManager[tuple[subprocess.Popen[bytes], Path]]


@pytest.fixture(scope="module")
def office(lab: Lab) -> Lab:
    """The lab, with a web server in the office; the original's operator forwards."""
    serve_a_page(lab)
    lab.run("server", ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    return lab


def original_server(lab: Lab, *options: str) -> Running:
    """The original server."""
    program = [*ORIGINAL_UDP, "server", str(UDP_PORT), *options]
    return running(lab, "server", program, "^ready$")


@pytest.fixture
def server(office: Lab) -> Iterator[Path]:
    """The same, until the end of the test; its log."""
    with original_server(office) as (_, log):
        yield log


class Starting(Protocol):
    """Starts our client on the laptop, with lines of its [tunnel] section."""

    def __call__(self, tunnel: str = "", password: str = UDP_PASSWORD) -> vpn.Program: ...


@pytest.fixture
def start_client(office: Lab) -> Iterator[Starting]:
    """The same, each ended with the test at the latest."""
    started: list[vpn.Program] = []

    def start(tunnel: str = "", password: str = UDP_PASSWORD) -> vpn.Program:
        program = vpn.start_client(
            office,
            f"{SERVER_ADDRESS}:{UDP_PORT}",
            "",
            name="plain-laptop",
            password=password,
            more=f"protocol = plain-udp\n[tunnel]\n{tunnel}\n",
        )
        started.append(program)
        return program

    yield start
    for program in started:
        stop(program.process)
        assert "Traceback" not in program.log.read_text()


def wait_for_count(log: Path, pattern: str, count: int, seconds: float = 15) -> None:
    """Wait until *pattern* is in *log* so many times."""
    deadline = time.monotonic() + seconds
    while len(re.findall(pattern, log.read_text())) < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def status(client: vpn.Program) -> str:
    """What the client says of itself when it is asked."""
    before = client.log.read_text().count("state: ")
    client.process.send_signal(signal.SIGUSR2)
    wait_for_count(client.log, "state: ", before + 1)
    time.sleep(0.2)
    return client.log.read_text().rpartition("state: ")[2]


def test_our_client(office: Lab, server: Path, start_client: Starting) -> None:
    """Our client logs in to the original's server, pings, is pinged, leaves in order."""
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    client.says("routes into the tunnel: 10.0.0.1/32, 192.168.77.0/24")
    assert "not encrypted" in client.log.read_text()
    assert pings(office, "laptop", SERVER)
    assert pings(office, "server", "10.0.0.2")
    assert pings(office, "laptop", OFFICE_ADDRESS)
    assert pings(office, "office", "10.0.0.2")
    assert pings(office, "laptop", OFFICE_ADDRESS, "-s", "1372", "-M", "do")
    assert fetches_the_page(office, "laptop", OFFICE_ADDRESS)
    assert "mtu 1400" in office.run("laptop", ["ip", "link", "show", "pyvpnc0"]).stdout
    said = status(client)
    assert "up; round trip unknown" in said
    assert "whether it hears us is not known; it was last heard" in said
    time.sleep(11)
    assert stop(client.process) == 0
    wait_for_line(server, "goodbye of 10.0.0.2")
    text = server.read_text()
    assert len(re.findall("log-in of", text)) == 1
    assert "refused" not in text
    assert "does not know" not in text
    assert "Traceback" not in client.log.read_text() + text
    assert UDP_PASSWORD not in client.log.read_text()


def test_only_the_other_end(office: Lab, server: Path, start_client: Starting) -> None:
    """Where no networks are listed, the other end of the link is all that is routed."""
    client = start_client()
    client.says("routes into the tunnel: 10.0.0.1/32$")
    assert pings(office, "laptop", SERVER)
    assert not pings(office, "laptop", OFFICE_ADDRESS)
    assert stop(client.process) == 0


def test_restarted_server(office: Lab, start_client: Starting) -> None:
    """A server that has forgotten us tells us so: we log in again, under another address."""
    with original_server(office):
        client = start_client(OFFICE)
        client.says("address 10.0.0.2$")
        assert pings(office, "laptop", OFFICE_ADDRESS)
    with original_server(office) as (_, log), office.hosts["internet"].inside():
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with other:
            other.sendto(UDP_PASSWORD.encode(), (SERVER_ADDRESS, UDP_PORT))
            wait_for_line(log, "log-in of .* as 10.0.0.2")
            wait_for_line(log, "does not know", 15)
            client.says("address 10.0.0.3$")
            addresses = office.run("laptop", ["ip", "address", "show", "pyvpnc0"]).stdout
            assert "10.0.0.3/32" in addresses
            assert "10.0.0.2" not in addresses
            assert pings(office, "laptop", SERVER)
            assert pings(office, "laptop", OFFICE_ADDRESS)
            assert pings(office, "office", "10.0.0.3")
            assert log.read_text().count("does not know") == 1
        assert stop(client.process) == 0


def test_killed(office: Lab, server: Path, start_client: Starting) -> None:
    """Killed and started anew, our client is back at once, by another address."""
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    os.kill(client.process.pid, signal.SIGKILL)
    client.process.wait()
    client = start_client(OFFICE)
    client.says("address 10.0.0.3$")
    assert pings(office, "laptop", OFFICE_ADDRESS)
    assert stop(client.process) == 0


def test_forged_forgetting(office: Lab, server: Path, start_client: Starting) -> None:
    """ "r" in the server's name costs a password and no packet: the server does not answer it."""
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    source = wait_for_line(server, r"log-in of (\S+) (\d+) as 10.0.0.2")
    packet = udp(SERVER_ADDRESS, source[1], int(source[2]), b"r")
    packet = packet[:20] + struct.pack(">H", UDP_PORT) + packet[22:]
    with office.hosts["internet"].inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    flood = ["ping", "-n", "-q", "-c", "70", "-i", "0.1", "-W", "1", OFFICE_ADDRESS]
    with raw, office.hosts["laptop"].inside():
        pinging = subprocess.Popen(flood, stdout=subprocess.PIPE, text=True)
        for _ in range(10):
            raw.sendto(packet, (source[1], 0))
            time.sleep(0.1)
        said, _ = pinging.communicate(timeout=30)
    assert " 0% packet loss" in said, said
    assert "plain-udp-unasked" in status(client)
    assert client.log.read_text().count("address 10.0.0.2\n") == 2  # once at the start
    assert stop(client.process) == 0


def test_wrong_password(office: Lab, server: Path, start_client: Starting) -> None:
    """A wrong password is not answered: we say what that may mean, and try again, not at once."""
    client = start_client(password="wrong")
    client.says(r"no answer to the password within 5 s: it is wrong, or .*; next try in", 20)
    wait_for_count(client.log, "no answer to the password", 2, 20)
    assert len(set(re.findall(r"refused \S+ (\d+) 77726f6e67", server.read_text()))) == 2
    assert stop(client.process) == 0


def test_no_server(office: Lab, start_client: Starting) -> None:
    """Nobody there, then somebody: refused by ICMP, we go on trying."""
    client = start_client("max_backoff = 2s\n" + OFFICE)
    wait_for_count(client.log, "nobody listens there", 3)
    with original_server(office):
        client.says("address 10.0.0.2$")
        assert pings(office, "laptop", OFFICE_ADDRESS)
    # Gone again: the port is closed, which kills nothing.
    for _ in range(3):
        assert not pings(office, "laptop", OFFICE_ADDRESS)
    assert "its host has said since that nobody listens there" in status(client)
    with original_server(office):
        wait_for_count(client.log, "does not know|address 10.0.0.2", 2)
        deadline = time.monotonic() + 15
        while not pings(office, "laptop", OFFICE_ADDRESS):
            assert time.monotonic() < deadline
    assert stop(client.process) == 0


def test_no_network(office: Lab, server: Path, start_client: Starting) -> None:
    """Without a way to the server, and with a forbidden one, we live on and come back."""
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    office.run("laptop", ["ip", "route", "del", "default"])
    assert not pings(office, "laptop", OFFICE_ADDRESS)
    assert "ENETUNREACH" in status(client)
    office.run("laptop", ["ip", "route", "add", "default", "via", "192.168.50.1"])
    assert pings(office, "laptop", OFFICE_ADDRESS)
    office.run("router", ["nft", "-f", "-"], input=FORBID)
    assert not pings(office, "laptop", OFFICE_ADDRESS)
    assert not pings(office, "laptop", OFFICE_ADDRESS)
    office.run("router", ["nft", "delete", "table", "ip", "forbid"])
    assert pings(office, "laptop", OFFICE_ADDRESS)
    assert "EHOSTUNREACH" in status(client)
    assert stop(client.process) == 0


def move(lab: Lab, old: str, new: str) -> None:
    """Give the laptop another address of its network."""
    for line in (
        f"address del {old}/24 dev eth0",
        f"address add {new}/24 dev eth0",
        "route replace default via 192.168.50.1",
    ):
        lab.run("laptop", ["ip", *line.split()])


def test_moved(office: Lab, server: Path, start_client: Starting) -> None:
    """Another address of the laptop: the old socket is of no use, so we log in anew."""
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    assert pings(office, "laptop", OFFICE_ADDRESS)
    move(office, "192.168.50.10", "192.168.50.77")
    try:
        assert not pings(office, "laptop", OFFICE_ADDRESS)
        client.says("this host's address has changed")
        client.says("address 10.0.0.3$")
        assert pings(office, "laptop", OFFICE_ADDRESS)
        assert stop(client.process) == 0
    finally:
        move(office, "192.168.50.77", "192.168.50.10")


@pytest.mark.parametrize("network", ["192.168.50.0/24", "127.9.0.0/24", "224.0.1.0/24"])
def test_hostile_addresses(office: Lab, network: str, start_client: Starting) -> None:
    """An address of our own network, of loopback or multicast is not taken."""
    with original_server(office, "--network", network):
        before = office.run("laptop", ["ip", "-o", "address"]).stdout
        client = start_client()
        client.says("lies in this host's own network|no answer to the password", 10)
        after = office.run("laptop", ["ip", "-o", "address"]).stdout
        assert network.rpartition(".")[0] not in after.replace("192.168.50.10/24", "")
        assert before.count("eth0") == after.count("eth0")
        assert stop(client.process) == 0


def test_both_ours(office: Lab, start_client: Starting) -> None:
    """Our client and our server speak it with each other as well."""
    more = (
        f"[plain]\nudp_listen = {UDP_PORT}\nudp_password = {UDP_PASSWORD}\n"
        "bypass = 192.168.77.0/24\n"
    )
    server = vpn.start_server(office, more=more)
    vpn.link(server)
    client = start_client(OFFICE)
    client.says("address 10.0.0.2$")
    assert pings(office, "laptop", SERVER)
    assert pings(office, "office", "10.0.0.2")
    assert fetches_the_page(office, "laptop", OFFICE_ADDRESS)
    assert stop(client.process) == 0
    server.says("plain/10.0.0.2 left: said goodbye", 15)
    assert stop(server.process) == 0
    assert "Traceback" not in client.log.read_text() + server.log.read_text()
