"""ICMP errors that we send: right in every byte, and never where none may be sent."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, IPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPerror6, IPv6
from scapy.packet import Packet
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.router import ERRORS, Router
from pyvpn.wire.icmp import checksum, too_big, unreachable
from pyvpn.wire.ip import endpoints_of
from tests.tunnel.packets import KeepingSink, packed, packet

HERE4, GONE4 = "10.0.0.1", "10.9.9.9"
HERE6, GONE6 = "fd00::1", "fd99::9"


def checksums_right(answer: Packet, *layers: type[Packet]) -> bool:
    """Whether scapy computes the same checksums for *layers*."""
    again = answer.copy()
    for layer in layers:
        if "chksum" in again[layer].fields:
            del again[layer].chksum
        else:
            del again[layer].cksum
    return bytes(again) == bytes(answer)


def six(next_header: int, payload: bytes, source: str = HERE6, destination: str = GONE6) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64)
    return head + packed(source) + packed(destination) + payload


def icmp4(kind: int) -> bytes:
    made = packet(HERE4, GONE4, bytes((kind,)) + bytes(7))
    return made[:9] + b"\1" + made[10:]


class TooBigTests(SynchronousTestCase):
    """Too large for the way."""

    def test_both_versions(self) -> None:
        """The size is in it, the rest is as in the other errors; and no error is answered."""
        four = packet(HERE4, GONE4, bytes(1400))
        data = too_big(four, 1216)
        assert data is not None
        answer = IP(data)
        self.assertEqual((3, 4, 1216), (data[20], data[21], answer[ICMP].nexthopmtu))
        self.assertTrue(checksums_right(answer, IP, ICMP))
        self.assertEqual((GONE4, HERE4), (answer.src, answer.dst))
        self.assertEqual(576, len(data))
        six6 = six(17, bytes(1400))
        data = too_big(six6, 1280)
        assert data is not None
        answer = IPv6(data)
        self.assertEqual((2, 0, 1280), (data[40], data[41], answer[ICMPv6PacketTooBig].mtu))
        pseudo = data[8:40] + struct.pack("!II", len(data) - 40, 58)
        self.assertEqual(0, checksum(pseudo + data[40:]))  # RFC 1071: the sum of all, sum included
        self.assertEqual(1280, len(data))
        self.assertIsNone(too_big(data, 1280))
        self.assertIsNone(too_big(icmp4(3), 1280))
        self.assertIsNotNone(too_big(icmp4(8), 1280))


class Version4Tests(SynchronousTestCase):
    """Host unreachable."""

    def test_every_field(self) -> None:
        """It comes from the address that nobody has, quotes the packet, and has right sums."""
        lost = packet(HERE4, GONE4, b"payload!")
        data = unreachable(lost)
        assert data is not None
        answer = IP(data)

        self.assertEqual((GONE4, HERE4), (answer.src, answer.dst))
        self.assertEqual((len(data), 64, 1, 5), (answer.len, answer.ttl, answer.proto, answer.ihl))
        self.assertEqual((3, 1), (answer[ICMP].type, answer[ICMP].code))
        self.assertTrue(checksums_right(answer, IP, ICMP))
        self.assertEqual(lost, data[28:])
        self.assertEqual((HERE4, GONE4), (answer[IPerror].src, answer[IPerror].dst))
        self.assertEqual((packed(GONE4), packed(HERE4)), endpoints_of(data))

    def test_long_packet(self) -> None:
        """Of a long packet so much is quoted that 576 bytes are not exceeded; odd sizes too."""
        for size in (547, 548, 549, 1400, 65_535):
            lost = packet(HERE4, GONE4, (bytes(range(256)) * 256)[: size - 20])
            data = unreachable(lost)
            assert data is not None

            self.assertEqual(min(size + 28, 576), len(data))
            self.assertEqual(lost[:548], data[28:])
            self.assertTrue(checksums_right(IP(data), IP, ICMP))

    def test_errors(self) -> None:
        """No error is answered, a question is."""
        for kind in range(256):
            answered = unreachable(icmp4(kind)) is not None
            self.assertEqual(kind in (0, 8, 13, 14), answered, kind)
        headless = packet(HERE4, GONE4)
        self.assertIsNone(unreachable(headless[:9] + b"\1" + headless[10:]))

    def test_errors_behind_options(self) -> None:
        """An error is seen behind the options of its header."""
        made = icmp4(3)
        longer = b"\x46" + made[1:2] + struct.pack("!H", len(made) + 4) + made[4:20]
        self.assertIsNone(unreachable(longer + b"\x08\0\0\0" + made[20:]))
        self.assertIsNotNone(unreachable(longer + b"\x03\0\0\0" + icmp4(8)[20:]))

    def test_fragments(self) -> None:
        """Only a packet's first fragment is answered."""
        lost = packet(HERE4, GONE4, bytes(8))
        for offset, flags, answered in (
            (0, 1, True),
            (1, 1, False),
            (185, 0, False),
            (0, 2, True),
        ):
            field = struct.pack("!H", flags << 13 | offset)
            self.assertEqual(
                answered, unreachable(lost[:6] + field + lost[8:]) is not None, (offset, flags)
            )

    def test_more_than_one_host(self) -> None:
        """Nothing is answered that is from or to more than one host, or from nowhere."""
        many = ("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "0.0.0.0")  # noqa: S104 - addresses to refuse
        for address in (*many, "127.0.0.1", "0.1.2.3"):
            self.assertIsNone(unreachable(packet(HERE4, address)), address)
            self.assertIsNone(unreachable(packet(address, GONE4)), address)
        for address in ("1.0.0.0", "223.255.255.255", "126.0.0.1", "128.0.0.1"):
            self.assertIsNotNone(unreachable(packet(HERE4, address)), address)


class Version6Tests(SynchronousTestCase):
    """Address unreachable."""

    def test_every_field(self) -> None:
        """The same for version 6."""
        lost = six(17, b"payload!")
        data = unreachable(lost)
        assert data is not None
        answer = IPv6(data)

        self.assertEqual((GONE6, HERE6), (answer.src, answer.dst))
        self.assertEqual((len(data) - 40, 64, 58), (answer.plen, answer.hlim, answer.nh))
        self.assertEqual((1, 3), (answer[ICMPv6DestUnreach].type, answer[ICMPv6DestUnreach].code))
        self.assertTrue(checksums_right(answer, ICMPv6DestUnreach))
        self.assertEqual(lost, data[48:])
        self.assertEqual((HERE6, GONE6), (answer[IPerror6].src, answer[IPerror6].dst))
        self.assertEqual((packed(GONE6), packed(HERE6)), endpoints_of(data))

    def test_long_packet(self) -> None:
        """The answer is never larger than the smallest MTU of version 6."""
        for size in (1191, 1192, 1193, 1400, 65_535):
            data = unreachable(six(17, bytes(size)))
            assert data is not None

            self.assertEqual(min(40 + size + 48, 1280), len(data))
            self.assertTrue(checksums_right(IPv6(data), ICMPv6DestUnreach))

    def test_errors(self) -> None:
        """No error is answered, a question is."""
        for kind in range(256):
            answered = unreachable(six(58, bytes((kind, 0)) + bytes(6))) is not None
            self.assertEqual(kind >= 128, answered, kind)
        self.assertIsNone(unreachable(six(58, b"")))

    def test_errors_behind_extensions(self) -> None:
        """An error is seen behind other headers; where that cannot be told nothing is said."""
        error, question = b"\1\3" + bytes(6), b"\x80\0" + bytes(6)
        for kind in (0, 43, 60):
            head = bytes((58, 0)) + bytes(6)
            self.assertIsNone(unreachable(six(kind, head + error)), kind)
            self.assertIsNotNone(unreachable(six(kind, head + question)), kind)
            longer = bytes((58, 2)) + bytes(22)
            self.assertIsNone(unreachable(six(kind, longer + error)), kind)
            two = bytes((kind, 0)) + bytes(6) + head
            self.assertIsNone(unreachable(six(kind, two + error)), kind)
            self.assertIsNone(unreachable(six(kind, head[:7])), kind)
            self.assertIsNone(unreachable(six(kind, longer)), kind)
        thousands = (bytes((60, 0)) + bytes(6)) * 8000
        self.assertIsNone(unreachable(six(60, thousands)))

    def test_fragments(self) -> None:
        """Of a packet in pieces only the first is answered."""
        for offset, answered in ((0, True), (1, False), (1000, False)):
            head = struct.pack("!BBHI", 17, 0, offset << 3 | 1, 7)
            self.assertEqual(answered, unreachable(six(44, head + bytes(8))) is not None)
        first = struct.pack("!BBHI", 58, 0, 1, 7)
        self.assertIsNone(unreachable(six(44, first + b"\1\3" + bytes(6))))

    def test_more_than_one_host(self) -> None:
        """Nothing is answered that is from or to a group, or from nowhere."""
        self.assertIsNone(unreachable(six(17, b"", source="::")))
        self.assertIsNone(unreachable(six(17, b"", source="ff02::1")))
        self.assertIsNone(unreachable(six(17, b"", destination="ff02::1")))
        self.assertIsNotNone(unreachable(six(17, b"", source="fe80::1")))


class AnyBytesTests(SynchronousTestCase):
    """Answers to anything."""

    @given(
        st.binary(max_size=120)
        | st.binary(max_size=80).map(lambda load: six(load[0] if load else 59, load))
    )
    def test_junk(self, data: bytes) -> None:
        """An answer is a packet, is itself never answered, and junk has none."""
        answer = unreachable(data)
        if endpoints_of(data) is None:
            self.assertIsNone(answer)
        if answer is not None:
            source, destination = endpoints_of(data) or (b"", b"")
            self.assertEqual((destination, source), endpoints_of(answer))
            self.assertIsNone(unreachable(answer))

    @given(st.binary(max_size=200))
    def test_checksum(self, data: bytes) -> None:
        """It is the sum that RFC 1071 describes, also of an odd number of bytes."""
        total = sum(byte << 8 if n % 2 == 0 else byte for n, byte in enumerate(data))
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        self.assertEqual(0xFFFF - total, checksum(data))


class RouterTests(SynchronousTestCase):
    """Who is told so."""

    def test_no_route(self) -> None:
        """The sender of a packet to nobody is told, by way of the TUN, and it is counted."""
        tun, counters = KeepingSink(), Counters()
        router = Router(tun, counters)
        lost = [packet(HERE4, GONE4, b"1"), six(17, b"2")]
        router.packets_from_tun(lost, 1.0)

        self.assertEqual([[unreachable(one) for one in lost]], tun.batches)
        self.assertEqual({Drop.NO_ROUTE: 2}, dict(counters.dropped))

    def test_silence(self) -> None:
        """Nobody is told of a group, an error, or what is no packet."""
        tun = KeepingSink()
        router = Router(tun, Counters(), one_link=True)
        router.packets_from_tun([packet(HERE4, "224.0.0.1"), icmp4(3), b"junk"], 1.0)

        self.assertEqual([], tun.batches)

    def test_rate(self) -> None:
        """No more than a hundred errors are sent at once, and a hundred a second."""
        tun, counters = KeepingSink(), Counters()
        router = Router(tun, counters)
        for now in (1.0, 1.0, 1.5):
            router.packets_from_tun([packet(HERE4, GONE4)] * 500, now)

        self.assertEqual([ERRORS, ERRORS / 2], [len(batch) for batch in tun.batches])
        self.assertEqual({Drop.NO_ROUTE: 1500}, dict(counters.dropped))
