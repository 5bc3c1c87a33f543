"""Stock WireGuard apps on hosts of the lab: wireguard-go, set up as wg-quick does it.

wireguard-go looks for its socket below ``/var/run/wireguard``, which all hosts of the lab share:
so each app has an interface name of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from pyvpn.cli import main as pyvpn
from pyvpn.testing.lab import SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from pyvpn.testing.namespace import ip, stop
from tests.live.office import SERVER_TUN, Office, wait_until

PORT = 51820
SYSTEMS_GO = "/usr/bin/wireguard-go"
GOS = [SYSTEMS_GO, *filter(None, [os.environ.get("PYVPN_WIREGUARD_GO")])]
"""Each wireguard-go there is: the system's, and a newer one if the environment names it."""
each_go = pytest.mark.parametrize("go", GOS, ids=("system", "newer")[: len(GOS)])
OUTER = {4: SERVER_ADDRESS, 6: f"[{SERVER_ADDRESS6}]"}

INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h
EMPTY = 32  # bytes of a data message with nothing in it
SOCKETS = Path("/var/run/wireguard")

_numbers = count(1)


@dataclass(frozen=True)
class DeviceFile:
    """What ``pyvpn device add`` has printed."""

    text: str

    def value(self, name: str) -> str:
        """The value of the first line *name*; empty if there is none."""
        found = re.search(rf"^{name} = (.*)$", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def addresses(self) -> list[str]:
        """Its addresses in the tunnel, IPv4 first."""
        return [each.partition("/")[0] for each in self.value("Address").split(", ")]

    def but(self, **values: str) -> DeviceFile:
        """The same file with other values."""
        text = self.text
        for name, value in values.items():
            text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
            assert replaced == 1, name
        return DeviceFile(text)

    def without(self, name: str) -> DeviceFile:
        """The same file without the line *name*."""
        return replace(self, text=re.sub(rf"(?m)^{name} = .*\n", "", self.text))


def command(office: Office, *words: str) -> None:
    """Run ``pyvpn WORDS`` at the server, in this process: to start another takes a second."""
    with office.lab.hosts[office.server_host].inside():
        config = ["--config", str(office.server.config)]
        ran = CliRunner().invoke(pyvpn, [*words, *config], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output


def add_device(
    office: Office, user: str = "anna", name: str = "phone", *options: str
) -> DeviceFile:
    """Put an app on file, and wait until the running server lets it in."""
    before = server_peers(office.lab, host=office.server_host)
    path = office.lab.folder / f"{office.name}-{next(_numbers)}.conf"
    command(office, "device", "add", user, name, "--wireguard", *options, "--output", str(path))
    file = DeviceFile(path.read_text())
    wait_until(
        lambda: len(server_peers(office.lab, host=office.server_host)) > len(before),
        what="a peer for the new device",
    )
    return file


class Peer(NamedTuple):
    """A line of ``wg show dump``."""

    public: str
    preshared: str
    endpoint: str
    allowed: str
    handshake: int
    """Unix time, 0 never."""
    received: int
    """Bytes."""
    sent: int
    keepalive: str


def peers_of(lab: Lab, host: str, interface: str) -> list[Peer]:
    """What ``wg`` says of an interface's peers."""
    lines = lab.run(host, ["wg", "show", interface, "dump"]).stdout.splitlines()[1:]
    split = [line.split("\t") for line in lines]
    return [Peer(*words[:4], *map(int, words[4:7]), words[7]) for words in split]


def server_peers(lab: Lab, host: str = "server") -> list[Peer]:
    """The peers of the server that runs on *host*."""
    return peers_of(lab, host, SERVER_TUN)


class App:
    """wireguard-go at work on a host of the lab."""

    def __init__(self, lab: Lab, host: str, file: DeviceFile, go: str = SYSTEMS_GO) -> None:
        self.lab, self.host, self.file = lab, host, file
        self.name = f"app{next(_numbers)}"
        self.log = lab.folder / f"{self.name}.log"
        verbose = ["env", "LOG_LEVEL=verbose", go, "-f", self.name]
        self.process = lab.start(host, verbose, self.log)
        wait_until(
            lambda: (SOCKETS / f"{self.name}.sock").exists() or self.process.poll() is not None,
            what=f"{go} to be there",
        )
        # Like wg-quick: what only that knows is not for wg.
        stripped = re.sub(r"(?m)^(Address|MTU|DNS) = .*\n", "", file.text)
        self.wg("setconf", str(lab.write(f"{self.name}.conf", stripped)))
        lines = [f"address add {each} dev {self.name}" for each in self._values("Address")]
        lines.append(f"link set {self.name} mtu {file.value('MTU')} up")
        lines += [f"route add {each} dev {self.name}" for each in self._values("AllowedIPs")]
        ip("-n", host, script="\n".join(lines) + "\n")

    def __enter__(self) -> App:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; its interface goes with it."""
        stop(self.process)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wg(self, verb: str, *words: str) -> str:
        """Run ``wg VERB INTERFACE ...``."""
        return self.lab.run(self.host, ["wg", verb, self.name, *words]).stdout

    def set_peer(self, *words: str) -> None:
        """Change something of the server as the app knows it."""
        self.wg("set", "peer", self.file.value("PublicKey"), *words)

    @property
    def peer(self) -> Peer:
        """The server, as the app sees it."""
        return peers_of(self.lab, self.host, self.name)[0]

    @property
    def port(self) -> int:
        """Its UDP port."""
        return int(self.wg("show", "listen-port"))

    @property
    def addresses(self) -> list[str]:
        """In the tunnel, IPv4 first."""
        return self.file.addresses

    def said(self, words: str) -> int:
        """How often its log says that."""
        return self.log.read_text(errors="replace").count(words)

    def _values(self, name: str) -> list[str]:
        return [each for each in self.file.value(name).split(", ") if each]


@contextmanager
def app(
    office: Office,
    host: str = "laptop",
    user: str = "anna",
    name: str = "phone",
    *options: str,
    go: str = SYSTEMS_GO,
) -> Iterator[App]:
    """A device that is put on file, and runs."""
    with App(office.lab, host, add_device(office, user, name, *options), go) as started:
        yield started


class Sight(NamedTuple):
    """A UDP datagram seen on the way."""

    at: float
    """Unix time."""
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes
    tos: int
    packet: bytes
    """The whole, from the IP header on."""

    @property
    def kind(self) -> int:
        return self.payload[0] if self.payload else 0


class Wire:
    """Sees the datagrams to and from port 51820 that pass an interface of the lab.

    Without arguments: the cable between the server and the internet.
    """

    def __init__(self, lab: Lab, host: str = "internet", interface: str = "office") -> None:
        one_by_one(lab)
        with lab.hosts[host].inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            with suppress(PermissionError):  # without root it holds some hundred datagrams
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2**24)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.bind((interface, 3))  # ETH_P_ALL
        self._socket.setblocking(False)
        self.seen: list[Sight] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def look(self) -> list[Sight]:
        """All that was seen so far."""
        while True:
            try:
                packet, [(_, _, stamp)], _, _ = self._socket.recvmsg(65536, 64)
            except BlockingIOError:
                return self.seen
            seconds, nanoseconds = struct.unpack("ll", stamp)
            if sight := _udp(packet, seconds + nanoseconds / 1e9):
                self.seen.append(sight)

    def forget(self) -> None:
        """Begin anew."""
        self.look()
        self.seen.clear()

    def save(self, path: Path) -> None:
        """Write what was seen as a capture (pcap, link type "raw IP")."""
        written = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
        for sight in self.look():
            size, at = len(sight.packet), divmod(int(sight.at * 1e6), 10**6)
            written += [struct.pack("<IIII", *at, size, size), sight.packet]
        path.write_bytes(b"".join(written))

    def kinds(self) -> list[tuple[str, int]]:
        """Who sent what so far: ``("app", 1)`` is an initiation of the app."""
        return [
            ("server" if sight.source[1] == PORT else "app", sight.kind) for sight in self.look()
        ]


def _udp(packet: bytes, at: float) -> Sight | None:
    """Read an IP packet; None if it is no datagram of ours."""
    if packet[0] >> 4 == 4:
        size, protocol, traffic = (packet[0] & 15) * 4, packet[9], packet[1]
        addresses = packet[12:16], packet[16:20]
    else:
        size, protocol = 40, packet[6]
        traffic = (packet[0] & 15) << 4 | packet[1] >> 4
        addresses = packet[8:24], packet[24:40]
    if protocol != 17:
        return None
    ports = struct.unpack_from("!HH", packet, size)
    if PORT not in ports:
        return None
    source, target = (
        (str(ip_address(address)), port) for address, port in zip(addresses, ports, strict=True)
    )
    return Sight(at, source, target, packet[size + 8 :], traffic, packet)


def one_by_one(lab: Lab) -> None:
    """From now on cables of *lab* carry datagrams: no bundles (GSO), which count as one."""
    for host, cable in ("server", "wan"), ("internet", "office"), ("router", "wan"):
        ip("-n", host, "link", "set", cable, "gso_max_segs", "1")


@contextmanager
def rules(lab: Lab, host: str, *lines: str, hook: str = "forward") -> Iterator[None]:
    """Have *host* treat packets that pass it as the nft rules *lines* say."""
    one_by_one(lab)
    name = f"fault{next(_numbers)}"
    table = f"table inet {name} {{\n chain way {{\n type filter hook {hook} priority -300;\n"
    table += "".join(f"  {line}\n" for line in lines) + " }\n}\n"
    lab.run(host, ["nft", "-f", "-"], input=table)
    try:
        yield
    finally:
        lab.run(host, ["nft", "delete", "table", "inet", name])


def losing(percent: int) -> tuple[str, str]:
    """Rules that lose so many of the tunnel's datagrams, each way."""
    drop = f"numgen random mod 100 < {percent} drop"
    return f"udp dport {PORT} {drop}", f"udp sport {PORT} {drop}"


def drops(office: Office) -> Counter[str]:
    """How many packets the server has dropped, by reason; what hosts say to all is left out."""
    found = re.findall(r"dropped (\d+) packets: (\S+)$", office.status(), re.MULTILINE)
    counted = Counter({reason: int(number) for number, reason in found})
    del counted["multicast-or-link-local"]
    return counted


def has_tool(*names: str) -> str:
    """Why a test that needs these programs cannot run; empty if it can."""
    missing = [name for name in names if not _found(name)]
    return f"missing: {shlex.join(missing)}" if missing else ""


def _found(name: str) -> bool:
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]
    return any(os.access(Path(folder) / name, os.X_OK) for folder in folders)
