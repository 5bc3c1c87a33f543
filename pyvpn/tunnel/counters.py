"""Why packets were dropped: a name and a number for every reason, never a log line."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Drop(StrEnum):
    """The reasons; the text is what an operator reads, so it never changes its meaning."""

    MALFORMED = "malformed"
    """Not exactly one IPv4 or IPv6 packet."""
    SOURCE = "source-not-own"
    """A peer sent a packet in somebody else's name."""
    DESTINATION = "destination-not-permitted"
    """A peer sent a packet to where it may not go."""
    NO_ROUTE = "no-session-for-destination"
    """The kernel gave us a packet for an address that nobody has now."""
    NO_CARRIER = "session-without-carrier"
    """Its owner is known but not connected at the moment."""
    QUEUE_FULL = "queue-full"
    """The peer reads more slowly than packets arrive for it."""
    TUN_FULL = "tun-full"
    """The kernel took no more packets from us."""
    TOO_BIG = "larger-than-mtu"
    """Longer than the tunnel carries."""
    MULTICAST = "multicast-or-link-local"
    """Meant for the local link only (so is broadcast); a router never passes it on."""
    NOT_REGISTERED = "not-registered"
    """A packet from a connection that has no address yet."""


class Counters:
    """Drop counters of one owner: a session, the router or a sink."""

    __slots__ = ("dropped",)

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Reason to number of packets; a reason that never occurred is absent and reads as 0."""

    def drop(self, reason: str, n: int = 1) -> None:
        """Count *n* packets dropped for *reason* (a :class:`Drop`, or a sink's own word)."""
        self.dropped[reason] += n

    def total(self) -> int:
        """How many packets were dropped for any reason."""
        return self.dropped.total()
