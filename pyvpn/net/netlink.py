"""Links, addresses, routes and rules: what we ask of the kernel by netlink, in our words.

Every call opens a socket of its own (1 ms): it may then be made in any thread, and after a
fork.  Nothing here may be called in a thread where an asyncio loop runs (pyroute2 has its own).

(A long file: one word for each thing that we ask of netlink, and they share how it is asked.)
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pyvpn.errors import HostError

Address = IPv4Address | IPv6Address
AddressAndNetwork = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

PROTOCOL = 200  # marks the routes and rules that are ours:  ip route show proto 200
RULE_PRIORITY = 32_000  # before the main table's 32766

_KERNEL = 2  # RTPROT_KERNEL
_CONNECTED_METRIC = 256  # of the kernel's own IPv6 routes
_MAIN_TABLE = 254
_LAST_METRIC = 0xFFFF_FFFF  # of all routes to a network, the one that is used when no other is
_INVERT = 0x2  # FIB_RULE_INVERT: the "not" of a rule
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFA_F_PERMANENT = 0x80
_NODAD = 0x2  # IFA_F_NODAD
_NO_LINK_LOCAL = 1  # IN6_ADDR_GEN_MODE_NONE
_RTN_UNICAST = 1
_RTN_UNREACHABLE = 7
_BY_ADVERTISEMENT = 9  # RTPROT_RA
_SCOPE_LINK = 253
_FAMILIES = {4: AF_INET, 6: AF_INET6}
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})


def set_link_up(name: str, mtu: int, addresses: Sequence[str]) -> int:
    """Give the interface exactly these addresses (``10.73.0.1/24``) and this MTU; set it up.

    What is as it should be is not touched.  The kernel makes no link-local address: nobody
    would answer to it, and it would send router solicitations into the tunnel.

    Returns:
        The interface's index.

    Raises:
        HostError: there is no such interface, or the kernel refuses.
    """
    wanted = {ip_interface(text) for text in addresses}
    with _netlink(f"set up the interface {name}") as ipr:
        index = _index(ipr, name)
        link = ipr.get_links(index)[0]
        # Only if need be: else the kernel tells everybody of a changed interface, us, too, who
        # then look after it again (:mod:`pyvpn.net.upkeep`), without end.
        if _link_local_mode(link) != _NO_LINK_LOCAL:
            _make_no_link_local(ipr, index, any(address.version == 6 for address in wanted))
        if link.get("IFLA_MTU") != mtu:
            ipr.link("set", index=index, mtu=mtu)
        if not link["flags"] & _IFF_UP:
            ipr.link("set", index=index, state="up")
        for address in _addresses_of(ipr, index) - wanted:
            _change_address(ipr, "del", index, address)
        # Asked again: with a primary IPv4 address the kernel takes away its secondaries.
        for address in sorted(wanted - _addresses_of(ipr, index), key=str):
            _change_address(ipr, "add", index, address)
        _put_back_connected(ipr, index, wanted)
    return index


def set_routes(
    index: int, networks: Iterable[Network], table: int | None = None, proto: int = PROTOCOL
) -> list[Network]:
    """Make the routes of *proto* into interface *index* exactly *networks*, in one table.

    Routes that stand are not touched, so what travels on them notices nothing.

    Returns:
        The networks that another route, not ours, already claims in that table; they are as
        they were.

    Raises:
        HostError: the interface is gone or down, or the kernel refuses.
    """
    wanted = dict.fromkeys(networks)
    refused = []
    with _netlink("set routes") as ipr:
        standing = _routes_of(ipr, index, table, proto)
        for network in standing:
            if network not in wanted:
                with _already(errno.ESRCH):  # somebody else, or the device went down meanwhile
                    _change_route(ipr, "del", index, network, table, proto)
        for network in wanted:
            if network not in standing:
                try:
                    _change_route(ipr, "add", index, network, table, proto)
                except NetlinkError as error:
                    if error.code != errno.EEXIST:
                        raise
                    refused.append(network)
    return refused


def routes_of(index: int, table: int | None = None, proto: int = PROTOCOL) -> set[Network]:
    """Return the networks routed by us into interface *index* in one table (None: main)."""
    with _netlink("read routes") as ipr:
        return _routes_of(ipr, index, table, proto)


def add_unreachable(network: Network) -> None:
    """Add the route that holds *network* when no other does; one that stands is left."""
    with _netlink(f"guard {network}") as ipr, _already(errno.EEXIST):
        _change_unreachable(ipr, "add", network)


def delete_unreachable(network: Network) -> None:
    """Delete that route; no harm if it is gone."""
    with _netlink(f"unguard {network}") as ipr, _already(errno.ESRCH, *_NO_FAMILY):
        _change_unreachable(ipr, "del", network)


def add_rule(version: int, mark: int, table: int) -> bool:
    """Let all packets but those with *mark* look into *table* first; once is enough.

    Returns:
        False if the kernel does not know this IP version.
    """
    with _netlink("add a routing rule") as ipr:
        try:
            if not _has_rule(ipr, version, mark, table):
                _change_rule(ipr, "add", version, mark, table)
        except NetlinkError as error:
            if error.code not in _NO_FAMILY:
                raise
            return False
    return True


def delete_rule(version: int, mark: int, table: int) -> None:
    """Delete that rule; no harm if it is gone."""
    with _netlink("delete a routing rule") as ipr, _already(errno.ENOENT, *_NO_FAMILY):
        _change_rule(ipr, "del", version, mark, table)


def plain_interfaces() -> tuple[str, ...]:
    """Return the names of all interfaces but loopback and bridges, sorted."""
    with _netlink("read interfaces") as ipr:
        links = list(ipr.get_links())
    return tuple(
        sorted(
            str(link.get("IFLA_IFNAME"))
            for link in links
            if not link["flags"] & _IFF_LOOPBACK
            and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "bridge"
        )
    )


def own_networks(exclude: Iterable[str] = ()) -> list[tuple[str, Network]]:
    """Return the networks that this host's up interfaces have an address in.

    Without loopback, link-local networks, single addresses, and the interfaces *exclude*.
    """
    with _netlink("read addresses") as ipr:
        found = dict.fromkeys(_connected(ipr, exclude))
    return [
        (name, network)
        for name, network in found
        if network.prefixlen < network.max_prefixlen and not network.is_link_local
    ]


def local_networks(exclude: Iterable[str] = ()) -> list[tuple[str, Network]]:
    """Return everything directly connected: `own_networks` and link-local networks, single
    addresses, and whatever the main table reaches without a gateway."""
    exclude = frozenset(exclude)
    with _netlink("read addresses and routes") as ipr:
        found = dict.fromkeys(_connected(ipr, exclude))
        names = {link["index"]: link.get("IFLA_IFNAME") for link in ipr.get_links()}
        for route in _routes(ipr, table=_MAIN_TABLE):
            name = names.get(route.get("RTA_OIF"))
            on_link = route.get("RTA_GATEWAY") is None and route.get("RTA_VIA") is None
            if name and name not in exclude and on_link and route["type"] == _RTN_UNICAST:
                found[name, _network_of(route)] = None
    # A default route into a point-to-point link makes nobody a neighbour.
    return [(name, network) for name, network in found if network.prefixlen > 0]


def default_source(version: int, mark: int = 0) -> Address | None:
    """Return the address from which packets with *mark* reach the world, if they do."""
    # A look-up in the kernel's tables; nothing is sent anywhere.
    somewhere = {4: "1.1.1.1", 6: "2606:4700:4700::1111"}[version]
    with _netlink("look up a route") as ipr:
        try:
            found = ipr.route("get", family=_FAMILIES[version], dst=somewhere, mark=mark)
        except NetlinkError:
            return None
        source = next(iter(found)).get("RTA_PREFSRC")
    return None if source is None else ip_address(source)


def fed_by_advertisements() -> list[str]:
    """Name the interfaces with a default route, or an address, out of router advertisements."""
    with _netlink("read addresses and routes") as ipr:
        fed = {
            route.get("RTA_OIF")
            for route in _routes(ipr, AF_INET6, proto=_BY_ADVERTISEMENT)
            if route["dst_len"] == 0
        } | {
            address["index"]
            for address in ipr.get_addr(family=AF_INET6)
            if not address.get("IFA_FLAGS", address["flags"]) & _IFA_F_PERMANENT
        }
        return sorted(link.get("IFLA_IFNAME") for link in ipr.get_links() if link["index"] in fed)


@contextmanager
def _netlink(doing: str) -> Iterator[Any]:
    """Open a netlink socket; what goes wrong meanwhile is a HostError that says *doing*."""
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        cure = "; that needs root or CAP_NET_ADMIN" if error.code == errno.EPERM else ""
        raise HostError(f"cannot {doing}: {error.args[-1]}{cure}") from error
    except OSError as error:
        raise HostError(f"cannot {doing}: {error.strerror or error}") from error


@contextmanager
def _already(*codes: int) -> Iterator[None]:
    """Forgive the answers that say: it is so already."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def _index(ipr: Any, name: str) -> int:
    found = ipr.link_lookup(ifname=name)
    if not found:
        raise HostError(f"there is no interface {name} (any more)")
    return int(found[0])


def _link_local_mode(link: Any) -> int | None:
    """Return how the kernel makes the link-local address of *link*; None: it does not say."""
    families = link.get("IFLA_AF_SPEC")
    version6 = None if families is None else families.get("AF_INET6")
    mode = None if version6 is None else version6.get("IFLA_INET6_ADDR_GEN_MODE")
    return None if mode is None else int(mode)


def _make_no_link_local(ipr: Any, index: int, needs_ipv6: bool) -> None:
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]}
    try:
        ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
    except NetlinkError as error:
        if error.code not in _NO_FAMILY:
            raise
        if needs_ipv6:
            raise HostError(
                "this kernel has IPv6 switched off (ipv6.disable=1): do without IPv6 addresses "
                "in the tunnel (on a server: network6 = none)"
            ) from error


def _addresses_of(ipr: Any, index: int) -> set[AddressAndNetwork]:
    found = set()
    for address in ipr.get_addr(index=index):
        own = address.get("IFA_LOCAL") or address.get("IFA_ADDRESS")
        found.add(ip_interface(f"{own}/{address['prefixlen']}"))
    return found


def _change_address(ipr: Any, command: str, index: int, address: AddressAndNetwork) -> None:
    # Nobody else is on this line: not looked for, a duplicate does not delay the first use.
    flags = {"flags": _NODAD} if address.version == 6 else {}
    length = address.network.prefixlen
    ipr.addr(command, index=index, address=str(address.ip), prefixlen=length, **flags)


def _put_back_connected(ipr: Any, index: int, addresses: set[AddressAndNetwork]) -> None:
    """Make the routes that the kernel makes for *addresses*, and others may have flushed."""
    standing = _routes_of(ipr, index, None, _KERNEL)
    for address in sorted(addresses, key=str):
        if address.network.num_addresses == 1 or address.network in standing:
            continue
        standing.add(address.network)
        more: dict[str, Any] = (
            {"scope": _SCOPE_LINK, "prefsrc": str(address.ip)}
            if address.version == 4
            else {"priority": _CONNECTED_METRIC}
        )
        ipr.route(
            "replace",
            family=_FAMILIES[address.version],
            dst=str(address.network),
            oif=index,
            table=_MAIN_TABLE,
            proto=_KERNEL,
            **more,
        )


def _routes(ipr: Any, family: int | None = None, **wanted: int) -> Iterator[Any]:
    families = (AF_INET, AF_INET6) if family is None else (family,)
    for each in families:
        yield from ipr.get_routes(family=each, **wanted)


def _network_of(route: Any) -> Network:
    anywhere = "0.0.0.0" if route["family"] == AF_INET else "::"  # noqa: S104 - no binding
    return ip_network(f"{route.get('RTA_DST') or anywhere}/{route['dst_len']}")


def _routes_of(ipr: Any, index: int, table: int | None, proto: int) -> set[Network]:
    return {
        _network_of(route)
        for route in _routes(ipr, table=table or _MAIN_TABLE, proto=proto)
        if route.get("RTA_OIF") == index and route["type"] == _RTN_UNICAST
    }


def _change_route(
    ipr: Any, command: str, index: int, network: Network, table: int | None, proto: int
) -> None:
    ipr.route(
        command,
        family=_FAMILIES[network.version],
        dst=str(network),
        oif=index,
        table=table or _MAIN_TABLE,
        proto=proto,
        **({"scope": _SCOPE_LINK} if network.version == 4 else {}),
    )


def _change_unreachable(ipr: Any, command: str, network: Network) -> None:
    ipr.route(
        command,
        family=_FAMILIES[network.version],
        dst=str(network),
        type="unreachable",
        priority=_LAST_METRIC,
        proto=PROTOCOL,
    )


def _has_rule(ipr: Any, version: int, mark: int, table: int) -> bool:
    return any(
        rule.get("FRA_PRIORITY") == RULE_PRIORITY
        and rule.get("FRA_FWMARK") == mark
        and rule.get("FRA_TABLE") == table
        and rule.get("FRA_PROTOCOL") == PROTOCOL
        and rule["flags"] & _INVERT
        for rule in ipr.get_rules(family=_FAMILIES[version])
    )


def _change_rule(ipr: Any, command: str, version: int, mark: int, table: int) -> None:
    ipr.rule(
        command,
        family=_FAMILIES[version],
        priority=RULE_PRIORITY,
        fwmark=mark,
        table=table,
        flags=_INVERT,
        protocol=PROTOCOL,
    )


def _connected(ipr: Any, exclude: Iterable[str]) -> Iterator[tuple[str, Network]]:
    exclude = frozenset(exclude)
    up = {
        link["index"]: str(link.get("IFLA_IFNAME"))
        for link in ipr.get_links()
        if link["flags"] & _IFF_UP and not link["flags"] & _IFF_LOOPBACK
    }
    for address in ipr.get_addr():
        name = up.get(address["index"])
        if name is not None and name not in exclude:
            # On a point-to-point link this is the other end, which is what is connected.
            there = f"{address.get('IFA_ADDRESS')}/{address['prefixlen']}"
            yield name, ip_network(there, strict=False)
