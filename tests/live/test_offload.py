"""Offload payloads between two real kernels' TUNs: what one hands out, the other takes."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from itertools import groupby

import pytest

from pyvpn.crypto.keypair import Keypair
from pyvpn.crypto.noise import TransportKeys
from pyvpn.net.netlink import set_link_up
from pyvpn.net.tun_system import CHECKSUM, TCP_SEGMENTS, UDP_SEGMENTS, KernelTunSystem
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import Namespace, ip
from pyvpn.wire.datagram import DATA, OFFLOAD
from pyvpn.wire.ip import trimmed
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.rebuild import rebuild
from pyvpn.wire.segments import PLAIN, VNET_SIZE, cut
from tests.live.office import (
    OFFICE_ADDRESSES,
    SOAKING,
    Office,
    Web,
    fetch,
    in_url,
    wait_until,
)
from tests.wire.plain_segments import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    TCP,
    UDP,
    frame,
    ip4,
    ip6,
    is_sound,
    tcp,
    udp,
)
from tests.wire.test_segments import payload_of

PATIENCE = 60.0
MTU = 1420
SIZE = (64 if SOAKING else 8) << 20
SERVER_PORT = (51820).to_bytes(2, "big")
ALL = CHECKSUM | TCP_SEGMENTS | UDP_SEGMENTS


class End:
    """A TUN that hands out super-packets, in a namespace of its own, and its keys."""

    def __init__(self, namespace: Namespace, number: int) -> None:
        self.namespace = namespace
        self.addresses = f"10.9.0.{number}", f"fd09::{number}"
        mine, other = bytes([number]) * 32, bytes([3 - number]) * 32
        self.keypair = Keypair(number, TransportKeys(mine, other, 3 - number), number == 1, 0.0)
        self.system = KernelTunSystem()
        self.runs = self.supers = self.singles = 0
        with namespace.inside():
            self.fd = self.system.open()
            self.system.attach(self.fd, "pyvpno0", headers=True)
            try:
                self.system.offload(self.fd, ALL)
            except OSError:  # no UDP before Linux 6.2
                self.system.offload(self.fd, CHECKSUM | TCP_SEGMENTS)
            four, six = self.addresses
            set_link_up("pyvpno0", MTU, [f"{four}/24", f"{six}/64"])

    def socket(self, family: int, kind: int) -> socket.socket:
        with self.namespace.inside():
            made = socket.socket(family, kind)
        made.setblocking(False)
        return made

    def sealed(self) -> list[bytes]:
        """Return what is there, sealed."""
        frames: list[bytes] = []
        with suppress(BlockingIOError):
            for _ in range(16):
                frames.append(self.system.read(self.fd, 65_546))
        datagrams: list[bytes] = []
        items, unknown = outgoing(frames, MTU)
        assert unknown == 0
        for item in items:
            if isinstance(item, Run):
                self.runs += 1
                datagrams += self.keypair.seal_run(item)
            else:
                self.singles += len(item)
                datagrams += self.keypair.seal(item, MTU)
        assert all(len(each) <= MTU + 32 for each in datagrams)
        return datagrams

    def take(self, datagrams: list[bytes]) -> None:
        """Write what is in *datagrams*."""
        for kind, run in groupby(datagrams, lambda each: each[0]):
            if kind != OFFLOAD:
                for payload in self.keypair.receive_all(list(run)):
                    assert isinstance(payload, bytes)
                    packet = trimmed(payload)
                    assert packet is not None
                    self.write([PLAIN, packet])
                continue
            counters, payloads, refused = self.keypair.receive_run(list(run))
            made = rebuild(counters, payloads)
            assert (refused, made.refused) == ([], 0)
            for each in made.packets:
                self.supers += 1
                self.write(each.pieces)

    def write(self, pieces: list[bytes]) -> None:
        self.system.writev(self.fd, pieces)


class Line:
    """Two ends, and between them a line that loses what it is told to."""

    def __init__(self, one: End, other: End) -> None:
        self.ends = one, other
        self.loss = 0.0
        self.dice = random.Random(5)
        self.datagrams = 0

    def turn(self) -> None:
        ready, _, _ = select.select([end.fd for end in self.ends], [], [], 0.01)
        for end, other in self.ends, self.ends[::-1]:
            if end.fd in ready:
                datagrams = end.sealed()
                self.datagrams += len(datagrams)
                other.take([one for one in datagrams if self.dice.random() >= self.loss])

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "waited in vain"
            self.turn()


@pytest.fixture
def line(tun: None, make_namespace: Callable[[], Namespace]) -> Iterator[Line]:
    """Two namespaces with a TUN each, and the line between them."""
    ends = End(make_namespace(), 1), End(make_namespace(), 2)
    yield Line(*ends)
    for end in ends:
        os.close(end.fd)


@pytest.mark.parametrize("loss", [0.0, 0.001, 0.01])
@pytest.mark.parametrize("version", [4, 6])
def test_tcp(line: Line, version: int, loss: float) -> None:
    """A TCP stream arrives as it was sent, in super-packets, whatever is lost on the way."""
    one, other = line.ends
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    place = version == 6
    door = other.socket(family, socket.SOCK_STREAM)
    door.bind((other.addresses[place], 7))
    door.listen()
    sender = one.socket(family, socket.SOCK_STREAM)
    with suppress(BlockingIOError):
        sender.connect((other.addresses[place], 7))
    line.turn_until(lambda: bool(select.select([door], [], [], 0)[0]))
    taker, _ = door.accept()
    taker.setblocking(False)
    line.turn_until(lambda: bool(select.select([], [sender], [], 0)[1]))
    data = random.Random(version).randbytes(SIZE)
    line.loss = loss
    sent, got = 0, bytearray()

    def done() -> bool:
        nonlocal sent
        with suppress(BlockingIOError):
            while sent < SIZE:
                sent += sender.send(data[sent : sent + 262_144])
        with suppress(BlockingIOError):
            while piece := taker.recv(1 << 20):
                got.extend(piece)
        return len(got) >= SIZE

    line.turn_until(done)
    for each in sender, taker, door:
        each.close()

    assert sha256(got).digest() == sha256(data).digest()
    assert one.runs > 20, "nothing was offloaded"
    assert other.supers >= one.runs, "nothing was rebuilt"
    # Most of it crossed in runs; and not in packets larger than the line takes, see sealed().
    assert line.datagrams > SIZE // MTU
    assert one.runs * 5 < line.datagrams


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams(line: Line, version: int) -> None:
    """Datagrams are gathered, and each arrives as it was, none twice, in order."""
    one, other = line.ends
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    place = version == 6
    taker = other.socket(family, socket.SOCK_DGRAM)
    taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    taker.bind((other.addresses[place], 7))
    sender = one.socket(family, socket.SOCK_DGRAM)
    sender.connect((other.addresses[place], 7))
    dice = random.Random(version)
    expected: list[bytes] = []
    got: list[bytes] = []

    def collect() -> bool:
        with suppress(BlockingIOError):
            while True:
                got.append(taker.recv(65_536))
        return len(got) >= len(expected)

    for number in range(40):
        size = dice.choice((1, 17, 200, 1300, 1372))
        burst = [payload_of(size, number << 8 | n) for n in range(dice.randrange(1, 16))]
        burst.append(payload_of(dice.randrange(size + 1), number))
        for each in burst:
            sender.send(each)
        expected += burst
        line.turn_until(collect)
    sender.close()
    taker.close()

    assert got == expected
    assert one.runs >= 30, "nothing was gathered"


def lost(whole: bytes, *places: int) -> list[list[bytes]]:
    """Return what is written of *whole* when the datagrams at *places* are lost."""
    (run,) = outgoing([whole], 0).items
    assert isinstance(run, Run)
    payloads = dict(enumerate(run.plaintexts(0)))
    for place in places:
        del payloads[place]
    return [each.pieces for each in rebuild(list(payloads), list(payloads.values())).packets]


def test_forwarded(tun: None, namespace: Namespace) -> None:
    """What we rebuild the kernel forwards as the very packets that we would cut ourselves.

    The other TUN takes no super-packets, so that the kernel has to cut and to sum them.
    """
    system = KernelTunSystem()
    with namespace.inside():
        fds = []
        for name in "pyvpnin0", "pyvpnout0":
            fd = system.open()
            system.attach(fd, name, headers=True)
            fds.append(fd)
        enter, leave = fds
        for name, addresses in (
            ("pyvpnin0", ["10.1.0.1/24", "fd01::1/64"]),
            ("pyvpnout0", ["10.2.0.1/24", "fd02::1/64"]),
        ):
            set_link_up(name, 9100, addresses)
        for each in "ipv4/ip_forward", "ipv6/conf/all/forwarding":
            with open(f"/proc/sys/net/{each}", "w") as setting:
                setting.write("1")
        for name, number in ("pyvpnin0", 1), ("pyvpnout0", 200):
            ip("route", "add", f"10.0.0.{number}/32", "dev", name)
            ip("-6", "route", "add", f"fd00::{number:x}/128", "dev", name)
    try:
        check_forwarded(system, enter, leave)
    finally:
        for fd in fds:
            os.close(fd)


def check_forwarded(system: KernelTunSystem, enter: int, leave: int) -> None:
    wholes = []
    for flags in 0, PSH, FIN | PSH, ECE | CWR, CWR | PSH | FIN:
        content = tcp(payload_of(9500, 5), seq=2**32 - 3000, flags=ACK | flags, options=bytes(12))
        wholes += [frame(ip4(TCP, content, identity=65_530), 1000), frame(ip6(TCP, content), 1000)]
        wholes += [frame(ip4(TCP, content, fragment=0, tos=2), 1000)]
    for size in 1000, 8000:
        content = udp(payload_of(9500, 6))
        wholes += [frame(ip4(UDP, content), size), frame(ip6(UDP, content), size)]
    for whole in wholes:
        for places in (), (0,), (1,):
            for pieces in lost(whole, *places):
                expected = [hop(packet) for packet in cut(b"".join(pieces))]
                system.writev(enter, pieces)
                got = read_all(system, leave, len(expected))
                assert all(is_sound(packet) for packet in expected)
                assert got == expected


def read_all(system: KernelTunSystem, fd: int, count: int) -> list[bytes]:
    """Return the next *count* packets of TCP and UDP, complete."""
    packets: list[bytes] = []
    while len(packets) < count:
        assert select.select([fd], [], [], 2.0)[0], f"{len(packets)} of {count} came"
        got = system.read(fd, 65_546)
        assert got.startswith(PLAIN)
        packet = got[VNET_SIZE:]
        if (packet[9] if packet[0] >> 4 == 4 else packet[6]) in (TCP, UDP):
            packets.append(packet)
    return packets


def hop(packet: bytes) -> bytes:
    """Return *packet* as it is after one router."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    check = int.from_bytes(packet[10:12], "big") + 0x100  # one less in the upper half
    check = (check & 0xFFFF) + (check >> 16)
    return (
        packet[:8] + bytes([packet[8] - 1]) + packet[9:10] + check.to_bytes(2, "big") + packet[12:]
    )


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


def outer_kinds(sniffer: socket.socket) -> Counter[int]:
    """Return how many messages of each type came in from the server by UDP, as far as seen."""
    sniffer.setblocking(False)
    kinds: Counter[int] = Counter()
    with suppress(BlockingIOError):
        while packet := sniffer.recv(65_536):
            if packet[9] == UDP and packet[20:22] == SERVER_PORT:
                kinds[packet[28]] += 1
    return kinds


def test_ends_of_ours(office: Office, lab: Lab, web: Web) -> None:
    """A client and a server of ours use it, both ways, and what is downloaded is right."""
    digest = web.put("uncut", 16)
    office.open()
    client = office.join()
    wait_until(lambda: "packets go by UDP" in client.log.read_text())
    assert fetch(lab, "laptop", f"http://{OFFICE_ADDRESSES[0]}/uncut") == digest  # both see it
    with lab.hosts["laptop"].inside():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        sniffer.bind(("eth0", 3))
    with sniffer:
        for address in OFFICE_ADDRESSES:
            assert fetch(lab, "laptop", f"http://{in_url(address)}/uncut") == digest
        kinds = outer_kinds(sniffer)
    assert kinds[OFFLOAD] > kinds[DATA] > 0
