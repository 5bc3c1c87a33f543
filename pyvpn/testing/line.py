"""One direction of a bad line: what befalls packets on it, told the time, without a socket.

A packet goes through it in this order: cut, too large, lost or doubled by chance; then it waits
for its turn in a queue of bounded size, is sent at the line's rate, and flies for the delay. So
the rate counts what was not lost, and the delay comes on top of the time spent waiting.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from random import Random

from pyvpn.errors import ConfigError

ETHERNET_HEADER = 14
"""Bytes before the IP packet. All sizes here are of IP packets, as ping and the MTU count."""
QUEUE_LEAST = 3_000
"""Bytes: two full packets, below which a queue given in milliseconds never goes."""

_LARGEST_NUMBER = 1e12


@dataclass(frozen=True)
class Faults:
    """What is wrong with a line; each 0 is nothing wrong."""

    delay_ms: float = 0
    """Each packet takes so much longer."""
    jitter_ms: float = 0
    """The delay varies by up to so much, either way; packets keep their order."""
    rate_bps: float = 0
    """Bits of IP packets a second; 0 is as fast as the machine."""
    queue_ms: float = 200
    """What may wait for its turn at that rate, as time; what finds the queue full is dropped."""
    queue_bytes: float = 0
    """The same in bytes, instead of the time."""
    loss_percent: float = 0
    """So many are lost, each by its own chance."""
    duplicate_percent: float = 0
    """So many come twice."""
    reorder_percent: float = 0
    """So many are held back, so that those behind overtake them..."""
    reorder_ms: float = 20
    """... by so much."""
    largest_bytes: float = 0
    """Larger packets vanish without a word: a black hole, if below the MTU."""
    cut: bool = False
    """Nothing passes, also of what was under way; both ends still see their link as up."""

    def changed(self, changes: Mapping[str, object]) -> Faults:
        """Return these faults with *changes*, by name.

        Raises:
            ConfigError: a name or value that cannot be; the text has those that can.
        """
        for name, value in changes.items():
            if name not in NAMES:
                raise ConfigError(f"no fault is called {name!r}: write {', '.join(NAMES)}")
            if name == "cut":
                if not isinstance(value, bool):
                    raise ConfigError(f"cut = {value!r}: write true or false")
                continue
            most = 100 if name.endswith("_percent") else _LARGEST_NUMBER
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} = {value!r}: write a number")
            if not 0 <= value <= most:
                raise ConfigError(f"{name} = {value!r}: write a number from 0 to {most:g}")
        return replace(self, **changes)  # type: ignore[arg-type]  # checked just above

    @property
    def room(self) -> float:
        """Bytes that may wait; without meaning where there is no rate."""
        return self.queue_bytes or max(QUEUE_LEAST, self.rate_bps * self.queue_ms / 8000)


NAMES = tuple(field.name for field in fields(Faults))


class Line:
    """Frames enter at one end, told when, and leave at the other when their time has come.

    Args:
        chance: decides who is lost; seeded, the same packets have the same fate.
    """

    def __init__(self, chance: Random) -> None:
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        """Packets by what became of them, and bytes that left."""
        self._chance = chance
        self._waiting: deque[bytes] = deque()  # the first of them is being sent
        self._waiting_bytes = 0
        self._sent_at = 0.0  # when that first one will have been sent
        self._flying: list[tuple[float, int, bytes]] = []
        self._newest = 0.0  # arrival of the last that keeps its order
        self._number = 0

    @property
    def waiting_bytes(self) -> int:
        """What waits for its turn now."""
        return self._waiting_bytes

    def change(self, faults: Faults, now: float) -> None:
        """Have *faults* from now on, also for what is under way."""
        self._send(now)
        self.faults = faults
        if faults.cut:
            self.counts["cut"] += len(self._waiting) + len(self._flying)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._flying.clear()
        latest = now + (faults.delay_ms + faults.jitter_ms) / 1000
        self._flying = [(min(when, latest), *rest) for when, *rest in self._flying]  # type: ignore[misc]  # mypy loses what is in rest
        heapq.heapify(self._flying)
        self._newest = min(self._newest, latest)
        if self._waiting and faults.rate_bps:
            while self._waiting_bytes > faults.room and len(self._waiting) > 1:
                self._waiting_bytes -= _size(self._waiting.pop())
                self.counts["queue_full"] += 1
            whole = _size(self._waiting[0]) * 8 / faults.rate_bps
            self._sent_at = min(self._sent_at, now + whole)
        elif self._waiting:
            for frame in self._waiting:
                self._fly(frame, now)
            self._waiting.clear()
            self._waiting_bytes = 0

    def enter(self, frame: bytes, now: float) -> None:
        """Take *frame* in; it may never leave, or more than once."""
        faults, size = self.faults, _size(frame)
        self.counts["entered"] += 1
        if faults.cut:
            self.counts["cut"] += 1
        elif faults.largest_bytes and size > faults.largest_bytes:
            self.counts["too_large"] += 1
        elif self._happens(faults.loss_percent):
            self.counts["lost"] += 1
        else:
            self._wait(frame, size, now)
            if self._happens(faults.duplicate_percent):
                self.counts["duplicated"] += 1
                self._wait(frame, size, now)

    def leave(self, now: float) -> list[bytes]:
        """Return the frames whose time has come, in the order they leave."""
        self._send(now)
        left = []
        while self._flying and self._flying[0][0] <= now:
            frame = heapq.heappop(self._flying)[2]
            left.append(frame)
            self.counts["bytes"] += _size(frame)
        self.counts["left"] += len(left)
        return left

    def due(self) -> float | None:
        """When to call :meth:`leave` next; None if nothing is under way."""
        times = [self._flying[0][0]] if self._flying else []
        if self._waiting:
            times.append(self._sent_at)
        return min(times, default=None)

    def _happens(self, percent: float) -> bool:
        return percent > 0 and self._chance.random() * 100 < percent

    def _wait(self, frame: bytes, size: int, now: float) -> None:
        rate = self.faults.rate_bps
        if not rate:
            self._fly(frame, now)
            return
        self._send(now)
        if not self._waiting:
            self._sent_at = now + size * 8 / rate
        elif self._waiting_bytes + size > self.faults.room:
            self.counts["queue_full"] += 1
            return
        self._waiting.append(frame)
        self._waiting_bytes += size

    def _send(self, now: float) -> None:
        """Let fly what has been sent by *now*; each as of its own moment, however late we are."""
        while self._waiting and self._sent_at <= now:
            frame = self._waiting.popleft()
            self._waiting_bytes -= _size(frame)
            self._fly(frame, self._sent_at)
            if self._waiting:
                self._sent_at += _size(self._waiting[0]) * 8 / self.faults.rate_bps

    def _fly(self, frame: bytes, now: float) -> None:
        faults = self.faults
        arrival = now + faults.delay_ms / 1000
        if faults.jitter_ms:
            jitter = faults.jitter_ms / 1000
            arrival = max(now, arrival + self._chance.uniform(-jitter, jitter))
        if self._happens(faults.reorder_percent):
            self.counts["reordered"] += 1
            arrival += faults.reorder_ms / 1000
        else:
            self._newest = arrival = max(arrival, self._newest)
        self._number += 1
        heapq.heappush(self._flying, (arrival, self._number, frame))


def _size(frame: bytes) -> int:
    return max(0, len(frame) - ETHERNET_HEADER)
