"""What a server is apart from its host and its ports: accounts, leases, sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pyvpn.auth import CertificateChecker, IDeviceCertificate, make_portal
from pyvpn.config import Network, ServerConfig, read_plain_password
from pyvpn.net.control import ControlLink
from pyvpn.net.process import boottime
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tls import ServerIdentity
from pyvpn.server.clients import KICKED_SECONDS, Clients
from pyvpn.server.listen import Relays
from pyvpn.server.login import LogIns
from pyvpn.server.plain import PlainClients
from pyvpn.server.plain_udp import PlainUdp
from pyvpn.server.terms import offered, own_interface
from pyvpn.server.visit import Statistics
from pyvpn.server.wireguard import WireGuardServer
from pyvpn.store.records import Device, Remembered, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.leases import Lease, Leases
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import PacketSink
from pyvpn.tunnel.throttle import Throttle
from pyvpn.wire.messages import Code

_log = Logger()


class _OnFile(NamedTuple):
    """What the command line changes."""

    users: list[User]
    devices: list[Device]
    pinned: list[Lease]
    remembered: list[Remembered]


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
        # Another checker's judgement of a certificate cannot be asked for between two packets.
        self.may_return = not any(
            each.isOrExtends(IDeviceCertificate)
            for checker in checkers
            for each in checker.credentialInterfaces
        )
        """Whether devices on file may come by UDP alone."""
        self.clients = self._make_clients(config, own, hashing, identity, checkers)
        self.clients.interrupted(self._interrupted)
        self.plain = self._make_plain(config)
        self.plain_udp = self._make_plain_udp(config)
        self.wireguard: WireGuardServer | None = None
        """To be told of changes, once there is one."""

    def _load_leases(self, sticky_seconds: float) -> Leases:
        leases = Leases(self._pools.get(4), self._pools.get(6), sticky_seconds)
        on_file = self._storage.call(self._store.leases)
        self._interrupted = {row.device for row in on_file if row.released is None}
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

    def _make_plain_udp(self, config: ServerConfig) -> PlainUdp | None:
        plain = config.plain
        if plain.udp_listen is None or plain.bypass is None:
            return None
        return PlainUdp(
            network=plain.udp_network,
            bypass=plain.bypass,
            password=read_plain_password(plain, config.where("plain", "udp_password_file")),
            router=self.router,
            now=self._now,
        )

    def _make_admission(self, config: ServerConfig) -> Admission:
        admission = Admission(
            config.unauthenticated_connections, config.unauthenticated_per_source
        )
        self._admissions.append(admission)
        return admission

    def _source_of(self, link: ControlLink) -> tuple[bytes | None, str]:
        return self.relays.source_of(link)

    def objection(self, user: User, device: Device) -> str:
        """Why a device would not be let in by its certificate now; empty: it would."""
        if not self.may_return:
            return "who may log in is decided elsewhere"
        if user.disabled:
            return "user disabled"
        return self._certificates.password_needed(user, device)

    def tick(self) -> None:
        """End the sessions whose time is over."""
        now = self._now()
        # Who has no user is a plain client, whose time is its protocol's own.
        self.clients.expire([each for each in self.router.tick(now) if each.user])
        if self.plain_udp is not None:
            self.plain_udp.tick(now)

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
        if self.wireguard is not None:
            self.wireguard.offer(terms, config.wireguard.public_endpoints)

    # -- the accounts

    def look_for_changes(self) -> Deferred[None]:
        """Take over what the command line has changed in the store; may fail with PyvpnError."""
        return self._storage.run(self._changed).addCallback(self._take_over)

    def _changed(self) -> _OnFile | None:
        """What the command line may have changed, if it may have (in the store's thread)."""
        version = self._store.data_version()
        if version == self._seen:
            return None
        found = _OnFile(
            self._store.users(),
            self._store.devices(),
            self._store.pinned_leases(),
            self._store.peers(),
        )
        self._seen = version  # not before: a disk that fails is asked again
        return found

    def _take_over(self, changed: _OnFile | None) -> None:
        if changed is None:
            return
        current = {user.id: user for user in changed.users}
        for gone in self.users.keys() - current.keys():
            self.leases.reserve_fixed(gone, None, None)
        for user in changed.users:
            self.leases.reserve_fixed(user.id, user.fixed4, user.fixed6)
        self.users = current
        self.clients.users_changed(current)
        devices = {device.id for device in changed.devices}
        self._dismiss(
            self.clients.sessions.keys() - devices, Code.KICKED, "the device was removed"
        )
        unix = self._unix()
        self.leases.forget_all_but(devices, unix)
        ended = self.leases.pin(changed.pinned, unix)
        self._dismiss(ended, Code.LOG_IN_AGAIN, "the address was given to another device", 0.0)
        if self.wireguard is not None:
            self.wireguard.take_over(changed.devices, current, changed.remembered)

    def _dismiss(
        self, devices: Iterable[int], code: Code, why: str, retry_after: float = KICKED_SECONDS
    ) -> None:
        for device in devices:
            session = self.clients.sessions.get(device)
            if session is not None:
                self.clients.dismiss(session, code, why, retry_after)
