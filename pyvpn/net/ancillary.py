"""What goes beside the bytes of a datagram: our own address, and the TOS of the IP header."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pyvpn.wire.datagram import Path

IP_PKTINFO = 8  # Python 3.11 has no name for it, nor for those of UDP
UDP_SEGMENT = 103
UDP_GRO = 104

MOST_SEGMENTS = 64
MOST_AT_ONCE = 65_507
"""Bytes of all segments together."""

ANCILLARY_ROOM = 128
"""Bytes for all that we ask to be told with a datagram, in either family."""

Ancillary = list[tuple[int, int, bytes]]
"""As Python's sendmsg takes it and recvmsg gives it: level, type, value."""

_INFO4 = struct.Struct("=I4s4s")  # struct in_pktinfo: interface, our address, destination
_INFO6 = struct.Struct("=16sI")  # struct in6_pktinfo: our address, interface
_INT = struct.Struct("=i")
_SHORT = struct.Struct("=H")  # an int here is refused


class Arrival(NamedTuple):
    """How a datagram came."""

    local: bytes
    """Our address that it came to, or that we answer from; packed; empty: not known."""
    interface: int
    ecn: int
    """The ECN field of its IP header."""


def read_ancillary(ancillary: Iterable[tuple[int, int, bytes]]) -> Arrival:
    """Understand what came with a datagram."""
    local, interface, ecn = b"", 0, 0
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP:
            if kind == IP_PKTINFO:
                interface, local, _ = _INFO4.unpack(value)
            elif kind == socket.IP_TOS:
                ecn = value[0] & 3
        elif level == socket.IPPROTO_IPV6:
            if kind == socket.IPV6_PKTINFO:
                local, interface = _INFO6.unpack(value)
                if local[0] == 0xFF:  # a group's address, which nothing can be sent from
                    local = b""
            elif kind == socket.IPV6_TCLASS:
                ecn = _INT.unpack(value)[0] & 3
    return Arrival(local, interface, ecn)


def segment_size(ancillary: Ancillary) -> int:
    """Return how many bytes each of the datagrams has that came as one; 0: it is a single one.

    The last of them may be shorter.
    """
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            return int(_INT.unpack(value)[0])
    return 0


def segment_ancillary(size: int) -> Ancillary:
    """Return what has the kernel cut what is sent into datagrams of *size* bytes."""
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, _SHORT.pack(size))]


def is_link_local(address: bytes) -> bool:
    """Whether a packed IPv6 address needs an interface to mean anything."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def source_ancillary(path: Path) -> Ancillary:
    """Return what has a datagram leave from our address ``path.local``; nothing if there is none.

    The interface is left to the routes, which may lead elsewhere than where the peer's datagrams
    come from; only a link-local address is one of an interface.
    """
    if not path.local or len(path.local) != len(path.host):
        return []
    if len(path.local) == 4:
        value = _INFO4.pack(0, path.local, bytes(4))
        return [(socket.IPPROTO_IP, IP_PKTINFO, value)]
    interface = path.interface if is_link_local(path.local) else 0
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _INFO6.pack(path.local, interface))]


def tos_ancillary(version: int, tos: int) -> Ancillary:
    """Return what gives a datagram of IP *version* this TOS or traffic class; nothing for 0."""
    if not tos:
        return []
    if version == 4:
        return [(socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(tos))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(tos))]


def runs_of_equals(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut *datagrams* into runs that the kernel takes as one, in order.

    All of a run have one size, but for the last, which may be shorter.
    """
    first, count = 0, len(datagrams)
    while first < count:
        size = len(datagrams[first])
        after = first + 1
        most = min(count, first + min(MOST_SEGMENTS, MOST_AT_ONCE // max(1, size)))
        while after < most and len(datagrams[after]) == size:
            after += 1
        if after < most and len(datagrams[after]) < size:
            after += 1
        yield datagrams[first:after]
        first = after
