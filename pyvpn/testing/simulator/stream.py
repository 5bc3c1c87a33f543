"""A TCP connection as its protocol sees it: a Twisted transport.

Two buffers stand behind :meth:`Stream.write`, as in the world: Twisted's, of ``bufferSize``
bytes, beyond which a producer is paused, and the kernel's, which holds what is on its way and as
much again.  Once its protocol has closed it, the kernel still delivers what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IProtocol, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.testing.simulator.connection import Connection, State
from pyvpn.testing.simulator.segment import Segment
from pyvpn.testing.simulator.trace import Place

if TYPE_CHECKING:
    from pyvpn.testing.simulator.tcp import Tcp


@implementer(ITransport, IConsumer)
class Stream:
    """Made by :class:`pyvpn.testing.simulator.tcp.Tcp`.

    Args:
        make: called when both ends agree; gives the protocol, or None to hang up.
        refuse: called instead if they never do, with whether somebody said no.
        begun: at the end that was asked: the first segment of the other.
    """

    def __init__(
        self,
        tcp: Tcp,
        local: Place,
        remote: Place,
        make: Callable[[Stream], IProtocol | None],
        refuse: Callable[[bool], None],
        begun: Segment | None = None,
    ) -> None:
        self.bufferSize = 65_536
        self.disconnecting = False
        self.connected = False
        self.protocol: IProtocol | None = None
        self.producer: Any = None
        self.streamingProducer = False
        self._make = make
        self._refuse = refuse
        self._waiting = bytearray()
        self._producer_paused = False
        self._reading = True
        self._flushing = self._handing = False
        self._connection = Connection(tcp, local, remote, self, begun)
        self._clock = self._connection.clock

    # -- what the protocol calls

    def write(self, data: bytes) -> None:
        if not self.connected or not data:
            return
        self._waiting += data
        full = len(self._waiting) > self.bufferSize
        if full and self.producer is not None and self.streamingProducer:
            self._producer_paused = True
            self.producer.pauseProducing()
        self._flush_soon()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._flush_soon()

    def abortConnection(self) -> None:
        if self.connected and self._connection.state is State.OPEN:
            self._connection.abort()
            self._clock.soon(self._lose, ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"{self.producer} was not unregistered")
        if not self.connected:
            producer.stopProducing()
            return
        self.producer, self.streamingProducer = producer, streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.connected and self.disconnecting:
            self._flush_soon()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._reading:
            self._reading = True
            self.readable()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address | IPv6Address:
        return address_of(self._connection.remote)

    def getHost(self) -> IPv4Address | IPv6Address:
        return address_of(self._connection.local)

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    # -- what its host calls

    def received(self, segment: Segment) -> None:
        """Take a segment of this connection."""
        self._connection.received(segment)

    def crash(self) -> None:
        """Be gone, and tell nobody."""
        self.connected = False
        self._connection.crash()

    def abandon(self) -> None:
        """Do what a kernel does for a process that is gone; its protocol is told nothing."""
        self.connected = False
        if self._connection.state is State.OPEN:
            self._connection.close()
        elif self._connection.state is not State.ORPHAN:
            self._connection.abort()

    def is_of(self, owner: object) -> bool:
        """Whether this or its connection is *owner*."""
        return owner is self or owner is self._connection

    def slept(self, seconds: float) -> None:
        """Have no time passed in the last *seconds*."""
        self._connection.slept(seconds)

    def too_late(self) -> None:
        """Refuse, if nobody has answered yet."""
        if self.give_up():
            self._refuse(False)

    def give_up(self) -> bool:
        """End the attempt to connect; False: it has ended."""
        if self._connection.state is not State.ASKING:
            return False
        self._connection.crash()
        return True

    # -- what the connection calls

    def opened(self) -> None:
        self.connected = True
        self.protocol = self._make(self)
        if self.protocol is None:
            self.connected = False
            self._connection.abort()
        else:
            self.protocol.makeConnection(self)

    def readable(self) -> None:
        if not self._handing:
            self._handing = True
            self._clock.soon(self._hand_on)

    def writable(self) -> None:
        if self._waiting or self._producer_paused:
            self._flush_soon()

    def failed(self, refused: bool) -> None:
        if self.connected:
            self._lose(ConnectionLost())
        else:
            self._refuse(refused)

    # -- inside

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._clock.soon(self._flush)

    def _flush(self) -> None:
        """Do what the reactor does when the socket is writable."""
        self._flushing = False
        connection = self._connection
        if not self.connected or connection.state is not State.OPEN:
            connection.settle()
            return
        while self._waiting and (room := self.bufferSize - connection.unsent) > 0:
            data = bytes(self._waiting[:room])
            del self._waiting[:room]
            connection.write(data)
        connection.settle()
        if self._waiting:
            return
        if self.producer is not None and (self._producer_paused or not self.streamingProducer):
            self._producer_paused = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            connection.close()
            self._lose(ConnectionDone())

    def _hand_on(self) -> None:
        """Do what the reactor does when the socket is readable."""
        self._handing = False
        self._read()
        if not self._flushing:
            self._connection.settle()

    def _read(self) -> None:
        connection = self._connection
        if not self.connected or not self._reading or connection.state is not State.OPEN:
            return
        if connection.has_data and not self.disconnecting:
            assert self.protocol is not None
            self.protocol.dataReceived(connection.read())
        if connection.at_end and self.connected:
            connection.close()
            self._lose(ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        if not self.connected:
            return
        self.connected = False
        self._waiting.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        assert self.protocol is not None
        self.protocol.connectionLost(Failure(reason))


def address_of(place: Place) -> IPv4Address | IPv6Address:
    """Return *place* as Twisted names it."""
    kind = IPv4Address if len(place.host) == 4 else IPv6Address
    return kind("TCP", place.name, place.port)
