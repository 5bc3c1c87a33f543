"""The way from one host to another, in one direction, and everything that can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.trace import Event, Packet


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a link treats what is sent over it; the default is a good line of 20 ms.

    Probabilities are from 0 to 1, sizes are bytes of IP packet, headers included.
    """

    loss: float = 0.0
    """Probability that a packet is lost."""
    duplicate: float = 0.0
    """Probability that it arrives twice."""
    reorder: float = 0.0
    """Probability that it is overtaken by others."""
    reorder_seconds: float = 0.1
    """By how much at most such a packet is late."""
    delay: float = 0.02
    """Seconds that every packet takes."""
    jitter: float = 0.0
    """Seconds, at most, that one takes longer; the order stays."""
    rate: float = 0.0
    """Bytes a second; 0: as fast as anybody sends."""
    queue: int = 65_536
    """Bytes that may wait for a limited rate; what comes then is dropped."""
    corrupt: float = 0.0
    """Probability that one bit of it is flipped."""
    max_size: int = 0
    """Larger packets vanish, and nobody is told; 0: none do."""
    cut: bool = False
    """Nothing passes."""
    no_udp: bool = False
    """No datagram passes."""
    no_tcp: bool = False
    """No stream passes."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if not 0 <= getattr(self, name) <= 1:
                raise Misuse(f"{name} = {getattr(self, name)} is no probability")
        for name in ("reorder_seconds", "delay", "jitter", "rate", "queue", "max_size"):
            if getattr(self, name) < 0:
                raise Misuse(f"{name} = {getattr(self, name)} is negative")


class Link:
    """One direction between two hosts.

    Args:
        random: decides what happens; shared by the whole network.
    """

    def __init__(self, conditions: Conditions, random: Random) -> None:
        self.conditions = conditions
        """May be exchanged at any time; what is on its way already arrives as it would have."""
        self._judged: Conditions | None = None
        self._only_delays = False
        self._random = random
        self._free_at = 0.0  # when the line has sent all that waits
        self._last_arrival = 0.0

    def change(self, **changes: Any) -> None:
        """Exchange some of the conditions, by their names."""
        self.conditions = replace(self.conditions, **changes)

    def carry(self, packet: Packet, now: float) -> list[tuple[float, Packet]] | Event:
        """Return when what arrives of *packet* arrives; or why nothing does."""
        conditions, random = self.conditions, self._random
        if conditions is not self._judged:
            self._judged = conditions
            self._only_delays = conditions == Conditions(delay=conditions.delay)
        if self._only_delays:  # as below, without asking for each of a dozen evils
            self._last_arrival = at = max(self._last_arrival, now + conditions.delay)
            return [(at, packet)]
        if conditions.cut or (conditions.no_udp if packet.protocol == 17 else conditions.no_tcp):
            return Event.CUT
        if conditions.max_size and packet.size > conditions.max_size:
            return Event.TOO_BIG
        leaves = now
        if conditions.rate:
            waits = max(0.0, self._free_at - now)
            if waits * conditions.rate + packet.size > conditions.queue:
                return Event.QUEUE_FULL
            leaves = self._free_at = now + waits + packet.size / conditions.rate
        if conditions.loss and random.random() < conditions.loss:
            return Event.LOST
        arrivals = [(self._arrival(leaves), self._perhaps_corrupt(packet))]
        if conditions.duplicate and random.random() < conditions.duplicate:
            arrivals.append((self._arrival(leaves), packet))
        return arrivals

    def _arrival(self, leaves: float) -> float:
        conditions, random = self.conditions, self._random
        arrives = leaves + conditions.delay
        if conditions.jitter:
            arrives += random.random() * conditions.jitter
        if conditions.reorder and random.random() < conditions.reorder:
            return arrives + random.random() * conditions.reorder_seconds
        # A line that became shorter, or whose jitter is less this time, does not reorder.
        self._last_arrival = max(self._last_arrival, arrives)
        return self._last_arrival

    def _perhaps_corrupt(self, packet: Packet) -> Packet:
        probability, random = self.conditions.corrupt, self._random
        if not probability or not packet.payload or random.random() >= probability:
            return packet
        flipped = bytearray(packet.payload)
        bit = random.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
        return packet._replace(payload=bytes(flipped))
