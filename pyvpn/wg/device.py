"""A WireGuard interface: one key, one port, any number of peers, each with its networks.

Packets of the TUN go to the peer whose networks hold the destination, and a peer may send from
its networks only (WireGuard's cryptokey routing).  Everything else about a packet is the kernel's
business: also what one peer sends to another passes through it.

The device is *up* while its interface is: it then has its sockets, and its peers have keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from socket import if_nametoindex
from typing import Protocol

from twisted.logger import Logger

from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import clamp, key_to_base64, public_of
from pyvpn.errors import HostError, Misuse
from pyvpn.net.clockwork import Clock, Clockwork
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import OwnRoutes, Router
from pyvpn.tunnel.session import PacketSink, Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wg.loop import LoopDrop, is_sealed_for, may_be_sealed
from pyvpn.wg.setting import DeviceSetting
from pyvpn.wire.datagram import Path
from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.uapi import DeviceView, PeerView
from pyvpn.wire.uapi_operations import Errno, Refusal
from pyvpn.wire.uapi_values import Endpoint

DEFAULT_MTU = 1420  # bytes: fits with IPv6 outside, on a path of 1500
MOST_PEERS = 1 << 16

_NO_KEY = bytes(32)
_MAPPED = bytes(10) + b"\xff\xff"


class Outside(Protocol):
    """The UDP port (:class:`pyvpn.net.udp.UdpPort`), closed at first.  What it cannot do it
    says with a HostError, and is as it was."""

    port: int

    def open(self, port: int) -> int: ...

    def rebind(self, port: int) -> int: ...

    def close(self) -> None: ...

    def set_mark(self, mark: int) -> None: ...

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None: ...

    def send_whole(self, datagram: bytes, path: Path) -> bool: ...

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int: ...


class Member:
    """What the device knows of a peer besides the peer itself, whose `owner` this is."""

    __slots__ = ("path", "session", "written")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.written: Endpoint | None = None
        """The endpoint as somebody wrote it, to be shown so while it is the current one."""
        self.path: Path | None = None
        """The same as the peer has it."""


class Device:
    """Joins the protocol, the routes, the TUN and the port; configured by :meth:`begin_setting`.

    Args:
        boottime: seconds since boot, sleep included.
        unix: the wall clock.
    """

    def __init__(
        self,
        clock: Clock,
        tun: PacketSink,
        outside: Outside,
        counters: Counters,
        *,
        boottime: Callable[[], float],
        unix: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._outside = outside
        self._boottime = boottime
        self._counters = counters
        self.router = Router(tun, counters, one_link=True)
        self.wireguard = WireGuard(
            outside,
            self._deliver,
            random=random,
            stamps=Stamps(unix),
            unix=unix,
            counters=counters,
        )
        self.mtu = DEFAULT_MTU
        self.is_up = False
        self.listen_port = 0
        """As set, or as the kernel chose; kept while down."""
        self.fwmark = 0
        self.own_public = _NO_KEY
        """A peer with this key is never made."""
        self._wanted_up = False
        self.clockwork = Clockwork(clock, self.wireguard, boottime)
        """What the port's datagrams are for."""

    _log = Logger()

    # -- packets

    def packets_from_tun(self, packets: list[bytes]) -> None:
        """Send what the kernel gives to us."""
        if any(map(may_be_sealed, packets)):
            packets = [packet for packet in packets if not self._goes_round(packet)]
        self.router.packets_from_tun(packets, self._boottime())
        self.clockwork.arm()

    def _goes_round(self, packet: bytes) -> bool:
        ends = endpoints_of(packet)
        session = None if ends is None else self.router.sessions.lookup(ends[1])
        peer = None if session is None else session.carrier
        if not (isinstance(peer, Peer) and is_sealed_for(packet, peer)):
            return False
        self._counters.drop(LoopDrop.LOOP)
        return True

    def _deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.router.packets_from_session(member_of(peer).session, packets, now)

    # -- the interface

    def set_link(self, up: bool, mtu: int) -> None:
        """Follow the interface: whether it is up, and its MTU in bytes."""
        if mtu != self.mtu:
            self.mtu = mtu
            for peer in self.wireguard.peers.values():
                peer.mtu = mtu
        if up == self._wanted_up == self.is_up:
            return
        self._wanted_up = up
        if up:
            try:
                self._go_up()
            except HostError as error:
                self._log.error("{error}", error=str(error))
        else:
            self._go_down()

    def close(self) -> None:
        """Send nothing any more, and forget all keys."""
        self._go_down()
        for public in list(self.wireguard.peers):
            self.remove_peer(public)
        self.wireguard.set_private_key(None)
        self.clockwork.stop()

    def _go_up(self) -> None:
        self.listen_port = self._outside.open(self.listen_port)
        self.is_up = True
        now = self._boottime()
        for peer in self.wireguard.peers.values():
            peer.up(now)
        self.clockwork.arm()

    def _go_down(self) -> None:
        self.is_up = False
        for peer in self.wireguard.peers.values():
            peer.down()
        self._outside.close()

    # -- configuration

    def begin_setting(self) -> DeviceSetting:
        """Begin a ``set`` request."""
        return DeviceSetting(self, self._boottime)

    def describe(self) -> DeviceView:
        """Say how things stand."""
        static = self.wireguard.static
        return DeviceView(
            b"" if static is None else static.private,
            self.listen_port,
            self.fwmark,
            self._peer_views(list(self.wireguard.peers.values())),
        )

    def _peer_views(self, peers: list[Peer]) -> Iterator[PeerView]:
        for peer in peers:
            member = member_of(peer)
            yield PeerView(
                peer.public,
                peer.preshared_key,
                _endpoint_text(peer, member),
                peer.last_handshake,
                peer.tx_bytes,
                peer.rx_bytes,
                peer.keepalive,
                # Shortest addresses first, then in their order: the same at every look.
                sorted(self.router.routes_of(member.session), key=_by_family),
            )

    def set_private_key(self, key: bytes) -> None:
        """Be whoever has *key* (32 bytes, clamped or not); all zeros: nobody.

        A peer with our own public key vanishes.
        """
        private = None if key == _NO_KEY else clamp(key)
        static = self.wireguard.static
        if private == (None if static is None else static.private):
            return  # sessions agreed with it stay
        # Of no key it is that of the clamped zeros, as with wireguard-go; ``wg`` can see that.
        self.own_public = public_of(key)
        self.remove_peer(self.own_public)
        self.wireguard.set_private_key(private)

    def set_listen_port(self, port: int) -> None:
        """Listen on *port* (0: any), at once or when the interface comes up.

        Raises:
            Refusal: somebody else has it; we go on with the one we had.
        """
        if not self._wanted_up:
            self.listen_port = port
        elif port == 0 or port != self.listen_port or not self.is_up:
            before, self.listen_port = self.listen_port, port
            try:
                if self.is_up:
                    self.listen_port = self._outside.rebind(port)
                    self._forget_sources()
                else:  # the port was taken when the interface came up
                    self._go_up()
            except HostError as error:
                self.listen_port = before
                raise Refusal(Errno.PORT_IN_USE, str(error)) from error

    def set_fwmark(self, mark: int) -> None:
        """Mark what is sent (SO_MARK); 0: do not.

        Raises:
            Refusal: we may not.
        """
        if mark != self.fwmark:
            try:
                self._outside.set_mark(mark)
            except HostError as error:
                raise Refusal(Errno.PORT_IN_USE, str(error)) from error
            self.fwmark = mark
            self._forget_sources()

    def add_peer(self, public: bytes) -> Peer:
        """Make the peer with that key, which is not there and not ours.

        Raises:
            Refusal: there are too many.
        """
        if len(self.wireguard.peers) >= MOST_PEERS:
            raise Refusal(Errno.INVALID, f"more than {MOST_PEERS} peers")
        peer = self.wireguard.add_peer(public)
        if peer is None:
            raise Misuse("our own key as a peer's")
        now = self._boottime()
        session = Session(0, 0, key_to_base64(public), (), (), now)
        session.sources = OwnRoutes(self.router, session)
        session.attach(peer, now)
        self.router.add(session)
        peer.owner = Member(session)
        peer.mtu = self.mtu
        if not self.is_up:
            peer.down()
        return peer

    def remove_peer(self, public: bytes) -> None:
        """Forget that peer and its networks, if it is there."""
        peer = self.wireguard.peers.get(public)
        if peer is not None:
            self.router.remove(member_of(peer).session)
            self.wireguard.remove_peer(public)

    def set_endpoint(self, peer: Peer, written: Endpoint) -> None:
        """Send to *peer* there from now on."""
        member = member_of(peer)
        member.written = written
        host, scope = written.host, 0
        if host.startswith(_MAPPED) and len(host) == 16:
            host = host[12:]  # the socket of IPv6 carries no IPv4
        elif written.zone:
            scope = _interface_number(written.zone)
        peer.endpoint = member.path = Path(host, written.port, scope)

    def add_network(self, peer: Peer, network: bytes, length: int) -> None:
        """Give *peer* that network, whosever it was."""
        session = member_of(peer).session
        holder = self.router.sessions.exact(network, length)
        if holder is not session:
            if holder is not None:
                self.router.remove_route(network, length)
            self.router.add_route(network, length, session)

    def remove_network(self, peer: Peer, network: bytes, length: int) -> None:
        """Take that network from *peer*; nothing happens if it has it not."""
        if self.router.sessions.exact(network, length) is member_of(peer).session:
            self.router.remove_route(network, length)

    def remove_networks(self, peer: Peer) -> None:
        """Take all its networks from *peer*."""
        for network, length in list(self.router.routes_of(member_of(peer).session)):
            self.router.remove_route(network, length)

    def _forget_sources(self) -> None:
        """Let the kernel choose anew from which address each peer is sent to."""
        for peer in self.wireguard.peers.values():
            if peer.endpoint is not None:
                peer.endpoint = peer.endpoint._replace(local=b"", interface=0)


def member_of(peer: Peer) -> Member:
    """Return what this device has noted about *peer*."""
    assert isinstance(peer.owner, Member)
    return peer.owner


def _endpoint_text(peer: Peer, member: Member) -> str:
    path = peer.endpoint
    if path is None:
        return ""
    # As it was written, until the peer is heard from somewhere else.
    return str(member.written if path[:3] == (member.path or ())[:3] else path)


def _interface_number(zone: str) -> int:
    if zone.isascii() and zone.isdigit() and len(zone) < 10:
        return int(zone)
    try:
        return if_nametoindex(zone)
    except (OSError, ValueError):
        return 0  # none of that name is here, now: the kernel will say so when we send


def _by_family(network: tuple[bytes, int]) -> tuple[int, bytes, int]:
    return len(network[0]), *network
