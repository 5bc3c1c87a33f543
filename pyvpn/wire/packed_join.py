"""Packets of a batch joined where they lie: :func:`pyvpn.wire.segments.join` for most of TCP.

Rules of this file: what :func:`joined` returns are packets that ``join`` would join too, in the
order they came, or it returns None; no packet whose checksum is wrong is made part of a
super-packet.

Each checksum is verified by itself: to read a packet as a number takes 1.1 us, to divide that
number 1.1 more, where to add it to the others and divide once took 0.3.  But that sum stays what
it is where two packets have exchanged their payloads.

Sources: those of :mod:`pyvpn.wire.segments`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import repeat
from operator import mod
from typing import Any

from pyvpn.wire.ip import NOT_ECT, decapsulated, endpoints_of, trimmed
from pyvpn.wire.offload import TCP, headers_of
from pyvpn.wire.packed import MOST_STRETCHES, Packed
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import PLAIN, join, joined_headers, residue

_PSH, _ACK = 0x08, 0x10
_ONLY_ACK = bytes((_ACK,))
_LONGEST_HEADERS = 100
_LARGEST = 65_535  # bytes of an IPv4 packet, and of what an IPv6 header can state


def joined(packed: Packed, ecn: int = NOT_ECT) -> list[SuperPacket] | None:
    """Return the packets that *packed*, opened, holds, each as or in a super-packet, in order.

    None where they are not all sound segments of TCP, each with something in it.  What is
    returned lies in the buffers of *packed*.

    Args:
        ecn: the ECN field of the datagrams.
    """
    made: list[SuperPacket] = []
    first, full = 0, packed.full
    last = trimmed(packed.payload(full)) if packed.rest else None
    if last is None and len(packed) > full:
        return None
    while first < full:
        stretch = _Stretch.begun(packed, first)
        if stretch is None or not stretch.is_right():
            return None
        if last is not None and stretch.end == full and stretch.takes(last):
            after = len(stretch.head)
            behind, last = last[after:], None
            super_packet = stretch.made(ecn, behind)
        else:
            super_packet = stretch.made(ecn)
        if super_packet is None:
            return None
        made.append(super_packet)
        if len(made) > MOST_STRETCHES:
            return None
        first = stretch.end
    if last is not None:
        ends = endpoints_of(last)
        marked = last if ecn == NOT_ECT else decapsulated(last, ecn)
        if ends is None or marked is None:
            return None
        made.append(SuperPacket([PLAIN, marked], ends, len(last), 1))
    return made


@lru_cache(64)
def _numbers(at: int, stride: int) -> struct.Struct:
    """Return what reads identification and checksum of IPv4, and TCP's sequence number."""
    if at == 20:
        return struct.Struct(f">4xH4xH12xI{stride - 28}x")
    return struct.Struct(f">44xI{stride - 48}x")


@lru_cache(64)
def _alike(at: int, after: int, count: int) -> int:
    """Return ones where so many headers, one behind the other, have the same bits."""
    mask = bytearray(b"\xff" * after)
    mask[at + 4 : at + 8] = bytes(4)
    mask[at + 13] = 0  # looked at by itself
    mask[at + 16 : at + 18] = bytes(2)
    if at == 20:
        mask[4:6] = mask[10:12] = bytes(2)
    return int.from_bytes(mask * count, "little")


class _Stretch:
    """Packets of one flow, equally long, one after the other."""

    __slots__ = ("at", "end", "first", "following", "head", "packed", "pushed")

    def __init__(self, packed: Packed, head: bytes, at: int, first: int) -> None:
        self.packed = packed
        self.head = head
        """The headers of the first."""
        self.at = at
        """Where that of TCP begins."""
        self.first = first
        self.end = packed.full
        self.pushed = False
        """Whether the last has PSH."""
        self.following = 0
        """The sequence number that would continue it."""

    @classmethod
    def begun(cls, packed: Packed, first: int) -> _Stretch | None:
        """Return what fits together from that packet on, one at least; None: it is none of TCP."""
        start, stride = first * packed.stride, packed.stride
        head = bytes(packed.plain[start : start + min(stride, _LONGEST_HEADERS)])
        found = headers_of(head)
        if found is None:
            return None
        protocol, at, after, total = found
        if protocol != TCP or total != stride or after == total:
            return None
        flags = (head[at + 12] << 8 | head[at + 13]) & 0xFFF
        if flags & ~_PSH != _ACK or (at == 20 and not head[6] & 0x40):
            return None  # the identification would have a meaning
        self = cls(packed, head[:after], at, first)
        self._limit_by_size(after)
        self._limit_by_push()
        self._limit_by_headers(after)
        self._limit_by_numbers(stride - after)
        return self

    def _column(self, at: int) -> bytearray:
        """Return the byte at that place of each packet."""
        packed = self.packed
        stride = packed.stride
        return packed.plain[self.first * stride + at : self.end * stride : stride]

    def _limit_by_size(self, after: int) -> None:
        most = (_LARGEST - after) // (self.packed.stride - after)
        self.end = min(self.end, self.first + most)

    def _limit_by_push(self) -> None:
        flags = self._column(self.at + 13)
        equal = len(flags) - len(flags.lstrip(_ONLY_ACK))
        self.end = self.first + equal
        if equal < len(flags) and flags[equal] == _ACK | _PSH:
            self.end += 1
            self.pushed = True

    def _limit_by_headers(self, after: int) -> None:
        # As one number, of which nothing but what is free may differ.
        count = self.end - self.first
        heads = b"".join(self.packed.heads(self.first, self.end, after))
        differs = int.from_bytes(heads, "little") ^ int.from_bytes(self.head * count, "little")
        differs &= _alike(self.at, after, count)
        if differs:
            self._shorten(((differs & -differs).bit_length() - 1) // (8 * after))

    def _limit_by_numbers(self, size: int) -> None:
        packed, at, head = self.packed, self.at, self.head
        stride = packed.stride
        area = memoryview(packed.plain)[self.first * stride : self.end * stride]
        numbers: Any = _numbers(at, stride).iter_unpack(area)
        following = int.from_bytes(head[at + 4 : at + 8], "big")
        count = 0
        if at == 20:
            # All else in the headers of IP is alike, so this has to be, too.
            same = (int.from_bytes(head[4:6], "big") + int.from_bytes(head[10:12], "big")) % 65535
            for identity, check, seq in numbers:
                if seq != following or (identity + check) % 65535 != same:
                    break
                count += 1
                following = (following + size) & 0xFFFFFFFF
        else:
            for (seq,) in numbers:
                if seq != following:
                    break
                count += 1
                following = (following + size) & 0xFFFFFFFF
        self.following = following
        self._shorten(count)

    def _shorten(self, count: int) -> None:
        if self.first + count < self.end:
            self.end = self.first + count
            self.pushed = False

    def is_right(self) -> bool:
        """Whether the checksums of all are right; of a single packet that is for its receiver."""
        count = self.end - self.first
        if count == 1:
            return True
        head, stride = self.head, self.packed.stride
        if self.at == 20:
            if residue(head[:20]):
                return False
            lacks = residue(head[12:20], TCP + stride - 20)
        else:
            lacks = TCP + stride - 40 - residue(head[:8])
        # As in `segments`: little endian, where all is 256 times as much.
        packets = self.packed.views(self.first, self.end)
        number_of: Callable[[memoryview, str], int] = int.from_bytes  # type: ignore[assignment]
        numbers = map(number_of, packets, repeat("little"))
        wanted = -(lacks << 8) % 65535
        return {wanted}.issuperset(map(mod, numbers, repeat(65535)))

    def takes(self, packet: bytes) -> bool:
        """Whether *packet*, which is shorter, continues the stretch, as ``join`` sees it."""
        # Two that fit together do so by the same rules wherever they lie, PSH included.
        whole = len(self.head) + (self.end - self.first) * (self.packed.stride - len(self.head))
        if whole + len(packet) - len(self.head) > _LARGEST:
            return False
        before = self.packed.payload(self.end - 1)
        if len(join([before, packet])) > 1:
            return False
        self.pushed = packet[self.at + 13] & _PSH > 0
        return True

    def made(self, ecn: int, behind: bytes = b"") -> SuperPacket | None:
        """Return all of it, and *behind* it, as a super-packet.

        None: the packets met congestion, and their ends do not understand that.
        """
        packed, at, head = self.packed, self.at, self.head
        stride, after = packed.stride, len(self.head)
        count = self.end - self.first
        if ecn != NOT_ECT:
            marked = decapsulated(head, ecn)
            if marked is None:
                return None
            head = marked
        bodies: list[Any] = packed.views(self.first, self.end, after)
        size = count * stride
        if behind:
            bodies.append(behind)
            size += after + len(behind)
        if len(bodies) == 1:
            before = PLAIN + head
        else:
            whole = size - (len(bodies) - 1) * after
            before = joined_headers(head, at, whole, stride - after, self.pushed)
        half = 4 if at == 20 else 16
        start = at - 2 * half
        ends = head[start : start + half], head[start + half : at]
        return SuperPacket([before, *bodies], ends, size, len(bodies))
