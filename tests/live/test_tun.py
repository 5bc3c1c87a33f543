"""The TUN device in a real reactor, with real packets."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor

from pyvpn.net.netlink import set_link_up
from pyvpn.net.tun import Tun
from pyvpn.testing.namespace import Namespace
from pyvpn.tunnel.counters import Counters
from tests.live.figures import below

PATIENCE = 10.0


def echo_reply(packet: bytes) -> bytes:
    """Answer an IPv4 ping: the ends change places and the type becomes 0."""
    start = (packet[0] & 15) * 4
    checksum = int.from_bytes(packet[start + 2 : start + 4], "big") + 0x0800  # type 8 to 0
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    return b"".join(
        (
            packet[:12],
            packet[16:20],
            packet[12:16],
            packet[20:start],
            bytes(2),
            checksum.to_bytes(2, "big"),
            packet[start + 4 :],
        )
    )


class Pinged:
    """A TUN in a reactor of its own that answers every ping to 10.9.0.2 itself."""

    def __init__(self, reactor: EPollReactor | AsyncioSelectorReactor) -> None:
        self.reactor = reactor
        self.losses: list[str] = []
        self.counters = Counters()
        self.tun = Tun(reactor, "pyvpnt0", 1420, self.answer, self.losses.append, self.counters)

    def open(self) -> None:
        self.tun.open()
        set_link_up("pyvpnt0", 1420, ["10.9.0.1/24"])
        self.tun.start()

    def answer(self, packets: list[bytes]) -> None:
        pings = [p for p in packets if p[0] >> 4 == 4 and p[9] == 1 and p[20] == 8]
        self.tun.send_packets([echo_reply(p) for p in pings])

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "waited in vain"
            self.reactor.iterate(0.05)

    def ping(self, count: int = 3) -> int:
        """Ping ourselves through the TUN; return ping's exit status, 0 if all came back."""
        ping = subprocess.Popen(
            ["ping", "-c", str(count), "-i", "0.02", "-W", "1", "10.9.0.2"],
            stdout=subprocess.DEVNULL,
        )
        self.turn_until(lambda: ping.poll() is not None)
        return int(ping.returncode)


@pytest.fixture(params=[EPollReactor, AsyncioSelectorReactor])
def pinged(request: pytest.FixtureRequest, tun: None, namespace: Namespace) -> Iterator[Pinged]:
    """A TUN, open and read, in a namespace where we are; in each kind of reactor."""
    with namespace.inside():
        if request.param is AsyncioSelectorReactor:
            import asyncio

            loop = asyncio.new_event_loop()
            reactor = AsyncioSelectorReactor(loop)
        else:
            loop = None
            reactor = EPollReactor()
        made = Pinged(reactor)
        made.open()
        yield made
        made.tun.close()
        for reader in reactor.removeAll():  # the reactor's own waker
            reader.connectionLost(None)
        if loop is not None:
            loop.close()


def test_ping(pinged: Pinged) -> None:
    """Packets travel both ways through a real device."""
    assert pinged.ping() == 0


def test_deleted(pinged: Pinged) -> None:
    """A deleted device is noticed at once, told once, and its successor works."""
    before = time.monotonic()
    subprocess.run(["ip", "link", "delete", "pyvpnt0"], check=True)
    pinged.turn_until(lambda: bool(pinged.losses))
    below(time.monotonic() - before, 10)
    pinged.open()

    assert pinged.ping() == 0
    assert pinged.losses == ["the interface pyvpnt0 is gone (File descriptor in bad state)"]


def test_deleted_ten_times_under_load(pinged: Pinged) -> None:
    """Deletions amid traffic leave neither an open descriptor nor a spinning reactor."""
    gc.collect()  # of earlier tests' descriptors
    descriptors = len(os.listdir("/proc/self/fd"))
    load = subprocess.Popen(
        ["ping", "-i", "0.002", "-q", "10.9.0.2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for lost in range(1, 11):
        subprocess.run(["ip", "link", "delete", "pyvpnt0"], check=True)
        pinged.turn_until(lambda lost=lost: len(pinged.losses) == lost)
        pinged.open()
    load.kill()
    load.wait()
    pinged.turn_until(lambda: pinged.ping() == 0)

    assert len(os.listdir("/proc/self/fd")) == descriptors
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pinged.reactor.iterate(0.1)
    below(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used, 0.5)


def test_down_and_up(pinged: Pinged) -> None:
    """A device set down and up again goes on as if nothing had been."""
    for _ in range(3):
        subprocess.run(["ip", "link", "set", "pyvpnt0", "down"], check=True)
        pinged.tun.send_packets([bytes([0x45]) + bytes(19)])
        pinged.reactor.iterate(0.01)
        subprocess.run(["ip", "link", "set", "pyvpnt0", "up"], check=True)

        assert pinged.ping() == 0
    assert pinged.losses == []
    assert pinged.counters.dropped["tun-down"] == 3


@pytest.mark.parametrize("addresses", [["10.9.0.1/24"], ["10.9.0.1/24", "fd09::1/64"]])
def test_quiet(pinged: Pinged, addresses: list[str]) -> None:
    """A fresh device sends nothing of its own into the tunnel, IPv6's solicitations least."""
    seen: list[bytes] = []
    pinged.tun._received = seen.extend
    set_link_up("pyvpnt0", 1420, addresses)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pinged.reactor.iterate(0.1)

    # Reports of multicast membership go to the link's neighbours; the router counts them.
    assert [p.hex() for p in seen if p[0] >> 4 == 6 and p[6] == 58 and p[40] == 133] == []


def test_mtu(pinged: Pinged) -> None:
    """A packet of exactly the MTU passes; one larger is refused to its sender, by the kernel."""
    for size, status in (1392, 0), (1393, 1):
        ping = subprocess.Popen(
            ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), "10.9.0.2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pinged.turn_until(lambda ping=ping: ping.poll() is not None)

        assert ping.returncode == status
