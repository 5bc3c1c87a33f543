"""Offload payloads made into super-packets again: the other end of :mod:`pyvpn.wire.offload`.

And what came in one piece (:mod:`pyvpn.wire.framed`), by the same rules.

Rules of this file: what it returns stands for packets that honest ends could have
sent, and for no more of them than came; no kind, length, offset or checksum is the other end's
word: each is computed here; nothing raises because of what is in a payload.

Sources: those of :mod:`pyvpn.wire.segments`; RFC 6040 (congestion met outside).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvpn.wire.ip import NOT_ECT, decapsulated
from pyvpn.wire.offload import PADDING, TCP, headers_of, is_run
from pyvpn.wire.segments import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP,
    NEEDS_CHECKSUM,
    cut,
    residue,
)

if TYPE_CHECKING:
    from pyvpn.wire.packed import Packed

_VNET = struct.Struct("=BBHHHH")
_PAIR = struct.Struct(">HH")
_ENDING, _CWR = 0x01 | 0x08, 0x80  # FIN and PSH


class SuperPacket(NamedTuple):
    """What was rebuilt of a run, or of a part of it: one or several packets of one flow."""

    pieces: Sequence[bytes | memoryview]
    """What one write to the TUN takes: virtio header and headers, then the payload."""
    ends: tuple[bytes, bytes]
    """Source and destination of all of it, packed."""
    size: int
    """Bytes of the packets that it stands for."""
    segments: int
    """How many these are."""

    def cut(self) -> list[bytes]:
        """Return these packets, complete."""
        return cut(b"".join(self.pieces))


class Rebuilt(NamedTuple):
    """What came of the payloads of some datagrams."""

    packets: list[SuperPacket]
    refused: int
    """Payloads that no end of ours sends."""
    congested: int
    """Payloads dropped because they met congestion, which their ends only see by loss."""


def rebuild(counters: list[int], payloads: list[bytes], ecn: int = NOT_ECT) -> Rebuilt:
    """Return what *payloads* stand for, opened from datagrams with these *counters*.

    They come in any order, with any of them missing, and leave in the order they were sealed.

    Args:
        ecn: the ECN field of the datagrams.
    """
    start = counters[0] if counters else 0
    if counters != list(range(start, start + len(counters))):
        pairs = sorted(zip(counters, payloads, strict=True), key=itemgetter(0))
        counters = [counter for counter, _ in pairs]
        payloads = [payload for _, payload in pairs]
    packets: list[SuperPacket] = []
    refused = congested = first = 0
    end = len(payloads)
    while first < end:
        payload, counter = payloads[first], counters[first]
        part = _Part.read(payload, counter)
        if part is None:
            refused += 1
            first += 1
            continue
        after = part.extent(counters, payloads, first)
        made = part.made(payloads[first:after], ecn)
        if made is None:
            congested += after - first
        else:
            packets.append(made)
        first = after
    return Rebuilt(packets, refused, congested)


def rebuilt_whole(data: bytes, begin: int, end: int, size: int) -> SuperPacket | None:
    """Return what came in one piece, from *begin* to *end* of *data*; None: nothing of ours.

    The payload stays where it is, for a copy of all would cost as much as all else here.

    Args:
        size: bytes of payload in each packet but the last, as the other end says.
    """
    start = data[begin : min(begin + 100, end)]
    found = headers_of(start)
    if found is None:
        return None
    protocol, at, after, total = found
    if total != end - begin or not is_run(protocol, size, total - after):
        return None
    part = _Part(start[:after], protocol, at, size, total - after, 0)
    return part.assembled([memoryview(data)[begin + after : end]], part.count, total - after)


def rebuild_packed(packed: Packed, first: int, ecn: int = NOT_ECT) -> list[SuperPacket] | None:
    """Do :func:`rebuild` with what *packed* holds, opened; the first has the counter *first*.

    None where :func:`rebuild` may find anything but whole stretches of runs.  What is returned
    lies in the buffers of *packed*.
    """
    found: list[SuperPacket] = []
    place, count, stride = 0, len(packed), packed.stride
    starts_with = packed.plain.startswith
    while place < count:
        payload = packed.payload(place)
        part = _Part.read(payload, first + place)
        if part is None:
            return None
        head, after = part.head, len(part.head)
        end = min(place + part.count - part.index, count)
        last = part.count - 1 - part.index + place  # where the last of the run would be
        full = min(end, last, packed.full)
        if (full > place and stride != after + part.size) or not all(
            map(starts_with, repeat(head), range(place * stride, end * stride, stride))
        ):
            return None
        bodies: list[Any] = packed.views(place, min(end, packed.full), after)
        if end > full:  # the last of the run, or of the batch
            behind = payload if end - 1 == place else packed.payload(end - 1)
            if not part.fits(part.index + end - 1 - place, len(behind)):
                return None
            if end > packed.full:
                bodies.append(behind[after:])
        made = part.made_of(bodies, ecn)
        if made is None:
            return None
        found.append(made)
        place = end
    return found


class _Part:
    """What the payload of one datagram says of the run that it belongs to."""

    __slots__ = ("at", "count", "head", "index", "last", "protocol", "size")

    def __init__(
        self, head: bytes, protocol: int, at: int, size: int, length: int, index: int
    ) -> None:
        self.head = head
        self.protocol = protocol
        self.at = at
        """Where the header of TCP or UDP begins."""
        self.size = size
        """Bytes of payload in each packet but the last."""
        self.count = -(-length // size)
        """Packets of the run."""
        self.last = length - (self.count - 1) * size
        """Bytes of payload in the last."""
        self.index = index
        """Which of the packets it is."""

    @classmethod
    def read(cls, payload: bytes, counter: int) -> _Part | None:
        """Understand *payload*; None if no end of ours sends such a one."""
        found = headers_of(payload)
        if found is None:
            return None
        protocol, at, after, total = found
        if protocol == TCP:
            size, mark = _PAIR.unpack_from(payload, at + 16)
        else:
            mark, size = _PAIR.unpack_from(payload, at + 4)
        index = (counter - mark) & 0xFFFF
        if not is_run(protocol, size, total - after):
            return None
        part = cls(payload[:after], protocol, at, size, total - after, index)
        if index >= part.count or not part.fits(index, len(payload)):
            return None
        return part

    def fits(self, index: int, size: int) -> bool:
        """Whether the payload of the datagram with that *index* has *size* bytes."""
        size -= len(self.head)
        if index < self.count - 1:
            return size == self.size
        return self.last <= size <= min(self.size, self.last + PADDING - 1)

    def extent(self, counters: list[int], payloads: list[bytes], first: int) -> int:
        """Return the end of what follows without a gap in the run, from our own place *first*."""
        head, counter = self.head, counters[first]
        full = len(head) + self.size
        last = first + self.count - 1 - self.index  # where the last of the run would be
        end = min(last + 1, len(payloads))
        # Nearly always all of it is there; and to see that at once costs a third.
        if (
            counters[first:end] == list(range(counter, counter + end - first))
            and all(map(methodcaller("startswith", head), payloads[first:end]))
            and {full}.issuperset(map(len, payloads[first:last]))
            and (end <= last or self.fits(self.count - 1, len(payloads[end - 1])))
        ):
            return end
        for place in range(first + 1, end):
            payload = payloads[place]
            if (
                counters[place] != counter + place - first
                or not payload.startswith(head)
                or not self.fits(self.index + place - first, len(payload))
            ):
                return place
        return end

    def made(self, payloads: list[bytes], ecn: int) -> SuperPacket | None:
        """Return what *payloads*, our own and those behind it, stand for.

        None: they met congestion, and their ends do not understand that.
        """
        return self.made_of(list(map(itemgetter(slice(len(self.head), None)), payloads)), ecn)

    def made_of(self, bodies: list[bytes | memoryview], ecn: int = NOT_ECT) -> SuperPacket | None:
        """Do :meth:`made` with what is behind the headers; the list is ours then."""
        count = len(bodies)
        if self.index + count == self.count:
            bodies[-1] = bodies[-1][: self.last]
        length = (count - 1) * self.size + len(bodies[-1])
        return self.assembled(bodies, count, length, ecn)

    def assembled(
        self, bodies: Sequence[bytes | memoryview], count: int, length: int, ecn: int = NOT_ECT
    ) -> SuperPacket | None:
        """Return our own packet and those behind it, *count* with *length* bytes of payload.

        None as in :meth:`made`.
        """
        head, at, size, index = self.head, self.at, self.size, self.index
        after = len(head)
        transport = after - at + length
        if at == 20:
            kind, addresses = GSO_TCP4, head[12:20]
            identity = int.from_bytes(head[4:6], "big") + index & 0xFFFF
            before = b"".join(
                (head[:2], _PAIR.pack(after + length, identity), head[6:10], bytes(2), addresses)
            )
            check = (65535 - residue(before)) % 65535
            before = before[:10] + check.to_bytes(2, "big") + addresses
        else:
            kind, addresses = GSO_TCP6, head[8:40]
            before = head[:4] + transport.to_bytes(2, "big") + head[6:40]
        if ecn != NOT_ECT:
            marked = decapsulated(before, ecn)
            if marked is None:
                return None
            before = marked
        # Never its other name, 0: of an IPv6 datagram the kernel takes that for a wrong checksum.
        partial = residue(addresses, self.protocol + transport) or 65535
        if self.protocol == TCP:
            offset, flags = 16, head[at + 13]
            if index:
                flags &= ~_CWR
            if index + count < self.count:
                flags &= ~_ENDING
            if flags & _CWR:
                kind |= GSO_ECN
            seq = int.from_bytes(head[at + 4 : at + 8], "big") + index * size & 0xFFFFFFFF
            behind = b"".join(
                (
                    head[at : at + 4],
                    seq.to_bytes(4, "big"),
                    head[at + 8 : at + 13],
                    bytes((flags,)),
                    head[at + 14 : at + 16],
                    _PAIR.pack(partial, 0),
                    head[at + 20 :],
                )
            )
        else:
            offset, kind = 6, GSO_UDP
            behind = head[at : at + 4] + _PAIR.pack(transport, partial)
        if count == 1:
            vnet = _VNET.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, at, offset)
        else:
            vnet = _VNET.pack(NEEDS_CHECKSUM, kind, after, size, at, offset)
        half = len(addresses) // 2
        return SuperPacket(
            [vnet + before + behind, *bodies],
            (addresses[:half], addresses[half:]),
            count * after + length,
            count,
        )
