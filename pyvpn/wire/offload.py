"""Offload payloads: super-packets that cross the tunnel with the kernel's work still undone.

Between two ends of ours a super-packet (:mod:`pyvpn.wire.segments`) need not be made into whole
packets at one end and joined to the same again at the other.  It travels as a *run*: one datagram
for each packet it stands for, as large as that packet would be, so that the loss of one costs one.
Each has the same headers, those of the whole, and its own piece of the payload.  Checksums stay
undone: the tag of the datagram is a better one.

What has to be known of a run stands in fields of the headers that the other end can, and does,
make anew (big endian, like all there)::

    IP     length          of the whole super-packet, as the kernel has it
    TCP    checksum        bytes of payload in each packet but the last
           urgent pointer  the lower 16 bits of the counter of the run's first datagram
    UDP    checksum        as TCP's
           length          as TCP's urgent pointer

So all of a run is known from any of its datagrams, an outsider learns nothing of it, and the
headers of a run are one string, which is what makes it quick.  (Index and count beside the type,
where a data message has zeros, would be for everybody to read.)

Here is what is sent, and the rules that hold at both ends; :mod:`pyvpn.wire.rebuild` is the other
end.  Nothing raises because of what is in a packet.

How it is used.  Out: the TUN hands out frames as it reads them (virtio header and packet); a frame
has one destination, so the router looks once; the carrier, if the other end announced
:data:`CAPABILITY`, gives all that it gets at a time to :func:`outgoing` and seals what comes back,
in that order: runs by :meth:`~pyvpn.crypto.keypair.Keypair.seal_run`, packets by ``seal``.  Any
other sink takes :func:`~pyvpn.wire.segments.cut`.  In: datagrams of type
:data:`~pyvpn.wire.datagram.OFFLOAD` are opened by ``receive_run``, and
:func:`~pyvpn.wire.rebuild.rebuild` makes super-packets of them; the router checks the ``ends`` of
each once; the TUN writes ``pieces``, and for whoever takes no super-packets there is ``cut``.
A control connection takes :func:`wholes` (:mod:`pyvpn.wire.framed`).

(A long file: what is sent and the rules by which both ends judge it are one thing.)

Sources: those of :mod:`pyvpn.wire.segments`; RFC 6864 (identification).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyvpn.wire.segments import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP,
    MOST_DATAGRAMS,
    MOST_SEGMENTS,
    NEEDS_CHECKSUM,
    PLAIN,
    VNET_SIZE,
    cut,
)

CAPABILITY = "offload"
"""The word by which both ends announce in ``register`` that they understand this."""

LEAST_SEGMENT = 48
"""Bytes of TCP payload in a packet, at least: Linux makes none smaller where there are several."""
PADDING = 16
"""The last payload of a run is filled up to a multiple of so many bytes, as WireGuard's are."""
LARGEST = 65_535
"""Bytes of a super-packet."""

TCP, UDP = 6, 17

_VNET = struct.Struct("=BBHHHH")
_DATAGRAM4 = _VNET.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, 20, 6)
_DATAGRAM6 = _VNET.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, 40, 6)
"""Before a single datagram whose checksum is left to us."""
_SYN, _RST, _ACK, _URG = 0x02, 0x04, 0x10, 0x20
_ZEROS = tuple(bytes(n) for n in range(PADDING))


class Run(NamedTuple):
    """A super-packet to be sent; made by :func:`outgoing`."""

    head: bytes
    """The headers, but for what the run's first counter decides."""
    mark_at: int
    """Where in *head* its lower 16 bits belong."""
    payloads: list[bytes]
    """What follows the headers, for each datagram."""

    @property
    def size(self) -> int:
        """Bytes of the packets that it stands for."""
        head = self.head
        whole = head[2] << 8 | head[3] if head[0] == 0x45 else (head[4] << 8 | head[5]) + 40
        return whole + (len(self.payloads) - 1) * len(head)

    def plaintexts(self, counter: int) -> list[bytes]:
        """Return what is to be sealed, in order, the first with *counter*."""
        head, at = self.head, self.mark_at
        head = head[:at] + (counter & 0xFFFF).to_bytes(2, "big") + head[at + 2 :]
        return [head + payload for payload in self.payloads]


class Shape(NamedTuple):
    """What the headers of a super-packet say of it."""

    protocol: int
    at: int
    """Where in the packet the header of TCP or UDP begins."""
    after: int
    """Where the payload begins."""
    segment: int
    """Bytes of payload in each packet but the last."""

    def packets(self, size: int) -> int:
        """How many packets it stands for, with *size* bytes of frame."""
        return -((self.after + VNET_SIZE - size) // self.segment)

    @property
    def mark_at(self) -> int:
        """Where in the headers the lower 16 bits of a run's first counter belong."""
        return self.at + (18 if self.protocol == TCP else 4)

    def head(self, frame: bytes) -> bytes:
        """Return the headers of each datagram, but for what that counter decides."""
        field = self.at + (16 if self.protocol == TCP else 6)
        head = frame[VNET_SIZE : VNET_SIZE + self.after]
        return head[:field] + self.segment.to_bytes(2, "big") + head[field + 2 :]


class Whole(NamedTuple):
    """A super-packet as it is; from :func:`wholes`."""

    frame: bytes
    """Virtio header and packet."""
    shape: Shape

    @property
    def packets(self) -> int:
        """How many packets it stands for."""
        return self.shape.packets(len(self.frame))

    @property
    def size(self) -> int:
        """Their bytes."""
        return len(self.frame) - VNET_SIZE + (self.packets - 1) * self.shape.after

    def run(self) -> Run:
        """Return it as a run."""
        frame, size = self.frame, self.shape.segment
        after = VNET_SIZE + self.shape.after
        payloads = [frame[begin : begin + size] for begin in range(after, len(frame), size)]
        return _padded(self.shape.head(frame), self.shape.mark_at, payloads, size)


class Outgoing(NamedTuple):
    """What becomes of some frames."""

    items: list[Run | list[bytes]]
    """In the order to be sent: runs, and complete packets."""
    unknown: int
    """Frames that stand for nothing that we understand."""


def outgoing(frames: list[bytes], mtu: int) -> Outgoing:
    """Return what becomes of *frames*, read from a TUN, on their way to an end of ours.

    Runs, and complete packets of what is no super-packet of TCP or UDP with plain headers, or one
    of packets larger than *mtu* bytes (0: no limit).  Datagrams of one flow that are equally large
    are made into one run; of those that must not be fragmented the identification may change,
    which means nothing then (RFC 6864).  Each flow keeps its order.
    """
    items, unknown = _sorted(frames, mtu)
    finished: list[Run | list[bytes]] = []
    packets: list[bytes] = []
    for each in items:
        made = each if isinstance(each, list) else each.run()
        if isinstance(made, Run):
            finished.append(made)
            packets = []
        else:
            if not packets:
                finished.append(packets)
            packets += made
    return Outgoing(finished, unknown)


def wholes(frames: list[bytes]) -> tuple[list[Whole | list[bytes]], int]:
    """Return the same as :func:`outgoing`, but super-packets as they are, and not as runs."""
    items, unknown = _sorted(frames, 0)
    return [each.whole() if isinstance(each, _Gathered) else each for each in items], unknown


def _sorted(frames: list[bytes], mtu: int) -> tuple[list[Whole | _Gathered | list[bytes]], int]:
    """Return what is to be sent, in order, and how many *frames* stand for nothing."""
    items: list[Whole | _Gathered | list[bytes]] = []
    gathered: dict[bytes, _Gathered] = {}  # by flow, while more may follow
    unknown = 0
    for frame in frames:
        four = frame[VNET_SIZE : VNET_SIZE + 1] == b"\x45"
        flow = frame[22:34] if four else frame[18:54]
        if frame.startswith(_DATAGRAM4 if four else _DATAGRAM6):
            before = gathered.get(flow)
            if before is not None and before.take(frame):
                continue
            begun = _begun(frame, 20 if four else 40, mtu)
            if begun is not None:
                gathered[flow] = begun
                items.append(begun)
                continue
        shape = None if frame.startswith(PLAIN) else shape_of(frame, len(frame), mtu)
        if shape is not None:
            gathered.pop(flow, None)
            items.append(Whole(frame, shape))
            continue
        gathered.clear()  # whose it is we do not see, and it must not be overtaken
        packets = cut(frame)
        if packets:
            items.append(packets)
        else:
            unknown += 1
    return items, unknown


def shape_of(frame: bytes, length: int, mtu: int) -> Shape | None:
    """Understand a super-packet in a frame; None: it has to be cut.

    Args:
        frame: its first 100 bytes, or more.
        length: how many it has.
        mtu: bytes of the largest packet that may be sent; 0: no limit.
    """
    if length < VNET_SIZE + 28:
        return None
    flags, kind, _, size, start, offset = _VNET.unpack_from(frame)
    kind &= ~GSO_ECN
    if not flags & NEEDS_CHECKSUM or kind == GSO_NONE or not size:
        return None
    found = headers_of(frame[VNET_SIZE : VNET_SIZE + 100])
    if found is None:
        return None
    protocol, at, payload, total = found
    if (
        start != at
        or total != length - VNET_SIZE
        or (mtu and payload + size > mtu)
        or not is_run(protocol, size, total - payload)
    ):
        return None
    if protocol == TCP:
        if kind != (GSO_TCP4 if at == 20 else GSO_TCP6) or offset != 16:
            return None
        urgent = VNET_SIZE + at + 18
        if frame[urgent] or frame[urgent + 1]:
            return None  # would be lost
    else:
        stated = VNET_SIZE + at + 4
        if kind != GSO_UDP or offset != 6:
            return None
        if int.from_bytes(frame[stated : stated + 2], "big") != total - at:
            return None
    return Shape(protocol, at, payload, size)


def _padded(head: bytes, mark_at: int, payloads: list[bytes], size: int) -> Run:
    last = len(payloads[-1])
    payloads[-1] += _ZEROS[min(-(len(head) + last) % PADDING, size - last)]
    return Run(head, mark_at, payloads)


class _Gathered:
    """Datagrams of one flow, as frames, that fit together so far; made with the first."""

    __slots__ = ("at", "closed", "each", "frames", "identity", "is_free", "same", "total")

    def __init__(self, frame: bytes, at: int) -> None:
        self.frames = [frame]
        self.at = at
        self.total = len(frame)
        self.each = len(frame)
        """Bytes of a frame; none may be larger, and after a smaller one nothing follows."""
        self.closed = False
        self.same = _shared(frame)
        # Of IPv4, where fragments are allowed, the identification has to count up.
        self.is_free = at == 40 or frame[16] & 0x40 > 0
        self.identity = int.from_bytes(frame[14:16], "big")

    def take(self, frame: bytes) -> bool:
        """Append *frame*, which is of the same flow; False: it does not fit."""
        size = len(frame)
        if (
            self.closed
            or size > self.each
            or self.total + size > LARGEST
            or len(self.frames) >= MOST_DATAGRAMS
        ):
            return False
        if size == self.each:
            if _shared(frame) != self.same:
                return False
        elif not self._ends_with(frame):
            return False
        if not self.is_free:
            identity = int.from_bytes(frame[14:16], "big")
            if identity != (self.identity + 1) & 0xFFFF:
                return False
            self.identity = identity
        self.frames.append(frame)
        self.total += size
        self.closed = size < self.each
        return True

    def _ends_with(self, frame: bytes) -> bool:
        """Whether *frame*, which is smaller, is like the others but for that."""
        if _begun(frame, self.at, 0) is None:
            return False
        mine, other = self.frames[0], frame
        if self.at == 20:
            return mine[10:12] == other[10:12] and mine[16:20] == other[16:20]
        return mine[10:14] == other[10:14] and mine[16:18] == other[16:18]

    def whole(self) -> Whole | list[bytes]:
        """Return a super-packet of several, the complete packet of one, or of each if tiny."""
        frames, at = self.frames, self.at
        after = VNET_SIZE + at + 8
        each = len(frames[0]) - after
        # What we have put together `cut` would not cut rightly: length and checksum in the header
        # are those of the first.
        if len(frames) == 1 or each < LEAST_SEGMENT:
            return [packet for frame in frames for packet in cut(frame)]
        head = self._head(at + 8 + sum(map(len, frames)) - len(frames) * after)
        vnet = _VNET.pack(NEEDS_CHECKSUM, GSO_UDP, at + 8, each, at, 6)
        whole = b"".join((vnet, head, *[frame[after:] for frame in frames]))
        return Whole(whole, Shape(UDP, at, at + 8, each))

    def run(self) -> Run | list[bytes]:
        """Return a run of several, a complete packet of one."""
        frames, at = self.frames, self.at
        if len(frames) == 1:
            return cut(frames[0])
        after = VNET_SIZE + at + 8
        payloads = [frame[after:] for frame in frames]
        size = len(payloads[0])
        head = self._head(at + 8 + sum(map(len, payloads)))
        return _padded(head[:-2] + size.to_bytes(2, "big"), at + 4, payloads, size)

    def _head(self, total: int) -> bytes:
        """Return the headers of what is *total* bytes long."""
        head = self.frames[0][VNET_SIZE : VNET_SIZE + self.at + 8]
        if self.at == 20:
            return head[:2] + total.to_bytes(2, "big") + head[4:]
        return head[:4] + (total - 40).to_bytes(2, "big") + head[6:]


def _shared(frame: bytes) -> bytes:
    """Return what is the same in equally large datagrams of a flow, the flow itself aside."""
    if frame[VNET_SIZE] == 0x45:
        return frame[10:14] + frame[16:20] + frame[34:36]  # TOS, lengths, DF, TTL, protocol
    return frame[10:18] + frame[54:56]


def _begun(frame: bytes, at: int, mtu: int) -> _Gathered | None:
    """Return a datagram with a partial checksum as the first of a run; None if it cannot be."""
    found = headers_of(frame[VNET_SIZE : VNET_SIZE + 48])
    size = len(frame) - VNET_SIZE
    if (
        found is None
        or found[0] != UDP
        or found[1] != at
        or found[3] != size
        or size == at + 8
        or (mtu and size > mtu)
        or int.from_bytes(frame[VNET_SIZE + at + 4 : VNET_SIZE + at + 6], "big") != size - at
    ):
        return None
    return _Gathered(frame, at)


def ends_of(frame: bytes, length: int) -> tuple[bytes, bytes] | None:
    """Return source and destination of what a TUN handed out, packed.

    None unless it is one packet with the length that its header states, as
    :func:`pyvpn.wire.ip.endpoints_of` judges it.

    Args:
        frame: its first 100 bytes, or more.
        length: how many it has.
    """
    size = length - VNET_SIZE
    if size < 20:
        return None
    first = frame[VNET_SIZE]
    if 0x45 <= first <= 0x4F:
        if (frame[12] << 8 | frame[13]) == size and (first & 15) * 4 <= size:
            return frame[22:26], frame[26:30]
    elif first >> 4 == 6 and size >= 40 and (frame[14] << 8 | frame[15]) + 40 == size:
        return frame[18:34], frame[34:50]
    return None


def largest_of(frame: bytes, length: int) -> int:
    """Return the bytes of the largest packet that a frame, if it is sound, stands for.

    The arguments are those of :func:`ends_of`.
    """
    whole = length - VNET_SIZE
    if frame.startswith(PLAIN) or whole < 20:
        return whole
    _, kind, _, size, start, _ = _VNET.unpack_from(frame)
    at = VNET_SIZE + start + 12
    if kind == GSO_NONE or at >= len(frame):
        return whole
    headers: int = start + (8 if kind & ~GSO_ECN == GSO_UDP else (frame[at] >> 4) * 4)
    return min(whole, headers + int(size))


def headers_of(packet: bytes) -> tuple[int, int, int, int] | None:
    """Return protocol, where its header begins and ends, and the length that the IP header states.

    None unless *packet*, of which the end may be missing, is a TCP or UDP packet without IPv4
    options, fragmentation or IPv6 extension headers, and of TCP one that others can follow or
    precede.
    """
    size = len(packet)
    if size < 28:
        return None
    if packet[0] == 0x45:
        if packet[6] & 0xBF or packet[7]:
            return None
        protocol, at, total = packet[9], 20, packet[2] << 8 | packet[3]
    elif packet[0] >> 4 == 6 and size >= 48:
        protocol, at, total = packet[6], 40, (packet[4] << 8 | packet[5]) + 40
    else:
        return None
    if total > LARGEST:
        return None
    if protocol == UDP:
        return protocol, at, at + 8, total
    if protocol != TCP or size < at + 20:
        return None
    after = at + (packet[at + 12] >> 4) * 4
    if not at + 20 <= after <= size or packet[at + 13] & (_SYN | _RST | _URG | _ACK) != _ACK:
        return None
    return protocol, at, after, total


def is_run(protocol: int, size: int, length: int) -> bool:
    """Whether *length* bytes of payload, *size* in each packet, are what a run can have."""
    if protocol == TCP:
        return LEAST_SEGMENT <= size < length <= size * MOST_SEGMENTS
    return 0 < size < length <= size * MOST_DATAGRAMS
