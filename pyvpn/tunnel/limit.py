"""How much a session may carry a second, in one direction.

A token bucket decides how much may go at the moment.  What it does not cover waits for a tenth of
a second at most, and only what finds no room there is dropped.  The waiting is for TCP: where a
bucket alone drops all that comes too early, TCP sends in bursts and waits between them for what
it lost, and carries far less than the figure; a short queue it fills, and keeps full.

What is counted are whole inner packets.  :data:`HEADERS` per cent more of them pass than the
figure says: of a packet so much, or a little more, is IP's and TCP's, and whoever measures with
a program inside the tunnel gets the figure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate

HEADERS = 2
"""Per cent."""
BURST_SECONDS = 0.05
"""What passes at once after a silence is so much time's worth."""
LEAST_BURST = 3000
"""Bytes: two packets."""
WAIT_SECONDS = 0.1
"""What waits is so much time's worth."""
LEAST_ROOM = 16 * 1024
"""Bytes: what a TCP begins with, or it would lose its first packets at low rates."""
MOST_ROOM = 1024 * 1024
"""Bytes, whatever the rate."""
PIECE = 24 * 1024
"""Bytes that are let go at a time, as far as :data:`SHORTEST` permits: a batch that is worth its
system call, and that the queue of a TCP connection or of a slow reader has room for."""
SHORTEST, LONGEST = 0.001, 0.01
"""Seconds between two times."""


class Limit:
    """A figure, what it has left, and what waits.

    Times are seconds of the caller's clock; one that steps back stands still.

    Args:
        bits: the figure, a second.
    """

    __slots__ = ("_at", "_held", "_left", "_rate", "_waiting", "bits", "burst", "pause", "room")

    def __init__(self, bits: int, now: float) -> None:
        self._at = now
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._set(bits)
        self._left = self.burst

    def _set(self, bits: int) -> None:
        self.bits = bits
        self._rate = bits / 8 * (1 + HEADERS / 100)
        self.burst = max(self._rate * BURST_SECONDS, LEAST_BURST)
        """Bytes that pass at once after a silence, and one packet that is begun with the last."""
        self.room = min(max(self._rate * WAIT_SECONDS, LEAST_ROOM), MOST_ROOM)
        """Bytes that wait at most, likewise."""
        self.pause = min(max(PIECE / self._rate, SHORTEST), LONGEST)
        """Seconds after which to ask for what is due."""

    @property
    def waiting(self) -> int:
        """How many packets wait."""
        return len(self._waiting)

    def change(self, bits: int, now: float) -> int:
        """Go by another figure from *now* on.

        Returns:
            How many packets were dropped: there is less room for what waits.
        """
        self._earn(now)
        self._set(bits)
        self._left = min(self._left, self.burst + self._held)
        dropped = 0
        while self._held > self.room and len(self._waiting) > 1:
            self._held -= len(self._waiting.pop())
            dropped += 1
        return dropped

    def admit(self, packets: list[bytes], now: float) -> tuple[list[bytes], int]:
        """Decide about *packets*, one after the other.

        Returns:
            Those that may go now, from the front; and how many are dropped, from the end.  Those
            between wait for :meth:`due`.
        """
        self._earn(now)
        sizes = list(accumulate(map(len, packets)))
        go = 0
        if not self._waiting:  # else they would overtake
            go = _first(sizes, self._left)
            if go:
                self._left -= sizes[go - 1]
            if go == len(packets):
                return packets, 0
        gone = sizes[go - 1] if go else 0
        stay = max(go, _first(sizes, gone + self.room - self._held))
        if stay > go:
            self._waiting.extend(packets[go:stay])
            self._held += sizes[stay - 1] - gone
        return packets[:go], len(packets) - stay

    def due(self, now: float) -> list[bytes]:
        """Return what has waited long enough, oldest first, and let it go."""
        self._earn(now)
        waiting, left = self._waiting, self._left
        go: list[bytes] = []
        while waiting and left > 0:
            packet = waiting.popleft()
            left -= len(packet)
            go.append(packet)
        self._held -= round(self._left - left)
        self._left = left
        return go

    def let_go(self) -> list[bytes]:
        """Return all that waits: there is no limit any more."""
        packets = list(self._waiting)
        self._waiting.clear()
        self._held = 0
        return packets

    def _earn(self, now: float) -> None:
        if now > self._at:
            # What waits has earned its turn, however late we come to it: a busy machine is no
            # silence, and where it lets us wait for 100 ms the figure would else be halved.
            most = self.burst + self._held
            self._left = min(most, self._left + (now - self._at) * self._rate)
            self._at = now


def _first(sizes: list[int], budget: float) -> int:
    """How many packets begin before *budget* is used up; *sizes* are the sums of their lengths.

    The last of them may exceed it, or one that is larger than the budget would never pass.
    """
    if budget <= 0 or not sizes:
        return 0
    return 1 + bisect_left(sizes, budget, 0, len(sizes) - 1)
