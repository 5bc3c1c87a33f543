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
    RATE = "rate-limit"
    """More than its user may have a second."""
    TUN_FULL = "tun-full"
    """The kernel took no more packets from us."""
    TOO_BIG = "larger-than-mtu"
    """Longer than the tunnel carries."""
    MULTICAST = "multicast-or-link-local"
    """Meant for the local link only (so is broadcast); a router never passes it on."""
    NOT_REGISTERED = "not-registered"
    """A packet from a connection that has no address yet."""

    # The WireGuard protocol, in the order of the checks.
    JUNK = "no-wireguard-message"
    """A datagram whose type, reserved bytes or length no message has."""
    NOT_OURS = "wireguard-key-not-ours"
    """A handshake message made for another public key (mac1), or while we have no key."""
    UNASKED = "message-unasked-for"
    """From a peer of ours: an answer to nothing that we have asked, or to what is over."""
    UNKNOWN_INDEX = "unknown-receiver-index"
    """For no handshake or keypair of ours: old, or made up."""
    QUEUED_TOO_MANY = "handshake-queue-full"
    QUEUED_TOO_LONG = "handshake-waited-too-long"
    """Whoever sent it has given it up, and begun another."""
    COOKIE_DEMANDED = "cookie-demanded"
    """Under load; a cookie reply was sent instead."""
    COOKIE_LIMIT = "cookie-replies-limited"
    """Under load, and more cookie replies than we send."""
    SOURCE_LIMIT = "handshakes-of-source-limited"
    """Under load, and this source, which has a cookie, begins more than its share."""
    BAD_HANDSHAKE = "handshake-refused"
    """Something sealed in a handshake message does not open: wrong key, wrong PSK, forged."""
    UNKNOWN_PEER = "unknown-peer"
    """A sound initiation, of somebody who is no peer."""
    OLD_TIMESTAMP = "handshake-replayed"
    """An initiation not newer than the newest one of that peer."""
    TOO_SOON = "handshake-too-soon"
    """More than 50 initiations a second of one peer."""
    BAD_COOKIE = "cookie-reply-refused"
    EXPIRED_KEY = "keypair-expired"
    BAD_TAG = "packet-forged"
    """A data message that does not open."""
    REPLAYED = "packet-replayed"
    """Its counter was seen before, or is too old to tell."""
    CONGESTED = "congestion-not-understood"
    """Met congestion outside, and its ends understand only loss (RFC 6040)."""
    STAGED_FULL = "waiting-for-key-full"
    NO_ANSWER = "no-answer-to-handshakes"
    """Packets that waited for a key for 90 s."""
    NO_ENDPOINT = "no-endpoint"
    """A peer of which nobody knows where it is."""


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
