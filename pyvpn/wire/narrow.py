"""Packets on a way that is narrower than their senders know: IPv4 fragments, and TCP's MSS.

What a router does; the tunnel is one for each session whose path is narrower than the TUN.
"""

from __future__ import annotations

from pyvpn.wire.icmp import checksum
from pyvpn.wire.ip import updated_checksum

_MORE, _DONT = 0x2000, 0x4000  # flags beside the offset, which counts eights of bytes
_OFFSET = 0x1FFF
_COPIED = 0x80  # the bit of an option that every fragment has to carry
_TCP, _SYN = 6, 0x02
_MSS = 2
_MOST_SYN = 60 + 60
"""No SYN without data is longer: IPv6, or the longest IPv4 header, and TCP's."""
_HEADERS4, _HEADERS6 = 40, 60
"""What the MSS leaves out: the headers of IP and TCP without options (RFC 6691)."""


def fragments(packet: bytes, mtu: int) -> list[bytes] | None:
    """Cut an IPv4 *packet*, one that :func:`~pyvpn.wire.ip.endpoints_of` knows, to *mtu* bytes.

    None when its sender forbids that, when it is no IPv4, or when not even eight bytes fit beside
    the header.

    Source: RFC 791 section 3.2.
    """
    if packet[0] >> 4 != 4:
        return None
    field = packet[6] << 8 | packet[7]
    length = (packet[0] & 15) * 4
    step = (mtu - length) & ~7
    if field & _DONT or step <= 0:
        return None
    first = packet[:length]
    later = first[:20] + _copied(first[20:])
    offset, last = field & _OFFSET, field & _MORE
    pieces = []
    for at in range(length, len(packet), step):
        body = packet[at : at + step]
        more = last if at + step >= len(packet) else _MORE
        here = offset + ((at - length) >> 3)
        pieces.append(_with_header(first if at == length else later, more | here, body))
    return pieces


def _with_header(header: bytes, field: int, body: bytes) -> bytes:
    words = len(header) // 4
    total = len(header) + len(body)
    header = (
        bytes((0x40 | words,))
        + header[1:2]
        + total.to_bytes(2, "big")
        + header[4:6]
        + field.to_bytes(2, "big")
        + header[8:10]
        + b"\0\0"
        + header[12:]
    )
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def _copied(options: bytes) -> bytes:
    """Return those IPv4 *options* that later fragments carry, padded to whole words."""
    kept = b""
    at = 0
    while at < len(options) and options[at] != 0:  # 0 ends them
        if options[at] == 1:  # padding in between
            at += 1
            continue
        if at + 1 >= len(options) or not 2 <= options[at + 1] <= len(options) - at:
            break  # nobody can read the rest
        if options[at] & _COPIED:
            kept += options[at : at + options[at + 1]]
        at += options[at + 1]
    return kept + bytes(-len(kept) % 4)


def clamped(packet: bytes, mtu: int) -> bytes:
    """Return *packet* with an MSS that fits *mtu*, if it opens a TCP connection with a larger one.

    Sources: RFC 9293 section 3.7.1, RFC 6691.
    """
    if len(packet) > _MOST_SYN:
        return packet
    if packet[0] >> 4 == 4:
        start, most = (packet[0] & 15) * 4, mtu - _HEADERS4
        if packet[9] != _TCP or packet[6] & 0x1F or packet[7]:  # a later fragment
            return packet
    else:
        start, most = 40, mtu - _HEADERS6
        if packet[6] != _TCP:
            return packet
    if len(packet) < start + 20 or not packet[start + 13] & _SYN:
        return packet
    at, end = start + 20, min(len(packet), start + (packet[start + 12] >> 4) * 4)
    while at + 1 < end and packet[at] != 0:
        if packet[at] == 1:
            at += 1
            continue
        size = packet[at + 1]
        if packet[at] == _MSS and size == 4 and at + 4 <= end:
            return _with_word(packet, at + 2, most, start + 16, start)
        if size < 2:
            break
        at += size
    return packet


def _with_word(packet: bytes, at: int, most: int, sum_at: int, start: int) -> bytes:
    before = packet[at] << 8 | packet[at + 1]
    if before <= most:
        return packet
    changed = bytearray(packet)
    changed[at : at + 2] = most.to_bytes(2, "big")
    # The word may lie across two words of the sum, if the option is not aligned.
    then, now = before, most
    if (at - start) % 2:
        then, now = (_swapped(before), _swapped(most))
    total = updated_checksum(packet[sum_at] << 8 | packet[sum_at + 1], then, now)
    changed[sum_at : sum_at + 2] = total.to_bytes(2, "big")
    return bytes(changed)


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8


LEAST_MTU6 = 1280
"""Nobody can be asked for smaller packets in IPv6 (RFC 8200 section 5)."""


def fitted(packets: list[bytes], mtu: int) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Sort *packets* for a way of *mtu*; :func:`~pyvpn.wire.ip.endpoints_of` knows all of them.

    Returns:
        What fits, cut or with another MSS where it has to be, in order; IPv6 packets that do not
        and whose senders can do nothing about it; and those that are too large.
    """
    fitting: list[bytes] = []
    minimal: list[bytes] = []
    large: list[bytes] = []
    for packet in packets:
        if len(packet) <= mtu:
            fitting.append(clamped(packet, mtu))
        elif pieces := fragments(packet, mtu):
            fitting += pieces
        elif len(packet) <= LEAST_MTU6 and packet[0] >> 4 == 6:
            minimal.append(packet)
        else:
            large.append(packet)
    return fitting, minimal, large
