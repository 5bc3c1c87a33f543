"""When packets that wait for the limit of their session go on."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pyvpn.config.values import spell_rate
from pyvpn.net.clockwork import Clock
from pyvpn.tunnel.limit import LONGEST
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session


class Pacing:
    """Has *router* release what waits, as long as something does: one timer for all sessions.

    Args:
        now: CLOCK_BOOTTIME seconds.
        sent: called after packets may have been sent.
    """

    def __init__(
        self,
        clock: Clock,
        router: Router,
        now: Callable[[], float],
        sent: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._router = router
        self._now = now
        self._sent = sent
        self._wake: IDelayedCall | None = None
        self._stopped = False
        self._told_of_bug = False
        router.limits.held_up = self._wait

    _log = Logger()

    def stop(self) -> None:
        """Release nothing any more."""
        self._stopped = True
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _wait(self, seconds: float) -> None:
        if self._wake is None and not self._stopped:
            self._wake = self._clock.callLater(seconds, self._release)

    def _release(self) -> None:
        self._wake = None
        pause = LONGEST
        try:
            pause = self._router.limits.release(self._now())
            self._sent()
        except Exception:  # noqa: BLE001 - what else waits goes on
            # Told once: who can provoke the bug with a packet could else fill the disk.
            if not self._told_of_bug:
                self._told_of_bug = True
                self._log.failure("packets that waited were lost to a bug of ours")
        if pause:
            self._wait(pause)


def limits_in_words(session: Session) -> str:
    """How fast it may be, for a line about it; empty if it has no limit."""
    named = {"up": session.limit_in, "down": session.limit_out}
    held = [f"{way} {spell_rate(limit.bits)}" for way, limit in named.items() if limit]
    return f", limited to {', '.join(held)}" if held else ""
