"""Either end moves, or its NAT changes its mind, under a running transfer: nothing ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import ip
from tests.live.core import Core
from tests.live.figures import below
from tests.live.office import Office, Web, in_url, tell, wait_until
from tests.live.stock import (
    DATA,
    INITIATION,
    OUTER,
    PORT,
    RESPONSE,
    SERVER_ADDRESS,
    App,
    Wire,
    add_device,
    app,
    each_go,
    has_tool,
    server_peers,
)

GAP_SECONDS = 3.0
"""Promised is one; the machine that this runs on is shared."""
TRANSFER = ["curl", "-sSf", "--limit-rate", "1M"]


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


@contextmanager
def transfer(
    office: Office, web: Web, host: str, mebibytes: int, address: str = OFFICE_ADDRESS
) -> Iterator[None]:
    """A file on its way at a mebibyte a second; at the end it arrives whole."""
    digest = web.put("steady", mebibytes)
    target = office.lab.folder / f"{office.name}-steady"
    most = str(60 + mebibytes)
    fetching = [*TRANSFER, "--max-time", most, "-o", str(target)]
    fetching.append(f"http://{in_url(address)}/steady")
    process = office.lab.start(host, fetching, office.lab.folder / "steady.log")
    wait_until(target.exists)
    try:
        yield
        assert process.wait(60 + mebibytes) == 0, (office.lab.folder / "steady.log").read_text()
        assert office.lab.run(host, ["sha256sum", str(target)]).stdout.split()[0] == digest
    finally:
        process.kill()
        process.wait()
        target.unlink(missing_ok=True)


def place(lab: Lab) -> str:
    """Where the server thinks its only app is."""
    return server_peers(lab)[0].endpoint


@each_go
def test_the_app_moves(office: Office, lab: Lab, web: Web, go: str) -> None:
    """Its host gets another IPv4 address, again and again, in the middle of a file."""
    host = lab.add_laptop(at_home=False)
    shown = lab.run(host, ["ip", "-4", "-o", "address", "show", "dev", "eth0"]).stdout
    net = shown.split()[3].rpartition(".")[0]
    office.open()
    with app(office, host, go=go) as phone, office.steady_ping(host, seconds=0.02) as ping:

        def has_moved(to: str) -> bool:
            # That of 2022 sticks to an address that is gone, until somebody names the server.
            if phone.said("network is unreachable"):
                phone.set_peer("endpoint", f"{SERVER_ADDRESS}:{PORT}")
            return place(lab) == to

        with transfer(office, web, host, 5):
            for last in range(3, 7):
                time.sleep(0.7)
                move = f"address del {net}.{last - 1}/24 dev eth0\n"
                move += f"address add {net}.{last}/24 dev eth0\n"
                ip("-n", host, script=f"{move}route add default via {net}.1\n")
                wait_until(lambda: has_moved(f"{net}.{last}:{phone.port}"), 5)  # noqa: B023
    tell(f"four moves: longest gap {ping.gap:.2f} s, {ping.lost} of 0.02 s pings lost")
    below(ping.gap, GAP_SECONDS)
    assert phone.said("Received handshake response") <= 2


def test_from_one_family_to_the_other(office: Office, lab: Lab, web: Web) -> None:
    """The app is told the server's IPv6 address, and its IPv4 one again, during a transfer."""
    office.open()
    with app(office) as phone, office.steady_ping(seconds=0.02) as ping:
        home6 = lab.run("laptop", ["ip", "-6", "route", "get", "2001:db8:2::2"]).stdout
        source6 = home6.partition(" src ")[2].split()[0]
        with transfer(office, web, "laptop", 5):
            for outer, there in (6, f"[{source6}]:"), (4, "198.18.1.2:"), (6, f"[{source6}]:"):
                time.sleep(0.8)
                # What is on its way from the old address may move the app back: say it again.
                while not place(lab).startswith(there):
                    phone.set_peer("endpoint", f"{OUTER[outer]}:{PORT}")
                    time.sleep(0.05)
    tell(f"IPv4 to IPv6 and back: longest gap {ping.gap:.2f} s, {ping.lost} lost")
    below(ping.gap, GAP_SECONDS)


@pytest.mark.skipif(bool(has_tool("conntrack")), reason=has_tool("conntrack"))
def test_the_nat_forgets(office: Office, lab: Lab, web: Web) -> None:
    """The home's router forgets its connections under a transfer, and gives new ports out."""
    office.open()
    lab.run("router", ["nft", "flush", "chain", "ip", "home", "outward"])
    at_random = ["add", "rule", "ip", "home", "outward", "oifname", "wan", "masquerade", "random"]
    lab.run("router", ["nft", *at_random])
    seen = set()
    try:
        with app(office) as phone, office.steady_ping(seconds=0.02) as ping:
            with transfer(office, web, "laptop", 5):
                for _ in range(3):
                    seen.add(place(lab))
                    time.sleep(0.9)
                    lab.run("router", ["conntrack", "-D", "-p", "udp"])
                    wait_until(lambda: place(lab) not in seen, 5, "another port")
            assert office.pings("office", phone.addresses[0], 3) == 3
    finally:
        lab.run("router", ["nft", "flush", "chain", "ip", "home", "outward"])
        lab.run("router", ["nft", "add", "rule", "ip", "home", "outward", *at_random[5:-1]])
    tell(f"NAT: {len(seen) + 1} ports, longest gap {ping.gap:.2f} s, {ping.lost} lost")
    below(ping.gap, GAP_SECONDS)


@pytest.mark.parametrize("version", [4, 6])
def test_server_with_two_addresses(office: Office, lab: Lab, version: int) -> None:
    """It answers from the address it was spoken to; when that is gone, from the other.

    The lower address would be the kernel's choice; the app's firewall, or the NAT on the way,
    would let nothing in from there.
    """
    second = {4: "198.18.2.77", 6: "2001:db8:2::77"}[version]
    first = {4: SERVER_ADDRESS, 6: "2001:db8:2::2"}[version]
    length = {4: 24, 6: 64}[version]
    office.open()
    ip("-n", "server", "address", "add", f"{second}/{length}", "dev", "wan")
    try:
        file = add_device(office).but(Endpoint=f"{in_url(second)}:{PORT}")
        with Wire(lab) as wire, App(lab, "laptop", file) as phone:
            assert office.pings("laptop", OFFICE_ADDRESS, 5) == 5
            assert office.pings("office", phone.addresses[0], 5) == 5
            assert {sight.source[0] for sight in wire.look() if sight.source[1] == PORT} == {
                second
            }
            phone.set_peer("endpoint", f"{in_url(first)}:{PORT}")
            assert office.pings("laptop", OFFICE_ADDRESS, 5) == 5
            wire.forget()
            assert office.pings("office", phone.addresses[0], 5) == 5
            assert {sight.source[0] for sight in wire.look() if sight.source[1] == PORT} == {first}

            phone.set_peer("endpoint", f"{in_url(second)}:{PORT}")
            assert office.pings("laptop", OFFICE_ADDRESS, 2) == 2
            wire.forget()
            ip("-n", "server", "address", "del", f"{second}/{length}", "dev", "wan")
            # The app hears it from elsewhere, and goes there.
            tell(f"{office.pings('office', phone.addresses[0], 20)} of 20 pings")
            sources = [sight.source[0] for sight in wire.look() if sight.source[1] == PORT]
            assert set(sources) == {first}
    finally:
        lab.run(
            "server", ["ip", "address", "del", f"{second}/{length}", "dev", "wan"], check=False
        )


def test_nobody_else_moves_it(office: Office, lab: Lab) -> None:
    """Only what is sealed with the session's key, and new, moves an endpoint (D5)."""
    office.open()
    elsewhere = lab.add_laptop(at_home=False)
    with Wire(lab) as wire, app(office) as phone, Core(lab, elsewhere, phone.file) as thief:
        assert office.pings("laptop", OFFICE_ADDRESS, 10) == 10
        said = [sight.payload for sight in wire.look() if sight.source[1] != PORT]
        before = place(lab)
        last = [each for each in said if each[0] == DATA][-1]
        index, counter = last[4:8], int.from_bytes(last[8:16], "little")
        forged = [
            last[:4] + index + (counter + ahead).to_bytes(8, "little") + body
            for ahead in (1, 2, 1000, 2**40, 2**64 - 1 - counter)
            for body in (last[16:], bytes(16), last[16:-1] + bytes([last[-1] ^ 1]))
        ]
        wire.forget()
        for datagram in (*said, *forged):
            thief.send_datagram(datagram)
        time.sleep(0.5)
        assert place(lab) == before
        assert [sight for sight in wire.look() if sight.source[1] == PORT] == []
        with office.steady_ping(seconds=0.02) as ping:
            time.sleep(1)
        assert ping.lost == 0
        assert [kind for kind in wire.kinds() if kind[1] in (INITIATION, RESPONSE)] == [
            ("app", INITIATION)
        ]
