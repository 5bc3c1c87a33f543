"""What is said to a sender whose packet goes nowhere, or is too large for the way."""

from __future__ import annotations

import struct

from pyvpn.wire.ip import endpoints_of

_ICMP4, _ICMP6 = 1, 58
_UNREACHABLE4 = (3, 1)  # type 3, code 1: host unreachable
_UNREACHABLE6 = (1, 3)  # type 1, code 3: address unreachable
_TOO_BIG4 = (3, 4)  # type 3, code 4: fragmentation needed, RFC 1191 section 4
_TOO_BIG6 = (2, 0)  # RFC 4443 section 3.2
_MOST4 = 576  # bytes of an ICMP error, RFC 1812 section 4.3.2.3
_MOST6 = 1280  # RFC 4443 section 3.1
_QUERIES4 = frozenset({0, 8, 13, 14})  # the ICMP types that are no errors and may be answered
_EXTENSIONS6 = frozenset({0, 43, 60})  # hop-by-hop, routing, destination: RFC 8200 section 4
_FRAGMENT6 = 44
_MOST_EXTENSIONS6 = 8  # nobody has more for a good reason, and a packet has room for thousands


def unreachable(packet: bytes) -> bytes | None:
    """Return the ICMP error that tells the sender of *packet* that nobody has its destination.

    Its source is that destination: an address of this host would be dropped as a martian by the
    kernel that the error is handed to.  None where no error may be sent: for what is not one
    whole packet, for a later fragment, for another error, from or to more than one host.

    Sources: RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e).
    """
    return _error(packet, _UNREACHABLE4, _UNREACHABLE6, 0)


def too_big(packet: bytes, mtu: int) -> bytes | None:
    """Return the ICMP error that asks the sender of *packet* for at most *mtu* bytes at a time.

    As :func:`unreachable`, which says from whom and when there is none.
    """
    return _error(packet, _TOO_BIG4, _TOO_BIG6, mtu)


def _error(
    packet: bytes, kind4: tuple[int, int], kind6: tuple[int, int], word: int
) -> bytes | None:
    ends = endpoints_of(packet)
    if ends is None:
        return None
    source, destination = ends
    if len(source) == 4:
        return _error4(packet, source, destination, kind4, word)
    return _error6(packet, source, destination, kind6, word)


def _error4(
    packet: bytes, source: bytes, destination: bytes, kind: tuple[int, int], word: int
) -> bytes | None:
    later_fragment = (packet[6] << 8 | packet[7]) & 0x1FFF
    if later_fragment or not _one_host4(source) or not _one_host4(destination):
        return None
    if packet[9] == _ICMP4:
        start = (packet[0] & 15) * 4
        if len(packet) <= start or packet[start] not in _QUERIES4:
            return None
    quoted = packet[: _MOST4 - 28]
    body = struct.pack("!BBHI", *kind, 0, word) + quoted
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    # DSCP 0xC0, "internetwork control": RFC 1812 section 4.3.2.5.
    header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(body), 0, 0, 64, _ICMP4, 0)
    header += destination + source
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def _error6(
    packet: bytes, source: bytes, destination: bytes, kind: tuple[int, int], word: int
) -> bytes | None:
    if not any(source) or source[0] == 0xFF or destination[0] == 0xFF:
        return None
    payload = _payload6(packet)
    if payload is None:
        return None
    protocol, start = payload
    if protocol == _ICMP6 and (len(packet) <= start or packet[start] < 128):
        return None
    body = struct.pack("!BBHI", *kind, 0, word) + packet[: _MOST6 - 48]
    pseudo = destination + source + struct.pack("!II", len(body), _ICMP6)
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), _ICMP6, 64) + destination + source + body


def _payload6(packet: bytes) -> tuple[int, int] | None:
    """Return the protocol behind all extension headers, and where it begins.

    None for a later fragment, and where that cannot be told: it might be an error.
    """
    protocol, start = packet[6], 40
    for _ in range(_MOST_EXTENSIONS6):
        if protocol not in _EXTENSIONS6 and protocol != _FRAGMENT6:
            return protocol, start
        if start + 8 > len(packet):
            return None
        if protocol != _FRAGMENT6:
            size = (packet[start + 1] + 1) * 8
        elif (packet[start + 2] << 8 | packet[start + 3]) & 0xFFF8:
            return None
        else:
            size = 8
        protocol, start = packet[start], start + size
    return None


def _one_host4(address: bytes) -> bool:
    return 0 < address[0] < 224 and address[0] != 127


def checksum(data: bytes) -> int:
    """Return the Internet checksum of *data* (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
