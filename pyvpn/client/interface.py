"""The client's tunnel interface: TUN, addresses, routes and rule, kept while connections come
and go, so that what runs inside the tunnel survives the loss of what carries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pyvpn.config import ClientConfig
from pyvpn.net.host import Host
from pyvpn.net.process import boottime
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tun import Tun
from pyvpn.tunnel.acceptance import (
    Accepted,
    Address,
    InterfaceAddress,
    Network,
    Policy,
    accept_addresses,
    accept_settings,
)
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.messages import RegisterAnswer, Settings

_log = Logger()

MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the server offered and this client took."""

    lease: tuple[InterfaceAddress, ...]
    accepted: Accepted

    @property
    def networks(self) -> tuple[Network, ...]:
        """Everything that is routed into the tunnel."""
        return self.accepted.routes


def policy_of(config: ClientConfig) -> Policy:
    """The part of the ini file that judges what a server pushes."""
    tunnel = config.tunnel
    return Policy(
        accept_routes=tunnel.accept_routes,
        accept_default_route=tunnel.accept_default_route,
        accept_own_networks=tunnel.accept_own_networks,
        accept_dns=tunnel.accept_dns,
        mtu=tunnel.mtu,
    )


class TunnelInterface:
    """See the module.

    Args:
        lost: called with a reason when the device cannot be had again.
        netlink: the one thread that *host* is used from.
    """

    def __init__(
        self,
        reactor: Any,
        config: ClientConfig,
        host: Host,
        netlink: DaemonThreads,
        counters: Counters,
        lost: Callable[[str], None],
    ) -> None:
        self.agreed: Agreed | None = None
        self.session = Session(
            device=0,
            user=0,
            name="server",
            addresses=(),
            sources=Prefixes(),
            reachable=frozenset(),
            heard=boottime(),
        )
        self._config = config
        self._host = host
        self._netlink = netlink
        self._lost = lost
        self._index = 0
        self._is_open = False
        self.tun = Tun(
            reactor,
            config.tunnel.device,
            config.tunnel.mtu or 1500,
            lambda packets: self.router.packets_from_tun(packets, boottime()),
            self._tun_lost,
            counters,
        )
        # One session, the server's; its silence is the heartbeat's business, not the router's.
        self.router = Router(self.tun, counters, expiry_seconds=float("inf"))
        self.router.add(self.session)

    def configure(self, config: ClientConfig) -> None:
        """Judge by another configuration from now on."""
        self._config = config

    def open(self) -> None:
        """Make the device, without address and down.

        Raises:
            HostError: the kernel does not give it.
        """
        if not self._is_open:
            self.tun.open()
            self._is_open = True

    async def agree(self, offer: RegisterAnswer, server: Address | None) -> Agreed:
        """Judge the whole *offer* of the server at *server* and make it so.

        Raises:
            PeerError: there is no address in it.
            HostError: the kernel refuses.
        """
        lease = accept_addresses(offer)
        return await self._apply(offer, lease, server)

    async def change(self, settings: Settings, server: Address | None) -> Agreed:
        """The same for settings pushed later; the lease stays."""
        agreed = self.agreed
        assert agreed is not None
        whole = replace(  # what is not said stays as it is
            settings,
            mtu=settings.mtu or agreed.accepted.mtu,
            heartbeat=settings.heartbeat or agreed.accepted.heartbeat,
        )
        return await self._apply(whole, agreed.lease, server)

    async def _apply(
        self,
        offer: RegisterAnswer | Settings,
        lease: tuple[InterfaceAddress, ...],
        server: Address | None,
    ) -> Agreed:
        self.open()
        own = await self._netlink.run(self._host.local_networks, (self.tun.name,))
        # The tunnel's own network is a route like any other, and judged like any other.
        tunnel_networks = tuple(str(interface.network) for interface in lease)
        whole = _with_routes(offer, (*tunnel_networks, *offer.routes))
        servers = () if server is None else (server,)
        accepted = accept_settings(
            whole, policy_of(self._config), [network for _, network in own], servers, lease
        )
        agreed = Agreed(lease, accepted)
        await self._netlink.run(self._make_so, agreed)
        self._route(agreed)
        self.tun.mtu = accepted.mtu
        self.tun.start()
        self.agreed = agreed
        return agreed

    def _make_so(self, agreed: Agreed) -> None:
        """(In the netlink thread.)"""
        tunnel = self._config.tunnel
        addresses = [f"{interface.ip}/{interface.max_prefixlen}" for interface in agreed.lease]
        self._index = self._host.link_up(self.tun.name, agreed.accepted.mtu, addresses)
        if tunnel.fwmark:
            self._host.add_rule(tunnel.fwmark, tunnel.table)
        table = tunnel.table if tunnel.fwmark else MAIN_TABLE
        for network in self._host.set_routes(self._index, agreed.networks, table):
            _log.warn(
                "{network} is routed elsewhere by another program: left as it is",
                network=str(network),
            )

    def _route(self, agreed: Agreed) -> None:
        """Let the router pass exactly what the kernel routes."""
        table: Prefixes[bool] = Prefixes()
        wanted = {(n.network_address.packed, n.prefixlen) for n in agreed.networks}
        for network, length in wanted:
            table.add(network, length, True)
            self.router.add_route(network, length, self.session)
        for interface in agreed.lease:
            # The server itself answers pings, also where its tunnel network is not routed.
            first = interface.network.network_address + 1
            table.add(first.packed, interface.max_prefixlen, True)
        if self.agreed is not None:
            for old in self.agreed.networks:
                key = (old.network_address.packed, old.prefixlen)
                if key not in wanted:
                    self.router.remove_route(*key)
        self.session.sources = table
        self.session.reachable = frozenset(interface.ip.packed for interface in agreed.lease)

    def _tun_lost(self, why: str) -> None:
        agreed = self.agreed
        self._is_open = False
        if agreed is None:
            return
        _log.warn("{why}: making it anew", why=why)
        again = Deferred.fromCoroutine(self._again(agreed))
        again.addErrback(lambda failure: self._lost(failure.getErrorMessage()))

    async def _again(self, agreed: Agreed) -> None:
        self.open()
        await self._netlink.run(self._make_so, agreed)
        self.tun.start()

    def describe(self) -> list[str]:
        """What was agreed, a line each, for the log."""
        agreed = self.agreed
        if agreed is None:
            return ["no lease yet"]
        lines = [f"address {interface.ip}" for interface in agreed.lease]
        shown = ", ".join(map(str, agreed.accepted.routes)) or "none"
        lines.append(f"routes into the tunnel: {shown}")
        if agreed.accepted.dns:
            shown = ", ".join(map(str, agreed.accepted.dns))
            lines.append(f"name servers offered (recorded, not applied yet): {shown}")
        return lines

    def close(self) -> None:
        """Give the device back, and with it its addresses and routes."""
        self.agreed = None
        self._is_open = False
        self.tun.close()


def _with_routes(offer: RegisterAnswer | Settings, routes: tuple[str, ...]) -> Settings:
    return Settings(
        routes=tuple(dict.fromkeys(routes)),
        dns=offer.dns,
        mtu=offer.mtu,
        heartbeat=offer.heartbeat,
        expiry=offer.expiry,
    )


def outer_address(host: object) -> Address | None:
    """The server's address as the connection has it, if it is one."""
    try:
        return ip_address(str(host).partition("%")[0])
    except ValueError:
        return None
