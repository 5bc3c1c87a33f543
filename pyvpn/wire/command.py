"""Control frames: the version handshake, the commands and their bytes.

One layout serves both generations of the protocol (``docs/protocol.rst``): the client says its
version as a double, the server answers with one byte, and from then on both send frames::

    int32 length of the rest | int32 command | int32 transaction | data

all big endian.  Cutting a byte stream at the lengths is the transport's work
(``Int32StringReceiver``); this file turns bodies into values and values into bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from pyvpn.errors import Misuse, PeerError

PLAIN_VERSION = 1.0
"""The first generation: no TLS, no log-in; spoken only where an operator opened it by name."""

VERSION = 2.0
"""This generation: only inside TLS."""

NO_TRANSACTION = 0
"""The transaction id of a frame that wants no answer."""

LIMIT_BEFORE_LOG_IN = 4096
"""Bytes of frame body taken from a peer that has not logged in: a stranger may cost no more."""

LIMIT = 65535 + 8
"""Bytes of frame body after log-in: the largest IPv4 packet and the two numbers before it."""

_VERSION = struct.Struct("!d")
_HEADER = struct.Struct("!iii")
_NUMBERS = struct.Struct("!ii")


class Command(IntEnum):
    """What a frame is about; who may send it and when is said in ``docs/protocol.rst``."""

    ANSWER = -1
    REGISTER = 1
    PACKET = 2
    LOG_IN = 3
    HEARTBEAT = 4
    GOODBYE = 5
    SETTINGS = 6
    NOTICE = 7
    CARRIER = 8


class VersionAnswer(IntEnum):
    """The server's one byte after the client's version; it closes unless ACCEPTED."""

    ERROR = 0
    ACCEPTED = 1
    UNSUPPORTED = 2


class Frame(NamedTuple):
    """One frame without its length.

    *command* is a plain int: a number this side does not know is answered, not refused here.
    *transaction* is :data:`NO_TRANSACTION`, or the id under which the sender awaits an answer;
    in an answer, the id of the question.
    """

    command: int
    transaction: int
    data: bytes


def encode_version(version: float) -> bytes:
    """Return the eight bytes with which a client opens."""
    return _VERSION.pack(version)


def decode_version(data: bytes) -> float:
    """Read back what :func:`encode_version` wrote; any finite number is a version.

    Raises:
        PeerError: not eight bytes, or not a number at all (NaN, infinity).
    """
    if len(data) != _VERSION.size:
        raise PeerError(f"a version is 8 bytes, not {len(data)}")
    version: float = _VERSION.unpack(data)[0]
    if not math.isfinite(version):
        raise PeerError(f"a version is a number, not {version}")
    return version


def encode_frame(command: int, transaction: int, data: bytes = b"") -> bytes:
    """Return one frame, its length in front.

    Raises:
        Misuse: more data than any peer would accept.
    """
    length = _NUMBERS.size + len(data)
    if length > LIMIT:
        raise Misuse(f"a frame of {length} bytes; at most {LIMIT} are allowed")
    return _HEADER.pack(length, command, transaction) + data


def encode_packets(packets: Iterable[bytes]) -> bytes:
    """Return *packets*, one frame each, as one string for one write.

    The packet path: nothing is made per packet but its header.  Each packet must fit into
    :data:`LIMIT`, which one read from a TUN device always does.
    """
    pack, command, transaction = _HEADER.pack, int(Command.PACKET), NO_TRANSACTION
    pieces: list[bytes] = []
    for packet in packets:
        pieces += (pack(len(packet) + 8, command, transaction), packet)
    return b"".join(pieces)


def packets_in(stream: bytes, longest: int) -> tuple[list[bytes], int]:
    """Cut the packets off the front of *stream*, where a frame begins.

    Stops before what is not the whole frame of a packet: a command, a frame that has not all
    arrived, one of more than *longest* bytes, or one too short to be any.

    Returns:
        The packets, and how many bytes of *stream* they took.
    """
    packets: list[bytes] = []
    numbers, wanted = _HEADER.unpack_from, int(Command.PACKET)
    at, end = 0, len(stream)
    while at + 12 <= end:
        length, command, _ = numbers(stream, at)
        if command != wanted or not 8 <= length <= longest or at + 4 + length > end:
            break
        packets.append(stream[at + 12 : at + 4 + length])
        at += 4 + length
    return packets, at


def decode_body(body: bytes) -> Frame:
    """Read the body of one frame, which is a frame without its length.

    Raises:
        PeerError: too short to hold a command and a transaction id.
    """
    if len(body) < _NUMBERS.size:
        raise PeerError(f"a frame body is 8 bytes or more, not {len(body)}")
    command, transaction = _NUMBERS.unpack_from(body)
    return Frame(command, transaction, body[8:])
