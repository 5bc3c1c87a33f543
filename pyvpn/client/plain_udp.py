"""The first generation's UDP protocol: how the client is taken in, and by which socket."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.task import deferLater

from pyvpn.client.lookup import look_up
from pyvpn.client.machine import Setback
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.config import ClientConfig, Endpoint
from pyvpn.errors import ConfigError, PeerError
from pyvpn.net.plain_udp import PlainPort
from pyvpn.tunnel.acceptance import EVERYTHING
from pyvpn.wire.command import PLAIN_VERSION
from pyvpn.wire.messages import Code, RegisterAnswer
from pyvpn.wire.plain_udp import (
    EXPIRY_SECONDS,
    HEARTBEAT_SECONDS,
    MTU,
    Addresses,
    is_fit,
)

PATIENT_SECONDS = 300.0
"""A person must act before the next try can go well."""


class PlainUdpDialogue:
    """Say the password, and be told both ends' addresses.

    Args:
        password: gives the password, or None when there is none; asked at each log-in.
    """

    version = PLAIN_VERSION
    tls = False
    has_heartbeats = False  # none that is answered: the link beats by itself
    is_on_file = False

    def __init__(self, config: ClientConfig, password: Callable[[], str | None]) -> None:
        self._config = config
        self._password = password

    def verify(self, link: object) -> None:
        """Nothing can be verified."""

    def ended(self, link: object, reason: Exception) -> None:
        """We say the same again."""

    async def introduce(self, link: PlainUdpLink) -> RegisterAnswer:
        try:
            password = (self._password() or "").encode()
        except ConfigError as error:
            raise Setback(str(error), PATIENT_SECONDS, serious=True) from None
        if not is_fit(password):
            why = "is none: r and e are commands" if password else "is needed, and none configured"
            raise Setback(f"a password {why}", PATIENT_SECONDS, serious=True)
        return self.offer(await link.log_in(password))

    def offer(self, addresses: Addresses) -> RegisterAnswer:
        """What *addresses* amount to, in the words of our own protocol.

        The server names no networks: those that the operator listed are meant, and the other end
        of the point-to-point link.
        """
        listed = self._config.tunnel.accept_routes
        routes = tuple(map(str, listed)) if listed != EVERYTHING else ()
        return RegisterAnswer(
            success=True,
            code=Code.OK,
            address4=f"{addresses.client}/32",
            server4=str(addresses.server),
            routes=(str(IPv4Network(addresses.server)), *routes),
            mtu=MTU,
            heartbeat=HEARTBEAT_SECONDS,
            expiry=EXPIRY_SECONDS,
        )


async def open_link(
    reactor: Any,
    resolver: IHostnameResolver,
    mark: int,
    endpoint: Endpoint,
    turn: int,
    link: PlainUdpLink,
) -> None:
    """Give *link* a socket connected to *endpoint*, outside the tunnel, and let it begin.

    Args:
        turn: which of several addresses, IPv4 first, counted round.

    Raises:
        PeerError: the name has no address, or no way leads there.
        HostError: we may not mark the socket.
    """
    await deferLater(reactor, 0)  # never before the caller has what he waits for
    addresses = await look_up(resolver, endpoint)
    if not addresses:
        raise PeerError("its name has no address")
    address = addresses[turn % len(addresses)]
    interface = "::" if isinstance(address, IPv6Address) else ""
    port = PlainPort(reactor, 0, link, interface, mark)
    try:
        port.startListening()
    except CannotListenError as error:
        raise PeerError(str(error)) from None
    try:
        port.connect(address.host, address.port)
    except OSError as error:
        port.stopListening()
        raise PeerError(error.strerror or str(error)) from None
    link.opened()
