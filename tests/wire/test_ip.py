"""IP packets: source and destination of exactly one packet, or nothing."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.ip import CE, decapsulated, ecn_of, endpoints_of, trimmed

SOURCE4, DESTINATION4 = IPv4Address("10.73.0.2").packed, IPv4Address("192.168.77.20").packed
SOURCE6, DESTINATION6 = IPv6Address("fd70::2").packed, IPv6Address("fd77::20").packed


def packet4(length: int, words: int = 5, version: int = 4) -> bytes:
    """An IPv4 packet of *length* bytes that says so, with a header of *words*."""
    header = struct.pack("!BBH8x", version << 4 | words, 0, length) + SOURCE4 + DESTINATION4
    return (header + bytes(length))[:length]


def packet6(payload: int, version: int = 6) -> bytes:
    """An IPv6 packet with *payload* bytes that says so."""
    header = struct.pack("!B3xHBB", version << 4, payload, 17, 64)
    return header + SOURCE6 + DESTINATION6 + bytes(payload)


class EndpointsTests(SynchronousTestCase):
    """From whom and to whom a packet goes."""

    def test_version_4(self) -> None:
        """An IPv4 packet has its addresses, with and without options and payload."""
        for packet in (packet4(20), packet4(1500), packet4(60, words=15), packet4(65535)):
            self.assertEqual((SOURCE4, DESTINATION4), endpoints_of(packet))

    def test_version_6(self) -> None:
        """An IPv6 packet has its addresses, with and without payload."""
        for packet in (packet6(0), packet6(8), packet6(1240), packet6(65535)):
            self.assertEqual((SOURCE6, DESTINATION6), endpoints_of(packet))

    def test_header_length(self) -> None:
        """An IPv4 header is five words or more and lies within the packet."""
        self.assertIsNone(endpoints_of(packet4(20, words=4)))
        self.assertIsNone(endpoints_of(packet4(23, words=6)))
        self.assertIsNotNone(endpoints_of(packet4(24, words=6)))

    def test_other_versions(self) -> None:
        """What calls itself neither 4 nor 6 is no packet."""
        for version in set(range(16)) - {4, 6}:
            self.assertIsNone(endpoints_of(packet4(40, version=version)))
            self.assertIsNone(endpoints_of(packet6(0, version=version)))

    def test_every_wrong_length(self) -> None:
        """A byte too few or too many anywhere, and it is no packet: nothing is smuggled behind."""
        for packet in (packet4(100), packet6(60)):
            for length in range(len(packet)):
                self.assertIsNone(endpoints_of(packet[:length]))
            self.assertIsNone(endpoints_of(packet + b"\0"))

    @given(st.binary(max_size=100))
    def test_junk(self, data: bytes) -> None:
        """Any bytes have two addresses of one family, or none; nothing raises."""
        endpoints = endpoints_of(data)
        if endpoints is not None:
            source, destination = endpoints
            self.assertEqual(len(source), len(destination))
            self.assertIn(len(source), (4, 16))


class TrimmedTests(SynchronousTestCase):
    """What WireGuard's padding leaves of a packet."""

    def test_padding(self) -> None:
        """What is behind the packet goes, and nothing else."""
        for packet in (packet4(20), packet4(1420), packet4(60, words=15), packet6(0), packet6(99)):
            self.assertIs(packet, trimmed(packet))
            for more in (1, 15, 1000):
                self.assertEqual(packet, trimmed(packet + bytes(more)))

    def test_cut(self) -> None:
        """A byte too few anywhere, and there is no packet."""
        for packet in (packet4(100), packet6(60)):
            for length in range(len(packet)):
                self.assertIsNone(trimmed(packet[:length]))

    def test_less_than_a_header(self) -> None:
        """A packet that claims to be shorter than its own header is none."""
        for length in range(20):
            self.assertIsNone(trimmed(packet4(20)[:2] + struct.pack("!H", length) + bytes(96)))

    def test_other_versions(self) -> None:
        """What calls itself neither 4 nor 6 is no packet."""
        for version in set(range(16)) - {4, 6}:
            self.assertIsNone(trimmed(packet4(40, version=version)))
            self.assertIsNone(trimmed(packet6(0, version=version)))

    @given(st.binary(max_size=100), st.sampled_from((0x45, 0x60, 0x4F, 0x40)))
    def test_junk(self, data: bytes, first: int) -> None:
        """What comes back is a front part, of the length that it states."""
        data = bytes((first,)) + data
        packet = trimmed(data)
        if packet is not None:
            self.assertTrue(data.startswith(packet))
            self.assertEqual(packet, trimmed(packet))
            if endpoints_of(data) is not None:
                self.assertIs(data, packet)


class CongestionTests(SynchronousTestCase):
    """The two bits of congestion, where they lie."""

    def test_where(self) -> None:
        """They are the lowest of the second byte in version 4, and in its middle in version 6."""
        for ecn in range(4):
            four = packet4(20)
            self.assertEqual(ecn, ecn_of(four[:1] + bytes((0xFC | ecn,)) + four[2:]))
            six = packet6(0)
            self.assertEqual(ecn, ecn_of(six[:1] + bytes((0xCF | ecn << 4,)) + six[2:]))

    def test_untouched(self) -> None:
        """A packet that stays as it is, is not copied."""
        for packet in (packet4(40), packet6(0)):
            for outer in range(3):
                self.assertIs(packet, decapsulated(packet, outer))
            self.assertIsNone(decapsulated(packet, CE))
