"""Super-packets on the control channel: one frame each, where both ends announced it.

TLS loses nothing, so what need not be cut is not cut at all: a frame of command 2 holds a whole
super-packet with its checksums undone, and in front of it what its own headers do not say (big
endian)::

    00 00 | S, the bytes of payload in each packet but the last (2) | super-packet

An IP packet never begins with a zero, so both kinds of frame go side by side.  All else that a
kernel wants to know of a super-packet (kind, offsets, partial checksums) the other end computes.

Nothing raises because of what is in a frame.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyvpn.wire.command import LIMIT, NO_TRANSACTION, Command
from pyvpn.wire.offload import LEAST_SEGMENT, Whole, wholes
from pyvpn.wire.rebuild import SuperPacket, rebuilt_whole
from pyvpn.wire.segments import VNET_SIZE, cut

CAPABILITY = "offload-frames"
"""The word by which both ends announce in ``register`` that they understand this."""

MARK = b"\0"
"""What a frame with a super-packet begins with, behind command and transaction."""

_HEADER = struct.Struct("!HH")
_FRAME_HEADER = struct.Struct("!iiiHH")  # and that of the frame before it
_PACKET_HEADER = struct.Struct("!iii")
_BESIDE = 8 + _HEADER.size
"""Bytes of a frame's body beside the super-packet."""

LARGEST = LIMIT - _BESIDE
"""Bytes of a super-packet that fits into a frame; larger ones are cut."""


class Framed(NamedTuple):
    """What became of some frames of a TUN's."""

    data: bytes
    """For one write."""
    packets: int
    """How many packets that stands for."""
    size: int
    """Their bytes."""
    refused: int
    """Packets for which there was no room."""
    unknown: int
    """Frames that stand for nothing that we understand."""


def framed(frames: list[bytes], room: int) -> Framed:
    """Return *frames*, read from a TUN, for the control channel of an end that takes them uncut.

    As many from the front as fit into *room* bytes; one super-packet or packet at least, or large
    ones would never pass, but none at all if there is no room.
    """
    items, unknown = wholes(frames)
    pieces: list[bytes | memoryview] = []
    packets = size = refused = 0
    left, is_full = room, room <= 0
    command = int(Command.PACKET)
    for item in items:
        if isinstance(item, Whole):
            length = len(item.frame) - VNET_SIZE
            if length <= LARGEST and item.shape.segment >= LEAST_SEGMENT:
                count = item.packets
                is_full = is_full or (length > left and bool(pieces))
                if is_full:
                    refused += count
                    continue
                left -= length
                packets += count
                size += length + (count - 1) * item.shape.after
                header = _FRAME_HEADER.pack(
                    length + _BESIDE, command, NO_TRANSACTION, 0, item.shape.segment
                )
                pieces += (header, memoryview(item.frame)[VNET_SIZE:])
                continue
            item = cut(item.frame)
        for index, packet in enumerate(item):
            length = len(packet)
            is_full = is_full or (length > left and bool(pieces))
            if is_full:
                refused += len(item) - index
                break
            left -= length
            packets += 1
            size += length
            pieces += (_PACKET_HEADER.pack(length + 8, command, NO_TRANSACTION), packet)
    return Framed(b"".join(pieces), packets, size, refused, unknown)


def super_packet_of(data: bytes, begin: int = 0, end: int | None = None) -> SuperPacket | None:
    """Return what is in *data*, of a frame that begins with :data:`MARK`, from *begin* to *end*.

    None: it stands for nothing that an end of ours sends.
    """
    end = len(data) if end is None else end
    if end - begin < _HEADER.size:
        return None
    zero, size = _HEADER.unpack_from(data, begin)
    return None if zero else rebuilt_whole(data, begin + _HEADER.size, end, size)


def frames_in(stream: bytes, longest: int, at: int = 0) -> tuple[list[bytes | SuperPacket], int]:
    """Do :func:`~pyvpn.wire.command.packets_in` with packets and super-packets, from *at* on.

    What begins like a super-packet, and is none, is returned as the bytes that it is: no packet.

    Returns:
        These, and where in *stream* they end.
    """
    found: list[bytes | SuperPacket] = []
    numbers, wanted = _PACKET_HEADER.unpack_from, int(Command.PACKET)
    end = len(stream)
    while at + 12 <= end:
        length, command, _ = numbers(stream, at)
        after = at + 4 + length
        if command != wanted or not 8 <= length <= longest or after > end:
            break
        at += 12
        made = None
        if at < after and not stream[at]:
            made = super_packet_of(stream, at, after)
        found.append(stream[at:after] if made is None else made)
        at = after
    return found, at


def missing(stream: bytes, longest: int) -> int:
    """Return how many bytes the frame in *stream* lacks, if it is one of those; 0: it is not."""
    if len(stream) < 12:
        return 0
    length, command, _ = _PACKET_HEADER.unpack_from(stream)
    if command != Command.PACKET or not 8 <= length <= longest:
        return 0
    return max(0, 4 + int(length) - len(stream))
