"""A session: one device that is here now."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple, Protocol

from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.limit import Limit
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.slab import Slab


class PacketSink(Protocol):
    """The deaf rooms' view of :class:`pyvpn.interfaces.IPacketSink`."""

    def send_packets(self, packets: list[bytes]) -> int:
        """Take *packets* in order, drop and count the rest; return how many were taken."""

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        """Do the same; what is returned are packets that these stand for."""


class Carrier(Protocol):
    """The deaf rooms' view of :class:`pyvpn.interfaces.ICarrier`."""

    @property
    def refusal(self) -> str:
        """Why it takes no more, when it takes no more."""

    def send_packets(self, packets: list[bytes], now: float) -> int:
        """Take *packets* in order, drop the rest; return how many were taken."""


class Sent(NamedTuple):
    """What a carrier took of frames that it was given, in packets that they stand for."""

    packets: int
    size: int
    """Their bytes."""
    refused: int = 0
    """Packets that it did not take, and did not count itself."""
    unknown: int = 0
    """Frames that stand for nothing, likewise."""


class FrameCarrier(Carrier, Protocol):
    """A carrier that can take super-packets uncut."""

    def takes_frames(self, now: float) -> bool:
        """Whether it takes at once, uncut, what a TUN hands out behind virtio headers."""

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        """Send that; return what was taken."""


class TunnelPeer(FrameCarrier, Protocol):
    """What a session needs of its WireGuard peer."""

    def send_slab(self, slab: Slab, now: float) -> Sent | None:
        """Do the same with a super-packet where it lies; None: it has to be a frame for that."""

    heard: float
    """When anything authenticated last came from it."""
    offload: bool
    """Whether both ends announced that they take super-packets uncut."""


class Session:
    """Lease, policy, counters and carrier of one device, or of the server as the client sees it.

    It outlives its connections: a new log-in of the same device attaches its connection here,
    and whatever the old one still does is told apart by *which carrier* did it.  "In" is from
    the peer, "out" is towards it.  Compared by identity.

    A session between two ends of ours may have two carriers at a time: its control connection,
    the *link*, and its WireGuard *peer*.  What arrives by either is its own; what leaves goes by
    the one that the client has chosen (:meth:`choose`).

    Args:
        device: the device's id in the store; 0 or less when it has none.
        user: its user's id; 0 when it has none.
        name: for people, ``anna/laptop``.
        addresses: its own tunnel addresses, packed; they stay while the router has the session.
        reachable: where its packets may go through the TUN.
        heard: when anything authenticated last came from it (seconds, the caller's clock).
        sources: where its packets may come from; its own addresses if nothing is said.
    """

    __slots__ = (
        "addresses",
        "bytes_in",
        "bytes_out",
        "carrier",
        "device",
        "drops",
        "epoch",
        "framed",
        "heard",
        "limit_in",
        "limit_out",
        "link",
        "link_carries",
        "name",
        "packets_in",
        "packets_out",
        "path_mtu",
        "peer",
        "reachable",
        "sources",
        "user",
        "wants_peer",
    )

    def __init__(
        self,
        device: int,
        user: int,
        name: str,
        addresses: tuple[bytes, ...],
        reachable: Container[bytes],
        heard: float,
        sources: Container[bytes] | None = None,
    ) -> None:
        self.device = device
        self.user = user
        self.name = name
        self.addresses = addresses
        self.reachable = reachable
        self.heard = heard
        self.sources: Container[bytes] = addresses if sources is None else sources
        self.carrier: Carrier | None = None
        """How packets travel to it at the moment; None while it is not connected."""
        self.link: Carrier | None = None
        """Its control connection, if there is one."""
        self.link_carries = True
        """Whether packets may ride it: not if it runs through their own tunnel."""
        self.framed: FrameCarrier | None = None
        """That link, if both ends announced that it takes super-packets uncut."""
        self.peer: TunnelPeer | None = None
        """Its WireGuard peer, once the key is proved to be its own."""
        self.epoch = 0
        """Of the client's latest word on the carrier; a lower one is from the past."""
        self.wants_peer = False
        """What that word was."""
        self.path_mtu = 0
        """Bytes of the largest packet that comes through to the peer; 0: whatever there is."""
        self.limit_in: Limit | None = None
        """How much may come from it; see :meth:`pyvpn.tunnel.limits.Limits.set`."""
        self.limit_out: Limit | None = None
        """How much may go to it."""
        self.packets_in = 0
        """Packets from it that passed every check."""
        self.bytes_in = 0
        self.packets_out = 0
        """Packets for it that its carrier took."""
        self.bytes_out = 0
        self.drops = Counters()

    def attach(self, carrier: Carrier, now: float) -> Carrier | None:
        """Let *carrier* carry this session's packets from now on.

        Returns:
            The carrier it replaces, for the caller to close, or None: there was none, or it was
            *carrier* itself.
        """
        previous, self.carrier = self.carrier, carrier
        self.heard = max(self.heard, now)
        return None if previous is carrier else previous

    def detach(self, carrier: Carrier) -> bool:
        """End the use of *carrier*.  False, and nothing changes, if it is none of ours.

        While the client has chosen the other one, that goes on carrying.
        """
        if not self.owns(carrier):
            return False
        if self.link is carrier:
            self.link = None
        if self.framed is carrier:
            self.framed = None
        if self.peer is carrier:
            self.peer = None
        if self.carrier is carrier:
            self.carrier = None
        return True

    def owns(self, carrier: Carrier) -> bool:
        """Whether what arrives by *carrier* is this session's."""
        return carrier is self.carrier or carrier is self.link or carrier is self.peer

    def heard_from(self, carrier: Carrier, now: float) -> bool:
        """Note that something authenticated arrived by *carrier*.

        False, and nothing changes, if it is none of ours: the caller then drops what arrived, so
        that a straggler neither keeps a session alive nor speaks for it.
        """
        if not self.owns(carrier):
            return False
        self.heard = max(self.heard, now)
        return True

    @property
    def last_heard(self) -> float:
        """When anything authenticated last came, by either carrier."""
        return self.heard if self.peer is None else max(self.heard, self.peer.heard)

    # -- two carriers

    def join(
        self, link: Carrier, now: float, *, keep: bool = False, carries: bool = True
    ) -> Carrier | None:
        """Take *link* as the control connection.

        Args:
            keep: packets stay with the peer, if there is one; else they ride the link.
            carries: packets may ride it at all.  Else they stay with the peer in any case.

        Returns:
            The link it replaces, for the caller to close; None if there was none.
        """
        previous, self.link = self.link, link
        if previous is not link:
            self.framed = None
        self.link_carries = carries
        self.heard = max(self.heard, now)
        if carries and not (keep and self.peer is not None):
            self.carrier = link
            self.wants_peer = False
        elif self.carrier is not self.peer:
            self.carrier = self.peer
        return None if previous is link else previous

    def tie(self, peer: TunnelPeer) -> None:
        """Know *peer* for our own; it carries if the client's latest word was that, or will be."""
        if self.wants_peer:
            self.carrier = peer
        self.peer = peer

    def untie(self, peer: TunnelPeer) -> None:
        """Do without *peer*; what it carried rides the link again, if there is one."""
        if self.carrier is peer:
            self.carrier = self.ridden
        if self.peer is peer:
            self.peer = None

    def choose(self, epoch: int, by_peer: bool, path_mtu: int = 0) -> bool:
        """Let packets leave by the peer, or by the link, as the client wishes.

        To the peer they are at most *path_mtu* bytes long; 0: as long as they are.

        False, and nothing changes, when a later word was heard already, or when it wants the peer
        and there is none.
        """
        if epoch <= self.epoch or (by_peer and self.peer is None):
            return False
        self.epoch = epoch
        self.wants_peer = by_peer
        self.carrier = self.peer if by_peer else self.ridden
        if by_peer:
            self.path_mtu = path_mtu
        return True

    @property
    def ridden(self) -> Carrier | None:
        """The link, if packets may ride it."""
        return self.link if self.link_carries else None

    def resume(self, peer: TunnelPeer) -> None:
        """Know *peer* for our own by what is on file.

        Without a control connection it carries, whatever the client said last: nothing else can.
        """
        self.wants_peer = self.wants_peer or self.link is None
        self.tie(peer)

    def send_packets(self, packets: list[bytes], now: float) -> int:
        """Hand *packets* to the carrier and count what it took.

        A carrier takes from the front and drops the rest, so the first ones are those that went.
        Without a carrier nothing is taken; the caller counts that.
        """
        if self.carrier is None:
            return 0
        taken = self.carrier.send_packets(packets, now)
        self.packets_out += taken
        self.bytes_out += sum(map(len, packets if taken == len(packets) else packets[:taken]))
        return taken

    @property
    def uncut(self) -> FrameCarrier | None:
        """The carrier, if super-packets cross to it uncut when nothing is in the way just now.

        Not where the path is narrow or the rate limited: there each packet is looked at.
        """
        carrier, peer = self.carrier, self.peer
        if carrier is None or self.limit_out is not None:
            return None
        if carrier is self.framed:
            return self.framed
        return peer if carrier is peer and peer.offload and not self.path_mtu else None

    @property
    def crosses_uncut(self) -> bool:
        """Whether there is such a carrier."""
        return self.uncut is not None

    def takes_frames(self, now: float) -> bool:
        """Whether :meth:`send_frames` may be called: its carrier takes super-packets uncut."""
        uncut = self.uncut
        return uncut is not None and uncut.takes_frames(now)

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        """Hand *frames*, as a TUN hands them out, to the carrier, and count what it took."""
        uncut = self.uncut
        assert uncut is not None
        sent = uncut.send_frames(frames, now)
        self.packets_out += sent.packets
        self.bytes_out += sent.size
        return sent

    def send_slab(self, slab: Slab, now: float) -> bool:
        """Send the super-packet in *slab* where it lies; False: it has to be a frame for that."""
        peer = self.peer
        if peer is None or self.uncut is not peer or not peer.takes_frames(now):
            return False
        sent = peer.send_slab(slab, now)
        if sent is None:
            return False
        self.packets_out += sent.packets
        self.bytes_out += sent.size
        return True

    def __repr__(self) -> str:
        """Name and device, and whether it is connected."""
        state = "detached" if self.carrier is None else "attached"
        return f"<Session {self.name} device {self.device} {state}>"
