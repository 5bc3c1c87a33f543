"""What stands in the server's [plain] section: the listeners for the first generation."""
# ruff: noqa: RUF009 - option() is dataclasses.field, with a table entry

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from pyvpn.config.addresses import Endpoint, listen_endpoint, network4, overlap
from pyvpn.config.passwords import first_line, is_open_to_others, private
from pyvpn.config.table import Contradiction, Loaded, hidden, option
from pyvpn.config.values import Expected, optional, path, secret
from pyvpn.errors import ConfigError
from pyvpn.wire.plain_udp import HEADER_BYTES, LARGEST, is_fit

PLAIN = (
    "The first generation's protocols, for lessons and laboratories, without encryption. Whoever "
    "reaches the TCP port reaches the bypass network; so does whoever reaches the UDP port and "
    "knows its password, which everybody on the way can read."
)


def plain_password(value: str) -> str | None:
    """One line that the UDP protocol can tell from its commands; nothing is None."""
    password = secret(value)
    if password is not None and not is_fit(password.encode()):
        raise Expected("one line of at most 1024 bytes, and not r or e: those are commands")
    return password


@dataclass(frozen=True, kw_only=True)
class Plain:
    """[plain] The listeners for the first generation's protocols."""

    tcp_listen: Endpoint | None = option(
        "", optional(listen_endpoint), "Port, or address:port, such as 51005. Empty: switched off."
    )
    network: IPv4Network = option(
        "182.1.1.0/24",
        network4(8, 30, "182.1.1.0/24"),
        "The tunnel network of the TCP clients; they choose their addresses in it themselves.",
    )
    bypass: IPv4Network | None = option(
        "",
        optional(network4(8, 32, "192.168.77.0/24")),
        "The one network that plain clients may reach. Needed when tcp_listen or udp_listen is "
        "set.",
    )
    udp_listen: Endpoint | None = option(
        "",
        optional(listen_endpoint),
        "Port, or address:port, for the UDP program's password protocol, such as 2003. Empty: "
        "switched off.",
    )
    udp_network: IPv4Network = option(
        "10.0.0.0/24",
        network4(8, 30, "10.0.0.0/24"),
        "The tunnel network of the UDP clients, who get their addresses from it; the first one is "
        "the server's own.",
    )
    udp_password: str | None = option(
        "",
        plain_password,
        "The password that all UDP clients share, as it stands, without quotation marks; this "
        "file must have mode 0600 then. With udp_listen this or udp_password_file is needed.",
        conceal=hidden,
    )
    udp_password_file: Path | None = option(
        "", optional(path), "A file whose first line is that password, mode 0600."
    )

    @property
    def networks(self) -> tuple[IPv4Network, ...]:
        """The tunnel networks of those listeners that are open."""
        tcp = () if self.tcp_listen is None else (self.network,)
        return tcp if self.udp_listen is None else (*tcp, self.udp_network)

    def contradictions(
        self,
        file: Loaded,
        listen: Sequence[Endpoint],
        pool: IPv4Network | None,
        mtu: int,
    ) -> Iterator[Contradiction]:
        """What is wrong together, here and with the rest of *file*.

        Args:
            listen: where the real protocols are spoken.
            pool: the addresses of users' devices.
            mtu: bytes of a packet from the tunnel.
        """
        listeners = {"tcp_listen": self.tcp_listen, "udp_listen": self.udp_listen}
        yield from self._of_secrets(file)
        for name, mine in listeners.items():
            if mine is None:
                continue
            if self.bypass is None:
                expected = "bypass as well: the one network its clients may reach"
                yield Contradiction("plain", (name,), expected)
            if any(mine.overlaps(each) for each in listen):
                expected = "a port that [server] listen does not have"
                yield Contradiction("plain", (name,), expected)
        if self.networks:
            yield from self._of_networks(pool)
        if self.udp_listen is not None:
            yield from self._of_udp(mtu)

    def _of_secrets(self, file: Loaded) -> Iterator[Contradiction]:
        if self.udp_password is not None and file.open_to_others:
            yield Contradiction("plain", ("udp_password",), private(file.path))
        if self.udp_password_file is not None:
            if is_open_to_others(self.udp_password_file):
                expected = private(self.udp_password_file)
                yield Contradiction("plain", ("udp_password_file",), expected)
            if self.udp_password is not None:
                expected = "udp_password or udp_password_file, not both"
                yield Contradiction("plain", ("udp_password_file",), expected)

    def _of_networks(self, pool: IPv4Network | None) -> Iterator[Contradiction]:
        named = {
            "network": self.network if self.tcp_listen is not None else None,
            "udp_network": self.udp_network if self.udp_listen is not None else None,
            "bypass": self.bypass,
        }
        for name, mine in named.items():
            if mine is not None and pool is not None and overlap(mine, pool):
                expected = f"a network apart from [tunnel] network4 ({pool})"
                yield Contradiction("plain", (name,), expected)
        if len(self.networks) == 2 and overlap(*self.networks):
            expected = (
                f"network ({self.network}) and udp_network ({self.udp_network}) apart from each "
                "other"
            )
            yield Contradiction("plain", ("udp_network", "network"), expected)
        for each in self.networks:
            if self.bypass is not None and overlap(self.bypass, each):
                yield Contradiction("plain", ("bypass",), f"a network apart from {each}")

    def _of_udp(self, mtu: int) -> Iterator[Contradiction]:
        if self.udp_password is None and self.udp_password_file is None:
            expected = "udp_password or udp_password_file as well: what its clients log in with"
            yield Contradiction("plain", ("udp_listen",), expected)
        most = LARGEST - HEADER_BYTES
        if mtu > most:
            expected = f"at most {most} with [plain] udp_listen: its clients' buffers are small"
            yield Contradiction("tunnel", ("mtu",), expected)


def read_plain_password(plain: Plain, where: str) -> bytes:
    """The UDP clients' password, from where it stands; empty if none is configured.

    Args:
        where: ``file:line: [plain] udp_password_file``, for complaints.

    Raises:
        ConfigError: the password file is missing, empty or unfit, or may be read by others.
    """
    if plain.udp_password_file is None:
        return (plain.udp_password or "").encode()
    place = f"{where} = '{plain.udp_password_file}'"
    try:
        password = plain_password(first_line(plain.udp_password_file, place))
    except Expected as error:
        raise ConfigError(f"{place}: a file whose first line is {error}") from None
    if password is None:
        raise ConfigError(f"{place}: a file whose first line is the password")
    return password.encode()
