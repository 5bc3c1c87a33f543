"""The way to the server: which of its places comes next, and a connection to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from pyvpn.client.device import Device
from pyvpn.client.dialogue import Dialogue
from pyvpn.client.machine import Link
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.client.plain_udp import PlainUdpDialogue, open_link
from pyvpn.config import ClientConfig, Endpoint
from pyvpn.net.connect import MarkedReactor
from pyvpn.net.control import ControlLink
from pyvpn.net.tls import client_options
from pyvpn.net.tls_transport import connect_by_tls
from pyvpn.tunnel.counters import Counters

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
    """Connects to one after another of the server's endpoints, outside the tunnel."""

    def __init__(self, reactor: Any, config: ClientConfig) -> None:
        self._reactor = reactor
        self._mark = config.tunnel.fwmark
        self._outside = MarkedReactor(reactor, self._mark)
        self._config = config
        self._device: Device | None = None
        self._next = 0
        self._last = 0

    def configure(self, config: ClientConfig, device: Device | None) -> None:
        """Go where *config* says from now on, by TLS as *device*.

        None: as nobody, by the first generation's protocol.
        """
        self._config, self._device = config, device

    @property
    def names(self) -> tuple[Endpoint, ...]:
        """Where the server is said to be."""
        return self._config.server.endpoints

    @property
    def resolver(self) -> Any:
        """Looks names up outside the tunnel."""
        return self._outside.nameResolver

    def next_of(self) -> Endpoint:
        """The endpoint whose turn it is."""
        self._last, self._next = self._next, self._next + 1
        return self._last_tried

    @property
    def _last_tried(self) -> Endpoint:
        return self.names[self._last % len(self.names)]

    def worked(self) -> None:
        """The last one led to the server: it is tried first when the connection is lost."""
        self.again()

    def again(self) -> None:
        """Nothing was found out about the last one: it is its turn once more."""
        self._next = self._last

    def connect_inside(
        self, address: str, port: int, interface: str, make_link: Callable[[], Link]
    ) -> Deferred[Any]:
        """Connect to the server's own *address* in the tunnel, by that *interface*.

        Without the mark, which would keep it outside.  Who answers is verified as ever.

        Raises:
            ConfigError: as for :meth:`connect`.
        """
        inside = MarkedReactor(self._reactor, 0, self.resolver, interface)
        way = HostnameEndpoint(inside, address, port, timeout=INSIDE_SECONDS)
        return self._by_tls(way, self._last_tried.host, make_link)

    def look_outside(self, make_link: Callable[[], Link]) -> Deferred[Any]:
        """Connect as :meth:`connect` does, to the next endpoint, and make another kind of link."""
        endpoint = self.next_of()
        return self._by_tls(self._way(endpoint), endpoint.host, make_link)

    def connect(self, endpoint: Endpoint, make_link: Callable[[], Link]) -> Deferred[Any]:
        """Look the name up, try all its addresses; with a device, by TLS as that device.

        Fires when a TCP connection stands; TLS is still to come then.  By the first generation's
        UDP protocol it is one address after the other: nobody says whether one leads anywhere.

        Raises:
            ConfigError: the files that verify the server cannot be used.
        """
        if self._config.protocol == "plain-udp":
            link = make_link()
            assert isinstance(link, PlainUdpLink)
            turn = self._last // len(self.names)
            opening = open_link(self._reactor, self.resolver, self._mark, endpoint, turn, link)
            return Deferred.fromCoroutine(opening)
        way = self._way(endpoint)
        if self._device is not None:
            return self._by_tls(way, endpoint.host, make_link)
        connecting: Deferred[Any] = way.connect(_LinkFactory(make_link))
        return connecting

    def _way(self, endpoint: Endpoint) -> Any:
        return HostnameEndpoint(
            self._outside, endpoint.host, endpoint.port, timeout=CONNECT_SECONDS
        )

    def _by_tls(self, way: Any, name: str, make_link: Callable[[], Link]) -> Deferred[Any]:
        """Connect by *way* and TLS, as our device, to a server of that *name*."""
        device = self._device
        assert device is not None
        options = client_options(
            name,
            self._config.pin,
            self._config.ca_file,
            device.key if device.certificate else None,
            device.certificate,
        )
        return connect_by_tls(options, way, _LinkFactory(make_link))


def make_link(owner: Any, dialogue: Dialogue, reactor: Any, counters: Counters) -> Link:
    """Return a link to speak *dialogue* by, as one that works for *owner*."""
    if isinstance(dialogue, PlainUdpDialogue):
        return PlainUdpLink(owner, reactor, counters)
    return ControlLink(
        owner,
        reactor,
        version=dialogue.version,
        initiator=True,
        tls=dialogue.tls,
        verify=dialogue.verify,
    )
