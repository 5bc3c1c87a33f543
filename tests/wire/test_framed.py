"""Super-packets as frames of the control channel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.command import LIMIT, Command, encode_frame, encode_packets, packets_in
from pyvpn.wire.framed import LARGEST, MARK, framed, frames_in, missing, super_packet_of
from pyvpn.wire.offload import LEAST_SEGMENT
from pyvpn.wire.segments import PLAIN, VNET_SIZE, cut
from tests.wire.plain_offload import header_sizes, plain_packet, stated_length
from tests.wire.plain_segments import (
    CWR,
    TCP,
    UDP,
    frame,
    ip4,
    ip6,
    is_sound,
    tcp,
    transport_of,
    udp,
    with_field,
)
from tests.wire.test_offload import by_flow, offloadable, single
from tests.wire.test_segments import payload_of, super_packets

ROOM = 1 << 20
GOOD = {
    "tcp4": frame(ip4(TCP, tcp(payload_of(3500, 1))), 1000),
    "tcp6": frame(ip6(TCP, tcp(payload_of(3500, 1))), 1000),
    "udp4": frame(ip4(UDP, udp(payload_of(3500, 1))), 1000),
    "udp6": frame(ip6(UDP, udp(payload_of(3500, 1))), 1000),
}


def sent(frames: list[bytes], room: int = ROOM) -> list[bytes]:
    """Return the data of the frames that *frames* become, and see that the books are right."""
    made = framed(frames, room)
    found, taken = packets_in(made.data, LIMIT)
    assert taken == len(made.data)
    packets = [packet for each in found for packet in arrived(each)]
    assert len(packets) == made.packets
    assert sum(map(len, packets)) == made.size
    return found


def arrived(data: bytes) -> list[bytes]:
    """Return the packets that the *data* of a frame stands for; it must be good."""
    if not data.startswith(MARK):
        return [data]
    made = super_packet_of(data)
    assert made is not None
    packets = made.cut()
    assert len(packets) == made.segments
    return packets


def data_of(whole: bytes) -> bytes:
    """Return the data of the frame that the super-packet *whole* becomes."""
    (data,) = sent([whole])
    assert data.startswith(MARK)
    return data


def segment_of(whole: bytes) -> int:
    """Return the bytes of payload in each packet but the last of the super-packet *whole*."""
    size: int = struct.unpack_from("=BBHHHH", whole)[3]
    return size


def plain_super_packet(data: bytes) -> list[bytes] | None:
    """Return the packets that *data* stands for, the slow and obvious way; None if for none.

    A super-packet in one piece is a run of offload payloads that all came, so it is cut into them.
    """
    if len(data) < 4 or data[:2] != bytes(2):
        return None
    size, packet = struct.unpack_from(">H", data, 2)[0], data[4:]
    sizes = header_sizes(packet)
    if sizes is None or size < LEAST_SEGMENT or stated_length(packet) != len(packet):
        return None
    after, at = sizes
    fields = (16, 18) if transport_of(packet)[0] == TCP else (6, 4)
    head = with_field(with_field(packet[:after], at + fields[0], size), at + fields[1], 0)
    payload = packet[after:]
    pieces = [payload[n : n + size] for n in range(0, len(payload), size)]
    packets = [plain_packet(number, head + piece) for number, piece in enumerate(pieces)]
    found = [each for each in packets if each is not None]
    return found if found and len(found) == len(packets) else None


class SameTests(SynchronousTestCase):
    """What arrives is what was sent."""

    @given(offloadable().filter(lambda whole: segment_of(whole) >= LEAST_SEGMENT))
    def test_whole(self, whole: bytes) -> None:
        """A super-packet arrives as the same, byte for byte, and stands for the same packets."""
        made = super_packet_of(data_of(whole))
        assert made is not None
        if whole[VNET_SIZE + transport_of(whole[VNET_SIZE:])[1] + 13] & CWR and whole[8] == 16:
            whole = whole[:1] + bytes([whole[1] | 0x80]) + whole[2:]

        self.assertEqual(whole, b"".join(made.pieces))
        self.assertEqual(cut(whole), made.cut())
        self.assertEqual(sum(map(len, cut(whole))), made.size)
        self.assertEqual(plain_super_packet(data_of(whole)), made.cut())

    @given(st.lists(super_packets(), max_size=4))
    def test_all_that_the_kernel_gives(self, frames: list[bytes]) -> None:
        """Whatever a TUN hands out arrives as the packets that it stands for, flow by flow."""
        packets = [packet for each in frames for packet in cut(each)]
        got = [packet for each in sent(frames) for packet in arrived(each)]

        self.assertEqual(by_flow(packets), by_flow(got))
        self.assertTrue(all(map(is_sound, got)))

    def test_one_frame(self) -> None:
        """It is one frame, with few bytes beside the super-packet."""
        for whole in GOOD.values():
            made = framed([whole], ROOM)
            self.assertEqual(len(whole) - VNET_SIZE + 16, len(made.data))
            self.assertEqual((4, 0, 0), (made.packets, made.refused, made.unknown))

    def test_tiny_datagrams(self) -> None:
        """A frame that would stand for many times as much is not sent: the packets are."""
        whole = frame(ip4(UDP, udp(payload_of(470, 1))), 47)
        self.assertEqual(cut(whole), sent([whole]))
        (data,) = sent([frame(ip4(UDP, udp(payload_of(480, 1))), 48)])
        self.assertTrue(data.startswith(MARK))

    def test_datagrams_gathered(self) -> None:
        """Equal datagrams of a flow that come one by one are one frame, too."""
        payloads = [payload_of(1000, n) for n in range(9)] + [b"the rest"]
        for packets in (
            [ip4(UDP, udp(each), identity=7 + n) for n, each in enumerate(payloads)],
            [ip6(UDP, udp(each)) for each in payloads],
        ):
            frames = [single(each) for each in packets]
            (data,) = sent(frames)
            self.assertEqual([packet for each in frames for packet in cut(each)], arrived(data))

    def test_tiny_gathered(self) -> None:
        """Those that come one by one are not gathered where they are tiny; all are whole."""
        for size in 1, 47, 48, 49:
            payloads = [payload_of(size, n) for n in range(9)]
            for packets in (
                [ip4(UDP, udp(each), identity=7 + n) for n, each in enumerate(payloads)],
                [ip6(UDP, udp(each)) for each in payloads],
            ):
                frames = [single(each) for each in packets]
                data = sent(frames)
                self.assertEqual(9 if size < 48 else 1, len(data))
                got = [packet for each in data for packet in arrived(each)]
                self.assertEqual([packet for each in frames for packet in cut(each)], got)
                self.assertTrue(all(map(is_sound, got)))

    def test_packets_between(self) -> None:
        """Packets that are no super-packets go as ever, in their place."""
        other = ip4(TCP, tcp(b"alone"))
        found = sent([GOOD["tcp4"], PLAIN + other, GOOD["tcp4"]])

        self.assertEqual([False, True, False], [each == other for each in found])

    def test_too_large_for_a_frame(self) -> None:
        """The largest fit the limit of every receiver; what does not is cut."""
        size = LARGEST - 40
        for more in 0, 1:
            whole = frame(ip4(TCP, tcp(payload_of(size + more, 3))), 30_000)
            self.assertEqual([1, 3][more], len(sent([whole])))
        self.assertEqual(LIMIT, len(data_of(frame(ip4(TCP, tcp(bytes(size))), 30_000))) + 8)

    def test_unknown(self) -> None:
        """What the kernel cannot have meant is counted, and nothing else is lost for it."""
        made = framed([b"junk", GOOD["tcp4"]], ROOM)
        self.assertEqual((4, 0, 1), (made.packets, made.refused, made.unknown))


class RoomTests(SynchronousTestCase):
    """No more than there is room for."""

    def test_from_the_front(self) -> None:
        """What fits goes, from the front; the rest is counted in packets."""
        frames = [GOOD["tcp4"]] * 3 + [PLAIN + ip4(TCP, tcp(b"alone"))]
        each = len(GOOD["tcp4"]) - VNET_SIZE
        for room, packets in ((each, 4), (2 * each - 1, 4), (2 * each, 8), (3 * each, 12)):
            made = framed(frames, room)
            self.assertEqual((packets, 13 - packets), (made.packets, made.refused), room)
        self.assertEqual(13, framed(frames, 3 * each + 45).packets)

    def test_a_large_one(self) -> None:
        """One passes in any case, but for where there is no room at all."""
        made = framed([GOOD["tcp4"]] * 2, 1)
        self.assertEqual((4, 4), (made.packets, made.refused))
        made = framed([PLAIN + ip4(TCP, tcp(b"alone")), GOOD["udp6"]], 0)
        self.assertEqual((b"", 0, 0, 5), made[:4])


class HostileTests(SynchronousTestCase):
    """Whatever the other end writes."""

    def check(self, data: bytes) -> list[bytes] | None:
        """Read *data*, and hold the result against the plain way and against all promises."""
        made, expected = super_packet_of(data), plain_super_packet(data)
        if made is None:
            self.assertIsNone(expected)
            return None
        packets = made.cut()
        self.assertEqual(expected, packets)
        self.assertEqual(len(packets), made.segments)
        self.assertEqual(sum(map(len, packets)), made.size)
        self.assertTrue(all(map(is_sound, packets)))
        whole = b"".join(made.pieces)
        self.assertEqual(len(data) - 4, len(whole) - VNET_SIZE)
        flags, kind, head, size, start, offset = struct.unpack_from("=BBHHHH", whole)
        protocol, at = transport_of(whole[VNET_SIZE:])
        self.assertEqual((1, at, 16 if protocol == TCP else 6), (flags, start, offset))
        self.assertEqual(
            5 if protocol == UDP else 1 if whole[VNET_SIZE] >> 4 == 4 else 4, kind & 0x7F
        )
        self.assertEqual(head + VNET_SIZE, len(made.pieces[0]))
        self.assertEqual(made.segments, -(-(len(whole) - VNET_SIZE - head) // size))
        return packets

    def test_every_byte(self) -> None:
        """Any byte of any header changed is a super-packet all the same, or refused."""
        for good in GOOD.values():
            data = data_of(good)
            for at in range(80):
                for value in 0, 1, 4, 0x10, 0x45, 0x60, 0x80, 0xFF:
                    self.check(data[:at] + bytes([value]) + data[at + 1 :])

    @given(
        st.sampled_from(sorted(GOOD)),
        st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4),
        st.integers(-3600, 20),
        st.integers(0, 2**16 - 1) | st.just(1000),
    )
    def test_any_change(
        self, name: str, changes: list[tuple[int, int]], longer: int, size: int
    ) -> None:
        """The same of any other change, of the length and of the header in front."""
        data = bytearray(with_field(data_of(GOOD[name]), 2, size))
        for at, value in changes:
            data[at] = value
        self.check(bytes(data[:longer] if longer < 0 else data + bytes(longer)))

    @given(st.binary(max_size=200), st.booleans())
    def test_junk(self, junk: bytes, marked: bool) -> None:
        """Nothing raises."""
        self.check(bytes(2) + junk if marked else junk)

    def test_refused(self) -> None:
        """Each lie about a field is refused; the same frame without it is not."""
        four, six, datagrams = (data_of(GOOD[name]) for name in ("tcp4", "tcp6", "udp4"))
        small = data_of(frame(ip4(UDP, udp(payload_of(480, 1))), 48))
        for what, good, at, value in (
            ("mark", four, 0, b"\x01"),
            ("mark's second byte", four, 1, b"\x01"),
            ("size 0", four, 2, bytes(2)),
            ("size of TCP below the least", four, 2, (47).to_bytes(2, "big")),
            ("size of UDP below the least", small, 2, (47).to_bytes(2, "big")),
            ("size as large as all", four, 2, (3500).to_bytes(2, "big")),
            ("size beyond all", six, 2, b"\xff\xff"),
            ("too many datagrams", datagrams, 2, (54).to_bytes(2, "big")),
            ("IP options", four, 4, b"\x46"),
            ("version", four, 4, b"\x55"),
            ("version of the other", six, 4, b"\x45"),
            ("length of less", four, 6, (3539).to_bytes(2, "big")),
            ("length of more", four, 6, (3541).to_bytes(2, "big")),
            ("length of none", six, 8, bytes(2)),
            ("a fragment", four, 10, b"\x20\0"),
            ("not the first fragment", four, 10, b"\0\1"),
            ("the reserved flag", four, 10, b"\xc0\0"),
            ("protocol", four, 13, b"\x01"),
            ("an extension header", six, 10, b"\x3c"),
            ("TCP header too short", four, 36, b"\x40"),
            ("SYN", four, 37, b"\x12"),
            ("RST", four, 37, b"\x14"),
            ("URG", six, 57, b"\x30"),
            ("no ACK", four, 37, b"\x00"),
        ):
            self.assertIsNotNone(self.check(good), what)
            self.assertIsNone(self.check(good[:at] + value + good[at + len(value) :]), what)
        for good in four, six, datagrams:
            self.assertIsNone(self.check(good[:-1]))
            self.assertIsNone(self.check(good + b"\0"))

    def test_no_word_of_theirs(self) -> None:
        """What we can compute we do: checksums, and of UDP the length, are what is right."""
        for name, field in (("tcp4", 20 + 16), ("tcp6", 40 + 16), ("udp4", 26), ("udp6", 44)):
            good = data_of(GOOD[name])
            bent = with_field(good, 4 + field, 0xABCD)
            if name.endswith("4"):
                bent = with_field(bent, 4 + 10, 0x1234)
            self.assertNotEqual(good, bent)
            self.assertEqual(self.check(good), self.check(bent))

    def test_as_many_as_a_frame_holds(self) -> None:
        """One frame stands for no more packets than its bytes make at the smallest size."""
        data = data_of(frame(ip4(TCP, tcp(bytes(60_000))), 48))
        self.assertEqual(1250, len(self.check(data) or ()))


class StreamTests(SynchronousTestCase):
    """Frames are cut out of a stream like packets; super-packets are read where they are."""

    def test_like_packets(self) -> None:
        """From wherever a frame begins, and up to what is none of these or not all there."""
        alone = ip4(TCP, tcp(b"alone"))
        bad = data_of(GOOD["udp4"])[:-1]
        stream = framed([GOOD["tcp4"], PLAIN + alone, GOOD["udp6"]], ROOM).data
        stream += encode_packets([bad, b"", b"\0"])
        for after in b"", encode_frame(Command.HEARTBEAT, 1), encode_packets([alone])[:-1]:
            found, end = frames_in(b"before" + stream + after, LIMIT, 6)
            self.assertEqual(len(stream) + 6, end)
            shown = [one if isinstance(one, bytes) else one.cut() for one in found]
            expected = [cut(GOOD["tcp4"]), alone, cut(GOOD["udp6"]), bad, b"", b"\0"]
            self.assertEqual(expected, shown)
        self.assertEqual(([], 0), frames_in(stream, 3000))
        self.assertEqual(([], 0), frames_in(bytes(4) + stream, LIMIT))

    def test_missing(self) -> None:
        """How much of a frame is to come is known from its first twelve bytes on."""
        for whole in encode_packets([b"12345"]), framed([GOOD["tcp4"]], ROOM).data:
            for size in range(len(whole) + 1):
                expected = len(whole) - size if size >= 12 else 0
                self.assertEqual(expected, missing(whole[:size], LIMIT))
        self.assertEqual(0, missing(encode_frame(Command.NOTICE, 0, b"12345")[:-1], LIMIT))
        self.assertEqual(0, missing(encode_packets([bytes(9)])[:-1], 16))
        self.assertEqual(0, missing(struct.pack("!iii", -4, 2, 0), LIMIT))
