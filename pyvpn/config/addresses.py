"""From an option's text to addresses, networks, endpoints and the link to a server.

Converters as in :mod:`pyvpn.config.values`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from pyvpn.config.values import Expected, list_of

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface
N = TypeVar("N", IPv4Network, IPv6Network)

NETWORK = "a network such as 192.168.0.0/16 or fd00:1::/64"
EVERY_NETWORK: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class Endpoint(NamedTuple):
    """Where to listen or to connect; host "" means every address of this machine."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return ":".join([each for each in (host, str(self.port or "")) if each])

    def overlaps(self, other: Endpoint) -> bool:
        """Listening on both cannot work: same port, and one's addresses include the other's."""
        if self.port != other.port:
            return False
        hosts = {self.host, other.host}
        if len(hosts) == 1 or "" in hosts:
            return True
        same_family = (":" in self.host) == (":" in other.host)
        return same_family and not hosts.isdisjoint(("0.0.0.0", "::"))  # noqa: S104 - compared


class Server(NamedTuple):
    """The server as a client knows it: where it is, how to recognise it, who we are there."""

    endpoints: tuple[Endpoint, ...]
    pin: str | None
    user: str


def address(value: str) -> Address:
    """An address other hosts can have: no loopback, no multicast."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        raise Expected("an address such as 192.0.2.53 or 2001:db8::53") from None
    if _special(found) or "%" in value:
        raise Expected("an address that an ordinary host can have")
    return found


def _special(found: Address) -> bool:
    mapped = isinstance(found, IPv6Address) and found.ipv4_mapped is not None
    return found.is_loopback or found.is_multicast or found.is_unspecified or mapped


def network(value: str) -> Network:
    """A network; an address alone is the network of one."""
    found = _interface(value, NETWORK)
    if found.ip != found.network.network_address:
        whole = _all_zero(found)
        raise Expected(f"{whole} or, for one address, {found.ip}")
    return found.network


def _all_zero(found: Interface) -> str:
    return f"a network, all 0 after the prefix: {found.network}"


def _interface(value: str, expected: str) -> Interface:
    """Address and prefix length; not the netmasks ``ipaddress`` would also take."""
    if not re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?", value):
        raise Expected(expected)
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        raise Expected(expected) from None
    if isinstance(found, IPv6Interface) and found.ip.ipv4_mapped is not None:
        raise Expected(f"{expected}; IPv4 is written as IPv4")
    return found


def interface(value: str) -> Interface:
    """An address of ours, with or without the prefix length of its network."""
    found = _interface(value, "an address such as 10.73.0.50 or 10.73.0.50/24")
    if _special(found.ip):
        raise Expected("an address that an ordinary host can have")
    return found


def network4(shortest: int, longest: int, example: str) -> Callable[[str], IPv4Network]:
    """An IPv4 network hosts can live in, with a prefix of *shortest* to *longest* bits."""
    return _bounded(
        IPv4Network,
        f"an IPv4 network from /{shortest} to /{longest}, such as {example}",
        range(shortest, longest + 1),
        [
            IPv4Network(each)
            for each in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
        ],
    )


def network6(shortest: int, longest: int, example: str) -> Callable[[str], IPv6Network]:
    """An IPv6 network hosts can live in, with a prefix of *shortest* to *longest* bits."""
    return _bounded(
        IPv6Network,
        f"an IPv6 network from /{shortest} to /{longest}, such as {example}",
        range(shortest, longest + 1),
        [IPv6Network(each) for each in ("::/8", "fe80::/10", "ff00::/8")],
    )


def _bounded(
    kind: type[N], expected: str, prefixes: range, impossible: list[N]
) -> Callable[[str], N]:
    def convert(value: str) -> N:
        found = _interface(value, expected)
        whole = found.network
        if "/" not in value or not isinstance(whole, kind) or whole.prefixlen not in prefixes:
            raise Expected(expected)
        if found.ip != whole.network_address:
            raise Expected(_all_zero(found))
        if any(overlap(whole, each) for each in impossible):
            raise Expected(f"{expected}, of addresses that ordinary hosts can have")
        return whole

    return convert


def overlap(one: Network, other: Network) -> bool:
    """They share an address; networks of different families never do."""
    return one.version == other.version and (
        one.network_address in other or other.network_address in one
    )


def relays(value: str) -> Network:
    """A network of relays: one that holds the whole world would trust everybody."""
    found = network(value)
    if found.prefixlen == 0:
        raise Expected("the relays' own addresses, not the whole world")
    return found


_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")


def host(value: str) -> str:
    """A host's name (punycode for other alphabets) or its address, in its shortest form."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        last = value.rstrip(".").rpartition(".")[2]
        if not _NAME.fullmatch(value) or len(value) > 253 or last.isdigit():
            raise Expected("a host's name or address") from None
        return value.lower()
    return str(found)


_ENDPOINT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?")


def remote_endpoint(value: str) -> Endpoint:
    """``host:port`` or ``host``; port 0 says that none was written."""
    match = _ENDPOINT.fullmatch(value)
    if not match:
        if value.count(":") > 1 and "[" not in value:
            raise Expected("an IPv6 address in brackets, such as [2001:db8::1]:51820")
        raise Expected("host:port, such as vpn.example.org:51820 or [2001:db8::1]:51820")
    if match[1] is not None and ":" not in match[1]:
        raise Expected("brackets around an IPv6 address only, such as [2001:db8::1]:51820")
    name = host(match[1] or match[2] or "")
    if name in ("0.0.0.0", "::"):  # noqa: S104 - refused, not bound
        raise Expected("an address one can connect to")
    return Endpoint(name, 0 if match[3] is None else _port(match[3]))


def _port(digits: str) -> int:
    if not 1 <= int(digits) <= 65535:
        raise Expected("a port from 1 to 65535")
    return int(digits)


def listen_endpoint(value: str) -> Endpoint:
    """``51820`` for every address of this machine, or ``address:port``."""
    expected = "a port, or address:port, such as 51820, 192.0.2.1:51820 or [2001:db8::1]:51820"
    if re.fullmatch("[0-9]{1,5}", value):
        return Endpoint("", _port(value))
    match = _ENDPOINT.fullmatch(value)
    if not match or match[3] is None:
        raise Expected(expected)
    try:
        found = ipaddress.ip_address(match[1] or match[2] or "")
    except ValueError:
        raise Expected(f"{expected}; not a name") from None
    return Endpoint(str(found), _port(match[3]))


def pin(value: str) -> str:
    """``sha256:`` and the base64url form of a SHA-256 over the server's public key."""
    # 43 characters carry 258 bits: the last one's lowest two must be 0, or it is a typing error.
    if not re.fullmatch("sha256:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", value):
        raise Expected("sha256: and 43 letters, digits, - and _, as the server printed it")
    return value


def user(value: str) -> str:
    """A user's name as servers know them; may be empty."""
    if not re.fullmatch("[A-Za-z0-9._@-]{0,64}", value):
        raise Expected("a user's name: at most 64 letters, digits and . _ - @")
    return value


SERVER = "the line the server printed, such as pyvpn://anna@vpn.example.org:51820?pin=sha256:..."


def server(value: str) -> Server:
    """``pyvpn://user@host:port,host:port?pin=...``, or only hosts and ports.

    User, ports and pin may be left out: "", 0 and None stand for them.
    """
    scheme, separator, rest = value.rpartition("://")
    if separator and scheme != "pyvpn":
        raise Expected(SERVER)
    rest, question, query = rest.partition("?")
    who, at, where = rest.rpartition("@")
    if not separator and (at or question):
        raise Expected(SERVER)
    if ":" in who:
        raise Expected("a link without a password: that goes into password_file")
    who = unquote_to_bytes(who).decode("utf-8", "replace")
    endpoints = list_of(remote_endpoint)(where.removesuffix("/"))
    if not endpoints:
        raise Expected(SERVER)
    if question and not query.startswith("pin="):
        raise Expected(f"nothing but pin= after the '?': {SERVER}")
    return Server(endpoints, pin(query[4:]) if question else None, user(who))
