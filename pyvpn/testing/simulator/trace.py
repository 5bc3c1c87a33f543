"""What happened on the network, in order: a digest always, the list of it when asked for."""

from __future__ import annotations

import struct
from collections import Counter
from enum import StrEnum
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any, NamedTuple

from pyvpn.wire.datagram import Path


class Event(StrEnum):
    """What can happen to a packet; all but the first three end it."""

    SENT = "sent"
    DELIVERED = "delivered"
    DUPLICATED = "duplicated"
    NO_SOURCE = "source-address-not-own"
    """Sent from an address that the host does not have (any more)."""
    NO_ROUTE = "no-such-destination"
    """Nobody has that address now."""
    DOWN = "host-is-down"
    CUT = "link-is-cut"
    LOST = "lost"
    TOO_BIG = "larger-than-the-link-takes"
    QUEUE_FULL = "queue-full"
    NO_MAPPING = "nat-knows-no-such-flow"
    NO_PORT = "nobody-listens"
    CHECKSUM = "wrong-checksum"


class Place(NamedTuple):
    """Address and port."""

    host: bytes
    """Packed: 4 or 16 bytes."""
    port: int

    @property
    def name(self) -> str:
        """The address as people write it."""
        return str(ip_address(self.host))

    def __str__(self) -> str:
        """Return it as a URL would have it."""
        return str(Path(self.host, self.port))


class Packet(NamedTuple):
    """One IP packet on its way, without its headers."""

    protocol: int
    """17 for datagrams, 6 for streams."""
    source: Place
    target: Place
    payload: bytes
    tos: int = 0

    @property
    def size(self) -> int:
        """Bytes with the headers that it would have."""
        return len(self.payload) + (20 if len(self.target.host) == 4 else 40) + 8


class Entry(NamedTuple):
    """One line of a trace."""

    at: float
    event: Event
    packet: Packet

    def __str__(self) -> str:
        """Return it for people."""
        packet = self.packet
        kind = "udp" if packet.protocol == 17 else "tcp"
        ends = f"{packet.source} > {packet.target}"
        return f"{self.at:.6f} {kind} {ends} {len(packet.payload)} bytes {self.event}"


_HEAD = struct.Struct("<dBHHH")
_MOST_UNREAD = 3 * 256
"""Counted and hashed together: one by one it takes twice as long."""


class Trace:
    """The history of one network.

    Args:
        keep: keep each entry; else there are only numbers and a digest.
    """

    def __init__(self, keep: bool = False) -> None:
        self.entries: list[Entry] = []
        """Only if they are kept."""
        self._counts: Counter[Event] = Counter()
        self._keep = keep
        self._hash = blake2b(digest_size=16)
        self._unread: list[Any] = []  # time, event, packet; flat, as tuples would be collected
        self._numbers = {event: number for number, event in enumerate(Event)}

    def note(self, at: float, event: Event, packet: Packet) -> None:
        """Something happened to *packet*."""
        unread = self._unread
        unread += at, event, packet
        if len(unread) >= _MOST_UNREAD:
            self._read()
        if self._keep:
            self.entries.append(Entry(at, event, packet))

    @property
    def counts(self) -> Counter[Event]:
        """How often what has happened."""
        self._read()
        return self._counts

    @property
    def digest(self) -> str:
        """Equal for two networks if the same happened to the same bytes at the same times."""
        self._read()
        return self._hash.hexdigest()

    def _read(self) -> None:
        pack, numbers, unread = _HEAD.pack, self._numbers, self._unread
        parts: list[bytes] = []
        events = unread[1::3]
        each = zip(unread[::3], events, unread[2::3], strict=True)
        for at, event, (protocol, source, target, payload, tos) in each:
            head = pack(at, numbers[event], protocol << 8 | tos, source[1], target[1])
            parts += (head, source[0], target[0], payload)
        self._hash.update(b"".join(parts))
        self._counts.update(events)
        unread.clear()

    def of(self, event: Event) -> list[Entry]:
        """Return the kept entries of one kind."""
        return [entry for entry in self.entries if entry.event is event]

    def __str__(self) -> str:
        """Return all kept entries, a line each."""
        return "\n".join(map(str, self.entries))
