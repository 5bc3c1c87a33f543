"""What stands in the server's [wireguard] section: where WireGuard is spoken, by UDP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pyvpn.config.addresses import Endpoint, listen_endpoint, remote_endpoint
from pyvpn.config.table import Contradiction, option
from pyvpn.config.values import CIPHERS, Expected, choice, duration, list_of, words

WIREGUARD = (
    "UDP: for our own clients, whose packets go along TLS where it does not get through, and for "
    "stock WireGuard apps on phones, Macs and Windows PCs, each of which pyvpn device add "
    "--wireguard puts on file."
)

MOST_KEEPALIVE = 65535  # seconds: wg and the apps have 16 bits for it


def _ports(value: str) -> tuple[Endpoint, ...]:
    found = list_of(listen_endpoint)(value)
    if not found:
        raise Expected("at least one port")
    return found


def _whole_seconds(value: str) -> int:
    seconds = duration("0s", f"{MOST_KEEPALIVE}s")(value)
    if not seconds.is_integer():
        raise Expected("whole seconds, or 0 for none")
    return int(seconds)


@dataclass(frozen=True, kw_only=True)
class WireGuard:
    """[wireguard] UDP for our clients and for stock apps; keepalive in seconds."""

    listen: tuple[Endpoint, ...] | None = option(
        "same",
        words(_ports, same=None, none=()),
        "same: the ports and addresses of [server] listen, by UDP. none: no WireGuard. Or a list, "
        "written as there.",
    )
    public_endpoints: tuple[Endpoint, ...] = option(
        "",
        list_of(remote_endpoint),
        "Where this server is found from outside, if UDP is forwarded from another host or port "
        "than TCP. Without it: those of [server]. Apps take one, the first; our clients try all.",
    )
    keepalive: int = option(
        "25s",
        _whole_seconds,
        "What the apps' files say: so often a silent app sends a packet, which keeps routers from "
        "forgetting it, so that it can be reached. 0: never, to spare batteries.",
    )

    cipher: str = option(
        "auto",
        choice(*CIPHERS),
        "auto: AES-256-GCM with those clients of ours whose processor, like this one, has "
        "instructions for it, because it is faster then; WireGuard's ChaCha20-Poly1305 with all "
        "others, and with apps always. chacha20-poly1305: that alone, for who wants one cipher.",
    )

    def contradictions(self, plain_udp: Endpoint | None) -> Iterator[Contradiction]:
        """What is wrong together; *plain_udp* is where the first generation's UDP is spoken."""
        for one, other in itertools.combinations(self.listen or (), 2):
            if one.overlaps(other):
                expected = f"{one} or {other}, not both: one of them includes the other"
                yield Contradiction("wireguard", ("listen",), expected)
        for each in self.listen or ():
            if plain_udp is not None and plain_udp.overlaps(each):
                expected = f"a port that [plain] udp_listen does not have ({plain_udp})"
                yield Contradiction("wireguard", ("listen",), expected)
