"""What stands beside the bytes of a datagram, read and written."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.ancillary import (
    Arrival,
    is_link_local,
    read_ancillary,
    source_ancillary,
    tos_ancillary,
)
from pyvpn.wire.datagram import Path

V4 = bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")
LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000001")
GROUP = bytes.fromhex("ff020000000000000000000000000001")


def info4(interface: int, local: bytes) -> tuple[int, int, bytes]:
    return socket.IPPROTO_IP, 8, struct.pack("=I4s4s", interface, local, bytes([192, 0, 2, 255]))


def info6(local: bytes, interface: int) -> tuple[int, int, bytes]:
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", local, interface)


class ReadTests(SynchronousTestCase):
    """What the kernel tells of a datagram."""

    def test_version_4(self) -> None:
        """The address to answer from, the interface, and of the TOS the ECN field only."""
        told = [info4(7, V4), (socket.IPPROTO_IP, socket.IP_TOS, b"\x8b")]

        self.assertEqual(Arrival(V4, 7, 3), read_ancillary(told))

    def test_version_6(self) -> None:
        """The same, of IPv6."""
        traffic_class = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("=i", 0x8A))

        self.assertEqual(Arrival(V6, 7, 2), read_ancillary([info6(V6, 7), traffic_class]))

    def test_nothing(self) -> None:
        """A kernel that tells nothing leaves us to its own choice."""
        self.assertEqual(Arrival(b"", 0, 0), read_ancillary([]))

    def test_something_else(self) -> None:
        """What was not asked for is ignored."""
        self.assertEqual(Arrival(b"", 0, 0), read_ancillary([(1, 29, b"12345678"), (0, 2, b"x")]))

    def test_group(self) -> None:
        """Nothing is answered from a group's address."""
        self.assertEqual(Arrival(b"", 7, 0), read_ancillary([info6(GROUP, 7)]))


class WriteTests(SynchronousTestCase):
    """What the kernel is told to do with a datagram."""

    def test_source_4(self) -> None:
        """The source is pinned; the interface is left to the routes."""
        [(level, kind, value)] = source_ancillary(Path(V4, 1, 0, bytes([192, 0, 2, 9]), 7))

        self.assertEqual((socket.IPPROTO_IP, 8), (level, kind))
        self.assertEqual((0, bytes([192, 0, 2, 9]), bytes(4)), struct.unpack("=I4s4s", value))

    def test_source_6(self) -> None:
        """The same, of IPv6."""
        [(level, kind, value)] = source_ancillary(Path(V6, 1, 0, V6, 7))

        self.assertEqual((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO), (level, kind))
        self.assertEqual((V6, 0), struct.unpack("=16sI", value))

    def test_source_link_local(self) -> None:
        """A link-local source belongs to its interface."""
        [(_, _, value)] = source_ancillary(Path(LINK_LOCAL, 1, 7, LINK_LOCAL, 7))

        self.assertEqual((LINK_LOCAL, 7), struct.unpack("=16sI", value))

    def test_no_source(self) -> None:
        """Without a source, or with one of the other family, the kernel chooses."""
        for path in Path(V4, 1), Path(V6, 1, 0, V4, 7), Path(V4, 1, 0, V6, 7):
            self.assertEqual([], source_ancillary(path))

    @given(st.integers(1, 255))
    def test_tos(self, tos: int) -> None:
        """Every TOS comes out as it went in, in both families."""
        [(_, kind4, value4)] = tos_ancillary(4, tos)
        [(_, kind6, value6)] = tos_ancillary(6, tos)

        self.assertEqual((socket.IP_TOS, socket.IPV6_TCLASS), (kind4, kind6))
        self.assertEqual((tos,), struct.unpack("=i", value4))
        self.assertEqual((tos,), struct.unpack("=i", value6))

    def test_no_tos(self) -> None:
        """0 is what the kernel does by itself."""
        self.assertEqual([], tos_ancillary(4, 0))

    def test_link_local(self) -> None:
        """fe80::/10 is link-local and nothing else is."""
        self.assertTrue(is_link_local(LINK_LOCAL))
        self.assertTrue(is_link_local(b"\xfe\xbf" + bytes(14)))
        for other in b"\xfe\xc0" + bytes(14), b"\xfe\x7f" + bytes(14), V6, V4:
            self.assertFalse(is_link_local(other))
