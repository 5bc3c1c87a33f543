"""Super-packets: what a TUN with a virtio header hands out, and takes, in place of many packets.

Rules of this file: a packet that :func:`cut` returns is complete, with every checksum right; a
packet whose own checksum is wrong is never made part of what :func:`join` returns, because the
kernel would give it a right one; nothing raises because of what is in a packet.

(A long file: what is cut has to join to the same again, and both go by the same rules.)

Sources: the virtio 1.2 specification, section 5.1.6 (the header); the Linux kernel's
``virtio_net.h``, ``tcp_offload.c`` and ``udp_offload.c`` (what becomes of the fields of a
header); RFC 1071 (checksums); RFC 6864 (identification).
"""

from __future__ import annotations

import struct

VNET_SIZE = 10
"""Bytes of the header in front of every packet (struct virtio_net_hdr)."""
PLAIN = bytes(VNET_SIZE)
"""The header of a packet that is complete."""

NEEDS_CHECKSUM = 1
"""Flag: the checksum field holds only the sum of the pseudo header."""
GSO_NONE = 0
GSO_TCP4 = 1
GSO_TCP6 = 4
GSO_UDP = 5
"""Kinds of super-packet; UDP of both versions is one kind."""
GSO_ECN = 0x80
"""Added to the kind: the first segment has CWR set."""

MOST_SEGMENTS = 2048
"""Packets that one super-packet is cut into at most.  The kernel's smallest TCP segment, 48 bytes,
gives 1365 of 64 KiB; more than this is none of the kernel's."""
MOST_DATAGRAMS = 64
"""Datagrams that join at most: older kernels take no more."""

Write = tuple[list[bytes], list[bytes]]
"""What one write to the TUN takes, in pieces, and the packets that are in it."""

_VNET = struct.Struct("=BBHHHH")  # flags, kind, header, segment size, checksum's start and offset
_LARGEST = 65_535  # bytes of an IPv4 packet, and of what an IPv6 header can state
_TCP, _UDP, _ICMP6 = 6, 17, 58
_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_TCP_CHECKSUM, _UDP_CHECKSUM = 16, 6  # where in the header

_HEAD4 = struct.Struct(">2sHH4sH")  # an IPv4 header up to the addresses
_TCP_HEAD = struct.Struct(">4sI5sB2sH")  # up to the urgent pointer
_UDP_HEAD = struct.Struct(">4sHH")

# Checksums are sums modulo 65535 of 16-bit words.  As 2**16 is 1 there, they are what is left of
# the packet as one number; and as swapping bytes is a multiplication by 256 there, byte order is
# a matter of one shift.  Little endian is the faster one to read (1400 bytes: 1.5 us, big endian
# 2.1), and folding the number twice halves what the division takes (0.7 us, from 1.9).
# `array` and `struct` with `sum` take 4 to 7 times as long.
_FOLD, _FOLD_AGAIN = 8 * 704, 8 * 352
_LOW, _LOW_AGAIN = (1 << _FOLD) - 1, (1 << _FOLD_AGAIN) - 1


def residue(data: bytes, plus: int = 0) -> int:
    """Return the sum of *plus* and the 16-bit words of *data*, big endian, modulo 65535.

    Of a complete header or packet (with its pseudo header) it is 0.
    """
    number = int.from_bytes(data, "little")
    number = (number & _LOW) + (number >> _FOLD)
    number = (number & _LOW_AGAIN) + (number >> _FOLD_AGAIN)
    return ((number << 8) + plus) % 65535


# -- out of the kernel


def cut(frame: bytes) -> list[bytes]:
    """Return the packets in *frame*, one read from the TUN: virtio header and (super-)packet.

    Nothing, when the header says what cannot be.
    """
    if frame.startswith(PLAIN):
        return [frame[VNET_SIZE:]]
    if len(frame) < VNET_SIZE + 20:
        return []
    flags, kind, _, size, start, offset = _VNET.unpack_from(frame)
    kind &= ~GSO_ECN
    if kind == GSO_NONE:
        if not flags & NEEDS_CHECKSUM:
            return [frame[VNET_SIZE:]]
        return _completed(frame[VNET_SIZE:], start, offset)
    if not flags & NEEDS_CHECKSUM or not size:
        return []
    version = frame[VNET_SIZE] >> 4
    if version not in (4, 6) or len(frame) - VNET_SIZE > _LARGEST + 40 * (version == 6):
        return []
    # What the kernel says about the length of the headers is not to be trusted.
    if version == 4:
        if start != (frame[VNET_SIZE] & 15) * 4 or start < 20:
            return []
        if (frame[VNET_SIZE + 6] << 8 | frame[VNET_SIZE + 7]) & 0x3FFF:  # a fragment
            return []
    elif start < 40 or start % 2:
        return []
    transport = VNET_SIZE + start
    if kind in (GSO_TCP4, GSO_TCP6):
        if version != (4 if kind == GSO_TCP4 else 6) or offset != _TCP_CHECKSUM:
            return []
        if len(frame) < transport + 20:
            return []
        payload = transport + (frame[transport + 12] >> 4) * 4
        if payload < transport + 20:
            return []
    elif kind == GSO_UDP and offset == _UDP_CHECKSUM:
        payload = transport + 8
    else:
        return []
    if not 0 < len(frame) - payload <= size * MOST_SEGMENTS:
        return []
    if kind == GSO_UDP:
        return _cut_udp(frame, transport, payload, size)
    return _cut_tcp(frame, transport, payload, size)


def _completed(packet: bytes, start: int, offset: int) -> list[bytes]:
    """Return *packet* with the checksum that it lacks, alone; nothing if there is no place."""
    at = start + offset
    if at + 2 > len(packet) or start < 20:
        return []
    # The field holds the sum of the pseudo header, which so gets into that of the whole.
    total = 65535 - residue(packet[start:])
    if total == 65535 and offset != _UDP_CHECKSUM:
        total = 0  # the same number; but only a UDP packet must not have it
    return [packet[:at] + total.to_bytes(2, "big") + packet[at + 2 :]]


def _cut_tcp(frame: bytes, transport: int, payload: int, size: int) -> list[bytes]:
    ports, seq, ack, flags, window, partial = _TCP_HEAD.unpack_from(frame, transport)
    rest = frame[transport + 18 : payload]  # urgent pointer and options
    length, end = payload - transport, len(frame)
    # What all segments share; the partial sum holds the length of the whole, too.
    shared = residue(ports + ack + b"\0" + window + rest, partial - (end - transport)) + length
    pack = _TCP_HEAD.pack
    packets: list[bytes] = []
    first = True
    heads = _heads(frame, transport, payload, size)
    for at, head in zip(range(payload, end, size), heads, strict=True):
        data = frame[at : at + size]
        now = flags
        if at + size < end:
            now &= ~(_FIN | _PSH)
        if first:
            first = False
        else:
            now &= ~_CWR
        # As in `residue`; a call would take a tenth of all this.
        number = int.from_bytes(data, "little")
        number = (number & _LOW) + (number >> _FOLD)
        number = (number & _LOW_AGAIN) + (number >> _FOLD_AGAIN)
        plus = shared + (seq >> 16) + (seq & 0xFFFF) + now + len(data)
        total = (65535 - ((number << 8) + plus) % 65535) % 65535
        packets.append(b"".join((head, pack(ports, seq, ack, now, window, total), rest, data)))
        seq = (seq + size) & 0xFFFFFFFF
    return packets


def _cut_udp(frame: bytes, transport: int, payload: int, size: int) -> list[bytes]:
    ports, _, partial = _UDP_HEAD.unpack_from(frame, transport)
    end = len(frame)
    shared = residue(ports, partial - (end - transport))
    packets: list[bytes] = []
    heads = _heads(frame, transport, payload, size)
    for at, head in zip(range(payload, end, size), heads, strict=True):
        data = frame[at : at + size]
        length = 8 + len(data)  # stands in the header, and in the pseudo header
        total = 65535 - residue(data, shared + 2 * length)  # never 0, which would say "none"
        packets.append(b"".join((head, _UDP_HEAD.pack(ports, length, total), data)))
    return packets


def _heads(frame: bytes, transport: int, payload: int, size: int) -> list[bytes]:
    """Return the IP header of each packet that *frame* is cut into."""
    end = len(frame)
    count = -(-(end - payload) // size)
    last = payload - VNET_SIZE + (end - payload - 1) % size + 1
    each = last if count == 1 else payload - VNET_SIZE + size
    if frame[VNET_SIZE] >> 4 == 6:
        before, behind = frame[VNET_SIZE : VNET_SIZE + 4], frame[VNET_SIZE + 6 : transport]
        heads = [before + (each - 40).to_bytes(2, "big") + behind] * count
        if each != last:
            heads[-1] = before + (last - 40).to_bytes(2, "big") + behind
        return heads
    kind, _, identity, middle, _ = _HEAD4.unpack_from(frame, VNET_SIZE)
    behind = frame[VNET_SIZE + 12 : transport]
    shared = residue(kind + middle + behind)
    pack = _HEAD4.pack
    heads = []
    for number in range(identity, identity + count):
        if number == identity + count - 1:
            each = last
        now = number & 0xFFFF
        total = (65535 - (shared + each + now) % 65535) % 65535
        heads.append(pack(kind, each, now, middle, total) + behind)
    return heads


# -- into the kernel


def _mask(size: int, *free: tuple[int, int]) -> int:
    """Return ones over headers of *size* bytes, but for the ranges that are *free*."""
    ones = bytearray(b"\xff" * size)
    for first, after in free:
        ones[first:after] = bytes(after - first)
    return int.from_bytes(ones, "little")


def _masks(start: int, *free: tuple[int, int]) -> dict[int, int]:
    """Return, by where the payload begins, what must be equal in the headers before it."""
    masks = {}
    for after in range(start + 20, start + 64, 4):  # TCP: all but seq, PSH and checksum
        mask = _mask(after, *free, (start + 4, start + 8), (start + 16, start + 18))
        masks[after] = mask & ~(_PSH << 8 * (start + 13))
    masks[start + 8] = _mask(start + 8, *free, (start + 4, start + 8))  # UDP: the ports
    return masks


# Free in IPv4: length, identification and checksum; in IPv6 the length.
_EQUAL = {4: _masks(20, (2, 6), (10, 12)), 6: _masks(40, (4, 6))}
_LENGTH4 = 0xFFFF << 8 * 2  # where in a header that was read as one number
_LENGTH6 = 0xFFFF << 8 * 4
_HEADER4 = (1 << 8 * 20) - 1


class _Run:
    """Packets of one flow that fit together, so far; made with the first."""

    __slots__ = (
        "at",
        "each",
        "following",
        "identity",
        "key",
        "mask",
        "packets",
        "payload",
        "plus",
        "protocol",
        "same",
        "seq",
        "size",
        "total",
    )

    def __init__(self, packet: bytes) -> None:
        self.packets = [packet]
        self.total = len(packet)
        """Bytes of all as one packet."""
        self.protocol = 0
        self.at = 0
        """Where the header of TCP or UDP begins."""
        self.payload = 0
        self.size = 0
        """Bytes of payload in each packet; 0: nothing may follow."""
        self.key = 0
        """All that must be equal in the headers, as one number."""
        self.seq = self.following = 0
        """Sequence numbers of the first packet, and of the next."""
        self.identity = 0
        """Of the last packet."""
        # Of packets that are as long as the first; from the second on.
        self.each = 0
        self.mask = 0
        self.same = 0
        self.plus = 0
        """What the little endian sum of such a packet lacks for being 0, its IP header aside."""


def join(packets: list[bytes], datagrams: bool = False) -> list[Write]:
    """Return *packets* as writes to a TUN with virtio headers, those that fit together as one.

    Each flow keeps its order; of flows that take turns the packets still join.  What is no sound
    TCP or UDP packet is written as it is.

    Args:
        datagrams: whether the kernel takes UDP super-packets, too.
    """
    if len(packets) == 1:
        return [([PLAIN, packets[0]], packets)]
    runs: list[_Run] = []
    latest: dict[bytes, _Run] = {}  # by flow, while more may follow
    index, count = 0, len(packets)
    while index < count:
        packet = packets[index]
        size = len(packet)
        flow = packet[8:44] if size and packet[0] >> 4 == 6 else packet[12:24]
        run = latest.get(flow)
        if run is not None:
            if size == run.each and (taken := _follow(run, packets, index)):
                index += taken
                if run.packets[-1][run.at + 13] & _PSH:
                    del latest[flow]
                continue
            del latest[flow]
        index += 1
        new = _begun(packet, datagrams)
        if new is None:
            latest.clear()  # whose it is we do not see, and it must not be overtaken
            runs.append(_Run(packet))
            continue
        if run is None or not new.size or not _extend(run, new):
            runs.append(new)
            run = new
        pushed = new.protocol == _TCP and packet[new.at + 13] & _PSH
        if new.size and new.size == run.size and not pushed:
            latest[flow] = run
    return [_write(run) for run in runs]


def _follow(run: _Run, packets: list[bytes], first: int) -> int:
    """Append packets from *first* on that are just like those before; return how many.

    That is what nearly all packets of a transfer are.
    """
    each, mask, same, plus, size = run.each, run.mask, run.same, run.plus, run.size
    payload, at, following = run.payload, run.at, run.following
    room = (_LARGEST - run.total) // size
    seq, acknowledged, flags = at + 4, at + 8, at + 13
    number_of = int.from_bytes
    taken = 0
    for packet in packets[first : first + room]:
        if len(packet) != each:
            break
        head = number_of(packet[:payload], "little")
        if (
            head & mask != same
            or number_of(packet[seq:acknowledged], "big") != following
            or (at == 20 and (head & _HEADER4) % 65535)
        ):
            break
        number = number_of(packet, "little")  # as in `residue`
        number = (number & _LOW) + (number >> _FOLD)
        number = (number & _LOW_AGAIN) + (number >> _FOLD_AGAIN)
        if (number + plus) % 65535:
            break
        taken += 1
        following = (following + size) & 0xFFFFFFFF
        if packet[flags] & _PSH:
            break
    run.packets += packets[first : first + taken]
    run.total += taken * size
    run.following = following
    return taken


def _begun(packet: bytes, datagrams: bool) -> _Run | None:
    """Return *packet* as a run of its own; None when we do not know which flow it belongs to."""
    size = len(packet)
    version = packet[0] >> 4 if size >= 28 else 0
    if version == 4:
        # Neither options, nor a fragment.
        if packet[0] != 0x45 or packet[6] & 0xBF or packet[7]:
            return None
        protocol, at, stated = packet[9], 20, packet[2] << 8 | packet[3]
    elif version == 6 and size >= 48:
        protocol, at, stated = packet[6], 40, (packet[4] << 8 | packet[5]) + 40
    else:
        return None
    if stated != size:
        return None
    run = _Run(packet)
    if protocol == _TCP and size >= at + 20:
        flags = packet[at + 12] << 8 | packet[at + 13]
        payload = at + (flags >> 12) * 4
        if flags & 0xFFF & ~_PSH != _ACK or not at + 20 <= payload < size:
            return run
        run.seq = int.from_bytes(packet[at + 4 : at + 8], "big")
        run.following = (run.seq + size - payload) & 0xFFFFFFFF
    elif protocol == _UDP:
        payload = at + 8
        if not datagrams or payload == size or not packet[at + 6] | packet[at + 7]:
            return run
        if (packet[at + 4] << 8 | packet[at + 5]) + at != size:
            return run
    elif version == 4 or protocol == _ICMP6:
        return run
    else:
        return None  # an extension header, behind which there may be anything
    run.protocol, run.at, run.payload, run.size = protocol, at, payload, size - payload
    run.key = int.from_bytes(packet[:payload], "little") & _EQUAL[version][payload]
    if version == 4:
        run.identity = packet[4] << 8 | packet[5]
    return run


def _extend(run: _Run, new: _Run) -> bool:
    """Append the packet of *new*; False: it does not fit."""
    packet, first = new.packets[0], run.packets[0]
    version4 = run.at == 20
    free = not version4 or packet[6] & 0x40  # of an identification with a meaning
    if not (
        new.key == run.key
        and new.seq == run.following
        and new.size <= run.size
        and (free or new.identity == (run.identity + 1) & 0xFFFF)
        and run.total + new.size <= _LARGEST
        and (run.protocol == _TCP or len(run.packets) < MOST_DATAGRAMS)
        and _is_right(packet, run.protocol)
        and (len(run.packets) > 1 or _is_right(first, run.protocol))
    ):
        return False
    if len(run.packets) == 1 and run.protocol == _TCP and free:
        size = run.each = len(first)
        head = int.from_bytes(first[: run.payload], "little")
        # Their length is the same, too.
        if version4:
            run.mask = _EQUAL[4][run.payload] | _LENGTH4
            run.plus = residue(first[12:20], _TCP + size - 20) << 8
        else:
            run.mask = _EQUAL[6][run.payload] | _LENGTH6
            run.plus = (_TCP + size - 40 - residue(first[:8])) << 8
        run.same = head & run.mask
    run.packets.append(packet)
    run.total += new.size
    run.following, run.identity = new.following, new.identity
    return True


def _is_right(packet: bytes, protocol: int) -> bool:
    """Whether all checksums of a packet are right, which has neither options nor extensions."""
    size = len(packet)
    if packet[0] == 0x45:
        return not residue(packet[12:], protocol + size - 20) and not residue(packet[:20])
    return not residue(packet[8:], protocol + size - 40)


def _write(run: _Run) -> Write:
    packets = run.packets
    head = packets[0]
    if len(packets) == 1:
        return [PLAIN, head], packets
    payload = run.payload
    pushed = run.protocol == _TCP and packets[-1][run.at + 13] & _PSH > 0
    before = joined_headers(head[:payload], run.at, run.total, run.size, pushed)
    return [before, *[each[payload:] for each in packets]], packets


def joined_headers(head: bytes, at: int, whole: int, size: int, pushed: bool) -> bytes:
    """Return all that is before the payload of packets that become one.

    Args:
        head: the headers of the first.
        at: where that of TCP or UDP begins: at 20 in IPv4, at 40 in IPv6.
        whole: bytes of all as one packet.
        size: bytes of payload in each.
        pushed: whether the last has TCP's flag PSH.
    """
    if at == 20:
        protocol, kind = head[9], GSO_TCP4
        total = whole.to_bytes(2, "big")
        check = (65535 - residue(head[:2] + total + head[4:10] + head[12:20])) % 65535
        before = head[:2] + total + head[4:10] + check.to_bytes(2, "big") + head[12:20]
        addresses = head[12:20]
    else:
        protocol, kind = head[6], GSO_TCP6
        before = head[:4] + (whole - 40).to_bytes(2, "big") + head[6:40]
        addresses = head[8:40]
    length = whole - at
    # Never its other name, 0: of an IPv6 datagram the kernel takes that for a wrong checksum.
    partial = (residue(addresses, protocol + length) or 65535).to_bytes(2, "big")
    if protocol == _TCP:
        offset = _TCP_CHECKSUM
        flags = head[at + 13] | (_PSH if pushed else 0)
        transport = head[at : at + 13] + bytes((flags,)) + head[at + 14 : at + 16] + partial
        transport += head[at + 18 :]
    else:
        offset, kind = _UDP_CHECKSUM, GSO_UDP
        transport = head[at : at + 4] + length.to_bytes(2, "big") + partial
    return _VNET.pack(NEEDS_CHECKSUM, kind, len(head), size, at, offset) + before + transport
