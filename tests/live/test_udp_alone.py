"""A device on file whose TCP is blocked: by UDP alone, its control connection in the tunnel.

::

    laptop --- home router --- internet --- server --- office
               (TCP is lost here)
"""

from __future__ import annotations

import time

import pytest

from pyvpn.client.alone import PATIENCE_SECONDS
from pyvpn.testing import faults
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.vpn import Program
from tests.live.figures import below
from tests.live.office import Office, tell, wait_until
from tests.live.stock import drops
from tests.live.test_stock_restart import back_after, restart

UP_SECONDS = 5.0
BACK_SECONDS = 3.0
"""Promised is one; the machine that this runs on is shared."""


def met(office: Office, more: str = "") -> Program:
    """A client that was in, and knows the server by UDP."""
    office.open(more)
    client = office.join()
    client.says("packets go by UDP")
    time.sleep(1.2)  # what is known of it is written down once a second
    return client


def control(office: Office, client: Program) -> str:
    """Where the client says that its control connection runs."""
    return office.status(client).partition("control connection: ")[2].partition("\n")[0]


@pytest.mark.parametrize("said_goodbye", [True, False])
def test_started_without_tcp(office: Office, lab: Lab, said_goodbye: bool) -> None:
    """Up by UDP alone in a few seconds, control in the tunnel, then outside, and nothing lost."""
    client = met(office, "[tunnel]\nheartbeat = 9s\n")
    mine = office.lease()
    (office.end if said_goodbye else office.kill)(client)
    with faults.blocked(lab, "tcp"):
        client = office.start_client(password=None)
        client.says("trying UDP alone", 15)  # Python's start is none of it
        began = time.monotonic()
        office.wait_for_ping()
        took = PATIENCE_SECONDS + time.monotonic() - began
        tell(f"TCP blocked: answered {took:.1f} s after the client's first try")
        below(took, UP_SECONDS)
        assert office.lease() == mine
        client.says(r"packets go by UDP")
        wait_until(lambda: "through the tunnel" in control(office, client), 15, "control inside")
        assert "is here from its tunnel" in office.server.log.read_text()
        # What the operator changes reaches it there.
        office.reload("heartbeat = 9s", "heartbeat = 9s\nroutes = 192.168.77.0/25")
        client.says("the server changed its settings", 5)
    with office.steady_ping() as ping:
        client.says("TCP works outside the tunnel again", 40)
        time.sleep(2)
        assert control(office, client) == "outside"
    tell(f"back outside: {ping.lost} lost, gap {ping.gap:.2f} s")
    assert ping.lost == 0
    assert office.lease() == mine


def test_transport_udp(office: Office, lab: Lab) -> None:
    """With ``transport = udp`` nothing is waited for."""
    office.kill(met(office))
    with faults.blocked(lab, "tcp"):
        client = office.start_client(password=None, more="transport = udp\n")
        client.says("trying UDP alone", 10)
        began = time.monotonic()
        office.wait_for_ping()
        tell(f"transport = udp: answered {time.monotonic() - began:.2f} s after its first try")
        below(time.monotonic() - began, 2)


def test_server_killed_without_tcp(office: Office, lab: Lab) -> None:
    """The server is killed and started again while TCP is blocked: traffic is back at once."""
    client = met(office)
    with faults.blocked(lab, "tcp"), office.steady_ping(seconds=0.02) as ping:
        for _ in range(2):
            time.sleep(1.2)
            office.kill(office.server)
            died = time.time()
            time.sleep(0.5)
            up = restart(office)
            back = back_after(ping, up, died)
            tell(f"kill -9, TCP blocked: back {back:.2f} s after the server was up")
            below(back, BACK_SECONDS)
        wait_until(lambda: "through the tunnel" in control(office, client), 60, "control inside")
        assert office.pings("laptop", OFFICE_ADDRESS, 5) == 5


@pytest.mark.parametrize("why", ["disabled", "removed", "password"])
def test_locked_out(office: Office, lab: Lab, why: str) -> None:
    """Who would not be let in at log-in gets no answer, and who is in is put out in a second."""
    client = met(office)
    with faults.blocked(lab, "tcp"):
        time.sleep(1)
        assert office.pings("laptop", OFFICE_ADDRESS, 2) == 2
        lock_out(office, why)
        time.sleep(1.5)
        assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.1) == 0
        office.kill(client)
        before = drops(office)["unknown-peer"]
        client = office.start_client(password=None)
        client.says("trying UDP alone", 15)
        wait_until(lambda: drops(office)["unknown-peer"] > before, 10)
        assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.2) == 0
        assert "0 sessions" in office.status()


def lock_out(office: Office, why: str) -> None:
    """Have the user, or the device, refused at log-in from now on."""
    if why == "disabled":
        office.pyvpn("user", "disable", "anna")
    elif why == "password":
        office.pyvpn("user", "passwd", "anna", input="a new password\n")
    else:
        store = office.store()
        [device] = store.devices()
        store.close()
        office.pyvpn("device", "remove", "anna", device.name)


def test_named_addresses(office: Office, lab: Lab) -> None:
    """A server that listens at one outer address takes connections at its tunnel's, too."""
    client = met(office, "listen = 198.18.2.2:51820\n")
    listening = lab.run("server", ["ss", "-Hltn"]).stdout
    assert "10.73.0.1:51820" in listening
    assert "[fd70:7976:706e::1]:51820" in listening
    office.kill(client)
    with faults.blocked(lab, "tcp"):
        client = office.start_client(password=None)
        client.says("trying UDP alone", 15)
        wait_until(lambda: "through the tunnel" in control(office, client), 30, "control inside")
