"""WireGuard's own network test, as far as it says something about a program with a TUN.

The claims are those of ``tests/netns.sh`` in the kernel's WireGuard; the topology is drawn in
:class:`tests.live.wgnet.Three`.  Left out: what only the kernel can (route MTUs and marks of a
packet inside, its own list of objects), and a routing loop between namespaces, of which that test
itself expects no more than a warning.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvpn.testing.namespace import Namespace, wait_for_line
from tests.live.wgnet import GO, OURS, Three, key_pair, wait_until

ONE, TWO, ONE6, TWO6 = "192.168.241.1", "192.168.241.2", "fd00::1", "fd00::2"
BIG_MTU = 34816 - 1500 + 1420


@pytest.fixture(params=[(OURS, OURS), (OURS, GO), (GO, OURS)], ids=["ours", "ours-go", "go-ours"])
def three(
    request: pytest.FixtureRequest,
    tun: None,
    make_namespace: Callable[[], Namespace],
    tmp_path: Path,
) -> Iterator[Three]:
    """Two configured interfaces that do not know where the other is; one at least is ours."""
    with Three(tmp_path, make_namespace, request.param) as built:
        built.configure()
        yield built


@pytest.fixture
def ours(tun: None, make_namespace: Callable[[], Namespace], tmp_path: Path) -> Iterator[Three]:
    """The same, both ours."""
    with Three(tmp_path, make_namespace) as built:
        built.configure()
        yield built


def pings(three: Three, count: int = 10) -> None:
    """Both reach each other by both IP versions."""
    three.two.ping(ONE, count=count)
    three.one.ping(TWO, count=count)
    three.two.ping(ONE6, count=count)
    three.one.ping(TWO6, count=count)


def test_counters(three: Three) -> None:
    """Ten pings are counted to the byte at both ends, and the time of the handshake is noted."""
    three.meet()
    three.two.ping(ONE, count=10)
    # Ten packets of 84 bytes, padded to 96 and sealed: 1280. The answer to the handshake, 92. And
    # from who began it 148, or 32 more if the confirmation was not the first ping.
    received, sent = three.two.transfer()
    assert (received, sent in (1428, 1460)) == (1372, True)
    received, sent = three.one.transfer()
    assert (sent, received in (1428, 1460)) == (1372, True)
    ((_, at),) = three.one.show("latest-handshakes")
    assert abs(int(at) - time.time()) < 10


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_every_size(three: Three, host: str) -> None:
    """IPv4 and IPv6 inside, over IPv4 and IPv6, also with an MTU far above that of any network."""
    three.meet(host)
    pings(three)
    for interface, address in (three.one, TWO), (three.two, ONE6):
        interface.ping(address, "-s", "1300", count=3)
    for mtu in (BIG_MTU, 1300):
        for interface in three.one, three.two:
            interface.up(mtu)
        wait_until(lambda: three.one.reaches(TWO, "-s", "1200"))
        pings(three, 3)
        if mtu == BIG_MTU:
            three.one.ping(TWO, "-s", "30000", "-M", "do", count=3)
            three.two.ping(ONE6, "-s", "30000", count=3)


@pytest.mark.parametrize("options", [(), ("-u", "-b", "50M"), ("-R", "-P", "4")])
def test_streams(ours: Three, options: tuple[str, ...]) -> None:
    """TCP and UDP streams, in both directions and in parallel, by both IP versions."""
    ours.meet()
    for address, listener, speaker in (TWO, ours.two, ours.one), (ONE6, ours.one, ours.two):
        log = ours.folder / f"iperf-{address}.log"
        server = listener.place.start(["iperf3", "-s", "-1", "-B", address, "--forceflush"], log)
        wait_for_line(log, "listening", process=server)
        speaker.place.run(["iperf3", "-Z", "-t", "1", "-c", address, *options])
        assert server.wait(10) == 0


def test_roaming(three: Three) -> None:
    """An end is answered where it is, also when its address, port or IP version changes."""
    three.meet()
    three.one.ping(TWO)
    three.between.run(["ip", "-4", "address", "delete", "127.0.0.1/8", "dev", "lo"])
    three.between.run(["ip", "-4", "address", "add", "127.212.121.99/8", "dev", "lo"])
    three.one.set("listen-port", "9999")
    three.one.set("peer", three.two.public, "endpoint", "127.0.0.1:2")
    three.one.ping(TWO6)
    assert three.two.endpoint() == "127.212.121.99:9999"
    three.one.set("listen-port", "9998")
    three.one.set("peer", three.two.public, "endpoint", "[::1]:2")
    three.one.ping(TWO)
    assert three.two.endpoint() == "[::1]:9998"


def test_cryptokey_routing(three: Three) -> None:
    """An address that belongs to a more specific network of another peer is not taken from us."""
    three.meet()
    one, two = three.one, three.two
    one.set("peer", two.public, "allowed-ips", "192.168.241.0/24")
    two.ping(ONE)
    _, other = key_pair()
    one.set("peer", other, "allowed-ips", "192.168.241.2/32")
    two.set("listen-port", "9997")
    assert not two.reaches(ONE)
    one.set("peer", other, "remove")
    two.ping(ONE)
    assert one.endpoint() == "127.0.0.1:9997"


def test_new_private_key(three: Three) -> None:
    """After a change of keys there is a handshake with the next packet, not seconds later."""
    three.meet()
    one, two = three.one, three.two
    one.ping(TWO)
    private, public = key_pair()
    one.set_key(private)
    ((_, psk),) = two.show("preshared-keys")
    two.set(
        *("peer", public, "preshared-key", two.file("preshared", psk), "allowed-ips", f"{ONE}/32"),
        *("peer", one.public, "remove"),
    )
    one.ping(TWO)


def test_wireguard_inside_wireguard(ours: Three) -> None:
    """A second tunnel, whose ports are where the first one's interface is, runs through it."""
    for here, number, other in (ours.one, 1, 2), (ours.two, 2, 1):
        here.ip("address", "flush", "dev", here.name)
        here.address(f"fd00::5:{number}/112")
        peer = ours.two if here is ours.one else ours.one
        here.set("peer", peer.public, "allowed-ips", f"fd00::5:{other}/128")
    ours.meet()
    inner_one = ours.add(ours.home_one, "wginone")
    inner_two = ours.add(ours.home_two, "wgintwo")
    for here, there, number, other in (inner_one, inner_two, 1, 2), (inner_two, inner_one, 2, 1):
        here.address(f"192.168.241.{number}/24", f"fd00::{number}/112")
        here.set_key(here.private)
        here.set(
            *("listen-port", "5", "peer", there.public),
            *("allowed-ips", f"192.168.241.{other}/32,fd00::{other}/128"),
            *("endpoint", f"[fd00::5:{other}]:5"),
        )
        here.up(1340)
    inner_one.ping(TWO, count=10)
    inner_two.ping(ONE6, count=10)
    inner_one.ping(TWO, "-s", "1312", "-M", "do", count=3)


def test_unreachable(ours: Three) -> None:
    """Who sends to nobody, or to a peer of whom nobody knows where it is, is told at once."""
    one = ours.one
    ping = ["ping", "-n", "-c", "1", "-W", "1", TWO]
    assert "Destination Host Unreachable" in one.place.run(ping, check=False).stdout
    one.set("peer", ours.two.public, "remove")
    assert "Destination Host Unreachable" in one.place.run(ping, check=False).stdout
    assert "unreachable" in one.place.run([*ping[:-1], TWO6], check=False).stdout


def test_low_order_keys(ours: Three) -> None:
    """Peers with keys of low order are taken, and never sent anything."""
    one = ours.one
    one.ip("link", "set", one.name, "down")
    points = (
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
        "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
        "7P///////////////////////////////////////38=",
        "7f///////////////////////////////////////38=",
        "7v///////////////////////////////////////38=",
    )
    one.set("peer", ours.two.public, "remove")
    for point in points:
        one.set("peer", point, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111")
    assert {peer for (peer,) in one.show("peers")} == set(points)
    with ours.between.inside():
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind(("127.0.0.1", 1111))
    heard.settimeout(2)
    one.up()
    with pytest.raises(TimeoutError):
        heard.recv(2000)
    # The socket does hear: a sound key is called at once.
    one.set("peer", ours.two.public, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111")
    assert len(heard.recv(2000)) == 148
    heard.close()


def test_namespaces_deleted(ours: Three) -> None:
    """Deleting the namespace an interface was moved to ends its program."""
    ours.meet()
    pings(ours, 1)
    for interface, home in (ours.one, ours.home_one), (ours.two, ours.home_two):
        interface.place = ours.between
        ours.between.run(["ip", "netns", "delete", home.name])
        interface.check_gone()
        ours.between.run(["ip", "netns", "add", home.name])
