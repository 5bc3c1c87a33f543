"""Either end is killed, stopped, cut off or robbed of its interface; what must go on goes on."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import ip
from pyvpn.testing.vpn import Program
from tests.live.figures import below
from tests.live.office import (
    CLIENT_TUN,
    KILLS,
    OFFICE_ADDRESSES,
    SERVER_TUN,
    SOAKING,
    Office,
    Web,
    tell,
    wait_until,
)

DOWNLOAD_MIB = 200 if SOAKING else 48
TIMINGS = (10, 60) if SOAKING else (3, 18)  # seconds: heartbeat and expiry


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


@contextmanager
def download(office: Office, name: str) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Fetch *name* from the office in the background; gives the growing file and curl."""
    target = office.lab.folder / f"{office.name}-download"
    url = f"http://{OFFICE_ADDRESS}/{name}"
    curl = ["curl", "-sSf", "--max-time", "60", "-o", str(target), url]
    process = office.lab.start("laptop", curl, office.lab.folder / "curl.log")
    try:
        yield target, process
    finally:
        process.kill()
        process.wait()
        target.unlink(missing_ok=True)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


@pytest.mark.parametrize("victim", ["server", "client"])
def test_killed_during_a_download(office: Office, lab: Lab, web: Web, victim: str) -> None:
    """A download goes on after kill -9 of the server and a second without one; its hash is right.

    After kill -9 of the client the device is gone with its address, but both are back before
    TCP gives up.
    """
    digest = web.put("download", DOWNLOAD_MIB)
    office.open()
    client = office.join()
    mine = office.lease()
    with office.steady_ping() as ping, download(office, "download") as (target, curl):
        wait_until(lambda: size(target) > DOWNLOAD_MIB * 2**20 * 0.3)
        office.kill(office.server if victim == "server" else client)
        assert size(target) < DOWNLOAD_MIB * 2**20 * 0.9, "it was over before the kill"
        time.sleep(1)
        if victim == "server":
            office.start_server()
        else:
            office.join(password=None)
        assert curl.wait(60) == 0
        came = lab.run("laptop", ["sha256sum", str(target)]).stdout.split()[0]

    assert came == digest
    assert office.lease() == mine
    assert office.leases_in_use() == 1
    tell(f"kill -9 of the {victim} during {DOWNLOAD_MIB} MiB: longest gap {ping.gap:.2f} s")
    below(ping.gap, 5)


def test_client_killed_again_and_again(office: Office) -> None:
    """A client that is killed five times has one session, one lease and the same address."""
    office.open()
    client = office.join()
    mine = office.lease()
    for _ in range(5):
        office.kill(client)
        client = office.join(password=None)

        assert office.lease() == mine
        below(office.wait_for_ping(), 5)
    assert office.leases_in_use() == 1
    assert "1 sessions, 1 connections, 1 addresses in use" in office.status()


def test_known_device(office: Office) -> None:
    """A known device needs no password; how soon it is there, Python's start included."""
    office.open()
    office.end(office.join())
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        client = office.start_client(password=None)
        office.wait_for_ping()
        seconds.append(time.monotonic() - began)
        assert "password" not in client.log.read_text()
        office.end(client)

    tell(
        "known device, from its start to the first answered ping: "
        + ", ".join(f"{one:.2f} s" for one in seconds)
    )


def test_unknown_device_without_password(office: Office) -> None:
    """The twin of the above: who is not known is told in one line what to do, and not let in."""
    office.open()
    client = office.start_client(password=None)

    client.says("the server does not know this device yet, so a password is needed: set password_")
    assert client.process.wait(5) == 1
    office.forget(client)
    assert "0 sessions, 0 connections" in office.status()


def test_client_stopped(office: Office) -> None:
    """SIGTERM: the server is told, the address is free again, status 0 within two seconds."""
    office.open()
    client = office.join()

    below(office.end(client), 2)
    office.server.says(r"anna/\S+ left", 0.5)
    assert "0 sessions, 0 connections, 0 addresses in use" in office.status()
    wait_until(lambda: office.leases_in_use() == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_stopped(office: Office, number: signal.Signals) -> None:
    """The clients are told and come back soon; status 0 within two seconds."""
    office.open()
    client = office.join()
    mine = office.lease()
    began = time.monotonic()
    office.server.process.send_signal(number)
    assert office.server.process.wait(5) == 0
    below(time.monotonic() - began, 2)
    client.says(r"the server is shutting down \(shutting-down\); next try in 1\.\d s", 0.5)
    assert office.lease() == mine  # what runs inside does not notice
    office.end(office.server)

    office.start_server()
    below(office.wait_for_ping(), 5)
    assert office.lease() == mine


def test_stopped_while_nothing_answers(office: Office, lab: Lab) -> None:
    """SIGTERM of a client whose server is away, or whose server's name cannot be resolved."""
    office.open()
    client = office.join()
    office.kill(office.server)
    client.says("next try")
    below(office.end(client), 2)

    office.link = "pyvpn://vpn.example.org:51820?pin=" + office.link.partition("pin=")[2]
    client = office.start_client()
    client.says(r"cannot reach vpn\.example\.org:51820.*next try")
    below(office.end(client), 2)
    assert office.lease() == []
    office.start_server().says("server = ")  # and what the killed one left is undone by its stop


def test_stopped_while_starting(office: Office, lab: Lab) -> None:
    """SIGTERM while the server makes its changes to the host: it ends with 0 and undoes them.

    Also if it is told more than once. What it leaves behind is looked at by the fixture.
    """
    office.start_server().says("server = ")
    office.end(office.server)
    journal = lab.folder / office.name / "host.json"
    for number in range(6):
        server = office.start_server()
        while not journal.exists():
            time.sleep(0.001)
        time.sleep(number * 0.01)
        for _ in range(3):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.005)

        below(office.end(server), 2)
        assert not journal.exists()


def test_random_kills(office: Office, lab: Lab) -> None:
    """After any number of kills at any moment, one clean stop of each leaves nothing behind.

    PYVPN_KILLS=100 makes it a long run, PYVPN_SEED repeats one. That all is
    as before is looked at by the fixture.
    """
    seed = int(os.environ.get("PYVPN_SEED") or random.randrange(2**32))
    tell(f"{KILLS} kills, seed {seed}")
    chance = random.Random(seed)
    office.open()
    client: Program | None = office.join()
    mine = " ".join(office.lease())
    server: Program | None = office.server
    for _ in range(KILLS):
        if server is None:
            server = office.start_server()
        if client is None:
            client = office.start_client(password=None)
        time.sleep(chance.choice((0.05, 0.4, 0.7, 0.9, 1.5)) * chance.uniform(0.7, 1.3))
        victims = chance.choice(("server", "client", "both"))
        if victims != "client":
            office.kill(server)
            server = None
        if victims != "server":
            office.kill(client)
            client = None
        tables = lab.run("server", ["nft", "list", "tables"]).stdout.split("\n")
        assert len([table for table in tables if table]) <= 1
        for command in "ip -4 rule", "ip -6 rule":
            assert lab.run("laptop", command.split()).stdout.count("51820") <= 2
    if server is None:
        office.start_server()
    if client is None:
        office.start_client(password=None)
    office.wait_for_ping()

    assert " ".join(office.lease()) == mine
    assert office.leases_in_use() == 1


@pytest.mark.parametrize(("host", "device"), [("server", SERVER_TUN), ("laptop", CLIENT_TUN)])
def test_interface_deleted(office: Office, lab: Lab, host: str, device: str) -> None:
    """Somebody deletes the TUN: within two seconds it is there again, with all that was on it."""
    office.open()
    client = office.join()
    mine, routes = office.lease(), office.routes()
    show = ["ip", "-br", "address", "show", "dev", device]
    addresses = lab.run(host, show).stdout.split("UNKNOWN")[1]
    before = descriptors(client), descriptors(office.server)
    for _ in range(3):
        ip("-n", host, "link", "delete", device)
        began = time.monotonic()
        for address in OFFICE_ADDRESSES:
            office.wait_for_ping(address=address)

        below(time.monotonic() - began, 10)
        assert (office.lease(), office.routes()) == (mine, routes)
        assert lab.run(host, show).stdout.split("UNKNOWN")[1] == addresses
        wait_until(lambda: (descriptors(client), descriptors(office.server)) == before, 5)
    used = cpu_seconds(client) + cpu_seconds(office.server)
    time.sleep(1)
    below(cpu_seconds(client) + cpu_seconds(office.server) - used, 0.5)  # one of them spins
    (office.server if host == "server" else client).says(f"{device} is gone")


def cpu_seconds(program: Program) -> float:
    """The processor time that *program* has used."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("seconds", [1, 8])
def test_laptop_offline(office: Office, lab: Lab, seconds: float) -> None:
    """The laptop's link goes down and up: the same address, on the same or a new connection."""
    office.open(f"[tunnel]\nheartbeat = {TIMINGS[0]}s\nexpiry = {TIMINGS[1]}s\n")
    client = office.join()
    mine = office.lease()
    before = descriptors(client)
    with office.steady_ping() as ping:
        ip("-n", "laptop", "link", "set", "eth0", "down")
        time.sleep(seconds)
        ip("-n", "laptop", "link", "set", "eth0", "up")
        # What a link loses by going down, and whoever manages the network brings back:
        ways = "route add default via 192.168.50.1\nroute add default via 2001:db8:50::1\n"
        ip("-n", "laptop", script="address add 2001:db8:50::10/64 dev eth0\n" + ways)
        up = time.monotonic()
        office.wait_for_ping()
        took = time.monotonic() - up
        time.sleep(0.3)  # for the other ping, or it may not have been heard again
    tell(f"link down for {seconds:g} s: first answer {took:.1f} s after it was up again")

    below(took, 8)
    assert office.lease() == mine
    # What the last tries had open may go a moment later.
    wait_until(lambda: descriptors(client) == before, 5, f"{before} descriptors again")
    assert ping.gap > seconds
    assert "1 sessions" in office.status()


@contextmanager
def unheard(lab: Lab) -> Iterator[None]:
    """Drop at the home router whatever comes from or goes to the laptop, without a word."""
    rules = "\n".join(
        f"add rule inet silence forward ip {way} 192.168.50.10 drop" for way in ("saddr", "daddr")
    )
    # Before the NAT's connection tracking gets to see it, addresses are still the laptop's.
    table = (
        "add table inet silence\n"
        "add chain inet silence forward { type filter hook forward priority 0; }\n"
    )
    lab.run("router", ["nft", "-f", "-"], input=table + rules)
    try:
        yield
    finally:
        lab.run("router", ["nft", "delete", "table", "inet", "silence"])


def test_half_open(office: Office, lab: Lab) -> None:
    """Everything to and from the client is dropped, with packets for it in flight.

    The server gives the connection up within 40 s (in units of a heartbeat: 4), but keeps the
    session until it expires; a client that is back before then continues it. A second silence
    outlasts the session, and the client still gets its address.
    """
    heartbeat, expiry = TIMINGS
    office.open(f"[tunnel]\nheartbeat = {heartbeat}s\nexpiry = {expiry}s\n")
    client = office.join()
    mine = office.lease()
    server = descriptors(office.server)
    office.wait_for_ping()
    began = time.monotonic()
    with office.steady_ping("office", mine[0], 0.2), unheard(lab):
        office.server.says(
            r"anna/\S+: connection lost \(.*\), packets go by UDP", 4 * heartbeat + 2
        )
        tell(f"half-open, found after {time.monotonic() - began:.1f} s")
        below(time.monotonic() - began, 4 * heartbeat)
        assert "1 sessions, 0 connections, 1 addresses in use" in office.status()
        wait_until(lambda: descriptors(office.server) == server - 1, 5)
    tell(f"first answer {office.wait_for_ping():.1f} s after packets pass again")
    assert office.lease() == mine
    assert "expired" not in office.server.log.read_text()

    with unheard(lab):
        office.server.says(r"anna/\S+ expired", expiry + heartbeat + 2)
        assert "0 sessions, 0 connections, 0 addresses in use" in office.status()
    office.wait_for_ping()
    assert office.lease() == mine
    assert len(re.findall(r"\] address 10\.", client.log.read_text())) >= 2
