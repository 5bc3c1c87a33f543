"""What drives a WireGuard in the reactor: its datagrams, its timers, the handshakes that wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pyvpn.net.udp import RunProtocol
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Run

NEVER = float("inf")


class Clock(Protocol):
    """What we ask of the reactor."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object
    ) -> IDelayedCall: ...


class Clockwork(RunProtocol):
    """Stamps the time on what a port receives, and wakes when the protocol wants to be woken.

    One may serve several ports.  Whoever gives the protocol packets to send calls :meth:`arm`
    afterwards.

    Args:
        now: CLOCK_BOOTTIME seconds.
    """

    def __init__(self, clock: Clock, wireguard: WireGuard, now: Callable[[], float]) -> None:
        self._clock = clock
        self._wireguard = wireguard
        self._now = now
        self._working = False
        self._stopped = False
        self._wake: IDelayedCall | None = None
        self._wake_at = NEVER

    _log = Logger()

    def runs_received(self, runs: list[Run]) -> None:
        """Take what a port has received."""
        if self._stopped:
            return
        self._wireguard.runs_received(runs, self._now())
        if self._wireguard.waiting and not self._working:
            self._working = True
            self._clock.callLater(0, self._work)
        self.arm()

    def arm(self) -> None:
        """See to it that we wake when the next timer of the protocol is due."""
        due = self._wireguard.next_due
        if due >= self._wake_at or self._stopped:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = due
        self._wake = self._clock.callLater(max(0.0, due - self._now()), self._tick)

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _tick(self) -> None:
        self._wake, self._wake_at = None, NEVER
        try:
            self._wireguard.tick(self._now())
        except Exception:  # noqa: BLE001 - the timers of the other peers go on
            self._log.failure("a timer was lost to a bug of ours")
        self.arm()

    def _work(self) -> None:
        self._working = False
        if self._stopped:
            return
        try:
            more = self._wireguard.work(self._now())
        except Exception:  # noqa: BLE001 - somebody else's handshake is next
            self._log.failure("a handshake was lost to a bug of ours")
            more = True
        if more:
            self._working = True
            self._clock.callLater(0, self._work)
        self.arm()
