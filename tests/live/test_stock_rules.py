"""Stock apps are users' devices like all others: locked out, counted, kept apart, kept honest.

::

    laptop, laptop2 (apps) ---- router ---- internet ---- server ---- office
                                                |
                                             laptop3 (the native client)
"""

from __future__ import annotations

import os
import re
import socket
import time
from ipaddress import ip_address

import pytest
from click.testing import CliRunner

from pyvpn.cli import main as pyvpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, Lab
from tests.live.core import Core
from tests.live.figures import below
from tests.live.office import OFFICE_ADDRESSES, Office, tell, wait_until
from tests.live.stock import (
    DATA,
    App,
    Wire,
    add_device,
    app,
    command,
    drops,
    server_peers,
)
from tests.live.test_traffic import udp_packet
from tests.tunnel.packets import packet

SMALL = "[tunnel]\nnetwork4 = 10.99.0.0/29\nnetwork6 = none\n[leases]\nquarantine = 1s\n"


def test_user_locked_out(office: Office, lab: Lab) -> None:
    """A disabled user's app is cut off within two seconds and hears nothing; enabled, it is back.

    The app does not know: it tries for as long as somebody wants to send.
    """
    office.open()
    with app(office) as phone, Wire(lab) as wire:
        assert office.pings("laptop", OFFICE_ADDRESS) == 1
        with office.steady_ping(seconds=0.05) as ping:
            locked = time.time()
            command(office, "user", "disable", "anna")
            wait_until(lambda: server_peers(lab) == [], 2, "no peer any more")
            time.sleep(0.2)  # the answers on their way
            wire.forget()
            time.sleep(1.5)
            kinds = wire.kinds()
            enabled = time.time()
            command(office, "user", "enable", "anna")
            wait_until(lambda: ping.replies[-1][0] > enabled, what="an answer to the ping")
        last = max(when for when, _ in ping.replies if when < enabled)
        back = min(when for when, _ in ping.replies if when > enabled)
        tell(f"locked out {last - locked:.2f} s after the command, back {back - enabled:.2f} s")

        below(last - locked, 2)
        below(back - enabled, 5)
        assert kinds
        assert {who for who, _ in kinds} == {"app"}
        assert "anna/phone ends: removed, or its user is locked out" in (
            office.server.log.read_text()
        )
        assert office.pings("office", phone.addresses[0], 3) == 3


def test_device_removed(office: Office, lab: Lab) -> None:
    """A removed device is cut off and stays so; others of its user are not touched."""
    office.open()
    with app(office) as phone:
        other = add_device(office, "anna", "tablet")
        assert office.pings("laptop", OFFICE_ADDRESS) == 1
        command(office, "device", "remove", "anna", "phone")
        wait_until(lambda: len(server_peers(lab)) == 1, 2)
        with Wire(lab) as wire:
            assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.3) == 0
            assert office.pings("office", phone.addresses[0], 3, 0.3) == 0
            phone.set_peer("remove")
            phone.wg("setconf", str(lab.folder / f"{phone.name}.conf"))
            wait_until(lambda: drops(office)["unknown-peer"] > 0)
            assert {who for who, _ in wire.kinds()} == {"app"}
    with App(lab, "laptop", other):
        assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3


def test_clock_that_was_wrong(office: Office, lab: Lab) -> None:
    """An app whose clock was a day ahead stays out when that is mended, until it is reset.

    Also after the server was killed: the newest time of a handshake is kept.
    """
    office.open()
    file = add_device(office)
    with Core(lab, "laptop", file, ahead=86400) as early:
        early.shake_hands()
    time.sleep(1.2)  # written down once a second
    office.kill(office.server)
    office.start_server().says("stock WireGuard apps come")
    with App(lab, "laptop", file):
        assert office.pings("laptop", OFFICE_ADDRESS, 5, 0.3) == 0
        wait_until(lambda: drops(office)["handshake-replayed"] > 0)
        command(office, "device", "reset", "anna", "phone")
        tell(f"reset: back after {office.wait_for_ping():.2f} s")
        office.server.says("anna/phone: its timestamp is forgotten")


def test_addresses_are_unique(office: Office, lab: Lab) -> None:
    """Apps and native clients share one pool: who comes when it is empty is told, and not let in.

    An address is free again when its device is removed.
    """
    office.open(SMALL)
    files = [add_device(office, "anna", f"app{number}") for number in range(4)]
    office.join("laptop")
    mine = office.lease()
    given = {file.addresses[0] for file in files} | set(mine)
    assert given == {f"10.99.0.{last}" for last in range(2, 7)}

    config = ["--config", str(office.server.config)]
    words = ["device", "add", "anna", "late", "--wireguard", *config]
    refused = CliRunner().invoke(pyvpn, words)
    assert refused.exit_code == 1
    assert "none of the 5 addresses is free: remove devices" in refused.output
    host = lab.add_laptop()
    late = office.start_client(host)
    late.says(r"none of the 5 addresses is free \(pool-empty\)")
    office.end(late)
    with App(lab, "laptop", files[0].but(AllowedIPs="192.168.77.20/32")):
        command(office, "device", "remove", "anna", "app0")
        office.server.says("anna/app0 ends")
        office.join(host)
        assert office.lease(host) == files[0].addresses
        # Who had it before has no part in it.
        assert office.pings(host, OFFICE_ADDRESS, 3) == 3


def test_client_to_client(office: Office, lab: Lab) -> None:
    """App to app, and app to native client: only where the file says so."""
    office.open("[tunnel]\nclient_to_client = no\n", users=("anna", "bert", "carl"))
    second, third = lab.add_laptop(), lab.add_laptop(at_home=False)
    with app(office, "laptop") as phone, app(office, second, "bert", "tablet") as tablet:
        office.join(third, "carl")
        ends = {
            "laptop": phone.addresses, second: tablet.addresses, third: office.lease(third)
        }  # fmt: skip
        for host in ends:
            assert office.pings(host, OFFICE_ADDRESS6, 2) == 2
        pairs = [(a, address) for a in ends for b in ends if a != b for address in ends[b]]
        assert [office.pings(*pair, patience=0.2) for pair in pairs] == [0] * 12
        assert drops(office) == {"destination-not-permitted": 12}

        office.reload("client_to_client = no", "client_to_client = yes")
        office.server.says("configuration applied")
        assert [office.pings(*pair, 2) for pair in pairs] == [2] * 12


def test_new_rules(office: Office, lab: Lab) -> None:
    """Networks that are offered no more cannot be reached, at once; nor can any without a user."""
    office.open("[tunnel]\nroutes = auto\n")
    with app(office) as phone:
        assert office.pings("laptop", OFFICE_ADDRESS, 2) == 2
        office.reload("routes = auto", "routes = 192.168.77.1/32")
        office.server.says("configuration applied")
        assert office.pings("laptop", OFFICE_ADDRESS, 3, 0.2) == 0
        assert office.pings("laptop", "192.168.77.1", 3) == 3
        assert drops(office) == {"destination-not-permitted": 3}
        command(office, "user", "remove", "anna")
        office.server.says("anna/phone ends")
        assert office.pings("laptop", "192.168.77.1", 3, 0.2) == 0
        assert office.pings("office", phone.addresses[0], 3, 0.2) == 0
        assert server_peers(lab) == []


def test_counted(office: Office, lab: Lab) -> None:
    """The status has what passed for each app, and how many there are."""
    office.open()
    add_device(office, "anna", "asleep")
    with app(office):
        assert office.pings("laptop", OFFICE_ADDRESS, 20) == 20
        status = office.status()
        found = re.search(
            r"anna/phone: in (\d+) packets (\d+) bytes, out (\d+) packets (\d+) bytes, "
            r"heard 0 s ago$", status, re.MULTILINE,
        )  # fmt: skip
        assert found, status
        assert [int(number) for number in found.groups()] == [20, 20 * 84, 20, 20 * 84]
        assert re.search(r"anna/asleep: in 0 packets 0 bytes, .* never heard$", status, re.M)
        assert "WireGuard on UDP port 51820: 1 of 2 devices heard in the last 180 s" in status


def test_forged_sources(office: Office, lab: Lab) -> None:
    """No packet in another's name leaves the tunnel: alone, behind an honest one, or before it."""
    office.open("[firewall]\nmasquerade = no\n")
    other = add_device(office, "anna", "other").addresses
    forged = {
        4: [other[0], "10.73.0.1", "10.73.0.0", "10.73.0.255", "192.168.77.1", "127.0.0.1",
            "0.1.2.3", "224.0.0.1", "255.255.255.255", "198.18.2.2"],
        6: [other[1], "fd70:7976:706e::1", "fd77::1", "::1", "::", "fe80::1", "ff02::1",
            "2001:db8:2::2", "::ffff:10.73.0.1"],
    }  # fmt: skip
    for version, sources in forged.items():
        sources += [
            str(ip_address(os.urandom(4 if version == 4 else 16)))
            for _ in range(50 - len(sources))
        ]
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    heard = {}
    for version, family in families.items():
        with lab.hosts["office"].inside():
            heard[version] = socket.socket(family, socket.SOCK_DGRAM)
        if version == 6:
            heard[version].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        heard[version].bind(("", 7007))
        heard[version].settimeout(5)
    with Core(lab, "laptop", add_device(office)) as core, heard[4], heard[6]:
        core.shake_hands()
        for version, sources in forged.items():
            own = core.file.addresses[version == 6]
            there = OFFICE_ADDRESSES[version == 6]
            honest = udp_packet(own, there, b"honest")
            for number, source in enumerate(sources):
                lie = udp_packet(source, there, b"forged")
                core.send(*([lie], [honest, lie], [lie, honest], [lie, lie])[number % 4])
                core.run(0.005)
        for version in families:
            came = [heard[version].recvfrom(100)[:2] for _ in range(25)]
            assert {(text, source[0]) for text, source in came} == {
                (b"honest", core.file.addresses[version == 6])
            }
            heard[version].setblocking(False)
            with pytest.raises(BlockingIOError):
                heard[version].recv(100)
        assert drops(office) == {"source-not-own": 2 * (13 + 13 + 12 + 2 * 12)}


def test_where_an_app_may_not_go(office: Office, lab: Lab) -> None:
    """Only what the server offers can be reached, whatever the app's file was made to say."""
    office.open()
    add_device(office, "anna", "other")
    with Core(lab, "laptop", add_device(office)) as core, Wire(lab, "internet", "office") as wire:
        core.shake_hands()
        mine, mine6 = core.file.addresses
        beyond = [
            packet(mine, "198.18.2.1"), packet(mine, "8.8.8.8"),
            packet(mine, "10.99.0.1"), packet(mine6, "2001:db8:2::1"),
        ]  # fmt: skip
        to_all = [
            packet(mine, "127.0.0.1"), packet(mine, "224.0.0.5"), packet(mine, "255.255.255.255"),
            packet(mine6, "::1"), packet(mine6, "ff02::1"), packet(mine6, "fe80::1"),
        ]  # fmt: skip
        broken = [
            b"\x50" + bytes(39), b"\x45" + bytes(18), b"\x44" + packet(mine, "192.168.77.20")[1:],
            packet(mine, "192.168.77.20")[:2] + b"\xff\xff" + packet(mine, "192.168.77.20")[4:],
            b"\x60" + bytes(20), b"\x00" * 64,
        ]  # fmt: skip
        core.run(0.1)
        wire.forget()
        core.send(*beyond, *to_all, *broken)
        core.run(0.3)

        assert drops(office) == {
            "destination-not-permitted": len(beyond),
            "malformed": len(broken),
        }
        assert wire.kinds() == [("app", DATA)] * (len(beyond) + len(to_all) + len(broken))
