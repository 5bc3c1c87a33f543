"""WireGuard's datagrams: what is one, and what lies where in it."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.wireguard import Wireguard
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.datagram import (
    COOKIE_REPLY,
    DATA,
    DATA_HEADER,
    DATA_OVERHEAD,
    INITIATION,
    MAC1,
    MAC2,
    OFFLOAD,
    RESPONSE,
    CookieReply,
    Initiation,
    Path,
    Response,
    counter_of,
    kind_of,
    pack_initiation,
    pack_response,
    receiver_of,
    sender_of,
)

INDICES = st.integers(0, 2**32 - 1)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    """Any bytes, so many."""
    return st.binary(min_size=size, max_size=size)


INITIATIONS = st.builds(
    Initiation, INDICES, exactly(32), exactly(48), exactly(28), exactly(16), exactly(16)
)
RESPONSES = st.builds(
    Response, INDICES, INDICES, exactly(32), exactly(16), exactly(16), exactly(16)
)
COOKIE_REPLIES = st.builds(CookieReply, INDICES, exactly(24), exactly(32))


def fields_of(datagram: bytes, kind: int) -> list[object]:
    """What scapy, which knows the protocol from elsewhere, sees behind type and zeros."""
    packet = Wireguard(datagram)
    assert packet.message_type == kind
    assert packet.reserved_zero == 0
    return [packet.payload.getfieldval(field.name) for field in packet.payload.fields_desc]


class KindTests(SynchronousTestCase):
    """Which bytes are one of the four messages."""

    def test_every_type_and_length(self) -> None:
        """Of all types and lengths up to 2048 bytes only those of our messages are any."""
        expected = {(INITIATION, 148), (RESPONSE, 92), (COOKIE_REPLY, 64)}
        expected |= {(kind, length) for kind in (DATA, OFFLOAD) for length in range(32, 2049)}
        found = set()
        for first in range(256):
            whole = bytes((first, 0, 0, 0)).ljust(2048, b"\xa5")
            for length in range(2049):
                kind = kind_of(whole[:length])
                if kind:
                    self.assertEqual(first, kind)
                    found.add((kind, length))
        self.assertEqual(expected, found)

    def test_reserved_bytes(self) -> None:
        """The three bytes behind the type are zeros, all of them."""
        sizes = (INITIATION, 148), (RESPONSE, 92), (COOKIE_REPLY, 64), (DATA, 32), (OFFLOAD, 32)
        for kind, size in sizes:
            for place in (1, 2, 3):
                for value in range(1, 256):
                    datagram = bytearray(size)
                    datagram[0], datagram[place] = kind, value
                    self.assertEqual(0, kind_of(bytes(datagram)))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_junk(self, junk: bytes) -> None:
        """Any bytes at all are one of the messages or none; what is one can be read."""
        kind = kind_of(junk)
        self.assertIn(kind, range(5))
        if kind == DATA:
            self.assertEqual(
                (DATA, receiver_of(junk), counter_of(junk)), DATA_HEADER.unpack(junk[:16])
            )

    def test_keepalive(self) -> None:
        """The shortest data message is a header and the tag of nothing."""
        header = DATA_HEADER.pack(DATA, 0x01020304, 0x1112131415161718)
        self.assertEqual(bytes.fromhex("04000000 04030201 1817161514131211"), header)
        self.assertEqual(DATA, kind_of(header + bytes(16)))
        self.assertEqual(DATA_OVERHEAD, len(header + bytes(16)))
        self.assertEqual(0, kind_of(header + bytes(15)))


class LayoutTests(SynchronousTestCase):
    """Every field is where it belongs."""

    @settings(deadline=None)
    @given(INITIATIONS)
    def test_initiation(self, message: Initiation) -> None:
        """An initiation is read back as written, and as scapy reads it."""
        datagram = message.to_bytes()
        self.assertEqual(INITIATION, kind_of(datagram))
        self.assertEqual(message, Initiation.parse(datagram))
        self.assertEqual(list(message), fields_of(datagram, INITIATION))
        self.assertEqual(message.sender, sender_of(datagram))
        self.assertEqual((message.mac1, message.mac2), (datagram[MAC1], datagram[MAC2]))
        self.assertEqual(datagram[:-32], pack_initiation(*message[:4]))

    @settings(deadline=None)
    @given(RESPONSES)
    def test_response(self, message: Response) -> None:
        """A response is read back as written, and as scapy reads it."""
        datagram = message.to_bytes()
        self.assertEqual(RESPONSE, kind_of(datagram))
        self.assertEqual(message, Response.parse(datagram))
        self.assertEqual(list(message), fields_of(datagram, RESPONSE))
        self.assertEqual(message.sender, sender_of(datagram))
        self.assertEqual((message.mac1, message.mac2), (datagram[MAC1], datagram[MAC2]))
        self.assertEqual(datagram[:-32], pack_response(*message[:4]))

    @settings(deadline=None)
    @given(COOKIE_REPLIES)
    def test_cookie_reply(self, message: CookieReply) -> None:
        """A cookie reply is read back as written, and as scapy reads it."""
        datagram = message.to_bytes()
        self.assertEqual(COOKIE_REPLY, kind_of(datagram))
        self.assertEqual(message, CookieReply.parse(datagram))
        self.assertEqual(list(message), fields_of(datagram, COOKIE_REPLY))
        self.assertEqual(message.receiver, receiver_of(datagram))

    @settings(deadline=None)
    @given(INDICES, st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=64))
    def test_data(self, receiver: int, counter: int, sealed: bytes) -> None:
        """A data message's header is read as scapy reads it."""
        datagram = DATA_HEADER.pack(DATA, receiver, counter) + sealed
        self.assertEqual(DATA, kind_of(datagram))
        self.assertEqual([receiver, counter, sealed], fields_of(datagram, DATA))
        self.assertEqual((receiver, counter), (receiver_of(datagram), counter_of(datagram)))


class PathTests(SynchronousTestCase):
    """Where a peer is."""

    def test_written(self) -> None:
        """A path is written as ``wg show`` writes an endpoint."""
        for text, host, scope in (
            ("192.0.2.1:51820", "192.0.2.1", 0),
            ("[2001:db8::1]:51820", "2001:db8::1", 0),
            ("[fe80::1%2]:51820", "fe80::1", 2),
        ):
            self.assertEqual(text, str(Path(ip_address(host).packed, 51820, scope)))

    def test_key(self) -> None:
        """The key is address and port; our own address and the interface are no part of it."""
        path = Path(bytes((192, 0, 2, 1)), 258)
        self.assertEqual((0, b"", 0), (path.scope, path.local, path.interface))
        self.assertEqual(b"\xc0\x00\x02\x01\x01\x02", path.key)
        self.assertEqual(path.key, path._replace(local=bytes(4), interface=3).key)

    @settings(deadline=None)
    @given(
        st.ip_addresses(),
        st.integers(0, 65535),
        st.ip_addresses(),
        st.integers(0, 65535),
    )
    def test_keys_differ(self, host, port, other_host, other_port) -> None:
        """Two ends that differ in address or port have different keys."""
        same = host.packed == other_host.packed and port == other_port
        self.assertEqual(
            same, Path(host.packed, port).key == Path(other_host.packed, other_port).key
        )
