"""The few facts of an IP packet that a tunnel needs."""

from __future__ import annotations

NOT_ECT, ECT1, ECT0, CE = range(4)
"""The two bits of explicit congestion notification (RFC 3168 section 5)."""


def endpoints_of(packet: bytes) -> tuple[bytes, bytes] | None:
    """Return source and destination of *packet*, packed (4 or 16 bytes each).

    None unless it is exactly one IPv4 or IPv6 packet: a whole header, and the length the header
    states is the length there is.  (Bytes behind the stated end would be smuggled past every
    filter; fewer would make the kernel or the next hop read what is not there.)

    Sources: RFC 791 section 3.1, RFC 8200 section 3.  Jumbograms (RFC 2675) do not fit the MTU of
    any tunnel of ours and are refused by the length check.
    """
    # The packet path: comparisons and slices cost a fifth of an ipaddress object.
    size = len(packet)
    if size < 20:
        return None
    first = packet[0]
    if 0x45 <= first <= 0x4F:  # version 4, header of 5 to 15 words
        if (packet[2] << 8 | packet[3]) == size and (first & 15) * 4 <= size:
            return packet[12:16], packet[16:20]
    elif first >> 4 == 6 and size >= 40 and (packet[4] << 8 | packet[5]) + 40 == size:
        return packet[8:24], packet[24:40]
    return None


def trimmed(padded: bytes) -> bytes | None:
    """Return *padded* without what lies behind the end that its IP header states.

    WireGuard pads packets to 16 bytes.  None when it is no IPv4 or IPv6 header or states more
    than there is; whether the header is right in itself is for :func:`endpoints_of`.
    """
    size = len(padded)
    if size < 20:
        return None
    version = padded[0] >> 4
    if version == 4:
        stated = padded[2] << 8 | padded[3]
        if stated < 20:
            return None
    elif version == 6 and size >= 40:
        stated = (padded[4] << 8 | padded[5]) + 40
    else:
        return None
    if stated == size:
        return padded
    return padded[:stated] if stated < size else None


def ecn_of(packet: bytes) -> int:
    """Return the ECN field of *packet*, an IPv4 or IPv6 packet of at least two bytes."""
    return packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3


def decapsulated(packet: bytes, outer: int) -> bytes | None:
    """Return *packet* with what its tunnel learned of congestion; None when it must be dropped.

    *outer* is the ECN field of the datagram it came in.  Congestion met outside becomes the
    packet's own; a packet whose ends do not understand that is dropped, which they do understand.

    Source: RFC 6040 section 4.2, figure 4.
    """
    inner = ecn_of(packet)
    if outer == CE:
        return None if inner == NOT_ECT else _with_ecn(packet, CE)
    return _with_ecn(packet, ECT1) if outer == ECT1 and inner == ECT0 else packet


def _with_ecn(packet: bytes, ecn: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes((packet[1] & 0xCF | ecn << 4,)) + packet[2:]
    before = packet[1]
    after = before & 0xFC | ecn
    total = updated_checksum(packet[10] << 8 | packet[11], before, after)
    return packet[:1] + bytes((after,)) + packet[2:10] + total.to_bytes(2, "big") + packet[12:]


def updated_checksum(checksum: int, before: int, after: int) -> int:
    """Return what becomes of a *checksum* when a 16-bit word under it changes.

    Source: RFC 1624 section 3, HC' = ~(~HC + ~m + m').
    """
    total = (~checksum & 0xFFFF) + (~before & 0xFFFF) + after
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
