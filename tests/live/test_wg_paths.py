"""The way outside of a tunnel changes, as in WireGuard's own network test: NAT, addresses, routes.

Both ends are ours, or one of them is wireguard-go's where that claims the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvpn.testing.namespace import Namespace, ip
from tests.live.wgnet import GO, OURS, Interface, Three, wait_until

ONE, TWO = "192.168.241.1", "192.168.241.2"


class Direct(Three):
    """Two hosts that have their interface and its ports for themselves; the middle is a router."""

    def __init__(
        self,
        folder: Path,
        make_namespace: Callable[[], Namespace],
        programs: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> None:
        self.folder = folder
        self.between, self.home_one, self.home_two = (make_namespace() for _ in range(3))
        self._stack = ExitStack()
        self.one = self.add(self.home_one, "wgone", programs[0])
        self.two = self.add(self.home_two, "wgtwo", programs[1])

    def cable(self, here: Namespace, name: str, there: Namespace, far: str) -> None:
        """Lay a cable: *name* here, *far* there; both up."""
        ip(
            *("-n", here.name, "link", "add", name, "type", "veth"),
            *("peer", "name", far, "netns", there.name),
        )
        for namespace, end in (here, name), (there, far):
            namespace.run(["sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0"])
            namespace.run(["sysctl", "-qw", f"net.ipv6.conf.{end}.accept_dad=0"])
            namespace.run(["sysctl", "-qw", f"net.ipv4.conf.{end}.promote_secondaries=1"])
            ip("-n", namespace.name, "link", "set", end, "up")


FIRST_IS_OURS = {"ours": (OURS, OURS), "ours-go": (OURS, GO)}
ONE_IS_OURS = {**FIRST_IS_OURS, "go-ours": (GO, OURS)}


@pytest.fixture(params=ONE_IS_OURS.values(), ids=ONE_IS_OURS)
def direct(
    request: pytest.FixtureRequest,
    tun: None,
    make_namespace: Callable[[], Namespace],
    tmp_path: Path,
) -> Iterator[Direct]:
    """Two configured interfaces that do not know where the other is."""
    with Direct(tmp_path, make_namespace, request.param) as built:
        built.configure()
        yield built


@pytest.fixture
def behind_nat(direct: Direct) -> Direct:
    """The first end is behind a router that forgets a flow after two seconds."""
    between = direct.between
    direct.cable(direct.home_one, "vethc", between, "vethrc")
    direct.cable(direct.home_two, "veths", between, "vethrs")
    between.run(["ip", "address", "add", "192.168.1.1/24", "dev", "vethrc"])
    between.run(["ip", "address", "add", "10.0.0.1/24", "dev", "vethrs"])
    direct.home_one.run(["ip", "address", "add", "192.168.1.100/24", "dev", "vethc"])
    direct.home_one.run(["ip", "route", "add", "default", "via", "192.168.1.1"])
    direct.home_two.run(["ip", "address", "add", "10.0.0.100/24", "dev", "veths"])
    between.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    between.run(["nft", "add table ip nat"])
    between.run(["nft", "add chain ip nat post { type nat hook postrouting priority 100 ; }"])
    rule = "ip saddr 192.168.1.0/24 ip daddr 10.0.0.0/24 snat to 10.0.0.1"
    between.run(["nft", f"add rule ip nat post {rule}"])
    for name in "nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream":
        between.run(["sysctl", "-qw", f"net.netfilter.{name}=2"])
    return direct


def test_nat(behind_nat: Direct) -> None:
    """A persistent keepalive keeps the way through a NAT open."""
    one, two = behind_nat.one, behind_nat.two
    one.set("peer", two.public, "endpoint", "10.0.0.100:2", "persistent-keepalive", "1")
    one.ping(TWO)
    two.ping(ONE)
    assert two.endpoint().startswith("10.0.0.1:")
    time.sleep(3)
    two.ping(ONE)
    one.set("peer", two.public, "persistent-keepalive", "0")
    one.ping(TWO, "-I", one.name)


def test_default_route_in_the_tunnel(behind_nat: Direct) -> None:
    """With wg-quick's rules all goes into the tunnel, but for what carries its mark."""
    one, two = behind_nat.one, behind_nat.two
    one.set("peer", two.public, "endpoint", "10.0.0.100:2")
    one.ip("-6", "address", "add", "fc00::9/96", "dev", "vethc", "nodad")
    one.ip("-6", "route", "add", "default", "via", "fc00::1")
    two.address("192.168.99.7/32", "abab::1111/128")
    one.set("fwmark", "51820", "peer", two.public, "allowed-ips", "192.168.99.7,abab::1111")
    for version in "-4", "-6":
        one.ip(version, "route", "add", "default", "dev", one.name, "table", "51820")
        one.ip(version, "rule", "add", "not", "fwmark", "51820", "table", "51820")
        one.ip(version, "rule", "add", "table", "main", "suppress_prefixlength", "0")
    one.place.run(["sysctl", "-qw", "net.ipv4.conf.vethc.rp_filter=0"])
    one.place.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"])
    one.ping("192.168.99.7", count=30)
    one.ping("abab::1111", count=30)


@pytest.mark.parametrize(
    "direct", FIRST_IS_OURS.values(), ids=FIRST_IS_OURS, indirect=True
)  # wireguard-go goes round for ever
def test_a_tunnel_inside_one_of_its_own(behind_nat: Direct) -> None:
    """A peer behind another peer of the same interface is reached through that one."""
    one, two = behind_nat.one, behind_nat.two
    one.set("peer", two.public, "endpoint", "10.0.0.100:2")
    with Interface(behind_nat.folder, behind_nat.home_two, "wginner") as inner:
        one.set("peer", inner.public, "allowed-ips", "192.168.242.2/32", "endpoint", f"{TWO}:5")
        one.address("192.168.242.1/24")
        inner.address("192.168.242.2/24")
        inner.set_key(inner.private)
        inner.set("listen-port", "5", "peer", one.public, "allowed-ips", "192.168.242.1/32")
        inner.up()
        one.ping("192.168.242.2")
        # Told to send that through itself, it does not.
        one.set("peer", inner.public, "endpoint", "192.168.242.2:5")
        assert not one.reaches("192.168.242.2")
        one.ping(TWO)
        sent = {peer: int(bytes_sent) for peer, _, bytes_sent in one.show("transfer")}
        assert sent[inner.public] < 2000


@pytest.fixture
def wired(direct: Direct) -> Direct:
    """A cable between both, without addresses."""
    direct.cable(direct.home_one, "veth1", direct.home_two, "veth2")
    return direct


@pytest.mark.parametrize(
    "direct", FIRST_IS_OURS.values(), ids=FIRST_IS_OURS, indirect=True
)  # wireguard-go of 2022 stays with an IPv4 address that is gone
def test_own_address_removed(wired: Direct) -> None:
    """When the address of ours that a peer was sent to from is gone, another one is used."""
    one, two = wired.one, wired.two
    one.ip("address", "add", "10.0.0.1/24", "dev", "veth1")
    one.ip("address", "add", "fd00:aa::1/96", "dev", "veth1", "nodad")
    two.ip("address", "add", "10.0.0.2/24", "dev", "veth2")
    two.ip("address", "add", "fd00:aa::2/96", "dev", "veth2", "nodad")
    one.set("peer", two.public, "endpoint", "10.0.0.2:2")
    one.ping(TWO)
    one.ip("address", "add", "10.0.0.10/24", "dev", "veth1")
    one.ip("address", "delete", "10.0.0.1/24", "dev", "veth1")
    one.ping(TWO)
    one.set("peer", two.public, "endpoint", "[fd00:aa::2]:2")
    one.ping(TWO)
    one.ip("address", "add", "fd00:aa::10/96", "dev", "veth1", "nodad")
    one.ip("address", "delete", "fd00:aa::1/96", "dev", "veth1")
    one.ping(TWO)


def test_answered_from_where_it_came_to(wired: Direct) -> None:
    """A host with several addresses answers from the one that was spoken to."""
    one, two = wired.one, wired.two
    for address in "10.0.0.1/24", "10.0.0.2/24", "fd00:aa::1/96", "fd00:aa::2/96":
        one.ip("address", "add", address, "dev", "veth1", *["nodad"] * (":" in address))
    two.ip("address", "add", "10.0.0.3/24", "dev", "veth2")
    two.ip("address", "add", "fd00:aa::3/96", "dev", "veth2", "nodad")
    for host in "10.0.0.1", "[fd00:aa::1]", "10.0.0.2", "[fd00:aa::2]":
        two.set("peer", one.public, "endpoint", f"{host}:1")
        two.ping(ONE)
        assert two.endpoint() == f"{host}:1"
    # And from an address of another interface than the one it came by.
    one.ip("link", "add", "bridge", "type", "bridge")
    one.ip("address", "add", "10.50.0.1/24", "dev", "bridge")
    one.ip("link", "set", "bridge", "up")
    two.ip("route", "add", "10.50.0.0/24", "dev", "veth2")
    two.set("peer", one.public, "endpoint", "10.50.0.1:1")
    two.ping(ONE)
    assert two.endpoint() == "10.50.0.1:1"


def test_a_better_route(wired: Direct) -> None:
    """When another interface's route takes precedence, packets leave by that, from its address."""
    one, two = wired.one, wired.two
    wired.cable(wired.home_one, "veth3", wired.home_two, "veth4")
    one.ip("address", "add", "10.0.0.1/24", "dev", "veth1")
    two.ip("address", "add", "10.0.0.2/24", "dev", "veth2")
    one.ip("address", "add", "10.0.0.3/24", "dev", "veth3")
    for device in "veth1", "veth3":
        one.ip("route", "flush", "dev", device)
    one.ip("route", "add", "10.0.0.0/24", "dev", "veth1", "src", "10.0.0.1", "metric", "2")
    one.set("peer", two.public, "endpoint", "10.0.0.2:2")
    one.ping(TWO)
    assert two.endpoint() == "10.0.0.1:1"
    for namespace, device in (wired.home_one, "veth1"), (wired.home_two, "veth4"):
        namespace.run(["sysctl", "-qw", f"net.ipv4.conf.{device}.rp_filter=0"])
        namespace.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"])
    one.ip("route", "add", "10.0.0.0/24", "dev", "veth3", "src", "10.0.0.3", "metric", "1")
    one.ping(TWO)
    wait_until(lambda: two.endpoint() == "10.0.0.3:1", 2)


def test_padding_stays_within_the_mtu(wired: Direct) -> None:
    """A packet just below the MTU is not padded beyond it, so the datagram stays as small."""
    one, two = wired.one, wired.two
    one.ip("address", "add", "10.0.0.1/24", "dev", "veth1")
    two.ip("address", "add", "10.0.0.2/24", "dev", "veth2")
    one.set("peer", two.public, "endpoint", "10.0.0.2:2")
    for interface in one, two:
        interface.up(1299)
    wait_until(lambda: one.reaches(TWO))
    # 1299 and the 60 bytes of headers and tag; padded to 1312 it would be 1372.
    for namespace in wired.home_one, wired.home_two:
        namespace.run(["nft", "add table ip in"])
        namespace.run(["nft", "add chain ip in in { type filter hook input priority 0 ; }"])
        namespace.run(["nft", "add rule ip in in udp dport { 1, 2 } ip length > 1359 drop"])
    two.ping(ONE, "-s", "1269")
    one.ping(TWO, "-s", "1271")
