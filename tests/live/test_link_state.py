"""The watch over a TUN's interface: changed, renamed, moved and deleted by others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from twisted.internet.epollreactor import EPollReactor

from pyvpn.net.link_state import POLL_SECONDS, LinkWatch
from pyvpn.net.rtnetlink import Link
from pyvpn.net.tun import Tun
from pyvpn.testing.namespace import Namespace, ip
from pyvpn.tunnel.counters import Counters

PATIENCE = 10.0
AT_ONCE = POLL_SECONDS / 2  # quicker than by looking every second


class Watched:
    """A TUN, its watch, and a reactor of their own, in a namespace."""

    def __init__(self, home: Namespace) -> None:
        self.home = home
        self.reactor = EPollReactor()
        self.told: list[Link] = []
        self.lost: list[str] = []
        self.packets: list[bytes] = []
        self.tun = Tun(
            self.reactor, "wg0", None, self.packets.extend, self.lost.append, Counters()
        )
        self.watch = LinkWatch(self.reactor, self.tun.fileno, self.told.append)
        with home.inside():
            self.tun.open()
            self.tun.start()
            assert self.watch.start() == Link("wg0", 1500, False)

    def until(self, wanted: Link, patience: float = AT_ONCE) -> None:
        """Turn until that is what the interface is said to be."""
        began = time.monotonic()
        while self.watch.now != wanted:
            assert time.monotonic() < began + PATIENCE, f"{self.watch.now}, not {wanted}"
            self.reactor.iterate(0.05)
        assert self.told[-1] == wanted
        assert time.monotonic() < began + patience, "not heard of, only found"

    def close(self) -> None:
        self.watch.stop()
        self.tun.close()
        for reader in self.reactor.removeAll():  # the reactor's own waker
            reader.connectionLost(None)


@pytest.fixture
def watched(tun: None, namespace: Namespace) -> Iterator[Watched]:
    made = Watched(namespace)
    yield made
    made.close()


def test_set_and_renamed(watched: Watched) -> None:
    """MTU, up, down and the name are told at once, each as it changes."""
    name = watched.home.name
    ip("-n", name, "link", "set", "wg0", "up")
    watched.until(Link("wg0", 1500, True))
    ip("-n", name, "link", "set", "wg0", "mtu", "1280")
    watched.until(Link("wg0", 1280, True))
    ip("-n", name, "link", "set", "wg0", "down")
    watched.until(Link("wg0", 1280, False))
    ip("-n", name, "link", "set", "wg0", "name", "other")
    watched.until(Link("other", 1280, False))
    ip("-n", name, "link", "set", "other", "mtu", "9000", "up")
    watched.until(Link("other", 9000, True))
    odd = "caf\udce9"  # a name is bytes, and need not be UTF-8
    ip("-n", name, "link", "set", "other", "down", "name", odd)
    watched.until(Link(odd, 9000, False))


def test_other_interfaces(watched: Watched) -> None:
    """What happens to other interfaces is none of its business."""
    name = watched.home.name
    ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
    ip("-n", name, "link", "set", "one", "up")
    for _ in range(10):
        watched.reactor.iterate(0.01)

    assert watched.told == []


def test_moved(watched: Watched, make_namespace: Callable[[], Namespace]) -> None:
    """It is followed from namespace to namespace, by any name, and home again."""
    places = [watched.home, make_namespace(), make_namespace(), make_namespace(), watched.home]
    for number, (there, next_) in enumerate(pairwise(places)):
        name = f"wg{number}"
        ip("-n", there.name, "link", "set", name, "netns", next_.name)
        ip("-n", next_.name, "link", "set", name, "mtu", str(1499 - number), "up")
        watched.until(Link(name, 1499 - number, True), PATIENCE)
        ip("-n", next_.name, "link", "set", name, "mtu", "1280")
        watched.until(Link(name, 1280, True))
        ip("-n", next_.name, "link", "set", name, "mtu", str(1499 - number), "down")
        ip("-n", next_.name, "link", "set", name, "name", f"wg{number + 1}")
        watched.until(Link(f"wg{number + 1}", 1499 - number, False))
    assert watched.lost == []


def test_moved_and_replaced(watched: Watched, make_namespace: Callable[[], Namespace]) -> None:
    """Another interface that takes its name after it has left is not mistaken for it."""
    away = make_namespace()
    ip("-n", watched.home.name, "link", "set", "wg0", "netns", away.name)
    ip("-n", away.name, "link", "set", "wg0", "mtu", "1400", "up")
    ip("-n", watched.home.name, script="link add wg0 mtu 1300 type veth peer name two")
    watched.until(Link("wg0", 1400, True), PATIENCE)
    ip("-n", watched.home.name, "link", "set", "wg0", "mtu", "1290", "up")
    for _ in range(10):
        watched.reactor.iterate(0.01)

    assert watched.told == [Link("wg0", 1400, True)]


def test_packets_where_it_is(watched: Watched, make_namespace: Callable[[], Namespace]) -> None:
    """A packet of any size comes whole out of an interface that was moved and set to its MTU."""
    away = make_namespace()
    ip("-n", watched.home.name, "link", "set", "wg0", "netns", away.name)
    ip("-n", away.name, "link", "set", "wg0", "mtu", "65535", "up")
    ip("-n", away.name, "address", "add", "10.9.0.1/24", "dev", "wg0")
    watched.until(Link("wg0", 65535, True), PATIENCE)
    away.run(["ping", "-c", "1", "-W", "1", "-s", "65507", "10.9.0.2"], check=False)
    began = time.monotonic()
    while not any(packet[0] >> 4 == 4 for packet in watched.packets):
        assert time.monotonic() < began + PATIENCE
        watched.reactor.iterate(0.05)

    assert 65_535 in {len(packet) for packet in watched.packets}


@pytest.mark.parametrize("moved", [False, True])
def test_deleted(watched: Watched, make_namespace: Callable[[], Namespace], moved: bool) -> None:
    """A deleted interface is the TUN's to report; the watch just tells no more."""
    name = watched.home.name
    if moved:
        name = make_namespace().name
        ip("-n", watched.home.name, "link", "set", "wg0", "netns", name)
    ip("-n", name, "link", "set", "wg0", "mtu", "1400")
    watched.until(Link("wg0", 1400, False), PATIENCE)

    ip("-n", name, "link", "delete", "wg0")
    began = time.monotonic()
    while not watched.lost or time.monotonic() < began + 1.2:  # one look more
        assert time.monotonic() < began + PATIENCE
        watched.reactor.iterate(0.05)

    assert watched.told == [Link("wg0", 1400, False)]


def test_namespace_deleted(watched: Watched, tmp_path: Path) -> None:
    """A namespace that is deleted takes the interface with it: the watch keeps none alive."""
    away = Namespace("deleted")
    ip("-n", watched.home.name, "link", "set", "wg0", "netns", away.name)
    ip("-n", away.name, "link", "set", "wg0", "mtu", "1400", "up")
    watched.until(Link("wg0", 1400, True), PATIENCE)
    away.close()

    began = time.monotonic()
    while not watched.lost:
        assert time.monotonic() < began + PATIENCE, "kept alive"
        watched.reactor.iterate(0.05)


def test_nothing_left_open(watched: Watched, make_namespace: Callable[[], Namespace]) -> None:
    """Moves leave no descriptors behind."""
    away = make_namespace()
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        ip("-n", watched.home.name, "link", "set", "wg0", "netns", away.name)
        ip("-n", away.name, "link", "set", "wg0", "mtu", str(1400 + number))
        watched.until(Link("wg0", 1400 + number, False), PATIENCE)
        ip("-n", away.name, "link", "set", "wg0", "netns", watched.home.name)
        ip("-n", watched.home.name, "link", "set", "wg0", "mtu", str(1300 + number))
        watched.until(Link("wg0", 1300 + number, False), PATIENCE)

    assert len(os.listdir("/proc/self/fd")) == descriptors


UNPRIVILEGED = """
import sys
from twisted.internet.epollreactor import EPollReactor
from pyvpn.net.link_state import LinkWatch
from pyvpn.net.tun import Tun
from pyvpn.tunnel.counters import Counters

reactor = EPollReactor()
tun = Tun(reactor, "wg0", None, print, print, Counters())
tun.open()
watch = LinkWatch(reactor, tun.fileno, lambda link: print(*link, flush=True))
print(*watch.start(), flush=True)
while True:
    reactor.iterate(0.1)
"""


def test_with_the_rights_of_a_unit(
    tun: None, make_namespace: Callable[[], Namespace], tmp_path: Path
) -> None:
    """CAP_NET_ADMIN alone, which the units grant, is enough to follow a moved interface."""
    home, away = make_namespace(), make_namespace()
    log = tmp_path / "log"
    rights = [
        *("setpriv", "--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"),
        *("--bounding-set", "-all,+net_admin", "--securebits", "+noroot"),
    ]
    running = home.start([*rights, sys.executable, "-c", UNPRIVILEGED], log)
    try:
        for wanted, command in (
            ("wg0 1500 False", ""),
            ("wg0 1500 True", f"-n {home.name} link set wg0 up"),
            ("wg0 1500 False", f"-n {home.name} link set wg0 netns {away.name}"),
            ("wg0 1333 False", f"-n {away.name} link set wg0 mtu 1333"),
            ("wg0 1333 True", f"-n {away.name} link set wg0 up"),
        ):
            seen = log.read_text().count("\n") if log.exists() else 0
            if command:
                ip(*command.split())
            began = time.monotonic()
            while not (log.exists() and log.read_text().count("\n") > seen):
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < began + PATIENCE, wanted
                time.sleep(0.05)
            assert log.read_text().splitlines()[-1] == wanted
    finally:
        running.kill()
        running.wait()
