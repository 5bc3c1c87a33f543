"""The client as a Twisted service: does what its machine decides.

(A long file: it is the one list of what can be done to a connection and what a connection can
tell, and each part calls several others.  It is too long all the same: the connection, with its
deeds and what it owns, is to be cut from the service that begins, reloads and ends.)
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pyvpn.client.alone import Alone
from pyvpn.client.approach import Approach
from pyvpn.client.changes import ANYWHERE, HostChanges, is_ours, ways_out
from pyvpn.client.data_channel import DataChannel
from pyvpn.client.device import Device, server_name
from pyvpn.client.dialogue import (
    Dialogue,
    NativeDialogue,
    PlainDialogue,
    passing,
    refuses_certificate,
    setback_of,
)
from pyvpn.client.heart import Heart
from pyvpn.client.interface import TunnelInterface, outer_address
from pyvpn.client.machine import Link, Setback, make_course
from pyvpn.client.memory import Memory
from pyvpn.client.outside import this_machine
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.client.plain_udp import PlainUdpDialogue
from pyvpn.client.refusals import Refusals
from pyvpn.client.status import log_status
from pyvpn.config import ClientConfig, load_client, read_password
from pyvpn.errors import HostError, PeerError, PyvpnError
from pyvpn.net.control import ControlLink
from pyvpn.net.host import Host
from pyvpn.net.process import (
    StateLock,
    boottime,
    end_with_failure,
    own_signals,
    refuse_to_start,
)
from pyvpn.net.processor import suites
from pyvpn.net.threads import DaemonThreads
from pyvpn.tunnel.backoff import Backoff
from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Answer, ChosenCarrier, Code, Notice, RegisterAnswer, Settings
from pyvpn.wire.native import Way
from pyvpn.wire.plain_udp import Addresses

_log = Logger()

SECURE_SECONDS = 15.0
FAREWELL_SECONDS = 0.3
PROOF_SECONDS = 2.0
"""A connection that lasts so long has proved itself: after its loss the next try comes quickly."""
CHANGE_SECONDS = 1.0
"""Settings are applied at most once in this time, however often a server pushes them."""
UNDO_SECONDS = 1.2
DOUBT_SECONDS = 3.0
"""How long the server has to answer after the network has changed."""


class ClientService(Service):
    """One client of one server.

    Implements :class:`pyvpn.client.machine.Deeds` and :class:`pyvpn.net.link_owner.LinkOwner`.

    Args:
        config: from :func:`pyvpn.config.load_client`.
        typed_password: what a person typed at the start, if the file names none.
        daemonised: twistd has left the terminal, so an error must reach it another way.
    """

    name = "pyvpn client"

    def __init__(
        self,
        config: ClientConfig,
        reactor: Any,
        *,
        typed_password: str | None = None,
        daemonised: bool = False,
    ) -> None:
        self.config = config
        self.reactor = reactor
        self.counters = Counters()
        self.state = "not started"
        self._typed_password = typed_password
        self._daemonised = daemonised
        self._lock = StateLock(str(config.state_dir))
        self._netlink = DaemonThreads(reactor, 1, "netlink", 100)
        self._backoff = Backoff(config.tunnel.max_backoff, random.SystemRandom().random)
        self._course = make_course(self)
        self._link: Link | None = None
        self._attempt: Deferred[Any] | None = None
        self._alarm: IDelayedCall | None = None
        self._heart = Heart(reactor)
        self._refusals = Refusals()
        self._proof: IDelayedCall | None = None
        self._changing = DeferredLock()
        self._leaving: Deferred[Any] | None = None
        self._sent_away = False
        self._offer: RegisterAnswer | None = None
        self.data: DataChannel | None = None
        self._alone: Alone | None = None
        self._is_inside = False
        """Whether the connection, or the attempt at one, runs through the tunnel."""
        self._scouts: list[ControlLink] = []
        self._scouting: Deferred[Any] | None = None
        self._changes = HostChanges(reactor, self._network_changed, self._ways_out)

    # -- start

    def startService(self) -> None:
        try:
            self._prepare()
        except PyvpnError as error:
            self._lock.release()
            refuse_to_start(error, self._daemonised)
        super().startService()
        self.reactor.callWhenRunning(self._course.begin)

    def _prepare(self) -> None:
        config = self.config
        self._lock.take()
        self._lock.write_pid()
        own_signals(
            self.reactor, stop=self.reactor.stop, reload=self.reload, status=self.log_status
        )
        self.host = Host(str(config.state_dir), "client")
        self._netlink.call(self.host.reconcile)
        self.interface = TunnelInterface(
            self.reactor, config, self.host, self._netlink, self.counters, self._interface_lost
        )
        if not config.plain:
            self.data = DataChannel(
                self.reactor,
                Transport(config.transport),
                this_machine(self.reactor, config),
                self.interface.router,
                self.interface.session,
                self.counters,
                self._tell_carrier,
            )
            self.interface.sent = self.data.arm
        self.dialogue = self._make_dialogue(config)
        if self.data is not None:
            memory = Memory(config.state_dir, server_name(config))
            self._alone = Alone(self.reactor, _Outsider(self), self.data, memory)
        # Now, so that a missing right is said at once and not after the log-in.
        self.interface.open()
        if config.tunnel.fwmark:
            self.host.hold_table(config.tunnel.table)
        self._approach = Approach(self.reactor, config.tunnel.fwmark, self._make_link)
        self._changes.begin()

    def _make_dialogue(self, config: ClientConfig) -> Dialogue:
        if config.plain:
            _log.warn("protocol = {it}: this tunnel is not encrypted", it=config.protocol)
        if config.protocol == "plain-udp":
            return PlainUdpDialogue(config, self._password)
        if config.protocol == "plain-tcp":
            return PlainDialogue(config.tunnel.address[0])  # type: ignore[arg-type]  # IPv4, checked
        self._device = Device(config.state_dir, server_name(config))
        name = config.device_name or socket.gethostname()
        return NativeDialogue(
            config, self._device, self._password, name, self._by_udp, self._capabilities
        )

    def _capabilities(self) -> tuple[str, ...]:
        return () if self.data is None else self.data.capabilities

    def _by_udp(self) -> tuple[str, str, str]:
        data = self.data
        if data is None:
            return "", "tcp", ""
        return data.public, data.carrier, data.choice.agreement

    def _tell_carrier(self, epoch: int, way: Way, mtu: int) -> None:
        link = self._link
        if isinstance(link, ControlLink) and link is self.interface.session.link:
            word = ChosenCarrier(carrier=way.name.lower(), epoch=epoch, mtu=mtu)
            # Without an answer the connection is in trouble, which its heartbeat will notice.
            answer = link.ask(Command.CARRIER, word.to_bytes())
            answer.addErrback(lambda failure: failure.trap(PeerError) and None)

    def _password(self) -> str | None:
        return read_password(self.config) or self._typed_password

    # -- Deeds

    def connect(self) -> None:
        self.state = "connecting"
        device = self._device if self.dialogue.tls else None
        place = None if self._alone is None else self._alone.place()
        self._is_inside = place is not None
        try:
            if place is not None:
                where = f"{place[0]} through the tunnel"
                self._attempt = self._approach.connect_inside(
                    *place, self.interface.tun.name, self.config, self._device
                )
            else:
                endpoint = self._approach.next_of(self.config)
                where = str(endpoint)
                if self._alone is not None and self._device.certificate is not None:
                    self._alone.trying()
                self._attempt = self._approach.connect(endpoint, self.config, device)
        except PyvpnError as error:
            self.reactor.callLater(0, self._course.failed, Setback(str(error), serious=True))
            return
        self._attempt.addErrback(self._not_connected, where)

    def _make_link(self) -> Link:
        if isinstance(self.dialogue, PlainUdpDialogue):
            return PlainUdpLink(self, self.reactor, self.counters)
        return ControlLink(
            self,
            self.reactor,
            version=self.dialogue.version,
            initiator=True,
            tls=self.dialogue.tls,
            verify=self.dialogue.verify,
        )

    def _not_connected(self, failure: Any, endpoint: str) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(HostError):
            end_with_failure(self.reactor, failure.getErrorMessage())
            return
        why = f"cannot reach {endpoint}: {failure.getErrorMessage()}"
        self._course.failed(Setback(why))

    def introduce(self, link: Link) -> None:
        self.state = "logging in"
        told = Deferred.fromCoroutine(self.dialogue.introduce(link))
        told.addCallback(lambda offer: self._course.accepted(link, offer))
        told.addErrback(self._setback, link)

    def configure(self, link: Link, offer: RegisterAnswer) -> None:
        self.state = "configuring"
        self._offer = offer
        if self._alone is not None:
            self._alone.arrived()
        done = Deferred.fromCoroutine(self.interface.agree(offer, self._server_of(link)))
        done.addCallback(lambda _: self._configured(link))
        done.addErrback(self._setback, link)

    def _configured(self, link: Link) -> None:
        if link is self._link:  # else another one has taken its place meanwhile
            self._course.ready()

    def carry(self) -> None:
        link, agreed = self._link, self.interface.agreed
        assert link is not None
        assert agreed is not None
        self._drop_proof()
        self._proof = self.reactor.callLater(PROOF_SECONDS, self._backoff.established)
        self._approach.worked()
        if self.data is None or self._offer is None or not isinstance(link, ControlLink):
            self.interface.session.attach(link, boottime())
        else:
            self.data.registered(
                link,
                self._offer,
                self._server_of(link),
                self.config.server.endpoints,
                self._approach.resolver,
                agreed.accepted.mtu,
                self._is_inside,
            )
            if self._alone is not None:
                self._alone.registered(self._offer, self._is_inside)
        for line in self.interface.describe():
            _log.info("{line}", line=line)
        self.state = self._refusals.tell(agreed.accepted)
        if isinstance(link, ControlLink) and self.dialogue.has_heartbeats:
            self._heart.start(link, agreed.accepted.heartbeat)

    def exchange(self, link: Link) -> None:
        _log.info("TCP works outside the tunnel again: the control connection goes there")
        self._drop_link(gently=True)
        self._is_inside = False
        self._link = link
        self.introduce(link)

    def wait(self, setback: Setback) -> None:
        was_up = self.interface.session.link is not None
        self._drop_link()
        if setback.final and self.data is not None:
            self.data.ended(str(setback))
        if self._alone is not None:
            refused = setback.final or (setback.seconds > 0 and not setback.stranger)
            if refused or self._device.certificate is None:
                self._alone.refused()
            elif was_up:
                self._alone.lost()
            else:
                self._alone.failed(self._is_inside)
        self._sent_away = setback.seconds > 0
        seconds = self._backoff.pause(setback.seconds)
        self.state = f"waiting: {setback}"
        log = _log.error if setback.serious else _log.info
        log("{why}; next try in {seconds:.1f} s", why=str(setback), seconds=seconds)
        self._alarm = self.reactor.callLater(seconds, self._ring)

    def leave(self) -> None:
        self.state = "leaving"
        link = self._link
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        if isinstance(link, ControlLink) and link.is_up and self.dialogue.has_heartbeats:
            link.tell(Command.GOODBYE)
        said = link is not None and link.is_up
        self._drop_link(gently=True)
        self._leaving = Deferred.fromCoroutine(self._undo(FAREWELL_SECONDS if said else 0.0))

    # -- LinkOwner

    def _make_scout(self) -> Link:
        link = self._make_link()
        assert isinstance(link, ControlLink)
        self._scouts.append(link)
        return link

    def connected(self, link: Link) -> None:
        if link in self._scouts:
            link.expect_within(SECURE_SECONDS, "TLS handshake")
            return
        if self._link is not None or self._attempt is None:
            link.abort()  # another address of the server was quicker
            return
        self._link = link
        link.expect_within(SECURE_SECONDS, "TLS handshake")

    def ready(self, link: Link) -> None:
        link.expect_within(None)
        if link in self._scouts:
            self._scouts.remove(link)
            self._drop_scouts()
            if self._is_inside and self._link is not None:
                self._course.better(link)
            if link is not self._link:
                link.abort()
        elif link is self._link:
            self._course.secured(link)

    def heard(self, link: ControlLink) -> None:
        self.interface.session.heard_from(link, boottime())

    def renewed(self, link: PlainUdpLink, addresses: Addresses) -> None:
        if link is self._link and isinstance(self.dialogue, PlainUdpDialogue):
            self._course.renewed(link, self.dialogue.offer(addresses))

    def packets(self, link: Link, packets: list[bytes]) -> None:
        session = self.interface.session
        if session.owns(link):
            self.interface.router.packets_from_session(session, packets, boottime())

    def question(
        self, link: ControlLink, command: int, data: bytes
    ) -> bytes | Deferred[bytes] | None:
        if command == Command.HEARTBEAT:
            if self.data is not None:
                self.data.doubted()
            return b""
        if command == Command.SETTINGS and self.interface.session.owns(link):
            return Deferred.fromCoroutine(self._change(link, data))
        return None

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        if command != Command.NOTICE or link is not self._link:
            return
        notice = Notice.from_bytes(data)
        self._course.failed(
            setback_of(notice.code, notice.message, notice.retry_after, "the server ended this")
        )

    def lost(self, link: Link, reason: Exception) -> None:
        if link in self._scouts:
            self._scouts.remove(link)
        if link is not self._link:
            return
        if (
            isinstance(link, ControlLink)
            and self.dialogue.tls
            and self._device.certificate is not None
            and refuses_certificate(reason, link)
        ):
            _log.warn("the server does not accept this device's certificate: logging in anew")
            self._device.set_aside()
        setback = reason if isinstance(reason, Setback) else passing(reason)
        self._course.failed(setback)

    # -- inside

    async def _change(self, link: ControlLink, data: bytes) -> bytes:
        settings = Settings.from_bytes(data)
        before = self.interface.describe()
        await self._changing.acquire()
        try:
            if not self.interface.session.owns(link):
                raise PeerError("settings of a connection that has ended")
            agreed = await self.interface.change(settings, self._server_of(link))
        finally:
            self.reactor.callLater(CHANGE_SECONDS, self._changing.release)
        if self._alone is not None:
            self._alone.changed(settings)
        if self.interface.describe() != before:
            _log.info("the server changed its settings")
            for line in self.interface.describe():
                _log.info("{line}", line=line)
        self.state = self._refusals.tell(agreed.accepted)
        self._heart.change(link, agreed.accepted.heartbeat)
        return Answer(success=True, code=Code.OK).to_bytes()

    def _setback(self, failure: Any, link: Link) -> None:
        if link is not self._link:
            return
        if failure.check(HostError):
            end_with_failure(self.reactor, failure.getErrorMessage())
        elif failure.check(Setback):
            self._course.failed(failure.value)
        elif failure.check(PeerError):
            self._course.failed(passing(failure.value))
        else:
            _log.failure("the connection failed", failure)
            self._course.failed(Setback("internal error"))

    def _server_of(self, link: Link) -> Any:
        if self._is_inside and self.data is not None:
            return self.data.server
        return outer_address(getattr(link.transport.getPeer(), "host", None))

    def _drop_scouts(self) -> None:
        scouting, self._scouting = self._scouting, None
        if scouting is not None:
            scouting.cancel()
        scouts, self._scouts = self._scouts, []
        for scout in scouts:
            if scout.transport is not None:
                scout.abort()

    def _drop_link(self, gently: bool = False) -> None:
        self._heart.stop()
        self._drop_proof()
        self._drop_scouts()
        link, self._link = self._link, None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        if link is not None:
            if self.data is None:
                self.interface.session.detach(link)
            else:
                self.data.link_lost(link)
            if link.transport is not None:
                if gently:
                    link.close()
                else:
                    link.abort()

    def _ways_out(self) -> dict[str, str]:
        places = () if self.data is None else self.data.places
        return ways_out((*ANYWHERE, *places), self.config.tunnel.fwmark)

    def _network_changed(self) -> None:
        """Addresses or routes are others than before, or this machine has slept."""
        link = self._link
        if isinstance(link, ControlLink) and link.is_up and not link.is_closed:
            if is_ours(link.transport.getHost().host):
                self._heart.ask_now(link, DOUBT_SECONDS)
            else:
                link.abort(PeerError("this host does not have the connection's address any more"))
        if self.data is not None:
            self.data.network_changed()
        # What the server asked for is not shortened by that.
        if self._alarm is not None and self._alarm.active() and not self._sent_away:
            self._backoff.established()
            self._alarm.reset(0)

    def _drop_proof(self) -> None:
        if self._proof is not None and self._proof.active():
            self._proof.cancel()

    def _ring(self) -> None:
        self._alarm = None
        self._course.retry()

    def _interface_lost(self, why: str) -> None:
        end_with_failure(self.reactor, why)

    # -- by UDP alone

    def agree_alone(self, offer: RegisterAnswer) -> Deferred[int]:
        """Bring the interface into the state of an earlier registration; gives the MTU."""
        return Deferred.fromCoroutine(self._agree_alone(offer))

    async def _agree_alone(self, offer: RegisterAnswer) -> int:
        server = outer_address(offer.wireguard_endpoints[0].rpartition(":")[0].strip("[]"))
        agreed = await self.interface.agree(offer, server)
        return agreed.accepted.mtu

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        """Have the data channel come by itself, unless the connection is about to be there."""
        if self.data is not None and self.interface.session.link is None:
            self.data.resume(offer, self.config.server.endpoints, self._approach.resolver, mtu)

    def give_up_outside(self) -> bool:
        """Packets go by UDP, and the connection is not there: look for it inside.

        False: it is about to be there.
        """
        if self._link is not None and self._link.is_up:
            return False
        self._course.failed(Setback("TCP does not lead to the server"))
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(0)
        return True

    def scout(self) -> None:
        """See whether TCP works outside the tunnel again."""
        if self._scouting is not None or not self._is_inside:
            return
        try:
            scouting = self._approach.look_outside(self.config, self._device, self._make_scout)
        except PyvpnError as error:
            _log.info("cannot look outside: {why}", why=str(error))
            return
        self._scouting = scouting
        scouting.addErrback(lambda failure: None)  # as expected
        scouting.addBoth(self._scouted)

    def _scouted(self, _: object) -> None:
        self._scouting = None

    # -- signals

    def reload(self) -> None:
        """SIGHUP: read the file again, judge by it, and connect at once."""
        try:
            fresh = load_client(self.config.path)
            refuse_changes(self.config, fresh)
            dialogue = self._make_dialogue(fresh)
        except PyvpnError as error:
            _log.error("configuration not applied, nothing was changed: {error}", error=str(error))
            return
        if self._alone is not None and server_name(fresh) != server_name(self.config):
            self._alone.use(Memory(fresh.state_dir, server_name(fresh)))
            if self.data is not None:
                self.data.ended("another server is configured")
        self.config, self.dialogue = fresh, dialogue
        self.interface.configure(fresh)
        if self.data is not None:
            self.data.wireguard.suites = suites(fresh.tunnel.cipher)
        self._backoff.most = fresh.tunnel.max_backoff
        _log.info("configuration read again: connecting anew")
        self._backoff.established()
        self._course.failed(Setback("configuration read again"))
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(0)

    def log_status(self) -> None:
        """SIGUSR2: write the state of things to the log."""
        log_status(
            self.state,
            self._heart,
            self.interface,
            self._link,
            self.data,
            self.counters,
            self._is_inside,
        )

    # -- stop

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        self._course.stop()
        return self._leaving

    async def _undo(self, farewell: float) -> None:
        if farewell:
            await deferLater(self.reactor, farewell, lambda: None)
        self._changes.end()
        if self._alone is not None:
            self._alone.stop()
        if self.data is not None:
            self.data.close()
        self.interface.close()
        work = self._netlink.run(self.host.undo).addTimeout(UNDO_SECONDS, self.reactor)
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a time-out; the next start mends it
            _log.warn("not everything was undone in time, the next start will: {e}", e=str(error))
        self._netlink.stop()
        self._lock.release()


class _Outsider:
    """Does what :class:`~pyvpn.client.alone.Alone` decides."""

    def __init__(self, service: ClientService) -> None:
        self._service = service

    def agree(self, offer: RegisterAnswer) -> Deferred[int]:
        return self._service.agree_alone(offer)

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        self._service.begin_alone(offer, mtu)

    def give_up(self) -> bool:
        return self._service.give_up_outside()

    def scout(self) -> None:
        self._service.scout()


def refuse_changes(before: ClientConfig, fresh: ClientConfig) -> None:
    """Raise HostError if *fresh* differs in what cannot change while the client runs."""
    for where, same in (
        ("[client] state_dir", fresh.state_dir == before.state_dir),
        ("[client] protocol", fresh.protocol == before.protocol),
        ("[client] transport", fresh.transport == before.transport),
        ("[tunnel] device", fresh.tunnel.device == before.tunnel.device),
        ("[tunnel] table", fresh.tunnel.table == before.tunnel.table),
        ("[tunnel] fwmark", fresh.tunnel.fwmark == before.tunnel.fwmark),
    ):
        if not same:
            raise HostError(f"{where} cannot change while the client runs")
