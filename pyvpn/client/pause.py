"""When the next try is: after a pause, which is short if the connection before it was good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from pyvpn.tunnel.backoff import Backoff

PROOF_SECONDS = 2.0
"""A connection that lasts so long has proved itself: after its loss the next try comes quickly."""


class Pause:
    """The pauses of one client.

    Args:
        over: called when one is over.
    """

    def __init__(self, reactor: Any, backoff: Backoff, over: Callable[[], None]) -> None:
        self._reactor = reactor
        self._backoff = backoff
        self._over = over
        self._alarm: IDelayedCall | None = None
        self._proof: IDelayedCall | None = None
        self._sent_away = False

    def works(self) -> None:
        """There is a connection, from now on."""
        self.lost()
        self._proof = self._reactor.callLater(PROOF_SECONDS, self._backoff.established)

    def lost(self) -> None:
        """There is none any more; repeatable."""
        if self._proof is not None and self._proof.active():
            self._proof.cancel()

    def begin(self, seconds: float) -> float:
        """Wait, at least for the *seconds* that the server asks for; return how long."""
        self._sent_away = seconds > 0
        chosen = self._backoff.pause(seconds)
        self._alarm = self._reactor.callLater(chosen, self._ring)
        return chosen

    def end(self) -> None:
        """Wait no longer, if we do."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(0)

    def hurry(self) -> None:
        """The same, and begin with short pauses again; not if the server asked for this one."""
        # What the server asked for is not shortened by that.
        if self._alarm is not None and self._alarm.active() and not self._sent_away:
            self._backoff.established()
            self._alarm.reset(0)

    def stop(self) -> None:
        """Wait no longer, and for nothing."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()

    def _ring(self) -> None:
        self._alarm = None
        self._over()
