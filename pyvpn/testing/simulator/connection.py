"""One end of a TCP connection as its kernel has it: handshake, segments, timer.

Nothing here calls a protocol: the end's owner, a
:class:`~pyvpn.testing.simulator.stream.Stream`, does.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from pyvpn.testing.simulator.clock import SimCall
from pyvpn.testing.simulator.segment import (
    ACK,
    FIN,
    NEVER,
    RST,
    SYN,
    Incoming,
    Outgoing,
    Piece,
    Segment,
)
from pyvpn.testing.simulator.trace import Place

if TYPE_CHECKING:
    from pyvpn.testing.simulator.tcp import Tcp


class State(Enum):
    """Where in its life a connection is."""

    ASKING = "asking"
    ASKED = "asked"
    OPEN = "open"
    ORPHAN = "orphan"
    """Closed by its process; what the kernel holds is still on its way."""
    OVER = "over"


class Owner(Protocol):
    """Who reads and writes."""

    def opened(self) -> None:
        """Both ends agree: bytes may be written."""

    def readable(self) -> None:
        """There are bytes to read, or there is the end of them."""

    def writable(self) -> None:
        """Some of what was written has gone."""

    def failed(self, refused: bool) -> None:
        """It is over, not by us; *refused*: nobody listens there."""


class Connection:
    """Made by :class:`pyvpn.testing.simulator.tcp.Tcp`.

    Args:
        begun: at the end that was asked: the first segment of the other.
    """

    def __init__(
        self, tcp: Tcp, local: Place, remote: Place, owner: Owner, begun: Segment | None = None
    ) -> None:
        self.local = local
        self.remote = remote
        self.clock = tcp.host.network.clock
        self.state = State.ASKING if begun is None else State.ASKED
        self._tcp = tcp
        self._owner = owner
        self._settings = settings = tcp.host.network.tcp
        self._first = tcp.host.network.random.getrandbits(32)
        self._incoming = Incoming(settings, 0 if begun is None else begun.sequence + 1)
        self._outgoing = Outgoing(settings, self._first + 1, settings.first_timeout)
        self._timer: SimCall | None = None
        self._handshake_timeout = settings.first_timeout
        self._handshake_due = NEVER
        self._give_up_at = self.clock.seconds() + settings.connect_give_up
        if begun is not None:
            self._outgoing.window = begun.window
        self._shake_hands()

    # -- what the owner does

    @property
    def unsent(self) -> int:
        """How many bytes wait here that were never sent."""
        return self._outgoing.unsent

    def write(self, data: bytes) -> None:
        """Send *data*; any amount is kept."""
        self._outgoing.append(data)
        self._send_pieces(self._outgoing.pieces(self.clock.seconds()))
        self._arm()

    @property
    def has_data(self) -> bool:
        """Whether there are bytes to read."""
        return bool(self._incoming.ready)

    @property
    def at_end(self) -> bool:
        """Whether everything was read that the other end will ever have sent."""
        return self._incoming.ended and not self._incoming.ready

    def read(self) -> bytes:
        """Return all bytes that are there, in order."""
        incoming = self._incoming
        data, was_full = bytes(incoming.ready), incoming.window < self._settings.segment
        incoming.ready.clear()
        if was_full:
            self._send(ACK, self._outgoing.next)
        return data

    def close(self) -> None:
        """Send no more than what is here, and read no more; the owner is told nothing again."""
        if self.state is not State.OPEN:
            return
        if self._incoming.ready:
            self.abort()  # somebody is still talking
            return
        now = self.clock.seconds()
        self.state = State.ORPHAN
        self._give_up_at = now + self._settings.orphaned
        self._outgoing.ended = True
        self._send_pieces(self._outgoing.pieces(now))
        self._arm()

    def abort(self) -> None:
        """End it now, and tell the other end."""
        self._send(RST | ACK, self._outgoing.next)
        self.crash()

    def crash(self) -> None:
        """Be gone, and tell nobody."""
        if self.state is State.OVER:
            return
        self.state = State.OVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tcp.forget(self)

    # -- beginning

    def _shake_hands(self) -> None:
        flags = SYN if self.state is State.ASKING else SYN | ACK
        self._send(flags, self._first)
        self._handshake_due = self.clock.seconds() + self._handshake_timeout
        self._handshake_timeout = min(2 * self._handshake_timeout, self._settings.most_timeout)
        self._arm()

    def _answered(self, segment: Segment) -> None:
        if not segment.flags & ACK:
            return
        if not segment.flags & SYN or segment.acknowledged != self._first + 1:
            # Their end is in an earlier life of ours.
            answer = Segment(RST, segment.acknowledged, 0, 0)
            self._tcp.send(self.local, self.remote, answer)
            return
        self._incoming = Incoming(self._settings, segment.sequence + 1)
        self._outgoing.window = segment.window
        self._send(ACK, self._outgoing.next)
        self._open()

    def _open(self) -> None:
        self.state = State.OPEN
        self._handshake_due = NEVER
        self._owner.opened()

    # -- segments

    def received(self, segment: Segment) -> None:
        """Take a segment of this connection; for the host."""
        if segment.flags & RST:
            self._reset_by_peer(segment)
        elif self.state is State.ASKING:
            self._answered(segment)
        elif segment.flags & SYN:
            if self.state is State.ASKED:
                self._send(SYN | ACK, self._first)
            else:  # our last word was lost; or it is the first of another life of theirs
                self._send(ACK, self._outgoing.next)
        elif segment.flags & ACK:
            self._take(segment)
            self._arm()

    def _take(self, segment: Segment) -> None:
        outgoing, incoming = self._outgoing, self._incoming
        if self.state is State.ASKED:
            if segment.acknowledged <= self._first:
                return
            self._open()
        if self.state is State.ORPHAN and segment.data:
            self.abort()  # nobody will ever read it
        if self.state is State.OVER:
            return
        now = self.clock.seconds()
        bare = not segment.length
        if self.state is State.ORPHAN:
            self._give_up_at = now + self._settings.orphaned  # the other end is alive
        self._send_pieces(outgoing.acknowledge(segment.acknowledged, segment.window, bare, now))
        if not bare:
            incoming.receive(segment.sequence, segment.data, bool(segment.flags & FIN))
            self._send(ACK, outgoing.next)
        self._send_pieces(outgoing.pieces(now))
        if self.state is State.OPEN:
            if incoming.ready or incoming.ended:
                self._owner.readable()
            self._owner.writable()
        elif outgoing.is_done and incoming.ended:
            self.crash()

    def _reset_by_peer(self, segment: Segment) -> None:
        if self.state is State.ASKING:
            if segment.acknowledged == self._first + 1:
                self._fail(True)
        elif segment.sequence == self._incoming.next:
            self._fail()

    def _send_pieces(self, pieces: list[Piece]) -> None:
        for sequence, data, last in pieces:
            self._send(ACK | FIN if last else ACK, sequence, data)

    def _send(self, flags: int, sequence: int, data: bytes = b"") -> None:
        incoming = self._incoming
        segment = Segment(flags, sequence, incoming.next, incoming.window, data)
        self._tcp.send(self.local, self.remote, segment)

    def _fail(self, refused: bool = False) -> None:
        was_ours = self.state is not State.ORPHAN
        self.crash()
        if was_ours:
            self._owner.failed(refused)

    # -- time

    def slept(self, seconds: float) -> None:
        """Have no time passed in the last *seconds*."""
        self._handshake_due += seconds
        self._give_up_at += seconds
        self._outgoing.slept(seconds)

    def _arm(self) -> None:
        due = min(self._handshake_due, self._outgoing.due)
        if self.state is State.ORPHAN:
            due = min(due, self._give_up_at)
        if self.state is State.OVER or due == NEVER:
            return
        # A timer that rings too early costs less than one that is put off by each segment.
        if self._timer is not None:
            if self._timer.at <= due:
                return
            self._timer.cancel()
        self._timer = self.clock.call_at(max(due, self.clock.seconds()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        if self._handshake_due <= now:
            if now >= self._give_up_at:
                self._fail()
                return
            self._shake_hands()
        if self.state is State.ORPHAN and now >= self._give_up_at:
            self.crash()
            return
        if self._outgoing.due <= now:
            if not self._outgoing.time_out(now):
                self._fail()
                return
            self._send_pieces(self._outgoing.pieces(now, probe=True))
        self._arm()

    def __repr__(self) -> str:
        """Both ends, and its state."""
        return f"<Connection {self.local} - {self.remote} {self.state.value}>"
