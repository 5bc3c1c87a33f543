"""The streams of one host: who listens, who is connected to whom, and who is told off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.clock import SimClock
from pyvpn.testing.simulator.connection import Connection
from pyvpn.testing.simulator.segment import ACK, RST, SYN, Segment, TcpSettings
from pyvpn.testing.simulator.stream import Stream, address_of
from pyvpn.testing.simulator.trace import Event, Packet, Place

if TYPE_CHECKING:
    from pyvpn.testing.simulator.network import Host

__all__ = ["ClientEndpoint", "ListeningPort", "ServerEndpoint", "Tcp", "TcpSettings"]

TCP = 6
"""The protocol's number in an IP header."""


@implementer(IListeningPort)
class ListeningPort:
    """Accepts connections at all addresses of its host.  Made by :meth:`Host.listen`."""

    def __init__(self, tcp: Tcp, port: int, factory: IProtocolFactory) -> None:
        self.port = port
        self.factory = factory
        self._tcp = tcp

    def startListening(self) -> None:
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        """Accept no more; the connections that there are stay."""
        if self._tcp.listening.pop(self.port, None) is not None:
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IPv4Address | IPv6Address:
        addresses = self._tcp.host.addresses
        return address_of(Place(addresses[0] if addresses else bytes(4), self.port))


class Tcp:
    """One host's part of all connections."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.listening: dict[int, ListeningPort] = {}
        self.streams: dict[tuple[Place, Place], Stream] = {}
        """By their own place and the other's."""

    def listen(self, port: int, factory: IProtocolFactory) -> ListeningPort:
        """See :meth:`Host.listen`."""
        number = port or self.host.free_port(self.listening)
        if number in self.listening:
            raise Misuse(f"TCP port {number} of {self.host.name} is taken")
        opened = self.listening[number] = ListeningPort(self, number, factory)
        opened.startListening()
        return opened

    def connect(
        self, target: Place, factory: IProtocolFactory, timeout: float
    ) -> Deferred[IProtocol]:
        """See :meth:`Host.connect`."""
        own = self.host.source(target.host)
        if own is None:
            return fail(NoRouteError())
        taken = {local.port for local, _ in self.streams} | self.listening.keys()
        local = Place(own, self.host.free_port(taken))

        def opened(stream: Stream) -> IProtocol | None:
            late.cancel()
            protocol = factory.buildProtocol(stream.getPeer())
            if protocol is None:
                result.errback(ConnectionLost())
                return None
            self._clock.soon(connected, protocol)
            return protocol

        def connected(protocol: IProtocol) -> None:
            if not result.called:
                result.callback(protocol)

        def failed(refused: bool) -> None:
            if late.active():
                late.cancel()
            if not result.called:
                result.errback(ConnectionRefusedError() if refused else TimeoutError())

        def cancelled(_: object) -> None:
            if late.active():
                late.cancel()
            stream.give_up()
            stream.abortConnection()

        result: Deferred[IProtocol] = Deferred(cancelled)
        stream = Stream(self, local, target, opened, failed)
        late = self._clock.callLater(timeout, stream.too_late)
        self.streams[local, target] = stream
        return result

    @property
    def _clock(self) -> SimClock:
        return self.host.network.clock

    def forget(self, connection: Connection) -> None:
        """Know *connection* no more; for the connection."""
        self.streams.pop((connection.local, connection.remote), None)

    def crash(self) -> None:
        """See :meth:`Host.crash`."""
        for stream in list(self.streams.values()):
            stream.crash()
        self.listening.clear()

    def end_process(self) -> None:
        """See :meth:`Host.end_process`."""
        self.listening.clear()
        for stream in list(self.streams.values()):
            stream.abandon()

    def owns(self, owner: object) -> bool:
        """Whether *owner* is one of our streams, or its connection."""
        return any(each.is_of(owner) for each in self.streams.values())

    def slept(self, seconds: float) -> None:
        """Have no time passed in the last *seconds*."""
        for stream in self.streams.values():
            stream.slept(seconds)

    def send(self, source: Place, target: Place, segment: bytes) -> None:
        """Send a segment; for the streams."""
        self.host.network.send(self.host, Packet(TCP, source, target, segment))

    def received(self, packet: Packet) -> Event:
        """Take a segment that has arrived."""
        segment = Segment.parse(packet.payload)
        if segment is None:
            return Event.CHECKSUM
        local, remote = packet.target, packet.source
        stream = self.streams.get((local, remote))
        if stream is not None:
            stream.received(segment)
            return Event.DELIVERED
        port = self.listening.get(local.port)
        if segment.flags & (SYN | ACK | RST) == SYN and port is not None:
            self.streams[local, remote] = self._asked(port, local, remote, segment)
            return Event.DELIVERED
        if not segment.flags & RST:
            after = segment.sequence + segment.length
            answer = Segment(RST | ACK, segment.acknowledged, after, 0)
            self.send(local, remote, answer.to_bytes())
        return Event.NO_PORT

    def _asked(self, port: ListeningPort, local: Place, remote: Place, begun: Segment) -> Stream:
        def opened(stream: Stream) -> IProtocol | None:
            return port.factory.buildProtocol(stream.getPeer())

        return Stream(self, local, remote, opened, lambda _: None, begun)


@implementer(IStreamClientEndpoint)
class ClientEndpoint:
    """The way from a host to a packed address, for whoever wants an endpoint."""

    def __init__(self, host: Host, address: bytes, port: int, timeout: float = 30.0) -> None:
        self._host = host
        self._arguments = address, port
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._host.connect(*self._arguments, protocolFactory, self._timeout)


@implementer(IStreamServerEndpoint)
class ServerEndpoint:
    """A port of a host, likewise."""

    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return succeed(self._host.listen(self._port, protocolFactory))
