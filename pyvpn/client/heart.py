"""The client's heartbeat: shows the server that we live, and us that it does."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from pyvpn.errors import PeerError
from pyvpn.net.control import TRANSACTION_SECONDS, ControlLink
from pyvpn.net.process import boottime
from pyvpn.wire.command import Command


class Heart:
    """Asks the server at even intervals; a beat that stays unanswered ends the connection."""

    def __init__(self, reactor: Any) -> None:
        self.round_trip: float | None = None
        """Seconds that the last answer took; None before the first."""
        self._reactor = reactor
        self._interval = 0.0
        self._next: IDelayedCall | None = None

    def start(self, link: ControlLink, seconds: float) -> None:
        """Beat on *link* every *seconds*, the first time now; another link's beating ends."""
        self.stop()
        self._interval = seconds
        self._go_on(link)

    def change(self, link: ControlLink, seconds: float) -> None:
        """Beat at another pace, if it is another."""
        if self._next is not None and self._interval != seconds:
            self.start(link, seconds)

    def ask_now(self, link: ControlLink, seconds: float) -> None:
        """Beat once more, and give *link* up unless the answer is there within *seconds*."""
        self._beat(link, seconds)

    def stop(self) -> None:
        """Stand still; repeatable."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _go_on(self, link: ControlLink) -> None:
        self._next = self._reactor.callLater(self._interval, self._go_on, link)
        self._beat(link)

    def _beat(self, link: ControlLink, seconds: float = TRANSACTION_SECONDS) -> None:
        if link.is_closed:
            return
        sent = boottime()

        def answered(_: bytes) -> None:
            self.round_trip = boottime() - sent

        def unanswered(failure: Failure) -> None:
            failure.trap(PeerError)
            link.abort(PeerError("the server does not answer heartbeats"))

        link.ask(Command.HEARTBEAT, timeout=seconds).addCallbacks(answered, unanswered)
