"""Which of many things is the oldest, without looking at all of them."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Ages(Generic[K]):
    """Keys ordered by a time each; equal times in the order they were set.

    A heap whose outdated entries are skipped when they come up.  They are swept when they
    outnumber the living, so memory follows the number of keys, not of changes.
    Setting and removing cost O(log keys), amortised.
    """

    __slots__ = ("_current", "_heap", "_serial")

    def __init__(self) -> None:
        self._current: dict[K, int] = {}
        # The serial is unique: it settles equal times, and keys are never compared.
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def set(self, key: K, since: float) -> None:
        """Put *key* at the time *since*, wherever it was before."""
        self._serial += 1
        self._current[key] = self._serial
        heappush(self._heap, (since, self._serial, key))
        self._sweep()

    def discard(self, key: K) -> bool:
        """Forget *key*; False when it was not there."""
        found = self._current.pop(key, None) is not None
        self._sweep()
        return found

    def oldest(self) -> tuple[float, K] | None:
        """Return the smallest time and its key, or None when there is no key."""
        while self._heap:
            since, serial, key = self._heap[0]
            if self._current.get(key) == serial:
                return since, key
            heappop(self._heap)
        return None

    def __contains__(self, key: object) -> bool:
        """Whether *key* has a time."""
        return key in self._current

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._current)

    def _sweep(self) -> None:
        # The constant keeps a handful of keys from being swept at every change.
        if len(self._heap) > 2 * len(self._current) + 16:
            self._heap = [e for e in self._heap if self._current.get(e[2]) == e[1]]
            heapify(self._heap)
