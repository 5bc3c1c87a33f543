"""Datagrams that came as one: opened, rebuilt and joined where they lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.datagram import DATA, OFFLOAD
from pyvpn.wire.ip import decapsulated, trimmed
from pyvpn.wire.packed import LEAST, MOST_LAYOUTS, MOST_STRETCHES, PIECE, ROOM, Packed
from pyvpn.wire.packed_join import joined
from pyvpn.wire.rebuild import SuperPacket, rebuild, rebuild_packed
from pyvpn.wire.segments import PLAIN, cut, join, residue
from tests.wire.plain_segments import (
    ACK,
    CWR,
    PSH,
    TCP,
    UDP,
    completed,
    frame,
    ip4,
    ip6,
    is_sound,
    tcp,
    udp,
)
from tests.wire.test_offload import COUNTERS, ECN, offloadable, sealed
from tests.wire.test_segments import payload_of

TAG = bytes(16)


def into(nonce: memoryview, data: memoryview, additional: bytes | None, out: memoryview) -> None:
    """What a cipher does, without one."""
    assert bytes(nonce[:4]) == bytes(4)
    assert len(nonce) == 12
    assert bytes(data[-16:]) == TAG
    out[:] = data[:-16]


def datagram(payload: bytes, counter: int = 0, kind: int = DATA, index: int = 7) -> bytes:
    return struct.pack("<IIQ", kind, index, counter) + payload + TAG


def packed_of(payloads: list[bytes], counter: int = 0, kept: Packed | None = None) -> Packed:
    """Return what holds the datagrams of *payloads*, opened."""
    whole = b"".join(datagram(each, counter + n) for n, each in enumerate(payloads))
    packed = Packed() if kept is None else kept
    packed.buffer[: len(whole)] = whole
    packed.take(len(whole), len(payloads[0]) + 32)
    packed.open(into, None)
    return packed


def fitting(payloads: list[bytes]) -> list[bytes]:
    """Return those, from the first on, that can come as one."""
    size = len(payloads[0])
    most = min(128, ROOM // (size + 32))
    for end, payload in enumerate(payloads):
        if end == most or len(payload) > size:
            return payloads[:end]
        if len(payload) < size:
            return payloads[: end + 1]
    return payloads


def packets_of(found: list[SuperPacket]) -> list[bytes]:
    return [packet for each in found for packet in each.cut()]


def meant(packet: bytes) -> bytes:
    """Return *packet* without an identification that means nothing (RFC 6864)."""
    if packet[0] == 0x45 and packet[6:8] == b"\x40\0" and not residue(packet[:20]):
        return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]
    return packet


def tcp_end(packets: list[bytes]) -> int:
    """Return the sequence number behind *packets*, of IPv4 with twelve bytes of options."""
    last = packets[-1]
    return int.from_bytes(last[24:28], "big") + len(last) - 52


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw packets of TCP, or nearly, of which most are equally long."""
    size = draw(st.sampled_from((100, 101, 536, 1368)))
    version = draw(st.sampled_from((4, 6)))
    seq = draw(st.integers(0, 2**32 - 1))
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 14))
        last = draw(st.sampled_from((size, size, 1, size - 1)))
        payload = payload_of(size * (count - 1) + last, draw(st.integers(0, 2**40 - 1)))
        content = tcp(
            payload,
            seq=seq,
            flags=ACK | draw(st.sampled_from((0, PSH, PSH, CWR))),
            options=bytes(12),
            ack=draw(st.sampled_from((1, 2))),
        )
        seq = (seq + len(payload) + draw(st.sampled_from((0, 0, 0, 5)))) & 0xFFFFFFFF
        tos = draw(st.sampled_from((0, 2)))
        if version == 6:
            packets += cut(frame(ip6(TCP, content, tos=tos), size))
        else:
            fragment = draw(st.sampled_from((0x4000, 0x4000, 0x4000, 0)))
            identity = draw(st.sampled_from((0, 65_530)))
            whole = ip4(TCP, content, tos=tos, identity=identity, fragment=fragment)
            packets += cut(frame(whole, size))
    return packets


class PackedTests(SynchronousTestCase):
    """The buffer."""

    @given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 300), COUNTERS)
    def test_all_is_there(self, size: int, count: int, last: int, counter: int) -> None:
        """Datagrams, counters and payloads are those that lie in it."""
        payloads = [payload_of(size, n + 1) for n in range(count)] + [bytes(min(size, last))]
        packed = packed_of(payloads, counter)
        self.assertEqual(payloads, packed.payloads())
        self.assertEqual(payloads, [packed.payload(n) for n in range(count + 1)])
        self.assertEqual([counter + n for n in range(count + 1)], packed.counters())
        self.assertEqual(
            [datagram(each, counter + n) for n, each in enumerate(payloads)], list(packed)
        )
        self.assertEqual(count + 1, len(packed))
        self.assertEqual(sum(map(len, payloads)), packed.opened)
        self.assertEqual(struct.pack("<II", DATA, 7), packed.head())

    def test_heads_differ(self) -> None:
        """One of another type or index, or too short for a tag: there is no common head."""
        right = [datagram(bytes(100), n) for n in range(9)]
        for other in (
            datagram(bytes(100), 3, OFFLOAD),
            datagram(bytes(100), 3, index=8),
            datagram(bytes(100), 3, index=7 + (1 << 24)),
            datagram(bytes(100), 3, DATA | 0x100),
        ):
            for place in 0, 4, 8:
                packed = Packed()
                whole = b"".join([*right[:place], other, *right[place + 1 :]])
                packed.buffer[: len(whole)] = whole
                packed.take(len(whole), 132)
                self.assertEqual(b"", packed.head(), place)
        packed.buffer[: 9 * 132] = b"".join(right)
        packed.take(8 * 132 + 31, 132)
        self.assertEqual(b"", packed.head())
        packed.take(8 * 132 + 32, 132)
        self.assertEqual(struct.pack("<II", DATA, 7), packed.head())

    def test_a_failure_changes_nothing(self) -> None:
        """When one does not open, the datagrams are as they were."""

        def refuse(nonce: memoryview, data: memoryview, *more: object) -> None:
            if nonce[4] == 5:
                raise ValueError

        packed = packed_of([bytes(100)] * 9)
        before = list(packed)
        self.assertRaises(ValueError, packed.open, refuse, None)
        self.assertEqual(before, list(packed))

    def test_used_again(self) -> None:
        """Whatever was in it before, of whatever sizes, nothing of that is in the next batch."""
        kept = Packed()
        for size in (1200, 100, *range(200, 200 + 2 * MOST_LAYOUTS), 1200, 100):
            for count in 3, 9, 20:
                payloads = [payload_of(size, size * n + count) for n in range(count)]
                packed_of(payloads, count, kept)
                self.assertEqual(payloads, kept.payloads())
                views = [bytes(view) for view in kept.views(1, count, 50)]
                self.assertEqual([each[50:] for each in payloads[1:]], views)

    def test_added(self) -> None:
        """More of the same is taken in, a shorter one last; what is not so changes nothing."""
        packed = Packed()
        for total, size, expected, count in (
            (264, 132, True, 12),
            (132, 132, True, 13),
            (0, 0, False, 13),  # it would never end
            (264, 131, False, 13),
            (133, 133, False, 13),
            (50, 50, True, 14),
            (132, 132, False, 14),
            (50, 50, False, 14),
        ):
            if not len(packed):
                packed.take(1320, 132)
            self.assertFalse(any(packed.buffer))  # the same type and index
            before = packed.total
            self.assertEqual(expected, packed.add(total, size), total)
            self.assertEqual(before + total * expected, packed.total)
            self.assertEqual(count, len(packed))

    def test_added_of_another_kind(self) -> None:
        """What has another type or index behind it stays as it is, and can be opened at once."""
        for at, added in (0, False), (7, False), (8, True):
            packed = Packed()
            packed.buffer[: 9 * 132] = b"".join(datagram(bytes(100), n) for n in range(9))
            packed.take(9 * 132, 132)
            behind = bytearray(datagram(bytes(100), 9))
            behind[at] ^= 1
            packed.buffer[9 * 132 : 10 * 132] = behind
            self.assertEqual(added, packed.add(132, 132))
            self.assertEqual(9 + added, len(packed))
            self.assertEqual(struct.pack("<II", DATA, 7), packed.head())

    def test_room(self) -> None:
        """There is room while what the kernel hands out at a time has some."""
        packed = Packed()
        packed.take(ROOM - PIECE, 100)
        self.assertTrue(packed.has_room)
        packed.take(ROOM - PIECE + 1, 100)
        self.assertFalse(packed.has_room)

    def test_worth_it(self) -> None:
        """A few, or small ones, are left to the way one by one."""
        packed = Packed()
        for count, size, expected in (
            (LEAST, 128, True),
            (LEAST - 1, 128, False),
            (LEAST, 127, False),
        ):
            packed.take(count * size, size)
            self.assertEqual(expected, packed.is_worth_it)


class RebuildPackedTests(SynchronousTestCase):
    """Runs of offload payloads."""

    @given(st.lists(offloadable(), min_size=1, max_size=2), COUNTERS, ECN, st.data())
    def test_as_rebuild(
        self, wholes: list[bytes], counter: int, ecn: int, data: st.DataObject
    ) -> None:
        """What it returns is what the way one by one returns, whatever part of runs has come."""
        payloads: list[bytes] = []
        for whole in wholes:
            payloads += sealed(whole, counter + len(payloads))[1]
        first = data.draw(st.integers(0, len(payloads) - 1))
        if data.draw(st.booleans()):
            first = 0
        payloads = fitting(payloads[first:])
        if data.draw(st.booleans()):
            payloads = payloads[: data.draw(st.integers(1, len(payloads)))]
        if data.draw(st.integers(0, 3)) == 0:
            place = data.draw(st.integers(0, len(payloads) - 1))
            payload = payloads[place]
            if payload:
                at = data.draw(st.integers(0, min(60, len(payload)) - 1))
                byte = payload[at] ^ 1 << data.draw(st.integers(0, 7))
                payloads[place] = payload[:at] + bytes((byte,)) + payload[at + 1 :]
        counter += first
        expected = rebuild(list(range(counter, counter + len(payloads))), payloads, ecn)
        found = rebuild_packed(packed_of(payloads, counter), counter, ecn)
        if found is not None:
            self.assertEqual((0, 0), (expected.refused, expected.congested))
            self.assertEqual(
                [(b"".join(each.pieces), each.ends, each.size) for each in expected.packets],
                [(b"".join(each.pieces), each.ends, each.size) for each in found],
            )

    def test_whole_runs(self) -> None:
        """Whole runs, and runs that are cut off at either end, do not need the other way."""
        for make in self.make4, self.make6:
            one, other = make(bytes(14_000)), make(bytes(9_000) + b"x" * 321)
            payloads = sealed(one, 9)[1] + sealed(other, 23)[1]
            for first, end in ((0, 14), (0, 24), (3, 24), (5, 20), (14, 24)):
                with self.subTest(first=first, end=end):
                    packed = packed_of(payloads[first:end], 9 + first)
                    found = rebuild_packed(packed, 9 + first)
                    assert found is not None
                    self.assertEqual(
                        packets_of(
                            rebuild(list(range(9 + first, 9 + end)), payloads[first:end]).packets
                        ),
                        packets_of(found),
                    )

    def test_many_runs(self) -> None:
        """Where every datagram is of another run, another way takes less time."""
        count = MOST_STRETCHES + 1
        last = [sealed(self.make4(bytes(2000)), 8 + number)[1][1] for number in range(count)]
        self.assertEqual(count, len(rebuild(list(range(9, 9 + count)), last).packets))
        self.assertIsNone(rebuild_packed(packed_of(last, 9), 9))

    @staticmethod
    def make4(payload: bytes) -> bytes:
        return frame(ip4(TCP, tcp(payload, options=bytes(12))), 1000)

    @staticmethod
    def make6(payload: bytes) -> bytes:
        return frame(ip6(UDP, udp(payload)), 1000)


class JoinedTests(SynchronousTestCase):
    """Whole packets of TCP."""

    def one_by_one(self, packets: list[bytes], ecn: int) -> list[bytes]:
        made = [decapsulated(packet, ecn) if ecn else packet for packet in packets]
        return [packet for packet in made if packet is not None]

    @given(streams(), ECN, st.data())
    def test_stands_for_the_same(
        self, packets: list[bytes], ecn: int, data: st.DataObject
    ) -> None:
        """What it returns stands for the packets that came, in their order, as they were.

        Also when one of them is damaged, anywhere: it is not made right.
        """
        packets = fitting(packets)
        place = data.draw(st.integers(0, len(packets) - 1))
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(packets[place]) - 1))
            byte = packets[place][at] ^ 1 << data.draw(st.integers(0, 7))
            packets[place] = packets[place][:at] + bytes((byte,)) + packets[place][at + 1 :]
        found = joined(packed_of(packets), ecn)
        # What says that it is shorter than what it came in was padded, as far as one can see.
        packets = [trimmed(packet) or packet for packet in packets]
        if found is not None:
            self.assertEqual(
                list(map(meant, self.one_by_one(packets, ecn))),
                list(map(meant, packets_of(found))),
            )
            self.assertEqual(sum(map(len, packets)), sum(each.size for each in found))

    @given(streams())
    def test_as_join(self, packets: list[bytes]) -> None:
        """It joins no two that ``join`` does not, and of one stretch of packets all that fit."""
        packets = fitting(packets)
        found = joined(packed_of(packets))
        writes = [b"".join(pieces) for pieces, _ in join(packets)]
        if found is not None:
            self.assertEqual(writes, [b"".join(each.pieces) for each in found])

    def test_a_transfer(self) -> None:
        """What nearly all batches are is done here: whole ones, with or without a shorter last."""
        for whole in (
            frame(ip4(TCP, tcp(bytes(20_000), options=bytes(12), flags=ACK | PSH)), 1000),
            frame(ip4(TCP, tcp(bytes(19_123), options=bytes(12))), 1000),
            frame(ip6(TCP, tcp(bytes(19_123), seq=2**32 - 3000, flags=ACK | PSH)), 1000),
        ):
            packets = cut(whole)
            found = joined(packed_of(packets))
            assert found is not None
            self.assertEqual([20], [each.segments for each in found])
            self.assertEqual(packets, packets_of(found))

    def refuses(self, change: Callable[[bytes], bytes], place: int = 4) -> bool:
        """Whether packets, one of them changed, are left to others."""
        packets = cut(frame(ip4(TCP, tcp(bytes(12_000), options=bytes(12))), 1000))
        packets[place] = change(packets[place])
        return joined(packed_of(packets)) is None

    def test_left_to_others(self) -> None:
        """One damaged payload, and whatever is no TCP, is for the way one by one."""
        self.assertFalse(self.refuses(lambda packet: packet))
        for place in 0, 4, 11:
            self.assertTrue(self.refuses(lambda packet: packet[:-1] + b"x", place))
            self.assertTrue(self.refuses(lambda packet: b"\x07" + packet[1:], place))
            self.assertTrue(self.refuses(lambda packet: packet[:9] + b"\x11" + packet[10:], place))
            self.assertTrue(self.refuses(lambda packet: bytes(len(packet)), place))
            self.assertTrue(
                self.refuses(lambda packet: packet[:33] + b"\x12" + packet[34:], place)
            )
        packets = cut(frame(ip4(UDP, udp(bytes(9000))), 1000))
        self.assertIsNone(joined(packed_of(packets)))
        self.assertIsNone(joined(packed_of([bytes(1000)] * 9)))
        packets = cut(frame(ip4(TCP, tcp(bytes(12_000), options=bytes(12))), 1000))
        self.assertIsNone(joined(packed_of([*packets, b""])))

    def changed_from(self, place: int, **changes: int) -> list[int]:
        """Return how many are joined each, of twelve that have other headers from one on."""
        make = {"seq": 9, "ack": 1, "window": 500, "tos": 0, "ttl": 64, "stamp": 1, "ports": 0}
        packets: list[bytes] = []
        for first, end, values in (
            (0, place, make),
            (place, 12, {**make, **changes}),
        ):
            content = tcp(
                bytes(1000 * (end - first)),
                seq=values["seq"] + (0 if "seq" in changes else 1000 * first),
                ack=values["ack"],
                window=values["window"],
                options=b"\x01\x01\x08\x0a" + values["stamp"].to_bytes(8, "big"),
            )
            content = bytes((content[0] + values["ports"],)) + content[1:]
            whole = ip4(TCP, content, tos=values["tos"], identity=first)
            whole = whole[:8] + bytes((values["ttl"],)) + whole[9:]
            packets += [completed(each) for each in cut(frame(whole, 1000))]
        self.assertTrue(all(map(is_sound, packets)))
        found = joined(packed_of(packets))
        assert found is not None
        self.assertEqual(packets, packets_of(found))
        return [each.segments for each in found]

    def test_split(self) -> None:
        """Where anything of the headers changes that has to be alike, another one begins."""
        self.assertEqual([12], self.changed_from(5))
        for what, value in (
            ("seq", 7000),
            ("ack", 2),
            ("window", 501),
            ("tos", 4),
            ("ttl", 63),
            ("stamp", 2),
            ("ports", 1),
        ):
            for place in 1, 5, 11:
                self.assertEqual([place, 12 - place], self.changed_from(place, **{what: value}))

    def test_exchanged(self) -> None:
        """Two packets with each other's payloads are wrong, though all add up as before."""
        payload = random.Random(1).randbytes(20_000)
        packets = cut(frame(ip4(TCP, tcp(payload, options=bytes(12))), 1000))
        self.assertIsNotNone(joined(packed_of(packets)))
        packets[3], packets[7] = (
            packets[3][:52] + packets[7][52:],
            packets[7][:52] + packets[3][52:],
        )
        self.assertIsNone(joined(packed_of(packets)))

    def test_wrong_header(self) -> None:
        """A checksum of IP that is wrong is not made right: in one packet, or the same in all."""
        packets = cut(frame(ip4(TCP, tcp(bytes(12_000), options=bytes(12))), 1000))
        bad = [packet[:11] + bytes((packet[11] ^ 1,)) + packet[12:] for packet in packets]
        found = joined(packed_of([*packets[:4], bad[4], *packets[5:]]))
        assert found is not None
        self.assertEqual([4, 1, 7], [each.segments for each in found])
        self.assertEqual(bad[4:5], found[1].cut())
        self.assertIsNone(joined(packed_of(bad)))
        # And when TCP's is wrong by the opposite, so that the sum of all is right again.
        opposite = []
        for packet in packets:
            one = bytearray(packet)
            for at, by in ((10, 1), (36, -1)):
                one[at : at + 2] = (int.from_bytes(one[at : at + 2], "big") + by).to_bytes(
                    2, "big"
                )
            opposite.append(bytes(one))
        self.assertIsNone(joined(packed_of(opposite)))

    def test_pushed(self) -> None:
        """Behind a packet that says "now" nothing is joined to it, and it says so itself."""
        one = cut(frame(ip4(TCP, tcp(bytes(8_000), options=bytes(12), flags=ACK | PSH)), 1000))
        for size, segments in ((500, [8, 1]), (4000, [8, 4])):
            content = tcp(bytes(size), seq=tcp_end(one), options=bytes(12))
            packets = [*one, *cut(frame(ip4(TCP, content), 1000))]
            found = joined(packed_of(packets))
            assert found is not None
            self.assertEqual(segments, [each.segments for each in found])
            self.assertEqual([ACK | PSH, ACK], [each.cut()[-1][33] for each in found])
        last = frame(ip4(TCP, tcp(bytes(8_321), options=bytes(12), flags=ACK | PSH)), 1000)
        found = joined(packed_of(cut(last)))
        assert found is not None
        self.assertEqual([9], [each.segments for each in found])
        self.assertEqual(cut(last), packets_of(found))

    def test_more_than_a_packet_holds(self) -> None:
        """Of what is more than 64 KiB together several are made, as ``join`` does."""
        for last in 1400, 95:
            size = 1400 - 40
            contents = [
                tcp(bytes(size if n < 99 else last - 40), seq=n * size) for n in range(100)
            ]
            packets = [packet for each in contents for packet in cut(frame(ip4(TCP, each), size))]
            found = joined(packed_of(packets))
            assert found is not None
            writes = [b"".join(pieces) for pieces, _ in join(packets)]
            self.assertEqual(writes, [b"".join(each.pieces) for each in found])
            self.assertEqual([48, 48, 4], [each.segments for each in found])

    def test_no_larger_for_a_last_one(self) -> None:
        """Nor is the shorter one at the end put into what is full."""
        size = 65_495 // 47  # forty-seven fill it but for 24 bytes
        for last, segments in ((24, [48]), (25, [47, 1])):
            whole = [bytes(size)] * 47 + [bytes(last)]
            contents = [tcp(each, seq=n * size) for n, each in enumerate(whole)]
            packets = [packet for each in contents for packet in cut(frame(ip4(TCP, each), size))]
            found = joined(packed_of(packets))
            assert found is not None
            self.assertEqual(segments, [each.segments for each in found])
            self.assertEqual(list(map(meant, packets)), list(map(meant, packets_of(found))))

    def test_many_flows(self) -> None:
        """Where flows take turns it leaves them to ``join``, which sorts them."""
        flows = [
            cut(frame(ip4(TCP, tcp(bytes(9_000), seq=n, options=bytes(12))), 1000))
            for n in (0, 10**9)
        ]
        turns = [packet for pair in zip(*flows, strict=True) for packet in pair]
        self.assertIsNone(joined(packed_of(turns)))

    def test_pieces(self) -> None:
        """A packet that stays alone is complete, as it came."""
        packets = cut(frame(ip4(TCP, tcp(bytes(9_000), options=bytes(12))), 1000))
        alone = cut(frame(ip4(TCP, tcp(bytes(1_000), seq=77, options=bytes(12))), 1000))
        found = joined(packed_of([*packets, *alone]))
        assert found is not None
        self.assertEqual([9, 1], [each.segments for each in found])
        self.assertEqual(PLAIN + alone[0], b"".join(found[1].pieces))
