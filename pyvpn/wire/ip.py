"""The few facts of an IP packet that a router needs."""

from __future__ import annotations


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
