"""Empties one UDP socket, a batch in each turn of the reactor, and passes it on in runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.net.ancillary import (
    ANCILLARY_ROOM,
    Ancillary,
    Arrival,
    read_ancillary,
    segment_size,
)
from pyvpn.wire.datagram import Path, Run
from pyvpn.wire.packed import PIECE, Packed

MOST_ARRIVALS = 1024

_Arrived = tuple[int, int, Ancillary, Any]
"""Bytes, bytes of each datagram, ancillary data but that size, and the sender."""

_USUAL = 2  # pieces of ancillary data that come with every datagram
_NOTHING_KNOWN = Arrival(b"", 0, 0)


class ReaderReactor(Protocol):
    """What we ask of the reactor."""

    def addReader(self, reader: IReadDescriptor) -> None: ...

    def removeReader(self, reader: IReadDescriptor) -> None: ...

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object
    ) -> IDelayedCall: ...


@implementer(IReadDescriptor)
class UdpReader:
    """Reads one socket, which stays its owner's.

    Args:
        batch: datagrams to read in one turn; a few more if the kernel hands out several as one.
        received: takes the runs of a turn; must not raise.
        unread: told when the socket had an error instead of a datagram.
        lost: told when the reactor reads the socket no more, because of an error or its own end.
    """

    def __init__(
        self,
        reactor: ReaderReactor,
        sock: socket.socket,
        batch: int,
        received: Callable[[list[Run]], None],
        unread: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._batch = batch
        self._received = received
        self._unread = unread
        self._lost = lost
        self._running = False
        self._packed = Packed()
        self._buffer = memoryview(self._packed.buffer)
        self._arrivals: dict[tuple[tuple[int, int, bytes], ...], Arrival] = {}
        self._last: tuple[Ancillary, Arrival] = [], _NOTHING_KNOWN

    def start(self) -> None:
        """Begin."""
        self._running = True
        self._reactor.addReader(self)

    def stop(self) -> None:
        """End, for good; to be called before the socket is closed."""
        self._reactor.removeReader(self)  # asks for our number
        self._running = False

    def fileno(self) -> int:
        return self._socket.fileno() if self._running else -1

    def logPrefix(self) -> str:
        return "UDP"

    def doRead(self) -> None:
        """Collect what is there, at most a batch, and pass it on."""
        if self.fileno() == -1:
            return
        packed = self._packed
        runs: list[tuple[list[bytes], Any, Ancillary]] = []
        last_address = last_ancillary = None
        left = self._batch
        arrived = self._receive(0)
        while arrived is not None:
            total, size, ancillary, address = arrived
            if size < total:
                packed.take(total, size)
                arrived = self._receive_behind(address, ancillary, left)
                end = packed.total
                left -= len(packed)
                if packed.is_worth_it:
                    # Before the buffer is used again, and what came earlier before that.
                    if runs:
                        self._received([self._run(*run) for run in runs])
                        runs = []
                        last_address = last_ancillary = None
                        if not self._running:
                            return
                    self._received([self._run(packed, address, ancillary)])
                    if not self._running:
                        return
                    if arrived is not None:
                        packed.begin_with(end, arrived[0])
                    elif left > 0:
                        arrived = self._receive(0)
                    continue
                datagrams = list(packed)
                if arrived is not None:
                    packed.begin_with(end, arrived[0])
            else:
                datagrams, arrived = [bytes(self._buffer[:total])], None
                left -= 1
            if address == last_address and ancillary == last_ancillary:
                runs[-1][0].extend(datagrams)
            else:
                runs.append((datagrams, address, ancillary))
                last_address, last_ancillary = address, ancillary
            if arrived is None and left > 0:
                arrived = self._receive(0)
        if runs:
            self._received([self._run(*run) for run in runs])

    def _receive(self, at: int) -> _Arrived | None:
        """Receive into the buffer from byte *at* on; None: there is nothing."""
        try:
            total, ancillary, _, address = self._socket.recvmsg_into(
                [self._buffer[at : at + PIECE]], ANCILLARY_ROOM
            )
        except BlockingIOError:
            return None
        except OSError:
            self._unread()
            return None
        if len(ancillary) > _USUAL and (size := segment_size(ancillary)):
            ancillary = [each for each in ancillary if each[0] != socket.IPPROTO_UDP]
            return total, size, ancillary, address
        return total, total, ancillary, address

    def _receive_behind(self, address: Any, ancillary: Ancillary, most: int) -> _Arrived | None:
        """Receive what goes on like the batch that we have, up to *most* datagrams in all.

        Returns what else came, behind the batch in the buffer; None: nothing.
        """
        packed = self._packed
        while packed.has_room and len(packed) < most:
            arrived = self._receive(packed.total)
            if arrived is None:
                return None
            if arrived[2:] != (ancillary, address) or not packed.add(*arrived[:2]):
                return arrived
        return None

    def connectionLost(self, reason: Failure) -> None:
        if self._running:
            self._lost()

    def _run(self, datagrams: list[bytes] | Packed, address: Any, ancillary: Ancillary) -> Run:
        arrival = self._arrival(ancillary)
        return datagrams, path_from(address, arrival), arrival.ecn

    def _arrival(self, ancillary: Ancillary) -> Arrival:
        if ancillary == self._last[0]:
            return self._last[1]
        # There are few different ones: our addresses times the values of the TOS.
        key = tuple(ancillary)
        arrival = self._arrivals.get(key)
        if arrival is None:
            if len(self._arrivals) >= MOST_ARRIVALS:
                self._arrivals.clear()
            arrival = self._arrivals[key] = read_ancillary(ancillary)
        self._last = ancillary, arrival
        return arrival


def path_from(address: tuple[Any, ...], arrival: Arrival = _NOTHING_KNOWN) -> Path:
    """Return the path of a datagram whose sender Python calls *address*."""
    host, port = address[:2]
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        scope = address[3] if len(address) > 3 else 0
        return Path(packed, port, scope, arrival.local, arrival.interface)
    return Path(socket.inet_aton(host), port, 0, arrival.local, arrival.interface)
