"""The control channel: version handshake, frames, transactions, and packets when they ride TCP.

One protocol serves both generations and both ends.  It holds no opinion on what a command
means: its :class:`LinkOwner` does.  What it does decide is how much a peer may cost us:

* a frame is at most :attr:`ControlLink.MAX_LENGTH` long, and complete 15 s after it began;
* at most 16 questions of the peer are open at once, and three faults end the connection;
* a peer that does not read costs two buffers, of 64 KiB at most (512 on a quick line where
  super-packets ride), whose size follows the speed of the line; packets that do not fit are
  dropped and counted, commands pass;
* one that goes on asking and never reads an answer is not answered for ever: it is cut off.

(A long file: what a peer may cost is decided where its bytes are read and ours are written.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.errors import PeerError, PyvpnError
from pyvpn.interfaces import ICarrier
from pyvpn.net.link_owner import LinkClosed, LinkOwner, TransactionTimeout, VersionRefused
from pyvpn.net.valve import QUEUE_MOST, Valve, tune
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.session import Sent
from pyvpn.wire.command import (
    LIMIT,
    LIMIT_BEFORE_LOG_IN,
    NO_TRANSACTION,
    Command,
    VersionAnswer,
    decode_body,
    decode_version,
    encode_frame,
    encode_packets,
    encode_version,
    packets_in,
)
from pyvpn.wire.framed import MARK, framed, frames_in, missing, super_packet_of
from pyvpn.wire.rebuild import SuperPacket

_log = Logger()

TRANSACTION_SECONDS = 15.0
FRAME_SECONDS = 15.0
CLOSE_SECONDS = 2.0
MOST_OPEN_QUESTIONS = 16
MOST_FAULTS = 3


@implementer(IHandshakeListener, ICarrier)
class ControlLink(Int32StringReceiver):
    """One control connection, seen from either end.

    Args:
        owner: is told what arrives.
        clock: for timeouts; in production the reactor.
        version: what we speak: 1.0 on a plain connection, 2.0 inside TLS.
        initiator: True at the client, which speaks first.
        tls: wait for the TLS handshake before anything is said or believed.
        verify: called when the handshake is done, before a byte is sent; what it raises ends
            the connection and is the reason that the owner hears.
    """

    MAX_LENGTH: int = LIMIT_BEFORE_LOG_IN
    transport: Any  # TCP, or TLS upon it; Twisted's own annotation knows neither

    def __init__(
        self,
        owner: LinkOwner,
        clock: IReactorTime,
        *,
        version: float,
        initiator: bool,
        tls: bool = True,
        verify: Callable[[ControlLink], None] | None = None,
    ) -> None:
        self.owner = owner
        self.version = version
        self._verify = verify
        self.is_up = False
        self.is_verified = False
        self.is_closed = False
        self._is_lost = False
        self.dropped_packets = 0
        self.unasked_answers = 0
        self.faults = 0
        self._clock = clock
        self._initiator = initiator
        self._tls = tls
        self._early: bytes | None = b""
        self._arrived: list[Any] = []  # bytes; and SuperPackets, where they ride
        self._give: Callable[[ControlLink, list[SuperPacket]], None] | None = None
        self._asked: dict[int, tuple[Deferred[bytes], IDelayedCall]] = {}
        self._answering: set[int] = set()
        self._last_id = 0
        self._valve = Valve(clock)
        self._partial_since: float | None = None
        self._progressed = False
        self._partial_timer: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._silence_timer: IDelayedCall | None = None
        self._heard_at = clock.seconds()
        self._why: Exception | None = None
        self._last_words: Exception | None = None

    # -- what the reactor calls

    def connectionMade(self) -> None:
        self._valve.fit(self.transport)
        handle = getattr(self.transport, "socket", None)
        if handle is not None:
            # The first generation has no heartbeats: a peer that lost its power would hold its
            # address for ever.
            tune(handle, keep_alive=not self._tls)
        self.owner.connected(self)
        # With TLS this call comes before the handshake: nothing may be said until it is done.
        if not self._tls and not self.is_closed:
            self._start()

    def handshakeCompleted(self) -> None:
        if self._tls and not self.is_closed:
            self._start()

    def _start(self) -> None:
        if self._verify is not None:
            try:
                self._verify(self)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody was verified
                self.abort(error)
                return
        self.is_verified = True
        self.transport.registerProducer(self._valve, True)
        if self._initiator:
            self.transport.write(encode_version(self.version))

    def dataReceived(self, data: bytes) -> None:
        if self.is_closed:
            return
        self._heard_at = self._clock.seconds()
        if self._early is not None:
            self._early += data
            wanted = 1 if self._initiator else 8  # bytes of an answer, of a version
            if len(self._early) < wanted:
                return
            first, data = self._early[:wanted], self._early[wanted:]
            self._early = None
            self._agree(first)
            if not data or self.is_closed:
                return
        # Packets come in runs, cut at once; what is left is for our base class: two calls a frame.
        if self._give is None:
            stream = self._unprocessed + data if self._unprocessed else data
            self._arrived, taken = packets_in(stream, self.MAX_LENGTH)
        else:
            stream, taken = self._take_frames(self._unprocessed, data)
        self._progressed, self._unprocessed = taken > 0, b""
        if taken < len(stream):
            super().dataReceived(stream[taken:])
        self._deliver()
        self._watch_partial_frame()
        if not self.is_closed:
            self.owner.heard(self)

    def _take_frames(self, before: bytes, data: bytes) -> tuple[bytes, int]:
        """Cut packets and super-packets off the front of *before* and *data*.

        A read is many times as large as what was left of the one before: only the frame that is in
        both is put together.

        Returns:
            Something to go on with, and how much of it is done with.
        """
        lacks = missing(before, self.MAX_LENGTH)
        if not 0 < lacks <= len(data):
            stream = before + data if before else data
            self._arrived, taken = frames_in(stream, self.MAX_LENGTH)
            return stream, taken
        first, _ = frames_in(before + data[:lacks], self.MAX_LENGTH)
        others, taken = frames_in(data, self.MAX_LENGTH, lacks)
        self._arrived = first + others
        return data, taken

    def stringReceived(self, body: bytes) -> None:
        self._progressed = True
        if self.is_closed:
            return
        try:
            command, transaction, data = decode_body(body)
            if command == Command.PACKET:
                made = super_packet_of(data) if self._give and data.startswith(MARK) else None
                self._arrived.append(data if made is None else made)
                return
            self._deliver()  # packets sent before a command are treated before it
            if command == Command.ANSWER:
                self._answered(transaction, data)
            elif transaction == NO_TRANSACTION:
                self.owner.statement(self, command, data)
            else:
                self._asked_by_peer(command, transaction, data)
        except PeerError as error:
            self.fault(str(error))

    def lengthLimitExceeded(self, length: int) -> None:
        self.abort(PeerError(f"a frame of {length} bytes, {self.MAX_LENGTH} are allowed here"))

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008  # Twisted's own signature
        self.is_closed = self._is_lost = True
        self.is_up = False
        for timer in (self._partial_timer, self._deadline, self._silence_timer):
            if timer is not None and timer.active():
                timer.cancel()
        why = self._why or cast(Exception, reason.value)
        asked, self._asked = self._asked, {}
        for waiting, timeout in asked.values():
            timeout.cancel()
            waiting.errback(LinkClosed(f"the connection ended: {why}"))
        self.owner.lost(self, why)

    # -- version

    def _agree(self, first: bytes) -> None:
        if self._initiator:
            if first[0] == VersionAnswer.ACCEPTED:
                self._go_up()
            else:
                self.abort(VersionRefused(f"the server does not speak version {self.version}"))
            return
        try:
            offered = decode_version(first)
        except PeerError:
            answer = VersionAnswer.ERROR
        else:
            same = offered == self.version
            answer = VersionAnswer.ACCEPTED if same else VersionAnswer.UNSUPPORTED
        self.transport.write(bytes([answer]))
        if answer == VersionAnswer.ACCEPTED:
            self._go_up()
        else:
            self.close(PeerError("the client speaks another version"))

    def _go_up(self) -> None:
        self.is_up = True
        self.owner.ready(self)

    # -- transactions

    def ask(
        self, command: Command, data: bytes = b"", timeout: float = TRANSACTION_SECONDS
    ) -> Deferred[bytes]:
        """Put a question; the answer's data, or a PeerError when none comes in *timeout* s."""
        answer: Deferred[bytes] = Deferred()
        if self.is_closed:
            answer.errback(LinkClosed("the connection is closed"))
            return answer
        self._last_id = self._last_id % 0x7FFFFFFF + 1
        while self._last_id in self._asked:
            self._last_id = self._last_id % 0x7FFFFFFF + 1
        timer = self._clock.callLater(timeout, self._timed_out, self._last_id, command)
        self._asked[self._last_id] = (answer, timer)
        self._write(encode_frame(command, self._last_id, data))
        return answer

    def _timed_out(self, transaction: int, command: Command) -> None:
        answer, _ = self._asked.pop(transaction)
        answer.errback(TransactionTimeout(f"no answer to {command.name.lower()}"))

    def _answered(self, transaction: int, data: bytes) -> None:
        waiting = self._asked.pop(transaction, None)
        if waiting is None:  # late, repeated or invented
            self.unasked_answers += 1
            return
        answer, timer = waiting
        timer.cancel()
        answer.callback(data)

    def _asked_by_peer(self, command: int, transaction: int, data: bytes) -> None:
        if transaction in self._answering:
            self.fault(f"transaction {transaction} asked again before it was answered")
            return
        if len(self._answering) >= MOST_OPEN_QUESTIONS:
            self.abort(PeerError(f"more than {MOST_OPEN_QUESTIONS} open questions"))
            return
        self._answering.add(transaction)
        answer = maybeDeferred(self.owner.question, self, command, data)
        answer.addCallbacks(self._answer, self._cannot_answer, (transaction,), {}, (transaction,))

    def _answer(self, data: bytes | None, transaction: int) -> None:
        self._answering.discard(transaction)
        if self.is_closed:
            return
        if data is not None:
            self._write(encode_frame(Command.ANSWER, transaction, data))
        if self._last_words is not None:
            self.close(self._last_words)

    def _cannot_answer(self, failure: Failure, transaction: int) -> None:
        self._answering.discard(transaction)
        if failure.check(PeerError):
            self.fault(str(failure.value))
            return
        if failure.check(CancelledError):  # what would have answered has been stopped: we end
            self.abort(PyvpnError("stopped meanwhile"))
            return
        _log.failure("a question could not be answered", failure)
        self.abort(PyvpnError("internal error"))

    # -- what the owner calls

    def tell(self, command: Command, data: bytes = b"") -> None:
        """Say something that wants no answer."""
        if not self.is_closed and self.is_up:
            self._write(encode_frame(command, NO_TRANSACTION, data))

    def _write(self, frame: bytes) -> None:
        """Write a command, whatever else waits; but not to somebody who never reads."""
        if self._valve.passes_command(len(frame)):
            self.transport.write(frame)
        else:
            self.abort(PeerError("does not read what it asks for"))

    refusal = Drop.QUEUE_FULL

    def send_packets(self, packets: list[bytes], now: float) -> int:
        if self.is_closed or not self._valve.open:
            self.dropped_packets += len(packets)
            return 0
        self._valve.look(now)
        taken = self._valve.fitting(packets)
        self.dropped_packets += len(packets) - len(taken)
        self._valve.write(self.transport, encode_packets(taken))
        return len(taken)

    def carry_super_packets(self, give: Callable[[ControlLink, list[SuperPacket]], None]) -> None:
        """Both ends announced it: super-packets may ride; *give* takes those that arrive."""
        self._give = give
        self._valve.widen()

    @property
    def carries_super_packets(self) -> bool:
        """Whether both ends announced it."""
        return self._give is not None

    def takes_frames(self, now: float) -> bool:
        """Whether :meth:`send_frames` may be called.

        Not on a line that has proved slow: there so large a frame is a wait of its own.
        """
        return self._give is not None and self._valve.size >= QUEUE_MOST

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        """Take what a TUN handed out behind virtio headers, uncut, and drop the rest."""
        valve = self._valve
        is_open = valve.open and not self.is_closed
        if is_open:
            valve.look(now)
        room = valve.make_room(sum(map(len, frames))) if is_open else 0
        made = framed(frames, room)
        self.dropped_packets += made.refused
        if made.data:
            valve.write(self.transport, made.data)
        return Sent(made.packets, made.size, made.refused, made.unknown)

    def raise_limit(self) -> None:
        """Allow frames that hold whole packets: the peer has proved who it is."""
        self.MAX_LENGTH = LIMIT

    def expect_within(self, seconds: float | None, what: str = "") -> None:
        """Abort unless called again (with None: no further deadline) before *seconds* passed."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None:
            error = PeerError(f"no {what} within {seconds:g} s")
            self._deadline = self._clock.callLater(seconds, self.abort, error)

    def end_after_silence(self, seconds: float) -> None:
        """Abort once nothing has arrived for *seconds*: the other end is gone or half open."""
        if self._silence_timer is not None and self._silence_timer.active():
            self._silence_timer.cancel()
        self._silence_timer = self._clock.callLater(seconds, self._listen, seconds)

    def _listen(self, seconds: float) -> None:
        left = self._heard_at + seconds - self._clock.seconds()
        if left > 0:
            self._silence_timer = self._clock.callLater(left, self._listen, seconds)
        else:
            self.abort(PeerError(f"nothing heard for {seconds:g} s"))

    def fault(self, what: str) -> None:
        """Count a mistake of the peer; the third ends the connection."""
        self.faults += 1
        if self.faults >= MOST_FAULTS:
            self.end_after_answer(PeerError(what))

    def end_after_answer(self, reason: Exception) -> None:
        """Close once the question that is being treated has its answer, or at once."""
        if self._answering:
            self._last_words = reason
        else:
            self.abort(reason)

    def close(self, reason: Exception | None = None) -> None:
        """End the connection once what was written has left, at the latest after 2 s."""
        if self.is_closed:
            return
        self._why = reason or ConnectionDone()
        self.is_closed = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        # TLS waits for the peer's farewell, and a peer that does not read never takes ours.
        self.expect_within(CLOSE_SECONDS, "farewell")

    def abort(self, reason: Exception | None = None) -> None:
        """End the connection now; what was not sent is lost."""
        if self._is_lost:
            return
        if self._why is None:
            self._why = reason or ConnectionLost()
        self.is_closed = True
        self.transport.abortConnection()

    @property
    def queue_bytes(self) -> int:
        """How much may wait for this line at present, in each of the two buffers."""
        return self._valve.size

    # -- packets and partial frames

    def _deliver(self) -> None:
        if self._arrived:
            frames, self._arrived = self._arrived, []
            if self._give is None:
                self.owner.packets(self, frames)
            else:
                self._deliver_both(frames, self._give)

    def _deliver_both(
        self, frames: list[Any], give: Callable[[ControlLink, list[SuperPacket]], None]
    ) -> None:
        """Hand on packets and super-packets, in the order in which they came.

        What is no super-packet, though it begins like one, is among the packets: it is none
        either, and is refused and counted where they are.
        """
        packets: list[bytes] = []
        supers: list[SuperPacket] = []
        for frame in frames:
            if isinstance(frame, bytes):
                if supers:
                    give(self, supers)
                    supers = []
                packets.append(frame)
            else:
                if packets:
                    self.owner.packets(self, packets)
                    packets = []
                supers.append(frame)
        if packets:
            self.owner.packets(self, packets)
        if supers:
            give(self, supers)

    def _watch_partial_frame(self) -> None:
        if not self._unprocessed:
            self._partial_since = None
            return
        if self._progressed or self._partial_since is None:
            self._partial_since = self._clock.seconds()
        if self._partial_timer is None and not self.is_closed:
            self._partial_timer = self._clock.callLater(FRAME_SECONDS, self._check_partial_frame)

    def _check_partial_frame(self) -> None:
        # Armed once and looked at when it rings: bulk traffic leaves a partial frame behind
        # at almost every read, and must not pay for a timer each time.
        self._partial_timer = None
        if self._partial_since is None:
            return
        left = self._partial_since + FRAME_SECONDS - self._clock.seconds()
        if left > 0:
            self._partial_timer = self._clock.callLater(left, self._check_partial_frame)
        else:
            self.abort(PeerError(f"a frame was not complete after {FRAME_SECONDS:g} s"))
