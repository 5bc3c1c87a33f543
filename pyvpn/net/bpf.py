"""Two programs for the kernel's classic packet filter: one sorts datagrams, one sheds junk.

Pure functions from tables to instructions; :func:`attach` alone talks to the kernel.  Both
programs need no rights.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pyvpn.wire.datagram import (
    COOKIE_REPLY,
    COOKIE_REPLY_SIZE,
    DATA,
    DATA_OVERHEAD,
    INITIATION,
    INITIATION_SIZE,
    OFFLOAD,
    RESPONSE,
    RESPONSE_SIZE,
)

SO_ATTACH_FILTER = 26
SO_ATTACH_REUSEPORT_CBPF = 51

LONGEST = 65_507  # bytes a UDP datagram can hold

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: four bytes of the packet, big endian
_LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LOAD_LENGTH = 0x80  # BPF_LD | BPF_W | BPF_LEN
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_MORE = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_WHOLE = 0xFFFF_FFFF  # bytes to pass on: all there are

_UDP_HEADER = 8  # bytes; a socket's filter sees the header, a group's sees the payload only
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("HP")  # struct sock_fprog


class Instruction(NamedTuple):
    """One instruction; the jumps are counted from the next one."""

    code: int
    if_true: int
    if_false: int
    k: int


class Shape(NamedTuple):
    """A kind of datagram that passes the junk filter."""

    first_word: int
    """The first four bytes, big endian, as far as they are fixed."""
    fixed: int
    """Which bits of them are fixed."""
    least: int
    """Bytes of the shortest one."""
    most: int
    """Bytes of the longest one."""


def _message(kind: int, least: int, most: int) -> Shape:
    # On the wire: the type, then three bytes that are zero.
    return Shape(kind << 24, 0xFFFF_FFFF, least, most)


MESSAGES = (
    _message(DATA, DATA_OVERHEAD, LONGEST),  # first: it is what there is most of
    _message(OFFLOAD, DATA_OVERHEAD, LONGEST),
    _message(INITIATION, INITIATION_SIZE, INITIATION_SIZE),
    _message(RESPONSE, RESPONSE_SIZE, RESPONSE_SIZE),
    _message(COOKIE_REPLY, COOKIE_REPLY_SIZE, COOKIE_REPLY_SIZE),
)
"""What WireGuard knows, and a type of our own."""

KNOCK_SOCKET = 0
"""Initiations without a cookie, which anybody can send from any address."""
DATA_SOCKET = 1
ANSWER_SOCKET = 2
"""What answers something of ours: initiations with a cookie, responses, cookie replies."""

SPLIT = (
    Instruction(_LOAD_BYTE, 0, 0, 0),
    Instruction(_IF_AT_LEAST, 0, 1, DATA),
    Instruction(_RETURN, 0, 0, DATA_SOCKET),
    Instruction(_IF_EQUAL, 0, 3, INITIATION),
    Instruction(_LOAD_WORD, 0, 0, INITIATION_SIZE - 16),  # mac2; zeros without a cookie
    Instruction(_IF_EQUAL, 0, 1, 0),
    Instruction(_RETURN, 0, 0, KNOCK_SOCKET),
    Instruction(_RETURN, 0, 0, ANSWER_SOCKET),
)
"""Returns the place of the socket in its group.  A datagram that is too short for a load ends the
program early, which counts as 0."""


def junk_filter(shapes: Iterable[Shape]) -> tuple[Instruction, ...]:
    """Return the program that passes datagrams of one of these *shapes* and drops the others."""
    program: list[Instruction] = []
    for shape in shapes:
        program += _one_shape(shape)
    return (*program, Instruction(_RETURN, 0, 0, 0))


def _one_shape(shape: Shape) -> list[Instruction]:
    """Pass it if it has *shape*, else go on behind the last of these instructions."""
    program = [
        # A datagram too short to have a first word ends the program here, which drops it.
        Instruction(_LOAD_WORD, 0, 0, _UDP_HEADER),
        Instruction(_AND, 0, 0, shape.fixed),
        Instruction(_IF_EQUAL, 0, 4, shape.first_word),
        Instruction(_LOAD_LENGTH, 0, 0, 0),
        Instruction(_IF_AT_LEAST, 0, 2, shape.least + _UDP_HEADER),
        Instruction(_IF_MORE, 1, 0, shape.most + _UDP_HEADER),
        Instruction(_RETURN, 0, 0, _WHOLE),
    ]
    if shape.fixed == 0xFFFF_FFFF:
        del program[1]
    return program


class TakesOptions(Protocol):
    """What :func:`attach` asks of a socket."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None: ...


def attach(sock: TakesOptions, option: int, program: Iterable[Instruction]) -> None:
    """Give *program* to *sock* (:data:`SO_ATTACH_FILTER`), or to the group it is in.

    Raises:
        OSError: the kernel does not take it.
    """
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    # Alive until the kernel has made its copy: it is given the address only.
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET,
        option,
        _PROGRAM.pack(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer)),
    )
