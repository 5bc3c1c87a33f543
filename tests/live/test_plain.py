"""The first generation's client, by a program that shares no code with us, and our server.

The plain clients' bypass is a part of the office LAN, 192.168.77.16/28: the office host has one
address in it (.20) and gets one outside (.40).
"""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.original import ANSWER, MAPPED, PACKET, REGISTER, Connection, Ended
from tests.live.plain_lab import ADDRESS, PORT, fetches_the_page, original, pings, serve_a_page

BYPASS = "192.168.77.16/28"
OUTSIDE_BYPASS = "192.168.77.40"
WARNING = r"\[plain\] tcp_listen is open on .*51005.*no encryption and no log-in"

SILENCE = """
table inet silence {
    chain output {
        type filter hook output priority 0;
        tcp flags & rst == rst drop
    }
}
"""


@pytest.fixture(scope="module")
def office(lab: Lab) -> Lab:
    """The lab, the office host with its second address and a web server on both."""
    lab.run("office", ["ip", "address", "add", f"{OUTSIDE_BYPASS}/24", "dev", "eth0"])
    serve_a_page(lab)
    return lab


@pytest.fixture(scope="module")
def server(office: Lab) -> Iterator[vpn.Program]:
    """Our server, opened for the first generation."""
    more = f"[plain]\ntcp_listen = {PORT}\nbypass = {BYPASS}\n"
    program = vpn.start_server(office, more=more)
    vpn.link(program)
    yield program
    assert stop(program.process) == 0
    assert "Traceback" not in program.log.read_text()


@contextmanager
def original_client(lab: Lab, address: str = ADDRESS) -> Iterator[Path]:
    """The original client on the laptop, with its tunnel up."""
    arguments = ("client", SERVER_ADDRESS, str(PORT), f"{address}/24", "gvpn0")
    with original(lab, "laptop", *arguments, ready="tunnel is up") as log:
        yield log


@contextmanager
def dialled(lab: Lab, host: str = "laptop") -> Iterator[Connection]:
    """A connection to our server's plain port, past the version handshake."""
    with lab.hosts[host].inside():
        sock = socket.create_connection((SERVER_ADDRESS, PORT), 5)
    with sock:
        connection = Connection(sock)
        assert connection.say_version() == 1
        yield connection


def is_closed(connection: Connection, seconds: float = 3) -> bool:
    """Whether the server closes within *seconds*."""
    connection.sock.settimeout(seconds)
    try:
        connection.read(1)
    except (Ended, ConnectionResetError):
        return True
    except TimeoutError:
        return False
    return False


def udp(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram in it; UDP needs no checksum, IP does."""
    length = 28 + len(payload)
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack(">H", checksum) + header[12:]
    return header + struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload


def drops(server: vpn.Program) -> dict[str, int]:
    """The server's counters of dropped packets, by its own report."""
    before = server.log.read_text().count("addresses in use")
    server.process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + 5
    while server.log.read_text().count("addresses in use") == before:
        assert time.monotonic() < deadline, "no status"
        time.sleep(0.05)
    time.sleep(0.1)
    report = server.log.read_text().rpartition("addresses in use")[2]
    return {why: int(n) for n, why in re.findall(r"dropped (\d+) packets: (\S+)", report)}


def test_off_by_default(office: Lab) -> None:
    """Nobody opens the plain port by accident: without its option it is closed."""
    program = vpn.start_server(office, name="plainless")
    try:
        vpn.link(program)
        with office.hosts["laptop"].inside(), pytest.raises(ConnectionRefusedError):
            socket.create_connection((SERVER_ADDRESS, PORT), 5)
        assert "[plain]" not in program.log.read_text()
        rules = office.run("server", ["nft", "list", "ruleset"]).stdout
        assert "182.1.1" not in rules
        assert "10.73.0.0/24" in rules
    finally:
        assert stop(program.process) == 0


def test_warned_about(server: vpn.Program) -> None:
    """Whoever opens it reads at each start what that means."""
    line = server.says(f".*{WARNING}.*")[0]
    assert BYPASS in line


def test_the_bytes_of_an_answer(office: Lab, server: vpn.Program) -> None:
    """An answer is, byte for byte, what the original's client waits for."""
    expected = b'{"success":true,"message":"","bypass":"192.168.77.16/28"}'
    with office.hosts["laptop"].inside():
        sock = socket.create_connection((SERVER_ADDRESS, PORT), 5)
    with sock:
        sock.sendall(bytes.fromhex("3ff0000000000000"))
        assert sock.recv(100) == b"\x01"
        question = struct.pack(">iii", 24, REGISTER, 0x1234567) + MAPPED
        for byte in question + socket.inet_aton(ADDRESS):  # in the smallest pieces
            sock.sendall(bytes([byte]))
        answer = b""
        while len(answer) < 12 + len(expected):
            answer += sock.recv(16)
        assert answer == struct.pack(">iii", 8 + len(expected), ANSWER, 0x1234567) + expected


@pytest.mark.parametrize(("version", "byte"), [(2.0, 2), (1.1, 2), (float("nan"), 0)])
def test_other_versions(office: Lab, server: vpn.Program, version: float, byte: int) -> None:
    """Another version gets its byte and is closed; also 2.0, which exists only inside TLS."""
    with office.hosts["laptop"].inside():
        connection = Connection(socket.create_connection((SERVER_ADDRESS, PORT), 5))
    with connection.sock:
        assert connection.say_version(version) == byte
        assert is_closed(connection)


def test_both_ways(office: Lab, server: vpn.Program) -> None:
    """The original's client reaches the office and is reached from there; a page comes over."""
    with original_client(office) as log:
        assert wait_for_line(log, r"version answer (\d)")[1] == "1"
        answer = json.loads(wait_for_line(log, r"register answer (.*)")[1])
        assert answer == {"success": True, "message": "", "bypass": BYPASS}
        assert pings(office, "laptop", OFFICE_ADDRESS)
        assert pings(office, "office", ADDRESS)
        assert fetches_the_page(office, "laptop", OFFICE_ADDRESS)
        assert "182.1.1.1/24" in office.run("server", ["ip", "address"]).stdout
    server.says(f"plain/{ADDRESS} left")
    assert not pings(office, "office", ADDRESS)


def test_confined(office: Lab, server: vpn.Program) -> None:
    """A plain client reaches its bypass alone: neither LAN, server nor native client."""
    vpn.add_user(office, server, "anna")
    laptop = office.add_laptop()
    native = vpn.start_client(office, vpn.link(server), "anna", host=laptop)
    native.says("routes into the tunnel")
    with original_client(office):
        assert pings(office, "laptop", OFFICE_ADDRESS)
        # All of these would answer: what stops the packets is the server.
        for elsewhere in (OUTSIDE_BYPASS, "192.168.77.1", "10.73.0.1", "10.73.0.2", "198.18.2.1"):
            before = drops(server).get("destination-not-permitted", 0)
            assert pings(office, "server", elsewhere)
            office.run("laptop", ["ip", "route", "replace", elsewhere, "dev", "gvpn0"])
            assert not pings(office, "laptop", elsewhere), elsewhere
            office.run("laptop", ["ip", "route", "delete", elsewhere, "dev", "gvpn0"])
            assert drops(server)["destination-not-permitted"] == before + 1
        assert pings(office, "office", ADDRESS)
        assert not pings(office, "office", ADDRESS, "-I", OUTSIDE_BYPASS)
        assert not pings(office, laptop, ADDRESS)
    assert stop(native.process) == 0


def test_forged_source(office: Lab, server: vpn.Program) -> None:
    """What a plain client sends under another address than its own is dropped and counted."""
    with office.hosts["office"].inside():
        office_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with office_socket, dialled(office) as connection:
        office_socket.bind((OFFICE_ADDRESS, 4001))
        office_socket.settimeout(3)
        before = drops(server).get("source-not-own", 0)
        connection.send(PACKET, 0, udp(ADDRESS, OFFICE_ADDRESS, 4001, b"before registration"))
        assert connection.register(ADDRESS)[1]["success"]
        for source in ("182.1.1.102", "10.73.0.2", OFFICE_ADDRESS, "182.1.1.1"):
            connection.send(PACKET, 0, udp(source, OFFICE_ADDRESS, 4001, b"forged"))
        connection.send(PACKET, 0, udp(ADDRESS, OFFICE_ADDRESS, 4001, b"own"))
        assert office_socket.recv(100) == b"own"
        counted = drops(server)
        assert counted["source-not-own"] == before + 4
        assert counted["not-registered"] >= 1


def test_taken(office: Lab, server: vpn.Program) -> None:
    """An address somebody has is refused with a reason, the asker's connection is closed."""
    with dialled(office) as first, dialled(office) as second:
        assert first.register(ADDRESS)[1]["success"]
        _, answer = second.register(ADDRESS)
        assert answer == {"success": False, "message": f"{ADDRESS} is in use", "bypass": ""}
        assert is_closed(second)
        assert first.register("182.1.1.110")[1]["success"]
    with dialled(office) as third:  # closing has freed it
        assert third.register("182.1.1.110")[1]["success"]


@pytest.mark.parametrize("address", ["182.1.1.0", "182.1.1.1", "182.1.1.255", "10.73.0.9"])
def test_not_for_clients(office: Lab, server: vpn.Program, address: str) -> None:
    """The server's own address, and those that are nobody's, are refused with a reason."""
    with dialled(office) as connection:
        _, answer = connection.register(address, short=True)
        assert answer["success"] is False
        assert address in str(answer["message"])
        assert is_closed(connection)


def test_registered_again(office: Lab, server: vpn.Program) -> None:
    """A second registration on the same connection replaces the address and frees the first."""
    with dialled(office) as first, dialled(office) as second:
        assert first.register("182.1.1.111")[1]["success"]
        assert first.register("182.1.1.112", short=True)[1]["success"]
        assert second.register("182.1.1.111")[1]["success"]
        for connection, own in (first, "182.1.1.112"), (second, "182.1.1.111"):
            connection.sock.settimeout(3)
            ping = ["ping", "-n", "-c", "1", "-W", "1", own]
            assert office.run("office", ping, check=False).returncode == 1
            command, transaction, packet = connection.read_frame()
            assert (command, transaction) == (PACKET, 0)
            assert packet[16:20] == socket.inet_aton(own)


def test_half_open(office: Lab, server: vpn.Program) -> None:
    """A client that vanished without a word does not keep its address: TCP asks for it."""
    with dialled(office) as gone:
        assert gone.register("182.1.1.113")[1]["success"]
        time.sleep(0.2)  # else the answer is repeated until it is acknowledged
        office.run("laptop", ["nft", "-f", "-"], input=SILENCE)
        office.run("laptop", ["ss", "-K", "dport", "=", str(PORT)])
        office.run("laptop", ["nft", "delete", "table", "inet", "silence"])
        with pytest.raises(OSError, match="abort"):
            gone.sock.recv(1)
        with dialled(office) as again:
            assert not again.register("182.1.1.113")[1]["success"]
    server.says("plain/182.1.1.113 left", 40)
    with dialled(office) as again:
        assert again.register("182.1.1.113")[1]["success"]
