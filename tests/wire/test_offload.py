"""Offload payloads: super-packets that cross the tunnel."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.rebuild import Rebuilt, rebuild
from pyvpn.wire.segments import MOST_DATAGRAMS, PLAIN, VNET_SIZE, cut, residue
from tests.wire.plain_offload import plain_payloads, plain_rebuilt
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
    pseudo_header,
    tcp,
    transport_of,
    udp,
)
from tests.wire.test_segments import payload_of, super_packets

SIZES = st.one_of(st.integers(48, 80), st.integers(500, 9000))
COUNTERS = st.one_of(st.integers(0, 2**64 - 2**14), st.integers(65_500, 65_540), st.just(0))
ECN = st.integers(0, 3)


@st.composite
def offloadable(draw: st.DrawFn) -> bytes:
    """Draw a sound frame of the kernel's that becomes a run."""
    size = draw(SIZES)
    count = draw(st.integers(2, min(50, 60_000 // size)))
    payload = payload_of(
        size * (count - 1) + draw(st.integers(1, size)), draw(st.integers(0, 2**40 - 1))
    )
    if draw(st.booleans()):
        protocol = TCP
        content = tcp(
            payload,
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=ACK | draw(st.sampled_from((0, PSH, FIN, CWR, ECE, PSH | FIN | CWR))),
            options=bytes(4 * draw(st.integers(0, 10))),
            reserved=draw(st.integers(0, 15)),
        )
    else:
        protocol, content = UDP, udp(payload)
    tos = draw(st.integers(0, 255))
    if draw(st.booleans()):
        return frame(ip6(protocol, content, tos=tos), size)
    identity, fragment = draw(st.integers(0, 2**16 - 1)), draw(st.sampled_from((0, 0x4000)))
    return frame(ip4(protocol, content, tos=tos, identity=identity, fragment=fragment), size)


def run_of(whole: bytes, mtu: int = 0) -> Run:
    """Return the run that *whole* becomes."""
    (run,), unknown = outgoing([whole], mtu)
    assert isinstance(run, Run)
    assert unknown == 0
    return run


def sealed(whole: bytes, counter: int = 0) -> tuple[list[int], list[bytes]]:
    """Return counters and payloads of the run that *whole* becomes."""
    payloads = run_of(whole).plaintexts(counter)
    return list(range(counter, counter + len(payloads))), payloads


def cut_all(rebuilt: Rebuilt) -> list[bytes]:
    """Return all packets, and see that the books are right."""
    packets = []
    for each in rebuilt.packets:
        inside = each.cut()
        assert len(inside) == each.segments
        assert sum(map(len, inside)) == each.size
        assert {endpoints_of(packet) for packet in inside} == {each.ends}
        packets += inside
    return packets


class SameTests(SynchronousTestCase):
    """Offloaded and rebuilt, it is what it was."""

    @given(offloadable(), COUNTERS)
    def test_whole(self, whole: bytes, counter: int) -> None:
        """A super-packet that crosses whole is the same super-packet, byte for byte."""
        counters, payloads = sealed(whole, counter)
        rebuilt = rebuild(counters, payloads)

        self.assertEqual(len(cut(whole)), len(payloads))
        self.assertEqual((0, 0), rebuilt[1:])
        (packet,) = rebuilt.packets
        made = b"".join(packet.pieces)
        if whole[VNET_SIZE + transport_of(whole[VNET_SIZE:])[1] + 13] & CWR and whole[8] == 16:
            whole = whole[:1] + bytes([whole[1] | 0x80]) + whole[2:]
        self.assertEqual(whole, made)
        self.assertEqual(cut(whole), cut_all(rebuilt))

    @given(offloadable(), COUNTERS)
    def test_like_the_plain_way(self, whole: bytes, counter: int) -> None:
        """The payloads are those of the plain way, and none is larger than a whole packet."""
        payloads = run_of(whole).plaintexts(counter)

        self.assertEqual(plain_payloads(whole, counter), payloads)
        self.assertEqual(len(cut(whole)[0]), max(map(len, payloads)))

    @given(
        st.lists(st.tuples(offloadable(), st.integers(0, 9)), min_size=1, max_size=4),
        COUNTERS,
        ECN,
        st.data(),
    )
    def test_lost_and_out_of_order(
        self, runs: list[tuple[bytes, int]], counter: int, ecn: int, data: st.DataObject
    ) -> None:
        """What arrives of several runs is there, each packet as it was, and in order."""
        everything: list[tuple[int, bytes, bytes]] = []
        for whole, gap in runs:
            counters, payloads = sealed(whole, counter)
            everything += zip(counters, payloads, cut(whole), strict=True)
            counter += len(counters) + gap
        lost = data.draw(st.sets(st.integers(0, len(everything) - 1), max_size=8))
        arrived = [each for at, each in enumerate(everything) if at not in lost]
        expected = [packet for _, _, packet in arrived]
        for _ in range(data.draw(st.integers(0, 6))):
            if arrived:
                moved = arrived.pop(data.draw(st.integers(0, len(arrived) - 1)))
                arrived.insert(data.draw(st.integers(0, len(arrived))), moved)
        counters, payloads = [c for c, _, _ in arrived], [p for _, p, _ in arrived]

        self.assertEqual(expected, cut_all(rebuild(counters, payloads)))
        packets, refused, congested = plain_rebuilt(counters, payloads, ecn)
        rebuilt = rebuild(counters, payloads, ecn)
        self.assertEqual(packets, cut_all(rebuilt))
        self.assertEqual((refused, congested), rebuilt[1:])
        self.assertLessEqual(len(rebuilt.packets), len(runs) + len(lost))

    def test_partial_sum(self) -> None:
        """A partial sum of nothing is 0xFFFF, as the kernel has it, which drops a 0 of IPv6."""
        for make in ip4, ip6:
            for protocol, content in (TCP, tcp), (UDP, udp):
                size = 65_535 - residue(pseudo_header(make(protocol, content(b""))))
                whole = frame(make(protocol, content(bytes(size))), size // 3 + 1)
                (packet,) = rebuild(*sealed(whole)).packets
                self.assertEqual(whole, b"".join(packet.pieces))
        size = 65_535 - residue(pseudo_header(ip6(UDP, udp(b""))))
        counters, payloads = sealed(frame(ip6(UDP, udp(bytes(2 * size))), size))
        (alone,) = rebuild(counters[:1], payloads[:1]).packets
        self.assertEqual(b"\xff\xff", alone.pieces[0][-2:])

    def test_one_lost_costs_one(self) -> None:
        """Of a run of which one is lost two super-packets remain."""
        for make in ip4, ip6:
            whole = frame(make(TCP, tcp(bytes(44 * 1380))), 1380)
            counters, payloads = sealed(whole, 77)
            del counters[20], payloads[20]
            rebuilt = rebuild(counters, payloads)

            self.assertEqual([20, 23], [each.segments for each in rebuilt.packets])
            packets = cut(whole)
            del packets[20]
            self.assertEqual(packets, cut_all(rebuilt))

    @given(super_packets(), st.integers(0, 1500))
    def test_all_that_the_kernel_gives(self, whole: bytes, mtu: int) -> None:
        """A frame becomes a run that fits, or the packets it stands for."""
        (item,), unknown = outgoing([whole], mtu)

        self.assertEqual(0, unknown)
        if isinstance(item, Run):
            payloads = item.plaintexts(5)
            self.assertLessEqual(max(map(len, payloads)), mtu or 65_535)
            rebuilt = rebuild(list(range(5, 5 + len(payloads))), payloads)
            self.assertEqual(cut(whole), cut_all(rebuilt))
        else:
            self.assertEqual(cut(whole), item)

    def test_in_two_batches(self) -> None:
        """What of a run comes later makes a super-packet of its own."""
        for make, protocol, content in (ip4, TCP, tcp), (ip6, UDP, udp):
            whole = frame(make(protocol, content(bytes(9500))), 1000)
            counters, payloads = sealed(whole, 50)
            one = rebuild(counters[:4], payloads[:4])
            other = rebuild(counters[4:], payloads[4:])

            self.assertEqual(
                ([4], [6]), tuple([e.segments for e in r.packets] for r in (one, other))
            )
            self.assertEqual(cut(whole), cut_all(one) + cut_all(other))

    def test_congestion(self) -> None:
        """Congestion met outside becomes the packets' own, or their loss."""
        for make in ip4, ip6:
            for tos, marked in (0, None), (2, 3), (1, 3), (3, 3):
                whole = frame(make(TCP, tcp(bytes(3000)), tos=tos), 1000)
                rebuilt = rebuild(*sealed(whole), ecn=3)
                if marked is None:
                    self.assertEqual(([], 0, 3), rebuilt)
                else:
                    expected = frame(make(TCP, tcp(bytes(3000)), tos=marked), 1000)
                    self.assertEqual(cut(expected), cut_all(rebuilt))

    def test_counters_without_end(self) -> None:
        """Neither the place where the lower half turns over matters, nor the last counter."""
        whole = frame(ip4(TCP, tcp(bytes(3000))), 1000)
        for counter in 65_534, 2**32 - 1, 2**64 - 4:
            self.assertEqual(cut(whole), cut_all(rebuild(*sealed(whole, counter))))


class OutgoingTests(SynchronousTestCase):
    """What becomes a run, and what does not."""

    def cut_instead(self, whole: bytes, mtu: int = 0) -> None:
        self.assertEqual(([cut(whole)], 0), outgoing([whole], mtu))

    def test_too_large(self) -> None:
        """Packets beyond the budget are left to whoever tells their sender."""
        whole = frame(ip4(TCP, tcp(bytes(3000))), 1000)
        self.assertEqual(3, len(run_of(whole, 1040).payloads))
        self.cut_instead(whole, 1039)

    def test_cut_instead(self) -> None:
        """What the other end could not tell apart, or make again, goes in complete packets."""
        many = bytes(3000)
        for packet in (
            ip4(TCP, tcp(many), options=bytes(4)),
            ip4(TCP, tcp(many, flags=0)),
            ip4(TCP, tcp(many, flags=ACK | SYN)),
            ip4(TCP, tcp(many, flags=ACK | URG)),
            ip6(TCP, tcp(many, flags=ACK | 4)),
        ):
            self.cut_instead(frame(packet, 1000))
        self.cut_instead(frame(ip4(TCP, tcp(bytes(100))), 47))
        self.cut_instead(frame(ip6(UDP, udp(bytes(65))), 1))
        self.cut_instead(frame(ip4(TCP, tcp(bytes(1000))), 1000))
        for make, at in (ip4, 13), (ip6, 15):
            lying = bytearray(frame(make(TCP, tcp(many)), 1000))
            lying[at] ^= 1  # the length of it all
            self.cut_instead(bytes(lying))
        urgent = bytearray(frame(ip4(TCP, tcp(many)), 1000))
        urgent[VNET_SIZE + 39] = 1
        self.cut_instead(bytes(urgent))

    def test_unknown(self) -> None:
        """What stands for nothing is counted."""
        good = frame(ip4(TCP, tcp(bytes(3000))), 1000)
        bad = good[:1] + b"\2" + good[2:]
        items, unknown = outgoing([bad, good, b"", b"\1", bytes(9)], 0)

        self.assertEqual([3], [len(run.payloads) for run in items if isinstance(run, Run)])
        self.assertEqual((1, 4), (len(items), unknown))

    @given(st.binary(max_size=100), st.binary(max_size=10), super_packets(), st.data())
    def test_junk(self, junk: bytes, header: bytes, sound: bytes, data: st.DataObject) -> None:
        """Nothing raises, whatever it is, and no more comes out than went in."""
        at = data.draw(st.integers(0, 60))
        bent = sound[:at] + junk + sound[at + len(junk) :]
        for whole in junk, header + junk, header + sound[10:], bent:
            for item in outgoing([whole, whole], 1420).items:
                payloads = item.plaintexts(0) if isinstance(item, Run) else item
                for payload in payloads:
                    self.assertLessEqual(len(payload), len(whole))


def single(packet: bytes) -> bytes:
    """Return a datagram as the TUN hands it out, its checksum left to us."""
    at = transport_of(packet)[1]
    return struct.pack("=BBHHHH", 1, 0, 0, 0, at, 6) + completed(packet, partial=True)


class GatherTests(SynchronousTestCase):
    """Datagrams of one flow travel as a run."""

    def shape(self, frames: list[bytes], mtu: int = 0) -> list[int]:
        """Return the sizes of runs, and of groups of complete packets with a minus."""
        items, unknown = outgoing(frames, mtu)
        self.assertEqual(0, unknown)
        counter, counters, payloads, flat = 7, [], [], []
        for item in items:
            if isinstance(item, Run):
                texts = item.plaintexts(counter)
                counters += range(counter, counter + len(texts))
                payloads += texts
                counter += len(texts)
                flat += cut_all(rebuild(counters[-len(texts) :], texts))
            else:
                flat += item
        packets = [packet for each in frames for packet in cut(each)]
        self.assertEqual(by_flow(packets), by_flow(flat))
        self.assertEqual(
            len(payloads), sum(each.segments for each in rebuild(counters, payloads).packets)
        )
        return [len(i.payloads) if isinstance(i, Run) else -len(i) for i in items]

    def test_flow(self) -> None:
        """Equal ones make one run, of as many as kernels take; a smaller one ends it."""
        for make in ip4, ip6:
            frames = [single(make(UDP, udp(payload_of(600, n)))) for n in range(150)]
            self.assertEqual([64, 64, 22], self.shape(frames))
            small = single(make(UDP, udp(b"end")))
            self.assertEqual([6, 5], self.shape([*frames[:5], small, *frames[:5]]))
            large = single(make(UDP, udp(bytes(601))))
            self.assertEqual([5, -1], self.shape([*frames[:5], large]))
            self.assertEqual([-150], self.shape(frames, mtu=600))

    def test_flows_take_turns(self) -> None:
        """Flows that take turns are gathered, each its own, and what is between them passes."""
        one = [single(ip4(UDP, udp(payload_of(500, n), port=1))) for n in range(9)]
        two = [single(ip6(UDP, udp(payload_of(500, n), port=2))) for n in range(9)]
        mixed = [each for pair in zip(one, two, strict=True) for each in pair]
        self.assertEqual([9, 9], self.shape(mixed))
        whole = frame(ip4(TCP, tcp(bytes(3000))), 1000)
        self.assertEqual([9, 9, 3], self.shape([*mixed[:4], whole, *mixed[4:]]))

    def test_not_overtaken(self) -> None:
        """Of what belongs to no flow that we see it is not known whom it may not overtake."""
        one = [single(ip4(UDP, udp(payload_of(500, n)))) for n in range(6)]
        for between in (
            PLAIN + completed(ip4(UDP, udp(bytes(500)))),
            PLAIN + completed(ip4(UDP, udp(bytes(500)), fragment=0x2000)),
            single(ip4(UDP, udp(bytes(500)), fragment=0x2000)),
            single(ip4(UDP, udp(b""))),
            PLAIN + ip6(44, bytes(60)),
        ):
            self.assertEqual([3, -1, 3], self.shape([*one[:3], between, *one[3:]]))

    def test_super_packet_between(self) -> None:
        """Nor is a super-packet of the same flow overtaken."""
        one = [single(ip4(UDP, udp(payload_of(500, n)))) for n in range(6)]
        between = frame(ip4(UDP, udp(bytes(1900))), 500)
        self.assertEqual([3, 4, 3], self.shape([*one[:3], between, *one[3:]]))

    def test_apart(self) -> None:
        """What differs in anything that counts is not gathered."""
        first = ip4(UDP, udp(bytes(100)))
        for what, second in {
            "port": ip4(UDP, udp(bytes(100), port=9)),
            "TOS": ip4(UDP, udp(bytes(100)), tos=1),
            "TTL": ip4(UDP, udp(bytes(100)), ttl=9),
            "DF": ip4(UDP, udp(bytes(100)), fragment=0),
            "source": ip4(UDP, udp(bytes(100)), source=9),
            "version": ip6(UDP, udp(bytes(100))),
            "smaller, and TTL": ip4(UDP, udp(bytes(99)), ttl=9),
            "smaller, and TOS": ip4(UDP, udp(bytes(99)), tos=9),
            "smaller, and DF": ip4(UDP, udp(bytes(99)), fragment=0),
        }.items():
            self.assertEqual([-2], self.shape([single(first), single(second)]), what)
        six = single(ip6(UDP, udp(bytes(100))))
        for changes in {"tos": 1}, {"ttl": 9}:
            for size in 100, 99:
                other = single(ip6(UDP, udp(bytes(size)), **changes))
                self.assertEqual([-2], self.shape([six, other]))

    def test_wrong_lengths(self) -> None:
        """Datagrams that are not as long as they say are none of ours to mend."""
        good = single(ip4(UDP, udp(bytes(100))))
        for at, value in (VNET_SIZE + 25, 99), (VNET_SIZE + 3, 99):
            bad = good[:at] + bytes([value]) + good[at + 1 :]
            for frames in [bad, bad], [good, bad]:
                self.assertEqual(([[cut(each)[0] for each in frames]], 0), outgoing(frames, 0))

    def test_identification(self) -> None:
        """Where fragments are allowed it has to count up; where not it means nothing."""
        for fragment, numbers, expected in (
            (0, (5, 6, 7), [3]),
            (0, (65_535, 0, 1), [3]),
            (0, (5, 5, 5), [-3]),
            (0, (5, 7, 9), [-3]),
            (0x4000, (0, 0, 0), [3]),
            (0x4000, (9, 7, 5), [3]),
        ):
            frames = [
                single(ip4(UDP, udp(bytes(10)), identity=n, fragment=fragment)) for n in numbers
            ]
            self.assertEqual(expected, self.shape(frames), numbers)


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the packets of each flow in order, as far as they mean something."""
    flows: dict[bytes, list[bytes]] = {}
    for packet in packets:
        flow = packet[8:44] if packet[0] >> 4 == 6 else packet[12:24]
        flows.setdefault(flow, []).append(known(packet))
    return flows


def known(packet: bytes) -> bytes:
    """Return *packet* without an identification that means nothing, and so its checksum."""
    if packet[0] >> 4 == 4 and packet[6] & 0x40:
        return packet[:4] + packet[6:10] + packet[12:]
    return packet


class HostileTests(SynchronousTestCase):
    """Whatever the other end writes."""

    def setUp(self) -> None:
        """Make a good run of each sort."""
        self.good = {
            "tcp4": frame(ip4(TCP, tcp(payload_of(3500, 1))), 1000),
            "tcp6": frame(ip6(TCP, tcp(payload_of(3500, 1))), 1000),
            "udp4": frame(ip4(UDP, udp(payload_of(3500, 1))), 1000),
            "udp6": frame(ip6(UDP, udp(payload_of(3500, 1))), 1000),
        }

    def check(self, counters: list[int], payloads: list[bytes], ecn: int = 0) -> Rebuilt:
        """Rebuild, and hold the result against the plain way and against all promises."""
        rebuilt = rebuild(counters, payloads, ecn)
        packets, refused, congested = plain_rebuilt(counters, payloads, ecn)
        self.assertEqual(packets, cut_all(rebuilt))
        self.assertEqual((refused, congested), rebuilt[1:])
        self.assertTrue(all(map(is_sound, packets)))
        for each in rebuilt.packets:
            whole = b"".join(each.pieces)
            self.assertLessEqual(len(whole) - VNET_SIZE, 65_535)
            flags, kind, head, size, start, offset = struct.unpack_from("=BBHHHH", whole)
            protocol, at = transport_of(whole[VNET_SIZE:])
            self.assertEqual((1, at, 16 if protocol == TCP else 6), (flags, start, offset))
            version = whole[VNET_SIZE] >> 4
            if each.segments == 1:
                self.assertEqual((0, 0, 0), (kind, head, size))
            else:
                expected = 5 if protocol == UDP else 1 if version == 4 else 4
                self.assertEqual(expected, kind & 0x7F)
                self.assertEqual(head + VNET_SIZE, len(each.pieces[0]))
                self.assertEqual(each.segments, -(-(len(whole) - VNET_SIZE - head) // size))
        return rebuilt

    def test_every_byte(self) -> None:
        """Any byte of any header changed, in one datagram or in all, gives packets or refusals."""
        for good in self.good.values():
            counters, payloads = sealed(good, 100)
            for at in range(len(run_of(good).head)):
                for value in 0, 1, 4, 0x10, 0x45, 0x60, 0x80, 0xFF:
                    bent = [p[:at] + bytes([value]) + p[at + 1 :] for p in payloads]
                    self.check(counters, bent)
                    self.check(counters, [payloads[0], bent[1], *payloads[2:]])
                    self.check(counters[3:], bent[3:])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("tcp4", "tcp6", "udp4", "udp6")),
                st.integers(-2, 5),
                st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=3),
                st.integers(-1010, 20),
            ),
            max_size=12,
        ),
        ECN,
    )
    def test_any_mixture(
        self, parts: list[tuple[str, int, list[tuple[int, int]], int]], ecn: int
    ) -> None:
        """Mixtures of changed, cut and lengthened payloads are judged like one at a time."""
        counters, payloads = [], []
        for name, index, changes, longer in parts:
            payload = bytearray(sealed(self.good[name], 100)[1][index % 4])
            for at, value in changes:
                payload[at] = value
            payload = payload[:longer] if longer < 0 else payload + bytes(longer)
            counters.append(100 + index)
            payloads.append(bytes(payload))
        self.check(counters, payloads, ecn)

    @given(
        st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=200)), max_size=6), ECN
    )
    def test_junk(self, parts: list[tuple[int, bytes]], ecn: int) -> None:
        """Nothing raises; every payload is something, or counted."""
        self.check([counter for counter, _ in parts], [payload for _, payload in parts], ecn)

    def test_refused(self) -> None:
        """Each lie about a field is refused, alone: the honest ones beside it arrive."""
        four, six, datagrams = (self.good[name] for name in ("tcp4", "tcp6", "udp4"))
        for what, whole, at, value in (
            ("IP options", four, 0, b"\x46"),
            ("version", four, 0, b"\x55"),
            ("a fragment", four, 6, b"\x20\0"),
            ("not the first fragment", four, 6, b"\0\1"),
            ("the reserved flag", four, 6, b"\xc0\0"),
            ("protocol", four, 9, b"\x01"),
            ("an extension header", six, 6, b"\x3c"),
            ("length of one packet", four, 2, (1040).to_bytes(2, "big")),
            ("length of none", four, 2, bytes(2)),
            ("length beyond all", six, 4, b"\xff\xff"),
            ("TCP header too short", four, 32, b"\x40"),
            ("TCP header behind the end", four, 32, b"\xf0"),
            ("SYN", four, 33, b"\x12"),
            ("RST", four, 33, b"\x14"),
            ("URG", six, 53, b"\x30"),
            ("no ACK", four, 33, b"\x00"),
            ("size 0", four, 36, bytes(2)),
            ("size 1", four, 36, b"\0\1"),
            ("size by fragments", four, 36, b"\xff\xff"),
            ("another size", four, 36, (999).to_bytes(2, "big")),
            ("another size of datagrams", datagrams, 26, (999).to_bytes(2, "big")),
            ("a counter to come", four, 38, (102).to_bytes(2, "big")),
            ("a counter long gone", four, 38, (97).to_bytes(2, "big")),
            ("the same of datagrams", datagrams, 24, (97).to_bytes(2, "big")),
        ):
            counters, payloads = sealed(whole, 100)
            bad = payloads[1][:at] + value + payloads[1][at + len(value) :]
            rebuilt = self.check(counters, [payloads[0], bad, *payloads[2:]])

            self.assertEqual(1, rebuilt.refused, what)
            self.assertEqual([1, 2], [each.segments for each in rebuilt.packets], what)

    def test_sizes(self) -> None:
        """Every datagram is exactly as long as its place in the run demands."""
        for whole in self.good.values():
            counters, payloads = sealed(whole, 100)
            for index, change, refused in (
                (0, -1, 1),
                (0, 1, 1),
                (2, -1, 1),
                (3, -16, 1),
                (3, 16, 1),
                (3, 0, 0),
            ):
                bent = list(payloads)
                bent[index] = bent[index][:change] if change < 0 else bent[index] + bytes(change)
                self.assertEqual(refused, self.check(counters, bent).refused, (index, change))

    def test_other_runs_in_between(self) -> None:
        """Parts of two runs do not mix, even where their counters follow each other."""
        one = frame(ip4(TCP, tcp(payload_of(3000, 1), port=1)), 1000)
        two = frame(ip4(TCP, tcp(payload_of(3000, 2), port=2)), 1000)
        first, second = sealed(one, 100)[1], sealed(two, 100)[1]
        rebuilt = self.check([100, 101, 102], [first[0], second[1], first[2]])

        self.assertEqual([1, 1, 1], [each.segments for each in rebuilt.packets])

    def test_flags_in_their_place(self) -> None:
        """CWR is the first packet's, PSH and FIN are the last one's, whichever arrive."""
        whole = frame(ip4(TCP, tcp(bytes(5000), flags=ACK | CWR | PSH | FIN)), 1000)
        counters, payloads = sealed(whole)
        for first, after in (0, 2), (1, 4), (3, 5), (0, 5), (4, 5), (0, 1):
            (packet,) = rebuild(counters[first:after], payloads[first:after]).packets
            flags = packet.pieces[0][VNET_SIZE + 33]
            self.assertEqual(CWR * (first == 0), flags & CWR)
            self.assertEqual((PSH | FIN) * (after == 5), flags & (PSH | FIN))
            marked = packet.pieces[0][1] & 0x80
            self.assertEqual(0x80 if first == 0 and after > 1 else 0, marked)

    def test_same_counter_twice(self) -> None:
        """Twice the same, which a replay window prevents, is two packets and no larger one."""
        payloads = sealed(self.good["tcp4"], 100)[1]
        rebuilt = self.check([100, 100, 101, 103], [payloads[0], *payloads[:2], payloads[3]])

        self.assertEqual(4, sum(each.segments for each in rebuilt.packets))

    def test_no_amplification(self) -> None:
        """A claim of much makes no more of what came."""
        whole = frame(ip4(TCP, tcp(bytes(60_000))), 48)
        counters, payloads = sealed(whole)
        (packet,) = rebuild(counters[5:7], payloads[5:7]).packets

        self.assertEqual(2 * 88, packet.size)
        self.assertGreater(len(payloads), 1000)
        many = frame(ip4(UDP, udp(bytes(1000 * (MOST_DATAGRAMS - 1) + 1))), 1000)
        self.assertEqual(MOST_DATAGRAMS, len(run_of(many).payloads))

    def test_nothing_of_others(self) -> None:
        """What fills up the last payload are zeros."""
        for name, whole in self.good.items():
            last = sealed(whole)[1][-1]
            size = len(cut(whole)[-1])
            self.assertEqual(bytes(len(last) - size), last[size:], name)
            self.assertEqual(0, len(last) % 16)

    def test_heads_alike(self) -> None:
        """All payloads of a run begin with the same headers."""
        for whole in self.good.values():
            run = run_of(whole)
            size = len(run.head)
            for one, other in pairwise(run.plaintexts(5)):
                self.assertEqual(one[:size], other[:size])
