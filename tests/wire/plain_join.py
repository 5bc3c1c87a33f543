"""What :func:`pyvpn.wire.segments.join` puts together, judged one packet after the other."""

from __future__ import annotations

from tests.wire.plain_segments import ACK, PSH, TCP, UDP, is_sound, transport_of

MOST_DATAGRAMS = 64
LARGEST = 65_535


def number_at(packet: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(packet[at : at + size], "big")


def payload_at(packet: bytes) -> int | None:
    """Where the payload begins, of a packet that may be one of several; None: it may not."""
    protocol, at = transport_of(packet)
    if not is_sound(packet):
        return None
    if protocol == UDP:
        return at + 8 if len(packet) > at + 8 and number_at(packet, at + 6) else None
    if packet[at + 12] & 15 or packet[at + 13] & ~PSH != ACK:
        return None
    after = at + (packet[at + 12] >> 4) * 4
    return after if at + 20 <= after < len(packet) else None


def flow_of(packet: bytes) -> bytes | None:
    """What is never overtaken by others of the same; None: it is not known whose it is."""
    if len(packet) < 28 or packet[0] >> 4 not in (4, 6):
        return None
    if packet[0] >> 4 == 4:
        if packet[0] != 0x45 or number_at(packet, 6) & 0xBFFF:
            return None
        return packet[12:24] if number_at(packet, 2) == len(packet) else None
    if len(packet) < 48 or number_at(packet, 4) + 40 != len(packet):
        return None
    return packet[8:44] if packet[6] in (TCP, UDP, 58) else None


def is_whole(packet: bytes) -> bool:
    """Whether it is TCP or UDP with a whole header."""
    protocol, at = transport_of(packet)
    return protocol == UDP or (protocol == TCP and len(packet) >= at + 20)


def alike(one: bytes, other: bytes) -> bool:
    """Whether all is equal in two headers but what differs in packets of one flow."""

    def known(packet: bytes) -> bytes:
        protocol, at = transport_of(packet)
        head = bytearray(packet[: payload_at(packet) or 0])
        for first, after in ((2, 6), (10, 12)) if at == 20 else ((4, 6),):
            head[first:after] = bytes(after - first)
        if protocol == TCP:
            head[at + 4 : at + 8] = bytes(4)
            head[at + 13] &= ~PSH
            head[at + 16 : at + 18] = bytes(2)
        else:
            head[at + 4 : at + 8] = bytes(4)
        return bytes(head)

    return known(one) == known(other)


def follows(group: list[bytes], packet: bytes, datagrams: bool) -> bool:
    """Whether *packet* may be the next of those that are one already."""
    if not all(flow_of(each) and is_whole(each) for each in (group[0], packet)):
        return False
    starts = [payload_at(each) for each in (group[0], group[-1], packet)]
    if None in starts or not alike(group[0], packet):
        return False
    first, last, mine = (len(each) - (start or 0) for each, start in zip(
        (group[0], group[-1], packet), starts, strict=True))  # fmt: skip
    protocol, at = transport_of(packet)
    if (
        last != first
        or mine > first
        or sum(map(len, group)) - (len(group) - 1) * (starts[0] or 0) + mine > LARGEST
    ):
        return False
    before = group[-1]
    if (
        at == 20
        and not packet[6] & 0x40
        and number_at(packet, 4) != (number_at(before, 4) + 1) % 2**16
    ):
        return False
    if protocol == UDP:
        return datagrams and len(group) < MOST_DATAGRAMS
    if before[at + 13] & PSH:
        return False
    return number_at(packet, at + 4, 4) == (number_at(before, at + 4, 4) + last) % 2**32


def plain_join(packets: list[bytes], datagrams: bool) -> list[list[bytes]]:
    """Return *packets* in groups, each of which is one write."""
    groups: list[list[bytes]] = []
    open_ones: dict[bytes, list[bytes]] = {}
    for packet in packets:
        flow = flow_of(packet)
        if flow is None:
            open_ones.clear()
            groups.append([packet])
            continue
        group = open_ones.get(flow)
        if group is not None and follows(group, packet, datagrams):
            group.append(packet)
        else:
            groups.append([packet])
            open_ones[flow] = groups[-1]
    return groups
