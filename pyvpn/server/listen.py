"""From a listening port to a control link: PROXY header where a relay sends one, TLS, frames."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from twisted.internet.address import IPv4Address as TCP4Address
from twisted.internet.address import IPv6Address as TCP6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorTCP,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.protocols.haproxy import proxyEndpoint
from zope.interface import implementer

from pyvpn.config import Endpoint
from pyvpn.errors import HostError
from pyvpn.net.control import ControlLink
from pyvpn.net.link_owner import LinkOwner
from pyvpn.net.tls_transport import Terms, TlsFactory

_HINTS = {
    errno.EADDRINUSE: "is another server running?  listen = ... names another port",
    errno.EADDRNOTAVAIL: "listen = ... takes an address that this host has, or a port alone",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}

_MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with where an IPv6 one is asked for (RFC 4291 section 2.5.5.2)."""

BACKLOG = 1024
"""Connections the kernel holds until we come round to them; 50 would be Twisted's default."""


def packed_source(address: object) -> bytes | None:
    """The packed address of a Twisted peer; an IPv4 address stays one on a dual-stack socket."""
    if not isinstance(address, TCP4Address | TCP6Address):
        return None
    host = address.host.partition("%")[0]
    try:
        packed = inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except (OSError, ValueError):
        return None
    return packed[len(_MAPPED) :] if packed.startswith(_MAPPED) else packed


class Relays:
    """Networks whose hosts pass other people's connections on to us.

    All their clients share one source, so limits per source would punish the innocent.

    Args:
        trusted: relays and port forwards that say nothing about the client.
        speaking: relays that send a PROXY protocol header (version 1 or 2) first.
    """

    def __init__(
        self,
        trusted: Iterable[IPv4Network | IPv6Network] = (),
        speaking: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        self.replace(trusted, speaking)

    def replace(
        self,
        trusted: Iterable[IPv4Network | IPv6Network],
        speaking: Iterable[IPv4Network | IPv6Network],
    ) -> None:
        """Trust these from now on."""
        self._trusted = tuple(trusted)
        self._speaking = tuple(speaking)

    def speaks(self, packed: bytes | None) -> bool:
        return packed is not None and _within(packed, self._speaking)

    def exempts(self, packed: bytes) -> bool:
        """Whether many clients share the *packed* address, so that no limit is right for it."""
        return _within(packed, self._trusted) or _within(packed, self._speaking)

    def source_of(self, link: ControlLink) -> tuple[bytes | None, str]:
        """The packed address of *link*'s far end, or None if it is a relay; and for people."""
        assert link.transport is not None
        packed = packed_source(link.transport.getPeer())
        if packed is None:
            return None, "an unknown place"
        if self.exempts(packed):
            return None, f"relay {ip_address(packed)}"
        return packed, str(ip_address(packed))


def _within(packed: bytes, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    if not networks:
        return False
    address = ip_address(packed)
    return any(address in network for network in networks)


class LinkFactory(Factory):
    """Makes the control links of one owner."""

    noisy = False

    def __init__(
        self, owner: LinkOwner, clock: IReactorTime, *, version: float, tls: bool
    ) -> None:
        self._owner = owner
        self.clock = clock
        self._version = version
        self._tls = tls

    def buildProtocol(self, addr: IAddress | None) -> ControlLink:
        return ControlLink(
            self._owner, self.clock, version=self._version, initiator=False, tls=self._tls
        )


class Door(Factory[Any]):
    """Chooses, by where a connection comes from, whether a PROXY header is expected.

    Relays and certificate may be exchanged while it is open; open connections keep theirs.
    """

    noisy = False

    def __init__(self, links: LinkFactory, terms: Terms, relays: Relays) -> None:
        self._links = links
        self.relays = relays
        self.use(terms)

    def use(self, terms: Terms) -> None:
        """Take another certificate for the connections to come."""
        self._direct = TlsFactory(terms, self._links)
        self._relayed = _behind_proxy_header(self._direct)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        relayed = self.relays.speaks(packed_source(addr))
        factory = self._relayed if relayed else self._direct
        return factory.buildProtocol(addr)  # type: ignore[arg-type]  # None is allowed above


@implementer(IStreamServerEndpoint)
class _Nowhere:
    """An endpoint that listens on nothing and hands back the factory it was given."""

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return succeed(protocolFactory)


def _behind_proxy_header(factory: IProtocolFactory) -> IProtocolFactory:
    """*factory* behind Twisted's PROXY protocol reader.

    Twisted offers that reader publicly for whole endpoints only, and ours must share its port
    with connections that bring no header.
    """
    wrapped: list[IProtocolFactory] = []
    proxyEndpoint(_Nowhere()).listen(factory).addCallback(wrapped.append)
    return wrapped[0]


def listen_everywhere(
    reactor: IReactorTCP, endpoints: Iterable[Endpoint], factory: IProtocolFactory
) -> list[IListeningPort]:
    """Listen on all of *endpoints*; the empty host is every address, IPv6 and IPv4.

    Raises:
        HostError: one of them cannot be had; none is left listening then.
    """
    ports: list[IListeningPort] = []
    try:
        for endpoint in endpoints:
            ports.append(_listen(reactor, endpoint, factory))
    except CannotListenError as problem:
        for port in ports:
            port.stopListening()
        number = getattr(problem.socketError, "errno", None)
        reason = getattr(problem.socketError, "strerror", None) or str(problem.socketError)
        hint = _HINTS.get(number or 0, "[server] listen = ... names another port")
        raise HostError(
            f"cannot listen on TCP {endpoint.host or '*'} port {endpoint.port}: {reason}: {hint}"
        ) from problem
    return ports


def _listen(reactor: IReactorTCP, endpoint: Endpoint, factory: IProtocolFactory) -> IListeningPort:
    listen: Callable[..., IListeningPort] = reactor.listenTCP
    if endpoint.host:
        return listen(endpoint.port, factory, BACKLOG, interface=endpoint.host)
    try:
        return listen(endpoint.port, factory, BACKLOG, interface="::")
    except CannotListenError as problem:
        number = getattr(problem.socketError, "errno", None)
        if number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return listen(endpoint.port, factory, BACKLOG, interface="0.0.0.0")  # noqa: S104
        raise
