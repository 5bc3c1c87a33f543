"""How soon the next password may be tried: decided before any work is spent on it.

Two limits, against the two ways of guessing:

* by **source**: one machine trying one name or many.  Three failures are free, then the next
  attempt must wait 1, 2, 4 ... 300 seconds.  (Another count by source *and* name would never
  be the longer wait: each of its failures is one of the source's.)
* by **name**: many machines trying one name, which no limit by source can see.  A bucket.  It
  would let anybody lock a user out, so sources from which that name has succeeded before are
  exempt; they still have the limit by source.  Behind a relay that names no sources nothing
  exempts: there a name that is guessed at is slow for its user too.  (A device that is proved
  has a name of its own here, which the caller makes up, and no source.)

Names count whether they exist or not, so the answer tells nothing about that.

All memory is bounded; the least recently used entry goes first.  Only an attempt that is
evaluated makes an entry, and evaluating means a password hash: at 20 a second it takes an
hour to push one name out of 65,536, and pushing it out gains the ten guesses of a full bucket.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from pyvpn.tunnel.sources import source_of

FREE_FAILURES = 3
LONGEST_WAIT = 300.0
"""Seconds between attempts, once the back-off has grown."""
FORGET_SECONDS = 3600.0
"""A source that was quiet for so long begins anew."""

NAME_BURST = 10
NAME_INTERVAL = 180.0
"""Seconds until the bucket of a name gives one more attempt: with the burst, 30 in any hour."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """A mapping that forgets the least recently written entry beyond *capacity*."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def discard(self, key: K) -> None:
        self._entries.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class _BackOff:
    """Failures and the time of the last one, by source."""

    def __init__(self, capacity: int) -> None:
        self._failures: _Recent[bytes, tuple[int, float]] = _Recent(capacity)

    def _count(self, key: bytes, now: float) -> tuple[int, float]:
        failures, last = self._failures.get(key) or (0, now)
        return (0, now) if now - last >= FORGET_SECONDS else (failures, last)

    def wait(self, key: bytes, now: float) -> float:
        failures, last = self._count(key, now)
        if failures < FREE_FAILURES:
            return 0.0
        # The exponent is cut first: failures may be any number, and so would the power.
        pause = min(2.0 ** min(failures - FREE_FAILURES, 16), LONGEST_WAIT)
        return max(0.0, last + pause - now)

    def charge(self, key: bytes, now: float) -> None:
        self._failures.put(key, (self._count(key, now)[0] + 1, now))

    def restart(self, key: bytes, now: float) -> None:
        """Let the pause begin *now*."""
        failures, _ = self._count(key, now)
        if failures:
            self._failures.put(key, (failures, now))

    def refund(self, key: bytes, now: float) -> None:
        """Take back one charge."""
        failures, last = self._count(key, now)
        if failures > 1:
            self._failures.put(key, (failures - 1, last))
        else:
            self._failures.discard(key)

    def __len__(self) -> int:
        return len(self._failures)


class Throttle:
    """Log-in back-off; see the head of this file.

    An attempt is :meth:`begin`, then exactly one of :meth:`failed`, :meth:`succeeded` and
    :meth:`abandoned`.  It is charged as a failure at once and refunded when it succeeds, so
    attempts side by side count, and one that is never ended was not free.

    *source* is a packed address (IPv6 counts by its /64), or None behind a trusted relay:
    everybody shares that source, and only the limit by name holds.  *capacity* bounds each of
    the three tables.  ``now`` is in seconds of a clock that does not step.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self._sources = _BackOff(capacity)
        # Name -> the time at which its bucket is full again; absent means full.
        self._names: _Recent[str, float] = _Recent(capacity)
        # (source, name) that has succeeded: the people who belong here.
        self._friends: _Recent[tuple[bytes, str], None] = _Recent(capacity)

    def wait(self, source: bytes | None, name: str, now: float) -> float:
        """Return for how many seconds this attempt must wait; 0 is go on.  Changes nothing."""
        wait, friend = 0.0, False
        if source is not None:
            key = source_of(source)
            friend = (key, name) in self._friends
            wait = self._sources.wait(key, now)
        if not friend:
            full = self._names.get(name) or now
            wait = max(wait, full - now - (NAME_BURST - 1) * NAME_INTERVAL)
        return wait

    def begin(self, source: bytes | None, name: str, now: float) -> float:
        """Start an attempt, if it need not wait.

        Returns:
            0: it is charged, evaluate it.  Else the seconds to wait; nothing was charged.
        """
        wait = self.wait(source, name, now)
        if wait > 0:
            return wait
        friend = False
        if source is not None:
            key = source_of(source)
            friend = (key, name) in self._friends
            self._sources.charge(key, now)
        if not friend:
            self._names.put(name, max(self._names.get(name) or now, now) + NAME_INTERVAL)
        return 0.0

    def failed(self, source: bytes | None, name: str, now: float) -> None:
        """End an attempt: the password was wrong.  The pause counts from now."""
        if source is not None:
            key = source_of(source)
            self._sources.restart(key, now)

    def succeeded(self, source: bytes | None, name: str, now: float) -> None:
        """End an attempt: it was the user.

        Takes back the attempt's own charges and no more: somebody behind the same address who
        guesses at this name, or has an account of his own, gains nothing by a success.
        """
        self.abandoned(source, name, now)
        if source is not None:
            self._friends.put((source_of(source), name), None)

    def abandoned(self, source: bytes | None, name: str, now: float) -> None:
        """End an attempt that was never evaluated: its charges are taken back."""
        friend = False
        if source is not None:
            key = source_of(source)
            friend = (key, name) in self._friends
            self._sources.refund(key, now)
        full = self._names.get(name)
        if full is not None and not friend:
            if full - NAME_INTERVAL > now:
                self._names.put(name, full - NAME_INTERVAL)
            else:
                self._names.discard(name)

    def __len__(self) -> int:
        """How many entries are kept in all: at most three times the capacity."""
        return len(self._sources) + len(self._names) + len(self._friends)
