"""What stands in the client's file."""
# ruff: noqa: RUF009 - option() and section() are dataclasses.field, with a table entry

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import ClassVar

from pyvpn.config.addresses import (
    EVERY_NETWORK,
    Endpoint,
    Interface,
    Network,
    Server,
    interface,
    network,
    pin,
    server,
    user,
)
from pyvpn.config.passwords import first_line, is_open_to_others, private
from pyvpn.config.server import device_name
from pyvpn.config.table import Contradiction, Loaded, hidden, load, option, section
from pyvpn.config.values import (
    CIPHERS,
    Expected,
    choice,
    duration,
    list_of,
    matching,
    optional,
    path,
    secret,
    text,
    whole,
    words,
    yes_no,
)
from pyvpn.errors import ConfigError
from pyvpn.wire import plain_udp

PORT = 51820
EXAMPLE = "pyvpn://anna@vpn.example.org:51820?pin=sha256:..."
PLAIN_PORTS = {"plain-tcp": 51005, "plain-udp": plain_udp.PORT}
"""The ports of the first generation's programs."""


def _without_password(value: str) -> str:
    """A link as it may be shown: people know links with passwords in them, and try."""
    return re.sub(r"(//[^/@:]*):.*@", r"\1:***@", value, flags=re.DOTALL)


def _table(value: str) -> int:
    number = whole(1, 2**32 - 1)(value)
    if number in (253, 254, 255):
        raise Expected("a table of our own: 253, 254 and 255 are the system's")
    return number


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """[tunnel] What the server may do here; mtu in bytes of IP packet, times in seconds."""

    device: str = option("pyvpnc0", device_name, "The name of the tunnel's network interface.")
    accept_routes: tuple[Network, ...] = option(
        "yes",
        words(list_of(network), yes=EVERY_NETWORK, no=()),
        "Which networks may the server draw into the tunnel? yes: whatever the options below "
        "allow. no: none. Or a list: only what lies inside one of these, which may then also be a "
        "network around the server's own address. With plain-udp a list is what is routed.",
    )
    accept_default_route: bool = option(
        "no",
        yes_no,
        "May the server draw everything into the tunnel, the default route?",
    )
    accept_own_networks: bool = option(
        "no",
        yes_no,
        "May the server draw a network into the tunnel that this machine is in itself? Then "
        "your own printer and router are out of reach while the tunnel is up.",
    )
    accept_dns: bool = option("yes", yes_no, "May the server name the name servers to use?")
    address: tuple[Interface, ...] = option(
        "",
        list_of(interface),
        "Addresses to ask the server for, at most one IPv4 and one IPv6; it gives them if they "
        "are free. With plain-tcp one is needed, with its prefix length: 182.1.1.101/24.",
    )
    mtu: int | None = option(
        "",
        optional(whole(1280, 9000)),
        "A limit below what the server says, in bytes: for networks that lose large packets.",
    )
    fwmark: int = option(
        "51820",
        whole(1, 2**32 - 1, zero=True),
        "The mark of the client's own connection, which keeps it out of the tunnel. Change it "
        "if another program uses it. 0: no mark and no rule.",
    )
    table: int = option(
        "51820",
        _table,
        "The routing table that holds the tunnel's routes.",
    )
    cipher: str = option(
        "auto",
        choice(*CIPHERS),
        "What seals packets that go by UDP. auto: AES-256-GCM if this processor and the server's "
        "have instructions for it, because it is faster then; else WireGuard's "
        "ChaCha20-Poly1305. chacha20-poly1305: that alone, for who wants one cipher.",
    )
    max_backoff: float = option(
        "60s", duration("1s", "1h"), "The longest pause between two tries to connect."
    )


@dataclass(frozen=True, kw_only=True)
class ClientConfig(Loaded):
    """What the client shall do."""

    OWN: ClassVar[str] = "client"
    HOW_TO_MAKE: ClassVar[str] = (
        "make one with  pyvpn join LINK --config {path}  (the server prints its LINK at its start)"
    )
    ABOUT: ClassVar[str] = """\
The configuration of pyvpn's client: twistd -n vpnclient --config FILE

Set server, the first option, to the line the server printed at its start; the rest may stay as \
it is. Each option stands here with its default, as a comment: remove the '#' to change it. A \
comment needs a line of its own. Times are written 90s, 5m, 1h. Relative paths begin in the \
directory the client is started in. A file with a password in it must have mode 0600."""

    server: Server = option(
        EXAMPLE,
        server,
        "The server: the link it printed. Or only host:port, several separated by commas, each "
        "of which is tried. Without a port, 51820 is meant.",
        required="the line the server printed at its start",
        conceal=_without_password,
    )
    user: str = option("", user, "The user, if the link does not name one or another is meant.")
    pin: str | None = option(
        "",
        optional(pin),
        "What the server's key must be (sha256:...), if the link does not say it. With a pin no "
        "name or authority is asked.",
    )
    ca_file: Path | None = option(
        "",
        optional(path),
        "The authorities (PEM) that may vouch for the server's name, for use without a pin. "
        "Without either it is this system's authorities.",
    )
    password: str | None = option(
        "",
        secret,
        "The password, as it stands, without quotation marks. Needed until the server knows "
        "this device. One of these three; with none the client asks at the terminal.",
        conceal=hidden,
    )
    password_file: Path | None = option(
        "",
        optional(path),
        "A file whose first line is the password, mode 0600; with systemd's LoadCredential "
        "/run/credentials/pyvpn-client.service/password.",
    )
    password_env: str | None = option(
        "",
        optional(matching("[A-Za-z_][A-Za-z0-9_]{0,63}", "the name of an environment variable")),
        "The name of an environment variable that holds the password.",
    )
    state_dir: Path = option(
        "/var/lib/pyvpn-client",
        path,
        "Where this device's key and certificate are kept (mode 0700). They are the device: "
        "whoever copies them is it.",
    )
    protocol: str = option(
        "pyvpn",
        choice("pyvpn", "plain-tcp", "plain-udp"),
        "plain-tcp, plain-udp: the first generation's protocols, without encryption, for lessons "
        "and laboratories (ports 51005 and 2003 if the server option has none).",
    )
    transport: str = option(
        "auto",
        choice("auto", "udp", "tcp"),
        "How packets travel. auto: by UDP where it answers, else along the TLS connection, and "
        "back; no connection inside the tunnel notices. udp: never along the TLS connection, "
        "which only negotiates. tcp: never by UDP.",
    )
    device_name: str = option(
        "", text(64), "What people call this device in the server's lists. Empty: its host name."
    )
    tunnel: Tunnel = section(Tunnel, "")

    @property
    def plain(self) -> bool:
        """One of the first generation's protocols is spoken."""
        return self.protocol in PLAIN_PORTS

    def contradictions(self) -> Iterator[Contradiction]:
        """What is wrong although each value by itself is right."""
        secrets = ("password", "password_file", "password_env")
        given = [name for name in secrets if getattr(self, name) is not None]
        if len(given) > 1:
            yield Contradiction("client", (given[-1],), f"only one of {', '.join(secrets)}")
        if self.password is not None and self.open_to_others:
            yield Contradiction("client", ("password",), private(self.path))
        # Said at the start, also while the server knows the device and nobody reads it.
        if self.password_file is not None and is_open_to_others(self.password_file):
            yield Contradiction("client", ("password_file",), private(self.password_file))
        if self.pin and self.server.pin and self.pin != self.server.pin:
            yield Contradiction(
                "client", ("pin",), "the same pin as in the server option, or none"
            )
        if self.ca_file is not None and (self.pin or self.server.pin):
            yield Contradiction("client", ("ca_file",), "a pin or ca_file, not both")
        if self.plain:
            yield from self._of_plain()
        else:
            yield from self._of_addresses()

    def _of_plain(self) -> Iterator[Contradiction]:
        """What this protocol does not have must not be believed to be at work."""
        if self.server.pin or self.server.user:
            expected = f"host:port alone: {self.protocol} has neither users nor pins"
            yield Contradiction("client", ("server",), expected)
        meaningless, lacking, more = ["user", "pin", "ca_file"], "users", self._of_plain_udp
        if self.protocol == "plain-tcp":
            meaningless += ["password", "password_file", "password_env"]
            lacking, more = "log-in", self._of_plain_tcp
        for name in meaningless:
            if getattr(self, name):
                expected = f"nothing: {self.protocol} has neither {lacking} nor encryption"
                yield Contradiction("client", (name,), expected)
        yield from more()

    def _of_plain_tcp(self) -> Iterator[Contradiction]:
        address = self.tunnel.address
        if (
            len(address) != 1
            or not isinstance(address[0], IPv4Interface)
            or not 8 <= address[0].network.prefixlen <= 30
        ):
            expected = "with plain-tcp, one IPv4 address and its prefix, such as 182.1.1.101/24"
            yield Contradiction("tunnel", ("address",), expected)

    def _of_plain_udp(self) -> Iterator[Contradiction]:
        if self.password is not None and not plain_udp.is_fit(self.password.encode()):
            expected = "another one: with plain-udp, r and e are commands"
            yield Contradiction("client", ("password",), expected)
        if self.tunnel.address:
            expected = "nothing: with plain-udp the server gives an address unasked"
            yield Contradiction("tunnel", ("address",), expected)

    def _of_addresses(self) -> Iterator[Contradiction]:
        address = self.tunnel.address
        for each in address:
            if each.network.num_addresses != 1:
                expected = f"{each.ip} alone: the server knows the prefix length"
                yield Contradiction("tunnel", ("address",), expected)
        if len({each.version for each in address}) != len(address):
            yield Contradiction("tunnel", ("address",), "at most one IPv4 and one IPv6 address")


def load_client(path: str | os.PathLike[str]) -> ClientConfig:
    """Read the client's file at *path*.

    ``server`` is complete afterwards: every endpoint has its port, and user and pin are those
    of the link or of the options, which then say the same.

    Raises:
        ConfigError: the operator's fault; one line for each thing wrong. Also a file with a
            password in it that others may read.
    """
    config = load(ClientConfig, path)
    port = PLAIN_PORTS.get(config.protocol, PORT)
    complete = Server(
        tuple(Endpoint(host, number or port) for host, number in config.server.endpoints),
        config.pin or config.server.pin,
        config.user or config.server.user,
    )
    return dataclasses.replace(config, server=complete, user=complete.user, pin=complete.pin)


def read_password(config: ClientConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The password the file gives or names; None if it does neither. Blocks for a disk at most.

    Read when it is needed and not before: the file may go once the server knows the device.

    Raises:
        ConfigError: the password file or variable is missing, empty or unfit, or the file may be
            read by others.
    """
    if config.password_file is not None:
        place = f"{config.where('client', 'password_file')} = '{config.password_file}'"
        password = first_line(config.password_file, place, environ)
        expected = "a file whose first line is the password"
    elif config.password_env is not None:
        place = f"{config.where('client', 'password_env')} = '{config.password_env}'"
        password = environ.get(config.password_env, "")
        expected = "the name of an environment variable that is set"
    else:
        return config.password
    if not password:
        raise ConfigError(f"{place}: {expected}")
    try:
        return secret(password)
    except (Expected, UnicodeEncodeError):  # an environment may hold bytes that are no text
        raise ConfigError(f"{place}: {expected}, at most 1024 bytes of UTF-8") from None
