"""The server as a Twisted service: makes everything, owns it, and undoes it at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pyvpn.config import Endpoint, Network, ServerConfig, load_server
from pyvpn.errors import HostError, PyvpnError
from pyvpn.net.process import (
    StateLock,
    allow_many_files,
    boottime,
    end_with_failure,
    own_signals,
    refuse_to_start,
    return_large_blocks,
    set_aside_the_past,
)
from pyvpn.net.processor import suites
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tls import ServerIdentity, TlsTerms, server_options
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.server.core import Core
from pyvpn.server.identity import load_identity
from pyvpn.server.interface import ServerInterface
from pyvpn.server.listen import Door, LinkFactory, listen_everywhere
from pyvpn.server.loops import Loops, finish
from pyvpn.server.pacing import Pacing
from pyvpn.server.plain_udp import listen_udp
from pyvpn.server.status import log_status
from pyvpn.server.terms import link_of
from pyvpn.server.wireguard import WireGuardServer
from pyvpn.store.sqlite import FILE_NAME, Store
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.command import PLAIN_VERSION, VERSION
from pyvpn.wire.slab import Slab

_log = Logger()

TICK_SECONDS = 1.0
LOOK_SECONDS = 0.5
"""How often the user database is asked whether somebody changed it: one PRAGMA."""
LEASE_SECONDS = 60.0
CALL_SECONDS = 0.1
"""How often handshakes with those who were here before a restart are begun, a few at a time."""
SAVE_SECONDS = 1.0
"""What a crash may cost us of what we know about where WireGuard peers are."""
FAREWELL_SECONDS = 0.3
UNDO_SECONDS = 1.2
COME_BACK_SECONDS = 1.0
"""What clients are told at a shutdown: most shutdowns are restarts."""

EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - looked for, not listened on
"""Hosts whose port is open at every address, also those that an interface gets later."""

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
        self._loops = Loops(reactor)
        self.wireguard: WireGuardServer | None = None
        self._undo: list[Callable[[], object]] = []

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
        own_signals(
            self.reactor,
            stop=self.reactor.stop,
            reload=self.reload,
            status=self.log_status,
        )
        allow_many_files()
        self.identity = load_identity(config, time.time())
        self.store = self._storage.call(Store, config.state_dir / FILE_NAME)
        self._undo.append(lambda: self._storage.call(self.store.close))
        self.interface = ServerInterface(
            self.reactor,
            config,
            self._netlink,
            self.counters,
            received=self._packets_from_tun,
            frames=self._frames_from_tun,
            slab=self._slab_from_tun,
            lost=lambda why: end_with_failure(self.reactor, why),
        )
        self.core = Core(
            config,
            store=self.store,
            storage=self._storage,
            hashing=self._hashing,
            tun=self.interface.tun,
            own=self.interface.own_networks(),
            identity=lambda: self.identity,
            counters=self.counters,
            checkers=self._checkers,
        )
        if config.wireguard.listen != ():
            self.wireguard = self._make_wireguard()
        # The ports first: a second server fails here, before anything of the host is touched.
        self._listen()
        self._undo.append(self.interface.close)
        self.interface.open()
        if self.wireguard is not None:
            self.wireguard.natives.tunnel_port = self._listen_inside()
        self._announce()
        if self.wireguard is not None:
            self._begin_wireguard(self.wireguard)
        self._pacing = Pacing(self.reactor, self.core.router, boottime, self._arm)
        self._loops.start(self.core.tick, TICK_SECONDS)
        self._loops.start(self.core.look_for_changes, LOOK_SECONDS)
        self._loops.start(self.core.clients.expire_leases, LEASE_SECONDS)
        return_large_blocks()
        self.reactor.callWhenRunning(set_aside_the_past)

    def _make_wireguard(self) -> WireGuardServer:
        self.core.wireguard = made = WireGuardServer(
            self.reactor,
            load_or_make_wireguard_key(self.config.state_dir),
            self.store,
            self._storage,
            self.core.router,
            self.counters,
            trusted=self.core.relays.exempts,
            lease=self.core.leases.get,
            terms=self.core.clients.terms,
            now=boottime,
            unix=time.time,
        )
        made.let_return(self.core.objection, self.core.clients.resume)
        made.offer(self.core.clients.terms, self.config.wireguard.public_endpoints)
        made.wireguard.suites = suites(self.config.wireguard.cipher)
        self.core.clients.natives = made.natives
        self._undo.append(made.close)
        return made

    def _begin_wireguard(self, wireguard: WireGuardServer) -> None:
        wireguard.begin(self._storage.call(self.store.devices), self.core.users)
        wireguard.show(self.interface.tun.name)
        self._loops.start(wireguard.call_back, CALL_SECONDS)
        self._loops.start(wireguard.save, SAVE_SECONDS)

    def _packets_from_tun(self, packets: list[bytes]) -> None:
        self.core.router.packets_from_tun(packets, boottime())
        self._arm()

    def _frames_from_tun(self, frames: list[bytes]) -> None:
        self.core.router.frames_from_tun(frames, boottime())
        self._arm()

    def _slab_from_tun(self, slab: Slab) -> None:
        self.core.router.slab_from_tun(slab, boottime())

    def _arm(self) -> None:
        any_uncut = self.core.clients.any_uncut
        if self.wireguard is not None:
            self.wireguard.clockwork.arm()
            any_uncut = any_uncut or self.wireguard.natives.claims.any_uncut
        self.interface.tun.hand_out_frames(any_uncut)

    def _give_back(self) -> None:
        """Undo what a failed start had done so far, last things first."""
        for port in self._ports:
            port.stopListening()
        while self._undo:
            try:
                self._undo.pop()()
            except PyvpnError as error:
                _log.warn("while giving up: {error}", error=str(error))

    def _listen(self) -> None:
        links = LinkFactory(self.core.clients, self.reactor, version=VERSION, tls=True)
        self.door = Door(links, server_options(self.identity), self.core.relays)
        self._ports += listen_everywhere(self.reactor, self.config.listen, self.door)
        if self.wireguard is not None:
            self.wireguard.open(self.config.wireguard.listen or self.config.listen)
        if self.core.plain is not None and self.config.plain.tcp_listen is not None:
            links = LinkFactory(self.core.plain, self.reactor, version=PLAIN_VERSION, tls=False)
            self._ports += listen_everywhere(self.reactor, [self.config.plain.tcp_listen], links)
        if self.core.plain_udp is not None and self.config.plain.udp_listen is not None:
            self._ports.append(
                listen_udp(self.reactor, self.config.plain.udp_listen, self.core.plain_udp)
            )

    def _listen_inside(self) -> int:
        """Take control connections at our own tunnel addresses, too; the port, or 0.

        Clients whose TCP is blocked outside come there, through their tunnel.
        """
        for endpoint in self.config.listen:
            if endpoint.host in EVERYWHERE:
                return endpoint.port
        port = self.config.listen[0].port
        inside = [
            Endpoint(str(interface.ip), port) for interface in self.core.clients.terms.interfaces
        ]
        try:
            self._ports += listen_everywhere(self.reactor, inside, self.door)
        except HostError as error:
            _log.warn("no control connections through the tunnel: {why}", why=str(error))
            return 0
        return port

    # -- what is said at start

    def _announce(self) -> None:
        terms = self.core.clients.terms
        for interface in terms.interfaces:
            _log.info("clients get addresses of {network}", network=str(interface.network))
        shown = ", ".join(map(str, terms.routes)) or "none but the server itself"
        _log.info("networks that clients can reach: {routes}", routes=shown)
        if self.wireguard is not None:
            _log.info(
                "stock WireGuard apps come by UDP port {port}: pyvpn device add USER NAME "
                "--wireguard puts one on file",
                port=self.wireguard.ports.number,
            )
        self._warn_of_plain()
        if not self.core.users:
            _log.info("there are no users yet: pyvpn user add NAME")
        _log.info("pin of this server: {pin}", pin=self.identity.pin)
        _log.info("a client needs this line in its [client] section, or pyvpn join with its link:")
        _log.info("server = {link}", link=self.link())

    def _warn_of_plain(self) -> None:
        plain = self.config.plain
        if self.core.plain is not None:
            _log.warn(
                "[plain] tcp_listen is open on {port}: no encryption and no log-in; whoever "
                "reaches that port reaches {bypass}",
                port=str(plain.tcp_listen),
                bypass=str(plain.bypass),
            )
        if self.core.plain_udp is not None:
            _log.warn(
                "[plain] udp_listen is open on {port}: no encryption, and a password that "
                "everybody on the way can read; whoever has it reaches {bypass}",
                port=str(plain.udp_listen),
                bypass=str(plain.bypass),
            )

    def link(self) -> str:
        """Where clients find this server and how they recognise it, as one string."""
        return link_of(self.config, self.identity.pin, self.interface.outer_address())

    # -- SIGHUP

    def reload(self) -> None:
        """Read the configuration again and apply the difference; a broken file changes nothing."""
        old = self.config
        try:
            fresh = load_server(old.path)
            # The old directory, whatever the file says: we hold the lock of no other.
            identity = load_identity(replace(fresh, state_dir=old.state_dir), time.time())
            terms = server_options(identity)
        except PyvpnError as error:
            _log.error("configuration not applied, nothing was changed: {error}", error=str(error))
            return
        tunnel = fresh.tunnel
        kept = replace(old.tunnel, **{name: getattr(tunnel, name) for name in _LIVE})
        merged = replace(
            fresh,
            state_dir=old.state_dir,
            listen=old.listen,
            tunnel=kept,
            plain=old.plain,
            wireguard=replace(fresh.wireguard, listen=old.wireguard.listen),
        )
        for where, before, after in (
            ("[server] state_dir", old.state_dir, fresh.state_dir),
            ("[server] listen", old.listen, fresh.listen),
            ("[plain]", old.plain, fresh.plain),
            ("[wireguard] listen", old.wireguard.listen, fresh.wireguard.listen),
            ("[tunnel] device, network4, network6", kept, tunnel),
        ):
            if before != after:
                _log.warn("{where} changed: that needs a restart, the old one stays", where=where)
        applying = self.interface.apply(merged)
        applying.addCallback(lambda own: self._apply(merged, identity, terms, own))
        applying.addErrback(self._not_applied)

    def _not_applied(self, failure: Any) -> None:
        # Links and sysctls come before the firewall: some of it may have been done.
        if failure.check(PyvpnError):
            _log.error(
                "configuration applied to a part of the host only, and not to clients: {why}; "
                "mend that, then send HUP again",
                why=failure.getErrorMessage(),
            )
        elif not failure.check(CancelledError):  # which is the end of the process
            _log.failure("configuration not applied to all", failure)

    def _apply(
        self,
        config: ServerConfig,
        identity: ServerIdentity,
        terms: TlsTerms,
        own: tuple[Network, ...],
    ) -> None:
        self.config = config
        self.identity = identity
        self.door.use(terms)
        self.core.apply(config, own)
        if self.wireguard is not None:
            self.wireguard.wireguard.suites = suites(config.wireguard.cipher)
        _log.info("configuration applied; {n} sessions kept", n=len(self.core.clients.sessions))

    # -- SIGUSR2

    def log_status(self) -> None:
        """Write who is here and what was dropped to the log."""
        self._warn_of_plain()
        log_status(self.core, self.wireguard, self.counters, boottime())

    # -- stop

    def stopService(self) -> Deferred[Any]:
        """Tell everybody, undo everything; done within two seconds whatever hangs."""
        super().stopService()
        self._loops.stop()
        self._pacing.stop()
        self._hashing.stop()
        closing = [port.stopListening() or succeed(None) for port in self._ports]
        if self.wireguard is not None:
            self.wireguard.save()
            self.wireguard.close()
        self.core.clients.say_goodbye(COME_BACK_SECONDS)
        if self.core.plain is not None:
            self.core.plain.end()
        return Deferred.fromCoroutine(self._leave(closing))

    async def _leave(self, closing: list[Any]) -> None:
        await DeferredList(closing)
        if self.core.clients.connections:
            await deferLater(self.reactor, FAREWELL_SECONDS, lambda: None)
        work: dict[str, Deferred[Any]] = {
            "host": self.interface.undo(),
            "store": self._storage.run(self.store.close),
        }
        for problem in await finish(work, UNDO_SECONDS, self.reactor):
            _log.warn("not undone, the next start will: {problem}", problem=problem)
        self._netlink.stop()
        self._storage.stop()
        self._lock.release()
