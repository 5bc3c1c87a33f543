"""The file for a stock WireGuard app, as wg-quick(8) reads it, and its picture for a phone."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvpn.crypto.x25519 import key_to_base64

if TYPE_CHECKING:
    from pyvpn.config import Address, Endpoint, Network, ServerConfig

NOWHERE = "ADDRESS-OF-THIS-SERVER"
"""Stands where a person must write the server's name."""

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - told apart from addresses, not bound


@dataclass(frozen=True, kw_only=True)
class DeviceFile:
    """What a device needs to know."""

    title: str
    """One line, for people."""
    private_key: bytes | None = field(repr=False)
    """None: it has made its key itself, and the file has a place for it."""
    public_key: bytes
    """The device's own."""
    preshared_key: bytes | None = field(repr=False)
    addresses: tuple[Address, ...]
    dns: tuple[Address, ...]
    mtu: int
    server_key: bytes
    allowed: tuple[Network, ...]
    """What lies behind the server."""
    endpoint: Endpoint
    keepalive: int
    """Seconds; 0: none."""

    @property
    def is_secret(self) -> bool:
        """Whether somebody who reads it could do harm with it."""
        return self.private_key is not None or self.preshared_key is not None

    def text(self, *, comments: bool = True) -> str:
        """The file; without *comments* it makes a smaller picture."""
        lines = [f"# {self.title}"] if comments else []
        lines.append("[Interface]")
        if self.private_key is not None:
            lines.append(f"PrivateKey = {key_to_base64(self.private_key)}")
        elif comments:
            lines += [
                "# The private key stayed on the device. It belongs here, the one whose public",
                f"# key is {key_to_base64(self.public_key)}",
                "#PrivateKey = ",
            ]
        lines.append(f"Address = {', '.join(f'{a}/{a.max_prefixlen}' for a in self.addresses)}")
        if self.dns:
            lines.append(f"DNS = {', '.join(map(str, self.dns))}")
        lines += [f"MTU = {self.mtu}", "", "[Peer]"]
        lines.append(f"PublicKey = {key_to_base64(self.server_key)}")
        if self.preshared_key is not None:
            lines.append(f"PresharedKey = {key_to_base64(self.preshared_key)}")
        lines.append(f"AllowedIPs = {', '.join(map(str, self.allowed))}")
        lines.append(f"Endpoint = {self.endpoint}")
        if self.keepalive:
            lines.append(f"PersistentKeepalive = {self.keepalive}")
        return "\n".join(lines) + "\n"


def without_covered(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Each network once, and none that lies inside another: more would only be longer."""
    every = list(dict.fromkeys(networks))
    return tuple(one for one in every if not any(_covers(other, one) for other in every))


def _covers(large: Network, small: Network) -> bool:
    return (
        large.version == small.version
        and large.prefixlen < small.prefixlen
        and small.network_address in large
    )


def endpoint_of(server: ServerConfig, source: str | None) -> Endpoint:
    """Where an app finds *server*, by UDP; its host is :data:`NOWHERE` if nobody knows.

    Args:
        source: this host's own address, for a server that is told no better; None if unknown.
    """
    from pyvpn.config import Endpoint

    own = server.wireguard
    if own.public_endpoints:
        return own.public_endpoints[0]
    port = server.wireguard_listen[0].port
    if server.public_endpoints:
        # Whatever passes TCP on does so with UDP too, unless that has a port of its own.
        host, outer = server.public_endpoints[0]
        return Endpoint(host, outer if own.listen is None else port)
    for each in server.wireguard_listen:
        if each.host not in _EVERYWHERE:
            return each
    return Endpoint(source or NOWHERE, port)


class TooLong(Exception):
    """The text is longer than a QR code can be."""


def qr_code(text: str) -> list[str]:
    """*text* as a QR code: lines of equal length, a light module a full block.

    Raises:
        TooLong: more than 2953 characters.
    """
    import segno
    from segno.encoder import DataOverflowError

    try:
        code = segno.make_qr(text, error="l", boost_error=False)  # a screen has no scratches
    except DataOverflowError:
        raise TooLong(f"{len(text)} characters are too many for a QR code") from None
    drawn = io.StringIO()
    code.terminal(drawn, border=2, compact=True)
    return drawn.getvalue().splitlines()
