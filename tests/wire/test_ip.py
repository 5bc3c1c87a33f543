"""IP packets: source and destination of exactly one packet, or nothing."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.ip import endpoints_of

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
