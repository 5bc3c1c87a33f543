"""What we ask of a TCP connection, and how much may wait for it: found by how fast it drains."""

from __future__ import annotations

import socket
import struct
from itertools import accumulate
from typing import Any, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITCPTransport, ITransport
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

_log = Logger()

# Bytes that may wait on our side of a line: once in Twisted's buffer and once, unsent, in the
# kernel's.  Large enough to keep a fast line busy, and cut down until a slow one drains in time.
QUEUE_MOST = 65_536
QUEUE_LEAST = 4_096
QUEUE_WIDE = 8 * QUEUE_MOST
"""The same where whole super-packets ride, of which each may be as large as that: what one turn of
the reactor reads from the TUN fits in.  Only for a line that drains it in the time below."""
DRAIN_AT_ONCE = 0.02
READ_WIDE = 4 * QUEUE_MOST
"""Bytes read in one call, where they ride: several at a time cost less."""
DRAIN_SLOW = 0.5
DRAIN_QUICK = 0.1
LOOK_SECONDS = 0.1
TCP_USER_TIMEOUT_MS = 30_000
KEEPALIVE_SECONDS = 10

# Of struct tcp_info: a byte of flags, notsent_bytes, delivery_rate (bytes a second).
TCP_INFO = struct.Struct("=7xB136xI12xQ")
_APP_LIMITED = 0x81  # the first bit of that byte, whichever end a compiler begins at

COMMANDS_MOST = 16_384
"""Bytes of commands and answers that may wait behind a full queue."""


@implementer(IPushProducer)
class Valve:
    """Stands for the source of packets towards the transport: paused means packets are dropped.

    It also finds the size of queue that suits the line: one that took long to drain is cut down,
    to half at least and to what would have drained in time; one that drained at once may grow
    back.  So a slow line never holds seconds of old packets, also if it was fast just now.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._paused_at = 0.0
        self._looked_at = 0.0
        self._connection: ITCPTransport | None = None
        self.size = QUEUE_MOST
        self.open = True
        self.most = QUEUE_MOST
        """What it may grow to."""
        self._is_wide = False
        self._commands = 0  # bytes of commands written while it was shut

    def fit(self, transport: object) -> None:
        """Bind to the TCP connection at the bottom of *transport*'s wrappers."""
        bottom = transport
        while isinstance(bottom, ProtocolWrapper):
            bottom = bottom.transport
        self._connection = cast(ITCPTransport, bottom)
        self._apply()

    def _apply(self) -> None:
        connection = self._connection
        if isinstance(getattr(connection, "bufferSize", None), int):
            # To Twisted it is also how much is read in one call.
            size = max(self.size, READ_WIDE) if self._is_wide else self.size
            connection.bufferSize = size  # type: ignore[union-attr]  # checked by getattr
        handle = getattr(connection, "socket", None)
        if handle is not None:
            set_option(handle, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.size)

    def widen(self) -> None:
        """Let the queue grow to what whole super-packets need, where the line is quick."""
        self._is_wide, self.most = True, QUEUE_WIDE
        if isinstance(getattr(self._connection, "SEND_LIMIT", None), int):
            self._connection.SEND_LIMIT = QUEUE_WIDE  # type: ignore[union-attr]  # checked by getattr
        self._apply()

    def make_room(self, length: int) -> int:
        """Return how many bytes of *length* may be written now, and let the queue grow for it."""
        if self.size < length and QUEUE_MOST <= self.size < self.most:
            handle = getattr(self._connection, "socket", None)
            rate = 0 if handle is None else bytes_a_second(handle)
            fitting = min(self.most, int(rate * DRAIN_AT_ONCE))
            if fitting > self.size:
                self._resize(fitting)
        return self.size

    def write(self, transport: ITransport, data: bytes) -> None:
        """Write packets to *transport*, the uppermost of the wrappers, and see what waits.

        Where super-packets ride the kernel gets them at once, and not in the reactor's next turn:
        what comes from the TUN until then would find the queue full.  What the kernel does not
        take, and an error, which it tells again, are for that turn.
        """
        if not self._is_wide:
            transport.write(data)
            return
        connection: Any = self._connection
        connection.bufferSize = self.size
        transport.write(data)
        # One that is to end does so in the reactor's turn, or never.
        if (
            isinstance(connection, FileDescriptor)
            and connection.connected
            and not connection.disconnecting
        ):
            connection.doWrite()
        connection.bufferSize = max(self.size, READ_WIDE)

    def fitting(self, packets: list[bytes]) -> list[bytes]:
        """As many from the front as make up a queue; one at least, or large ones never pass."""
        if sum(map(len, packets)) <= self.size:
            return packets
        for count, length in enumerate(accumulate(map(len, packets))):
            if length > self.size:
                return packets[: max(1, count)]
        return packets

    def passes_command(self, length: int) -> bool:
        """Whether a command may be written, whatever waits: not if nobody reads any more."""
        if self.open:
            return True
        self._commands += length
        return self._commands <= COMMANDS_MOST

    def pauseProducing(self) -> None:
        self.open = False
        self._paused_at = self._clock.seconds()

    def resumeProducing(self) -> None:
        took = max(self._clock.seconds() - self._paused_at, self._seconds_in_kernel())
        self.open = True
        self._commands = 0
        if took < DRAIN_QUICK:
            self._resize(max(self.size, min(QUEUE_MOST, self.size * 2)))
        else:
            self._cut_down(took)

    def look(self, now: float) -> None:
        """Look how much the kernel holds, ten times a second: a slow line need not overflow."""
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._cut_down(self._seconds_in_kernel())

    def _cut_down(self, took: float) -> None:
        if took > DRAIN_SLOW:
            # Not by half each time: on a line that became a twentieth, each of those steps would
            # hold packets for seconds.
            self._resize(max(QUEUE_LEAST, min(self.size // 2, int(self.size * DRAIN_SLOW / took))))
        elif took > DRAIN_QUICK and self.size > QUEUE_MOST:
            self._resize(QUEUE_MOST)

    def _resize(self, size: int) -> None:
        if size != self.size:
            self.size = size
            self._apply()

    def _seconds_in_kernel(self) -> float:
        """How long the kernel has to send what it took from us; 0 if that is not known.

        That our own buffer drained at once says little: the kernel's may have taken it whole.
        """
        handle = getattr(self._connection, "socket", None)
        return 0.0 if handle is None else seconds_unsent(handle)

    def stopProducing(self) -> None:
        self.open = False


def seconds_unsent(handle: socket.socket) -> float:
    """Return how long the kernel will need for what it has not sent yet, at its rate of late.

    0 if nothing waits, if the rate was ours and not the line's (as too little was to be sent),
    and if the kernel (before Linux 4.9) or the socket (a fake) does not tell.
    """
    flags, unsent, rate = _look_into(handle)
    return 0.0 if rate == 0 or flags & _APP_LIMITED else float(unsent / rate)


def bytes_a_second(handle: socket.socket) -> int:
    """Return what the line took of late, at least: if too little was to be sent, it takes more.

    0 if that is not known.
    """
    return _look_into(handle)[2]


def _look_into(handle: socket.socket) -> tuple[int, int, int]:
    """Return flags, bytes not sent and rate of a socket; zeros if they are not to be had."""
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        flags, unsent, rate = TCP_INFO.unpack_from(info)
    except (OSError, AttributeError, struct.error):
        return 0, 0, 0
    return flags, unsent, rate


def tune(handle: socket.socket, *, keep_alive: bool) -> None:
    """Send small things at once, and notice within a minute when the other end is gone."""
    set_option(handle, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    set_option(handle, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    if keep_alive:
        set_option(handle, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        set_option(handle, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        set_option(handle, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)


def set_option(handle: socket.socket, level: int, option: int, value: int) -> None:
    """Set a socket option that is an improvement, not a need: a kernel without it is fine."""
    try:
        handle.setsockopt(level, option, value)
    except OSError as problem:
        _log.debug("socket option {option}: {problem}", option=option, problem=problem)
