"""The way to the server: which of its places comes next, and a connection to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from pyvpn.client.device import Device
from pyvpn.client.machine import Link
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.client.plain_udp import open_link
from pyvpn.config import ClientConfig, Endpoint
from pyvpn.net.connect import MarkedReactor
from pyvpn.net.control import ControlLink
from pyvpn.net.tls import client_options
from pyvpn.net.tls_transport import connect_by_tls

CONNECT_SECONDS = 10.0
INSIDE_SECONDS = 5.0
"""Through the tunnel, which has just answered."""


class _LinkFactory(Factory[Any]):
    """Makes control links; several when addresses are tried side by side."""

    noisy = False

    def __init__(self, make_link: Callable[[], Link]) -> None:
        self._make_link = make_link

    def buildProtocol(self, addr: object) -> ControlLink:
        link = self._make_link()
        assert isinstance(link, ControlLink)
        return link


class Approach:
    """Connects to one after another of the server's endpoints, outside the tunnel.

    Args:
        make_link: makes the link of a new connection.
    """

    def __init__(self, reactor: Any, mark: int, make_link: Callable[[], Link]) -> None:
        self._reactor = reactor
        self._mark = mark
        self._outside = MarkedReactor(reactor, mark)
        self._make_link = make_link
        self._links = _LinkFactory(make_link)
        self._next = 0
        self._last = 0

    @property
    def resolver(self) -> Any:
        """Looks names up outside the tunnel."""
        return self._outside.nameResolver

    def next_of(self, config: ClientConfig) -> Endpoint:
        """The endpoint whose turn it is."""
        endpoints = config.server.endpoints
        self._last, self._next = self._next, self._next + 1
        return endpoints[self._last % len(endpoints)]

    def worked(self) -> None:
        """The last one led to the server: it is tried first when the connection is lost."""
        self._next = self._last

    def connect_inside(
        self, address: str, port: int, interface: str, config: ClientConfig, device: Device
    ) -> Deferred[Any]:
        """Connect to the server's own *address* in the tunnel, by that *interface*.

        Without the mark, which would keep it outside.  Who answers is verified as ever.

        Raises:
            ConfigError: as for :meth:`connect`.
        """
        inside = MarkedReactor(self._reactor, 0, self.resolver, interface)
        way = HostnameEndpoint(inside, address, port, timeout=INSIDE_SECONDS)
        name = config.server.endpoints[self._last % len(config.server.endpoints)].host
        return _by_tls(way, name, config, device, self._links)

    def look_outside(
        self, config: ClientConfig, device: Device, make_link: Callable[[], Link]
    ) -> Deferred[Any]:
        """Connect as :meth:`connect` does, to the next endpoint, and make another kind of link."""
        endpoint = self.next_of(config)
        way = HostnameEndpoint(
            self._outside, endpoint.host, endpoint.port, timeout=CONNECT_SECONDS
        )
        return _by_tls(way, endpoint.host, config, device, _LinkFactory(make_link))

    def connect(
        self, endpoint: Endpoint, config: ClientConfig, device: Device | None
    ) -> Deferred[Any]:
        """Look the name up, try all its addresses; with a *device*, by TLS as that device.

        Fires when a TCP connection stands; TLS is still to come then.  By the first generation's
        UDP protocol it is one address after the other: nobody says whether one leads anywhere.

        Raises:
            ConfigError: the files that verify the server cannot be used.
        """
        if config.protocol == "plain-udp":
            link = self._make_link()
            assert isinstance(link, PlainUdpLink)
            turn = self._last // len(config.server.endpoints)
            resolver = self._outside.nameResolver
            opening = open_link(self._reactor, resolver, self._mark, endpoint, turn, link)
            return Deferred.fromCoroutine(opening)
        way: Any = HostnameEndpoint(
            self._outside, endpoint.host, endpoint.port, timeout=CONNECT_SECONDS
        )
        if device is not None:
            return _by_tls(way, endpoint.host, config, device, self._links)
        connecting: Deferred[Any] = way.connect(self._links)
        return connecting


def _by_tls(
    way: Any, name: str, config: ClientConfig, device: Device, links: Factory[Any]
) -> Deferred[Any]:
    """Connect by *way* and TLS, as *device*, to a server of that *name*."""
    options = client_options(
        name,
        config.pin,
        config.ca_file,
        device.key if device.certificate else None,
        device.certificate,
    )
    return connect_by_tls(options, way, links)
