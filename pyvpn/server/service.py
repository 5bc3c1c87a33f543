"""The server as a Twisted service: makes everything, owns it, and undoes it at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from pyvpn.auth import make_portal
from pyvpn.config import Network, ServerConfig, load_server
from pyvpn.errors import PyvpnError
from pyvpn.net.process import (
    StateLock,
    boottime,
    end_with_failure,
    own_signals,
    refuse_to_start,
)
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tls import ServerIdentity, load_or_make_identity, server_options
from pyvpn.server.clients import Clients
from pyvpn.server.interface import ServerInterface
from pyvpn.server.listen import Door, LinkFactory, Relays, listen_everywhere
from pyvpn.server.login import LogIns
from pyvpn.server.plain import PlainClients
from pyvpn.server.terms import link_of, offered, own_interface
from pyvpn.server.visit import Statistics
from pyvpn.store.records import User
from pyvpn.store.sqlite import FILE_NAME, Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.leases import Leases
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.throttle import Throttle
from pyvpn.wire.command import PLAIN_VERSION, VERSION

_log = Logger()

TICK_SECONDS = 1.0
LOOK_SECONDS = 0.5
"""How often the user database is asked whether somebody changed it: one PRAGMA."""
LEASE_SECONDS = 60.0
FAREWELL_SECONDS = 0.3
UNDO_SECONDS = 1.2
COME_BACK_SECONDS = 1.0
"""What clients are told at a shutdown: most shutdowns are restarts."""

HASHES_AT_ONCE = 2
HASHES_WAITING = 16  # 16 of 65 ms on two threads: half a second at the most
STORE_WAITING = 20_000

# What SIGHUP can change under running sessions; the rest says that it needs a restart.
_LIVE = ("routes", "mtu", "dns", "client_to_client", "heartbeat", "expiry")


class ServerService(Service):
    """One pyvpn server.

    Args:
        config: from :func:`pyvpn.config.load_server`.
        daemonised: twistd has left the terminal, so an error must reach it another way.
        checkers: further twisted.cred checkers, for accounts that are not in our store.
    """

    name = "pyvpn server"

    def __init__(
        self,
        config: ServerConfig,
        reactor: Any,
        *,
        daemonised: bool = False,
        checkers: tuple[Any, ...] = (),
    ) -> None:
        self.config = config
        self.reactor = reactor
        self.counters = Counters()
        self._daemonised = daemonised
        self._checkers = checkers
        self._lock = StateLock(str(config.state_dir))
        self._netlink = DaemonThreads(reactor, 1, "netlink", 100)
        self._storage = DaemonThreads(reactor, 1, "store", STORE_WAITING)
        self._hashing = DaemonThreads(reactor, HASHES_AT_ONCE, "hash", HASHES_WAITING)
        self._ports: list[IListeningPort] = []
        self._loops: list[LoopingCall] = []
        self._undo: list[Callable[[], object]] = []
        self._data_version = -1

    # -- start

    def startService(self) -> None:
        try:
            self._begin()
        except PyvpnError as error:
            self._give_back()
            refuse_to_start(error, self._daemonised)
        super().startService()

    def _begin(self) -> None:
        config = self.config
        self._lock.take()
        self._undo.append(self._lock.release)
        self._lock.write_pid()
        unix = time.time()
        self.identity = self._load_identity(config, unix)
        self.store = self._storage.call(Store, config.state_dir / FILE_NAME)
        self._undo.append(lambda: self._storage.call(self.store.close))
        self.leases = self._load_leases(unix)
        self.interface = ServerInterface(
            self.reactor,
            config,
            self._netlink,
            self.counters,
            received=lambda packets: self.router.packets_from_tun(packets, boottime()),
            lost=lambda why: end_with_failure(self.reactor, why),
        )
        self.router = Router(
            self.interface.tun,
            self.counters,
            client_to_client=config.tunnel.client_to_client,
            expiry_seconds=config.tunnel.expiry,
        )
        self._build_clients()
        # The port first: a second server fails here, before anything of the host is touched.
        self._listen()
        self._undo.append(self.interface.close)
        self.interface.open()
        self._announce()
        self._start_loops()
        own_signals(
            self.reactor,
            stop=self.reactor.stop,
            reload=self.reload,
            status=self.log_status,
        )

    def _give_back(self) -> None:
        """Undo what a failed start had done so far, last things first."""
        for port in self._ports:
            port.stopListening()
        while self._undo:
            try:
                self._undo.pop()()
            except PyvpnError as error:
                _log.warn("while giving up: {error}", error=str(error))

    @staticmethod
    def _load_identity(config: ServerConfig, unix: float) -> ServerIdentity:
        names = [endpoint.host for endpoint in config.public_endpoints]
        return load_or_make_identity(
            config.state_dir,
            unix,
            config.tls.certificate,
            config.tls.private_key,
            (*names, *config.tls.names),
        )

    def _pool(self, network: Network | None) -> AddressPool | None:
        if network is None:
            return None
        mine = own_interface(network).ip
        return AddressPool(network, [mine], quarantine_seconds=self.config.leases.quarantine)

    def _load_leases(self, unix: float) -> Leases:
        leases = Leases(
            self._pool(self.config.tunnel.network4),
            self._pool(self.config.tunnel.network6),
            sticky_seconds=self.config.leases.sticky,
        )
        dropped = leases.restore(self._storage.call(self.store.leases), unix)
        if dropped:
            _log.info("{n} leases are outside the pools now: forgotten", n=len(dropped))
            self._storage.call(self.store.delete_leases, [lease.device for lease in dropped])
        self._users = {user.id: user for user in self._storage.call(self.store.users)}
        for user in self._users.values():
            leases.reserve_fixed(user.id, user.fixed4, user.fixed6)
        return leases

    def _build_clients(self) -> None:
        config = self.config
        self.relays = Relays(config.trusted_relays, config.proxy_protocol_relays)
        self.portal = make_portal(
            self.store,
            self._storage.run,
            self._hashing.run,
            time.time,
            config.reauth_after,
            self._checkers,
        )
        admission = Admission(
            config.unauthenticated_connections, config.unauthenticated_per_source
        )
        statistics = Statistics()
        log_ins = LogIns(
            portal=self.portal,
            identity=lambda: self.identity,
            store=self.store,
            storage=self._storage,
            throttle=Throttle(),
            now=boottime,
            unix=time.time,
            statistics=statistics,
        )
        self.clients = Clients(
            now=boottime,
            source_of=lambda link: self.relays.source_of(link),
            log_ins=log_ins,
            statistics=statistics,
            store=self.store,
            storage=self._storage,
            leases=self.leases,
            router=self.router,
            terms=offered(config, self.interface.own_networks()),
            admission=admission,
            counters=self.counters,
        )
        self.plain: PlainClients | None = None
        if config.plain.tcp_listen is not None and config.plain.bypass is not None:
            self.plain = PlainClients(
                network=config.plain.network,
                bypass=config.plain.bypass,
                now=boottime,
                source_of=lambda link: self.relays.source_of(link),
                router=self.router,
                admission=Admission(
                    config.unauthenticated_connections, config.unauthenticated_per_source
                ),
                counters=self.counters,
            )

    def _listen(self) -> None:
        links = LinkFactory(self.clients, self.reactor, version=VERSION, tls=True)
        self.door = Door(links, server_options(self.identity), self.relays)
        self._ports += listen_everywhere(self.reactor, self.config.listen, self.door)
        if self.plain is not None and self.config.plain.tcp_listen is not None:
            links = LinkFactory(self.plain, self.reactor, version=PLAIN_VERSION, tls=False)
            self._ports += listen_everywhere(self.reactor, [self.config.plain.tcp_listen], links)

    # -- what is said at start

    def _announce(self) -> None:
        terms = self.clients.terms
        for interface in terms.interfaces:
            _log.info("clients get addresses of {network}", network=str(interface.network))
        shown = ", ".join(map(str, terms.routes)) or "none but the server itself"
        _log.info("networks that clients can reach: {routes}", routes=shown)
        if self.plain is not None:
            _log.warn(
                "[plain] tcp_listen is open on {port}: no encryption and no log-in; whoever "
                "reaches that port reaches {bypass}",
                port=str(self.config.plain.tcp_listen),
                bypass=str(self.config.plain.bypass),
            )
        if not self._users:
            _log.info("there are no users yet: pyvpn user add NAME")
        _log.info("pin of this server: {pin}", pin=self.identity.pin)
        _log.info("a client needs this line in its [client] section, or pyvpn join with its link:")
        _log.info("server = {link}", link=self.link())

    def link(self) -> str:
        """Where clients find this server and how they recognise it, as one string."""
        return link_of(self.config, self.identity.pin, self.interface.outer_address())

    # -- while it runs

    def _start_loops(self) -> None:
        for body, seconds in (
            (self._tick, TICK_SECONDS),
            (self._look_for_changes, LOOK_SECONDS),
            (self._expire_leases, LEASE_SECONDS),
        ):
            loop = LoopingCall(self._guarded, body)
            loop.clock = self.reactor
            loop.start(seconds, now=False)
            self._loops.append(loop)

    def _guarded(self, body: Callable[[], Deferred[Any] | None]) -> Deferred[Any] | None:
        # A LoopingCall whose body fails once is never called again, and nobody would notice.
        try:
            result = body()
        except Exception:  # noqa: BLE001 - any bug at all
            _log.failure("a periodic task failed")
            return None
        if result is not None:
            result.addErrback(self._periodic_failure)
        return result

    def _periodic_failure(self, failure: Any) -> None:
        if failure.check(PyvpnError):
            _log.warn("{error}", error=failure.getErrorMessage())
        else:
            _log.failure("a periodic task failed", failure)

    def _tick(self) -> None:
        self.clients.expire(self.router.tick(boottime()))

    def _look_for_changes(self) -> Deferred[Any]:
        return self._storage.run(self._changed_users).addCallback(self._apply_users)

    def _changed_users(self) -> list[User] | None:
        """The accounts, if another process changed the database (in the store's thread)."""
        version = self.store.data_version()
        if version == self._data_version:
            return None
        self._data_version = version
        return self.store.users()

    def _apply_users(self, users: list[User] | None) -> None:
        if users is None:
            return
        current = {user.id: user for user in users}
        for gone in self._users.keys() - current.keys():
            self.leases.reserve_fixed(gone, None, None)
        for user in users:
            self.leases.reserve_fixed(user.id, user.fixed4, user.fixed6)
        self._users = current
        self.clients.users_changed(current)

    def _expire_leases(self) -> Deferred[Any] | None:
        ended = self.leases.expire(time.time())
        return self._storage.run(self.store.delete_leases, ended) if ended else None

    # -- SIGHUP

    def reload(self) -> None:
        """Read the configuration again and apply the difference; a broken file changes nothing."""
        try:
            fresh = load_server(self.config.path)
            identity = self._load_identity(fresh, time.time())
        except PyvpnError as error:
            _log.error("configuration not applied, nothing was changed: {error}", error=str(error))
            return
        old, tunnel = self.config, fresh.tunnel
        kept = replace(old.tunnel, **{name: getattr(tunnel, name) for name in _LIVE})
        merged = replace(
            fresh, state_dir=old.state_dir, listen=old.listen, tunnel=kept, plain=old.plain
        )
        for where, before, after in (
            ("[server] state_dir", old.state_dir, fresh.state_dir),
            ("[server] listen", old.listen, fresh.listen),
            ("[plain]", old.plain, fresh.plain),
            ("[tunnel] device, network4, network6", kept, tunnel),
        ):
            if before != after:
                _log.warn("{where} changed: that needs a restart, the old one stays", where=where)
        applying = self.interface.apply(merged)
        applying.addCallback(lambda own: self._apply(merged, identity, own))
        applying.addErrback(self._not_applied)

    def _not_applied(self, failure: Any) -> None:
        if failure.check(PyvpnError):
            _log.error("configuration not applied: {why}", why=failure.getErrorMessage())
        else:
            _log.failure("configuration not applied", failure)

    def _apply(
        self,
        config: ServerConfig,
        identity: ServerIdentity,
        own: tuple[Network, ...],
    ) -> None:
        self.config = config
        self.identity = identity
        self.door.use(server_options(identity))
        self.relays.replace(config.trusted_relays, config.proxy_protocol_relays)
        self.router.client_to_client = config.tunnel.client_to_client
        self.router.expiry_seconds = config.tunnel.expiry
        self.leases.sticky_seconds = config.leases.sticky
        terms = offered(config, own)
        if terms != self.clients.terms:
            self.clients.offer(terms)
        _log.info("configuration applied; {n} sessions kept", n=len(self.clients.sessions))

    # -- SIGUSR2

    def log_status(self) -> None:
        """Write who is here and what was dropped to the log."""
        _log.info(
            "{sessions} sessions, {connections} connections, {leases} addresses in use",
            sessions=len(self.clients.sessions),
            connections=self.clients.connections,
            leases=self.leases.in_use,
        )
        now = boottime()
        plain = self.plain.sessions if self.plain is not None else []
        for session in [*self.clients.sessions.values(), *plain]:
            _log.info(
                "{name}: in {packets_in} packets {bytes_in} bytes, out {packets_out} packets "
                "{bytes_out} bytes, heard {age:.0f} s ago{state}",
                name=session.name,
                packets_in=session.packets_in,
                bytes_in=session.bytes_in,
                packets_out=session.packets_out,
                bytes_out=session.bytes_out,
                age=max(0.0, now - session.heard),
                state="" if session.carrier is not None else ", not connected",
            )
        for reason, n in sorted(self.counters.dropped.items()):
            _log.info("dropped {n} packets: {reason}", n=n, reason=str(reason))
        for code, n in sorted(self.clients.statistics.refused.items()):
            _log.info("refused {n} times: {code}", n=n, code=code)

    # -- stop

    def stopService(self) -> Deferred[Any]:
        """Tell everybody, undo everything; done within two seconds whatever hangs."""
        super().stopService()
        for loop in self._loops:
            loop.stop()
        self._hashing.stop()
        closing = [port.stopListening() or succeed(None) for port in self._ports]
        self.clients.say_goodbye(COME_BACK_SECONDS)
        if self.plain is not None:
            self.plain.end()
        return Deferred.fromCoroutine(self._leave(closing))

    async def _leave(self, closing: list[Any]) -> None:
        await DeferredList(closing)
        if self.clients.connections:
            await deferLater(self.reactor, FAREWELL_SECONDS, lambda: None)
        undone: list[Deferred[Any]] = [self.interface.undo(), self._storage.run(self.store.close)]
        work = DeferredList(undone, consumeErrors=True).addTimeout(UNDO_SECONDS, self.reactor)
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a time-out most likely; the next start mends it
            _log.warn("not everything was undone in time, the next start will: {e}", e=str(error))
        self._netlink.stop()
        self._storage.stop()
        self._lock.release()
