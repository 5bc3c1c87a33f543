"""What other firewalls on the host do to us, and that we say so."""

from __future__ import annotations

import time

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_NETWORK, Lab
from pyvpn.testing.namespace import stop

DOCKER_LIKE = """
table ip filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
    }
}
"""


def test_dropping_firewall_is_named(lab: Lab) -> None:
    """A host whose other firewall drops what is forwarded gets a warning with the cure."""
    lab.run("server", ["nft", "-f", "-"], input=DOCKER_LIKE)
    try:
        server = vpn.start_server(lab, name="docker")
        said = server.says(r"drops forwarded packets \(nft chain ip filter FORWARD.*")[0]
    finally:
        lab.run("server", ["nft", "delete", "table", "ip", "filter"])
    assert "iptables -I FORWARD -i pyvpn0 -j ACCEPT" in said
    vpn.link(server)
    stop(server.process)


def test_no_warning_without(lab: Lab) -> None:
    """Where nothing drops, nothing is said."""
    server = vpn.start_server(lab, name="clean")
    vpn.link(server)
    stop(server.process)
    assert "drops forwarded" not in server.log.read_text()


def test_no_router_for_strangers(lab: Lab) -> None:
    """Forwarding is on for the tunnel; between the server's other interfaces nothing passes."""
    server = vpn.start_server(lab, name="bystanders")
    link = vpn.link(server)
    vpn.add_user(lab, server, "anna")
    client = vpn.start_client(lab, link, "anna", name="among-strangers")
    client.says(r"routes into the tunnel")
    lab.run("internet", ["ip", "route", "add", OFFICE_NETWORK, "via", "198.18.2.2"])
    try:
        stranger = lab.run("internet", ["ping", "-c2", "-i.2", "-W1", OFFICE_ADDRESS], check=False)
        friend = lab.run("laptop", ["ping", "-c2", "-i.2", "-W1", OFFICE_ADDRESS], check=False)
    finally:
        lab.run("internet", ["ip", "route", "del", OFFICE_NETWORK])
        stop(client.process)
        stop(server.process)

    assert (stranger.returncode, friend.returncode) == (1, 0)


def test_flushed_ruleset_is_repaired(lab: Lab) -> None:
    """Somebody flushes all of nft: within seconds the table stands again, once."""
    server = vpn.start_server(lab, name="flushed")
    vpn.link(server)
    before = lab.run("server", ["nft", "list", "tables"]).stdout
    lab.run("server", ["nft", "flush", "ruleset"])
    assert lab.run("server", ["nft", "list", "tables"]).stdout == ""
    end = time.monotonic() + 10
    while not (after := lab.run("server", ["nft", "list", "tables"]).stdout):
        assert time.monotonic() < end, "not repaired"
        time.sleep(0.2)
    stop(server.process)

    assert before == after == "table inet pyvpn_pyvpn0\n"
    assert lab.run("server", ["nft", "list", "tables"]).stdout == ""
