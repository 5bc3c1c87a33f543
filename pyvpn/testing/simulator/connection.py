"""One end of a TCP connection as its kernel has it: handshake, segments, timer.

Nothing here calls a protocol: the end's owner, a
:class:`~pyvpn.testing.simulator.stream.Stream`, does.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

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
    encode,
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
        """There are bytes to read, or there is the end of them.

        Before any time passes it is to call :meth:`Connection.settle`.
        """

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
        self._rings_at = NEVER
        self._acknowledge_at = NEVER
        self._acknowledged = self._incoming.next  # what we last said that has arrived
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

    def settle(self) -> None:
        """Set the timer: the owner has looked at what arrived, and written what it had to say.

        Only now, as an answer that is written at once takes the acknowledgement with it.
        """
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
            self._tcp.send(self.local, self.remote, answer.to_bytes())
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
        elif segment.flags & ACK and not self._take(segment):
            self._arm()

    def _take(self, segment: Segment) -> bool:
        """Take an ordinary one; True: the owner will look at something and settle it."""
        outgoing, incoming = self._outgoing, self._incoming
        flags, sequence, acknowledged, window, data = segment
        if self.state is State.ASKED:
            if acknowledged <= self._first:
                return False
            self._open()
        if self.state is State.ORPHAN and data:
            self.abort()  # nobody will ever read it
        if self.state is State.OVER:
            return False
        now = self.clock.seconds()
        last = flags & FIN > 0
        bare = not (data or last)
        if self.state is State.ORPHAN:
            self._give_up_at = now + self._settings.orphaned  # the other end is alive
        if pieces := outgoing.acknowledge(acknowledged, window, bare, now):
            self._send_pieces(pieces)
        if not bare:
            in_order = incoming.receive(sequence, data, last)
            if in_order and incoming.next - self._acknowledged <= self._settings.segment:
                self._acknowledge_at = min(self._acknowledge_at, now + self._settings.ack_delay)
            else:
                self._send(ACK, outgoing.next)
        if pieces := outgoing.pieces(now):
            self._send_pieces(pieces)
        if self.state is State.OPEN:
            has_news = bool(incoming.ready or incoming.ended)
            if has_news:
                self._owner.readable()
            self._owner.writable()
            return has_news
        if outgoing.is_done and incoming.ended:
            self.crash()
        return False

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
        self._acknowledged, self._acknowledge_at = incoming.next, NEVER
        segment = encode(flags, sequence, incoming.next, incoming.window, data)
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
        self._acknowledge_at += seconds
        self._outgoing.slept(seconds)
        self._arm()

    def _due(self) -> float:
        if self.state is State.OPEN:  # by far the most often: the handshake is over
            due, at = self._outgoing.due, self._acknowledge_at
            return due if due < at else at
        due = min(self._handshake_due, self._outgoing.due, self._acknowledge_at)
        return min(due, self._give_up_at) if self.state is State.ORPHAN else due

    def _arm(self) -> None:
        due = self._due()
        # A timer that rings too early costs less than one that is put off by each segment.
        if due < self._rings_at and self.state is not State.OVER:
            self._rings_at = due = max(due, self.clock.seconds())
            self.clock.schedule(due, self._ring, due)

    def _ring(self, at: float) -> None:
        if at != self._rings_at:
            return  # an earlier one was wanted meanwhile
        self._rings_at = NEVER
        if self.state is State.OVER or not self._tcp.host.is_up:
            return
        now = self.clock.seconds()
        if self._due() <= now:
            self._act(now)
        self._arm()

    def _act(self, now: float) -> None:
        if self._handshake_due <= now:
            if now >= self._give_up_at:
                self._fail()
                return
            self._shake_hands()
        if self.state is State.ORPHAN and now >= self._give_up_at:
            self.crash()
            return
        if self._acknowledge_at <= now:
            self._send(ACK, self._outgoing.next)
        if self._outgoing.due <= now:
            if not self._outgoing.time_out(now):
                self._fail()
                return
            self._send_pieces(self._outgoing.pieces(now, probe=True))

    def __repr__(self) -> str:
        """Both ends, and its state."""
        return f"<Connection {self.local} - {self.remote} {self.state.value}>"
