"""The first generation's UDP client, by a program that shares no code with us, and our server.

The plain clients' bypass is a part of the office LAN, 192.168.77.16/28: the office host has one
address in it (.20) and gets one outside (.40).  Where the bytes are looked at, or forged, a bare
socket on a host that is straight on the internet is the client.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.plain_lab import (
    ORIGINAL_UDP,
    UDP_PASSWORD,
    UDP_PORT,
    fetches_the_page,
    pings,
    running,
    serve_a_page,
)
from tests.live.test_plain import drops, udp

BYPASS = "192.168.77.16/28"
OUTSIDE_BYPASS = "192.168.77.40"
NETWORK = "10.0.0.0/29"  # .1 is the server's, .2 to .6 are for clients
SERVER = "10.0.0.1"
HEADER = bytes.fromhex("00000800")


@pytest.fixture(scope="module")
def office(lab: Lab) -> Lab:
    """The lab, the office host with its second address and a web server on both."""
    lab.run("office", ["ip", "address", "add", f"{OUTSIDE_BYPASS}/24", "dev", "eth0"])
    serve_a_page(lab)
    return lab


@pytest.fixture(scope="module")
def host(office: Lab) -> str:
    """A host straight on the internet, whose address nobody translates."""
    return office.add_laptop(at_home=False)


def start_server(lab: Lab) -> vpn.Program:
    """Our server, opened for the first generation's UDP protocol."""
    secret = lab.write("plain.password", f"{UDP_PASSWORD}\n")
    more = (
        f"[plain]\nudp_listen = {UDP_PORT}\nudp_network = {NETWORK}\n"
        f"udp_password_file = {secret}\nbypass = {BYPASS}\n"
    )
    program = vpn.start_server(lab, more=more)
    vpn.link(program)
    return program


@pytest.fixture
def server(office: Lab) -> Iterator[vpn.Program]:
    """The same, until the end of the test."""
    program = start_server(office)
    yield program
    assert stop(program.process) == 0
    said = program.log.read_text()
    assert "Traceback" not in said
    assert UDP_PASSWORD not in said


@contextmanager
def original_client(
    lab: Lab, host: str = "laptop", *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path, str]]:
    """The original client, with its tunnel up and the bypass routed into it; and its address."""
    program = [*ORIGINAL_UDP, "client", SERVER_ADDRESS, str(UDP_PORT), *options]
    with running(lab, host, program, "tunnel is up") as (process, log):
        up = wait_for_line(log, r"tunnel is up: (\S+) (\S+) (\S+)")
        assert up[2] == SERVER
        lab.run(host, ["ip", "route", "replace", BYPASS, "dev", up[3]])
        yield process, log, up[1]


@contextmanager
def sockets(lab: Lab, host: str, count: int) -> Iterator[list[socket.socket]]:
    """Sockets on *host*, connected to our server's plain port."""
    found = []
    with lab.hosts[host].inside():
        for _ in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect((SERVER_ADDRESS, UDP_PORT))
            sock.settimeout(1)
            found.append(sock)
    try:
        yield found
    finally:
        for sock in found:
            sock.close()


def ask(sock: socket.socket, datagram: bytes) -> bytes:
    """What is answered to *datagram* within a second; nothing is nothing."""
    sock.send(datagram)
    try:
        return sock.recv(4096)
    except TimeoutError:
        return b""


def log_in(sock: socket.socket) -> str:
    """Log in; the address."""
    client, _, own = ask(sock, UDP_PASSWORD.encode()).decode().partition(";")
    assert own == SERVER
    return client


def forge(lab: Lab, sock: socket.socket, datagram: bytes) -> None:
    """Send *datagram* to our server from somewhere else, in the name of *sock*."""
    source, port = sock.getsockname()
    packet = udp(source, SERVER_ADDRESS, UDP_PORT, datagram)
    packet = packet[:20] + struct.pack(">H", port) + packet[22:]
    with lab.hosts["internet"].inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        raw.sendto(packet, (SERVER_ADDRESS, 0))


def test_off_by_default(office: Lab, host: str) -> None:
    """Nobody opens the port by accident: without its option it is closed."""
    program = vpn.start_server(office, name="plainless")
    try:
        vpn.link(program)
        with sockets(office, host, 1) as [sock], pytest.raises(ConnectionRefusedError):
            ask(sock, UDP_PASSWORD.encode())
        assert "[plain]" not in program.log.read_text()
        assert "10.0.0" not in office.run("server", ["nft", "list", "ruleset"]).stdout
    finally:
        assert stop(program.process) == 0


def test_warned_about(server: vpn.Program) -> None:
    """Whoever opens it reads what that means at each start, and in each status."""
    warning = r"\[plain\] udp_listen is open on .*2003.*no encryption, and a password that every"
    assert BYPASS in server.says(f".*{warning}.*")[0]
    drops(server)
    assert len(re.findall(warning, server.log.read_text())) == 2


def test_the_bytes(office: Lab, host: str, server: vpn.Program) -> None:
    """Each datagram is answered, byte for byte, as the original's client needs it."""
    with sockets(office, host, 2) as [first, second]:
        assert ask(first, b"\0") == b"r"
        assert ask(first, UDP_PASSWORD.encode()) == b"10.0.0.2;10.0.0.1"
        assert ask(first, UDP_PASSWORD.encode()) == b"10.0.0.2;10.0.0.1"
        assert ask(first, b"\0") == b""
        assert ask(second, UDP_PASSWORD.encode()) == b"10.0.0.3;10.0.0.1"
        ping = ["ping", "-n", "-c", "1", "-W", "1", "10.0.0.3"]
        office.run("office", ping, check=False)
        datagram = second.recv(4096)
        assert datagram[:4] == HEADER
        assert datagram[4:][12:20] == socket.inet_aton(OFFICE_ADDRESS) + socket.inet_aton(
            "10.0.0.3"
        )


def test_both_ways(office: Lab, server: vpn.Program) -> None:
    """The original's client reaches server and office, and is reached; a page comes over."""
    with original_client(office) as (process, log, address):
        assert address == "10.0.0.2"
        assert pings(office, "laptop", SERVER)
        assert pings(office, "laptop", OFFICE_ADDRESS)
        assert pings(office, "server", address)
        assert pings(office, "office", address)
        assert pings(office, "laptop", OFFICE_ADDRESS, "-s", "1372")
        assert fetches_the_page(office, "laptop", OFFICE_ADDRESS)
        assert "10.0.0.1/29" in office.run("server", ["ip", "address"]).stdout
        server.says("plain/10.0.0.2 is here")
        process.send_signal(signal.SIGINT)
        wait_for_line(log, "said goodbye")
        assert process.wait(5) == 0
    server.says("plain/10.0.0.2 left: said goodbye", 15)
    assert not pings(office, "office", "10.0.0.2")


def test_confined(office: Lab, server: vpn.Program) -> None:
    """A plain client reaches its bypass and the server's end of its tunnel, and no more."""
    vpn.add_user(office, server, "anna")
    laptop = office.add_laptop()
    native = vpn.start_client(office, vpn.link(server), "anna", host=laptop)
    native.says("routes into the tunnel")
    with original_client(office) as (_, log, address):
        tun = wait_for_line(log, r"tunnel is up: \S+ \S+ (\S+)")[1]
        assert pings(office, "laptop", OFFICE_ADDRESS)
        # All of these would answer: what stops the packets is the server.
        for elsewhere in (OUTSIDE_BYPASS, "192.168.77.1", "10.73.0.1", "10.73.0.2", "198.18.2.2"):
            before = drops(server).get("destination-not-permitted", 0)
            assert pings(office, "server", elsewhere)
            if elsewhere == SERVER_ADDRESS:
                continue  # the way of the tunnel itself
            office.run("laptop", ["ip", "route", "replace", elsewhere, "dev", tun])
            assert not pings(office, "laptop", elsewhere), elsewhere
            office.run("laptop", ["ip", "route", "delete", elsewhere, "dev", tun])
            assert drops(server)["destination-not-permitted"] == before + 1
        assert pings(office, "office", address)
        assert not pings(office, "office", address, "-I", OUTSIDE_BYPASS)
        assert not pings(office, laptop, address)
    assert stop(native.process) == 0


def test_forged_source(office: Lab, host: str, server: vpn.Program) -> None:
    """What a client sends under another address than its own is dropped, and IPv6 too."""
    with office.hosts["office"].inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sockets(office, host, 2) as [sock, other]:
        receiver.bind((OFFICE_ADDRESS, 4001))
        receiver.settimeout(3)
        before = drops(server)
        assert log_in(sock) == "10.0.0.2"
        other.send(HEADER + udp("10.0.0.2", OFFICE_ADDRESS, 4001, b"stranger"))
        for source in ("10.0.0.3", "10.73.0.2", OFFICE_ADDRESS, SERVER):
            sock.send(HEADER + udp(source, OFFICE_ADDRESS, 4001, b"forged"))
        sock.send(b"\0\0\x86\xdd" + bytes.fromhex("6000000000003aff") + bytes(32))
        sock.send(b"\0\0\x86\xdd" + udp("10.0.0.2", OFFICE_ADDRESS, 4001, b"mixed"))
        sock.send(HEADER + udp("10.0.0.2", OFFICE_ADDRESS, 4001, b"own"))
        assert receiver.recv(100) == b"own"
        counted = drops(server)
        for reason, more in (
            ("source-not-own", 4),
            ("plain-udp-ipv6", 1),
            ("plain-udp-unknown-source", 1),
            ("malformed", 1),
        ):
            assert counted[reason] == before.get(reason, 0) + more, reason


def test_restarted_server(office: Lab) -> None:
    """A server that was restarted knows nobody; the next heartbeat brings the client back."""
    first = start_server(office)
    with original_client(office, "laptop", "--heartbeat", "1") as (_, log, address):
        assert pings(office, "laptop", OFFICE_ADDRESS)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        second = start_server(office)
        wait_for_line(log, "told to log in again")
        deadline = time.monotonic() + 5
        while log.read_text().count("tunnel is up") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tun = re.findall(r"tunnel is up: \S+ \S+ (\S+)", log.read_text())[-1]
        office.run("laptop", ["ip", "route", "replace", BYPASS, "dev", tun])
        assert pings(office, "laptop", OFFICE_ADDRESS)
        assert pings(office, "office", address)
        assert stop(second.process) == 0


def test_killed_client(office: Lab, server: vpn.Program) -> None:
    """A client that was killed says nothing; started anew it gets an address at once."""
    with original_client(office) as (process, _, address):
        assert pings(office, "office", address)
        process.kill()
        process.wait()
    with original_client(office) as (_, _, address):
        assert address == "10.0.0.3"
        assert pings(office, "office", address)
        assert pings(office, "laptop", OFFICE_ADDRESS)


def test_forged_goodbye(office: Lab, host: str, server: vpn.Program) -> None:
    """A goodbye that somebody else sent changes nothing for a client that goes on talking."""
    with sockets(office, host, 2) as [sock, other]:
        own = log_in(sock)
        forge(office, sock, b"e")
        time.sleep(0.3)
        ping = ["ping", "-n", "-c", "1", "-W", "1", own]
        office.run("office", ping, check=False)
        assert sock.recv(4096)[:4] == HEADER  # also before it says anything
        time.sleep(6)
        sock.send(b"\0")
        time.sleep(6)
        assert ask(sock, b"\0") == b""
        assert log_in(other) != own
    assert "left" not in server.log.read_text()


def test_pool(office: Lab, host: str, server: vpn.Program) -> None:
    """When no address is left there is no answer; a goodbye frees one 10 s later, not before."""
    with sockets(office, host, 7) as [*five, late, later]:
        assert [log_in(sock) for sock in five] == [f"10.0.0.{n}" for n in range(2, 7)]
        assert ask(late, UDP_PASSWORD.encode()) == b""
        five[3].send(b"e")
        gone = time.monotonic()
        assert ask(late, UDP_PASSWORD.encode()) == b""
        time.sleep(max(0.0, gone + 8 - time.monotonic()))
        assert ask(late, UDP_PASSWORD.encode()) == b""
        time.sleep(max(0.0, gone + 10.1 - time.monotonic()))
        assert log_in(late) == "10.0.0.5"
        assert ask(later, UDP_PASSWORD.encode()) == b""
        assert ask(five[3], b"\0") == b"r"
        drops(server)
        server.says("refused 4 times: plain-udp-no-free-address")


def test_wrong_passwords(office: Lab, host: str, server: vpn.Program) -> None:
    """They are never answered, slowed down by source, and told in one line."""
    with sockets(office, host, 3) as [guesser, another, friend]:
        log_in(friend)
        for number in range(300):
            guesser.send(b"guess %d" % number)
        assert ask(guesser, b"e") == b""
        assert ask(another, UDP_PASSWORD.encode()) == b""  # the same source, for a while
        assert log_in(friend) == "10.0.0.2"  # who is here is not asked again
        with sockets(office, "laptop", 1) as [elsewhere]:
            assert log_in(elsewhere) == "10.0.0.3"
        drops(server)
        server.says("refused 5 times: plain-udp-wrong-password")
        server.says("refused 296 times: plain-udp-too-many-wrong-passwords")
        said = server.log.read_text()
        assert said.count("wrong password") == 1
        assert "guess" not in said


def test_any_datagram(office: Lab, host: str, server: vpn.Program) -> None:
    """Datagrams of every length, of nobody and of a client, change nothing and break nothing."""
    with sockets(office, host, 2) as [stranger, sock]:
        own = log_in(sock)
        for size in [*range(64), 127, 1403, 1404, 1405, 4095, 4096, 4097, 9000, 65000]:
            for first in (b"", HEADER, b"\0\0\x86\xdd", b"r", b"\xff"):
                datagram = (first + os.urandom(size))[:size]
                if datagram not in (b"\0", b"e"):
                    stranger.send(datagram)
                    sock.send(datagram)
        assert log_in(sock) == own
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)
        assert stop(server.process) == 0
        assert "Traceback" not in server.log.read_text()
