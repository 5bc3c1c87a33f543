"""pyvpn's client on a simulated network: its states, its heart, its data channel.

Its connection is the very one of ``ClientService``.  What is left out is the host: the tunnel's
interface takes what the server offers unseen, and the log-in is by name alone.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from pyvpn.client.approach import CONNECT_SECONDS
from pyvpn.client.connection import Connection
from pyvpn.client.data_channel import DataChannel
from pyvpn.client.dialogue import setback_of
from pyvpn.client.interface import Agreed
from pyvpn.client.machine import Link
from pyvpn.client.outside import Outside
from pyvpn.config import Endpoint
from pyvpn.crypto.suite import AES_CAPABILITY, AES_GCM, CHACHA, Suite
from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import Misuse, PeerError
from pyvpn.net.control import ControlLink
from pyvpn.testing.simulator.clock import ProcessClock
from pyvpn.testing.simulator.ends import EPOCH, MemoryTun
from pyvpn.testing.simulator.native_port import SimPort
from pyvpn.testing.simulator.network import Host
from pyvpn.testing.simulator.trace import Place
from pyvpn.tunnel.acceptance import Accepted
from pyvpn.tunnel.backoff import Backoff
from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import VERSION, Command
from pyvpn.wire.messages import (
    LogIn,
    LogInAnswer,
    Register,
    RegisterAnswer,
    Settings,
)

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
        self._process.connection.begin()

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
            process.connection.stop()
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
            self._process.connection.network_changed()

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

    No connection is made through the tunnel.
    """

    def __init__(self, end: NativeClient, stamps: Stamps) -> None:
        self.stamps = stamps
        self.clock = clock = ProcessClock(end.clock)
        self.interface = interface = _Interface(end, clock.seconds())
        self.session, self.router = interface.session, interface.router
        self.connection = Connection(
            clock,
            _Approach(end),
            interface,
            Backoff(end.most_backoff, lambda: int.from_bytes(end.random(4)) / 2**32),
            end.counters,
            left=lambda seconds: None,
            now=clock.seconds,
            is_ours=lambda host: ip_address(host).packed in end.host.addresses,
        )
        self.connection.waits = lambda setback: end.setbacks.append(str(setback))
        self.data = DataChannel(
            clock,
            end.transport,
            Outside(
                end.static,
                stamps,
                lambda: None,
                lambda clockwork, counters: SimPort(end.host, clockwork),
                clock.seconds,
                end.unix,
                end.random,
                end.suites,
            ),
            self.router,
            self.session,
            end.counters,
            self.connection.tell_carrier,
        )
        self.connection.dialogue = _ByName(end.name, self.data)
        self.connection.use_udp(self.data, end.memory)


class _Approach:
    """The server's places in the families that the host has, one after the other."""

    names: tuple[Endpoint, ...] = ()
    resolver = None

    def __init__(self, end: NativeClient) -> None:
        self._end = end
        self._turn = 0

    def next_of(self) -> Place | None:
        host = self._end.host
        reachable = [each for each in self._end.places if host.source(each.host) is not None]
        return reachable[self._turn % len(reachable)] if reachable else None

    def worked(self) -> None:
        """It is the next one's turn only when one has failed."""

    def again(self) -> None:
        """So it is."""

    def connect(self, endpoint: Place | None, make_link: Callable[[], Link]) -> Deferred[Any]:
        if endpoint is None:
            raise PeerError("no network")
        factory = Factory.forProtocol(make_link)  # type: ignore[type-var]  # a control link, here
        factory.noisy = False
        attempt = self._end.host.connect(*endpoint, factory, CONNECT_SECONDS)
        attempt.addErrback(self._failed)
        return attempt

    def _failed(self, failure: Failure) -> Failure:
        if not failure.check(CancelledError):
            self._turn += 1
        return failure

    def connect_inside(self, *_: object) -> Deferred[Any]:
        raise Misuse("there are no connections through the tunnel here")

    def look_outside(self, *_: object) -> Deferred[Any]:
        raise Misuse("there are no connections through the tunnel here")


class _ByName:
    """Log-in by name alone, of a device that is on file with it."""

    version = VERSION
    tls = False
    has_heartbeats = True
    is_on_file = True

    def __init__(self, name: str, data: DataChannel) -> None:
        self._name = name
        self._data = data

    def verify(self, link: ControlLink) -> None:
        """Nothing can be verified without TLS."""

    async def introduce(self, link: ControlLink) -> RegisterAnswer:
        log_in = LogIn(user=self._name).to_bytes()
        admitted = LogInAnswer.from_bytes(await link.ask(Command.LOG_IN, log_in))
        if not admitted.success:
            raise setback_of(admitted.code, admitted.message, admitted.retry_after, "log-in")
        link.raise_limit()
        key, carrier, agreement = self._data.introduction()
        request = Register(
            capabilities=tuple(w for w in self._data.capabilities if w == AES_CAPABILITY),
            wireguard_key=key,
            carrier=carrier,
            agreement=agreement,
        )
        answer = RegisterAnswer.from_bytes(await link.ask(Command.REGISTER, request.to_bytes()))
        if not answer.success:
            raise setback_of(answer.code, answer.message, 0.0, "the server gave no address")
        return answer

    def ended(self, link: object, reason: Exception) -> None:
        """A name stays what it is."""


class _Interface:
    """The host's: takes what the server offers as it is."""

    def __init__(self, end: NativeClient, now: float) -> None:
        self.tun = end.tun
        self.agreed: Agreed | None = None
        self.session = Session(0, 0, "server", (), frozenset(), now, Prefixes())
        self.router = Router(end.tun, end.counters, expiry_seconds=float("inf"))
        self.router.add(self.session)
        self._end = end

    async def agree(self, offer: RegisterAnswer, server: object) -> Agreed:
        own = IPv4Interface(offer.address4)
        self._end.address = own.ip.packed
        sources: Prefixes[bool] = Prefixes()
        networks = {ip_network(each) for each in offer.routes} | {own.network}
        for network in networks:
            packed = network.network_address.packed, network.prefixlen
            sources.add(*packed, True)
            self.router.add_route(*packed, self.session)
        self.session.sources = sources
        self.session.reachable = frozenset((own.ip.packed,))
        accepted = Accepted(tuple(networks), (), offer.mtu, offer.heartbeat, (), ())
        self.agreed = Agreed((own,), accepted)
        return self.agreed

    async def change(self, settings: Settings, server: object) -> Agreed:
        raise PeerError("settings do not change here")

    def describe(self) -> list[str]:
        return []
