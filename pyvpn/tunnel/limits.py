"""Which sessions have limits, and of which of them packets wait."""

from __future__ import annotations

from collections.abc import Callable

from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.limit import LONGEST, Limit
from pyvpn.tunnel.session import Session

PassOn = Callable[[Session, list[bytes], float], object]


class Limits:
    """The part of a router that lets a session be only so fast.

    A session without a limit costs nothing here: the router asks for ``limit_in`` and
    ``limit_out`` once a batch, and comes here only if there is one.

    Args:
        receive: takes what has waited of what came from a session.
        send: likewise of what goes to one.
        refuse: told whose packets are dropped, why, and how many.
    """

    def __init__(
        self, receive: PassOn, send: PassOn, refuse: Callable[[Session, str, int], object]
    ) -> None:
        self.held_up: Callable[[float], object] = _nobody
        """Called when packets begin to wait: :meth:`release` is to be called after so many
        seconds."""
        self._receive = receive
        self._send = send
        self._refuse = refuse
        self._waiting: dict[Session, None] = {}

    def set(self, session: Session, bits_in: int | None, bits_out: int | None, now: float) -> None:
        """Let so many bits a second come from *session*, and go to it, from *now* on; None: all.

        Nothing that waits is lost when a limit ends, and little when one is lowered.  Cheap where
        nothing changes.
        """
        before = session.limit_in
        session.limit_in = self._changed(session, before, bits_in, now)
        if before is not None and bits_in is None:
            self._receive(session, before.let_go(), now)
        before = session.limit_out
        session.limit_out = self._changed(session, before, bits_out, now)
        if before is not None and bits_out is None:
            self._send(session, before.let_go(), now)

    def forget(self, session: Session) -> None:
        """Release nothing of *session* any more: it has ended."""
        self._waiting.pop(session, None)
        for limit in session.limit_in, session.limit_out:
            if limit is not None and (dropped := len(limit.let_go())):
                self._refuse(session, Drop.RATE, dropped)

    def within(
        self, session: Session, limit: Limit, packets: list[bytes], now: float
    ) -> list[bytes]:
        """Return those of *packets* that may pass now; the others wait, or are refused."""
        packets, dropped = limit.admit(packets, now)
        if dropped:
            self._refuse(session, Drop.RATE, dropped)
        if limit.waiting and session not in self._waiting:
            first = not self._waiting
            self._waiting[session] = None
            if first:
                self.held_up(limit.pause)
        return packets

    def release(self, now: float) -> float:
        """Pass on what has waited long enough.

        Returns:
            After how many seconds to call again; 0: nothing waits.
        """
        pauses: list[float] = []
        for session in list(self._waiting):
            if (limit := session.limit_in) is not None and limit.waiting:
                self._receive(session, limit.due(now), now)
            if (limit := session.limit_out) is not None and limit.waiting:
                self._send(session, limit.due(now), now)
            limits = session.limit_in, session.limit_out
            still = [each.pause for each in limits if each is not None and each.waiting]
            pauses += still
            if not still:
                self._waiting.pop(session, None)
        # What came from one may now wait on its way to another.
        return min(pauses, default=LONGEST if self._waiting else 0.0)

    def _changed(
        self, session: Session, limit: Limit | None, bits: int | None, now: float
    ) -> Limit | None:
        if bits is None:
            return None
        if limit is None:
            return Limit(bits, now)
        if limit.bits != bits and (dropped := limit.change(bits, now)):
            self._refuse(session, Drop.RATE, dropped)
        return limit


def _nobody(_: float) -> None:
    """Nobody sees to it that packets which wait are released."""
