"""The datagrams of the first generation's UDP program.

Nothing but its content tells one kind of datagram from another:

=====================================  ==============================================
client: the shared password            log in
server: ``CLIENT_IP;SERVER_IP``        the answer, in ASCII: "10.0.0.2;10.0.0.1"
client: one byte 00                    heartbeat
server: one byte "r"                   I do not know you: log in again
client: one byte "e"                   goodbye
either: 4 bytes, then an IP packet     00 00 08 00 and IPv4, or 00 00 86 dd and IPv6
=====================================  ==============================================

So that nothing is ever taken for another thing, a password holds no zero byte and is none of the
commands (:func:`is_fit`): then it never begins like a packet or a heartbeat, and a packet that
equals it by chance cannot exist.  What the server sends begins with a digit, "r" or a zero byte.

The original compares nothing before it hands a datagram to its TUN device: what the kernel takes
is a packet, what it refuses may be a command.  The bytes are the same.
"""

from __future__ import annotations

import hmac
import re
from hashlib import blake2s
from ipaddress import IPv4Address, ip_network
from typing import NamedTuple

from pyvpn.errors import Misuse

PORT = 2003
MTU = 1400
"""Bytes of an inner packet, as the original's clients set it."""
LARGEST = 4096
"""Bytes of a datagram: the original's buffer, beyond which the kernel cuts."""

HEARTBEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""After so long without a heartbeat a client is gone."""
ANSWER_SECONDS = 5.0
"""For how long a client waits for the answer to its password."""

HEARTBEAT = b"\0"
UNKNOWN = b"r"
GOODBYE = b"e"

MOST_PASSWORD = 1024
"""Bytes."""

# The kernel's struct tun_pi (linux/if_tun.h): flags, then the Ethernet type, big endian.
HEADER4 = b"\x00\x00\x08\x00"
HEADER6 = b"\x00\x00\x86\xdd"
HEADER_BYTES = 4

_ANSWER = re.compile(rb"([0-9.]{7,15});([0-9.]{7,15})")
# This host, link-local, and from 224.0.0.0 on: multicast, reserved, broadcast.
_NO_HOSTS = tuple(
    ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)


class Addresses(NamedTuple):
    """What a log-in brings: both ends of a point-to-point link."""

    client: IPv4Address
    server: IPv4Address


def is_fit(password: bytes) -> bool:
    """Whether *password* can be one: see the module."""
    return (
        0 < len(password) <= MOST_PASSWORD
        and b"\0" not in password
        and password not in (UNKNOWN, GOODBYE)
    )


def is_password(datagram: bytes, password: bytes) -> bool:
    """Whether *datagram* is the log-in; takes the same time whatever it is, for its length."""
    if len(datagram) > MOST_PASSWORD:
        return False
    # Digests have one length, so how long the password is does not show either.
    return hmac.compare_digest(blake2s(datagram).digest(), blake2s(password).digest())


def packet_in(datagram: bytes) -> bytes | None:
    """Return the IP packet in *datagram*; None unless header and IP version agree.

    Whether the packet is whole is for :func:`pyvpn.wire.ip.endpoints_of`.  A header with a flag
    set is none: the kernel sets one on a packet that it has cut.
    """
    header = datagram[:HEADER_BYTES]
    if header == HEADER4:
        version = 4
    elif header == HEADER6:
        version = 6
    else:
        return None
    packet = datagram[HEADER_BYTES:]
    return packet if packet and packet[0] >> 4 == version else None


def with_header(packet: bytes) -> bytes:
    """Return the datagram that carries *packet*, IPv4 or IPv6."""
    return (HEADER6 if packet[:1] >= b"\x60" else HEADER4) + packet


def encode_answer(client: bytes, server: bytes) -> bytes:
    """Return the answer to a log-in; the addresses are packed, 4 bytes each.

    Raises:
        Misuse: they are not.
    """
    if (len(client), len(server)) != (4, 4):
        raise Misuse(f"addresses of {len(client)} and {len(server)} bytes")
    return f"{IPv4Address(client)};{IPv4Address(server)}".encode()


def addresses_in(datagram: bytes) -> Addresses | None:
    """Return what the answer to a log-in says; None if it is none.

    Only two different addresses that hosts can have, spelled as :func:`encode_answer` does, are
    an answer.  (The original's server also gives away its network's broadcast address, which
    works for a point-to-point link.)
    """
    match = _ANSWER.fullmatch(datagram)
    if match is None:
        return None
    try:
        client, server = (IPv4Address(text.decode()) for text in match.groups())
    except ValueError:
        return None
    if client == server or _is_no_host(client) or _is_no_host(server):
        return None
    return Addresses(client, server)


def _is_no_host(address: IPv4Address) -> bool:
    return any(address in network for network in _NO_HOSTS)
