"""What can be seen of a tunnel from outside: marks of congestion, a capture, ``wg show``."""

from __future__ import annotations

import socket
import time
from collections import Counter

import pytest

from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.errors import HostError
from pyvpn.testing.lab import Lab
from tests.live.core import Core
from tests.live.office import OFFICE_ADDRESSES, SERVER_TUN, Office
from tests.live.stock import (
    OUTER,
    PORT,
    SOCKETS,
    Wire,
    add_device,
    app,
    drops,
    has_tool,
    rules,
    server_peers,
)
from tests.live.test_traffic import udp_packet

NOT_CAPABLE, ECT1, ECT0, CONGESTED = range(4)


def pinged(lab: Lab, host: str, address: str, traffic_class: int, count: int = 5) -> int:
    """Ping with a traffic class; how many were answered."""
    ping = ["ping", "-n", "-q", "-c", str(count), "-i", "0.02", "-W", "0.3"]
    said = lab.run(host, [*ping, "-Q", str(traffic_class), address], check=False).stdout
    return int(said.partition(" received")[0].split()[-1])


@pytest.mark.parametrize("outer", [4, 6])
def test_congestion_outside(office: Office, lab: Lab, outer: int) -> None:
    """A router on the way marks congestion: who can understand that is told, who cannot loses it.

    RFC 6040: the mark comes to the inner packet if that is ECN-capable; else it is dropped.
    """
    office.open(endpoint=OUTER[outer])
    mark = f"udp dport {PORT} {'ip' if outer == 4 else 'ip6'} ecn set ce"
    with app(office), lab.hosts["office"].inside():
        arrived = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        arrived.bind(("eth0", 3))
        arrived.setblocking(False)
        with arrived, rules(lab, "internet", mark):
            for address in OFFICE_ADDRESSES:
                for sent, expected in (ECT0, 5), (ECT1, 5), (CONGESTED, 5), (NOT_CAPABLE, 0):
                    marks(arrived)
                    assert pinged(lab, "laptop", address, sent) == expected
                    assert marks(arrived) == Counter({CONGESTED: expected})
            assert drops(office) == {"congestion-not-understood": 2 * 5}


def marks(arrived: socket.socket) -> Counter[int]:
    """The ECN fields of the echo requests that have come."""
    found: Counter[int] = Counter()
    while True:
        try:
            packet, (_, _, direction, *_) = arrived.recvfrom(2048)
        except BlockingIOError:
            return found
        if direction == socket.PACKET_OUTGOING:
            continue
        if packet[0] >> 4 == 4 and packet[9] == 1 and packet[20] == 8:
            found[packet[1] & 3] += 1
        elif packet[0] >> 4 == 6 and packet[6] == 58 and packet[40] == 128:
            found[packet[1] >> 4 & 3] += 1


@pytest.mark.parametrize("outer", [4, 6])
def test_marks_are_copied_outwards(office: Office, lab: Lab, outer: int) -> None:
    """The ECN field of what the server carries can be seen outside; the rest of the class cannot.

    Handshakes have the class for calls (AF41), so that they pass before bulk.
    """
    office.open(endpoint=OUTER[outer])
    with Wire(lab) as wire, app(office) as phone:
        for address in phone.addresses:
            for traffic_class in NOT_CAPABLE, ECT1, ECT0, CONGESTED, 0xB8 | ECT0:
                wire.forget()
                assert pinged(lab, "office", address, traffic_class) == 5
                seen = {sight.tos for sight in wire.look() if sight.source[1] == PORT}
                assert seen == {traffic_class & 3}
        file = phone.file
    with Wire(lab) as wire, Core(lab, "laptop", file) as core:
        core.shake_hands()
        responses = [sight.tos for sight in wire.look() if sight.kind == 2]
        assert responses == [0x88]


@pytest.mark.skipif(bool(has_tool("tshark")), reason=has_tool("tshark"))
@pytest.mark.parametrize("options", [(), ("--preshared-key",)])
def test_tshark_reads_it(office: Office, lab: Lab, options: tuple[str, ...]) -> None:
    """With the keys of one end tshark opens what both have sent, and finds nothing to remark.

    First the client begins the handshake, then the server, after it was killed.
    """
    office.open("[firewall]\nmasquerade = no\n")
    file = add_device(office, "anna", "phone", *options)
    capture = lab.folder / f"{office.name}.pcap"
    with lab.hosts["office"].inside():
        echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.bind(("", 7007))
    echo.settimeout(5)
    with Wire(lab) as wire, Core(lab, "laptop", file) as core, echo:
        packets = [
            udp_packet(own, there, bytes(size))
            for own, there in zip(file.addresses, OFFICE_ADDRESSES, strict=True)
            for size in (0, 1, 15, 16, 17, 1000)
        ]
        core.shake_hands()
        for number in (1, 2):
            core.send(*packets)
            for _ in packets:
                echo.sendto(*echo.recvfrom(2048))
            assert core.run(5, lambda: len(core.packets) == number * len(packets))  # noqa: B023
            if number == 1:
                core.run(1.2)
                office.kill(office.server)
                office.start_server()
                assert core.run(15, lambda: core.wireguard.handshakes == 2), "not called back"
        wire.save(capture)
    keys = [
        f"LOCAL_STATIC_PRIVATE_KEY = {file.value('PrivateKey')}",
        f"REMOTE_STATIC_PUBLIC_KEY = {file.value('PublicKey')}",
    ]
    for secret in core.secrets:
        keys.append(f"LOCAL_EPHEMERAL_PRIVATE_KEY = {key_to_base64(secret)}")
        if options:
            keys.append(f"PRESHARED_KEY = {file.value('PresharedKey')}")
    log = lab.write("keys.log", "\n".join(keys) + "\n")

    def tshark(*words: str) -> list[str]:
        reading = ["tshark", "-r", str(capture), "-o", f"wg.keylog_file:{log}", *words]
        return lab.run("internet", reading).stdout.splitlines()

    kinds = Counter(line.partition(",")[0] for line in tshark("-T", "fields", "-e", "wg.type"))
    assert (kinds["1"], kinds["2"], kinds["4"]) == (2, 2, 4 * len(packets) + 2)
    for way in "src", "dst":
        opened = tshark("-Y", f"udp.{way}port == 7007 && (ip.{way} == {OFFICE_ADDRESSES[0]} || "
                              f"ipv6.{way} == {OFFICE_ADDRESSES[1]})")  # fmt: skip
        assert len(opened) == 2 * len(packets)
    assert tshark("-Y", "_ws.expert.severity >= 0x400000 || _ws.malformed") == []


def test_wg_show(office: Office, lab: Lab) -> None:
    """``wg show`` at the server has what the app's own has; ``wg set`` is refused."""
    office.open()
    with app(office, "laptop", "anna", "phone", "--preshared-key") as phone:
        add_device(office, "anna", "asleep")
        assert office.pings("laptop", OFFICE_ADDRESSES[0], 10) == 10
        theirs, mine = server_peers(lab)[0], phone.peer
        assert theirs.endpoint == f"198.18.1.2:{phone.port}"
        assert theirs.allowed == ",".join(
            f"{each}/{32 if '.' in each else 128}" for each in phone.addresses
        )
        assert abs(theirs.handshake - mine.handshake) <= 1
        assert theirs.handshake > time.time() - 60
        assert (theirs.received, theirs.sent) == (mine.sent, mine.received)
        assert theirs.preshared == "(none)"  # it is not told
        shown = lab.run("server", ["wg", "show", SERVER_TUN]).stdout
        assert f"public key: {phone.file.value('PublicKey')}" in shown
        assert "listening port: 51820" in shown
        assert "latest handshake: " in shown
        assert shown.count("peer: ") == 2
        asleep = server_peers(lab)[1]
        assert (asleep.endpoint, asleep.handshake, asleep.received) == ("(none)", 0, 0)

        key = lab.write("other.key", lab.run("laptop", ["wg", "genkey"]).stdout)
        for words in (
            ["listen-port", "1"], ["private-key", str(key)], ["fwmark", "1"],
            ["peer", theirs.public, "remove"], ["peer", theirs.public, "allowed-ips", "0.0.0.0/0"],
            ["peer", mine.public, "endpoint", "198.18.1.2:1"],
        ):  # fmt: skip
            with pytest.raises(HostError, match="Operation not permitted"):
                lab.run("server", ["wg", "set", SERVER_TUN, *words])
        assert lab.run("server", ["wg", "show", SERVER_TUN, "listen-port"]).stdout == "51820\n"
        assert len(server_peers(lab)) == 2
        assert office.pings("laptop", OFFICE_ADDRESSES[1], 10) == 10
        place = SOCKETS / f"{SERVER_TUN}.sock"
        assert place.stat().st_mode & 0o777 == 0o600
        # A killed server leaves the file; the next one takes its place.
        office.kill(office.server)
        office.start_server().says("stock WireGuard apps come")
        office.wait_for_ping()
        assert server_peers(lab)[0].endpoint == theirs.endpoint
        office.end(office.server)
        assert not place.exists()
        office.start_server()
        office.wait_for_ping()
