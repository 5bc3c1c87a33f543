"""The UDP port in a real reactor, with real networks."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path as File

import pytest
from zope.interface import implementer

from pyvpn.net.udp_sockets import IUdpSystem, KernelUdpSystem
from pyvpn.testing.namespace import Namespace
from pyvpn.wire.datagram import Path
from tests.live.figures import below
from tests.live.udp_cable import HERE, INITIATION, THERE, Cabled, Heard, data, packed


@pytest.fixture
def cabled(make_namespace: Callable[[], Namespace]) -> Iterator[Cabled]:
    made = Cabled(make_namespace)
    yield made
    made.close()


@implementer(IUdpSystem)
class NotSharing(KernelUdpSystem):
    """A kernel that knows no SO_REUSEPORT."""

    @staticmethod
    def socket(family: int) -> socket.socket:
        class Alone(socket.socket):
            def setsockopt(self, level: int, option: int, *value: object) -> None:
                if (level, option) == (socket.SOL_SOCKET, socket.SO_REUSEPORT):
                    raise OSError(92, "Protocol not available")
                super().setsockopt(level, option, *value)

        made = Alone(family, socket.SOCK_DGRAM)
        made.setblocking(False)
        return made


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("system", "arriving"), [(None, 10), (NotSharing(), 0)])
def test_flood_of_initiations(
    cabled: Cabled, place: int, system: IUdpSystem | None, arriving: int
) -> None:
    """More initiations than a buffer holds leave room for data; without the split they do not."""
    cabled.open(cabled.make(system))
    peer = cabled.peer(THERE["left"][place])
    for _ in range(40_000):
        peer.socket.sendto(INITIATION, (HERE["left"][place], cabled.port))
    for number in range(10):
        peer.send(data(number), HERE["left"][place], cabled.port)

    cabled.turn_until(lambda: len(cabled.taken()) > 100)
    time.sleep(0.1)
    for _ in range(200):
        cabled.reactor.iterate(0)

    received = cabled.taken()
    assert [d for d in received if d[0] == 4] == [data(n) for n in range(arriving)]
    assert 100 < received.count(INITIATION) < 39_000


BIND = """
import socket, sys
with socket.socket(int(sys.argv[1]), socket.SOCK_DGRAM) as other:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        other.bind((sys.argv[2], int(sys.argv[3])))
    except OSError as error:
        print(error.strerror)
    else:
        print("bound")
"""


@pytest.mark.parametrize(
    ("family", "host"),
    [(2, ""), (2, "10.0.0.1"), (10, "::"), (10, "fd00:a::1")],
)
def test_not_shared_with_another_process(cabled: Cabled, family: int, host: str) -> None:
    """A second process of the same user cannot get at the port, however ready to share it."""
    cabled.open()

    tried = cabled.here.run([sys.executable, "-c", BIND, str(family), host, str(cabled.port)])

    assert tried.stdout == "Address already in use\n"


@pytest.mark.parametrize("place", [0, 1])
def test_tos_on_the_wire(cabled: Cabled, place: int) -> None:
    """DSCP and ECN go out as they were given; the ECN of what comes in is told."""
    cabled.open()
    peer = cabled.peer(THERE["left"][place])
    for tos in 0x88, 0x01, 0x02, 0x03, 0xFF, 0x00:
        cabled.udp.send_datagrams([data(tos)], peer.path(), tos)
        assert peer.hear() == Heard(data(tos), HERE["left"][place], tos)

        cabled.protocol.runs.clear()
        peer.send(data(1), HERE["left"][place], cabled.port, tos)
        cabled.turn_until(lambda: cabled.protocol.runs)
        assert cabled.protocol.runs[0][2] == tos & 3


def test_larger_than_the_path(cabled: Cabled) -> None:
    """1600 bytes over an MTU of 1500 arrive, as fragments, and nothing forbids to cut them."""
    cabled.open()
    with cabled.there.inside():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        tap.bind(("left", 0x0800))
        tap.settimeout(5)
    with tap:
        for place in 0, 1:
            peer = cabled.peer(THERE["left"][place])
            assert cabled.udp.send_datagrams([data(1, 1600)], peer.path(), 0) == 1
            assert peer.hear().datagram == data(1, 1600)
            peer.send(data(2, 1600), HERE["left"][place], cabled.port)
            cabled.turn_until(lambda: data(2, 1600) in cabled.taken())
            cabled.protocol.runs.clear()
        from_here = []
        while len(from_here) < 2:
            packet = tap.recv(2000)
            if packet[9] == 17 and packet[12:16] == packed(HERE["left"][0]):
                from_here.append(int.from_bytes(packet[6:8], "big"))

    do_not, more, place_of_fragment = 0x4000, 0x2000, 0x1FFF
    assert [flags & do_not for flags in from_here] == [0, 0]
    assert [flags & more for flags in from_here] == [more, 0]
    assert [bool(flags & place_of_fragment) for flags in from_here] == [False, True]


def test_path_that_shrinks(cabled: Cabled) -> None:
    """When a router reports a smaller MTU further on, the same datagrams still arrive."""
    cabled.open()
    peer = cabled.peer(THERE["left"][0])
    cabled.ip(f"route add {THERE['left'][0]} dev left mtu 1280")

    assert cabled.udp.send_datagrams([data(1, 1452)], peer.path(), 0) == 1

    assert peer.hear().datagram == data(1, 1452)


def test_link_down_and_up(cabled: Cabled) -> None:
    """While the link is down datagrams are counted; after it everything works again."""
    cabled.open()
    peer = cabled.peer(THERE["left"][0])
    path = cabled.ask(peer, HERE["left"][0])
    for _ in range(3):
        cabled.ip("link set left down")

        assert cabled.udp.send_datagrams([data(1), data(2)], path, 0) == 0

        cabled.ip("link set left up")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # until the neighbour is known again
            cabled.udp.send_datagrams([data(3)], path, 0)
            if not peer.hears_nothing():
                break
        assert cabled.ask(peer, HERE["left"][0]) == path
        assert cabled.answer(path, peer) == HERE["left"][0]
    assert cabled.dropped()["udp-network-unreachable"] == 6


@pytest.mark.parametrize("place", [0, 1])
def test_firewall_of_our_own(cabled: Cabled, place: int) -> None:
    """What our own firewall refuses is counted, and everything works when it is gone."""
    cabled.open()
    peer = cabled.peer(THERE["left"][place])
    rules = (
        "table inet f { chain out { type filter hook output priority 0; udp dport 4000 drop; }; }"
    )
    with cabled.there.inside():
        refused = Path(peer.path().host, 4000)
    cabled.here.run(["nft", rules])

    assert cabled.udp.send_datagrams([data(1), data(2)], refused, 0) == 0
    assert cabled.udp.send_datagrams([data(3)], peer.path(), 0) == 1

    assert cabled.dropped() == {"udp-forbidden": 2}
    assert peer.hear().datagram == data(3)
    cabled.ask(peer, HERE["left"][place])
    cabled.here.run(["nft", "flush", "ruleset"])
    assert cabled.udp.send_datagrams([data(4)], refused, 0) == 1


def test_nobody_there(cabled: Cabled) -> None:
    """A peer whose port is closed, and says so, harms nobody else."""
    cabled.open()
    peer = cabled.peer(THERE["left"][0])
    closed = peer.path()._replace(port=9)
    for _ in range(20):
        cabled.udp.send_datagrams([data(1)], closed, 0)
        cabled.turn()

    assert cabled.answer(cabled.ask(peer, HERE["left"][0]), peer) == HERE["left"][0]
    assert cabled.dropped() == {}


@pytest.mark.parametrize("place", [0, 1])
def test_mark(cabled: Cabled, place: int) -> None:
    """What is sent carries the mark, from the beginning, after a change, after a move."""
    rules = (
        "table inet f { chain out { type filter hook output priority 0; udp dport 4000 jump m; }; "
        "chain m { meta mark 0x7 accept; meta mark 0xffff0001 accept; drop; }; }"
    )
    cabled.here.run(["nft", rules])
    path = cabled.peer(THERE["left"][place]).path()._replace(port=4000)
    cabled.open(cabled.make(mark=7))

    taken = [cabled.udp.send_datagrams([data(1)], path, 0)]
    for mark in 8, 0xFFFF_0001, 0, 7:
        cabled.udp.set_mark(mark)
        taken.append(cabled.udp.send_datagrams([data(1)], path, 0))
    with cabled.here.inside():
        cabled.udp.rebind(0)
    taken.append(cabled.udp.send_datagrams([data(1)], path, 0))

    assert taken == [1, 0, 1, 0, 1, 1]


def test_without_version_6(cabled: Cabled) -> None:
    """A host with IPv6 switched off has its port all the same."""
    with cabled.here.inside():
        for name in "all", "default", "lo", "left", "right":
            File(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    cabled.open()
    peer = cabled.peer(THERE["left"][0])

    assert cabled.answer(cabled.ask(peer, HERE["left"][0]), peer) == HERE["left"][0]
    assert cabled.udp.send_datagrams([data(1)], Path(packed("fd00:a::2"), 7), 0) == 0
    assert cabled.dropped() == {"udp-network-unreachable": 1}


def test_shot_by_an_operator(cabled: Cabled) -> None:
    """Sockets ended from outside (``ss -K``) are made anew, and still sort and guard."""
    cabled.open()
    peer = cabled.peer(THERE["left"][0])
    for _ in range(3):
        shot = cabled.here.run(["ss", "-K", "-u", "-a", f"sport = :{cabled.port}"])
        if str(cabled.port) not in shot.stdout:
            pytest.skip("this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)")
        with cabled.here.inside():  # where the process would be
            cabled.turn()

        assert cabled.answer(cabled.ask(peer, HERE["left"][0]), peer) == HERE["left"][0]
        tried = cabled.here.run([sys.executable, "-c", BIND, "2", "", str(cabled.port)])
        assert tried.stdout == "Address already in use\n"


def test_moved_under_traffic(cabled: Cabled) -> None:
    """A port that moves while datagrams come loses those to the old number, and nothing else."""
    cabled.open()
    peer = cabled.peer(THERE["left"][0])
    for number in range(20):
        old = cabled.port
        peer.send(data(number), HERE["left"][0], old)
        with cabled.here.inside():
            cabled.port = cabled.udp.rebind(0)

        assert cabled.port != old
        assert cabled.answer(cabled.ask(peer, HERE["left"][0]), peer) == HERE["left"][0]


def test_idle(cabled: Cabled) -> None:
    """A port at which nothing happens costs nothing."""
    cabled.open()
    cabled.turn()
    before = time.process_time()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        cabled.reactor.iterate(0.1)

    below(time.process_time() - before, 0.1)
