"""From which address of ours datagrams leave: sticky, but not too sticky; in real networks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path as File

import pytest

from pyvpn.testing.namespace import Namespace, ip
from pyvpn.wire.datagram import Path
from tests.live.udp_cable import HERE, THERE, Cabled, data, packed


@pytest.fixture
def cabled(make_namespace: Callable[[], Namespace]) -> Iterator[Cabled]:
    made = Cabled(make_namespace)
    yield made
    made.close()


@pytest.mark.parametrize("place", [0, 1])
def test_answer_from_where_the_question_came_to(cabled: Cabled, place: int) -> None:
    """Of two addresses on one interface, the one that was asked answers; each, and in turns."""
    second = ("10.0.0.100", "fd00:a::100")[place]
    cabled.ip(f"address add {second}/{(24, 64)[place]} dev left")
    cabled.open()
    peer = cabled.peer(THERE["left"][place])

    for host in (HERE["left"][place], second) * 2:
        path = cabled.ask(peer, host)

        assert path.local == packed(host)
        assert path.interface == cabled.index("left")
        assert cabled.answer(path, peer) == host
    assert cabled.dropped() == {}


@pytest.mark.parametrize("place", [0, 1])
def test_address_removed(cabled: Cabled, place: int) -> None:
    """When our address is removed the next datagram leaves from another, and none is lost."""
    first, second = HERE["left"][place], ("10.0.0.100", "fd00:a::100")[place]
    length = (24, 64)[place]
    with cabled.here.inside():
        File("/proc/sys/net/ipv4/conf/left/promote_secondaries").write_text("1")
    cabled.open()
    peer = cabled.peer(THERE["left"][place])
    path = cabled.ask(peer, first)
    assert cabled.answer(path, peer) == first
    cabled.ip(f"address add {second}/{length} dev left")

    cabled.ip(f"address delete {first}/{length} dev left")

    assert cabled.answer(path, peer) == second
    assert cabled.answer(path, peer) == second
    assert cabled.dropped() == {"udp-source-lost": 1}
    cabled.ip(f"address add {first}/{length} dev left")
    assert cabled.answer(path, peer) == first


@pytest.mark.parametrize("place", [0, 1])
def test_address_removed_in_this_moment(cabled: Cabled, place: int) -> None:
    """The same, when the kernel's news of it have not been read yet."""
    first, second = HERE["left"][place], ("10.0.0.100", "fd00:a::100")[place]
    length = (24, 64)[place]
    cabled.open()
    peer = cabled.peer(THERE["left"][place])
    path = cabled.ask(peer, first)
    assert cabled.answer(path, peer) == first
    for command in "delete", "add":
        host = first if command == "delete" else second
        ip("-n", cabled.here.name, *f"address {command} {host}/{length} dev left".split())

    assert cabled.answer(path, peer) == second
    assert cabled.dropped() == {"udp-source-lost": 1}


@pytest.mark.parametrize("place", [0, 1])
def test_route_moves_to_another_interface(cabled: Cabled, place: int) -> None:
    """Sticky, but not too sticky: when a better way comes up, its address is the source."""
    network, far = (("10.9.0.0/24", "10.9.0.9"), ("fd00:9::/64", "fd00:9::9"))[place]
    by_left = f"{network} via {THERE['left'][place]} dev left metric 20"
    by_right = f"{network} via {THERE['right'][place]} dev right metric 10"
    ip("-n", cabled.there.name, "address", "add", far, "dev", "lo")
    cabled.ip(f"route add {by_left}")
    cabled.open()
    peer = cabled.peer(far)
    path = cabled.ask(peer, HERE["left"][place])
    assert cabled.answer(path, peer) == HERE["left"][place]

    cabled.ip(f"route add {by_right}")

    assert cabled.answer(path, peer) == HERE["right"][place]
    assert cabled.dropped() == {"udp-source-lost": 1}
    cabled.ip(f"route delete {by_right}")
    assert cabled.answer(path, peer) == HERE["left"][place]


@pytest.mark.parametrize("place", [0, 1])
def test_in_by_one_interface_and_out_by_another(cabled: Cabled, place: int) -> None:
    """Where the routes lead back by the other cable, the asked address answers all the same."""
    far, length = ("10.9.0.9", "fd00:9::9")[place], (32, 128)[place]
    ip("-n", cabled.there.name, "address", "add", far, "dev", "lo")
    cabled.ip(f"route add {far} via {THERE['right'][place]} dev right")
    cabled.open()
    peer = cabled.peer(far)
    path = cabled.ask(peer, HERE["left"][place])
    assert path.interface == cabled.index("left")
    for number in range(3):
        assert cabled.answer(path, peer) == HERE["left"][place]
        assert cabled.answer(path, peer) == HERE["left"][place]

        other = ("10.8.0.", "fd00:8::")[place] + str(number)
        cabled.ip(f"route add {other}/{length} dev left")  # news, but of somebody else

    assert cabled.answer(path, peer) == HERE["left"][place]
    assert cabled.dropped() == {}


def test_link_local(cabled: Cabled) -> None:
    """Two peers of one link-local address, on two cables, are told apart and answered."""
    for name in "left", "right":
        for namespace, end in (cabled.here, 1), (cabled.there, 2):
            ip("-n", namespace.name, *f"address add fe80::{end}/64 dev {name}".split())
    cabled.open()
    for name in "left", "right":
        with cabled.there.inside():
            number = socket.if_nametoindex(name)
            peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            peer.bind(("fe80::2", 4000, 0, number))
            peer.settimeout(5)
        with peer:
            peer.sendto(data(7), ("fe80::1", cabled.port, 0, number))
            cabled.protocol.runs.clear()
            cabled.turn_until(lambda: cabled.protocol.runs)
            [(_, path, _)] = cabled.protocol.runs

            scope = cabled.index(name)
            assert path == Path(packed("fe80::2"), 4000, scope, packed("fe80::1"), scope)
            assert cabled.udp.send_datagrams([data(8)], path, 0) == 1
            received, address = peer.recvfrom(2000)
            assert (received, address[0]) == (data(8), "fe80::1")


def test_mark_chooses_the_route(cabled: Cabled) -> None:
    """A rule by the mark leads our datagrams another way than everybody else's."""
    far = "10.9.0.9"
    ip("-n", cabled.there.name, "address", "add", far, "dev", "lo")
    cabled.ip(f"route add {far} via {THERE['left'][0]} dev left")
    cabled.ip(f"route add {far} via {THERE['right'][0]} dev right table 77")
    cabled.ip("rule add fwmark 7 table 77")
    cabled.open()
    peer = cabled.peer(far)

    assert cabled.answer(peer.path(), peer) == HERE["left"][0]
    cabled.udp.set_mark(7)
    assert cabled.answer(peer.path(), peer) == HERE["right"][0]
