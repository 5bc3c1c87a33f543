"""The configuration socket's conversations."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReadDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.net import uapi
from pyvpn.net.uapi import MOST_CLIENTS, REQUEST_SECONDS, UapiClient, UapiFactory, UapiPort
from pyvpn.wire.uapi import DeviceView, PeerView
from pyvpn.wire.uapi_operations import Errno, Operation, Refusal, SetFwmark, SetListenPort

DONE = Failure(ConnectionDone())


class NotedDevice:
    """Something to configure that notes what it is told."""

    def __init__(self) -> None:
        self.noted: list[object] = []
        self.peers: list[PeerView] = []
        self.only_tells = False

    def begin_setting(self) -> NotedDevice:
        if self.only_tells:
            raise Refusal(Errno.NOT_PERMITTED, "only tells")
        self.noted.append("begin")
        return self

    def apply(self, operation: Operation) -> None:
        if operation == SetListenPort(1):
            raise Refusal(Errno.PORT_IN_USE, "taken")
        self.noted.append(operation)

    def finish(self) -> None:
        self.noted.append("finish")

    def describe(self) -> DeviceView:
        return DeviceView(b"", 0, 17, self._peers())

    def _peers(self) -> Iterator[PeerView]:
        for peer in self.peers:
            self.noted.append("asked")
            yield peer


class ClientCase(SynchronousTestCase):
    """A client of a noted device."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.device = NotedDevice()
        self.factory = UapiFactory(self.clock, self.device)

    def connect(self) -> UapiClient:
        client = self.factory.buildProtocol(None)
        client.makeConnection(StringTransport())
        return client

    def is_cut(self, client: UapiClient) -> bool:
        cut: bool = client.transport.disconnected
        return cut

    def said(self, client: UapiClient) -> bytes:
        found: bytes = client.transport.value()
        client.transport.clear()
        return found


class ConversationTests(ClientCase):
    """Requests and their answers."""

    def test_interfaces(self) -> None:
        """A client is what its transport takes it for."""
        client = self.connect()
        self.assertTrue(verifyObject(IHalfCloseableProtocol, client))
        self.assertTrue(verifyObject(IPushProducer, client))

    def test_get(self) -> None:
        """A get is answered with how things stand."""
        client = self.connect()
        client.dataReceived(b"get=1\n\n")

        self.assertEqual(b"fwmark=17\nerrno=0\n\n", self.said(client))

    def test_set(self) -> None:
        """Lines of a set are done as they come; the answer waits for the last one."""
        client = self.connect()
        client.dataReceived(b"set=1\nfwmark=3\nfwmark=")
        self.assertEqual((["begin", SetFwmark(3)], b""), (self.device.noted, self.said(client)))
        client.dataReceived(b"4\n\n")

        self.assertEqual(["begin", SetFwmark(3), SetFwmark(4), "finish"], self.device.noted)
        self.assertEqual(b"errno=0\n\n", self.said(client))

    def test_several(self) -> None:
        """A connection serves any number of requests, also those sent all at once."""
        client = self.connect()
        client.dataReceived(b"get=1\n\nset=1\n\n" * 2)

        self.assertEqual(b"fwmark=17\nerrno=0\n\nerrno=0\n\n" * 2, self.said(client))
        self.assertFalse(client.transport.disconnecting)

    def test_wrong_line(self) -> None:
        """A wrong line is answered at once; what came before it stays, what follows is skipped."""
        client = self.connect()
        client.dataReceived(b"set=1\nfwmark=3\nfwmark=x\nfwmark=5\n\nget=1\n\n")

        self.assertEqual(["begin", SetFwmark(3), "finish"], self.device.noted)
        self.assertEqual(b"errno=-22\n\nfwmark=17\nerrno=0\n\n", self.said(client))

    def test_refused_by_the_device(self) -> None:
        """What the device cannot do has its own error number, and ends the request."""
        client = self.connect()
        client.dataReceived(b"set=1\nlisten_port=1\nfwmark=5\n\n")

        self.assertEqual(["begin", "finish"], self.device.noted)
        self.assertEqual(b"errno=-98\n\n", self.said(client))

    def test_one_that_only_tells(self) -> None:
        """A set is refused as a whole where nothing may be set."""
        self.device.only_tells = True
        client = self.connect()
        client.dataReceived(b"set=1\nfwmark=5\n\nget=1\n\n")

        self.assertEqual([], self.device.noted)
        self.assertEqual(b"errno=-1\n\nfwmark=17\nerrno=0\n\n", self.said(client))

    def test_no_request(self) -> None:
        """Who does not speak the protocol is hung up on, after the answers to what was sound."""
        client = self.connect()
        client.dataReceived(b"set=1\n\nGET / HTTP/1.0\r\n\r\n")

        self.assertEqual(b"errno=0\n\n", self.said(client))
        self.assertTrue(client.transport.disconnecting)

    def test_half_closed(self) -> None:
        """A client that ends its side has ended its request, and hears the answer."""
        client = self.connect()
        client.dataReceived(b"set=1\nfwmark=3")
        client.readConnectionLost()

        self.assertEqual(["begin", SetFwmark(3), "finish"], self.device.noted)
        self.assertEqual(b"errno=0\n\n", self.said(client))
        self.assertTrue(client.transport.disconnecting)

    def test_broken_off(self) -> None:
        """A set whose connection breaks is over."""
        client = self.connect()
        client.dataReceived(b"set=1\nfwmark=3\n")
        client.connectionLost(DONE)

        self.assertEqual(["begin", SetFwmark(3), "finish"], self.device.noted)
        self.assertEqual([], self.clock.getDelayedCalls())


class CostTests(ClientCase):
    """What one client may cost."""

    def test_a_long_answer(self) -> None:
        """An answer is made as fast as it is read, and requests behind it wait."""
        networks = [(number.to_bytes(4), 32) for number in range(1000)]
        self.device.peers = [PeerView(bytes(32), bytes(32), "", 0.0, 0, 0, 0, networks)] * 10
        client = self.connect()
        client.pauseProducing()
        self.assertEqual("paused", client.transport.producerState)
        client.dataReceived(b"get=1\n\nset=1\n\n")
        self.assertEqual(([], b""), (self.device.noted, self.said(client)))
        write = client.transport.write

        def clogging(data: bytes) -> None:
            write(data)
            client.pauseProducing()

        client.transport.write = clogging
        heard = 0
        for _ in range(20):
            client.resumeProducing()
            heard += self.said(client).count(b"allowed_ip")

        self.assertEqual(10_000, heard)
        self.assertEqual(["begin", "finish"], self.device.noted[-2:])

    def test_slow(self) -> None:
        """A request that is not complete in time ends the connection; time begins with it."""
        client = self.connect()
        self.clock.advance(10 * REQUEST_SECONDS)
        client.dataReceived(b"set=1\n")
        self.clock.advance(REQUEST_SECONDS - 1)
        client.dataReceived(b"fwmark=1\n")
        self.assertFalse(self.is_cut(client))
        self.clock.advance(1)

        self.assertTrue(self.is_cut(client))

    def test_does_not_read(self) -> None:
        """Nor may the answer wait for ever."""
        client = self.connect()
        client.dataReceived(b"get=1\n\n")
        self.assertEqual([], self.clock.getDelayedCalls())
        client.pauseProducing()
        client.dataReceived(b"get=1\n\n")
        self.assertFalse(self.is_cut(client))
        self.clock.advance(REQUEST_SECONDS)

        self.assertTrue(self.is_cut(client))

    def test_in_time(self) -> None:
        """A complete request starts no clock, and stops one."""
        client = self.connect()
        client.dataReceived(b"set=1\n")
        self.clock.advance(REQUEST_SECONDS - 1)
        client.dataReceived(b"\n")
        self.clock.advance(REQUEST_SECONDS)

        self.assertFalse(self.is_cut(client))

    def test_too_many(self) -> None:
        """Who is idle makes room for a newcomer, the longest first; the busy stay."""
        clients = [self.connect() for _ in range(MOST_CLIENTS)]
        clients[0].dataReceived(b"set=1\n")
        clients[1].dataReceived(b"set=1\n")
        clients[1].dataReceived(b"\n")
        self.assertFalse(self.is_cut(self.connect()))

        self.assertEqual(
            [False, False, True, False], [self.is_cut(client) for client in clients[:4]]
        )

    def test_too_many_at_work(self) -> None:
        """Where all are busy the one that began first goes; what it was doing is over."""
        clients = [self.connect() for _ in range(MOST_CLIENTS)]
        for client in reversed(clients):
            client.dataReceived(b"set=1\n")
        self.assertFalse(self.is_cut(self.connect()))

        self.assertEqual([True], [self.is_cut(client) for client in clients[-1:]])
        self.assertEqual(1, sum(self.is_cut(client) for client in clients))

    def test_place_freed(self) -> None:
        """A connection that ends frees its place."""
        clients = [self.connect() for _ in range(MOST_CLIENTS)]
        clients[7].connectionLost(DONE)
        self.connect()

        self.assertEqual(0, sum(self.is_cut(client) for client in clients))


class FakeReactor(Clock):
    """Adopts what a port accepts, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[object] = []
        self.adopted: list[int] = []

    def addReader(self, reader: object) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    addWriter = addReader
    removeWriter = removeReader

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        assert not os.get_blocking(descriptor)
        assert family == socket.AF_UNIX
        self.adopted.append(descriptor)


class PortTests(SynchronousTestCase):
    """Who is let in, and how the port ends."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.directory = Path(self.mktemp())
        self.removals: list[None] = []
        self.port = UapiPort(
            self.reactor,
            NotedDevice(),
            "wg0",
            lambda: self.removals.append(None),
            self.directory,
        )
        self.port.open()
        self.addCleanup(self.port.close)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(str(self.directory / "wg0.sock"))
        return client

    def turn(self) -> None:
        for reader in list(self.reactor.readers):
            reader.doRead()  # type: ignore[attr-defined]

    def test_interface(self) -> None:
        """The port is what the reactor takes it for."""
        self.assertTrue(verifyObject(IReadDescriptor, self.port))

    def test_accepts(self) -> None:
        """Root and our own user are let in, as many as wait."""
        for _ in range(3):
            self.connect()
        self.turn()

        self.assertEqual(3, len(self.reactor.adopted))

    def test_somebody_else(self) -> None:
        """Another user is not let in, even where the file's mode would."""
        client = self.connect()
        # Whoever runs this test is neither of the two now.
        self.patch(os, "geteuid", lambda: 4321)
        self.patch(uapi, "_ROOT", 4321)
        self.turn()

        self.assertEqual([], self.reactor.adopted)
        self.assertEqual(b"", client.recv(1))

    def test_no_descriptors(self) -> None:
        """Without a descriptor for the one who waits we do not spin, but come back to it."""
        self.connect()
        port_socket = self.port._socket
        assert port_socket is not None

        class Exhausted:
            def accept(self) -> None:
                raise OSError(24, "Too many open files")

            def fileno(self) -> int:
                return port_socket.fileno()

        self.port._socket = Exhausted()  # type: ignore[assignment]
        self.port.doRead()
        self.assertNotIn(self.port, self.reactor.readers)
        self.port._socket = port_socket
        self.reactor.advance(1)
        self.assertIn(self.port, self.reactor.readers)
        self.turn()

        self.assertEqual(1, len(self.reactor.adopted))

    def test_removed(self) -> None:
        """The removal of the file is told; a change of its mode is not taken for one."""
        (self.directory / "wg0.sock").chmod(0o666)
        self.turn()
        self.assertEqual([], self.removals)
        (self.directory / "wg0.sock").unlink()
        self.turn()

        self.assertEqual([None], self.removals)

    def test_closed(self) -> None:
        """A closed port is read from no more, has no descriptor, and is not told of its end."""
        self.port.close()
        self.reactor.advance(1)
        self.turn()

        self.assertEqual((-1, [], []), (self.port.fileno(), self.reactor.readers, self.removals))
        self.assertEqual([], os.listdir(self.directory))
