"""The first generation's UDP program, written anew from its description and from nothing else.

The original (see ``docs/protocol.rst``, appendix) is this on the wire and towards the kernel, with
its faults.  It imports nothing of pyvpn, so that both ends of a tunnel between this and pyvpn were
written by different hands.  Its faults, kept because they are what must be lived with:

* both sides open the TUN with the kernel's 4-byte header before each packet, and know a command
  only by the kernel's refusal to take it for a packet;
* the client takes the first datagram after its password for the answer, whatever it is and
  wherever it comes from; without an answer within 5 s it gives up;
* the server has one TUN for each client, gives away the broadcast address, fails when no address
  is left, and writes the password of somebody it knows into the tunnel.

``python original_udp.py client HOST PORT`` and ``python original_udp.py server PORT``, each with
``--password``, ``--heartbeat`` (seconds), ``--network`` and ``--expiry`` if not as the original's.
"""

# ruff: noqa: T201 - a program: what it prints is read by the tests

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Network

BUFFER = 4096
MTU = 1400
HEARTBEAT, FORGOTTEN, GOODBYE = b"\0", b"r", b"e"


def say(*words: object) -> None:
    print(*words, flush=True)


def open_tun(local: str, remote: str) -> tuple[int, str]:
    """A TUN with packet information, point to point; its descriptor and name."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    answer = fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tun%d", 0x0001))
    name = answer[:16].rstrip(b"\0").decode()
    for command in (
        f"ip address add {local} peer {remote} dev {name}",
        f"ip link set {name} mtu {MTU} up",
    ):
        subprocess.run(command.split(), check=True)
    return fd, name


class Client:
    """One client: a socket that is not connected, a TUN, a thread that beats."""

    def __init__(self, host: str, port: int, password: bytes, heartbeat: float) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._server = host, port
        self._password = password
        self._heartbeat = heartbeat

    def log_in(self) -> int:
        """Send the password, believe what comes first; the new TUN, or the end."""
        self._socket.sendto(self._password, self._server)
        try:
            answer, _ = self._socket.recvfrom(BUFFER)
        except TimeoutError:
            say("no answer")
            sys.exit(3)
        local, remote = answer.decode("ascii").split(";")
        tun, name = open_tun(local, remote)
        say("tunnel is up:", local, remote, name, "from port", self._socket.getsockname()[1])
        return tun

    def _beat(self) -> None:
        while True:
            time.sleep(self._heartbeat)
            self._socket.sendto(HEARTBEAT, self._server)

    def run(self) -> None:
        tun = self.log_in()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            while True:
                for ready in select.select([self._socket.fileno(), tun], [], [])[0]:
                    if ready == tun:
                        self._socket.sendto(os.read(tun, BUFFER), self._server)
                        continue
                    datagram, _ = self._socket.recvfrom(BUFFER)
                    try:
                        os.write(tun, datagram)
                    except OSError:
                        if datagram == FORGOTTEN:
                            say("told to log in again")
                            os.close(tun)
                            tun = self.log_in()
                            break
                        say("ignored", datagram[:8].hex())
        except KeyboardInterrupt:
            self._socket.sendto(GOODBYE, self._server)
            say("said goodbye")


class Guest:
    """What the server knows of a client."""

    def __init__(self, source: tuple[str, int], address: str, server: str) -> None:
        self.source = source
        self.address = address
        self.tun, self.name = open_tun(server, address)
        self.heard = time.time()


class Server:
    """One thread reads, another one throws out who is silent."""

    def __init__(self, port: int, password: bytes, network: str, expiry: float) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("0.0.0.0", port))  # noqa: S104 - as the original does
        addresses = [str(each) for each in IPv4Network(network)]
        self._own, self._free = addresses[1], addresses[2:]
        self._password = password
        self._expiry = expiry
        self._guests: dict[tuple[str, int], Guest] = {}

    def serve(self) -> None:
        threading.Thread(target=self._throw_out, daemon=True).start()
        say("ready")
        while True:
            tuns = {guest.tun: guest for guest in self._guests.values()}
            for ready in select.select([self._socket.fileno(), *tuns], [], [], 1)[0]:
                if ready == self._socket.fileno():
                    self._receive(*self._socket.recvfrom(BUFFER))
                else:
                    with contextlib.suppress(OSError):
                        self._socket.sendto(os.read(ready, BUFFER), tuns[ready].source)

    def _receive(self, datagram: bytes, source: tuple[str, int]) -> None:
        guest = self._guests.get(source)
        if guest is not None:
            with contextlib.suppress(OSError):
                os.write(guest.tun, datagram)
                return
        if datagram == HEARTBEAT:
            if guest is None:
                say("does not know", *source)
                self._socket.sendto(FORGOTTEN, source)
            else:
                guest.heard = time.time()
        elif datagram == GOODBYE:
            if guest is not None:
                say("goodbye of", guest.address)
                self._end(guest)
        elif datagram == self._password:
            address = self._free.pop(0)  # and if there is none, that was the server
            self._guests[source] = Guest(source, address, self._own)
            self._socket.sendto(f"{address};{self._own}".encode(), source)
            say("log-in of", *source, "as", address, "by", self._guests[source].name)
        else:
            say("refused", *source, datagram[:40].hex())

    def _end(self, guest: Guest) -> None:
        del self._guests[guest.source]
        os.close(guest.tun)
        self._free.append(guest.address)

    def _throw_out(self) -> None:
        while True:
            for guest in list(self._guests.values()):
                if time.time() - guest.heard > self._expiry:
                    say("expired", guest.address)
                    self._end(guest)
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("client", "server"))
    parser.add_argument("place", nargs="+")
    parser.add_argument("--password", default="4fb88ca224e")
    parser.add_argument("--heartbeat", type=float, default=10)
    parser.add_argument("--network", default="10.0.0.0/24")
    parser.add_argument("--expiry", type=float, default=60)
    said = parser.parse_args()
    # Started in the background by a shell it would not hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if said.role == "client":
        host, port = said.place
        Client(host, int(port), said.password.encode(), said.heartbeat).run()
    else:
        (port,) = said.place
        Server(int(port), said.password.encode(), said.network, said.expiry).serve()


if __name__ == "__main__":
    main()
