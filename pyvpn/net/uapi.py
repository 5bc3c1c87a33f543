"""The configuration socket: where ``wg`` and ``wg-quick`` ask and command.

What a client may cost: one read of requests and one piece of an answer in memory,
:data:`REQUEST_SECONDS` for a request with its answer, one of :data:`MOST_CLIENTS` places.  One
that is silent between requests may stay until somebody else needs the place.  When there is none,
the request that has taken longest is given up for the newcomer, so nobody locks an operator out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_UNIX, SO_PEERCRED, SOL_SOCKET, socket
from typing import Any

from twisted.internet import inotify
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReadDescriptor,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from zope.interface import implementer

from pyvpn.net.uapi_socket import DIRECTORY, UapiSocket
from pyvpn.wire.uapi import Configured, Event, Requests, Setting, answer_to_get, answer_with
from pyvpn.wire.uapi_operations import Errno, Refusal

_log = Logger()

REQUEST_SECONDS = 60.0
MOST_CLIENTS = 32

_ROOT = 0
_ACCEPTS = 8  # a turn of the reactor
_PAUSE_SECONDS = 1.0
_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group
_REMOVED = inotify.IN_ATTRIB | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF


@implementer(IHalfCloseableProtocol, IPushProducer)
class UapiClient(Protocol):
    """One connection of a program that configures us or asks how we are."""

    transport: Any  # a UNIX transport; Twisted's annotation does not know its socket
    factory: UapiFactory

    def __init__(self, configured: Configured) -> None:
        self._configured = configured
        self._requests = Requests()
        self._setting: Setting | None = None
        self._answer: Iterator[bytes] | None = None
        self._clogged = False
        self._ended = False
        self._lost = False
        self._deadline: IDelayedCall | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        return self._deadline is None

    # -- what the reactor calls

    def connectionMade(self) -> None:
        self.factory.admit(self)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self._requests.feed(data)
        self._work()

    def readConnectionLost(self) -> None:
        """The client said all it wanted, and waits for the answer."""
        if not self._ended:
            self._ended = True
            self._requests.end()
            self._work()

    def writeConnectionLost(self) -> None:
        """Never happens: we do not half-close."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.dismiss(self)
        self._lost = True
        self._finish_setting()  # what was said before the connection broke holds
        self._watch_time()

    def pauseProducing(self) -> None:
        """The client does not read: no more requests of it, and no more answers."""
        self._clogged = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._clogged = False
        if not self._ended:
            self.transport.resumeProducing()
        self._work()

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost follows."""

    # -- inside

    def _work(self) -> None:
        while not self._clogged:
            if self._answer is not None:
                piece = next(self._answer, None)
                if piece is None:
                    self._answer = None
                else:
                    self.transport.write(piece)
                continue
            try:
                event = self._requests.take()
                if event is None:
                    break
                if event is Event.HANG_UP:
                    self.transport.unregisterProducer()
                    self.transport.loseConnection()
                    break
                self._do(event)
            except Refusal as refusal:
                _log.debug("a request was refused: {why}", why=str(refusal))
                self._finish_setting()
                self.transport.write(answer_with(refusal.errno))
        self._watch_time()

    def _do(self, event: object) -> None:
        if self._setting is not None and event is not Event.DONE:
            try:
                self._setting.apply(event)  # type: ignore[arg-type]  # no other event is within
            except Refusal:
                self._requests.skip()
                raise
        elif event is Event.SET:
            try:
                self._setting = self._configured.begin_setting()
            except Refusal:
                self._requests.skip()
                raise
        elif event is Event.DONE:
            self._finish_setting()
            self.transport.write(answer_with(Errno.OK))
        else:
            self._answer = answer_to_get(self._configured.describe())

    def _finish_setting(self) -> None:
        if self._setting is not None:
            setting, self._setting = self._setting, None
            setting.finish()

    def _watch_time(self) -> None:
        """Let time run while a request is under way or its answer is not taken."""
        busy = not self._lost and (
            self._requests.within or self._answer is not None or self._clogged
        )
        if busy and self._deadline is None:
            self._deadline = self.factory.reactor.callLater(REQUEST_SECONDS, self._too_slow)
            self.factory.renew(self)
        elif not busy and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.factory.renew(self)

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.abortConnection()


class UapiFactory(Factory[UapiClient]):
    """Makes the connections to *configured*, and counts them."""

    noisy = False

    def __init__(self, reactor: Any, configured: Configured) -> None:
        self.reactor = reactor
        self._configured = configured
        self._clients: dict[UapiClient, None] = {}  # who did nothing new for longest is first

    def buildProtocol(self, addr: IAddress | None) -> UapiClient:
        client = UapiClient(self._configured)
        client.factory = self
        return client

    def admit(self, client: UapiClient) -> None:
        """Give *client* a place: of the one that idles for longest, or else works for longest."""
        if len(self._clients) >= MOST_CLIENTS:
            idle = (other for other in self._clients if other.is_idle)
            loser = next(idle, None) or next(iter(self._clients))
            self.dismiss(loser)
            loser.transport.abortConnection()
        self._clients[client] = None

    def renew(self, client: UapiClient) -> None:
        """Note that *client* begins or ends a request just now."""
        if client in self._clients:
            del self._clients[client]
            self._clients[client] = None

    def dismiss(self, client: UapiClient) -> None:
        """Free the place of *client*."""
        self._clients.pop(client, None)

    def abort(self) -> None:
        """End all connections."""
        for client in list(self._clients):
            client.transport.abortConnection()


@implementer(IReadDescriptor)
class UapiPort:
    """The configuration socket of one interface, open and watched.

    Args:
        configured: who is asked and commanded.
        name: of the interface, and so of the file.
        removed: told, once, that the file was removed or exchanged: nobody finds us any more.
    """

    def __init__(
        self,
        reactor: Any,
        configured: Configured,
        name: str,
        removed: Callable[[], None],
        directory: Path = DIRECTORY,
    ) -> None:
        self._reactor = reactor
        self._factory = UapiFactory(reactor, configured)
        self._removed = removed
        self._file = UapiSocket(name, directory)
        self._socket: socket | None = None
        self._watch: inotify.INotify | None = None
        self._told = False

    def open(self) -> None:
        """Listen.

        Raises:
            HostError: as :meth:`pyvpn.net.uapi_socket.UapiSocket.open` says.
        """
        # Not adoptStreamPort: Twisted opens the file of a UNIX port to everybody.
        self._socket = self._file.open()
        self._reactor.addReader(self)
        self._watch_file()

    def close(self) -> None:
        """Stop listening, end all connections, remove the file if it is still ours."""
        if self._watch is not None:
            self._watch.loseConnection()
            self._watch = None
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket = None
        self._factory.abort()
        self._file.close()

    # -- what the reactor calls

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return str(self._file.path)

    def doRead(self) -> None:
        """Accept who is waiting."""
        for _ in range(_ACCEPTS):
            if self._socket is None:
                return
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor left: the next turn would only find that again
                self._reactor.removeReader(self)
                self._reactor.callLater(_PAUSE_SECONDS, self._read_again)
                return
            with connection:
                if _is_trusted(connection):
                    connection.setblocking(False)
                    self._reactor.adoptStreamConnection(
                        connection.fileno(), AF_UNIX, self._factory
                    )

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or has given us up."""

    def _read_again(self) -> None:
        if self._socket is not None:
            self._reactor.addReader(self)

    def _watch_file(self) -> None:
        path = FilePath(str(self._file.path))
        try:
            self._watch = inotify.INotify(self._reactor)
            self._watch.startReading()
            self._watch.watch(path, _REMOVED, callbacks=[self._file_changed])
        except inotify.INotifyError as error:
            _log.warn(
                "{path}: nobody will tell us if it is removed: {error}",
                path=path.path,
                error=str(error),
            )

    def _file_changed(self, _watch: object, _path: object, _mask: object) -> None:
        if self._socket is not None and not self._told and not self._file.is_ours:
            self._told = True
            self._removed()


def _is_trusted(connection: socket) -> bool:
    """Whether root or our own user is at the other end.  (The file's mode says so, too.)"""
    packed = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(packed)[1] in (_ROOT, os.geteuid())
