"""What the ends of a stream send each other, and what one end keeps of each direction.

A small TCP: retransmission with exponential back-off, slow start and fast retransmit, windows and
their probes, delayed acknowledgements, out-of-order segments kept.  Not here: selective
acknowledgements, window scaling, path MTU.  Sequence numbers have 64 bits and do not wrap.

Sources: RFC 9293, RFC 6298 (timer), RFC 5681, 3465 and 6582 (congestion).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

SYN, ACK, FIN, RST = 1, 2, 4, 8
NEVER = float("inf")

_HEADER = struct.Struct("<BQQI")
_SUM = struct.Struct("<I")
_SUM_AND_HEADER = struct.Struct("<IBQQI")


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """How streams behave; sizes in bytes, times in seconds."""

    segment: int = 1380
    """The most that one segment carries."""
    window: int = 262_144
    """What a receiver keeps for somebody who does not read."""
    first_timeout: float = 1.0
    """Before the round trip is known."""
    least_timeout: float = 0.2
    most_timeout: float = 120.0
    ack_delay: float = 0.04
    """So long an acknowledgement waits for something to ride on, or for a second segment."""
    give_up: float = 924.6
    """How long sent bytes may stay unacknowledged; TCP_USER_TIMEOUT makes it shorter."""
    connect_give_up: float = 127.0
    orphaned: float = 60.0
    """How long the kernel takes care of a connection that its process has closed, after it last
    heard of the other end."""


class Segment(NamedTuple):
    """One segment."""

    flags: int
    sequence: int
    acknowledged: int
    window: int
    data: bytes = b""

    @property
    def length(self) -> int:
        """How many sequence numbers it takes."""
        return len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def to_bytes(self) -> bytes:
        """Return it with a checksum in front."""
        return encode(*self)

    @classmethod
    def parse(cls, payload: bytes) -> Segment | None:
        """Read what :meth:`to_bytes` has written; None: the checksum is wrong."""
        read, flags, sequence, acknowledged, window = _SUM_AND_HEADER.unpack_from(payload)
        if crc32(payload[_SUM.size :]) != read:
            return None
        return cls(flags, sequence, acknowledged, window, payload[_SUM_AND_HEADER.size :])


def encode(flags: int, sequence: int, acknowledged: int, window: int, data: bytes) -> bytes:
    """Return a segment with a checksum in front."""
    body = _HEADER.pack(flags, sequence, acknowledged, window) + data
    return _SUM.pack(crc32(body)) + body


class Piece(NamedTuple):
    """What is to be sent: from where, which bytes, and whether they are the last."""

    sequence: int
    data: bytes
    last: bool


class Outgoing:
    """The bytes that one end sends: those not acknowledged yet, and when to send them again.

    Args:
        first: the sequence number of the first byte.
    """

    def __init__(self, settings: TcpSettings, first: int, timeout: float) -> None:
        self._settings = settings
        self.unacknowledged = first
        self.next = first
        self.window = settings.segment
        self.due = NEVER
        """When something has to be sent again."""
        self.ended = False
        """No more bytes will come; takes a sequence number of its own."""
        self.is_done = False
        """Everything was acknowledged, the end too."""
        self._buffer = bytearray()  # from `unacknowledged` on
        self._end = first  # of what is in it
        self._highest = first
        self._congestion = 10.0 * settings.segment
        self._threshold = NEVER
        self._repeated = 0
        self._recover = first
        self._timed: tuple[int, float] | None = None
        self._smoothed = 0.0
        self._variation = 0.0
        self._timeout = timeout
        self._backoff = 0
        self._progress_at = NEVER

    @property
    def unsent(self) -> int:
        """How many bytes were never sent."""
        return max(0, self._end - self._highest)

    def append(self, data: bytes) -> None:
        """Add bytes behind those that wait."""
        self._buffer += data
        self._end += len(data)

    def pieces(self, now: float, probe: bool = False) -> list[Piece]:
        """Return what may be sent now; *probe*: one byte at least, whatever the window is."""
        pieces: list[Piece] = []
        segment = self._settings.segment
        if self.is_done or (self.next == self._end and not self.ended):
            return pieces
        limit = self.unacknowledged + min(int(self._congestion), self.window)
        if probe:
            limit = max(limit, self.unacknowledged + 1)
        end = self._end
        while self.next < end:
            size = min(segment, end - self.next, limit - self.next)
            # No small segments because a window is a little open, but at its end.
            small = size < segment and size < end - self.next
            if size <= 0 or (small and self.next > self.unacknowledged):
                break
            offset = self.next - self.unacknowledged
            data = bytes(self._buffer[offset : offset + size])
            last = self.ended and self.next + size == end
            pieces.append(Piece(self.next, data, last))
            if self._timed is None and self.next >= self._highest:
                self._timed = self.next + size, now
            self.next += size + last
        if self.ended and self.next == end:
            pieces.append(Piece(end, b"", True))
            self.next += 1
        self._highest = max(self._highest, self.next)
        if self.due == NEVER and (self.next > self.unacknowledged or self.next < end):
            self._progress_at = now
            self._arm(now)
        return pieces

    def acknowledge(self, to: int, window: int, bare: bool, now: float) -> list[Piece]:
        """Take an acknowledgement; return what it shows to be lost.

        Args:
            bare: it came without data.
        """
        if to > self._highest or to < self.unacknowledged:
            return []
        same, self.window = window == self.window, window
        if not window:
            self._progress_at = now  # somebody is there, and does not read
        if to == self.unacknowledged:
            if bare and same and self.next > to:
                self._repeated += 1
                if self._repeated == 3 and to >= self._recover:
                    self._halve()
                    self._congestion = self._threshold
                    self._recover = self._highest
                    return [self._first()]
            return []
        count = to - self.unacknowledged
        self.is_done = count > len(self._buffer)
        del self._buffer[:count]
        self.unacknowledged = to
        self.next = max(self.next, to)
        self._repeated = self._backoff = 0
        self._progress_at = now
        if self._timed is not None and to >= self._timed[0]:
            self._measure(now - self._timed[1])
            self._timed = None
        segment = self._settings.segment
        if self._congestion < self._threshold:
            self._congestion += min(count, 2 * segment)  # the other end speaks of every second
        else:
            self._congestion += segment * segment / self._congestion
        self.due = NEVER
        if self.next > to:
            self._arm(now)
        if to < self._recover and self._congestion >= self._threshold and self.next > to:
            return [self._first()]
        return []

    def time_out(self, now: float) -> bool:
        """Begin again with what was not acknowledged; False: give up."""
        if now - self._progress_at >= self._settings.give_up:
            return False
        if self.next > self.unacknowledged:
            self._halve()
            self._congestion = float(self._settings.segment)
            self._recover = self._highest
            self.next = self.unacknowledged
        self._timed = None
        self._backoff += 1
        self._arm(now)
        return True

    def slept(self, seconds: float) -> None:
        """Have no time passed in the last *seconds*."""
        self.due += seconds
        self._progress_at += seconds
        self._timed = None

    def _first(self) -> Piece:
        data = bytes(self._buffer[: self._settings.segment])
        self._timed = None  # whose answer comes first could not be told
        return Piece(self.unacknowledged, data, self.ended and len(data) == len(self._buffer))

    def _halve(self) -> None:
        flying = self.next - self.unacknowledged
        self._threshold = max(flying / 2, 2.0 * self._settings.segment)

    def _measure(self, seconds: float) -> None:
        if not self._smoothed:
            self._smoothed, self._variation = seconds, seconds / 2
        else:
            difference = abs(self._smoothed - seconds)
            self._variation += (difference - self._variation) / 4
            self._smoothed += (seconds - self._smoothed) / 8
        wanted = self._smoothed + 4 * self._variation
        self._timeout = max(self._settings.least_timeout, wanted)

    def _arm(self, now: float) -> None:
        later = self._timeout * 2 ** min(self._backoff, 20)
        # To the end of our patience at the latest, to notice it when it comes.
        patience = max(self._progress_at + self._settings.give_up, now + 1e-6)
        self.due = min(now + min(later, self._settings.most_timeout), patience)


class Incoming:
    """The bytes that one end receives: put into order, and kept until they are read.

    Args:
        first: the sequence number of the first byte.
    """

    def __init__(self, settings: TcpSettings, first: int) -> None:
        self.next = first
        self.ready = bytearray()
        self.ended = False
        """All bytes that there will be are ready or were."""
        self._size = settings.window
        self._early: dict[int, tuple[bytes, bool]] = {}

    @property
    def window(self) -> int:
        """How many bytes there is room for."""
        room = self._size - len(self.ready)
        return room if room > 0 else 0

    def receive(self, sequence: int, data: bytes, last: bool) -> bool:
        """Take what a segment carries; what there is no room for is dropped.

        True: it was just what came next, and no more than that.  Of all else the other end wants
        to hear at once.
        """
        if self.ended or sequence + len(data) > self.next + self.window:
            return False
        if sequence == self.next and not (last or self._early):
            self.ready += data
            self.next += len(data)
            return True
        if sequence > self.next:
            if len(data) >= len(self._early.get(sequence, (b"",))[0]):
                self._early[sequence] = data, last
            return False
        self._append(sequence, data, last)
        if self._early:
            for early in sorted(self._early):
                if early > self.next:
                    break
                self._append(early, *self._early.pop(early))
        return False

    def _append(self, sequence: int, data: bytes, last: bool) -> None:
        fresh = data[self.next - sequence :]
        if sequence + len(data) < self.next:
            return
        self.ready += fresh
        self.next += len(fresh)
        if last:
            self.next += 1
            self.ended = True
