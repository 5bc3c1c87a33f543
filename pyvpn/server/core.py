"""What a server is apart from its host and its ports: accounts, leases, sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pyvpn.auth import CertificateChecker, make_portal
from pyvpn.config import Network, ServerConfig
from pyvpn.net.control import ControlLink
from pyvpn.net.process import boottime
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tls import ServerIdentity
from pyvpn.server.clients import Clients
from pyvpn.server.listen import Relays
from pyvpn.server.login import LogIns
from pyvpn.server.plain import PlainClients
from pyvpn.server.terms import offered, own_interface
from pyvpn.server.visit import Statistics
from pyvpn.store.records import User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.leases import Leases
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import PacketSink
from pyvpn.tunnel.throttle import Throttle

_log = Logger()


class Core:
    """Makes these parts, and changes them when the configuration or the accounts change.

    To be made before the reactor runs: it waits for the store.

    Args:
        storage: the one thread that *store* is used from.
        hashing: the threads in which passwords are hashed.
        tun: takes the packets for the host and its networks.
        own: the private networks that the host is in.
        identity: gives the authority that signs devices, as it is at the moment.
        checkers: further twisted.cred checkers, for accounts that are not in our store.
        now: CLOCK_BOOTTIME seconds.
        unix: wall clock seconds, for what is written to disk.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        store: Store,
        storage: DaemonThreads,
        hashing: DaemonThreads,
        tun: PacketSink,
        own: tuple[Network, ...],
        identity: Callable[[], ServerIdentity],
        counters: Counters,
        checkers: tuple[Any, ...] = (),
        now: Callable[[], float] = boottime,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._storage = storage
        self._counters = counters
        self._now = now
        self._unix = unix
        self._seen: object = None  # the version of the data that was looked at last
        self.users = {user.id: user for user in storage.call(store.users)}
        self._pools = {
            network.version: AddressPool(
                network, [own_interface(network).ip], config.leases.quarantine
            )
            for network in (config.tunnel.network4, config.tunnel.network6)
            if network is not None
        }
        self.leases = self._load_leases(config.leases.sticky)
        self.router = Router(
            tun,
            counters,
            client_to_client=config.tunnel.client_to_client,
            expiry_seconds=config.tunnel.expiry,
        )
        self.relays = Relays(config.trusted_relays, config.proxy_protocol_relays)
        self._admissions: list[Admission] = []
        self._certificates = CertificateChecker(store, storage.run, unix, config.reauth_after)
        self.clients = self._make_clients(config, own, hashing, identity, checkers)
        self.plain = self._make_plain(config)

    def _load_leases(self, sticky_seconds: float) -> Leases:
        leases = Leases(self._pools.get(4), self._pools.get(6), sticky_seconds)
        on_file = self._storage.call(self._store.leases)
        dropped = leases.restore(on_file, self._unix())
        if dropped:
            _log.info("{n} leases are outside the pools now: forgotten", n=len(dropped))
            self._storage.call(self._store.delete_leases, [lease.device for lease in dropped])
        for user in self.users.values():
            leases.reserve_fixed(user.id, user.fixed4, user.fixed6)
        return leases

    def _make_clients(
        self,
        config: ServerConfig,
        own: tuple[Network, ...],
        hashing: DaemonThreads,
        identity: Callable[[], ServerIdentity],
        checkers: tuple[Any, ...],
    ) -> Clients:
        statistics = Statistics()
        log_ins = LogIns(
            portal=make_portal(
                self._store,
                self._storage.run,
                hashing.run,
                self._unix,
                # Ours once more, since this one is changed while we run.
                checkers=(self._certificates, *checkers),
            ),
            identity=identity,
            store=self._store,
            storage=self._storage,
            throttle=Throttle(),
            now=self._now,
            unix=self._unix,
            statistics=statistics,
        )
        return Clients(
            now=self._now,
            unix=self._unix,
            source_of=self._source_of,
            log_ins=log_ins,
            statistics=statistics,
            store=self._store,
            storage=self._storage,
            leases=self.leases,
            router=self.router,
            terms=offered(config, own),
            admission=self._make_admission(config),
            counters=self._counters,
        )

    def _make_plain(self, config: ServerConfig) -> PlainClients | None:
        if config.plain.tcp_listen is None or config.plain.bypass is None:
            return None
        return PlainClients(
            network=config.plain.network,
            bypass=config.plain.bypass,
            now=self._now,
            source_of=self._source_of,
            router=self.router,
            admission=self._make_admission(config),
            counters=self._counters,
        )

    def _make_admission(self, config: ServerConfig) -> Admission:
        admission = Admission(
            config.unauthenticated_connections, config.unauthenticated_per_source
        )
        self._admissions.append(admission)
        return admission

    def _source_of(self, link: ControlLink) -> tuple[bytes | None, str]:
        return self.relays.source_of(link)

    def tick(self) -> None:
        """End the sessions whose time is over."""
        self.clients.expire(self.router.tick(self._now()))

    # -- the configuration

    def apply(self, config: ServerConfig, own: tuple[Network, ...]) -> None:
        """Do as *config* says from now on; connected clients are told and keep their sessions.

        Pools and plain clients stay as they were made.
        """
        self.relays.replace(config.trusted_relays, config.proxy_protocol_relays)
        self._certificates.reauth_after = config.reauth_after
        for admission in self._admissions:
            admission.total = config.unauthenticated_connections
            admission.per_source = config.unauthenticated_per_source
        self.router.client_to_client = config.tunnel.client_to_client
        self.router.expiry_seconds = config.tunnel.expiry
        self.leases.sticky_seconds = config.leases.sticky
        for pool in self._pools.values():
            pool.quarantine_seconds = config.leases.quarantine
        terms = offered(config, own)
        if terms != self.clients.terms:
            self.clients.offer(terms)

    # -- the accounts

    def look_for_changes(self) -> Deferred[None]:
        """Take over what the command line has changed in the store; may fail with PyvpnError."""
        return self._storage.run(self._changed).addCallback(self._take_over)

    def _changed(self) -> tuple[list[User], set[int]] | None:
        """Users, and which devices there are, if they may be others (in the store's thread)."""
        version = self._store.data_version()
        if version == self._seen:
            return None
        found = self._store.users(), {device.id for device in self._store.devices()}
        self._seen = version  # not before: a disk that fails is asked again
        return found

    def _take_over(self, changed: tuple[list[User], set[int]] | None) -> None:
        if changed is None:
            return
        users, devices = changed
        current = {user.id: user for user in users}
        for gone in self.users.keys() - current.keys():
            self.leases.reserve_fixed(gone, None, None)
        for user in users:
            self.leases.reserve_fixed(user.id, user.fixed4, user.fixed6)
        self.users = current
        self.clients.users_changed(current)
        self.leases.forget_all_but(devices, self._unix())
