"""Where a server may be by UDP, as its registration answer says it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyvpn.config import Endpoint
from pyvpn.wire.datagram import Path
from pyvpn.wire.messages import RegisterAnswer

MOST_PLACES = 16

IpAddress = IPv4Address | IPv6Address


def readable_endpoints(offer: RegisterAnswer) -> list[Endpoint]:
    """The places in *offer* that can be read; the others are as good as not said."""
    found: list[Endpoint] = []
    for text in offer.wireguard_endpoints[:MOST_PLACES]:
        host, _, port = text.rpartition(":")
        if port.isdecimal() and port.isascii() and 0 < int(port) < 65_536:
            found.append(Endpoint(host.strip("[]"), int(port)))
    return found


def ports_of(offer: RegisterAnswer) -> list[int]:
    """The ports that are offered at the address of the control connection."""
    return list(dict.fromkeys(each.port for each in readable_endpoints(offer) if not each.host))


def literal(endpoint: Endpoint) -> IpAddress | None:
    """The address that *endpoint* is; None: it is a name."""
    try:
        return ip_address(endpoint.host)
    except ValueError:
        return None


def places_of(offer: RegisterAnswer, server: IpAddress | None) -> list[Path]:
    """Where to try, in the server's order; "" is where the control connection leads."""
    paths: list[Path] = []
    for endpoint in readable_endpoints(offer):
        address = literal(endpoint) if endpoint.host else server
        if address is not None and may_be_a_server(address):
            scope = 0
            if isinstance(address, IPv6Address) and address.scope_id:
                scope = _interface(address.scope_id)
            paths.append(Path(address.packed, endpoint.port, scope))
    return list(dict.fromkeys(paths))


def may_be_a_server(address: IpAddress) -> bool:
    """Whether a host may be there: what a server names is not always meant well."""
    return not (address.is_loopback or address.is_multicast or address.is_unspecified)


def _interface(scope: str) -> int:
    try:
        return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError:
        return 0
