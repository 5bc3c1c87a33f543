"""What two ends of ours say to each other inside the tunnel, where WireGuard carries IP packets.

A sealed payload whose first four bits are 0 is no IP packet; stock WireGuard drops it, and we
never send it one.  All numbers are big endian::

    kind (1) | 0 (1) | length of the whole message (2) | body | whatever pads it

===========  ====  ==============================  =============================================
message      kind  body                            who sends it
===========  ====  ==============================  =============================================
echo         1     id (8), zeros                   either, to see whether anything comes through
echo reply   2     id (8), size of the echo (2)    either, at once, padded to that size
carrier      3     epoch (8), carrier (1), mtu (2) the client: how packets shall travel
carrier set  4     the same                        the server: so it is
token        5     token (16)                      the client: which registration this key is of
token taken  6     token (16)                      the server: it is tied to it
resume       9     40 zeros                        the client: whose session is this tunnel?
resumed      10    see :class:`Resumed`            the server: yours, and this is it
===========  ====  ==============================  =============================================
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from pyvpn.errors import Misuse

TOKEN_BYTES = 16
AGREEMENT_BYTES = 12
MOST_EPOCH = 2**53 - 1
"""So that a JSON number can say it, too."""
LEAST_ECHO = 12
"""Bytes of an echo without padding."""
MOST_ECHO = 65_535
LEAST_MTU = 512
"""No path is said to be narrower; packets could be cut in thousands of pieces else."""

_HEAD = struct.Struct("!BBH")
_ECHO = struct.Struct("!BBHQ")
_ECHO_REPLY = struct.Struct("!BBHQH")
_CARRIER = struct.Struct("!BBHQBH")
LEAST_ECHO_REPLY = _ECHO_REPLY.size
"""Bytes of an answer that needs no padding to be as large as the echo."""
_TOKEN = struct.Struct(f"!BBH{TOKEN_BYTES}s")
_RESUMED = struct.Struct(f"!BBH{AGREEMENT_BYTES}sQ4s16s")


class Kind(IntEnum):
    """The first byte of a message."""

    ECHO = 1
    ECHO_REPLY = 2
    CARRIER = 3
    CARRIER_SET = 4
    TOKEN = 5
    TOKEN_TAKEN = 6
    RESUME = 9
    RESUMED = 10


class Way(IntEnum):
    """How packets travel."""

    TCP = 1
    """Along the control connection."""
    UDP = 2


class Echo(NamedTuple):
    """Answer this, if it comes through."""

    id: int
    size: int = LEAST_ECHO
    """Bytes of the whole message, at least :data:`LEAST_ECHO`."""

    def to_bytes(self) -> bytes:
        if not LEAST_ECHO <= self.size <= MOST_ECHO:
            raise Misuse(f"an echo of {self.size} bytes")
        return _ECHO.pack(Kind.ECHO, 0, self.size, self.id).ljust(self.size, b"\0")


class EchoReply(NamedTuple):
    """It came through; padded to the size of the echo, so that this shows the way back, too."""

    id: int
    size: int

    def to_bytes(self) -> bytes:
        reply = _ECHO_REPLY.pack(Kind.ECHO_REPLY, 0, _ECHO_REPLY.size, self.id, self.size)
        return reply.ljust(self.size, b"\0")


class Carrier(NamedTuple):
    """From the client: how packets shall travel from now on; the highest epoch counts."""

    epoch: int
    way: Way
    mtu: int = 0
    """Bytes of the largest inner packet that comes through; 0: as large as they are."""

    def to_bytes(self) -> bytes:
        return _CARRIER.pack(Kind.CARRIER, 0, _CARRIER.size, self.epoch, self.way, self.mtu)


class CarrierSet(NamedTuple):
    """From the server: so they travel."""

    epoch: int
    way: Way
    mtu: int = 0

    def to_bytes(self) -> bytes:
        return _CARRIER.pack(Kind.CARRIER_SET, 0, _CARRIER.size, self.epoch, self.way, self.mtu)


class Token(NamedTuple):
    """From the client: the key of this tunnel belongs to the registration that gave this token."""

    token: bytes

    def to_bytes(self) -> bytes:
        return _TOKEN.pack(Kind.TOKEN, 0, _TOKEN.size, self.token)


class TokenTaken(NamedTuple):
    """From the server: it does."""

    token: bytes

    def to_bytes(self) -> bytes:
        return _TOKEN.pack(Kind.TOKEN_TAKEN, 0, _TOKEN.size, self.token)


class Resume(NamedTuple):
    """From the client: my key is on file for a device; which session is this tunnel's?

    As large as its answer: who asks in another's name must not be made louder.
    """

    def to_bytes(self) -> bytes:
        return _HEAD.pack(Kind.RESUME, 0, _RESUMED.size).ljust(_RESUMED.size, b"\0")


class Resumed(NamedTuple):
    """From the server, asked or not: this one is, and these are its addresses."""

    agreement: bytes
    """As a registration names it, before base64."""
    epoch: int
    """Of the last word on the carrier that it has heard."""
    address4: bytes
    """Packed; zeros: none."""
    address6: bytes

    def to_bytes(self) -> bytes:
        return _RESUMED.pack(Kind.RESUMED, 0, _RESUMED.size, *self)

    @property
    def addresses(self) -> frozenset[bytes]:
        """Those that it has."""
        return frozenset(one for one in (self.address4, self.address6) if any(one))


NativeMessage = Echo | EchoReply | Carrier | CarrierSet | Token | TokenTaken | Resume | Resumed


def is_native(payload: bytes) -> bool:
    """Whether *payload* wants to be a message of this kind: no IP packet begins like that."""
    return len(payload) >= _HEAD.size and payload[0] < 0x10


def parse(payload: bytes) -> NativeMessage | None:
    """Read a message; None if it is none, or a kind that we do not know."""
    if not is_native(payload):
        return None
    kind, zero, length = _HEAD.unpack_from(payload)
    reader = _READERS.get(kind)
    if reader is None or zero or length > len(payload):
        return None
    return reader(payload, length)


def _read_echo(payload: bytes, length: int) -> Echo | None:
    return Echo(_ECHO.unpack_from(payload)[3], length) if length >= LEAST_ECHO else None


def _read_echo_reply(payload: bytes, length: int) -> EchoReply | None:
    if length != _ECHO_REPLY.size:
        return None
    _, _, _, number, size = _ECHO_REPLY.unpack_from(payload)
    return EchoReply(number, size)


def _read_carrier(payload: bytes, length: int) -> Carrier | CarrierSet | None:
    if length != _CARRIER.size:
        return None
    kind, _, _, epoch, way, mtu = _CARRIER.unpack_from(payload)
    if way not in (Way.TCP, Way.UDP) or epoch > MOST_EPOCH or 0 < mtu < LEAST_MTU:
        return None
    return (Carrier if kind == Kind.CARRIER else CarrierSet)(epoch, Way(way), mtu)


def _read_token(payload: bytes, length: int) -> Token | TokenTaken | None:
    if length != _TOKEN.size:
        return None
    kind, _, _, token = _TOKEN.unpack_from(payload)
    return (Token if kind == Kind.TOKEN else TokenTaken)(token)


def _read_resume(payload: bytes, length: int) -> Resume | None:
    return Resume() if length == _RESUMED.size else None


def _read_resumed(payload: bytes, length: int) -> Resumed | None:
    if length != _RESUMED.size:
        return None
    resumed = Resumed(*_RESUMED.unpack_from(payload)[3:])
    return resumed if resumed.epoch <= MOST_EPOCH else None


_READERS = {
    Kind.ECHO: _read_echo,
    Kind.ECHO_REPLY: _read_echo_reply,
    Kind.CARRIER: _read_carrier,
    Kind.CARRIER_SET: _read_carrier,
    Kind.TOKEN: _read_token,
    Kind.TOKEN_TAKEN: _read_token,
    Kind.RESUME: _read_resume,
    Kind.RESUMED: _read_resumed,
}
