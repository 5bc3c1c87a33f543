"""Super-packets of whatever there is, and of what should not be: the fast way is the plain one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.offload import LEAST_SEGMENT, Run, outgoing
from pyvpn.wire.rebuild import rebuild
from pyvpn.wire.segments import MOST_DATAGRAMS, MOST_SEGMENTS, PLAIN, VNET_SIZE, cut, join
from tests.wire.plain_join import plain_join
from tests.wire.plain_segments import (
    ACK,
    TCP,
    UDP,
    completed,
    frame,
    ip4,
    ip6,
    is_sound,
    plain_cut,
    tcp,
    transport_of,
    udp,
)
from tests.wire.test_segments import payload_of, super_packets

MOST = 65_535
IPV4_OPTIONS = st.integers(0, 10).map(lambda words: bytes([1]) * 4 * words)


@st.composite
def whole_frames(draw: st.DrawFn) -> bytes:
    """Draw a right super-packet of any size that a TUN can hand out, up to 64 KiB."""
    protocol, version = draw(st.sampled_from((TCP, UDP))), draw(st.sampled_from((4, 6)))
    options = bytes([1]) * 4 * draw(st.integers(0, 10)) if protocol == TCP else b""
    beside = draw(IPV4_OPTIONS) if version == 4 else b""
    # An IPv6 header does not count itself.
    room = (
        MOST - (20 + len(beside)) * (version == 4) - (20 + len(options) if protocol == TCP else 8)
    )
    length = draw(st.one_of(st.integers(1, 3000), st.integers(room - 100, room)))
    if protocol == TCP:
        size = draw(st.one_of(st.integers(LEAST_SEGMENT, 60), st.integers(500, MOST)))
        content = tcp(
            payload_of(length, 7),
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=ACK | draw(st.integers(0, 255)),
            options=options,
            reserved=draw(st.integers(0, 15)),
        )
    else:
        least = -(-length // MOST_SEGMENTS)
        size = draw(st.one_of(st.integers(least, least + 60), st.integers(500, MOST)))
        content = udp(payload_of(length, 7))
    tos = draw(st.integers(0, 255))
    if version == 6:
        return frame(ip6(protocol, content, tos=tos), size)
    identity, fragment = draw(st.integers(0, 2**16 - 1)), draw(st.sampled_from((0, 0x4000)))
    packet = ip4(protocol, content, tos=tos, identity=identity, fragment=fragment, options=beside)
    return frame(packet, size)


def bent(draw: Callable[..., Any], packet: bytes, places: int = 64) -> bytes:
    """Return *packet* with some of its first bytes changed, or its end."""
    made = bytearray(packet)
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, places), st.integers(0, 255)), max_size=3)
    ):
        if at < len(made):
            made[at] = value
    change = draw(st.sampled_from((0, 0, 0, 0, -1, -15, 1, 16)))
    return bytes(made[:change] if change < 0 else made + bytes(change))


@st.composite
def flows(draw: st.DrawFn) -> list[bytes]:
    """Draw packets of a few flows, among each other, some of them not as they should be."""
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        version, protocol = draw(st.sampled_from((4, 6))), draw(st.sampled_from((TCP, UDP)))
        size, port = draw(st.sampled_from((1, 8, 99, 100, 1400, 9000))), draw(st.integers(1, 2))
        count, seq = draw(st.integers(1, 7)), draw(st.sampled_from((0, 2**32 - 2 * size)))
        identity, fragment = draw(st.sampled_from((0, 65_530))), draw(st.sampled_from((0, 0x4000)))
        payload = payload_of(size * count, 3)
        for _ in range(draw(st.integers(1, 3))):  # which go on where the one before ends
            content = (
                tcp(payload, seq=seq, port=port) if protocol == TCP else udp(payload, port=port)
            )
            packet = (
                ip6(protocol, content)
                if version == 6
                else ip4(protocol, content, identity=identity, fragment=fragment)
            )
            packets += cut(frame(packet, size))
            seq = (seq + size * count) % 2**32
            identity = (identity + count + draw(st.integers(0, 1))) % 2**16
    order = draw(st.permutations(range(len(packets)))) if draw(st.booleans()) else None
    if order is not None:
        packets = [packets[at] for at in order]
    for at in draw(st.sets(st.integers(0, len(packets) - 1), max_size=4)):
        packet = bent(draw, packets[at])
        if draw(st.booleans()) and is_tcp_or_udp(packet):
            packet = completed(packet)  # so that it is not the checksum that gives it away
        packets[at] = packet
    return packets


def is_tcp_or_udp(packet: bytes) -> bool:
    """Whether checksums can be computed."""
    if len(packet) < 60 or packet[0] not in (0x45, 0x60):
        return False
    return transport_of(packet)[0] in (TCP, UDP)


class ArbitraryTests(SynchronousTestCase):
    """Cut, joined and carried across, with the wire's own bounds."""

    @settings(deadline=None)
    @given(whole_frames())
    def test_cut(self, whole: bytes) -> None:
        """Of any size the packets are those of the plain way, and sound."""
        packets = cut(whole)

        self.assertEqual(plain_cut(whole), packets)
        self.assertLessEqual(len(packets), MOST_SEGMENTS)
        self.assertTrue(all(is_sound(packet) for packet in packets))

    @settings(deadline=None)
    @given(whole_frames(), st.booleans())
    def test_cut_then_join(self, whole: bytes, datagrams: bool) -> None:
        """What was cut and joined is cut to the same again, whatever it was."""
        packets = cut(whole)
        writes = join(packets, datagrams)

        self.assertEqual(packets, [each for pieces, _ in writes for each in cut(b"".join(pieces))])
        self.assertEqual(packets, [each for _, inside in writes for each in inside])

    @settings(deadline=None)
    @given(whole_frames(), st.integers(0, 2**64 - 2**14))
    def test_offload_then_rebuild(self, whole: bytes, counter: int) -> None:
        """What crossed the tunnel is cut to what it was, whatever it was."""
        (item,), unknown = outgoing([whole], 0)

        self.assertEqual(0, unknown)
        if isinstance(item, Run):
            payloads = item.plaintexts(counter)
            made = rebuild(list(range(counter, counter + len(payloads))), payloads)
            self.assertEqual((0, 0), made[1:])
            item = [each for packet in made.packets for each in packet.cut()]
        self.assertEqual(cut(whole), item)

    @settings(deadline=None)
    @given(super_packets(), st.data())
    def test_malformed_frames(self, whole: bytes, data: st.DataObject) -> None:
        """A frame with changed headers crosses as what it would be cut to, or as nothing."""
        whole = bent(data.draw, whole, VNET_SIZE + 64)
        items, unknown = outgoing([whole], 0)
        got: list[bytes] = []
        for item in items:
            if isinstance(item, Run):
                payloads = item.plaintexts(9)
                made = rebuild(list(range(9, 9 + len(payloads))), payloads)
                self.assertEqual((0, 0), made[1:])
                item = [each for packet in made.packets for each in packet.cut()]
                # Whatever its header said of checksums and lengths.
                self.assertTrue(all(is_sound(packet) for packet in item))
            got += item

        self.assertEqual(len(cut(whole)), len(got))
        self.assertEqual(0 if got else 1, unknown)
        if not any(isinstance(item, Run) for item in items):
            self.assertEqual(cut(whole), got)

    @settings(deadline=None)
    @given(flows(), st.booleans())
    def test_join_like_the_plain_way(self, packets: list[bytes], datagrams: bool) -> None:
        """Any packets are put together as the plain way would, and what is written is the same."""
        writes = join(packets, datagrams)

        self.assertEqual(plain_join(packets, datagrams), [inside for _, inside in writes])
        for pieces, inside in writes:
            if len(inside) == 1:
                self.assertEqual([PLAIN, inside[0]], pieces)
                continue
            written = b"".join(pieces)
            again = cut(written)
            self.assertEqual(len(inside), len(again))
            self.assertLessEqual(struct.unpack_from("=H", written, 4)[0], len(inside[0]))
            for one, other in zip(inside, again, strict=True):
                if one[0] >> 4 == 4 and one[6] & 0x40:  # its identification means nothing
                    one, other = (each[:4] + each[6:10] + each[12:] for each in (one, other))
                self.assertEqual(one, other)

    def test_many(self) -> None:
        """As many as there may be, and not one more."""
        for make in ip4, ip6:
            whole = frame(make(UDP, udp(bytes(MOST_SEGMENTS))), 1)
            self.assertEqual(plain_cut(whole), cut(whole))
            self.assertEqual([], cut(frame(make(UDP, udp(bytes(MOST_SEGMENTS + 1))), 1)))
            each = join(cut(whole), datagrams=True)
            self.assertEqual({MOST_DATAGRAMS}, {len(inside) for _, inside in each})
