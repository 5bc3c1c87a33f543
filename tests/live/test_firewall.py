"""What other firewalls on the host do to us, and that we say so."""

from __future__ import annotations

from pyvpn.testing import vpn
from pyvpn.testing.lab import Lab
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
