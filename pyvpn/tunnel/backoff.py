"""How long to wait before the next try: quick after a loss, then ever longer, never in step."""

from __future__ import annotations

from collections.abc import Callable

QUICK_SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
"""After an established connection was lost: a server that restarts is back within seconds."""

FIRST_SECONDS = 1.0
FACTOR = 1.6


class Backoff:
    """The pauses between tries to reach one server.

    Every pause is spread over half to one and a half of its nominal length, so that a thousand
    clients of one server do not come back in the same moment.

    Args:
        most: seconds, the longest pause that we choose ourselves.
        uniform: returns a random number from 0 to 1.
    """

    def __init__(self, most: float, uniform: Callable[[], float]) -> None:
        self.most = most
        self._uniform = uniform
        self._quick_left = 0
        self._next = FIRST_SECONDS

    def established(self) -> None:
        """A connection came to carry packets: begin quickly again when it is lost."""
        self._quick_left = len(QUICK_SECONDS)
        self._next = FIRST_SECONDS

    def pause(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; *at_least* when the other side asked for that."""
        if self._quick_left:
            nominal = QUICK_SECONDS[-self._quick_left]
            self._quick_left -= 1
        else:
            nominal = min(self._next, self.most)
            self._next = min(self._next * FACTOR, self.most)
        spread = 0.5 + self._uniform()
        return max(min(nominal * spread, self.most), at_least * (1 + 0.25 * self._uniform()))
