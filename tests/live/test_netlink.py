"""Addresses, routes and rules in a real kernel: differences only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from pyvpn.errors import HostError
from pyvpn.net.host import Host, private_networks
from pyvpn.testing.namespace import Namespace, wait_for_line
from tests.live.host_place import a_device, a_place, lines

POOL4 = ip_network("10.73.0.0/24")
POOL6 = ip_network("fd70:7976:706e::/64")
ADDRESSES = ["10.73.0.1/24", "fd70:7976:706e::1/64"]


@pytest.fixture
def place(tun: None, namespace: Namespace) -> Iterator[Namespace]:
    """A host with a LAN, where we are."""
    with a_place(namespace) as made:
        yield made


@pytest.fixture
def host(place: Namespace, tmp_path: Path) -> Host:
    """Its settings."""
    return Host(str(tmp_path / "state"), "test")


@pytest.fixture
def device(place: Namespace) -> Iterator[Callable[[], None]]:
    """An open TUN pyvpnt0; called, it is closed."""
    with a_device() as close:
        yield close


def test_link_up(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """The device gets its addresses and MTU, and no link-local address."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)

    assert lines(place, "ip -br address show pyvpnt0") == [
        "pyvpnt0          UNKNOWN        10.73.0.1/24 fd70:7976:706e::1/64"
    ]
    assert "mtu 1420" in lines(place, "ip link show pyvpnt0")[0]
    assert lines(place, "ip link show pyvpnt0")[0].startswith(f"{index}: ")


def test_usable_at_once(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """The IPv6 address waits for no search for duplicates; till its end nobody could bind it."""
    host.link_up("pyvpnt0", 1420, ADDRESSES)

    (found,) = [each for each in lines(place, "ip address show pyvpnt0") if "inet6" in each]
    assert " nodad" in found
    assert "tentative" not in found


def test_link_up_differences(
    place: Namespace, host: Host, device: Callable[[], None], tmp_path: Path
) -> None:
    """Asked again, only what differs is changed; an address that stays was never away."""
    host.link_up("pyvpnt0", 1420, [*ADDRESSES, "10.73.0.7/24", "10.99.0.1/16"])
    log = tmp_path / "monitor.log"
    monitor = place.start(["ip", "monitor", "address", "link"], log)
    try:
        while "192.0.2.1" not in log.read_text():  # until it listens
            for change in "add", "delete":
                place.run(["ip", "address", change, "192.0.2.1/32", "dev", "far"])
        host.link_up("pyvpnt0", 1380, ["10.73.0.7/24", "10.98.0.1/16", ADDRESSES[1]])
        host.link_up("pyvpnt0", 1380, ["10.73.0.7/24", "10.98.0.1/16", ADDRESSES[1]])
        wait_for_line(log, r"10\.98\.0\.1/16")
    finally:
        monitor.kill()
        monitor.wait()

    assert lines(place, "ip -br address show pyvpnt0")[0].split()[2:] == [
        "10.73.0.7/24",
        "10.98.0.1/16",
        "fd70:7976:706e::1/64",
    ]
    assert "mtu 1380" in lines(place, "ip link show pyvpnt0")[0]
    assert ADDRESSES[1] not in log.read_text()
    assert log.read_text().count("10.98.0.1/16") == 1


def test_routes_of_its_addresses(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """The routes that the kernel made for them, and somebody flushed, are as they were."""
    host.link_up("pyvpnt0", 1420, [*ADDRESSES, "10.73.0.7/24", "10.99.0.1/32"])
    shown = [f"ip {version} route show dev pyvpnt0" for version in ("-4", "-6")]
    before = [lines(place, command) for command in shown]
    for version in "-4", "-6":
        place.run(["ip", version, "route", "flush", "dev", "pyvpnt0"])
    assert [lines(place, command) for command in shown] != before

    host.link_up("pyvpnt0", 1420, [*ADDRESSES, "10.73.0.7/24", "10.99.0.1/32"])
    assert [lines(place, command) for command in shown] == before


def test_no_such_link(place: Namespace, host: Host) -> None:
    """A device that is not there is named."""
    with pytest.raises(HostError, match=r"there is no interface pyvpnt7 \(any more\)"):
        host.link_up("pyvpnt7", 1420, ADDRESSES)


def test_routes(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """Routes become exactly what was asked for; those that stay were never away."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    first = [ip_network(x) for x in ("192.168.1.0/24", "fd01::/64", "10.0.0.0/8")]
    second = [ip_network(x) for x in ("192.168.1.0/24", "fd02::/64")]
    for table in None, 51820:
        assert host.set_routes(index, first, table) == []
        assert host.routes_of(index, table) == set(first)
        assert host.set_routes(index, second, table) == []
        assert host.routes_of(index, table) == set(second)
    assert lines(place, "ip route show proto 200") == ["192.168.1.0/24 dev pyvpnt0 scope link"]
    assert lines(place, "ip route show table 51820") == [
        "192.168.1.0/24 dev pyvpnt0 proto 200 scope link"
    ]
    host.set_routes(index, [])
    assert host.routes_of(index) == set()
    assert host.routes_of(index, 51820) == set(second)


def test_default_routes(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """A route to everywhere is a route like any other, in a table of its own."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    both = [ip_network("0.0.0.0/0"), ip_network("::/0")]

    assert host.set_routes(index, both, 51820) == []
    assert host.routes_of(index, 51820) == set(both)
    assert host.set_routes(index, [], 51820) == []
    assert host.routes_of(index, 51820) == set()


def test_many_routes(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """As many routes as a server may push are set, and vanish with the device."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    many = list(ip_network("10.128.0.0/16").subnets(8))
    assert host.set_routes(index, many) == []
    assert len(lines(place, "ip route show proto 200")) == 256

    device()
    assert lines(place, "ip route show proto 200") == []


def test_route_in_the_way(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """A network that another route claims is reported, and that route left as it was."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    before = lines(place, "ip route show 192.168.77.0/24")

    refused = host.set_routes(index, [ip_network("192.168.77.0/24"), ip_network("10.1.0.0/16")])

    assert refused == [ip_network("192.168.77.0/24")]
    assert lines(place, "ip route show 192.168.77.0/24") == before
    assert host.routes_of(index) == {ip_network("10.1.0.0/16")}


def test_a_route_that_went_by_itself(
    place: Namespace, host: Host, device: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be deleted, and is gone before we come to it, is no error."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    gone = {ip_network("10.1.0.0/16"), ip_network("fd01::/64")}
    monkeypatch.setattr("pyvpn.net.netlink._routes_of", lambda *_: gone)

    assert host.set_routes(index, [ip_network("10.2.0.0/16")]) == []

    monkeypatch.undo()
    assert host.routes_of(index) == {ip_network("10.2.0.0/16")}


def test_routes_of_a_lost_device(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """Routes into a device that is gone are an error in words."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    device()

    with pytest.raises(HostError, match="cannot set routes: No such device"):
        host.set_routes(index, [ip_network("10.1.0.0/16")])


def test_guard(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """The guard yields to the tunnel, and holds what is meant for it when it is gone."""
    host.guard([POOL4, POOL6])
    host.link_up("pyvpnt0", 1420, ADDRESSES)
    for address in "10.73.0.9", "fd70:7976:706e::9":
        assert "dev pyvpnt0" in place.run(["ip", "route", "get", address]).stdout

    device()
    for address in "10.73.0.9", "fd70:7976:706e::9":
        answer = place.run(["ip", "route", "get", address], check=False)
        assert "unreachable" in answer.stderr or "No route to host" in answer.stderr


def test_rule(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """Unmarked packets look into the tunnel's table first, marked ones never."""
    index = host.link_up("pyvpnt0", 1420, ADDRESSES)
    host.set_routes(index, [ip_network("198.18.2.0/30"), ip_network("2001:db8:7::/64")], 77)
    host.add_rule(5, 77)
    host.add_rule(5, 77)

    for address in "198.18.2.1", "2001:db8:7::1":
        assert "dev pyvpnt0" in place.run(["ip", "route", "get", address]).stdout
        assert "dev lan" in place.run(["ip", "route", "get", address, "mark", "5"]).stdout
    for family in "-4", "-6":
        rules = [x for x in lines(place, f"ip {family} rule") if "lookup 77" in x]
        assert rules == ["32000:\tnot from all fwmark 0x5 lookup 77 proto 200"]


def test_networks(place: Namespace, host: Host, device: Callable[[], None]) -> None:
    """The host's networks are found, those of the tunnel left out."""
    host.link_up("pyvpnt0", 1420, ADDRESSES)
    place.run(["ip", "route", "add", "203.0.113.0/24", "dev", "lan"])
    place.run(["ip", "address", "add", "192.168.99.1/32", "dev", "lan"])

    own = {str(network) for _, network in host.own_networks(["pyvpnt0"])}
    local = {str(network) for _, network in host.local_networks(["pyvpnt0"])}
    private = [str(n) for _, n in private_networks(host.own_networks(["pyvpnt0"]))]

    assert own == {"192.168.77.0/24", "198.18.2.0/30", "fd77::/64", "2001:db8:7::/64"}
    assert local == own | {"203.0.113.0/24", "192.168.99.1/32", "fe80::/64"}
    assert private == ["192.168.77.0/24", "fd77::/64"]
    assert ("pyvpnt0", POOL4) in host.own_networks()
    assert {name for name, _ in host.own_networks(["pyvpnt0"])} == {"lan"}


def test_networks_of_a_link_that_is_down(place: Namespace, host: Host) -> None:
    """An interface that is down is nobody's network."""
    place.run(["ip", "link", "set", "lan", "down"])

    assert host.own_networks() == []


def test_default_source(place: Namespace, host: Host) -> None:
    """The address that the world sees is the one of the default route, if there is one."""
    assert str(host.default_source(4)) == "192.168.77.1"
    assert str(host.default_source(6)) in ("2001:db8:7::5", "fd77::1")
    place.run(["ip", "route", "delete", "default"])
    place.run(["ip", "-6", "route", "delete", "default"])

    assert host.default_source(4) is None
    assert host.default_source(6) is None
