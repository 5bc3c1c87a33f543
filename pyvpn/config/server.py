"""What stands in the server's file."""
# ruff: noqa: RUF009 - option() and section() are dataclasses.field, with a table entry

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import ClassVar

from pyvpn.config.addresses import (
    Address,
    Endpoint,
    Network,
    address,
    host,
    listen_endpoint,
    network,
    network4,
    network6,
    overlap,
    relays,
    remote_endpoint,
)
from pyvpn.config.plain import PLAIN, Plain
from pyvpn.config.table import Contradiction, Loaded, load, option, section
from pyvpn.config.values import duration, list_of, matching, optional, path, whole, words, yes_no
from pyvpn.config.wireguard import WIREGUARD, WireGuard
from pyvpn.tunnel.acceptance import MOST_DNS, MOST_ROUTES

device_name = matching(
    r"(?!(?:lo|all|default)$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}",
    "an interface's name: at most 15 letters, digits and . _ -, and not lo, all or default",
)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """[tls] The certificate to show, and what to write into our own."""

    certificate: Path | None = option(
        "",
        optional(path),
        "Your own certificate with its chain (PEM), if clients shall recognise the server by its "
        "name instead of its pin. Without it the server makes one at its first start.",
    )
    private_key: Path | None = option(
        "", optional(path), "The key of that certificate (PEM, mode 0600). Both or neither."
    )
    names: tuple[str, ...] = option(
        "",
        list_of(host),
        "Names and addresses to put into the certificate the server makes for itself. Not needed "
        "by clients that have the pin.",
    )


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """[tunnel] What clients get; times in seconds, mtu in bytes of IP packet."""

    device: str = option("pyvpn0", device_name, "The name of the tunnel's network interface.")
    network4: IPv4Network | None = option(
        "10.73.0.0/24",
        words(network4(8, 30, "10.73.0.0/24"), none=None),
        "The IPv4 addresses clients get; the first one is the server's own. Choose a network "
        "nobody has at home or in the office. none: no IPv4 inside the tunnel.",
    )
    network6: IPv6Network | None = option(
        "fd70:7976:706e::/64",
        words(network6(48, 126, "fd70:7976:706e::/64"), none=None),
        "The same for IPv6. If you join several sites, give each a prefix of its own "
        "(RFC 4193: fd and 40 random bits). none: no IPv6 inside the tunnel.",
    )
    mtu: int = option(
        "1420",
        whole(1280, 9000),
        "The largest packet inside the tunnel, in bytes. 1420 fits any path that carries 1500 "
        "outside; IPv6 needs at least 1280.",
    )
    routes: tuple[Network, ...] | None = option(
        "auto",
        words(list_of(network, MOST_ROUTES), auto=None, none=()),
        "The networks behind this server that clients may reach, separated by commas. auto: the "
        "private networks on its own interfaces, printed at start. none: the server alone.",
    )
    dns: tuple[Address, ...] = option(
        "", list_of(address, MOST_DNS), "Name servers to tell clients about, separated by commas."
    )
    client_to_client: bool = option(
        "no",
        yes_no,
        "May clients reach each other? No: one client's trouble stays its own.",
    )
    heartbeat: float = option(
        "10s",
        duration("1s", "5m"),
        "How often a client says that it is there. Shorter finds a dead path sooner, longer "
        "spares batteries; NAT routers forget silent connections after minutes.",
    )
    expiry: float = option(
        "60s",
        duration("3s", "1h"),
        "After this long without a word a client counts as gone. More than twice the heartbeat.",
    )


@dataclass(frozen=True, kw_only=True)
class Leases:
    """[leases] How long addresses stay reserved; times in seconds."""

    sticky: float = option(
        "30d",
        duration("0s", "3650d"),
        "How long a device that left finds its address again. When the pool is full, the one "
        "that left first gives way.",
    )
    quarantine: float = option(
        "60s",
        duration("0s", "1d"),
        "How long an address rests before another device gets it, so that late packets for the "
        "one are not received by the other. Yields when nothing else is free.",
    )


@dataclass(frozen=True, kw_only=True)
class Firewall:
    """[firewall] What we may change on this host besides our own interface."""

    manage: bool = option(
        "yes",
        yes_no,
        "May the server switch on forwarding and keep one nft table of its own while it runs? "
        "All of it is undone at stop. No: it touches neither nft nor sysctl, you do.",
    )
    masquerade: bool = option(
        "yes",
        yes_no,
        "Do clients appear in the LAN with the server's address? No: hosts there need a route "
        "to the tunnel's networks by way of this server.",
    )


@dataclass(frozen=True, kw_only=True)
class ServerConfig(Loaded):
    """What the server shall do. Times are seconds."""

    OWN: ClassVar[str] = "server"
    HOW_TO_MAKE: ClassVar[str] = "make one with  python3 -m pyvpn.config server > {path}"
    ABOUT: ClassVar[str] = """\
The configuration of pyvpn's server: twistd -n vpnserver --config FILE

Works as it is. Each option stands here with its default, as a comment: remove the '#' to \
change it. A comment needs a line of its own. Times are written 90s, 5m, 12h, 30d. Relative \
paths begin in the directory the server is started in. After a change: kill -HUP."""

    state_dir: Path = option(
        "/var/lib/pyvpn",
        path,
        "Where keys, certificates, users and leases are kept (mode 0700). Losing it means that "
        "every client must join again: include it in your backups.",
    )
    listen: tuple[Endpoint, ...] = option(
        "51820",
        list_of(listen_endpoint),
        "Where clients connect. A port alone means every address, IPv4 and IPv6. Others: "
        "192.0.2.1:51820, [2001:db8::1]:51820, several separated by commas.",
    )
    public_endpoints: tuple[Endpoint, ...] = option(
        "",
        list_of(remote_endpoint),
        "Where clients find this server from outside, host or host:port, if it is behind a port "
        "forward or a relay. Without it the server can only tell its own addresses.",
    )
    trusted_relays: tuple[Network, ...] = option(
        "",
        list_of(relays),
        "Relays in front of this server: all clients come from their addresses, so limits for "
        "each source do not apply to these. Addresses or networks.",
    )
    proxy_protocol_relays: tuple[Network, ...] = option(
        "",
        list_of(relays),
        "Relays that say in a PROXY protocol header who the client is. The header is required "
        "from them and taken from nobody else, since it could be forged.",
    )
    unauthenticated_connections: int = option(
        "512",
        whole(16, 65536),
        "How many connections may be open that have not logged in yet. A newer one replaces the "
        "oldest, so a flood of them keeps nobody out.",
    )
    unauthenticated_per_source: int = option(
        "16", whole(1, 65536), "The same for one source (an IPv4 address, an IPv6 /64)."
    )
    reauth_after: float | None = option(
        "never",
        words(duration("60s", "3650d"), never=None),
        "After this long a known device must show a password again. never: its certificate is "
        "enough until the password changes or the user is disabled.",
    )
    tls: Tls = section(Tls, "")
    tunnel: Tunnel = section(Tunnel, "")
    leases: Leases = section(Leases, "")
    firewall: Firewall = section(Firewall, "")
    wireguard: WireGuard = section(WireGuard, WIREGUARD)
    plain: Plain = section(Plain, PLAIN)

    @property
    def wireguard_listen(self) -> tuple[Endpoint, ...]:
        """Where WireGuard is spoken, by UDP; nowhere if empty."""
        return self.listen if self.wireguard.listen is None else self.wireguard.listen

    def contradictions(self) -> Iterator[Contradiction]:
        """What is wrong although each value by itself is right."""
        yield from self._of_addresses()
        yield from self._of_the_tunnel()
        yield from self.plain.contradictions(
            self, self.listen, self.tunnel.network4, self.tunnel.mtu
        )
        yield from self.wireguard.contradictions(self.plain.udp_listen)
        if (self.tls.certificate is None) != (self.tls.private_key is None):
            missing = "certificate" if self.tls.certificate is None else "private_key"
            yield Contradiction(
                "tls", ("certificate", "private_key"), f"{missing} as well: both or neither"
            )

    def _of_addresses(self) -> Iterator[Contradiction]:
        if not self.listen:
            yield Contradiction("server", ("listen",), "at least one port")
        for one, other in itertools.combinations(self.listen, 2):
            if one.overlaps(other):
                expected = f"{one} or {other}, not both: one of them includes the other"
                yield Contradiction("server", ("listen",), expected)
        for relay in self.proxy_protocol_relays:
            for trusted in self.trusted_relays:
                if overlap(relay, trusted):
                    expected = f"{relay} here or in trusted_relays, not in both"
                    yield Contradiction("server", ("proxy_protocol_relays",), expected)
        most = self.unauthenticated_connections
        if self.unauthenticated_per_source > most:
            yield Contradiction(
                "server",
                ("unauthenticated_per_source", "unauthenticated_connections"),
                f"unauthenticated_per_source not above unauthenticated_connections ({most})",
            )

    def _of_the_tunnel(self) -> Iterator[Contradiction]:
        tunnel = self.tunnel
        if tunnel.expiry <= 2 * tunnel.heartbeat:
            yield Contradiction(
                "tunnel",
                ("expiry", "heartbeat"),
                f"expiry more than twice heartbeat ({tunnel.heartbeat:g}s), "
                f"or one lost heartbeat ends a session",
            )
        if tunnel.network4 is None and tunnel.network6 is None:
            yield Contradiction(
                "tunnel", ("network4", "network6"), "network4 or network6, or both"
            )
        for each in tunnel.routes or ():
            if (tunnel.network4 if each.version == 4 else tunnel.network6) is None:
                expected = f"no {each}: there is no IPv{each.version} inside the tunnel"
                yield Contradiction("tunnel", ("routes",), expected)


def load_server(path: str | os.PathLike[str]) -> ServerConfig:
    """Read the server's file at *path*.

    Public endpoints without a port have got the first one the server listens on, by TCP or UDP.

    Raises:
        ConfigError: the operator's fault; one line for each thing wrong.
    """
    config = load(ServerConfig, path)
    udp = config.wireguard_listen or config.listen
    return dataclasses.replace(
        config,
        public_endpoints=_with_port(config.public_endpoints, config.listen[0].port),
        wireguard=dataclasses.replace(
            config.wireguard,
            public_endpoints=_with_port(config.wireguard.public_endpoints, udp[0].port),
        ),
    )


def _with_port(endpoints: tuple[Endpoint, ...], port: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(each.host, each.port or port) for each in endpoints)
