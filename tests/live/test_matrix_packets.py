"""Packets of all kinds through the fast path: jumbo and tiny ones, fragments, with options, with
ECN, with a wrong checksum; and what is under way while keys and carriers change.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvpn.testing import faults
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip
from tests.live.cells import Cell, checksum_errors
from tests.live.exchange import UDP_SEGMENT, window
from tests.live.far import ADDRESSES, Far, exchange
from tests.live.office import CLIENT_TUN, SOAKING, Office, tell, wait_until
from tests.live.test_matrix import tunnel
from tests.live.test_traffic import udp_packet

MEGABYTES = 64 if SOAKING else 8
SIZE = MEGABYTES * 10**6
CABLES = (
    *(("laptop", "eth0"), ("router", "port1"), ("router", "lan"), ("router", "wan")),
    *(("internet", "home"), ("internet", "office"), ("server", "wan")),
    *(("server", "lan"), ("office", "eth0")),
)
JUMBO = 8900
LARGE = 4000
HEADERS = {4: 28, 6: 48}
PATIENCE = 5.0
IPV6_DSTOPTS, IPV6_TCLASS = 59, 67


def cell_of(carrier: str) -> Cell:
    """The best that there is, by that carrier."""
    return Cell(version=4, protocol="udp", tun="offload", gro="gro", carrier=carrier, loss=0)


@pytest.fixture
def wide(lab: Lab) -> Iterator[None]:
    """All cables from the laptop to the office carry jumbo frames."""

    def have(mtu: int) -> None:
        for host, interface in CABLES:
            ip("-n", host, "link", "set", interface, "mtu", str(mtu))

    have(9000)
    yield
    have(1500)


def exchange_all(lab: Lab, mtu: int) -> None:
    """TCP and datagrams, of either version, in packets of up to *mtu* bytes: all arrives."""
    for version, headers in HEADERS.items():
        exchange(lab, version, "tcp", SIZE)
        assert exchange(lab, version, "udp", SIZE // 2, mtu - headers).lost == 0


@pytest.mark.parametrize("carrier", ["udp", "stock", "tls"])
def test_jumbo(
    wide: None,  # before the office, which compares
    office: Office,
    lab: Lab,
    far: Far,
    carrier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path of 9000 bytes: packets of 8900 in the tunnel."""
    before = checksum_errors(lab)
    more = f"[tunnel]\nmtu = {JUMBO}\n"
    with tunnel(office, cell_of(carrier), tmp_path, monkeypatch, more) as made:
        exchange_all(lab, JUMBO)
        made.check({"queue-full"})
    assert not checksum_errors(lab) - before


@pytest.mark.parametrize("carrier", ["udp", "stock", "tls"])
def test_tiny(
    office: Office,
    lab: Lab,
    far: Far,
    carrier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The smallest tunnel that IPv6 allows, of 1280 bytes."""
    before = checksum_errors(lab)
    with tunnel(office, cell_of(carrier), tmp_path, monkeypatch, "[tunnel]\nmtu = 1280\n") as made:
        exchange_all(lab, 1280)
        made.check({"queue-full"})
    assert not checksum_errors(lab) - before


@pytest.mark.parametrize("carrier", ["udp", "tls"])
def test_fragments(
    office: Office,
    lab: Lab,
    far: Far,
    carrier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Datagrams larger than the tunnel cross in fragments, and are whole at the other end."""
    with tunnel(office, cell_of(carrier), tmp_path, monkeypatch) as made:
        for version in 4, 6:
            found = exchange(lab, version, "udp", SIZE // 4, LARGE)
            # From one that is lost the office learns what the tunnel carries, and no sooner.
            assert found.lost <= window(LARGE)
        made.check({"larger-than-mtu"})


NUMBER = 12
EACH = 1000
"""Datagrams of a burst, and bytes of each."""


def burst(lab: Lab, host: str, address: str, *options: tuple[int, int, int | bytes]) -> None:
    """Send some datagrams to port 7007, as one where the kernel takes them so."""
    with lab.hosts[host].inside():
        made = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        )
    with made:
        for option in options:
            made.setsockopt(*option)
        made.connect((address, 7007))
        pieces = [bytes([n]) * EACH for n in range(NUMBER)]
        with suppress(ConnectionRefusedError):  # nobody listens, but for us
            try:
                size = struct.pack("=H", EACH)
                made.sendmsg(pieces, [(socket.IPPROTO_UDP, UDP_SEGMENT, size)])
            except OSError:
                for piece in pieces:
                    made.send(piece)


class Ears:
    """Sees the datagrams to port 7007 that arrive at an interface, alone or several as one."""

    def __init__(self, lab: Lab, host: str, interface: str) -> None:
        with lab.hosts[host].inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            self._socket.bind((interface, 3))
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def hear(self) -> tuple[int, bytes, bytes]:
        """Return the next one's TOS, what stands between IP and UDP header, and its payload."""
        while True:
            packet, (_, _, direction, *_) = self._socket.recvfrom(65_536)
            if direction == socket.PACKET_OUTGOING:
                continue
            if packet[0] >> 4 == 4:
                tos, start, at, kind = packet[1], 20, (packet[0] & 15) * 4, packet[9]
            else:
                tos, start, at, kind = (packet[0] & 15) << 4 | packet[1] >> 4, 40, 40, packet[6]
                if kind == socket.IPPROTO_DSTOPTS:
                    kind, at = packet[40], 40 + (packet[41] + 1) * 8
            if kind == socket.IPPROTO_UDP and packet[at + 2 : at + 4] == (7007).to_bytes(2, "big"):
                return tos, packet[start:at], packet[at + 8 :]

    def burst(self) -> tuple[set[int], set[bytes]]:
        """Wait for all of a burst, in order, and return the TOS and what stands between."""
        several: set[int] = set()
        between: set[bytes] = set()
        got = b""
        while len(got) < NUMBER * EACH:
            tos, options, payload = self.hear()
            several.add(tos)
            between.add(options)
            got += payload
        assert got == b"".join(bytes([n]) * EACH for n in range(NUMBER))
        return several, between


@contextmanager
def both_ways(
    office: Office, version: int, patched: pytest.MonkeyPatch, folder: Path
) -> Iterator[list[tuple[str, str, Ears]]]:
    """A tunnel, and for each way who sends, to what address, and who hears it."""
    lab = office.lab
    with (
        tunnel(office, cell_of("udp"), folder, patched),
        Ears(lab, "office", "eth0") as up,
        Ears(lab, "laptop", CLIENT_TUN) as down,
    ):
        mine = office.lease()[version == 6]
        yield [("laptop", ADDRESSES[version], up), ("office", mine, down)]


@pytest.mark.parametrize("version", [4, 6])
def test_ecn(
    office: Office, lab: Lab, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of congestion, and those of the service beside them, arrive as they were sent."""
    level, kind = {
        4: (socket.IPPROTO_IP, socket.IP_TOS),
        6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    }[version]
    with both_ways(office, version, monkeypatch, tmp_path) as ways:
        for host, address, ears in ways:
            for tos in 0, 1, 2, 3, 0x28, 0x2B, 0xB8:
                burst(lab, host, address, (level, kind, tos))
                assert ears.burst() == ({tos}, {b""})


@pytest.mark.parametrize("version", [4, 6])
def test_options(
    office: Office, lab: Lab, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 options and IPv6 extension headers arrive as they were sent, on each packet."""
    if version == 4:
        header = b"\1\1\1\1\x94\4\0\0"  # padding, router alert
        option = (socket.IPPROTO_IP, socket.IP_OPTIONS, header)
    else:
        header = bytes((socket.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0))  # padding
        option = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\0" + header[1:])
    with both_ways(office, version, monkeypatch, tmp_path) as ways:
        for host, address, ears in ways:
            burst(lab, host, address, option)
            assert ears.burst() == ({0}, {header})


_MARK = """
table inet congestion {
    chain way {
        type filter hook forward priority -300;
        ip ecn != not-ect numgen random mod 100 < 2 ip ecn set ce
    }
}
"""


def test_congestion(
    office: Office, lab: Lab, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Congestion that the tunnel's datagrams met is told to TCP inside, which loses nothing."""

    def told() -> Counter[str]:
        found: Counter[str] = Counter()
        for host in "laptop", "office":
            said = lab.run(host, ["nstat", "-asz", "IpExtInCEPkts", "Ip6InCEPkts"]).stdout
            for name, value in re.findall(r"^(Ip\w+)\s+(\d+)", said, re.MULTILINE):
                found[f"{host} {name}"] = int(value)
        return found

    for host in "laptop", "office":
        lab.run(host, ["sysctl", "-qw", "net.ipv4.tcp_ecn=1"])
    wrong, before = checksum_errors(lab), told()
    with tunnel(office, cell_of("udp"), tmp_path, monkeypatch) as made:
        lab.run("internet", ["nft", "-f", "-"], input=_MARK)
        try:
            for version in 4, 6:
                exchange(lab, version, "tcp", SIZE)
        finally:
            lab.run("internet", ["nft", "delete", "table", "inet", "congestion"])
        made.check(set())
    for host in "laptop", "office":
        lab.run(host, ["sysctl", "-qw", "net.ipv4.tcp_ecn=2"])
    marks = told() - before
    tell(f"marked: {dict(marks)}")
    assert not checksum_errors(lab) - wrong
    # The outside is IPv4, so the laptop's figures of that are both.
    assert marks["office IpExtInCEPkts"] > 0 < marks["office Ip6InCEPkts"]
    assert marks["laptop Ip6InCEPkts"] > 0


def test_wrong_checksum(
    office: Office, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is wrong stays wrong, alone among right ones, and that is seen where we look."""
    with both_ways(office, 6, monkeypatch, tmp_path) as ways:
        address, ears = ways[0][1], ways[0][2]
        mine = office.lease()[1]
        before = checksum_errors(lab)
        with lab.hosts["laptop"].inside():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            wire.bind((CLIENT_TUN, 0x86DD))
        with wire:
            for number in range(7):
                packet = udp_packet(mine, address, bytes([number]) * 100)
                wrong = packet[:-1] + bytes([number ^ 1]) if number == 3 else packet
                wire.send(wrong)
        heard = [ears.hear()[2] for _ in range(7)]
        assert heard[3] == bytes([3]) * 99 + b"\2"
        found = checksum_errors(lab) - before
        assert found == {"office Udp6InCsumErrors Udp6InCsumErrors": 1}


QUICK = """
import pyvpn.tunnel.peer as peer
peer.REKEY_AFTER_TIME, peer.REKEY_TIMEOUT = 1.0, 0.3
"""
_HANDSHAKES = """
table inet handshakes {
    chain way {
        type filter hook forward priority -300;
        udp dport 51820 udp length 156 counter
    }
}
"""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_rekeys(
    office: Office,
    lab: Lab,
    far: Far,
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New keys every second, in the middle of everything: nothing is lost, nothing comes twice."""
    (tmp_path / "sitecustomize.py").write_text(QUICK)
    office.open()
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        client = office.join(more="transport = udp\n")
    client.says("packets go by UDP")
    lab.run("internet", ["nft", "-f", "-"], input=_HANDSHAKES)
    try:
        began, rounds = time.monotonic(), 0
        while time.monotonic() - began < 5:
            assert exchange(lab, 4, protocol, SIZE).lost == 0
            rounds += 1
        listed = lab.run("internet", ["nft", "list", "table", "inet", "handshakes"]).stdout
    finally:
        lab.run("internet", ["nft", "delete", "table", "inet", "handshakes"])
    handshakes = int(re.findall(r"packets (\d+)", listed)[0])
    tell(f"{protocol}: {handshakes} handshakes during {rounds} x {MEGABYTES} MB each way")
    assert handshakes >= 3
    assert office.server.log.read_text().count(" is here from ") == 1


def test_carrier_changes(office: Office, lab: Lab, far: Far) -> None:
    """UDP is blocked and let through again, while TCP sends all the time: all of it arrives."""
    office.open()
    client = office.join()
    client.says("packets go by UDP")
    over = threading.Event()
    failed: list[BaseException] = []
    rounds: list[float] = []

    def keep_busy() -> None:
        try:
            while not over.is_set():
                rounds.append(exchange(lab, 4 + 2 * (len(rounds) % 2), "tcp", SIZE).seconds)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    def wait_for(what: str, times: int, seconds: float) -> None:
        wait_until(lambda: client.log.read_text().count(what) >= times, seconds, what)

    def wait_for_round(number: int) -> None:
        wait_until(lambda: len(rounds) >= number or bool(failed), 60, "an exchange to end")

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for number in range(1, 4 if SOAKING else 2):
            with faults.blocked(lab):
                wait_for("packets go by TCP", number, 20)
                time.sleep(2)
            wait_for("it answers again", number, 60)
            wait_for_round(len(rounds) + 2)
    finally:
        over.set()
        busy.join()
    if failed:
        raise failed[0]
    tell(f"{len(rounds)} x {MEGABYTES} MB each way, the longest in {max(rounds):.1f} s")
    assert office.server.log.read_text().count(" is here from ") == 1
