"""What the server offers to everybody at the moment: pushed networks, name servers, timings."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
)

from twisted.logger import Logger

from pyvpn.config import Address, Endpoint, Network, ServerConfig
from pyvpn.tunnel.acceptance import MOST_ROUTES
from pyvpn.tunnel.leases import Lease
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.wire.messages import Code, RegisterAnswer, Settings

_log = Logger()

# Half-open connections are found within 40 s: three heartbeats missed, and half of one more.
SILENT_HEARTBEATS = 3.5


def own_interface(network: Network) -> IPv4Interface | IPv6Interface:
    """The server's own tunnel address: the first host of *network*, with its prefix."""
    text = f"{network.network_address + 1}/{network.prefixlen}"
    return IPv4Interface(text) if isinstance(network, IPv4Network) else IPv6Interface(text)


def pools(config: ServerConfig) -> tuple[Network, ...]:
    """The networks that clients get their addresses from, IPv4 first."""
    pair = (config.tunnel.network4, config.tunnel.network6)
    return tuple(network for network in pair if network is not None)


def tunnel_networks(config: ServerConfig) -> tuple[Network, ...]:
    """The pools, and the plain clients' networks whose port is open."""
    return (*pools(config), *config.plain.networks)


def offered(config: ServerConfig, own: tuple[Network, ...]) -> Terms:
    """The terms that *config* means on a host whose private networks are *own*."""
    tunnel = config.tunnel
    routes = tunnel.routes
    if routes is None:
        families = {network.version for network in pools(config)}
        routes = tuple(
            network
            for network in own
            if network.version in families
            and not any(_overlap(network, other) for other in tunnel_networks(config))
        )
        if len(routes) > MOST_ROUTES:
            _log.warn(
                "this host has {n} private networks, and clients take {most}: the rest is left "
                "out; [tunnel] routes = ... chooses",
                n=len(routes),
                most=MOST_ROUTES,
            )
            routes = routes[:MOST_ROUTES]
    return Terms(
        interfaces=tuple(map(own_interface, pools(config))),
        routes=routes,
        dns=tunnel.dns,
        mtu=tunnel.mtu,
        heartbeat=tunnel.heartbeat,
        expiry=tunnel.expiry,
    )


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def link_of(config: ServerConfig, pin: str, source: str | None, user: str = "") -> str:
    """The one string a client needs: where the server is, and how its key is recognised.

    Args:
        source: this host's own address, for a server that is told no better; None if unknown.
        user: put in front, so that the client need not ask for it.
    """
    endpoints = config.public_endpoints or tuple(one for one in config.listen if one.host)
    if not endpoints:
        endpoints = (Endpoint(source or "ADDRESS-OF-THIS-SERVER", config.listen[0].port),)
    at = f"{user}@" if user else ""
    return f"pyvpn://{at}{','.join(map(str, endpoints))}?pin={pin}"


@dataclass(frozen=True, slots=True)
class Terms:
    """One offer; replaced as a whole when the configuration changes.

    Attributes:
        interfaces: the server's tunnel addresses, one per pool, each the pool's first host.
        routes: the networks that clients may reach and are told to route.
        mtu: bytes of an inner packet.
        heartbeat: seconds between two of a client's heartbeats.
        expiry: seconds of silence that end a session.
    """

    interfaces: tuple[IPv4Interface | IPv6Interface, ...]
    routes: tuple[Network, ...]
    dns: tuple[Address, ...]
    mtu: int
    heartbeat: float
    expiry: float

    @property
    def silence(self) -> float:
        """Seconds after which a connection, not yet the session, is given up."""
        return min(SILENT_HEARTBEATS * self.heartbeat, self.expiry)

    def reachable(self) -> Prefixes[bool]:
        """Where a session's packets may go: the pushed networks and our tunnel addresses."""
        table: Prefixes[bool] = Prefixes()
        for network in self.routes:
            table.add(network.network_address.packed, network.prefixlen, True)
        for interface in self.interfaces:
            table.add(interface.ip.packed, interface.max_prefixlen, True)
        return table

    def answer(self, lease: Lease) -> RegisterAnswer:
        """Tell a client its *lease* and everything else it needs."""
        leased = {4: lease.address4, 6: lease.address6}
        given = {4: "", 6: ""}
        server = {4: "", 6: ""}
        for interface in self.interfaces:
            packed = leased[interface.version]
            if packed is not None:
                given[interface.version] = f"{ip_address(packed)}/{interface.network.prefixlen}"
                server[interface.version] = str(interface.ip)
        return RegisterAnswer(
            success=True,
            code=Code.OK,
            address4=given[4],
            address6=given[6],
            server4=server[4],
            server6=server[6],
            routes=tuple(map(str, self.routes)),
            dns=tuple(map(str, self.dns)),
            mtu=self.mtu,
            heartbeat=self.heartbeat,
            expiry=self.expiry,
        )

    def settings(self) -> Settings:
        """The part that may change while a client is connected."""
        return Settings(
            routes=tuple(map(str, self.routes)),
            dns=tuple(map(str, self.dns)),
            mtu=self.mtu,
            heartbeat=self.heartbeat,
            expiry=self.expiry,
        )
