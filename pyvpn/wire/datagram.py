"""The datagrams of the WireGuard protocol: what lies where in them, and whose they are.

Nothing here is secret and nothing is checked but type and length: a datagram that passes
:func:`kind_of` may still be anybody's invention.

Source: WireGuard whitepaper section 5.4 (messages).  All numbers are little endian.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from pyvpn.wire.packed import Packed

INITIATION = 1
RESPONSE = 2
COOKIE_REPLY = 3
DATA = 4
OFFLOAD = 5
"""A data message that carries one piece of a super-packet (:mod:`pyvpn.wire.offload`); between two
ends of ours that agreed on it, never else.  In all but type and additional data it is as DATA."""

INITIATION_SIZE = 148  # bytes, as all sizes here
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64
DATA_HEADER = struct.Struct("<IIQ")
"""Type, receiver index, counter; the sealed packet follows."""
DATA_OVERHEAD = 32
"""What sealing adds to a packet: header and tag (and so the size of a keepalive)."""

MAC1 = slice(-32, -16)
"""Where an initiation or response has its first mac; it covers all before it."""
MAC2 = slice(-16, None)
"""Where it has its second, which covers the first too; zeros where there is no cookie."""

_SIZES = {INITIATION: INITIATION_SIZE, RESPONSE: RESPONSE_SIZE, COOKIE_REPLY: COOKIE_REPLY_SIZE}

_INITIATION = struct.Struct("<II32s48s28s")
_RESPONSE = struct.Struct("<III32s16s")
_COOKIE_REPLY = struct.Struct("<II24s32s")


def kind_of(datagram: bytes) -> int:
    """Return the type of *datagram*, or 0 when it is none of the messages.

    Type, the three zero bytes behind it and the length have to fit.
    """
    # Read as one number, a reserved byte that is not zero is a type that does not exist.
    kind = int.from_bytes(datagram[:4], "little")
    if kind in (DATA, OFFLOAD):
        return kind if len(datagram) >= DATA_OVERHEAD else 0
    return kind if _SIZES.get(kind) == len(datagram) else 0


def sender_of(message: bytes) -> int:
    """Return the index by which the sender of an initiation or response wants to be called."""
    return int.from_bytes(message[4:8], "little")


def receiver_of(datagram: bytes) -> int:
    """Return the index of ours that a data message or a cookie reply names."""
    return int.from_bytes(datagram[4:8], "little")


def counter_of(datagram: bytes) -> int:
    """Return the counter of a data message."""
    return int.from_bytes(datagram[8:16], "little")


class Initiation(NamedTuple):
    """The first message of a handshake, 148 bytes."""

    sender: int
    """The index the initiator wants to be called by."""
    ephemeral: bytes
    """Public, 32 bytes."""
    static: bytes
    """The initiator's public key, sealed: 48 bytes."""
    timestamp: bytes
    """TAI64N, sealed: 28 bytes."""
    mac1: bytes
    mac2: bytes

    @classmethod
    def parse(cls, datagram: bytes) -> Self:
        """Read a datagram that :func:`kind_of` calls an initiation."""
        _, sender, ephemeral, static, timestamp = _INITIATION.unpack_from(datagram)
        return cls(sender, ephemeral, static, timestamp, datagram[MAC1], datagram[MAC2])

    def to_bytes(self) -> bytes:
        """Return the datagram."""
        head = pack_initiation(self.sender, self.ephemeral, self.static, self.timestamp)
        return head + self.mac1 + self.mac2


class Response(NamedTuple):
    """The second message of a handshake, 92 bytes."""

    sender: int
    """The index the responder wants to be called by."""
    receiver: int
    """The index the initiator gave."""
    ephemeral: bytes
    """Public, 32 bytes."""
    nothing: bytes
    """No bytes, sealed: a tag of 16 bytes."""
    mac1: bytes
    mac2: bytes

    @classmethod
    def parse(cls, datagram: bytes) -> Self:
        """Read a datagram that :func:`kind_of` calls a response."""
        _, sender, receiver, ephemeral, nothing = _RESPONSE.unpack_from(datagram)
        return cls(sender, receiver, ephemeral, nothing, datagram[MAC1], datagram[MAC2])

    def to_bytes(self) -> bytes:
        """Return the datagram."""
        head = pack_response(self.sender, self.receiver, self.ephemeral, self.nothing)
        return head + self.mac1 + self.mac2


class CookieReply(NamedTuple):
    """What a responder under load sends instead of an answer, 64 bytes."""

    receiver: int
    """The sender index of the message this replies to."""
    nonce: bytes
    """24 bytes."""
    cookie: bytes
    """Sealed: 32 bytes."""

    @classmethod
    def parse(cls, datagram: bytes) -> Self:
        """Read a datagram that :func:`kind_of` calls a cookie reply."""
        _, receiver, nonce, cookie = _COOKIE_REPLY.unpack(datagram)
        return cls(receiver, nonce, cookie)

    def to_bytes(self) -> bytes:
        """Return the datagram."""
        return pack_cookie_reply(*self)


def pack_cookie_reply(receiver: int, nonce: bytes, cookie: bytes) -> bytes:
    """Return a cookie reply, 64 bytes."""
    return _COOKIE_REPLY.pack(COOKIE_REPLY, receiver, nonce, cookie)


def pack_initiation(sender: int, ephemeral: bytes, static: bytes, timestamp: bytes) -> bytes:
    """Return an initiation up to its macs, 116 bytes."""
    return _INITIATION.pack(INITIATION, sender, ephemeral, static, timestamp)


def pack_response(sender: int, receiver: int, ephemeral: bytes, nothing: bytes) -> bytes:
    """Return a response up to its macs, 60 bytes."""
    return _RESPONSE.pack(RESPONSE, sender, receiver, ephemeral, nothing)


class Path(NamedTuple):
    """Where datagrams of a peer come from, and by which of our own addresses."""

    host: bytes
    """The peer's address, packed: 4 or 16 bytes."""
    port: int
    scope: int = 0
    """The interface number that a link-local address of version 6 needs (sin6_scope_id)."""
    local: bytes = b""
    """Our address the datagrams came to, packed; empty: the kernel chooses."""
    interface: int = 0
    """Number of the interface they came to; 0: the kernel chooses."""

    @property
    def key(self) -> bytes:
        """Who is there, in bytes: address and port, as a cookie is bound to them."""
        return self.host + self.port.to_bytes(2, "big")

    def __str__(self) -> str:
        """Return it as ``wg`` writes it: ``192.0.2.1:51820``, ``[fe80::1%2]:51820``."""
        if len(self.host) == 4:
            return f"{ip_address(self.host)}:{self.port}"
        scope = f"%{self.scope}" if self.scope else ""
        return f"[{ip_address(self.host)}{scope}]:{self.port}"


Run = tuple["list[bytes] | Packed", Path, int]
"""Datagrams that came one after the other along one path, all with the same ECN field.

If :class:`~pyvpn.wire.packed.Packed`, they are good until the taker returns.
"""
