"""An administrator changes configuration or accounts of a running server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_NETWORK, OFFICE_NETWORK6, Lab
from pyvpn.testing.vpn import Program
from tests.live.figures import below
from tests.live.office import CLIENT_TUN, Office, Web, wait_until

QUICK = 1.0  # seconds within which a change must have its effect
POOLS = {"10.73.0.0/24", "fd70:7976:706e::/64"}
WATCH_SECONDS = 4.0
"""How long a client that was turned away is watched."""


def mtu(lab: Lab) -> int:
    show = ["ip", "-j", "link", "show", "dev", CLIENT_TUN]
    found: int = json.loads(lab.run("laptop", show).stdout)[0]["mtu"]
    return found


@contextmanager
def changed_within(seconds: float = QUICK) -> Iterator[None]:
    """What is waited for inside must have happened by then."""
    began = time.monotonic()
    yield
    below(time.monotonic() - began, seconds)


def log_ins(server: Program) -> int:
    """How many log-ins the server's log tells of, welcome or not."""
    return len(re.findall(r"log-in as | is here from ", server.log.read_text()))


def tries(client: Program) -> int:
    """How often the client has set out to try again."""
    return len(re.findall(r"; next try in ", client.log.read_text()))


def test_settings(office: Office, lab: Lab) -> None:
    """New routes, MTU and name servers reach the client while a ping runs and loses nothing."""
    office.open(f"[tunnel]\nroutes = {OFFICE_NETWORK}\nmtu = 1420\n#dns\n")
    client = office.join()
    mine = office.lease()
    assert office.routes() == POOLS | {OFFICE_NETWORK}
    assert mtu(lab) == 1420
    with office.steady_ping() as ping:
        office.reload(f"routes = {OFFICE_NETWORK}", f"routes = {OFFICE_NETWORK}, fd77::/64")
        wait_until(lambda: office.routes() == POOLS | {OFFICE_NETWORK, OFFICE_NETWORK6}, 2)
        office.reload("mtu = 1420", "mtu = 1320")
        wait_until(lambda: mtu(lab) == 1320, 2)
        office.reload("#dns", "dns = 192.168.77.53, fd77::53")
        client.says(r"name servers offered .*: 192\.168\.77\.53, fd77::53", 2)
        office.reload("[tunnel]", "[leases]\nsticky = 1d\n[tunnel]")
        wait_until(lambda: office.server.log.read_text().count("configuration applied") == 4)
        assert office.pings("laptop", "fd77::20") == 1

        office.reload(", fd77::/64", "")
        wait_until(lambda: office.routes() == POOLS | {OFFICE_NETWORK}, 2)
        time.sleep(0.2)

    assert ping.lost == 0
    below(ping.gap, 2)
    assert office.lease() == mine
    assert tries(client) == 0
    # And the server holds everybody to the new routes: this one was let through before.
    lab.run("laptop", ["ip", "route", "add", OFFICE_NETWORK6, "dev", CLIENT_TUN, "table", "51820"])
    assert office.pings("laptop", "fd77::20", patience=0.3) == 0
    assert office.status().count("1 sessions, 1 connections") == 1


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("mtu = 1420", "mtu = big", r"\[tunnel\] mtu = 'big'"),
        ("mtu = 1420", "mtu = 1320\nmtuu = 1", r"\[tunnel\] mtuu.*did you mean 'mtu'"),
        ("[tunnel]", "[tunnel", r"expected 'option = value', a \[section\]"),
    ],
)
def test_broken_file(office: Office, lab: Lab, old: str, new: str, why: str) -> None:
    """A broken file changes nothing, and the log names the line and what is expected."""
    office.open("[tunnel]\nmtu = 1420\n")
    client = office.join()
    hosts = ("server", "laptop")
    before = [lab.hosts[host].state() for host in hosts]
    with office.steady_ping() as ping:
        office.reload(old, new)
        office.server.says(
            rf"configuration not applied, nothing was changed: \S+{office.name}\.ini:\d+: {why}"
        )
        time.sleep(0.3)
    assert ping.lost == 0
    assert [lab.hosts[host].state() for host in hosts] == before
    assert tries(client) == 0

    office.reload(new, old)  # and a mended one is taken
    office.server.says("configuration applied; 1 sessions kept")


def test_restart_needed(office: Office) -> None:
    """What cannot change under running sessions stays as it was, and the log says so."""
    office.open("[tunnel]\nnetwork4 = 10.73.0.0/24\n")
    office.join()
    office.reload("10.73.0.0/24", "10.74.0.0/24")

    office.server.says(r"\[tunnel\] device, network4, network6 changed: that needs a restart")
    office.server.says("configuration applied; 1 sessions kept")
    assert office.lease()[0] == "10.73.0.2"
    assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3


def test_disabled(office: Office) -> None:
    """A disabled user is out within a second, does not hammer, and may come in once enabled."""
    office.open(users=("anna", "bert"))
    client = office.join()
    office.pyvpn("user", "disable", "bert")  # which is no business of anna's
    office.pyvpn("user", "disable", "anna")
    with changed_within():
        client.says(r"the account is disabled \(disabled\); next try in 3\d\d\.\d s")
    assert office.pings("laptop", OFFICE_ADDRESS, patience=0.2) == 0
    assert "0 sessions, 0 connections, 0 addresses in use" in office.status()
    count = log_ins(office.server)
    time.sleep(WATCH_SECONDS)
    assert (log_ins(office.server), tries(client)) == (count, 1)

    # A restart of the client does not help, and says the same as a wrong password would.
    office.end(client)
    client = office.start_client(password=None)
    client.says("none is configured")
    office.server.says("log-in as a known certificate from 198.18.1.2 refused: ")
    office.end(client)
    client = office.start_client()
    client.says(r"user or password is wrong \(bad-credentials\); next try in 3\d\d\.\d s")
    office.server.says("log-in as anna from 198.18.1.2 refused: ")
    count = log_ins(office.server)
    time.sleep(WATCH_SECONDS)
    assert (log_ins(office.server), tries(client)) == (count, 1)
    office.end(client)

    office.pyvpn("user", "enable", "anna")
    office.join(password=None)
    assert office.lease()[0] == "10.73.0.2"


def test_removed(office: Office) -> None:
    """A removed user is out within a second, and its certificate is worth nothing from then on."""
    office.open()
    client = office.join()
    office.pyvpn("user", "remove", "anna")
    with changed_within():
        client.says(r"the account was removed \(kicked\); next try in [67]\d\.\d s")
    count = log_ins(office.server)
    time.sleep(WATCH_SECONDS)
    assert (log_ins(office.server), tries(client)) == (count, 1)
    office.end(client)

    client = office.start_client()
    client.says(r"\(bad-credentials\)")
    assert office.lease() == []
    assert office.leases_in_use() == 0
    # Somebody else of the same name is somebody else.
    office.end(client)
    vpn.add_user(office.lab, office.server, "anna", "another password")
    client = office.start_client()
    client.says(r"\(bad-credentials\)")


def test_password_changed(office: Office, lab: Lab) -> None:
    """A new password ends what the old one began; with the new one a client is back."""
    office.open()
    client = office.join()
    mine = office.lease()
    office.pyvpn("user", "passwd", "anna", input="a new password\n")
    with changed_within():
        client.says(r"the password was changed \(log-in-again\)")
    client.says(r"user or password is wrong \(bad-credentials\); next try in 3\d\d\.\d s")
    assert office.pings("laptop", OFFICE_ADDRESS, patience=0.2) == 0
    counts = log_ins(office.server), tries(client)
    time.sleep(WATCH_SECONDS)
    assert (log_ins(office.server), tries(client)) == counts
    office.end(client)

    client = office.join(password="a new password")
    assert office.lease() == mine
    # The next change meets a client that knows already, as when its user typed it there first.
    password = next(lab.folder.glob(f"{office.name}*.password"))
    password.write_text("a third password\n")
    office.pyvpn("user", "passwd", "anna", input="a third password\n")
    client.says(r"the password was changed \(log-in-again\)")
    below(office.wait_for_ping(), 3)
    assert office.lease() == mine
    assert "bad-credentials" not in client.log.read_text()
    store = office.store()
    try:
        assert len(store.devices()) == 1
    finally:
        store.close()


def test_fixed_address(office: Office, lab: Lab) -> None:
    """A user with a fixed address gets it: at once when it is set, and it is nobody else's."""
    other = lab.add_laptop()
    office.open(users=("anna", "bert"))
    client = office.join()
    assert office.lease()[0] == "10.73.0.2"
    office.pyvpn("user", "address", "anna", "10.73.0.50", "fd70:7976:706e::50")
    with changed_within():
        client.says(r"the address was changed \(log-in-again\)")
    wait_until(lambda: office.lease() == ["10.73.0.50", "fd70:7976:706e::50"], 3)
    below(office.wait_for_ping(), 5)

    assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3
    assert office.pings("office", "10.73.0.50", 3) == 3
    # A wish for it, by somebody else, is not granted: not even while it is not in use.
    office.end(client)
    office.join(other, "bert", more="[tunnel]\naddress = 10.73.0.50\n")
    assert office.lease(other)[0] == "10.73.0.3"

    client = office.join(password=None)
    assert office.lease() == ["10.73.0.50", "fd70:7976:706e::50"]
    office.pyvpn("user", "address", "anna", "--clear")
    client.says(r"the address was changed \(log-in-again\)")
    office.wait_for_ping()


def test_wished_address(office: Office, lab: Lab) -> None:
    """A client's own wish is honoured if the address is free and permitted."""
    other = lab.add_laptop()
    office.open(users=("anna", "bert"))
    office.join(more="[tunnel]\naddress = 10.73.0.77\n")
    office.join(other, "bert", more="[tunnel]\naddress = 10.73.0.77\n")

    assert office.lease()[0] == "10.73.0.77"
    assert office.lease(other)[0] == "10.73.0.2"


def test_firewall_left_alone(office: Office, lab: Lab) -> None:
    """With manage = no neither nft nor sysctl is touched; turned on and off, it comes and goes."""
    before = lab.hosts["server"].state()

    def touched() -> set[str]:
        """What differs now, of what no TUN brings along."""
        now = lab.hosts["server"].state()
        return {
            what
            for what in before
            if what == "nft list ruleset" or what.startswith("/proc/sys/")
            if now[what] != before[what]
        }

    with closing(Web(lab, port=81)) as web:
        digest = web.put("page", 0.1)
        office.open("[firewall]\nmanage = no\n")
        office.join()
        assert touched() == set()
        assert office.pings("laptop", "10.73.0.1", 3) == 3
        assert office.pings("laptop", OFFICE_ADDRESS, patience=0.2) == 0  # nobody forwards

        office.reload("manage = no", "manage = yes")
        office.server.says("configuration applied; 1 sessions kept")
        assert "nft list ruleset" in touched()
        assert "/proc/sys/net/ipv4/ip_forward" in touched()
        assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3
        curl = ["curl", "-sSf", f"http://{OFFICE_ADDRESS}:81/page", "-o", "/dev/null"]
        lab.run("laptop", curl)
        assert web.visitor("page") == "192.168.77.1"
        assert len(digest) == 64

        office.reload("manage = yes", "manage = no")
        wait_until(lambda: office.server.log.read_text().count("configuration applied") == 2)
        assert touched() == set()
