"""TLS over a Twisted transport, by Python's own ``ssl``: few calls for many bytes.

What is here beside Twisted's ``TLSMemoryBIOProtocol`` is its speed.  That one goes through
pyOpenSSL, which costs three times as much per byte, and hands on each record (16 KiB) by itself.
Here all records of a read arrive as one piece, and a piece written is encrypted by one call.

It is a transport as Twisted's are, with these rules:

* :meth:`~twisted.internet.interfaces.IHandshakeListener.handshakeCompleted` comes before our last
  flight leaves: who aborts there has told the peer neither a word nor a certificate.
* What is written before that waits for it.
* ``loseConnection`` says farewell once what was written has left and no producer is registered,
  and waits for the peer's; ``abortConnection`` says and waits for nothing.
* An end without farewell is ConnectionLost, and what OpenSSL complains of the reason as it is.
  There is no half-closed TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
    IStreamClientEndpoint,
    ISystemHandle,
    ITransport,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.errors import PeerError

RECORD = 16_384
"""Bytes that a record holds at most (RFC 8446 section 5.1), and OpenSSL gives out at once."""

UNASKED_MOST = 65_536
"""Bytes that a peer may make OpenSSL answer by itself: some 2,400 new keys.

Nothing else bounds what waits for a peer that asks for new keys and never reads."""


class Terms(Protocol):
    """What one end demands of its TLS connections (:mod:`pyvpn.net.tls`)."""

    server: bool
    """Whether we wait for the other end to begin."""

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """Return the engine of a new connection."""

    def judge(self, tls: ssl.SSLObject) -> None:
        """Look at the peer, which has proved to hold the key of its certificate.

        Raises:
            PeerError: it is not the one; it is told nothing more.
        """

    def meaning_of(self, error: ssl.SSLError) -> Exception:
        """What the owner of the connection is to hear instead of *error*."""


@implementer(ISystemHandle, ITransport)
class TlsTransport(ProtocolWrapper):
    """One TLS connection: the transport of the protocol above, the protocol of that below."""

    factory: TlsFactory
    transport: Any  # whatever is below; Twisted's own annotations differ from case to case

    def __init__(self, factory: TlsFactory, wrappedProtocol: IProtocol) -> None:
        super().__init__(factory, wrappedProtocol)
        self._terms = factory.terms
        self._tls: Any = None  # an ssl.SSLObject, once there is something to do for it
        self._is_secure = False
        self._is_over = False  # nothing more passes in either direction
        self._is_said = False  # our farewell
        self._reason: Failure | None = None
        self._waiting: list[bytes] = []
        self._producer: IPushProducer | IPullProducer | None = None
        self._unasked = 0

    # -- what the transport below calls

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)
        if not self._is_over and not self._terms.server:
            self._begin()
            self._shake_hands()

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._tls is None:  # a server's: who connects and is silent costs no engine
            self._begin()
        self._incoming.write(data)
        if not self._is_secure:
            self._shake_hands()
        if self._is_secure and not self._is_over:
            self._read()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted has a default
        if self._reason is not None:
            reason = self._reason
        elif not self._is_over and reason.check(ConnectionDone):
            # Somebody on the way can close a TCP connection, too.
            reason = Failure(ConnectionLost("it ended without the farewell of TLS"))
        self._is_over = True
        self._waiting.clear()
        self._producer = None
        super().connectionLost(reason)

    # -- inside

    def _begin(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._terms.begin(self._incoming, self._outgoing)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            self._terms.judge(self._tls)
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        except PeerError as error:
            self._reason = Failure(error)
            self.abortConnection()
            return
        self._is_secure = True
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()
        if self._is_over:
            return
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._encrypt(data)
        self._flush()
        if self.disconnecting and self._producer is None:
            self._say_farewell()

    def _read(self) -> None:
        """Hand on all that has arrived as one piece."""
        read = self._tls.read
        pieces: list[bytes] = []
        ended = False
        failed: ssl.SSLError | None = None
        try:
            while piece := read(RECORD):
                pieces.append(piece)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # how it says so once our own farewell is out
            ended = True
        except ssl.SSLError as error:
            failed = error
        if pieces:
            self.wrappedProtocol.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self._is_over:
                return
        if failed is not None:
            self._fail(failed)
        elif ended:
            self._say_farewell()
            self._end()
        elif self._outgoing.pending:
            self._unasked += self._outgoing.pending
            if self._unasked > UNASKED_MOST:
                self._reason = Failure(PeerError("asks for one new key after the other"))
                self.abortConnection()
            else:
                self._flush()

    def _encrypt(self, data: bytes) -> None:
        try:
            sent = self._tls.write(data)
            while sent < len(data):  # that one call takes all is OpenSSL's habit, no promise
                data = data[sent:]
                sent = self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """Let the connection end for *error*, once the alert that says why has left."""
        self._reason = Failure(self._terms.meaning_of(error))
        self._flush()
        self._end()

    def _end(self) -> None:
        """Let the connection end once what was written has left."""
        self._is_over = True
        producer, self._producer = self._producer, None
        if producer is not None:  # a paused one would be waited for, in vain
            self.transport.unregisterProducer()
            producer.stopProducing()
        self.transport.loseConnection()

    def _say_farewell(self) -> None:
        """Send close_notify, once."""
        if self._is_said or self._is_over:
            return
        self._is_said = True
        # It also looks for the peer's farewell, and complains when that is not there yet or data
        # is before it: :meth:`_read` will see.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    # -- what the protocol above calls

    def write(self, data: bytes) -> None:
        if self._is_over or (self.disconnecting and self._producer is None):
            return
        if not self._is_secure:
            self._waiting.append(bytes(data))
            return
        if data:  # OpenSSL would make a record of nothing
            self._encrypt(data)
            self._flush()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.disconnecting or self._is_over:
            return
        self.disconnecting = 1
        if not self._is_secure and not self._waiting:
            self.abortConnection()
        elif self._is_secure and self._producer is None:
            self._say_farewell()

    def abortConnection(self) -> None:
        """End the connection now, without a word."""
        self._is_over = True
        self.disconnecting = 1
        self.transport.abortConnection()

    def registerProducer(self, producer: IPushProducer | IPullProducer, streaming: bool) -> None:
        if self._is_over:
            producer.stopProducing()
            return
        self.transport.registerProducer(producer, streaming)
        self._producer = producer

    def unregisterProducer(self) -> None:
        if self._producer is None:
            return
        self._producer = None
        self.transport.unregisterProducer()
        if self.disconnecting and self._is_secure:
            self._say_farewell()

    def getHandle(self) -> ssl.SSLObject | None:
        """The engine, for who wants to know its version or cipher; None: not begun."""
        engine: ssl.SSLObject | None = self._tls
        return engine

    def peer_certificate(self) -> bytes | None:
        """The certificate (DER) that the peer has proved to hold; None: none, or not yet."""
        if not self._is_secure:
            return None
        certificate: bytes | None = self._tls.getpeercert(binary_form=True)
        return certificate


class TlsFactory(WrappingFactory[TlsTransport]):
    """Puts TLS below the protocols of *wrappedFactory*, by these *terms*."""

    protocol = TlsTransport
    noisy = False

    def __init__(self, terms: Terms, wrappedFactory: IProtocolFactory) -> None:
        super().__init__(wrappedFactory)
        self.terms = terms


def connect_by_tls(
    terms: Terms, endpoint: IStreamClientEndpoint, factory: IProtocolFactory
) -> Deferred[Any]:
    """Connect *endpoint*; fires with the protocol of *factory* once TLS has begun."""
    connecting: Deferred[Any] = endpoint.connect(TlsFactory(terms, factory))
    return connecting.addCallback(lambda below: below.wrappedProtocol)
