"""pyvpn's client on a simulated network: its states, its heart, its data channel.

What is left out is the host: the tunnel's interface takes what the server offers unseen, and the
log-in is by name alone.

(A long file, and some thirty lines of it are ``ClientService``'s again: they are to be shared once
the connection there is cut from the service.)
"""

from __future__ import annotations

from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from pyvpn.client.alone import Alone
from pyvpn.client.approach import CONNECT_SECONDS
from pyvpn.client.data_channel import DataChannel
from pyvpn.client.dialogue import passing, setback_of
from pyvpn.client.heart import Heart
from pyvpn.client.machine import Link, Setback, make_course
from pyvpn.client.outside import Outside, Port
from pyvpn.client.service import DOUBT_SECONDS, PROOF_SECONDS, SECURE_SECONDS
from pyvpn.crypto.suite import AES_CAPABILITY, AES_GCM, CHACHA, Suite
from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import Misuse, PeerError
from pyvpn.net.clockwork import Clockwork
from pyvpn.net.control import ControlLink
from pyvpn.testing.simulator.clock import ProcessClock
from pyvpn.testing.simulator.ends import EPOCH, MemoryTun
from pyvpn.testing.simulator.native_port import SimPort
from pyvpn.testing.simulator.network import Host
from pyvpn.testing.simulator.trace import Place
from pyvpn.tunnel.backoff import Backoff
from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import VERSION, Command
from pyvpn.wire.messages import (
    ChosenCarrier,
    LogIn,
    LogInAnswer,
    Notice,
    Register,
    RegisterAnswer,
)
from pyvpn.wire.native import Way

MOST_BACKOFF = 60.0
"""Seconds, as the client's configuration has them."""


class NativeClient:
    """One client, with its process.

    It runs from the beginning.

    Args:
        places: where the server listens for streams; those in a family that the host has are
            tried one after the other.
        name: as whom it logs in; the host's, if nothing is said.
        static: its WireGuard key, if it shall be a certain one.
        most_backoff: the longest pause between two tries to connect.
    """

    def __init__(
        self,
        host: Host,
        places: list[Place],
        transport: Transport = Transport.AUTO,
        *,
        name: str = "",
        static: StaticKey | None = None,
        most_backoff: float = MOST_BACKOFF,
    ) -> None:
        self.most_backoff = most_backoff
        self.host = host
        self.clock = host.network.clock
        self.places = places
        self.transport = transport
        self.name = name or host.name
        self.tun = MemoryTun()
        self.counters = Counters()
        """Of all its lives."""
        self.lives = 0
        """How often it was started."""
        self.setbacks: list[str] = []
        """Why connections came to nothing, of all its lives."""
        self.wall_error = 0.0
        """Seconds by which its wall clock is fast."""
        self.address = b""
        """The packed address that it has in the tunnel; empty before the first."""
        self.random = host.network.randbytes()
        self.static = static or StaticKey(self.random(32))
        self.memory = MemoryOnDisk()
        self._floor = b""  # no timestamp was ever sent that is later
        self._process: _Process | None = None
        self.suites: tuple[Suite, ...] = (CHACHA, AES_GCM)
        """What its processor can do, as its next start finds it."""
        self.start()

    def start(self) -> None:
        """Run; Misuse: it does."""
        if self._process is not None:
            raise Misuse(f"{self} runs")
        self.lives += 1
        self._process = _Process(self, Stamps(self.unix, self._floor))
        self.host.process = self._process.clock
        self._process.begin()

    def kill(self) -> None:
        """End at once, with no farewell."""
        process = self._process
        if process is not None:
            self._floor = process.stamps.last
            process.clock.kill()
            self._process = None
            self.host.end_process()

    def leave(self) -> None:
        """Say goodbye and end."""
        process, self._process = self._process, None
        if process is not None:
            self._floor = process.stamps.last
            process.stop()
            process.data.close()
            process.clock.kill()  # what it has said is on its way

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def carrier(self) -> str:
        """How packets leave now: "udp", "tcp", or "" while they do not."""
        process = self._process
        if process is None or process.session.carrier is None:
            return ""
        return process.data.carrier

    @property
    def data(self) -> DataChannel:
        """That of the running process."""
        assert self._process is not None
        return self._process.data

    @property
    def session(self) -> Session:
        """The server, as the running process sees it."""
        assert self._process is not None
        return self._process.session

    @property
    def is_registered(self) -> bool:
        """Whether its control connection stands, as far as it knows."""
        return self._process is not None and self._process.session.link is not None

    def send(self, *packets: bytes) -> None:
        """Have programs of the host send *packets* into the tunnel; without process, nowhere."""
        process = self._process
        if process is not None:
            process.router.packets_from_tun(list(packets), self.clock.seconds())
            process.data.arm()

    def network_changed(self) -> None:
        """Be told by the kernel that the host's addresses or routes are others than before."""
        if self._process is not None:
            self._process.network_changed()

    def unix(self) -> float:
        """The wall clock."""
        return EPOCH + self.clock.seconds() + self.wall_error

    def __repr__(self) -> str:
        """Who it is."""
        return f"<NativeClient {self.name}>"


class MemoryOnDisk:
    """Stands for :class:`pyvpn.client.memory.Memory`."""

    def __init__(self) -> None:
        self.kept: RegisterAnswer | None = None

    def recall(self) -> RegisterAnswer | None:
        return self.kept

    def keep(self, answer: RegisterAnswer) -> None:
        self.kept = answer


class _Process:
    """What a start makes; what ``ClientService`` is in the world.

    Implements :class:`pyvpn.client.machine.Deeds`, :class:`pyvpn.client.alone.Deeds` and
    :class:`pyvpn.net.link_owner.LinkOwner`.  No connection is made through the tunnel.
    """

    def __init__(self, end: NativeClient, stamps: Stamps) -> None:
        self.end = end
        self.stamps = stamps
        self.clock = clock = ProcessClock(end.clock)
        self.session = Session(0, 0, "server", (), frozenset(), clock.seconds(), Prefixes())
        self.router = Router(end.tun, end.counters, expiry_seconds=float("inf"))
        self.router.add(self.session)
        self.data = DataChannel(
            clock,
            end.transport,
            Outside(
                end.static,
                stamps,
                lambda: None,
                self._make_port,
                clock.seconds,
                end.unix,
                end.random,
                end.suites,
            ),
            self.router,
            self.session,
            end.counters,
            self._tell_carrier,
        )
        self._alone = Alone(clock, self, self.data, end.memory)
        self._backoff = Backoff(end.most_backoff, lambda: int.from_bytes(end.random(4)) / 2**32)
        self._course = make_course(self)
        self._heart = Heart(clock)
        self._link: ControlLink | None = None
        self._attempt: Deferred[Any] | None = None
        self._alarm: IDelayedCall | None = None
        self._proof: IDelayedCall | None = None
        self._sent_away = False
        self._offer: RegisterAnswer | None = None
        self._turn = 0

    def _make_port(self, clockwork: Clockwork, counters: Counters) -> Port:
        return SimPort(self.end.host, clockwork)

    def _tell_carrier(self, epoch: int, way: Way, mtu: int) -> None:
        link = self._link
        if link is not None and link.is_up:
            word = ChosenCarrier(carrier=way.name.lower(), epoch=epoch, mtu=mtu)
            answer = link.ask(Command.CARRIER, word.to_bytes())
            answer.addErrback(lambda failure: failure.trap(PeerError) and None)

    def begin(self) -> None:
        """Connect."""
        self._course.begin()

    def stop(self) -> None:
        """Leave."""
        self._course.stop()

    # -- Deeds

    def connect(self) -> None:
        host = self.end.host
        reachable = [each for each in self.end.places if host.source(each.host) is not None]
        self._alone.trying()
        if not reachable:
            self.clock.callLater(0, self._course.failed, Setback("no network"))
            return
        place = reachable[self._turn % len(reachable)]
        factory = Factory.forProtocol(self._make_link)
        factory.noisy = False
        self._attempt = host.connect(*place, factory, CONNECT_SECONDS)
        self._attempt.addErrback(self._not_connected)

    def _make_link(self) -> ControlLink:
        return ControlLink(self, self.clock, version=VERSION, initiator=True, tls=False)

    def _not_connected(self, failure: Failure) -> None:
        if not failure.check(CancelledError) and self.clock.is_alive:
            self._turn += 1
            self._course.failed(Setback(f"cannot connect: {failure.getErrorMessage()}"))

    def introduce(self, link: Link) -> None:
        assert isinstance(link, ControlLink)
        told = Deferred.fromCoroutine(self._introduce(link))
        told.addCallback(lambda offer: self._course.accepted(link, offer))
        told.addErrback(self._setback, link)

    async def _introduce(self, link: ControlLink) -> RegisterAnswer:
        log_in = LogIn(user=self.end.name).to_bytes()
        admitted = LogInAnswer.from_bytes(await link.ask(Command.LOG_IN, log_in))
        if not admitted.success:
            raise setback_of(admitted.code, admitted.message, admitted.retry_after, "log-in")
        link.raise_limit()
        request = Register(
            capabilities=tuple(w for w in self.data.capabilities if w == AES_CAPABILITY),
            wireguard_key=self.data.public,
            carrier=self.data.carrier,
            agreement=self.data.choice.agreement,
        )
        answer = RegisterAnswer.from_bytes(await link.ask(Command.REGISTER, request.to_bytes()))
        if not answer.success:
            raise setback_of(answer.code, answer.message, 0.0, "the server gave no address")
        return answer

    def configure(self, link: Link, offer: RegisterAnswer) -> None:
        self._offer = offer
        self._configure(offer)
        self._course.ready()

    def _configure(self, offer: RegisterAnswer) -> None:
        own = IPv4Interface(offer.address4)
        self.end.address = own.ip.packed
        sources: Prefixes[bool] = Prefixes()
        for network in {ip_network(each) for each in offer.routes} | {own.network}:
            packed = network.network_address.packed, network.prefixlen
            sources.add(*packed, True)
            self.router.add_route(*packed, self.session)
        self.session.sources = sources
        self.session.reachable = frozenset((own.ip.packed,))

    def carry(self) -> None:
        link, offer = self._link, self._offer
        assert link is not None
        assert offer is not None
        self._drop_proof()
        self._proof = self.clock.callLater(PROOF_SECONDS, self._backoff.established)
        server = ip_address(link.transport.getPeer().host)
        self.data.registered(link, offer, server, (), None, offer.mtu)
        self._alone.registered(offer, False)
        self._heart.start(link, offer.heartbeat)

    def exchange(self, link: Link) -> None:
        raise Misuse("there are no connections through the tunnel here")

    def wait(self, setback: Setback) -> None:
        was_up = self.session.link is not None
        self._drop_link()
        if setback.final:
            self.data.ended(str(setback))
        if setback.final or setback.seconds > 0:
            self._alone.refused()
        elif was_up:
            self._alone.lost()
        else:
            self._alone.failed(False)
        self.end.setbacks.append(str(setback))
        self._sent_away = setback.seconds > 0
        self._alarm = self.clock.callLater(self._backoff.pause(setback.seconds), self._ring)

    def leave(self) -> None:
        if self._link is not None and self._link.is_up:
            self._link.tell(Command.GOODBYE)
            self._link.close()

    def _ring(self) -> None:
        self._alarm = None
        self._course.retry()

    # -- by UDP alone

    def agree(self, offer: RegisterAnswer) -> Deferred[int]:
        self._configure(offer)
        return succeed(offer.mtu)

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        if self.session.link is None:
            self.data.resume(offer, (), None, mtu)

    def give_up(self) -> bool:
        self._course.failed(Setback("TCP does not lead to the server"))
        return True

    def scout(self) -> None:
        raise Misuse("there are no connections through the tunnel here")

    # -- LinkOwner

    def connected(self, link: ControlLink) -> None:
        if not self.clock.is_alive:
            return
        if self._link is not None or self._attempt is None:
            link.abort()
            return
        self._link = link
        link.expect_within(SECURE_SECONDS, "TLS handshake")

    def ready(self, link: ControlLink) -> None:
        link.expect_within(None)
        if link is self._link:
            self._course.secured(link)

    def heard(self, link: ControlLink) -> None:
        self.session.heard_from(link, self.clock.seconds())

    def packets(self, link: ControlLink, packets: list[bytes]) -> None:
        if self.session.owns(link):
            self.router.packets_from_session(self.session, packets, self.clock.seconds())

    def question(self, link: ControlLink, command: int, data: bytes) -> bytes | None:
        if command == Command.HEARTBEAT:
            self.data.doubted()
            return b""
        return None

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        if command == Command.NOTICE and link is self._link:
            notice = Notice.from_bytes(data)
            self._course.failed(
                setback_of(notice.code, notice.message, notice.retry_after, "ended")
            )

    def lost(self, link: ControlLink, reason: Exception) -> None:
        if link is self._link:
            self._course.failed(reason if isinstance(reason, Setback) else passing(reason))

    # -- inside

    def _setback(self, failure: Failure, link: Link) -> None:
        if link is not self._link:
            return
        failure.trap(Setback, PeerError)
        why = cast(Exception, failure.value)
        self._course.failed(why if isinstance(why, Setback) else passing(why))

    def _drop_link(self) -> None:
        self._heart.stop()
        self._drop_proof()
        link, self._link = self._link, None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        if link is not None:
            self.data.link_lost(link)
            link.abort()

    def network_changed(self) -> None:
        """As ``ClientService`` does it."""
        link = self._link
        if link is not None and link.is_up and not link.is_closed:
            if ip_address(link.transport.getHost().host).packed in self.end.host.addresses:
                self._heart.ask_now(link, DOUBT_SECONDS)
            else:
                link.abort(PeerError("this host does not have the connection's address any more"))
        self.data.network_changed()
        if self._alarm is not None and self._alarm.active() and not self._sent_away:
            self._backoff.established()
            self._alarm.reset(0)

    def _drop_proof(self) -> None:
        if self._proof is not None and self._proof.active():
            self._proof.cancel()
