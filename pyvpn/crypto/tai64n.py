"""Timestamps of initiations: a responder takes none that is not later than the last.

Source: WireGuard whitepaper section 5.1; https://cr.yp.to/libtai/tai64.html.  As in the kernel,
the nanoseconds are rounded down to 2**24 (17 ms), so that they tell nobody how exact our clock is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import floor as down

from pyvpn.errors import Misuse

SIZE = 12  # bytes
TICK = 1 << 24  # nanoseconds

_BASE = (1 << 62) + 10  # TAI was 10 s ahead in 1970; leap seconds since then are not counted
_LAST = 1 << 63  # labels from here on are reserved
_LABEL = struct.Struct(">QI")
_SECOND = 1_000_000_000


def tai64n(unix: float) -> bytes:
    """Return the timestamp of the unix time *unix* (seconds): 12 bytes that sort by time."""
    seconds = down(unix)
    nanoseconds = int((unix - seconds) * _SECOND)
    return _LABEL.pack(_BASE + seconds, nanoseconds & -TICK)


def reserve(stamp: bytes, seconds: float) -> bytes:
    """Return the timestamp that is *seconds* (not negative) later than *stamp*.

    Written down ahead of time, it saves writing at every initiation: after a crash none below
    it is sent.
    """
    whole, nanoseconds = _LABEL.unpack(stamp)
    later = down(seconds)
    nanoseconds += int((seconds - later) * _SECOND)
    return _LABEL.pack(whole + later + nanoseconds // _SECOND, nanoseconds % _SECOND)


class Stamps:
    """The timestamps we send with one private key: each is later than all before it.

    That holds also when the clock stands still or is set back; they then follow one another by
    one tick (17 ms) each, until the clock has caught up.

    Args:
        unix: the time, in unix seconds.
        floor: what may have been sent already, by an earlier process; empty: nothing.

    Raises:
        Misuse: *floor* is no timestamp.
    """

    def __init__(self, unix: Callable[[], float], floor: bytes = b"") -> None:
        if floor and (len(floor) != SIZE or _LABEL.unpack(floor)[0] >= _LAST):
            raise Misuse(f"no TAI64N timestamp: {floor.hex()}")
        self._unix = unix
        self.last = floor
        """The latest that may have been sent; empty before the first."""

    def next(self) -> bytes:
        """Return the timestamp for an initiation that is sent now."""
        stamp = tai64n(self._unix())
        if stamp <= self.last:
            seconds, nanoseconds = _LABEL.unpack(self.last)
            nanoseconds += TICK
            if nanoseconds >= _SECOND:
                seconds, nanoseconds = seconds + 1, 0
            stamp = _LABEL.pack(seconds, nanoseconds)
        self.last = stamp
        return stamp
