"""WireGuard as the server speaks it: ports, stock devices, and what is remembered of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from pyvpn.config import Endpoint
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import HostError
from pyvpn.interfaces import IDatagramSink
from pyvpn.net.clockwork import Clockwork
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.uapi import UapiPort
from pyvpn.net.udp import RunProtocol, UdpDrop, UdpPort
from pyvpn.server.natives import Natives
from pyvpn.server.recall import Recall, stamps_on_file
from pyvpn.server.returning import Returning
from pyvpn.server.shown import Shown
from pyvpn.server.stock import OFFLINE_SECONDS, StockDevices
from pyvpn.server.terms import Terms
from pyvpn.store.records import Device, Remembered, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.lease import Lease
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path, Run
from pyvpn.wire.rebuild import SuperPacket

_log = Logger()

PLACES_REMEMBERED = 65_536


@implementer(IDatagramSink)
class Ports:
    """The UDP ports of one server, as one way out.

    An answer leaves by the port that the question came to: routers on the way let in nothing else.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._ports: list[UdpPort] = []
        # By the peer's address and port.  Only if there are several of ours to choose from.
        self._heard_at: dict[bytes, UdpPort] = {}

    def open(self, reactor: Any, endpoints: Iterable[Endpoint], clockwork: Clockwork) -> None:
        """Listen on all of *endpoints*.

        Raises:
            HostError: one of them cannot be had; none is left open then.
        """
        wanted = list(endpoints)
        try:
            for endpoint in wanted:
                protocol: RunProtocol = clockwork
                if len(wanted) > 1:
                    protocol = _Noting(self._heard_at, clockwork)
                port = UdpPort(reactor, protocol, self._counters, host=endpoint.host)
                if isinstance(protocol, _Noting):
                    protocol.port = port
                port.open(endpoint.port)
                self._ports.append(port)
        except HostError:
            self.close()
            raise

    def close(self) -> None:
        """Give all ports back."""
        for port in self._ports:
            port.close()
        self._ports.clear()

    @property
    def numbers(self) -> list[int]:
        """Of all ports, each once."""
        return list(dict.fromkeys(port.port for port in self._ports))

    @property
    def number(self) -> int:
        """The number of the first port; 0 when closed."""
        return self._ports[0].port if self._ports else 0

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        if len(self._ports) == 1:  # as a rule; the rest would cost as much as a cookie
            return self._ports[0].send_datagrams(datagrams, path, tos)
        port = self._heard_at.get(path.key)
        if port is not None:
            return port.send_datagrams(datagrams, path, tos)
        # After a restart nobody knows by which of ours a NAT on the way lets the answer pass.  By
        # all of them: of two equal messages the peer takes the first.
        version = 4 if len(path.host) == 4 else 6
        ports = [port for port in self._ports if version in port.versions]
        if not ports:
            self._counters.drop(UdpDrop.NO_SOCKET, len(datagrams))
        return max((port.send_datagrams(datagrams, path, tos) for port in ports), default=0)

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        port = self._ports[0] if len(self._ports) == 1 else self._heard_at.get(path.key)
        return port is not None and port.send_whole(datagram, path)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        if len(self._ports) == 1:
            self._ports[0].send_replies(replies)
        else:
            for reply, path in replies:
                self.send_datagrams([reply], path, 0)


class _Noting(RunProtocol):
    """Notes where each peer was heard, and passes its datagrams on."""

    port: UdpPort

    def __init__(self, heard_at: dict[bytes, UdpPort], clockwork: Clockwork) -> None:
        self._heard_at = heard_at
        self._clockwork = clockwork

    def runs_received(self, runs: list[Run]) -> None:
        heard_at = self._heard_at
        for _, path, _ in runs:
            heard_at.pop(path.key, None)  # so that who was heard last comes last
            heard_at[path.key] = self.port
            if len(heard_at) > PLACES_REMEMBERED:  # addresses that are made up fill it, too
                del heard_at[next(iter(heard_at))]
        self._clockwork.runs_received(runs)


class WireGuardServer:
    """Everything of WireGuard that a server has.

    To be made before the reactor runs: it waits for the store.

    Args:
        static: the server's key.
        storage: the one thread that *store* is used from.
        trusted: whether a packed address stands for many clients (a relay).
        lease: gives the addresses of a device, by its number.
        now: CLOCK_BOOTTIME seconds.
        unix: wall clock seconds.
        random: returns so many random bytes.
        ports: the way out, unless it is this machine's.
    """

    def __init__(
        self,
        reactor: Any,
        static: StaticKey,
        store: Store,
        storage: DaemonThreads,
        router: Router,
        counters: Counters,
        *,
        trusted: Callable[[bytes], bool],
        lease: Callable[[int], Lease | None],
        terms: Terms,
        now: Callable[[], float],
        unix: Callable[[], float],
        random: Callable[[int], bytes] = os.urandom,
        ports: Ports | None = None,
    ) -> None:
        self.ports = Ports(counters) if ports is None else ports
        self._reactor = reactor
        self._store = store
        self._storage = storage
        self._lease = lease
        self._now = now
        stamps = storage.call(stamps_on_file, store, unix)
        self.wireguard = WireGuard(
            self.ports,
            self._deliver,
            random=random,
            stamps=stamps,
            unix=unix,
            counters=counters,
            trusted=trusted,
            deliver_super=self._deliver_super,
            native=lambda peer, payloads, at: self.natives.received(peer, payloads, at),
            doubted=lambda peer, at: self.natives.doubted(peer, at),
            expected=self._expected,
        )
        self._router = router
        self.natives = Natives(self.wireguard, counters, self._places, lambda: self._mtu, random)
        self._mtu = terms.mtu
        self._public: tuple[Endpoint, ...] = ()
        self.wireguard.set_private_key(static.private)
        self.stock = StockDevices(self.wireguard, router, lease, terms, now)
        self.recall = Recall(
            self.wireguard, self.stock, stamps, store, storage, unix, self.natives
        )
        self.clockwork = Clockwork(reactor, self.wireguard, now)
        self._shown: UapiPort | None = None

    def _deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        """Take inner packets that *peer* sent; what WireGuard calls us with."""
        session = peer.owner or self.natives.owner(peer, now)
        if isinstance(session, Session):
            self._router.packets_from_session(session, packets, now)

    def _deliver_super(self, peer: Peer, packets: list[SuperPacket], now: float) -> None:
        session = peer.owner
        if isinstance(session, Session):
            self._router.super_packets_from_session(session, packets, now)

    def _expected(self, public: bytes) -> Peer | None:
        returning = self.natives.returning
        return None if returning is None else returning.expected(public)

    def let_return(
        self,
        objection: Callable[[User, Device], str],
        begin: Callable[[User, Device], Session | None],
    ) -> None:
        """Let devices of ours that are on file come by UDP alone.

        Args:
            objection, begin: as :class:`~pyvpn.server.returning.Returning` takes them.
        """
        self.natives.returning = Returning(
            self.wireguard,
            self.natives.claims,
            objection=objection,
            lease=self._lease,
            begin=begin,
            mtu=lambda: self._mtu,
            store=self._store,
            storage=self._storage,
        )

    def _places(self) -> tuple[str, ...]:
        """Where clients of ours find us by UDP."""
        here = tuple(f":{number}" for number in self.ports.numbers)
        return tuple(dict.fromkeys((*map(str, self._public), *here)))

    def offer(self, terms: Terms, public: tuple[Endpoint, ...]) -> None:
        """Tell from now on what *terms* say, and that we are at the *public* endpoints, too."""
        self._mtu = terms.mtu
        self._public = public
        for peer in self.wireguard.peers.values():
            peer.mtu = terms.mtu
        self.stock.offer(terms)

    def open(self, endpoints: Iterable[Endpoint]) -> None:
        """Listen; raises HostError."""
        self.ports.open(self._reactor, endpoints, self.clockwork)

    def show(self, interface: str) -> None:
        """Answer ``wg show`` for the tunnel's *interface*, where we may make the socket for it."""
        shown = Shown(self.wireguard, self.stock, self.ports.number)
        port = UapiPort(self._reactor, shown, interface, lambda: None)
        try:
            port.open()
        except HostError as error:
            _log.info("wg show will not know this server: {why}", why=str(error))
        else:
            self._shown = port

    def begin(self, devices: Iterable[Device], users: dict[int, User]) -> None:
        """Let the devices that are on file in, and call back who was here before a crash."""
        self._follow(devices, users)
        self.recall.begin(self._now())

    def take_over(
        self, devices: Iterable[Device], users: dict[int, User], remembered: Iterable[Remembered]
    ) -> None:
        """Follow what the command line has changed."""
        self.recall.note(self._now())
        self._follow(devices, users)
        self.recall.take_over(remembered, self._now())

    def _follow(self, devices: Iterable[Device], users: dict[int, User]) -> None:
        found = list(devices)
        self.stock.take_over(found, users)
        if self.natives.returning is not None:
            self.natives.returning.take_over(found, dict(users))

    def call_back(self) -> None:
        """Begin the handshakes that are due after a restart; several times a second."""
        self.recall.call_back(self._now())
        self.clockwork.arm()

    def save(self) -> Deferred[None] | None:
        """Write down what is new; once a second."""
        return self.recall.save(self._now())

    def log_status(self) -> None:
        """Write how many apps there are to the log, and how many handshakes there were."""
        _log.info(
            "WireGuard on UDP port {port}: {online} of {devices} devices heard in the last "
            "{seconds:.0f} s, {handshakes} handshakes",
            port=self.ports.number,
            online=self.stock.online(self._now()),
            devices=len(self.stock.sessions),
            seconds=OFFLINE_SECONDS,
            handshakes=self.wireguard.handshakes,
        )

    def close(self) -> None:
        """Receive and send nothing any more."""
        self.clockwork.stop()
        self.ports.close()
        if self._shown is not None:
            self._shown.close()
            self._shown = None
