"""The client's connection to its server: how it is had, what it is used for, how it is lost.

It does what the machine decides: connects, logs in and registers, hands on what arrives, answers
what the server asks, and when the connection is gone waits for the next try.  What it stands on is
given to it: a way to the server, the words of a log-in, an interface, a clock.  So a client in the
simulator has this very connection (``pyvpn/testing/simulator/native_client.py``).

(A long file: what may happen to a connection, in each state that it may be in.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pyvpn.client.alone import Alone, Memory
from pyvpn.client.approach import make_link
from pyvpn.client.changes import is_ours
from pyvpn.client.data_channel import DataChannel
from pyvpn.client.dialogue import Dialogue, passing, setback_of
from pyvpn.client.heart import Heart
from pyvpn.client.interface import outer_address
from pyvpn.client.machine import Link, Setback, make_course
from pyvpn.client.pause import Pause
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.client.plain_udp import PlainUdpDialogue
from pyvpn.client.pushed import PushedSettings
from pyvpn.client.refusals import Refusals
from pyvpn.client.scouts import Scouts
from pyvpn.client.seams import Approach, Interface
from pyvpn.errors import HostError, PeerError, PyvpnError
from pyvpn.net.control import ControlLink
from pyvpn.net.process import boottime, end_with_failure
from pyvpn.tunnel.backoff import Backoff
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.command import Command
from pyvpn.wire.framed import CAPABILITY
from pyvpn.wire.messages import Answer, ChosenCarrier, Code, Notice, RegisterAnswer, Settings
from pyvpn.wire.native import Way
from pyvpn.wire.plain_udp import Addresses
from pyvpn.wire.rebuild import SuperPacket

_log = Logger()

SECURE_SECONDS = 15.0
FAREWELL_SECONDS = 0.3
DOUBT_SECONDS = 3.0
"""How long the server has to answer after the network has changed."""
PATIENT_SECONDS = 5.0
"""How long a try is left alone then that was itself begun because of a change."""


class Connection:
    """One client's, and what becomes of it.

    Implements :class:`pyvpn.client.machine.Deeds`, :class:`pyvpn.client.alone.Deeds` and
    :class:`pyvpn.net.link_owner.LinkOwner`.  :attr:`dialogue` is set before it begins.

    Args:
        left: called when it was ended by us, with how many seconds what was said last needs.
        now: CLOCK_BOOTTIME seconds.
        is_ours: whether this host has an address.
    """

    dialogue: Dialogue

    def __init__(
        self,
        reactor: Any,
        approach: Approach,
        interface: Interface,
        backoff: Backoff,
        counters: Counters,
        left: Callable[[float], None],
        now: Callable[[], float] = boottime,
        is_ours: Callable[[str], bool] = is_ours,
    ) -> None:
        self.state = "not started"
        """For people."""
        self.heart = Heart(reactor)
        self.link: Link | None = None
        self.data: DataChannel | None = None
        self.alone: Alone | None = None
        self.is_inside = False
        """Whether the connection, or the attempt at one, runs through the tunnel."""
        self.waits: Callable[[Setback], None] = lambda setback: None
        """Called with the reason whenever there is no connection for a while."""
        self._reactor = reactor
        self._approach = approach
        self._interface = interface
        self._backoff = backoff
        self._counters = counters
        self._left = left
        self._now = now
        self._is_ours = is_ours
        self._course = make_course(self)
        self._pause = Pause(reactor, backoff, self._course.retry)
        self._attempt: Deferred[Any] | None = None
        self._patient_until = 0.0
        self._is_anew = False
        self._refusals = Refusals()
        self._pushed = PushedSettings(reactor, interface)
        self._offer: RegisterAnswer | None = None
        self._scouts = Scouts(self._make_link)

    # -- what its owner does

    def use_udp(self, data: DataChannel, memory: Memory) -> None:
        """Have packets go by UDP, too; *memory* keeps what is needed to come by it alone."""
        self.data = data
        self.alone = Alone(self._reactor, self, data, memory)

    def begin(self) -> None:
        """Connect."""
        self._course.begin()

    def stop(self) -> None:
        """Leave, and come no more."""
        self._course.stop()

    def anew(self, why: str) -> None:
        """Drop it, if there is one, and connect at once."""
        self._backoff.established()
        self._course.failed(Setback(why))
        self._pause.end()

    def tell_carrier(self, epoch: int, way: Way, mtu: int) -> None:
        """Say what the data channel has chosen, if there is somebody to say it to."""
        link = self.link
        if isinstance(link, ControlLink) and link is self._interface.session.link:
            word = ChosenCarrier(carrier=way.name.lower(), epoch=epoch, mtu=mtu)
            # Without an answer the connection is in trouble, which its heartbeat will notice.
            answer = link.ask(Command.CARRIER, word.to_bytes())
            answer.addErrback(lambda failure: failure.trap(PeerError) and None)

    def network_changed(self) -> None:
        """Addresses or routes are others than before, or this machine has slept."""
        link = self.link
        if isinstance(link, ControlLink) and not link.is_closed:
            if not self._is_ours(link.transport.getHost().host):
                # What was done by it was never wrong: however short it was, the next is tried now.
                self.anew("this host does not have the connection's address any more")
            elif link.is_up and self.dialogue.has_heartbeats:
                self.heart.ask_now(link, DOUBT_SECONDS)
        elif link is None and self._attempt is not None and not self.is_inside:
            self._attempt_anew()
        if self.data is not None:
            self.data.network_changed()
        self._pause.hurry()

    def _attempt_anew(self) -> None:
        """Try once more: what is under way comes from an address that is gone, perhaps."""
        # But a network that changes all the time is to leave a slow one the time it takes.
        if self._now() >= self._patient_until:
            self._patient_until = self._now() + PATIENT_SECONDS
            self._approach.again()
            self._is_anew = True  # so nothing has failed
            self.anew("the network has changed")
            self._is_anew = False

    # -- Deeds of the machine

    def connect(self) -> None:
        self.state = "connecting"
        place = None if self.alone is None else self.alone.place()
        self.is_inside = place is not None
        try:
            if place is not None:
                where = f"{place[0]} through the tunnel"
                self._attempt = self._approach.connect_inside(
                    *place, self._interface.tun.name, self._make_link
                )
            else:
                endpoint = self._approach.next_of()
                where = str(endpoint)
                if self.alone is not None and self.dialogue.is_on_file:
                    self.alone.trying()
                self._attempt = self._approach.connect(endpoint, self._make_link)
        except PyvpnError as error:
            self._reactor.callLater(0, self._course.failed, Setback(str(error), serious=True))
            return
        self._attempt.addErrback(self._not_connected, where)

    def _make_link(self) -> Link:
        return make_link(self, self.dialogue, self._reactor, self._counters)

    def _not_connected(self, failure: Any, endpoint: str) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(HostError):
            end_with_failure(self._reactor, failure.getErrorMessage())
            return
        self._course.failed(Setback(f"cannot reach {endpoint}: {failure.getErrorMessage()}"))

    def introduce(self, link: Link) -> None:
        self.state = "logging in"
        told = Deferred.fromCoroutine(self.dialogue.introduce(link))
        told.addCallback(lambda offer: self._course.accepted(link, offer))
        told.addErrback(self._setback, link)

    def configure(self, link: Link, offer: RegisterAnswer) -> None:
        self.state = "configuring"
        self._offer = offer
        if CAPABILITY in offer.capabilities and isinstance(link, ControlLink):
            link.carry_super_packets(self.super_packets)
        if self.alone is not None:
            self.alone.arrived()
        done = Deferred.fromCoroutine(self._interface.agree(offer, self._server_of(link)))
        done.addCallback(lambda _: self._configured(link))
        done.addErrback(self._setback, link)

    def _configured(self, link: Link) -> None:
        if link is self.link:  # else another one has taken its place meanwhile
            self._course.ready()

    def carry(self) -> None:
        link, agreed = self.link, self._interface.agreed
        assert link is not None
        assert agreed is not None
        self._pause.works()
        self._approach.worked()
        if self.data is None or self._offer is None or not isinstance(link, ControlLink):
            self._interface.session.attach(link, self._now())
        else:
            self.data.registered(
                link,
                self._offer,
                self._server_of(link),
                self._approach.names,
                self._approach.resolver,
                agreed.accepted.mtu,
                self.is_inside,
            )
            if link.carries_super_packets:
                self._interface.session.framed = link
            if self.alone is not None:
                self.alone.registered(self._offer, self.is_inside)
        for line in self._interface.describe():
            _log.info("{line}", line=line)
        self.state = self._refusals.tell(agreed.accepted)
        if isinstance(link, ControlLink) and self.dialogue.has_heartbeats:
            self.heart.start(link, agreed.accepted.heartbeat)

    def exchange(self, link: Link) -> None:
        _log.info("TCP works outside the tunnel again: the control connection goes there")
        self._drop_link(gently=True)
        self.is_inside = False
        self.link = link
        self.introduce(link)

    def wait(self, setback: Setback) -> None:
        was_up = self._interface.session.link is not None
        self._drop_link()
        if setback.final and self.data is not None:
            self.data.ended(str(setback))
        if self.alone is not None and not self._is_anew:
            refused = setback.final or (setback.seconds > 0 and not setback.stranger)
            if refused or not self.dialogue.is_on_file:
                self.alone.refused()
            elif was_up:
                self.alone.lost()
            else:
                self.alone.failed(self.is_inside)
        seconds = self._pause.begin(setback.seconds)
        self.state = f"waiting: {setback}"
        log = _log.error if setback.serious else _log.info
        log("{why}; next try in {seconds:.1f} s", why=str(setback), seconds=seconds)
        self.waits(setback)

    def leave(self) -> None:
        self.state = "leaving"
        link = self.link
        self._pause.stop()
        if isinstance(link, ControlLink) and link.is_up and self.dialogue.has_heartbeats:
            link.tell(Command.GOODBYE)
        said = link is not None and link.is_up
        self._drop_link(gently=True)
        self._left(FAREWELL_SECONDS if said else 0.0)

    # -- Deeds of Alone

    def agree(self, offer: RegisterAnswer) -> Deferred[int]:
        return Deferred.fromCoroutine(self._agree(offer))

    async def _agree(self, offer: RegisterAnswer) -> int:
        server = outer_address(offer.wireguard_endpoints[0].rpartition(":")[0].strip("[]"))
        agreed = await self._interface.agree(offer, server)
        return agreed.accepted.mtu

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        # Unless the connection is about to be there.
        if self.data is not None and self._interface.session.link is None:
            self.data.resume(offer, self._approach.names, self._approach.resolver, mtu)

    def give_up(self) -> bool:
        if self.link is not None and self.link.is_up:
            return False
        self._course.failed(Setback("TCP does not lead to the server"))
        self._pause.end()
        return True

    def scout(self) -> None:
        if self._scouts.is_looking or not self.is_inside:
            return
        try:
            self._scouts.begin(self._approach.look_outside(self._scouts.make))
        except PyvpnError as error:
            _log.info("cannot look outside: {why}", why=str(error))

    # -- LinkOwner

    def connected(self, link: Link) -> None:
        if link not in self._scouts:
            if self.link is not None or self._attempt is None:
                link.abort()  # another address of the server was quicker
                return
            self.link = link
        link.expect_within(SECURE_SECONDS, "TLS handshake")

    def ready(self, link: Link) -> None:
        link.expect_within(None)
        if link in self._scouts:
            assert isinstance(link, ControlLink)
            self._scouts.remove(link)
            self._scouts.drop()
            if self.is_inside and self.link is not None:
                self._course.better(link)
            if link is not self.link:
                link.abort()
        elif link is self.link:
            self._course.secured(link)

    def heard(self, link: ControlLink) -> None:
        self._interface.session.heard_from(link, self._now())

    def renewed(self, link: PlainUdpLink, addresses: Addresses) -> None:
        if link is self.link and isinstance(self.dialogue, PlainUdpDialogue):
            self._course.renewed(link, self.dialogue.offer(addresses))

    def packets(self, link: Link, packets: list[bytes]) -> None:
        session = self._interface.session
        if session.owns(link):
            self._interface.router.packets_from_session(session, packets, self._now())

    def super_packets(self, link: ControlLink, packets: list[SuperPacket]) -> None:
        """Super-packets arrived."""
        session = self._interface.session
        if session.owns(link):
            self._interface.router.super_packets_from_session(session, packets, self._now())

    def question(
        self, link: ControlLink, command: int, data: bytes
    ) -> bytes | Deferred[bytes] | None:
        if command == Command.HEARTBEAT:
            if self.data is not None:
                self.data.doubted()
            return b""
        if command == Command.SETTINGS and self._interface.session.owns(link):
            return Deferred.fromCoroutine(self._change(link, data))
        return None

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        if command != Command.NOTICE or link is not self.link:
            return
        notice = Notice.from_bytes(data)
        self._course.failed(
            setback_of(notice.code, notice.message, notice.retry_after, "the server ended this")
        )

    def lost(self, link: Link, reason: Exception) -> None:
        if link in self._scouts:
            assert isinstance(link, ControlLink)
            self._scouts.remove(link)
        if link is not self.link:
            return
        self.dialogue.ended(link, reason)
        self._course.failed(reason if isinstance(reason, Setback) else passing(reason))

    # -- inside

    async def _change(self, link: ControlLink, data: bytes) -> bytes:
        settings = Settings.from_bytes(data)
        try:
            agreed = await self._pushed.apply(
                settings,
                lambda: self._interface.session.owns(link),
                lambda: self._server_of(link),
            )
        except HostError as error:
            # When we leave, the interface goes away under it.
            if link is self.link:
                self._course.failed(Setback(f"what the server offers now: {error}", serious=True))
            raise CancelledError from error
        if self.alone is not None:
            self.alone.changed(settings)
        self.state = self._refusals.tell(agreed.accepted)
        self.heart.change(link, agreed.accepted.heartbeat)
        return Answer(success=True, code=Code.OK).to_bytes()

    def _setback(self, failure: Any, link: Link) -> None:
        if link is not self.link:
            return
        if failure.check(HostError):
            end_with_failure(self._reactor, failure.getErrorMessage())
        elif failure.check(Setback):
            self._course.failed(failure.value)
        elif failure.check(PeerError):
            self._course.failed(passing(failure.value))
        else:
            _log.failure("the connection failed", failure)
            self._course.failed(Setback("internal error"))

    def _server_of(self, link: Link) -> Any:
        if self.is_inside and self.data is not None:
            return self.data.server
        return outer_address(getattr(link.transport.getPeer(), "host", None))

    def _drop_link(self, gently: bool = False) -> None:
        self.heart.stop()
        self._pause.lost()
        self._scouts.drop()
        link, self.link = self.link, None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        if link is not None:
            if self.data is None:
                self._interface.session.detach(link)
            else:
                self.data.link_lost(link)
            if link.transport is not None:
                end = link.close if gently else link.abort
                end()
