"""How often each source may do something, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Tries:
    """So many at once from each source, then one every so many seconds.

    Looking and counting are two things: what turns out to be right need not be counted.  The
    source that was counted least recently is forgotten first, beyond *capacity* of them.
    """

    def __init__(self, at_once: int, seconds: float, capacity: int = 4096) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._capacity = capacity
        # Source -> the time at which its bucket is full again; absent means full.
        self._full: OrderedDict[Hashable, float] = OrderedDict()

    def blocked(self, source: Hashable, now: float) -> bool:
        """Whether *source* has used up what it may at the time *now* (seconds)."""
        return self._full.get(source, now) - now > (self._at_once - 1) * self._seconds

    def count(self, source: Hashable, now: float) -> None:
        """Note that *source* did it."""
        self._full[source] = max(self._full.get(source, now), now) + self._seconds
        self._full.move_to_end(source)
        if len(self._full) > self._capacity:
            self._full.popitem(last=False)

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._full)
