"""The first generation's TCP program, written anew from its description and from nothing else.

The original (see ``docs/protocol.rst``, appendix) is written in Go; this is its behaviour on the
wire, with its habits: it reads 16 bytes at a time, its transaction ids are random, it checks no
inner source and forgets to close what it should.  It imports nothing of pyvpn, so that both ends
of a connection between this and pyvpn were written by different hands.

``python original.py client HOST PORT ADDRESS/LEN DEVICE`` and
``python original.py server PORT ADDRESS/LEN BYPASS DEVICE``
"""

# ruff: noqa: T201 - a program: what it prints is read by the tests

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

REGISTER, PACKET, ANSWER = 1, 2, -1
MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:a.b.c.d
MTU = 1500


class Ended(Exception):
    """The other side closed the connection."""


class Connection:
    """Frames over TCP, as either end of the original has them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sending = threading.Lock()
        self._buffer = b""

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes, fetched 16 at a time."""
        while len(self._buffer) < size:
            piece = self.sock.recv(16)
            if not piece:
                raise Ended
            self._buffer += piece
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_frame(self) -> tuple[int, int, bytes]:
        """The next command, its transaction and its data."""
        (length,) = struct.unpack(">i", self.read(4))
        body = self.read(length)
        command, transaction = struct.unpack(">ii", body[:8])
        return command, transaction, body[8:]

    def send(self, command: int, transaction: int, data: bytes) -> None:
        frame = struct.pack(">iii", 8 + len(data), command, transaction) + data
        with self._sending:
            self.sock.sendall(frame)

    def say_version(self, version: float = 1.0) -> int:
        """The client's half of the handshake; the server's one byte."""
        self.sock.sendall(struct.pack(">d", version))
        return self.read(1)[0]

    def register(self, address: str, *, short: bool = False) -> tuple[int, dict[str, object]]:
        """Ask for *address*; packets that come before the answer are forgotten.

        Returns:
            the answer's length on the wire, and what it says.
        """
        packed = IPv4Address(address).packed
        mine = random.randint(1, 2**31 - 1)
        self.send(REGISTER, mine, packed if short else MAPPED + packed)
        while True:
            command, transaction, data = self.read_frame()
            if command == ANSWER and transaction == mine:
                return len(data) + 12, json.loads(data)


def open_tun(device: str, interface: str) -> int:
    """A TUN with an address, up."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x0001 | 0x1000))
    for command in (
        f"ip address add {interface} dev {device}",
        f"ip link set {device} mtu {MTU} up",
    ):
        subprocess.run(command.split(), check=True)
    return fd


def is_ipv4(packet: bytes) -> bool:
    return len(packet) >= 20 and packet[0] >> 4 == 4


def client(host: str, port: int, interface: str, device: str) -> None:
    """Be the original's client until the server closes."""
    own = IPv4Interface(interface).ip
    connection = Connection(socket.create_connection((host, port), 10))
    connection.sock.settimeout(None)
    print("version answer", connection.say_version(), flush=True)
    _, answer = connection.register(str(own))
    print("register answer", json.dumps(answer), flush=True)
    if not answer["success"]:
        sys.exit(3)
    tun = open_tun(device, interface)
    if answer["bypass"]:
        route = f"ip route replace {answer['bypass']} dev {device}"
        subprocess.run(route.split(), check=True)

    def outward() -> None:
        while True:
            packet = os.read(tun, MTU + 100)
            if not is_ipv4(packet):
                continue
            if packet[16:20] == own.packed:
                os.write(tun, packet)
            else:
                connection.send(PACKET, 0, packet)

    threading.Thread(target=outward, daemon=True).start()
    print("tunnel is up", flush=True)
    with suppress(Ended):
        while True:
            command, _, data = connection.read_frame()
            if command == PACKET and is_ipv4(data):
                with suppress(OSError):
                    os.write(tun, data)
            else:
                print("ignored a frame of command", command, flush=True)
    print("the server closed", flush=True)


class Server:
    """The original's server: a thread for each connection."""

    def __init__(self, interface: str, bypass: str, device: str) -> None:
        self._network = IPv4Interface(interface).network
        self._bypass = IPv4Network(bypass)
        self._tun = open_tun(device, interface)
        self._clients: dict[bytes, Connection] = {}

    def serve(self, port: int) -> None:
        listener = socket.create_server(("0.0.0.0", port))  # noqa: S104 - as the original does
        threading.Thread(target=self._outward, daemon=True).start()
        print("ready", flush=True)
        while True:
            sock, peer = listener.accept()
            arguments = (Connection(sock), peer[0])
            threading.Thread(target=self._talk, args=arguments, daemon=True).start()

    def _outward(self) -> None:
        while True:
            packet = os.read(self._tun, MTU + 100)
            if is_ipv4(packet) and IPv4Address(packet[16:20]) in self._network:
                connection = self._clients.get(packet[16:20])
                if connection is not None:
                    with suppress(OSError):
                        connection.send(PACKET, 0, packet)

    def _talk(self, connection: Connection, peer: str) -> None:
        held = b""
        try:
            (version,) = struct.unpack(">d", connection.read(8))
            print("version", version, "from", peer, flush=True)
            connection.sock.sendall(b"\x01" if version == 1.0 else b"\x02")
            while version == 1.0:
                command, transaction, data = connection.read_frame()
                if command == REGISTER:
                    print("register", data.hex(), "transaction", transaction, flush=True)
                    wanted = data[-4:]
                    if self._clients.get(wanted, connection) is not connection:
                        self._answer(connection, transaction, False, "address already used", "")
                        return
                    self._clients.pop(held, None)
                    held = wanted
                    self._clients[held] = connection
                    self._answer(connection, transaction, True, "", str(self._bypass))
                elif command == PACKET and is_ipv4(data):
                    if IPv4Address(data[16:20]) in self._bypass:
                        os.write(self._tun, data)
                else:
                    print("ignored a frame of command", command, flush=True)
        except (Ended, OSError):
            pass
        finally:
            if held:
                self._clients.pop(held, None)
            connection.sock.close()
            print("closed", peer, flush=True)

    @staticmethod
    def _answer(
        connection: Connection, transaction: int, success: bool, message: str, bypass: str
    ) -> None:
        data = json.dumps({"success": success, "message": message, "bypass": bypass})
        connection.send(ANSWER, transaction, data.encode())


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "client":
        client(rest[0], int(rest[1]), rest[2], rest[3])
    else:
        Server(rest[1], rest[2], rest[3]).serve(int(rest[0]))
