"""TLS as a transport: what passes, how it ends, and what a peer must not do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, ISystemHandle, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pyvpn.errors import PeerError
from pyvpn.net.tls import client_options, server_options
from pyvpn.net.tls_transport import RECORD, UNASKED_MOST, TlsFactory, TlsTransport
from tests.net.links import Line
from tests.net.test_tls import HOST, IDENTITY

PLACE = IPv4Address("TCP", "192.0.2.2", 40000)
LONG = bytes(range(256)) * 300  # 76,800 bytes: several records


@implementer(IHandshakeListener)
class Told(Protocol):
    """One end: notes what it is told, and does what the test wants when TLS is up."""

    def __init__(self, at_once: Callable[[Told], None] = lambda _: None) -> None:
        self.pieces: list[bytes] = []
        self.secure = 0
        self.ends: list[Exception] = []
        self._at_once = at_once

    @property
    def tls(self) -> Any:
        """What is below."""
        return self.transport

    def handshakeCompleted(self) -> None:
        self.secure += 1
        self._at_once(self)

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted has a default
        assert reason.value is not None
        self.ends.append(reason.value)


class Producer:
    """Somebody who would write more."""

    def __init__(self) -> None:
        self.stopped = False

    def stopProducing(self) -> None:
        self.stopped = True

    def resumeProducing(self) -> None:
        """Not asked for here."""

    def pauseProducing(self) -> None:
        """Neither."""


class Both:
    """A server and a client with a line between them that the test works by hand."""

    def __init__(
        self, *, client: Told | None = None, server: Told | None = None, shake: bool = True
    ) -> None:
        self.server, self.client = server or Told(), client or Told()
        self.near, self.far = Line(), Line()
        self.below_server: Any = TlsFactory(
            server_options(IDENTITY), Factory.forProtocol(lambda: self.server)
        ).buildProtocol(PLACE)
        self.below_client: Any = TlsFactory(
            client_options(HOST, IDENTITY.pin, None, None, None),
            Factory.forProtocol(lambda: self.client),
        ).buildProtocol(PLACE)
        self.below_server.makeConnection(self.near)
        self.below_client.makeConnection(self.far)
        if shake:
            self.exchange()

    def exchange(self) -> None:
        """Let everything arrive."""
        moved = True
        while moved:
            moved = False
            for line, to in ((self.near, self.below_client), (self.far, self.below_server)):
                if data := line.take():
                    to.dataReceived(data)
                    moved = True


class PassingTests(SynchronousTestCase):
    """What is written at one end arrives at the other."""

    def test_is_a_transport(self) -> None:
        """It keeps the contracts that it names."""
        both = Both()

        for interface in (ITransport, ISystemHandle):
            verifyObject(interface, both.server.tls)
        self.assertIsInstance(both.server.tls, TlsTransport)
        self.assertEqual((1, 1), (both.server.secure, both.client.secure))

    def test_silence(self) -> None:
        """Who connects to a server and says nothing costs no engine."""
        both = Both(shake=False)
        self.assertIsNone(both.server.tls.getHandle())

        both.exchange()

        self.assertEqual("TLSv1.3", both.server.tls.getHandle().version())

    def test_one_piece(self) -> None:
        """All records that arrive together are handed on as one piece."""
        both = Both()
        both.client.tls.write(LONG)
        both.client.tls.write(b"")
        both.client.tls.writeSequence([b"and ", b"more"])
        sent = both.far.take()
        both.below_server.dataReceived(sent)

        self.assertEqual([LONG + b"and more"], both.server.pieces)
        # 22 bytes a record: header, tag and the type.
        records = -(-len(LONG) // RECORD) + 1
        self.assertEqual(len(LONG) + 8 + 22 * records, len(sent))

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.binary(max_size=40_000), max_size=5), st.integers(1, 20_000))
    def test_any_pieces(self, written: list[bytes], size: int) -> None:
        """However it is written, and however the line cuts it, the same bytes arrive."""
        both = Both()
        for data in written:
            both.server.tls.write(data)
        sent = both.near.take()
        for start in range(0, len(sent), size):
            both.below_client.dataReceived(sent[start : start + size])

        self.assertEqual(b"".join(written), b"".join(both.client.pieces))

    def test_in_single_bytes(self) -> None:
        """A handshake that arrives byte by byte completes."""
        both = Both(shake=False)
        for _ in range(4):
            for line, to in ((both.near, both.below_client), (both.far, both.below_server)):
                for byte in line.take():
                    to.dataReceived(bytes([byte]))

        self.assertEqual((1, 1), (both.server.secure, both.client.secure))

    def test_written_before_the_handshake(self) -> None:
        """What was written early waits for the handshake, and then is first."""
        both = Both(client=Told(lambda told: told.tls.write(b"second")), shake=False)
        both.client.tls.write(b"first, ")
        both.exchange()

        self.assertIn(b"".join(both.server.pieces), (b"secondfirst, ", b"first, second"))

    def test_with_twisteds(self) -> None:
        """Twisted's own TLS understands it, in both roles."""
        clock = Clock()
        other = Told()
        below: Any = TLSMemoryBIOFactory(
            CertificateOptions(), True, Factory.forProtocol(lambda: other), clock
        ).buildProtocol(PLACE)
        both = Both(shake=False)
        both.far.take()
        far = Line()
        below.makeConnection(far)
        both.below_client, both.far = below, far
        both.exchange()
        other.tls.write(LONG)
        both.server.tls.write(LONG)
        clock.advance(0)
        both.exchange()

        self.assertEqual(LONG, b"".join(both.server.pieces))
        self.assertEqual(LONG, b"".join(other.pieces))
        both.server.tls.loseConnection()
        both.exchange()
        self.assertTrue(both.near.disconnecting)
        self.assertTrue(far.disconnecting)


class EndTests(SynchronousTestCase):
    """How a connection ends, and what is said of it."""

    def hang_up(self, below: Any, reason: Exception) -> None:
        """Let the TCP connection end."""
        below.connectionLost(Failure(reason))

    def test_farewell(self) -> None:
        """Both say farewell, what was written before it arrives, and the end is clean."""
        both = Both()
        both.client.tls.write(LONG)
        both.client.tls.loseConnection()
        both.client.tls.write(b"too late")
        self.assertFalse(both.far.disconnecting)
        both.exchange()

        self.assertEqual([LONG], both.server.pieces)
        self.assertTrue(both.near.disconnecting)
        self.assertTrue(both.far.disconnecting)
        for below, end in (
            (both.below_server, both.server),
            (both.below_client, both.client),
        ):
            self.hang_up(below, ConnectionDone())
            self.assertIsInstance(end.ends[0], ConnectionDone)

    def test_no_farewell(self) -> None:
        """An end without farewell is a loss: somebody on the way may have cut it."""
        for shake in (True, False):
            both = Both(shake=shake)
            self.hang_up(both.below_server, ConnectionDone())

            self.assertIsInstance(both.server.ends[0], ConnectionLost)
            self.assertIn("without the farewell", str(both.server.ends[0]))

    def test_producer_first(self) -> None:
        """While a producer is registered there is no farewell, and it may write."""
        both = Both()
        producer = Producer()
        both.client.tls.registerProducer(producer, True)
        both.client.tls.loseConnection()
        both.client.tls.write(b"still")
        both.exchange()
        self.assertEqual([b"still"], both.server.pieces)
        self.assertFalse(both.near.disconnecting)

        both.client.tls.unregisterProducer()
        both.exchange()

        self.assertTrue(both.near.disconnecting)
        self.assertIs(None, both.far.producer)

    def test_producer_after_the_end(self) -> None:
        """A producer that comes too late is told to stop."""
        both = Both()
        tls = both.client.tls
        self.hang_up(both.below_client, ConnectionLost())
        producer = Producer()
        tls.registerProducer(producer, True)
        tls.unregisterProducer()
        tls.loseConnection()
        tls.write(b"x")

        self.assertTrue(producer.stopped)
        self.assertEqual(b"", both.far.take())

    def test_paused_producer(self) -> None:
        """A producer that waits is let go when the peer ends it: nothing would wake it again."""
        both = Both()
        producer = Producer()
        both.server.tls.registerProducer(producer, True)
        both.client.tls.loseConnection()
        both.exchange()

        self.assertTrue(producer.stopped)
        self.assertIs(None, both.near.producer)
        self.assertTrue(both.near.disconnecting)

    def test_data_after_our_farewell(self) -> None:
        """What the peer had still to say arrives after our farewell."""
        both = Both()
        both.client.tls.loseConnection()
        both.server.tls.write(LONG)
        crossing = both.near.take()
        both.below_client.dataReceived(crossing)

        self.assertEqual(LONG, b"".join(both.client.pieces))
        both.exchange()
        self.assertTrue(both.far.disconnecting)

    def test_abort(self) -> None:
        """An abort says nothing, and nothing is delivered after it."""
        both = Both()
        both.server.tls.write(b"late")
        late = both.near.take()
        both.client.tls.abortConnection()
        both.below_client.dataReceived(late)
        self.hang_up(both.below_client, ConnectionAborted())

        self.assertTrue(both.far.aborting)
        self.assertEqual(b"", both.far.take())
        self.assertEqual([], both.client.pieces)
        self.assertIsInstance(both.client.ends[0], ConnectionAborted)

    def test_abort_at_the_handshake(self) -> None:
        """Who does not like the server's pin has told it nothing: not even its certificate."""
        both = Both(client=Told(lambda told: told.tls.abortConnection()))

        self.assertEqual((1, 0), (both.client.secure, both.server.secure))
        self.assertTrue(both.far.aborting)

    def test_closed_before_the_handshake(self) -> None:
        """A connection that is closed before TLS is up ends at once."""
        both = Both(shake=False)
        both.client.tls.loseConnection()

        self.assertTrue(both.far.aborting)

    def test_closed_at_the_handshake(self) -> None:
        """Closed the moment TLS is up, it ends cleanly."""
        for end in ("client", "server"):
            both = Both(**{end: Told(lambda told: told.tls.loseConnection())})
            self.assertTrue(both.near.disconnecting)
            self.assertTrue(both.far.disconnecting)

    def test_junk(self) -> None:
        """What is no TLS ends the connection, and the reason is OpenSSL's."""
        for shake in (True, False):
            both = Both(shake=shake)
            both.below_server.dataReceived(b"GET / HTTP/1.1\r\n\r\n" + bytes(200))
            # An alert, encrypted: so it looks like data.  Before there are keys it says nothing.
            self.assertEqual(b"\x17" if shake else b"", both.near.take()[:1])
            self.assertTrue(both.near.disconnecting)
            both.below_server.dataReceived(b"more")
            self.hang_up(both.below_server, ConnectionDone())

            self.assertIsInstance(both.server.ends[0], ssl.SSLError)
            self.assertEqual([], both.server.pieces)

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 200), st.integers(1, 255))
    def test_forged(self, place: int, change: int) -> None:
        """A byte changed on the way ends the connection; nothing of that record arrives."""
        both = Both()
        both.client.tls.write(b"before")
        good = both.far.take()
        both.client.tls.write(bytes(200))
        bad = bytearray(both.far.take())
        bad[place] ^= change
        both.below_server.dataReceived(good + bad)

        self.assertEqual(b"before", b"".join(both.server.pieces))
        self.hang_up(both.below_server, ConnectionDone())
        self.assertEqual(1, len(both.server.ends))

    def test_new_keys_without_end(self) -> None:
        """Who makes OpenSSL answer without end and never reads is cut off."""
        both = Both()
        outgoing = both.below_server._outgoing
        piece = bytes(UNASKED_MOST // 4)
        for _ in range(4):
            outgoing.write(piece)
            both.client.tls.write(b"x")
            both.below_server.dataReceived(both.far.take())
            self.assertFalse(both.near.aborting)
        outgoing.write(b"one more")
        both.client.tls.write(b"x")
        both.below_server.dataReceived(both.far.take())

        self.assertTrue(both.near.aborting)
        self.hang_up(both.below_server, ConnectionAborted())
        self.assertIsInstance(both.server.ends[0], PeerError)
