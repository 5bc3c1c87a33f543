"""The server's tunnel interface and what belongs to it on the host: addresses, firewall, guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pyvpn.config import Network, ServerConfig
from pyvpn.errors import ConfigError
from pyvpn.net.host import Firewall, Host, private_networks
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tun import Tun
from pyvpn.net.upkeep import Upkeep
from pyvpn.server.terms import own_interface, pools, tunnel_networks
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.slab import Slab

_log = Logger()


class ServerInterface:
    """One TUN for all clients of both generations.

    Args:
        netlink: the one thread in which the host is changed.
        received: takes each batch of packets that the kernel hands us.
        frames: takes what it hands us uncut, see :class:`pyvpn.net.tun.Tun`.
        lost: called with a reason when the device was deleted and cannot be had again.
    """

    def __init__(
        self,
        reactor: Any,
        config: ServerConfig,
        netlink: DaemonThreads,
        counters: Counters,
        *,
        received: Callable[[list[bytes]], None],
        lost: Callable[[str], None],
        frames: Callable[[list[bytes]], None] | None = None,
        slab: Callable[[Slab], None] | None = None,
    ) -> None:
        self.host = Host(str(config.state_dir), "server")
        self._upkeep = Upkeep(reactor, netlink, self._make_so, lost)
        self.tun = self._upkeep.tun = Tun(
            reactor,
            config.tunnel.device,
            config.tunnel.mtu,
            received,
            self._upkeep.deleted,
            counters,
            frames=frames,
            slab=slab,
        )
        self._config = config
        self._firewall: Firewall | None = None
        self._netlink = netlink

    def open(self) -> None:
        """Make everything; before the reactor runs.

        Raises:
            HostError: the kernel refuses; what was done so far is undone by :meth:`close`.
            ConfigError: this host is in a network that clients were to get their addresses from.
        """
        self._refuse_own(self._netlink.call(self.host.own_networks, (self.tun.name,)))
        self._upkeep.open()
        self._netlink.call(self._make_so)
        self._netlink.call(self.host.settle)
        if self._config.firewall.manage:
            self._warn_of_droppers(self._netlink.call(self.host.forward_droppers))
        self._upkeep.begin()

    def _refuse_own(self, own: list[tuple[str, Network]]) -> None:
        """Two servers with one pool, or a pool that is the LAN itself, would hide each other.

        (A larger LAN around the pool is the operator's choice: the pool's route is the closer.)
        """
        config = self._config
        for where, network in (
            (config.where("tunnel", "network4"), config.tunnel.network4),
            (config.where("tunnel", "network6"), config.tunnel.network6),
            (config.where("plain", "network"), config.plain.network),
            (config.where("plain", "udp_network"), config.plain.udp_network),
        ):
            if network is None or network not in tunnel_networks(config):
                continue
            for name, mine in own:
                if mine.version == network.version and mine.subnet_of(network):  # type: ignore[arg-type]  # versions agree
                    raise ConfigError(
                        f"{where} = {network}: a network that this host is not in itself "
                        f"(its interface {name} is in {mine})"
                    )

    def _warn_of_droppers(self, chains: list[str]) -> None:
        device = self._config.tunnel.device
        for chain in chains:
            _log.warn(
                "another firewall on this host drops forwarded packets (nft chain {chain}, as "
                "Docker and ufw make it): clients will reach this server but not the LAN until "
                "you allow it, for instance:  iptables -I FORWARD -i {device} -j ACCEPT; "
                "iptables -I FORWARD -o {device} -m conntrack --ctstate ESTABLISHED,RELATED "
                "-j ACCEPT  (ufw: ufw route allow in on {device})",
                chain=chain,
                device=device,
            )

    def own_networks(self) -> tuple[Network, ...]:
        """Private networks on our own interfaces; before the reactor runs."""
        return self._netlink.call(self._own_networks)

    def outer_address(self) -> str | None:
        """The address this host has towards the world; before the reactor runs."""
        for version in (4, 6):
            found = self._netlink.call(self.host.default_source, version)
            if found is not None:
                return str(found)
        return None

    def apply(self, config: ServerConfig) -> Deferred[tuple[Network, ...]]:
        """Change the host to *config*; fires with :meth:`own_networks`."""

        def change() -> tuple[Network, ...]:
            self._make_so()
            return self._own_networks()

        self._config = config
        self.tun.mtu = config.tunnel.mtu
        return self._netlink.run(change)

    def undo(self) -> Deferred[list[str]]:
        """Give the device back and undo what would outlive it."""
        self._upkeep.close()
        return self._netlink.run(self.host.undo)

    def close(self) -> None:
        """The same when a start has failed, and nothing runs yet."""
        self._upkeep.close()
        self._netlink.call(self.host.undo)

    def _make_so(self) -> None:
        """(In the netlink thread.)"""
        config = self._config
        networks = tunnel_networks(config)
        # The guard before the interface: from here on no packet for a client can leave by the
        # default route, whatever happens to us.
        self.host.guard(networks)
        self.host.link_up(
            self.tun.name,
            config.tunnel.mtu,
            [str(own_interface(network)) for network in networks],
        )
        if not config.firewall.manage:
            self._firewall = None
            self.host.leave_firewall()
            return
        versions = {network.version for network in networks}
        self.host.forwarding(4 in versions, 6 in versions)
        wanted = self._wanted_firewall()
        if wanted != self._firewall or not self.host.firewall_stands(wanted.device):
            self.host.firewall(wanted)
            self._firewall = wanted

    def _wanted_firewall(self) -> Firewall:
        config = self._config
        return Firewall(
            device=config.tunnel.device,
            networks=pools(config),
            masquerade=config.firewall.masquerade,
            client_to_client=config.tunnel.client_to_client,
            plain_networks=config.plain.networks,
            plain_bypass=config.plain.bypass,
            bystanders=self.host.bystanders(config.tunnel.device),
            bystander_versions=self.host.forwarding_is_ours(),
        )

    def _own_networks(self) -> tuple[Network, ...]:
        own = private_networks(self.host.own_networks((self._config.tunnel.device,)))
        return tuple(dict.fromkeys(network for _, network in own))
