"""Offload payloads the slow and obvious way, one datagram at a time."""

from __future__ import annotations

import struct

from pyvpn.wire.ip import decapsulated
from tests.wire.plain_segments import (
    ACK,
    CWR,
    FIN,
    PSH,
    SYN,
    TCP,
    UDP,
    URG,
    completed,
    transport_of,
    with_field,
)

RST = 0x04
CONGESTED = b"congested"


def number_at(packet: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(packet[at : at + size], "big")


def header_sizes(packet: bytes) -> tuple[int, int] | None:
    """Return where the payload of TCP or UDP begins, and where its headers', if they are plain."""
    if len(packet) < 28:
        return None
    if packet[0] >> 4 == 4:
        if packet[0] != 0x45 or number_at(packet, 6) & 0xBFFF:
            return None
    elif packet[0] >> 4 != 6 or len(packet) < 48:
        return None
    protocol, at = transport_of(packet)
    if protocol == UDP:
        return at + 8, at
    if protocol != TCP or len(packet) < at + 20:
        return None
    words = packet[at + 12] >> 4
    if words < 5 or len(packet) < at + 4 * words:
        return None
    return at + 4 * words, at


def stated_length(packet: bytes) -> int:
    return number_at(packet, 2) if packet[0] >> 4 == 4 else number_at(packet, 4) + 40


def plain_payloads(frame: bytes, counter: int) -> list[bytes]:
    """Return the payloads of a right super-packet, the first to be sealed with *counter*."""
    size = struct.unpack_from("=H", frame, 4)[0]
    packet = frame[10:]
    after, at = header_sizes(packet) or (0, 0)
    if transport_of(packet)[0] == TCP:
        packet = with_field(with_field(packet, at + 16, size), at + 18, counter % 2**16)
    else:
        packet = with_field(with_field(packet, at + 6, size), at + 4, counter % 2**16)
    head, rest = packet[:after], packet[after:]
    payloads = []
    while rest:
        payloads.append(head + rest[:size])
        rest = rest[size:]
    while len(payloads[-1]) % 16 and len(payloads[-1]) < after + size:
        payloads[-1] += b"\0"
    return payloads


def plain_packet(counter: int, payload: bytes, ecn: int = 0) -> bytes | None:
    """Return the packet that one payload stands for; None if it stands for none."""
    sizes = header_sizes(payload)
    if sizes is None:
        return None
    after, at = sizes
    total = stated_length(payload)
    protocol = transport_of(payload)[0]
    length = total - after
    if protocol == TCP:
        flags = payload[at + 13]
        if not flags & ACK or flags & (SYN | RST | URG):
            return None
        size, mark = number_at(payload, at + 16), number_at(payload, at + 18)
        least, most = 48, 2048
    else:
        size, mark = number_at(payload, at + 6), number_at(payload, at + 4)
        least, most = 1, 64
    if total > 65_535 or size < least or length <= size or length > most * size:
        return None
    lengths = [size] * (length // size) + [length % size] * (length % size > 0)
    index = (counter - mark) % 2**16
    if index >= len(lengths):
        return None
    own, mine = len(payload) - after, lengths[index]
    is_last = index == len(lengths) - 1
    if own != mine and not (is_last and mine < own < mine + 16 and own <= size):
        return None
    packet = bytearray(payload[: after + mine])
    if packet[0] >> 4 == 4:
        struct.pack_into(">H", packet, 4, (number_at(payload, 4) + index) % 2**16)
    if protocol == TCP:
        seq = number_at(payload, at + 4, 4)
        struct.pack_into(">I", packet, at + 4, (seq + index * size) % 2**32)
        if index:
            packet[at + 13] &= ~CWR
        if not is_last:
            packet[at + 13] &= ~(FIN | PSH)
        packet[at + 18 : at + 20] = bytes(2)
    whole = decapsulated(completed(bytes(packet)), ecn)
    return CONGESTED if whole is None else whole


def plain_rebuilt(
    counters: list[int], payloads: list[bytes], ecn: int = 0
) -> tuple[list[bytes], int, int]:
    """Return the packets in the order they were sealed, how many were refused, and congested."""
    made = [
        plain_packet(counter, payload, ecn)
        for counter, payload in sorted(
            zip(counters, payloads, strict=True), key=lambda pair: pair[0]
        )
    ]
    packets = [each for each in made if each is not None and each != CONGESTED]
    return packets, made.count(None), made.count(CONGESTED)
