"""Outgoing TCP connections that stay outside the tunnel, and names that never hold the process.

A client's connection to its server must not run through the tunnel that it carries.  A host
route would do, and leaks: whatever else lives at that address is then reached in clear.  So every
socket made here carries a mark before its first packet, and one ``ip rule`` on the mark keeps it
outside.  Twisted has no hook between ``socket()`` and ``connect()``, hence the two subclasses.

Usage, and all of it::

    outside = MarkedReactor(reactor, mark)
    HostnameEndpoint(outside, host, port).connect(factory)

Each attempt asks for the name anew and tries all its addresses, IPv6 and IPv4, side by side.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet import tcp
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.errors import HostError
from pyvpn.net.threads import DaemonThreads

SEGMENT_BYTES = 1220
"""TCP's MSS, for both directions: it fits the least of IPv6 (1280 bytes), so the connection comes
through where larger packets vanish without a word (TCP hangs there in the TLS handshake)."""
USER_TIMEOUT_SECONDS = 30
"""For how long sent bytes may stay unacknowledged before the kernel ends the connection."""

LOOKUP_SECONDS = 10
"""For how long a name may take; the C library alone would wait half a minute or more."""

REMEMBERED_SECONDS = 2
"""For how long a name may take whose addresses are remembered from an earlier time."""

NAMES_REMEMBERED = 64

LOOKUPS_AT_ONCE = 4
LOOKUPS_WAITING = 8
"""A lookup that hangs keeps its thread, so a dead resolver must not collect them without end."""


def prepare_socket(sock: socket.socket, mark: int, device: str = "") -> None:
    """Set on an unconnected TCP *sock* what every outgoing connection of ours has.

    Args:
        device: the interface that it shall leave by; empty: any.

    Raises:
        HostError: as for :func:`mark_socket`.
    """
    if device:
        # Where the server's tunnel address is not routed, routes would take it elsewhere.  Before
        # Linux 5.7 this needs CAP_NET_RAW, and routes must do.
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # heartbeats measure time
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    mark_socket(sock, mark)


def mark_socket(sock: socket.socket, mark: int) -> None:
    """Let what *sock* sends carry *mark*.

    Args:
        mark: SO_MARK, the number that the ``ip rule`` knows us by; 0: none.

    Raises:
        HostError: we may not set the mark.
    """
    if mark:
        try:
            # As bytes: Python takes no int beyond 2**31 - 1 here, the kernel 32 bits.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
        except PermissionError:
            raise HostError(
                "no permission to mark the connection to the server (SO_MARK): run with"
                " CAP_NET_ADMIN, as etc/systemd does, or write `fwmark = 0` if the server is"
                " never reached through a route of the tunnel"
            ) from None


class _MarkedClient(tcp.Client):
    """A TCP client whose socket is prepared before it connects."""

    connector: _MarkedConnector

    def createInternetSocket(self) -> socket.socket:
        sock: socket.socket = super().createInternetSocket()
        try:
            prepare_socket(sock, self.connector.mark, self.connector.device)
        except BaseException:
            sock.close()
            raise
        return sock


class _MarkedConnector(tcp.Connector):
    """Makes marked clients; `_makeTransport` is how Twisted's own connectors differ."""

    mark = 0
    device = ""

    def _makeTransport(self) -> _MarkedClient:
        return _MarkedClient(self.host, self.port, self.bindAddress, self, self.reactor)


@implementer(IHostResolution)
class _Lookup:
    """One name being asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: Deferred[Sequence[tuple[Any, ...]]] = succeed(())

    def cancel(self) -> None:
        """Stop waiting; the receiver is told that nothing was found."""
        self.found.cancel()


_FAMILIES = {IPv4Address: socket.AF_INET, IPv6Address: socket.AF_INET6}
_ADDRESSES: dict[int, Callable[..., IAddress]] = {
    socket.AF_INET: IPv4Address,
    socket.AF_INET6: IPv6Address,
}
_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


@implementer(IHostnameResolver)
class DaemonResolver:
    """Resolves names by the C library (hosts file, search list, ...) in threads nobody awaits.

    A name that cannot be resolved, takes longer than :data:`LOOKUP_SECONDS` or finds all threads
    taken has no addresses; the reason is in the log.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        threads: DaemonThreads,
        getaddrinfo: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo,
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._getaddrinfo = getaddrinfo
        # The name server may only be reached through the tunnel whose far end we look for: then
        # what the name meant last is the one way back.
        self._remembered: dict[tuple[Any, ...], Sequence[tuple[Any, ...]]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Begin to look *hostName* up; the interface says how the receiver is told."""
        lookup = _Lookup(hostName)
        resolutionReceiver.resolutionBegan(lookup)
        families = {_FAMILIES[each] for each in addressTypes or _FAMILIES}
        family = families.pop() if len(families) == 1 else socket.AF_UNSPEC
        question = (hostName, portNumber, family, _KINDS[transportSemantics])
        if isIPAddress(hostName) or isIPv6Address(hostName):
            # Nothing to look up, so nothing that all threads being taken should hold back.
            lookup.found = maybeDeferred(self._getaddrinfo, *question, 0, socket.AI_NUMERICHOST)
        else:
            lookup.found = self._threads.run(self._getaddrinfo, *question)
            patience = REMEMBERED_SECONDS if question in self._remembered else LOOKUP_SECONDS
            lookup.found.addTimeout(patience, self._clock)

        def remember(answers: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
            if question in self._remembered or len(self._remembered) < NAMES_REMEMBERED:
                self._remembered[question] = answers
            return answers

        def nothing(failure: Failure) -> Sequence[tuple[Any, ...]]:
            if failure.check(CancelledError):
                return ()
            known = self._remembered.get(question, ())
            self._log.info(
                "{name}: {error}{instead}",
                name=hostName,
                error=failure.getErrorMessage() or "no answer",
                instead="; trying the addresses it had before" if known else "",
            )
            return known

        def tell(answers: Sequence[tuple[Any, ...]]) -> None:
            for answer_family, _, _, _, place in answers:
                resolutionReceiver.addressResolved(
                    _ADDRESSES[answer_family](transportSemantics, *place)
                )
            resolutionReceiver.resolutionComplete()

        lookup.found.addCallbacks(remember, nothing)
        lookup.found.addCallback(tell)
        lookup.found.addErrback(lambda failure: self._log.failure("a receiver failed", failure))
        return lookup


@implementer(IReactorTime, IReactorPluggableNameResolver)
class MarkedReactor:
    """The part of *reactor* that ``HostnameEndpoint`` uses, for connections outside the tunnel.

    Args:
        reactor: the real one.
        mark: of every socket made here (see :func:`prepare_socket`).
        resolver: of names; by default one with its own few threads.
        device: the interface that connections leave by; empty: any.
    """

    nameResolver: IHostnameResolver

    def __init__(
        self,
        reactor: Any,
        mark: int,
        resolver: IHostnameResolver | None = None,
        device: str = "",
    ) -> None:
        self._reactor = reactor
        self._mark = mark
        self._device = device
        if resolver is None:
            threads = DaemonThreads(reactor, LOOKUPS_AT_ONCE, "resolver", LOOKUPS_WAITING)
            resolver = DaemonResolver(reactor, threads)
        self.nameResolver = resolver

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Use *resolver* from now on, here only; return the one used before."""
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> IConnector:
        """Connect as ``IReactorTCP.connectTCP`` does, by a prepared socket.

        Raises:
            HostError: we may not set the mark; endpoints turn this into a failure.
        """
        connector = _MarkedConnector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.mark = self._mark
        connector.device = self._device
        connector.connect()
        return connector

    def seconds(self) -> float:
        """The time of the real reactor."""
        return float(self._reactor.seconds())

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Schedule with the real reactor."""
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return what is scheduled with the real reactor."""
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls
