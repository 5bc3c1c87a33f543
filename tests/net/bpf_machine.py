"""The classic packet filter's machine, as far as our programs use it: the kernel's, in Python."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from pyvpn.net.bpf import Instruction


def run(program: Sequence[Instruction], packet: bytes) -> int:
    """Return what *program* returns for *packet*."""
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code in (0x20, 0x30):
            width = 4 if code == 0x20 else 1
            if k + width > len(packet):
                return 0  # as the kernel ends a program that reads beyond the packet
            accumulator = int.from_bytes(packet[k : k + width], "big")
        elif code == 0x80:
            accumulator = len(packet)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += if_true if accumulator == k else if_false
        elif code == 0x35:
            at += if_true if accumulator >= k else if_false
        elif code == 0x25:
            at += if_true if accumulator > k else if_false
        elif code == 0x06:
            return k
        else:
            raise AssertionError(f"instruction {code:#x}")


def attached(option: bytes) -> tuple[Instruction, ...]:
    """Read the program that a setsockopt hands over, as the kernel does: while it is there."""
    length, address = struct.unpack("HP", option)
    code = ctypes.string_at(address, length * 8)
    return tuple(Instruction(*fields) for fields in struct.iter_unpack("=HBBI", code))
