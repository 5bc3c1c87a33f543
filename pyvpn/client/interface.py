"""The client's tunnel interface: TUN, addresses, routes and rule, kept while connections come
and go, so that what runs inside the tunnel survives the loss of what carries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from pyvpn.config import ClientConfig
from pyvpn.net.host import Host
from pyvpn.net.process import boottime
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tun import ITunSystem, Tun
from pyvpn.net.upkeep import Upkeep
from pyvpn.tunnel.acceptance import (
    EVERYTHING,
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
from pyvpn.wire.slab import Slab

_log = Logger()

MAIN_TABLE = 254

_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


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
    allowed = tunnel.accept_routes
    if config.protocol == "plain-udp" and allowed != EVERYTHING:
        # There the list is what is routed, and the server draws nothing into the tunnel but its
        # own end of it.
        allowed = (*allowed, *_PRIVATE)
    return Policy(
        accept_routes=allowed,
        accept_default_route=tunnel.accept_default_route,
        accept_own_networks=tunnel.accept_own_networks,
        accept_dns=tunnel.accept_dns,
        mtu=tunnel.mtu,
        marked=tunnel.fwmark != 0,
    )


class TunnelInterface:
    """See the module.

    Args:
        lost: called with a reason when the device cannot be had again.
        netlink: the one thread that *host* is used from.
        system: the kernel, unless a test has another.
    """

    def __init__(
        self,
        reactor: Any,
        config: ClientConfig,
        host: Host,
        netlink: DaemonThreads,
        counters: Counters,
        lost: Callable[[str], None],
        system: ITunSystem | None = None,
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
        self._target: Agreed | None = None  # what the kernel is to be brought to
        self._contested: set[Network] = set()
        self._one_at_a_time = DeferredLock()
        self.sent: Callable[[], None] = lambda: None
        """Called after packets were given to the session."""
        self._upkeep = Upkeep(reactor, netlink, self._make_so, lost)
        self.tun = self._upkeep.tun = Tun(
            reactor,
            config.tunnel.device,
            config.tunnel.mtu or 1500,
            self._packets_from_tun,
            self._upkeep.deleted,
            counters,
            system,
            frames=self._frames_from_tun,
            slab=self._slab_from_tun,
        )
        # One session, the server's; its silence is the heartbeat's business, not the router's.
        self.router = Router(self.tun, counters, expiry_seconds=float("inf"))
        self.router.add(self.session)

    def _packets_from_tun(self, packets: list[bytes]) -> None:
        self.router.packets_from_tun(packets, boottime())
        self._packets_gone()

    def _frames_from_tun(self, frames: list[bytes]) -> None:
        self.router.frames_from_tun(frames, boottime())
        self._packets_gone()

    def _slab_from_tun(self, slab: Slab) -> None:
        self.router.slab_from_tun(slab, boottime())

    def _packets_gone(self) -> None:
        self.sent()
        self.tun.hand_out_frames(self.session.crosses_uncut)

    def configure(self, config: ClientConfig) -> None:
        """Judge by another configuration from now on."""
        self._config = config

    def open(self) -> None:
        """Make the device, without address and down.

        Raises:
            HostError: the kernel does not give it.
        """
        self._upkeep.open()

    async def agree(self, offer: RegisterAnswer, server: Address | None) -> Agreed:
        """Judge the whole *offer* of the server at *server* and make it so.

        Raises:
            PeerError: there is no address in it, or one that this host cannot have.
            HostError: the kernel refuses.
        """
        return await self._apply(offer, None, server)

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
        lease: tuple[InterfaceAddress, ...] | None,
        server: Address | None,
    ) -> Agreed:
        await self._one_at_a_time.acquire()
        try:
            return await self._apply_alone(offer, lease, server)
        finally:
            self._one_at_a_time.release()

    async def _apply_alone(
        self,
        offer: RegisterAnswer | Settings,
        lease: tuple[InterfaceAddress, ...] | None,
        server: Address | None,
    ) -> Agreed:
        self.open()
        found = await self._netlink.run(self._host.local_networks, (self.tun.name,))
        own = [network for _, network in found]
        policy, servers = policy_of(self._config), () if server is None else (server,)
        if lease is None:
            assert isinstance(offer, RegisterAnswer)
            lease = accept_addresses(offer, policy, own, servers)
        # The tunnel's own network is a route like any other, and judged like any other.
        tunnel_networks = tuple(str(each.network) for each in lease if not _is_alone(each))
        whole = _with_routes(offer, (*tunnel_networks, *offer.routes))
        accepted = accept_settings(whole, policy, own, servers, lease)
        agreed = self._target = Agreed(lease, accepted)
        await self._netlink.run(self._make_so)
        self._route(agreed)
        self.tun.mtu = accepted.mtu
        self._upkeep.begin()
        self.agreed = agreed
        return agreed

    def _make_so(self) -> None:
        """(In the netlink thread.)"""
        agreed, tunnel = self._target, self._config.tunnel
        if agreed is None:
            return
        addresses = [f"{interface.ip}/{interface.max_prefixlen}" for interface in agreed.lease]
        index = self._host.link_up(self.tun.name, agreed.accepted.mtu, addresses)
        if tunnel.fwmark:
            self._host.add_rule(tunnel.fwmark, tunnel.table)
        if any(network.prefixlen < 8 for network in agreed.networks):
            self._host.loosen_reverse_path()
        table = tunnel.table if tunnel.fwmark else MAIN_TABLE
        contested = set(self._host.set_routes(index, agreed.networks, table))
        for network in contested - self._contested:
            _log.warn(
                "{network} is routed elsewhere by another program: left as it is",
                network=str(network),
            )
        self._contested = contested

    def _route(self, agreed: Agreed) -> None:
        """Let the router pass exactly what the kernel routes."""
        table: Prefixes[bool] = Prefixes()
        wanted = {(n.network_address.packed, n.prefixlen) for n in agreed.networks}
        for network, length in wanted:
            table.add(network, length, True)
            self.router.add_route(network, length, self.session)
        for interface in agreed.lease:
            if _is_alone(interface):
                continue
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
        self.agreed = self._target = None
        self._upkeep.close()


def _is_alone(interface: InterfaceAddress) -> bool:
    """One end of a point-to-point link: it has no network."""
    return interface.network.num_addresses == 1


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
