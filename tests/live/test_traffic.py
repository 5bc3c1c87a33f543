"""What passes through the tunnel, what does not, and what becomes of it on the way.

::

    laptop ---- router ---- internet ---- server ---- office (a web server)
    laptop2 ----'              |
                           laptop3
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import ip_address

import pytest

from pyvpn.testing import sandbox
from pyvpn.testing.lab import (
    OFFICE_NETWORK,
    OFFICE_NETWORK6,
    SERVER_ADDRESS,
    SERVER_ADDRESS6,
    Lab,
)
from tests.live.figures import below
from tests.live.office import (
    CLIENT_TUN,
    OFFICE_ADDRESSES,
    Office,
    Web,
    fetch,
    in_url,
    tell,
    wait_until,
)

POOLS = {"10.73.0.0/24", "fd70:7976:706e::/64"}
PATIENCE = 5.0
SERVERS_LAN = {4: "192.168.77.1", 6: "fd77::1"}


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


@pytest.fixture(scope="module")
def others(lab: Lab) -> tuple[str, str]:
    """Two more laptops: one at the same home, one straight on the internet."""
    return lab.add_laptop(), lab.add_laptop(at_home=False)


@pytest.mark.parametrize("outer", [SERVER_ADDRESS, f"[{SERVER_ADDRESS6}]"])
def test_both_ways(office: Office, lab: Lab, web: Web, outer: str) -> None:
    """IPv4 and IPv6 pass in both directions, over an outer connection of either family."""
    office.open(endpoint=outer)
    digest = web.put("both-ways", 3)
    for address in OFFICE_ADDRESSES:
        assert office.pings("laptop", address, patience=0.2) == 0, "the lab leaks"
    office.join()

    assert POOLS | {OFFICE_NETWORK, OFFICE_NETWORK6} == office.routes()
    peers = lab.run("laptop", ["ss", "-Htn", "dport", "=", "51820"]).stdout.split()
    assert peers[0] == "ESTAB"
    assert peers[4] == f"{outer}:51820"
    for address in OFFICE_ADDRESSES:
        assert office.pings("laptop", address, 10) == 10
        assert fetch(lab, "laptop", f"http://{in_url(address)}/both-ways") == digest
    for address in office.lease():
        assert office.pings("office", address, 10) == 10
    for address in "10.73.0.1", "fd70:7976:706e::1":  # the server's own, in the tunnel
        assert office.pings("laptop", address, 3) == 3


@pytest.mark.skipif(
    shutil.which("iperf3", path=sandbox.environment()["PATH"]) is None,
    reason="iperf3 is missing: sudo apt-get install iperf3",
)
@pytest.mark.parametrize("address", OFFICE_ADDRESSES)
@pytest.mark.parametrize("outer", [SERVER_ADDRESS, f"[{SERVER_ADDRESS6}]"])
def test_iperf3(office: Office, lab: Lab, address: str, outer: str) -> None:
    """Bulk TCP gets through in both directions at once and the tunnel still answers pings."""
    office.open(endpoint=outer)
    office.join()
    serving = lab.start("office", ["iperf3", "-s", "-1"], lab.folder / "iperf3.log")
    wait_until(lambda: ":5201" in lab.run("office", ["ss", "-Hltn"]).stdout)
    with office.steady_ping(address=address, seconds=0.05) as ping:
        measure = ["iperf3", "-J", "--bidir", "-t", "1", "-c", address]
        end = json.loads(lab.run("laptop", measure).stdout)["end"]
    serving.wait(5)

    for direction in "sum_received", "sum_received_bidir_reverse":
        rate = end[direction]["bits_per_second"] / 1e6
        tell(f"{address} over {outer}: {direction} {rate:.0f} Mbit/s")
        assert end[direction]["bytes"] > 2_000_000
    below(ping.gap, 5)


def test_isolation(office: Office, lab: Lab, others: tuple[str, str], web: Web) -> None:
    """Three clients reach the office at once, and each other only where the file says so."""
    office.open("[tunnel]\nclient_to_client = no\n", users=("anna", "bert", "carl"))
    hosts = ("laptop", *others)
    digest = web.put("isolation", 1)
    for host, user in zip(hosts, ("anna", "bert", "carl"), strict=True):
        office.join(host, user)
    leases = {host: office.lease(host) for host in hosts}

    for number, host in enumerate(hosts, 2):
        assert leases[host] == [f"10.73.0.{number}", f"fd70:7976:706e::{number}"]
    for host in hosts:
        for address in OFFICE_ADDRESSES:
            assert office.pings(host, address, 5) == 5
            assert fetch(lab, host, f"http://{in_url(address)}/isolation") == digest
    pairs = [
        (host, address) for host in hosts for other in hosts for address in leases[other]
        if host != other
    ]  # fmt: skip
    assert [(pair, 0) for pair in pairs] == [
        (pair, office.pings(*pair, patience=0.2)) for pair in pairs
    ]
    assert f"dropped {len(pairs)} packets: destination-not-permitted" in office.status()

    office.reload("client_to_client = no", "client_to_client = yes")
    office.server.says("configuration applied; 3 sessions kept")

    assert [(pair, 3) for pair in pairs] == [(pair, office.pings(*pair, 3)) for pair in pairs]
    office.reload("client_to_client = yes", "client_to_client = no")
    wait_until(lambda: office.pings(*pairs[0], patience=0.2) == 0)


def udp_packet(source: str, destination: str, payload: bytes) -> bytes:
    """A UDP packet from one address to another, port 7007; an IPv4 checksum may be left out."""
    packed = [ip_address(address).packed for address in (source, destination)]
    size = 8 + len(payload)
    if len(packed[0]) == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, 17, 0) + b"".join(packed)
        total = sum(struct.unpack("!10H", header))
        total = (total & 0xFFFF) + (total >> 16)
        header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
        return header + struct.pack("!HHHH", 7007, 7007, size, 0) + payload
    udp = struct.pack("!HHHH", 7007, 7007, size, 0) + payload
    pseudo = b"".join(packed) + struct.pack("!IHBB", size, 0, 0, 17) + udp + b"\0" * (size % 2)
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF) + udp[8:]
    return struct.pack("!IHBB", 6 << 28, size, 17, 64) + b"".join(packed) + udp


@pytest.mark.parametrize("version", [4, 6])
def test_forged_on_the_laptop(office: Office, lab: Lab, version: int) -> None:
    """Whatever a program at the laptop puts into the TUN, only its own address gets out of it.

    Not under somebody else's, and not to where the server did not ask it to be routed.
    """
    office.open("[firewall]\nmasquerade = no\n", users=("anna",))
    client = office.join()
    mine = office.lease()[version == 6]
    there = OFFICE_ADDRESSES[version == 6]
    forged = {4: "10.73.0.77", 6: "fd70:7976:706e::77"}[version]
    beyond = {4: "198.18.2.1", 6: "2001:db8:2::1"}[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with lab.hosts["office"].inside():
        heard = socket.socket(family, socket.SOCK_DGRAM)
        heard.bind(("", 7007))
        heard.settimeout(PATIENCE)
    with lab.hosts["internet"].inside():
        outside = socket.socket(family, socket.SOCK_DGRAM)
        outside.bind(("", 7007))
        outside.settimeout(0.5)
    # Straight into the interface, past routing: a packet socket takes what it is given.
    with lab.hosts["laptop"].inside():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        wire.bind((CLIENT_TUN, {4: 0x0800, 6: 0x86DD}[version]))
    with heard, outside, wire:
        wire.send(udp_packet(forged, there, b"forged source"))
        wire.send(udp_packet(mine, beyond, b"not pushed"))
        wire.send(udp_packet(mine, there, b"honest"))
        payload, source = heard.recvfrom(100)

        assert (payload, source[0]) == (b"honest", mine)
        with pytest.raises(TimeoutError):
            outside.recvfrom(100)
    assert "dropped 1 packets: source-not-own" in office.status()
    assert "dropped 1 packets: no-session-for-destination" in office.status(client)


def segment_sizes(sniffer: socket.socket, seconds: float = 5) -> int:
    """The MSS in the next SYN that *sniffer* sees, with or without ACK, to or from port 80."""
    sniffer.settimeout(seconds)
    while True:
        packet, (_, _, direction, *_) = sniffer.recvfrom(2048)
        if direction == socket.PACKET_OUTGOING:
            continue
        tcp = packet[(packet[0] & 15) * 4 :] if packet[0] >> 4 == 4 else packet[40:]
        if packet[9 if packet[0] >> 4 == 4 else 6] != 6 or not tcp[13] & 2:
            continue
        options = tcp[20 : (tcp[12] >> 4) * 4]
        while options[0] != 2:
            options = options[1:] if options[0] == 1 else options[options[1] :]
        size: int = struct.unpack_from("!H", options, 2)[0]
        return size


@pytest.mark.parametrize(
    ("more", "sizes"),
    [("", (1380, 1360)), ("[firewall]\nmanage = no\n", (1460, 1440))],
    ids=["managed", "left alone"],
)
def test_segment_size(
    office: Office, lab: Lab, web: Web, more: str, sizes: tuple[int, int]
) -> None:
    """TCP hears from the server how large segments may be: MTU 1420 less the headers.

    The office's interface has 1500 and announces 1460: what arrives at the laptop is clamped,
    and is not where the firewall is the operator's business.
    """
    office.open(more)
    office.join()
    if more:
        lab.run("server", ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        lab.run("server", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
    try:
        for address, size in zip(OFFICE_ADDRESSES, sizes, strict=True):
            with lab.hosts["laptop"].inside():
                sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
                sniffer.bind((CLIENT_TUN, 3))  # ETH_P_ALL
            with sniffer:
                lab.run("laptop", ["curl", "-sS", f"http://{in_url(address)}/"])
                assert segment_sizes(sniffer) == size
    finally:
        if more:
            lab.run("server", ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
            lab.run("server", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"])


@pytest.mark.parametrize("masquerade", ["yes", "no"])
def test_masquerade(office: Office, lab: Lab, web: Web, masquerade: str) -> None:
    """The office sees the server's address, or, without masquerade, each client's own."""
    office.open(f"[firewall]\nmasquerade = {masquerade}\n")
    office.join()
    for number, address in enumerate(OFFICE_ADDRESSES):
        name = f"masquerade-{masquerade}-{number}"
        digest = web.put(name, 0.1)

        assert fetch(lab, "laptop", f"http://{in_url(address)}/{name}") == digest
        expected = SERVERS_LAN[(4, 6)[number]] if masquerade == "yes" else office.lease()[number]
        assert web.visitor(name) == expected


def test_replies_after_a_lost_server(office: Office, lab: Lab, web: Web) -> None:
    """Packets for a client never leave towards the internet, also while the server is dead."""
    office.open("[firewall]\nmasquerade = no\n")
    office.join()
    address = office.lease()[0]
    with lab.hosts["internet"].inside():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        sniffer.bind(("office", 0x0800))
        sniffer.setblocking(False)
    with sniffer:
        assert office.pings("office", address) == 1
        office.kill(office.server)

        assert office.pings("office", address, patience=0.2) == 0
        wanted = ip_address(address).packed
        with suppress(BlockingIOError):
            while packet := sniffer.recv(2048):
                assert packet[16:20] != wanted, "it left by the default route"
    office.start_server()
    office.wait_for_ping("office", address)
