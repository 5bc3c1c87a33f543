"""Super-packets the slow and obvious way, to hold the fast one against."""

from __future__ import annotations

import struct

TCP, UDP = 6, 17
FIN, SYN, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40, 0x80


def ones_sum(data: bytes) -> int:
    """Return the one's complement sum of the 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        if total > 0xFFFF:
            total -= 0xFFFF
    return total


def transport_of(packet: bytes) -> tuple[int, int]:
    """Return protocol and offset of what follows the IP header, which has no extensions."""
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 15) * 4
    return packet[6], 40


def pseudo_header(packet: bytes) -> bytes:
    protocol, at = transport_of(packet)
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack(">II", len(packet) - at, protocol)


def is_sound(packet: bytes) -> bool:
    """Whether lengths and checksums are all right."""
    protocol, at = transport_of(packet)
    if packet[0] >> 4 == 4:
        if struct.unpack_from(">H", packet, 2)[0] != len(packet):
            return False
        if ones_sum(packet[:at]) != 0xFFFF:
            return False
    elif struct.unpack_from(">H", packet, 4)[0] != len(packet) - 40:
        return False
    if protocol == UDP and struct.unpack_from(">H", packet, at + 4)[0] != len(packet) - at:
        return False
    return ones_sum(pseudo_header(packet) + packet[at:]) == 0xFFFF


def with_field(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def completed(packet: bytes, partial: bool = False) -> bytes:
    """Return *packet* with its lengths and checksums; *partial*: as in a super-packet."""
    protocol, at = transport_of(packet)
    if packet[0] >> 4 == 4:
        packet = with_field(with_field(packet, 2, len(packet)), 10, 0)
        packet = with_field(packet, 10, 0xFFFF - ones_sum(packet[:at]))
    else:
        packet = with_field(packet, 4, len(packet) - 40)
    if protocol == UDP:
        packet = with_field(packet, at + 4, len(packet) - at)
    field = at + (16 if protocol == TCP else 6)
    packet = with_field(packet, field, 0)
    if partial:
        return with_field(packet, field, ones_sum(pseudo_header(packet)))
    total = 0xFFFF - ones_sum(pseudo_header(packet) + packet[at:])
    return with_field(packet, field, total or 0xFFFF * (protocol == UDP))


def ip4(
    protocol: int,
    content: bytes,
    *,
    identity: int = 0,
    fragment: int = 0x4000,
    tos: int = 0,
    ttl: int = 64,
    options: bytes = b"",
    source: int = 1,
) -> bytes:
    first = 0x45 + len(options) // 4
    head = struct.pack(">BBHHHBBH", first, tos, 0, identity, fragment, ttl, protocol, 0)
    return head + bytes([10, 0, 0, source, 10, 0, 0, 200]) + options + content


def ip6(protocol: int, content: bytes, *, tos: int = 0, ttl: int = 64, source: int = 1) -> bytes:
    head = struct.pack(">IHBB", 6 << 28 | tos << 20 | 0x12345, 0, protocol, ttl)
    return head + bytes([0xFD] + [0] * 14 + [source]) + bytes([0xFD] + [0] * 14 + [200]) + content


def tcp(
    payload: bytes,
    *,
    seq: int = 0,
    ack: int = 7,
    flags: int = ACK,
    window: int = 500,
    options: bytes = b"",
    port: int = 4000,
    reserved: int = 0,
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        ">HHIIBBHHH", port, 5201, seq, ack, words << 4 | reserved, flags, window, 0, 0
    )
    return head + options + payload


def udp(payload: bytes, *, port: int = 4000) -> bytes:
    return struct.pack(">HHHH", port, 53, 0, 0) + payload


def frame(packet: bytes, size: int) -> bytes:
    """Return the super-packet *packet*, to be cut by *size* bytes of payload, as the TUN has it.

    Its checksum is made partial here.
    """
    protocol, at = transport_of(packet)
    packet = completed(packet, partial=True)
    if protocol == UDP:
        return struct.pack("=BBHHHH", 1, 5, at + 8, size, at, 6) + packet
    kind = 1 if packet[0] >> 4 == 4 else 4
    behind = at + (packet[at + 12] >> 4) * 4
    return struct.pack("=BBHHHH", 1, kind, behind, size, at, 16) + packet


def plain_cut(frame: bytes) -> list[bytes]:
    """Return what a right super-packet stands for, each packet made anew."""
    _, _, _, size, at, _ = struct.unpack("=BBHHHH", frame[:10])
    packet = frame[10:]
    protocol = TCP if struct.unpack_from("=H", frame, 8)[0] == 16 else UDP
    behind = at + (8 if protocol == UDP else (packet[at + 12] >> 4) * 4)
    payload = packet[behind:]
    packets = []
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    for number, piece in enumerate(pieces):
        made = bytearray(packet[:behind] + piece)
        if packet[0] >> 4 == 4:
            identity = struct.unpack_from(">H", packet, 4)[0]
            struct.pack_into(">H", made, 4, (identity + number) % 2**16)
        if protocol == TCP:
            seq = struct.unpack_from(">I", packet, at + 4)[0]
            struct.pack_into(">I", made, at + 4, (seq + number * size) % 2**32)
            if number > 0:
                made[at + 13] &= ~CWR
            if number < len(pieces) - 1:
                made[at + 13] &= ~(FIN | PSH)
        packets.append(completed(bytes(made)))
    return packets
