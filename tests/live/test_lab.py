"""The lab itself: what it joins, what it keeps apart, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvpn.errors import HostError
from pyvpn.testing import sandbox
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from pyvpn.testing.namespace import Namespace, wait_for_line
from tests.live.figures import below

ORPHAN = """
import sys, time
from pathlib import Path
from pyvpn.testing import sandbox
from pyvpn.testing.namespace import Namespace
sandbox.enter()
sleeper = Namespace("orphan").start(["sleep", "60"], Path("/dev/null"))
print(sleeper.pid, flush=True)
time.sleep(60)
"""


WATCH = """
import socket
s = socket.create_server(("198.18.2.2", 4000)); print("ready", flush=True)
print("from", s.accept()[1][0], flush=True)
"""
CALL = "import socket; socket.create_connection(('198.18.2.2', 4000), 5)"


def pings(lab: Lab, host: str, address: str) -> bool:
    """Tell whether *address* answers *host* within a second."""
    ping = ["ping", "-n", "-c", "1", "-W", "1", address]
    return lab.run(host, ping, check=False).returncode == 0


@pytest.mark.parametrize("address", [SERVER_ADDRESS, SERVER_ADDRESS6])
def test_the_laptop_reaches_the_server(lab: Lab, address: str) -> None:
    """The server's public addresses answer, IPv4 through the home's NAT."""
    assert pings(lab, "laptop", address)


def test_only_a_tunnel_leads_into_the_office(lab: Lab) -> None:
    """Without a VPN nothing leads from the laptop to the office's LAN."""
    assert not pings(lab, "laptop", OFFICE_ADDRESS)
    assert pings(lab, "server", OFFICE_ADDRESS)


def test_the_router_hides_the_home(lab: Lab) -> None:
    """The server sees the router's address, never the laptop's own."""
    log = lab.folder / "watch.log"
    process = lab.start("server", [sys.executable, "-c", WATCH], log)
    wait_for_line(log, "ready", process=process)
    lab.run("laptop", [sys.executable, "-c", CALL])
    assert wait_for_line(log, r"^from (\S+)", process=process)[1] == "198.18.1.2"


@pytest.mark.parametrize(
    ("at_home", "address"), [(True, "192.168.50.11"), (False, "198.18.103.2")]
)
def test_more_laptops(lab: Lab, at_home: bool, address: str) -> None:
    """Further laptops join the home or the internet, and reach the server."""
    name = lab.add_laptop(at_home=at_home)
    assert address in lab.run(name, ["ip", "-4", "address"]).stdout
    assert pings(lab, name, SERVER_ADDRESS)
    assert pings(lab, name, SERVER_ADDRESS6)


def test_the_router_keeps_its_address(lab: Lab) -> None:
    """One more laptop does not change the router's MAC address, which the others have noted."""
    show = ["ip", "-br", "link", "show", "lan"]
    before = lab.run("router", show).stdout.split()[2]
    for _ in range(6):
        lab.add_laptop()

        assert lab.run("router", show).stdout.split()[2] == before


def test_inside(namespace: Namespace) -> None:
    """A thread that was inside a namespace comes back to where it was."""
    before = os.readlink("/proc/thread-self/ns/net")
    with namespace.inside():
        assert before != os.readlink("/proc/thread-self/ns/net")
    assert before == os.readlink("/proc/thread-self/ns/net")


def test_state_sees_what_was_left(namespace: Namespace) -> None:
    """A rule, a route, a table or a sysctl left behind shows in the state."""
    before = namespace.state()
    assert before == namespace.state()
    for change, undo in (
        ("ip rule add fwmark 1 table 9", "ip rule del fwmark 1 table 9"),
        ("ip -6 route add unreachable fd00::/8", "ip -6 route del unreachable fd00::/8"),
        ("nft add table inet left", "nft delete table inet left"),
        ("sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv4.ip_forward=0"),
    ):
        namespace.run(change.split())
        assert before != namespace.state(), change
        namespace.run(undo.split())
        assert before == namespace.state(), undo


def test_a_failing_program_is_an_error_with_its_words(namespace: Namespace) -> None:
    """What a failing program said is in the error, so that a test log explains itself."""
    with pytest.raises(HostError, match="ended with 3: so it goes"):
        namespace.run(["sh", "-c", "echo so it goes >&2; exit 3"])


def test_a_program_that_hangs_is_an_error(namespace: Namespace) -> None:
    """Nothing in the lab waits for ever."""
    with pytest.raises(HostError, match="did not end within"):
        namespace.run(["sleep", "60"], timeout=0.1)


def test_closing_kills_what_runs_there(in_sandbox: None) -> None:
    """A program that was left running ends with its namespace, grandchildren too."""
    namespace = Namespace("closing")
    shell = namespace.start(["sh", "-c", "sleep 60 & sleep 60"], Path("/dev/null"))
    deadline = time.monotonic() + 5
    while len(namespace.processes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = namespace.processes()
    namespace.close()
    shell.wait()
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_nothing_outlives_a_killed_lab(in_sandbox: None) -> None:
    """After ``kill -9`` of whoever made the namespaces, their programs are gone too."""
    maker = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, env=sandbox.environment()
    )
    assert maker.stdout is not None
    sleeper = int(maker.stdout.readline())
    assert alive(sleeper)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    assert not alive(sleeper)


def alive(pid: int) -> bool:
    """Tell whether *pid* still runs a second from now (a zombie does not)."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_names(lab: Lab) -> None:
    """The lab has its own names, and an unknown one fails at once: there is no name server."""
    before = sandbox.NAMES.read_text()
    sandbox.NAMES.write_text(f"{before}\n{SERVER_ADDRESS} vpn.example.org\n")
    try:
        found = lab.run("laptop", ["getent", "hosts", "vpn.example.org"]).stdout
    finally:
        sandbox.NAMES.write_text(before)
    assert SERVER_ADDRESS in found
    began = time.monotonic()
    assert lab.run("laptop", ["getent", "hosts", "vpn.example.org"], check=False).returncode != 0
    below(time.monotonic() - began, 10)
