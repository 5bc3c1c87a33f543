"""What a client takes from a server: its own policy decides, value by value.

A hostile or careless server may push anything.  Every value is judged alone, what is refused
is returned with its reason, and the rest is used: one bad route costs that route only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

from pyvpn.errors import PeerError
from pyvpn.wire.messages import RegisterAnswer, Settings

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface

MOST_ROUTES = 256
MOST_DNS = 8
LEAST_MTU, MOST_MTU = 1280, 9000
LEAST_HEARTBEAT, MOST_HEARTBEAT = 1.0, 300.0
NORMAL_HEARTBEAT = 10.0

EVERYTHING: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

SAME_AS_OWN = "is one of this host's own networks"


@dataclass(frozen=True, slots=True)
class Policy:
    """What this client allows a server to set, from its ini file."""

    accept_routes: tuple[Network, ...] = EVERYTHING
    """Only networks inside one of these are routed; none: no routes at all."""
    accept_default_route: bool = False
    accept_own_networks: bool = False
    accept_dns: bool = True
    mtu: int | None = None
    marked: bool = True
    """Our own connection stays outside whatever is routed, since its packets are marked."""

    @property
    def is_list(self) -> bool:
        """The operator has named networks, one by one: what they hold is meant."""
        return self.accept_routes != EVERYTHING


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is used of a server's offer, and what was refused: (value, reason)."""

    routes: tuple[Network, ...]
    dns: tuple[Address, ...]
    mtu: int
    heartbeat: float
    refused: tuple[tuple[str, str], ...]
    clashes: tuple[Network, ...]  # pushed networks equal to or inside an own one


def accept_addresses(
    answer: RegisterAnswer,
    policy: Policy,
    own_networks: Iterable[Network],
    servers: Sequence[Address],
) -> tuple[InterfaceAddress, ...]:
    """The lease of *answer* as interfaces, IPv4 first.

    An address of ours in the wrong place is worse than a route: the host answers for it itself,
    so the server, the gateway or a printer of that address could not be reached any more.

    Raises:
        PeerError: no address at all, or one that no host, or this one, may have.
    """
    own = tuple(own_networks)
    found: list[InterfaceAddress] = []
    for text, version in ((answer.address4, 4), (answer.address6, 6)):
        if not text:
            continue
        try:
            interface = ip_interface(_unscoped(text))
        except ValueError:
            raise PeerError(f"the lease {_shown(text)} is not an address with a prefix") from None
        address = interface.ip
        if (
            interface.version != version
            or address.is_multicast
            or address.is_loopback
            or address.is_unspecified
            or address.is_link_local
            or address.is_reserved
            or interface.network.prefixlen < 8
            or _overlap(ip_network(address), _NOWHERE)
        ):
            raise PeerError(f"the lease {_shown(text)} is not an address a host may have")
        if address in servers:
            raise PeerError(f"the lease {address} is the server's own outer address")
        for mine in own:
            if address in mine and not policy.accept_own_networks:
                raise PeerError(f"the lease {address} lies in this host's own network {mine}")
        found.append(interface)
    if not found:
        raise PeerError("the server gave no address")
    return tuple(found)


def accept_settings(
    offer: RegisterAnswer | Settings,
    policy: Policy,
    own_networks: Iterable[Network],
    servers: Sequence[Address],
    lease: Sequence[InterfaceAddress],
) -> Accepted:
    """Judge what *offer* pushes.

    Args:
        offer: the answer to ``register``, or a later ``settings`` message.
        policy: this client's own rules.
        own_networks: networks directly connected to this host, the tunnel's left out.
        servers: the outer addresses of the server; a route over one would swallow the tunnel.
        lease: the client's tunnel addresses; only families it has can be routed.
    """
    refused: list[tuple[str, str]] = []
    clashes: list[Network] = []
    routes: dict[Network, None] = {}
    own = tuple(own_networks)
    families: set[int] = {interface.version for interface in lease}
    for number, text in enumerate(offer.routes):
        if number >= MOST_ROUTES:
            rest = len(offer.routes) - MOST_ROUTES
            refused.append((f"{rest} more routes", f"at most {MOST_ROUTES} are accepted"))
            break
        try:
            network = ip_network(_unscoped(text))
        except ValueError:
            refused.append((_shown(text), "is not a network"))
            continue
        reason = _objection(network, policy, own, servers, families, routes)
        if reason is None:
            routes[network] = None
        else:
            refused.append((str(network), reason))
            if reason == SAME_AS_OWN:
                clashes.append(network)
    return Accepted(
        routes=tuple(routes),
        dns=_accept_dns(offer.dns, policy, refused),
        mtu=_accept_mtu(offer.mtu, policy, refused),
        heartbeat=_accept_heartbeat(offer.heartbeat, refused),
        refused=tuple(refused),
        clashes=tuple(clashes),
    )


def _objection(
    network: Network,
    policy: Policy,
    own: tuple[Network, ...],
    servers: Sequence[Address],
    families: set[int],
    accepted: Iterable[Network],
) -> str | None:
    """Why *network* is not routed into the tunnel, or None."""
    if network.version not in families:
        return f"the lease has no IPv{network.version} address"
    if not any(_inside(network, outer) for outer in policy.accept_routes):
        return "is not in what accept_routes allows"
    if not policy.accept_default_route:
        # A default route also comes in pieces: two halves, four quarters, 256 eighths.
        if network.prefixlen < _SHORTEST[network.version]:
            return "is a default route, or a large part of one (accept_default_route = no)"
        covered = sum(one.num_addresses for one in accepted if one.version == network.version)
        if covered + network.num_addresses > 1 << (network.max_prefixlen - 3):
            return "adds up to a default route (accept_default_route = no)"
    if network.prefixlen > 1 and (
        network.is_multicast or network.is_loopback or network.is_link_local
    ):
        return "is multicast, loopback or link-local"
    if network.prefixlen > 1 and _overlap(network, _NEVER):
        return "covers loopback, multicast or link-local addresses"
    if policy.is_list and policy.marked:
        servers = ()
    for server in servers:
        if server.version == network.version and server in network and network.prefixlen > 1:
            return f"covers the server's own address {server}"
    if not policy.accept_own_networks and network.prefixlen > 1:
        for mine in own:
            if _inside(network, mine):
                return SAME_AS_OWN
            if _inside(mine, network):
                return f"covers this host's own network {mine} (accept_own_networks = no)"
    return None


_SHORTEST = {4: 8, 6: 16}

_NEVER: tuple[Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("224.0.0.0/4"),
    IPv6Network("::1/128"),
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)


# This host, or nobody at all.
_NOWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/8"), IPv6Network("::/8"))


def _unscoped(text: str) -> str:
    """*text*, which is to be an address.

    Raises:
        ValueError: with the name of an interface in it (``fe80::1%eth0``): names of interfaces
            mean nothing from one host to another, and any text may stand there.
    """
    if "%" in text:
        raise ValueError(text)
    return text


def _overlap(network: Network, others: Iterable[Network]) -> bool:
    return any(_inside(network, other) or _inside(other, network) for other in others)


def _inside(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def _accept_dns(
    texts: Sequence[str], policy: Policy, refused: list[tuple[str, str]]
) -> tuple[Address, ...]:
    if not policy.accept_dns:
        return ()
    found: list[Address] = []
    for text in texts:
        try:
            address = ip_address(_unscoped(text))
        except ValueError:
            refused.append((_shown(text), "is not the address of a name server"))
            continue
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            refused.append((str(address), "cannot be a name server"))
        elif len(found) == MOST_DNS:
            refused.append((str(address), f"at most {MOST_DNS} name servers are accepted"))
            break
        else:
            found.append(address)
    return tuple(found)


def _accept_mtu(offered: int, policy: Policy, refused: list[tuple[str, str]]) -> int:
    mtu = offered or LEAST_MTU  # 0: unsaid
    if not LEAST_MTU <= mtu <= MOST_MTU:
        refused.append((f"mtu {offered}", f"is not from {LEAST_MTU} to {MOST_MTU}"))
        mtu = LEAST_MTU
    return min(mtu, policy.mtu) if policy.mtu else mtu


def _accept_heartbeat(offered: float, refused: list[tuple[str, str]]) -> float:
    if not offered:  # unsaid
        return NORMAL_HEARTBEAT
    if LEAST_HEARTBEAT <= offered <= MOST_HEARTBEAT:
        return offered
    refused.append(
        (f"heartbeat {offered:g}", f"is not from {LEAST_HEARTBEAT:g} to {MOST_HEARTBEAT:g} s")
    )
    return NORMAL_HEARTBEAT


def _shown(text: str) -> str:
    """A peer's text, safe to log: quoted, escaped, cut."""
    return ascii(text[:64])
