"""Which cipher a real client and server of ours use, and that what crosses is right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyvpn.crypto.suite import AES_GCM
from pyvpn.net.processor import suites
from pyvpn.testing.lab import Lab
from pyvpn.testing.vpn import Program
from tests.live.office import OFFICE_ADDRESSES, SOAKING, Office, Web, fetch, in_url, wait_until

AES, CHACHA = "AES-256-GCM", "ChaCha20-Poly1305"
BEST = AES if AES_GCM in suites("auto") else CHACHA  # of the machine that this runs on
MEBIBYTES = 64 if SOAKING else 8
ONLY = "cipher = chacha20-poly1305\n"


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


def at_server(office: Office) -> str:
    """What the server says its packets to the client are sealed with; nothing: not by UDP."""
    found = re.search(r"anna/\S+: in .*, (\S+) by UDP to \S+$", office.status(), re.MULTILINE)
    return found[1] if found else ""


def at_client(office: Office, client: Program) -> str:
    """The same of the client."""
    found = re.search(r"tunnel by UDP: (\S+)$", office.status(client), re.MULTILINE)
    return found[1] if found else ""


def meet(office: Office, lab: Lab, web: Web, server: str, client: str) -> tuple[Program, str]:
    """Let a client with such a file and a server with another meet, and fetch something.

    Returns:
        The client, and the hash of what it has fetched.
    """
    digest = web.put("sealed", MEBIBYTES)
    office.open(server)
    program = office.join(more=client)
    wait_until(lambda: "packets go by UDP" in program.log.read_text())
    for address in OFFICE_ADDRESSES:
        assert fetch(lab, "laptop", f"http://{in_url(address)}/sealed") == digest
    return program, digest


def test_both(office: Office, lab: Lab, web: Web) -> None:
    """With files that say nothing it is the best that the processors have, from the first packet.

    A server whose file then says otherwise keeps the tunnel as it is until that is renewed.  One
    that was killed knows of nobody what they can do, and goes on all the same.
    """
    client, digest = meet(office, lab, web, "[wireguard]\ncipher = auto\n", "")
    assert (at_server(office), at_client(office, client)) == (BEST, BEST)
    with office.steady_ping() as ping:
        office.reload("cipher = auto", ONLY.strip())
        office.server.says("configuration applied; 1 sessions kept")
        assert (at_server(office), at_client(office, client)) == (BEST, BEST)  # till it is renewed
    assert ping.lost == 0
    office.kill(office.server)
    office.start_server()  # with the file as it was first
    office.server.says("1 clients were here before: called back")
    wait_until(lambda: at_server(office) in (AES, CHACHA))
    assert at_client(office, client) == at_server(office)
    assert fetch(lab, "laptop", f"http://{OFFICE_ADDRESSES[0]}/sealed") == digest


@pytest.mark.parametrize(
    ("server", "client"), [(f"[wireguard]\n{ONLY}", ""), ("", f"[tunnel]\n{ONLY}")]
)
def test_one(office: Office, lab: Lab, web: Web, server: str, client: str) -> None:
    """Where one end's file says so it is WireGuard's own, whichever end that is."""
    program, _ = meet(office, lab, web, server, client)
    assert (at_server(office), at_client(office, program)) == (CHACHA, CHACHA)
