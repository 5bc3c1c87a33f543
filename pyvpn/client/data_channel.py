"""The client's data channel: WireGuard by UDP, and the choice between it and the control link."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pyvpn.client.lookup import look_up
from pyvpn.client.outside import Outside
from pyvpn.client.places import (
    MOST_PLACES,
    IpAddress,
    literal,
    may_be_a_server,
    places_of,
    ports_of,
    readable_endpoints,
)
from pyvpn.config import Endpoint
from pyvpn.crypto.suite import AES_CAPABILITY, AES_GCM
from pyvpn.crypto.x25519 import key_from_base64, key_to_base64
from pyvpn.errors import HostError
from pyvpn.net.clockwork import Clockwork
from pyvpn.tunnel.choice import CHECK_SECONDS, NEVER, NOT_YET, CarrierChoice, Transport
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path
from pyvpn.wire.messages import RegisterAnswer
from pyvpn.wire.native import TOKEN_BYTES, Resumed, Way, parse
from pyvpn.wire.offload import CAPABILITY
from pyvpn.wire.rebuild import SuperPacket

_log = Logger()

KEEPALIVE_SECONDS = 25
"""A router on the way forgets a silent client after 30 s at the earliest."""


class DataChannel:
    """What a client has of UDP.

    Args:
        transport: says whether UDP may be used, and whether anything else.
        outside: the machine that it runs on.
        router: takes what arrives for *session*.
        tell: says a choice by the control connection, if there is one.
    """

    def __init__(
        self,
        reactor: Any,
        transport: Transport,
        outside: Outside,
        router: Router,
        session: Session,
        counters: Counters,
        tell: Callable[[int, Way, int], None],
    ) -> None:
        self._reactor = reactor
        self._outside = outside
        self._now = outside.now
        self._router = router
        self._session = session
        self._counters = counters
        self.transport = transport
        self._told: tuple[bool, str, int] | None = None
        self._last_stamp = b""
        self.choice = CarrierChoice(session, transport, tell)
        self.wireguard = WireGuard(
            self,
            self._deliver,
            random=outside.random,
            stamps=outside.stamps,
            unix=outside.unix,
            counters=counters,
            deliver_super=self._deliver_super,
            native=self._native,
            doubted=self._doubted,
        )
        self.wireguard.suites = outside.suites
        self.wireguard.set_private_key(outside.static.private)
        self.clockwork = Clockwork(reactor, self.wireguard, self._now)
        self._port = outside.make_port(self.clockwork, counters)
        self._alarm: IDelayedCall | None = None
        self._resolving: list[Deferred[Any]] = []

    # -- what the service does

    @property
    def public(self) -> str:
        """Our WireGuard key in base64, as a registration names it; empty: none, we shall not."""
        return (
            "" if self.transport == Transport.TCP else key_to_base64(self._outside.static.public)
        )

    def introduction(self) -> tuple[str, str, str]:
        """What a registration says: our key, how packets travel now, which session it is."""
        return self.public, self.carrier, self.choice.agreement

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The words for what we can do, as a registration says them."""
        if not self.public:
            return ()
        aes = AES_GCM in self.wireguard.suites
        return (CAPABILITY, AES_CAPABILITY) if aes else (CAPABILITY,)

    @property
    def places(self) -> tuple[str, ...]:
        """The addresses at which the server may be."""
        return tuple(str(ip_address(each)) for each in self.choice.hosts)

    @property
    def carrier(self) -> str:
        """How packets travel now, as a registration says it."""
        return "udp" if self.choice.by_udp else "tcp"

    def registered(
        self,
        link: Any,
        offer: RegisterAnswer,
        server: IpAddress | None,
        names: tuple[Endpoint, ...],
        resolver: Any,
        mtu: int,
        inside: bool = False,
    ) -> None:
        """The server has taken us in by *link*.

        Args:
            server: where *link* leads.
            names: where the server is said to be; their addresses are tried, too.
            inside: *link* runs through the tunnel, so where it leads says nothing.
        """
        now = self._now()
        peer = self._peer_of(offer, mtu)
        self.choice.offload = CAPABILITY in offer.capabilities
        if peer is not None:
            # At once: unlike super-packets, a handshake of AES needs no session at the server.
            peer.agree_on_aes(AES_CAPABILITY in offer.capabilities)
        token = _token_of(offer)
        places = [] if peer is None else places_of(offer, None if inside else server)
        if inside:
            places = list(dict.fromkeys((*self.choice.paths, *places)))
        known = places or any(each.host for each in readable_endpoints(offer))
        if peer is None or len(token) != TOKEN_BYTES or not known or not self._open():
            if self.transport == Transport.UDP:
                _log.error("transport = udp, and the server offers no UDP: nothing will pass")
            self.choice.registered(
                link, None, [], offer.agreement, b"", offer.epoch, now, inside=inside
            )
            return
        self.choice.registered(
            link, peer, places, offer.agreement, token, offer.epoch, now, inside
        )
        self._keep_alive(peer, offer, now)
        self._look_up(offer, names, resolver)
        self.arm()

    def resume(
        self, offer: RegisterAnswer, names: tuple[Endpoint, ...], resolver: Any, mtu: int
    ) -> None:
        """Come by UDP alone: *offer* is what the server said when it took us in last.

        Whether it still holds is the server's to say; nothing is sent through a tunnel until then.
        """
        if self.choice.has_peer:
            return
        now = self._now()
        peer, places = self._peer_of(offer, mtu), places_of(offer, None)
        if peer is None or not places or not self._open():
            return
        self.choice.resume(peer, places, now)
        self._keep_alive(peer, offer, now)
        self._look_up(offer, names, resolver)
        self.arm()

    def _keep_alive(self, peer: Peer, offer: RegisterAnswer, now: float) -> None:
        # Often enough that the session does not expire when the tunnel is all that there is.
        keepalive = min(KEEPALIVE_SECONDS, max(1, int(offer.expiry / 3) or KEEPALIVE_SECONDS))
        if peer.keepalive != keepalive:
            peer.set_keepalive(keepalive, now)

    def worth_keeping(self, offer: RegisterAnswer) -> RegisterAnswer:
        """*offer* as :meth:`resume` wants it: with addresses, and without secrets."""
        places = [
            str(Endpoint(str(ip_address(path.host)), path.port))
            for path in self.choice.paths
            if not path.scope
        ]
        return replace(
            offer,
            wireguard_endpoints=tuple(places[:MOST_PLACES]),
            token="",
            agreement="",
            epoch=0,
        )

    @property
    def server(self) -> IpAddress | None:
        """Where packets to the server go by UDP; None: there is no tunnel."""
        paths = self.choice.paths
        return ip_address(paths[0].host) if paths else None

    def link_lost(self, link: Any) -> None:
        """The control connection is no more."""
        self.choice.link_lost(link, self._now())
        self._look()

    def ended(self, why: str) -> None:
        """The server has ended the session: its tunnel is over."""
        self.choice.ended(why)

    def network_changed(self) -> None:
        """Addresses or routes are others than before, or this machine has slept."""
        self.choice.network_changed(self._now())
        self._look()

    def doubted(self) -> None:
        """The server asks whether we are there: what it sends by UDP goes unanswered."""
        self.choice.doubted(self._now())
        self._look()

    def arm(self) -> None:
        """To be called after packets were given to the session."""
        self.clockwork.arm()
        if self._outside.stamps.last is not self._last_stamp:
            self._last_stamp = self._outside.stamps.last
            self._outside.reserve()
        self.choice.used(self._now())
        due = self.choice.next_due
        if self._alarm is not None and self._alarm.active():
            if self._alarm.getTime() - self._reactor.seconds() <= due - self._now():
                return
            self._alarm.cancel()
        if due != NEVER and self._port.port:
            self._alarm = self._reactor.callLater(max(0.0, due - self._now()), self._look)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        return self._port.send_datagrams(datagrams, path, tos)

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self._port.send_whole(datagram, path)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        self._port.send_replies(replies)

    def describe(self) -> str:
        """How packets travel and why, for the status."""
        session = self._session
        if session.carrier is None:
            return f"packets do not travel: {self.choice.why}"
        if not self.choice.by_udp:
            return f"packets go by TCP (TLS): {self.choice.why}"
        peer = session.carrier
        assert isinstance(peer, Peer)
        narrow = f", none larger than {session.path_mtu} bytes" if session.path_mtu else ""
        return f"packets go by UDP to {peer.endpoint}: {self.choice.why}{narrow}"

    @property
    def cipher(self) -> str:
        """What our packets are sealed with by UDP; empty: nothing yet."""
        carrier = self._session.peer
        return carrier.cipher if isinstance(carrier, Peer) else ""

    def close(self) -> None:
        """Send and receive nothing any more."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._forget_names()
        self.clockwork.stop()
        self._port.close()

    # -- inside

    def _open(self) -> bool:
        """Open the port; False if this host does not give us one."""
        if not self._port.port:
            try:
                self._port.open(0)
            except HostError as error:
                _log.warn("without UDP: {error}", error=str(error))
                return False
        self._outside.reserve()
        return True

    def _peer_of(self, offer: RegisterAnswer, mtu: int) -> Peer | None:
        if not offer.wireguard_key or self.transport == Transport.TCP:
            return None
        try:
            public = key_from_base64(offer.wireguard_key)
        except ValueError:
            _log.warn("the server's WireGuard key is none: without UDP")
            return None
        for other in [each for each in self.wireguard.peers if each != public]:
            self.wireguard.remove_peer(other)
        peer = self.wireguard.add_peer(public)
        if peer is not None:
            peer.owner = self._session
            peer.is_native = True
            peer.mtu = mtu
        return peer

    def _deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self._router.packets_from_session(self._session, packets, now)
        if self.choice.next_due > now + CHECK_SECONDS:
            self.arm()

    def _deliver_super(self, peer: Peer, packets: list[SuperPacket], now: float) -> None:
        self._router.super_packets_from_session(self._session, packets, now)
        if self.choice.next_due > now + CHECK_SECONDS:
            self.arm()

    def _native(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        for payload in payloads:
            message = parse(payload)
            if message is None:
                self._counters.drop(Drop.MALFORMED)
            elif isinstance(message, Resumed) and message.addresses != self._session.reachable:
                # From any other address nothing would pass; a registration says which is ours.
                self.choice.ended("the server has another address for us now")
            elif not self.choice.received(message, now):
                self._counters.drop(Drop.UNASKED)
        self._say()
        self.arm()

    def _doubted(self, peer: Peer, now: float) -> None:
        self.choice.doubted(now)
        self.arm()

    def _look(self) -> None:
        try:
            self._outside.reserve()
            self.choice.tick(self._now())
            self._say()
        except Exception:  # noqa: BLE001 - else nobody would look again
            _log.failure("the data channel met a bug of ours")
            self.choice.put_off(self._now())
        self.arm()

    def _say(self) -> None:
        """Log a change of the carrier, once."""
        state = (self.choice.by_udp, self.choice.why, self._session.path_mtu)
        if state != self._told and self._session.carrier is not None and state[1] != NOT_YET:
            self._told = state
            _log.info("{what}", what=self.describe())

    def _look_up(self, offer: RegisterAnswer, names: tuple[Endpoint, ...], resolver: Any) -> None:
        """Find the other addresses of the server: of the other family, or behind names."""
        self._forget_names()
        known = ports_of(offer)
        wanted = [Endpoint(each.host, port) for each in names for port in known]
        wanted += [
            each for each in readable_endpoints(offer) if each.host and literal(each) is None
        ]
        for each in dict.fromkeys(wanted[:MOST_PLACES]):
            resolving = look_up(resolver, each)
            self._resolving.append(resolving)
            resolving.addCallback(self._found)
            resolving.addErrback(lambda failure: failure.trap(CancelledError, Exception) and None)

    def _found(self, addresses: list[Any]) -> None:
        self.choice.add_paths(
            [
                Path(address.packed, each.port)
                for each in addresses
                if may_be_a_server(address := ip_address(each.host))
            ],
            MOST_PLACES,
        )

    def _forget_names(self) -> None:
        for each in self._resolving:
            each.cancel()
        self._resolving.clear()


def _token_of(offer: RegisterAnswer) -> bytes:
    try:
        return b64decode(offer.token, validate=True)
    except (NoBase64, ValueError):
        return b""
