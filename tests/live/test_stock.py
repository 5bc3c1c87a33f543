"""Stock WireGuard apps: what passes through their tunnels, and who gets none.

::

    laptop (wireguard-go) ---- router ---- internet ---- server ---- office (a web server)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from tests.live.office import (
    OFFICE_ADDRESSES,
    PATIENCE,
    Office,
    Web,
    fetch,
    in_url,
    tell,
    wait_until,
)
from tests.live.stock import (
    DATA,
    EMPTY,
    GOS,
    INITIATION,
    OUTER,
    RESPONSE,
    SYSTEMS_GO,
    App,
    Wire,
    add_device,
    app,
    drops,
    each_go,
    server_peers,
)

POOLS = {"10.73.0.0/24", "fd70:7976:706e::/64"}


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


@pytest.fixture(scope="module")
def home_web(lab: Lab) -> Iterator[Web]:
    """One on the laptop."""
    with closing(Web(lab, "laptop")) as server:
        yield server


def private_key(lab: Lab) -> str:
    """A fresh one, made by ``wg``."""
    return lab.run("laptop", ["wg", "genkey"]).stdout.strip()


def test_every_go_is_there() -> None:
    """The apps of this suite are real ones, and a newer one that was named is not forgotten."""
    assert [go for go in GOS if not os.access(go, os.X_OK)] == []


@each_go
@pytest.mark.parametrize(("outer", "options"), [(4, ()), (6, ("--preshared-key",))])
def test_both_ways(
    office: Office,
    lab: Lab,
    web: Web,
    home_web: Web,
    outer: int,
    options: tuple[str, ...],
    go: str,
) -> None:
    """IPv4 and IPv6 pass in both directions, outside over either; files arrive whole."""
    office.open("[firewall]\nmasquerade = no\n", endpoint=OUTER[outer])
    digests = web.put("down", 4), home_web.put("up", 4)
    with app(office, "laptop", "anna", "phone", *options, go=go) as phone:
        assert phone.file.value("Endpoint") == f"{OUTER[outer]}:51820"
        assert bool(phone.file.value("PresharedKey")) == bool(options)
        for address, own in zip(OFFICE_ADDRESSES, phone.addresses, strict=True):
            assert office.pings("laptop", address, 10) == 10
            assert office.pings("office", own, 10) == 10
            assert fetch(lab, "laptop", f"http://{in_url(address)}/down") == digests[0]
            assert web.visitor("down") == own
            assert fetch(lab, "office", f"http://{in_url(own)}/up") == digests[1]
        for address in "10.73.0.1", "fd70:7976:706e::1":  # the server's own, in the tunnel
            assert office.pings("laptop", address, 3) == 3
        assert phone.peer.endpoint == f"{OUTER[outer]}:51820"
        assert phone.said("Received handshake response") > 0
        [there] = server_peers(lab)
        assert there.received > 4 * 2**20
        assert there.sent > 4 * 2**20
    assert drops(office) == {}


@each_go
def test_wg_quick(office: Office, lab: Lab, go: str) -> None:
    """The file that was printed, as it is, is one for wg-quick, up and down."""
    before = lab.hosts["laptop"].state()
    office.open()
    file = lab.write("stock0.conf", add_device(office).text)
    quick = ["env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={go}", "wg-quick"]
    lab.run("laptop", [*quick, "up", str(file)])
    try:
        for address in OFFICE_ADDRESSES:
            assert office.pings("laptop", address, 3) == 3
        shown = lab.run("laptop", ["wg", "show", "stock0", "allowed-ips"]).stdout.split()[1:]
        assert set(shown) == {"192.168.77.0/24", "fd77::/64"} | POOLS
    finally:
        lab.run("laptop", [*quick, "down", str(file)])
    wait_until(lambda: lab.hosts["laptop"].state() == before, what="the laptop as it was")


def test_all_goes_through_the_tunnel(office: Office, lab: Lab, web: Web) -> None:
    """With routes = default the app sends everything to the server, which passes it on."""
    office.open("[tunnel]\nroutes = 0.0.0.0/0, ::/0\n")
    file = add_device(office)
    assert file.value("AllowedIPs") == "0.0.0.0/0, ::/0"
    path = lab.write("stock1.conf", file.text)
    quick = ["env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={SYSTEMS_GO}", "wg-quick"]
    lab.run("laptop", [*quick, "up", str(path)])
    try:
        with Wire(lab) as wire:
            for address in "198.18.1.1", "2001:db8:1::1", *OFFICE_ADDRESSES:
                assert office.pings("laptop", address, 3) == 3
            assert len(wire.look()) >= 24, "it went past the tunnel"
    finally:
        lab.run("laptop", [*quick, "down", str(path)])


def test_strangers_hear_nothing(office: Office, lab: Lab) -> None:
    """A key that is not on file, and a file with another server's key: no answer, and counted."""
    office.open()
    file = add_device(office)
    other = lab.run("laptop", ["wg", "pubkey"], input=private_key(lab)).stdout.strip()
    for changed, reason in (
        (file.but(PrivateKey=private_key(lab)), "unknown-peer"),
        (file.but(PublicKey=other), "wireguard-key-not-ours"),
    ):
        with Wire(lab) as wire, App(lab, "laptop", changed):
            assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.3) == 0
            wait_until(lambda: drops(office)[reason] > 0)  # noqa: B023 - at once

            assert set(wire.kinds()) == {("app", INITIATION)}
            assert drops(office)[reason] == len(wire.seen)
    with App(lab, "laptop", file):
        assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3


def test_wrong_preshared_key(office: Office, lab: Lab) -> None:
    """Without the second secret, or with another: an answer that the app cannot open, no tunnel.

    And an app that offers one to a server that has none on file is no better off.
    """
    office.open()
    secret = add_device(office, "anna", "secret", "--preshared-key")
    plain = add_device(office, "anna", "plain")
    with_one = f"PublicKey = {plain.value('PublicKey')}\nPresharedKey = {private_key(lab)}\n"
    offering = plain.but(PublicKey="PLACE").text.replace("PublicKey = PLACE\n", with_one)
    for file in (
        secret.but(PresharedKey=private_key(lab)),
        secret.without("PresharedKey"),
        type(plain)(offering),
    ):
        with Wire(lab) as wire, App(lab, "laptop", file) as phone:
            assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.3) == 0
            assert office.pings("office", phone.addresses[0], 3, 0.3) == 0

            kinds = wire.kinds()
            assert {("app", INITIATION), ("server", RESPONSE)} <= set(kinds)
            assert not [kind for _, kind in kinds if kind == DATA]
            assert phone.peer.handshake == 0
    assert [peer.handshake for peer in server_peers(lab)] == [0, 0]
    with App(lab, "laptop", secret):
        assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3


def test_keepalive_of_the_file(office: Office, lab: Lab) -> None:
    """The app announces itself without any traffic if its file says so; an answer confirms it."""
    office.open("[wireguard]\nkeepalive = 2s\n")
    with Wire(lab) as wire, app(office) as phone:
        wait_until(lambda: wire.kinds().count(("app", DATA)) >= 2, PATIENCE)

        assert wire.kinds()[:2] == [("app", INITIATION), ("server", RESPONSE)]
        assert {len(sight.payload) for sight in wire.seen if sight.kind == DATA} == {EMPTY}
        assert office.pings("office", phone.addresses[0], 3) == 3
        tell(f"keepalives of the app: {wire.kinds().count(('app', DATA))}")
