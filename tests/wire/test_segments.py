"""Super-packets: cut, and joined."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.segments import MOST_DATAGRAMS, MOST_SEGMENTS, PLAIN, VNET_SIZE, cut, join, residue
from tests.wire.plain_segments import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    SYN,
    TCP,
    UDP,
    URG,
    completed,
    frame,
    ip4,
    ip6,
    is_sound,
    ones_sum,
    plain_cut,
    pseudo_header,
    tcp,
    transport_of,
    udp,
)

OPTIONS = st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
SIZES = st.one_of(st.integers(1, 40), st.integers(500, 9000))


def payload_of(size: int, seed: int) -> bytes:
    """Return *size* bytes that are neither all alike nor slow to make."""
    return (seed.to_bytes(5, "big") * (size // 5 + 1))[:size]


@st.composite
def super_packets(draw: st.DrawFn, options4: bool = True) -> bytes:
    """Draw a sound frame of the kernel's that holds several packets, or one."""
    size = draw(SIZES)
    count = draw(st.integers(1, min(50, 60_000 // size)))
    last = draw(st.integers(1, size))
    payload = payload_of(size * (count - 1) + last, draw(st.integers(0, 2**40 - 1)))
    if draw(st.booleans()):
        protocol = TCP
        content = tcp(
            payload,
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=ACK | draw(st.sampled_from((0, PSH, FIN, CWR, ECE, PSH | FIN | CWR))),
            options=draw(OPTIONS),
            ack=draw(st.integers(0, 2**32 - 1)),
            window=draw(st.integers(0, 2**16 - 1)),
        )
    else:
        protocol, content = UDP, udp(payload)
    tos = draw(st.integers(0, 255))
    if draw(st.booleans()):
        return frame(ip6(protocol, content, tos=tos), size)
    return frame(
        ip4(
            protocol,
            content,
            tos=tos,
            identity=draw(st.integers(0, 2**16 - 1)),
            fragment=draw(st.sampled_from((0, 0x4000))),
            options=draw(OPTIONS) if options4 else b"",
        ),
        size,
    )


class ResidueTests(SynchronousTestCase):
    """Checksums."""

    @given(st.binary(max_size=3000), st.integers(0, 2**20))
    def test_sum(self, data: bytes, plus: int) -> None:
        """It is the sum of RFC 1071, which has two names for nothing."""
        self.assertEqual((ones_sum(data) + plus) % 65535, residue(data, plus))

    def test_long(self) -> None:
        """Also of much more than a packet."""
        data = payload_of(65_536, 0x123456789A)
        self.assertEqual(ones_sum(data) % 65535, residue(data))


class CutTests(SynchronousTestCase):
    """Out of the kernel."""

    def test_plain(self) -> None:
        """A packet with an empty header is that packet, whatever it is."""
        for packet in b"", b"\0", b"junk", completed(ip4(TCP, tcp(b"data"))):
            self.assertEqual([packet], cut(PLAIN + packet))

    @given(super_packets())
    def test_like_the_plain_way(self, whole: bytes) -> None:
        """The packets are those of the plain way, byte for byte, and sound."""
        packets = cut(whole)

        self.assertEqual(plain_cut(whole), packets)
        self.assertTrue(all(is_sound(packet) for packet in packets))

    @given(super_packets())
    def test_ecn(self, whole: bytes) -> None:
        """The kernel's mark for flows with ECN changes nothing."""
        marked = whole[:1] + bytes([whole[1] | 0x80]) + whole[2:]

        self.assertEqual(cut(whole), cut(marked))

    def test_length_of_headers_not_trusted(self) -> None:
        """A wrong length of the headers, which kernels may give, changes nothing."""
        whole = frame(ip4(TCP, tcp(bytes(5000), options=bytes(12))), 1000)
        for length in 0, 1, 66, 65_535:
            lying = whole[:2] + struct.pack("=H", length) + whole[4:]
            self.assertEqual(cut(whole), cut(lying))

    @given(super_packets(), st.binary(max_size=5))
    def test_unfinished(self, whole: bytes, payload: bytes) -> None:
        """A single packet whose checksum is left to us gets it; UDP's is never zero."""
        for packet in (
            ip4(TCP, tcp(payload), fragment=0),
            ip6(TCP, tcp(payload)),
            ip4(UDP, udp(payload)),
            ip6(UDP, udp(payload)),
        ):
            at = transport_of(packet)[1]
            offset = 16 if len(packet) - len(payload) == at + 20 else 6
            header = struct.pack("=BBHHHH", 1, 0, 0, 0, at, offset)
            self.assertEqual([completed(packet)], cut(header + completed(packet, partial=True)))

    def test_zero_checksums(self) -> None:
        """A sum that leaves nothing is 0 in TCP and 0xFFFF in UDP, where 0 means "none"."""
        for protocol, content, offset, expected in (
            (TCP, tcp(b"\0\0"), 16, b"\0\0"),
            (UDP, udp(b"\0\0"), 6, b"\xff\xff"),
        ):
            packet = completed(ip4(protocol, content))
            odd = int.from_bytes(packet[20 + offset : 22 + offset], "big")
            packet = packet[:-2] + odd.to_bytes(2, "big")  # so that it all adds up
            whole = completed(packet, partial=True)
            single = struct.pack("=BBHHHH", 1, 0, 0, 0, 20, offset) + whole
            several = frame(packet, 100)
            for each in single, several:
                (made,) = cut(each)
                self.assertEqual(expected, made[20 + offset : 22 + offset])
                self.assertTrue(is_sound(made))

    def test_refused(self) -> None:
        """What cannot be is nothing."""
        good4 = frame(ip4(TCP, tcp(bytes(3000))), 1000)
        good6 = frame(ip6(TCP, tcp(bytes(3000))), 1000)
        datagrams = frame(ip4(UDP, udp(bytes(3000))), 1000)

        def changed(whole: bytes, at: int, value: bytes) -> bytes:
            return whole[:at] + value + whole[at + len(value) :]

        for what, whole in {
            "cut short": good4[:20],
            "no header": b"\1",
            "without a checksum to complete": changed(good4, 0, b"\0"),
            "unknown kind": changed(good4, 1, b"\2"),
            "UFO": changed(datagrams, 1, b"\3"),
            "kind of the other version": changed(good4, 1, b"\4"),
            "and the other way around": changed(good6, 1, b"\1"),
            "TCP as UDP": changed(good4, 1, b"\5"),
            "no size": changed(good4, 4, bytes(2)),
            "transport behind the end": changed(good4, 6, b"\xff\xff"),
            "transport elsewhere": changed(good4, 6, struct.pack("=H", 24)),
            "transport inside the IPv6 header": changed(good6, 6, struct.pack("=H", 20)),
            "checksum elsewhere": changed(good4, 8, struct.pack("=H", 6)),
            "TCP header too short": changed(good4, VNET_SIZE + 32, b"\x40"),
            "TCP header behind the end": good4[: VNET_SIZE + 30],
            "TCP header longer than all": changed(good4, VNET_SIZE + 32, b"\xf0")[:60],
            "no payload": good4[: VNET_SIZE + 40],
            "version 5": changed(good4, VNET_SIZE, b"\x55"),
            "a fragment": changed(good4, VNET_SIZE + 6, b"\x20\0"),
            "too large": good4 + bytes(65_535),
            "too many": changed(good4 + bytes(MOST_SEGMENTS), 4, struct.pack("=H", 1)),
            "single, checksum behind the end": struct.pack("=BBHHHH", 1, 0, 0, 0, 20, 16)
            + bytes(30),
            "single, checksum in the IP header": struct.pack("=BBHHHH", 1, 0, 0, 0, 0, 10)
            + bytes(30),
        }.items():
            self.assertEqual([], cut(whole), what)

    @given(st.binary(max_size=100), st.binary(max_size=10), super_packets(), st.data())
    def test_junk(self, junk: bytes, header: bytes, sound: bytes, data: st.DataObject) -> None:
        """Nothing raises, whatever it is."""
        cut(junk)
        cut(header + junk)
        at = data.draw(st.integers(0, 60))
        for whole in header + sound[10:], sound[:at] + junk + sound[at + len(junk) :]:
            for packet in cut(whole):
                self.assertLessEqual(len(packet), len(whole))


def as_frames(packets: list[bytes], datagrams: bool = True) -> list[bytes]:
    """Join *packets*, check the books, and return each write in one piece."""
    writes = join(packets, datagrams)
    assert sorted(packets) == sorted(each for _, inside in writes for each in inside)
    return [b"".join(pieces) for pieces, _ in writes]


def flow(count: int, size: int = 100, **changes: int) -> list[bytes]:
    """Return the packets of one flow."""
    return cut(frame(ip4(TCP, tcp(payload_of(count * size, 99), **changes)), size))


class JoinTests(SynchronousTestCase):
    """Into the kernel."""

    @given(super_packets(options4=False))
    def test_back_again(self, whole: bytes) -> None:
        """What was cut joins to what it was, and is cut to the same again."""
        packets = cut(whole)
        frames = as_frames(packets)

        self.assertEqual(packets, [each for one in frames for each in cut(one)])
        at = transport_of(whole[VNET_SIZE:])[1]
        if whole[8] == 16:  # TCP
            if not whole[VNET_SIZE + at + 13] & (FIN | ECE | CWR) and len(packets) > 1:
                self.assertEqual([whole], frames)
        elif 1 < len(packets) <= MOST_DATAGRAMS:
            self.assertEqual([whole], frames)

    @given(st.lists(super_packets(), min_size=1, max_size=4), st.randoms(use_true_random=False))
    def test_any_order(self, whole: list[bytes], random: object) -> None:
        """In any order and mixture no packet is lost, changed or made sound."""
        packets = [packet for one in whole for packet in cut(one)]
        random.shuffle(packets)  # type: ignore[attr-defined]
        packets = packets[:60]
        for number in range(0, len(packets), 7):  # some are damaged
            packets[number] = packets[number][:-1] + bytes([packets[number][-1] ^ 1])
        after = [each for one in as_frames(packets) for each in cut(one)]

        # DF lets identifications differ, so those are not compared here.
        def known(packet: bytes) -> bytes:
            return packet if packet[0] >> 4 == 6 else packet[:4] + packet[6:10] + packet[12:]

        self.assertEqual(sorted(map(known, packets)), sorted(map(known, after)))

    @given(st.lists(st.binary(max_size=80), max_size=5), super_packets(), st.data())
    def test_junk(self, junk: list[bytes], sound: bytes, data: st.DataObject) -> None:
        """Nothing raises; junk is written as it is, alone, for the kernel to refuse."""
        packets = cut(sound)[:5]
        at = data.draw(st.integers(0, 50))
        bent = [
            packet[:at] + each + packet[at + len(each) :]
            for packet, each in zip(packets, junk, strict=False)
        ]
        mixed = junk + packets + bent
        writes = join(mixed, datagrams=True)

        self.assertEqual(sorted(mixed), sorted(p for _, inside in writes for p in inside))
        for pieces, inside in writes:
            if len(inside) == 1:
                self.assertEqual([PLAIN, inside[0]], pieces)
            else:
                self.assertTrue(all(is_sound(packet) for packet in inside))

    def test_interleaved(self) -> None:
        """Flows that take turns join, each its own."""
        one, other = flow(20, port=1), flow(20, port=2)
        mixed = [packet for pair in zip(one, other, strict=True) for packet in pair]

        self.assertEqual([one, other], [inside for _, inside in join(mixed)])

    def test_large(self) -> None:
        """No super-packet is larger than an IP packet can be."""
        for make in ip4, ip6:
            first = cut(frame(make(TCP, tcp(bytes(60_000))), 1400))
            more = cut(frame(make(TCP, tcp(bytes(60_000), seq=60_200)), 1400))
            packets = first[:-1] + more  # the last of the first is shorter
            frames = as_frames(packets)

            self.assertEqual(packets, [each for one in frames for each in cut(one)])
            self.assertLess(len(frames), 6)

    def test_push_ends(self) -> None:
        """A packet with PSH is the last of its super-packet, and keeps its flag."""
        packets = flow(3, flags=ACK | PSH) + flow(3, seq=300)
        writes = join(packets)

        self.assertEqual([packets[:3], packets[3:]], [inside for _, inside in writes])
        self.assertEqual(packets[:3], cut(b"".join(writes[0][0])))

    def test_shorter_ends(self) -> None:
        """After a shorter packet nothing is appended."""
        packets = [*flow(2), *flow(1, 50, seq=200), *flow(1, 50, seq=250), *flow(1, 50, seq=300)]
        self.assertEqual([packets[:3], packets[3:]], [inside for _, inside in join(packets)])

    def test_apart(self) -> None:
        """What differs in anything that counts is not joined."""
        first = ip4(TCP, tcp(bytes(100)))
        base = {"seq": 100}
        for what, second in {
            "seq": ip4(TCP, tcp(bytes(100), seq=101)),
            "ack": ip4(TCP, tcp(bytes(100), seq=100, ack=8)),
            "window": ip4(TCP, tcp(bytes(100), seq=100, window=501)),
            "port": ip4(TCP, tcp(bytes(100), seq=100, port=9)),
            "options": ip4(TCP, tcp(bytes(100), seq=100, options=b"\1\1\1\1")),
            "reserved bit": ip4(TCP, tcp(bytes(100), seq=100, reserved=1)),
            "FIN": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | FIN)),
            "SYN": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | SYN)),
            "RST": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | 4)),
            "URG": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | URG)),
            "ECE": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | ECE)),
            "CWR": ip4(TCP, tcp(bytes(100), seq=100, flags=ACK | CWR)),
            "no ACK": ip4(TCP, tcp(bytes(100), seq=100, flags=0)),
            "longer": ip4(TCP, tcp(bytes(101), **base)),
            "empty": ip4(TCP, tcp(b"", **base)),
            "TOS": ip4(TCP, tcp(bytes(100), **base), tos=1),
            "TTL": ip4(TCP, tcp(bytes(100), **base), ttl=63),
            "DF": ip4(TCP, tcp(bytes(100), **base), fragment=0),
            "fragment": ip4(TCP, tcp(bytes(100), **base), fragment=0x2000),
            "IP options": ip4(TCP, tcp(bytes(100), **base), options=bytes(4)),
            "source": ip4(TCP, tcp(bytes(100), **base), source=3),
            "version": ip6(TCP, tcp(bytes(100), **base)),
            "protocol": ip4(UDP, udp(bytes(100))),
        }.items():
            packets = [completed(first), completed(second)]
            self.assertEqual([[each] for each in packets], [i for _, i in join(packets)], what)

    def test_identification(self) -> None:
        """Where fragments are allowed it has to count up; where not it means nothing."""
        for fragment, numbers, together in (
            (0, (5, 6, 7), True),
            (0, (65_535, 0, 1), True),
            (0, (5, 5, 5), False),
            (0, (5, 7, 9), False),
            (0x4000, (5, 5, 5), True),
            (0x4000, (9, 7, 5), True),
        ):
            packets = [
                completed(
                    ip4(TCP, tcp(bytes(10), seq=10 * n), identity=identity, fragment=fragment)
                )
                for n, identity in enumerate(numbers)
            ]
            self.assertEqual(1 if together else 3, len(join(packets)), numbers)

    def test_damaged(self) -> None:
        """A wrong checksum, wherever in a run, stays alone and wrong."""
        for make, headers in (ip4, 20), (ip6, 40):
            for bad in range(6):
                for at in (8, headers + 4, headers + 16, headers + 30):
                    packets = cut(frame(make(TCP, tcp(bytes(600))), 100))
                    broken = bytearray(packets[bad])
                    broken[at] ^= 0x40
                    packets[bad] = bytes(broken)
                    if is_sound(packets[bad]):  # IPv6 has no sum over its header
                        continue
                    writes = join(packets)

                    self.assertIn(([PLAIN, packets[bad]], [packets[bad]]), writes)
                    self.assertEqual(packets, [each for _, inside in writes for each in inside])

    def test_order(self) -> None:
        """Nothing of a flow is overtaken by what came after it."""
        one, two, three = flow(3)
        for between in (
            completed(ip4(TCP, tcp(b"", seq=200))),
            completed(ip4(TCP, tcp(b"", seq=200, flags=ACK | FIN))),
            completed(ip4(TCP, tcp(bytes(9), seq=100), options=bytes(4))),
            completed(ip4(TCP, tcp(bytes(9), seq=100), fragment=0x2000)),
            ip6(60, bytes(60)),
            b"",
            b"junk",
        ):
            packets = [one, two, between, three]
            after = [each for _, inside in join(packets) for each in inside]
            self.assertEqual(packets, after)

    def test_partial_sum(self) -> None:
        """A partial sum of nothing is 0xFFFF, as the kernel has it, which drops a 0 of IPv6."""
        for make in ip4, ip6:
            for protocol, content in (TCP, tcp), (UDP, udp):
                size = 65_535 - residue(pseudo_header(make(protocol, content(b""))))
                whole = frame(make(protocol, content(bytes(size))), size // 3 + 1)
                (made,) = as_frames(cut(whole))
                at = VNET_SIZE + transport_of(whole[VNET_SIZE:])[1] + whole[8]
                self.assertEqual(b"\xff\xff", made[at : at + 2])
                self.assertEqual(whole, made)

    def test_datagrams(self) -> None:
        """Datagrams join where the kernel takes that, and not without checksums."""
        for make in ip4, ip6:
            packets = cut(frame(make(UDP, udp(bytes(700 * 70))), 700))
            self.assertEqual([64, 6], [len(inside) for _, inside in join(packets, True)])
            self.assertEqual(70, len(join(packets)))
            at = transport_of(packets[0])[1] + 6
            bare = [each[:at] + b"\0\0" + each[at + 2 :] for each in packets]
            self.assertEqual(70, len(join(bare, True)))
