"""The datagrams of the first generation's UDP program: bytes, and nothing that is two things."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.wire.plain_udp import (
    GOODBYE,
    HEARTBEAT,
    LARGEST,
    MOST_PASSWORD,
    UNKNOWN,
    Addresses,
    addresses_in,
    encode_answer,
    is_fit,
    is_password,
    packet_in,
    with_header,
)
from tests.tunnel.packets import packed, packet

PASSWORD = b"4fb88ca224e"
datagrams = st.binary(max_size=LARGEST + 10) | st.builds(
    bytes.__add__,
    st.sampled_from([b"\0\0\x08\0", b"\0\0\x86\xdd", b"\0\1\x08\0", b"\0\0", b"10.0.0.2;"]),
    st.binary(max_size=80),
)
addresses = st.ip_addresses(v=4)


class BytesTests(SynchronousTestCase):
    """What is on the wire, byte for byte."""

    def test_commands(self) -> None:
        """Heartbeat, "log in again" and goodbye are one byte each."""
        self.assertEqual((b"\x00", b"\x72", b"\x65"), (HEARTBEAT, UNKNOWN, GOODBYE))

    def test_answer(self) -> None:
        """The answer to a log-in is both addresses in ASCII, the client's first."""
        self.assertEqual(
            b"10.0.0.2;10.0.0.1", encode_answer(packed("10.0.0.2"), packed("10.0.0.1"))
        )

    def test_no_answer(self) -> None:
        """To answer with anything but IPv4 addresses is our own mistake."""
        self.assertRaises(Misuse, encode_answer, packed("fd00::2"), packed("10.0.0.1"))

    def test_packets(self) -> None:
        """A packet has the kernel's header before it: no flags, and the type of its version."""
        four = packet("10.0.0.2", "10.0.0.1", b"ping")
        six = packet("fe80::1", "ff02::2", b"solicitation")

        self.assertEqual(bytes.fromhex("00000800") + four, with_header(four))
        self.assertEqual(bytes.fromhex("000086dd") + six, with_header(six))
        self.assertEqual(four, packet_in(with_header(four)))
        self.assertEqual(six, packet_in(with_header(six)))


class ReadingTests(SynchronousTestCase):
    """What is taken for what."""

    def test_no_packet(self) -> None:
        """A header that does not fit its packet, a flag, or nothing behind it: no packet."""
        four, six = packet("10.0.0.2", "10.0.0.1"), packet("fe80::1", "ff02::2")
        for datagram in (
            b"",
            b"\0",
            bytes.fromhex("00000800"),
            bytes.fromhex("000086dd") + four,
            bytes.fromhex("00000800") + six,
            bytes.fromhex("00010800") + four,
            bytes.fromhex("01000800") + four,
            bytes.fromhex("00000806") + four,
            four,
        ):
            self.assertIsNone(packet_in(datagram), datagram)

    def test_hostile_answers(self) -> None:
        """Two different addresses that hosts can have, spelled in one way, or no answer."""
        for text in (
            "",
            ";",
            "10.0.0.2",
            "10.0.0.2;",
            "10.0.0.2;10.0.0.1;",
            "10.0.0.2;10.0.0.1\n",
            " 10.0.0.2;10.0.0.1",
            "10.0.0.2,10.0.0.1",
            "10.0.0.2;10.0.0.2",
            "10.0.0.02;10.0.0.1",
            "10.0.0.256;10.0.0.1",
            "10.0.2;10.0.0.1",
            "fd00::2;fd00::1",
            "10.0.0.2/24;10.0.0.1",
            "\u0661\u0660.0.0.2;10.0.0.1",
            "127.0.0.2;10.0.0.1",
            "10.0.0.2;127.0.0.1",
            "224.0.0.5;10.0.0.1",
            "10.0.0.2;255.255.255.255",
            "0.0.0.0;10.0.0.1",
            "169.254.1.1;10.0.0.1",
            "1" * 4000,
        ):
            self.assertIsNone(addresses_in(text.encode()), text)

    def test_broadcast(self) -> None:
        """The original's server gives away 10.0.0.255 as well; it works, so it is taken."""
        self.assertEqual(
            Addresses(IPv4Address("10.0.0.255"), IPv4Address("10.0.0.1")),
            addresses_in(b"10.0.0.255;10.0.0.1"),
        )

    def test_passwords(self) -> None:
        """The password is what is equal to it, and nothing else."""
        self.assertTrue(is_password(PASSWORD, PASSWORD))
        for datagram in (b"", PASSWORD[:-1], PASSWORD + b"\n", PASSWORD.upper(), PASSWORD * 200):
            self.assertFalse(is_password(datagram, PASSWORD))

    def test_fit(self) -> None:
        """Whatever could be taken for something else cannot be a password."""
        for good in (b"x", b"rr", b"\xff", b"a b", b"10.0.0.2;10.0.0.1", b"x" * MOST_PASSWORD):
            self.assertTrue(is_fit(good), good)
        for bad in (b"", b"r", b"e", b"\0", b"a\0b", b"x" * (MOST_PASSWORD + 1)):
            self.assertFalse(is_fit(bad), bad)


class AnyBytesTests(SynchronousTestCase):
    """Whatever comes, it is one thing at the most, and nothing breaks."""

    @given(datagrams, st.binary(min_size=1, max_size=MOST_PASSWORD))
    def test_one_thing(self, datagram: bytes, password: bytes) -> None:
        """No datagram is two things, once the password is one that may be."""
        assume(is_fit(password))
        for each in (datagram, password):
            meanings = [
                each == HEARTBEAT,
                each == GOODBYE,
                each == UNKNOWN,
                packet_in(each) is not None,
                is_password(each, password),
            ]
            self.assertLessEqual(sum(meanings), 1)
            self.assertFalse(addresses_in(each) is not None and any(meanings[:4]))

    @given(st.binary(min_size=1, max_size=2000))
    def test_packets(self, inner: bytes) -> None:
        """What is wrapped is unwrapped, if it is of a version that there is."""
        expected = inner if inner[0] >> 4 in (4, 6) else None
        self.assertEqual(expected, packet_in(with_header(inner)))

    @given(addresses, addresses)
    def test_answers(self, client: IPv4Address, server: IPv4Address) -> None:
        """What is answered is read back, if hosts can have the addresses."""
        found = addresses_in(encode_answer(client.packed, server.packed))
        if found is None:
            nobody = [
                each.packed[0] in (0, 127)
                or each.packed[0] >= 224
                or each.packed[:2] == b"\xa9\xfe"
                for each in (client, server)
            ]
            self.assertTrue(any(nobody) or client == server)
        else:
            self.assertEqual((client, server), found)

    @given(st.binary(max_size=40), st.binary(min_size=1, max_size=40))
    def test_compared(self, datagram: bytes, password: bytes) -> None:
        """The careful comparison says what the plain one would."""
        self.assertEqual(datagram == password, is_password(datagram, password))
