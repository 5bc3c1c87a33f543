"""What keeps a flood of handshakes from taking the time of everybody else.

A handshake costs some hundred microseconds, and its first message can be sent from any address
that the sender likes to name.  So when more of them wait than can be worked off at once, a
cookie is demanded first, which only reaches who really is where it says; and of those each
source may have a few a second.  Sources: the WireGuard paper, section 5.3; the Linux kernel's
``ratelimiter.c``.
"""

from __future__ import annotations

from collections import OrderedDict

from pyvpn.tunnel.sources import source_of

MOST_WAITING = 4096
"""Handshake messages that wait; the next ones are dropped."""
LONGEST_WAIT = 4.0
"""Seconds; after five an initiator begins anew and takes no answer to what it sent before.  Who
works off the old ones first, on a machine that is too slow for all, never comes to the new ones
in time: everybody would try for ever."""
LOAD_WAITING = MOST_WAITING // 8
LOAD_SECONDS = 1.0
"""How long we count as under load after it was last seen."""
REFUSALS = 200.0
"""Handshakes a second, and at once, that may cost us curve arithmetic and let nobody in.  With
more of them we are under load, too, though the queue is short: a forger who stays below what we
can work off would have a third of our time otherwise, and with cookies it is a tenth."""

PER_SOURCE = 20.0
PER_SOURCE_BURST = 5.0
MOST_SOURCES = 65_536

COOKIES = 20_000.0
COOKIES_BURST = 2000.0
"""Cookie replies a second: with 14 us each, all told, about a quarter of a core.  An honest sender
has to get one among all those that go to forged addresses, so a limit near the rate of a flood
keeps it out; what bounds the flood's share of our time is how many are read at once."""


class Bucket:
    """Gives *rate* tokens a second and keeps *burst* of them at most."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one token at the time *now* (seconds, never decreasing)."""
        left = min(self.burst, self._left + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        self._left = left - 1.0 if left >= 1.0 else left
        return left >= 1.0


class SourceRates:
    """A bucket for each source; an IPv6 source is a /64.

    The table is bounded: a new source takes the place of the one that was quiet for longest.
    Only who has answered a cookie is counted here, so its entries cannot be forged away.
    """

    def __init__(
        self,
        rate: float = PER_SOURCE,
        burst: float = PER_SOURCE_BURST,
        capacity: int = MOST_SOURCES,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._capacity = capacity
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._buckets)

    def take(self, address: bytes, now: float) -> bool:
        """Whether a message from the packed *address* may be worked on now."""
        source = source_of(address)
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = Bucket(self._rate, self._burst)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(source)
        return bucket.take(now)


class Load:
    """Whether so many handshakes wait, or come to nothing, that cookies are demanded."""

    __slots__ = ("_refusals", "_seen")

    def __init__(self) -> None:
        self._refusals = Bucket(REFUSALS, REFUSALS)
        self._seen = float("-inf")

    def refused(self, now: float) -> None:
        """Note a handshake that was worked on, and was nobody's."""
        if not self._refusals.take(now):
            self._seen = now

    def under(self, waiting: int, now: float) -> bool:
        """Whether it is so with *waiting* messages, or was a moment ago."""
        if waiting >= LOAD_WAITING:
            self._seen = now
            return True
        return now - self._seen < LOAD_SECONDS
