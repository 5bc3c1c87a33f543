"""Keys, numbers, endpoints and networks as the configuration protocol writes them.

What is taken and what is not was asked of wireguard-go (2026); tests/live/test_wg_verdicts.py asks
the one that is installed.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.uapi_values import (
    Endpoint,
    address_text,
    parse_endpoint,
    parse_key,
    parse_number,
    parse_prefix,
    prefix_text,
)

ADDRESSES = st.ip_addresses().map(lambda address: address.packed)


class KeyTests(SynchronousTestCase):
    """32 bytes in hexadecimal."""

    def test_either_case(self) -> None:
        """Capital and small digits say the same."""
        self.assertEqual(b"\xab" * 32, parse_key("aB" * 32))

    def test_not_a_key(self) -> None:
        """Other lengths, other characters, and what Python alone would forgive are refused."""
        for text in (
            "",
            "ab",
            "a" * 63,
            "ab" * 31,
            "ab" * 33,
            "ab" * 31 + "ag",
            "ab " * 21 + "a",
            " " + "ab" * 31 + "a",
            "0x" + "ab" * 31,
            "ab" * 31 + "²a",
            "ab" * 31 + "\0\0",
        ):
            with self.assertRaises(ValueError, msg=repr(text)) as caught:
                parse_key(text)
            self.assertEqual("not 64 hexadecimal digits", str(caught.exception))

    @given(st.binary(min_size=32, max_size=32))
    def test_round_trip(self, key: bytes) -> None:
        """What we write of a key is read as that key."""
        self.assertEqual(key, parse_key(key.hex()))


class NumberTests(SynchronousTestCase):
    """Ports, marks and seconds."""

    def test_bounds(self) -> None:
        """The largest number that fits is taken, the next is not."""
        self.assertEqual(65535, parse_number("65535", 16))
        self.assertEqual(2**32 - 1, parse_number("4294967295", 32))
        for text, bits in (("65536", 16), ("4294967296", 32), ("9" * 4000, 32)):
            self.assertRaises(ValueError, parse_number, text, bits)

    def test_leading_zeros(self) -> None:
        """Zeros in front change nothing, however many."""
        for text in ("0", "00", "0" * 4000):
            self.assertEqual(0, parse_number(text, 16))
        self.assertEqual(7, parse_number("0" * 4000 + "7", 16))

    def test_not_a_number(self) -> None:
        """Signs, spaces, other bases and other alphabets are refused."""
        for text in ("", "-1", "+1", " 1", "1 ", "1_0", "0x10", "1e3", "1.0", "²", "off", "\0"):
            self.assertRaises(ValueError, parse_number, text, 16)


class EndpointTests(SynchronousTestCase):
    """Where a peer is."""

    def test_read_and_written(self) -> None:
        """An endpoint is shown in one form, whatever its spelling."""
        for text, shown in {
            "192.0.2.1:51820": "192.0.2.1:51820",
            "192.0.2.1:0": "192.0.2.1:0",
            "[2001:db8::1]:00080": "[2001:db8::1]:80",
            "[FE80::A:0:0:1]:1": "[fe80::a:0:0:1]:1",
            "[1:0:0:2:0:0:0:3]:80": "[1:0:0:2::3]:80",
            "[1:0:2:3:4:5:6:7]:80": "[1:0:2:3:4:5:6:7]:80",
            "[::ffff:192.0.2.1]:80": "[::ffff:192.0.2.1]:80",
            "[::ffff:c000:201]:80": "[::ffff:192.0.2.1]:80",
            "[::1.2.3.4]:1": "[::102:304]:1",
            "[fe80::1%eth0]:80": "[fe80::1%eth0]:80",
            "[fe80::1%a%b]:80": "[fe80::1%a%b]:80",
            "[::%x]:1": "[::%x]:1",
            "[::ffff:192.0.2.1%q]:80": "[::ffff:192.0.2.1%q]:80",
        }.items():
            self.assertEqual(shown, str(parse_endpoint(text)), text)

    def test_not_an_endpoint(self) -> None:
        """Names, missing halves, and brackets in the wrong place are refused."""
        for text in (
            "",
            ":",
            ":80",
            "192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:-1",
            "192.0.2.01:80",
            "192.0.2.256:80",
            "192.0.2:80",
            "192.0.2.1.5:80",
            "[192.0.2.1]:80",
            "192.0.2.1%eth0:80",
            "2001:db8::1:80",
            "[2001:db8::1]",
            "[2001:db8::1]80",
            "[2001:db8::1:80",
            "[[2001:db8::1]]:80",
            "[]:80",
            "[fe80::1%]:80",
            "[2001:db8::1::2]:80",
            "[1:2:3:4:5:6:7:8:9]:80",
            "[1:2:3:4:5:6:7:8::]:80",
            "[12345::]:80",
            "[1:2:3:4:5:6:7:1.2.3.4]:80",
            "localhost:80",
            " 192.0.2.1:80",
            "192.0.2.1\0:80",
            "[2001:db8::1/64]:80",
        ):
            self.assertRaises(ValueError, parse_endpoint, text)

    def test_errors_are_short(self) -> None:
        """An error does not repeat what somebody wrote, whatever its length."""
        with self.assertRaises(ValueError) as caught:
            parse_endpoint("x" * 4000 + ":80")
        self.assertEqual("not an IP address", str(caught.exception))

    @given(ADDRESSES, st.integers(0, 65535))
    def test_round_trip(self, host: bytes, port: int) -> None:
        """What we write of an endpoint is read as that endpoint."""
        endpoint = Endpoint(host, port)

        self.assertEqual(endpoint, parse_endpoint(str(endpoint)))


class PrefixTests(SynchronousTestCase):
    """Allowed IPs."""

    def test_read_and_written(self) -> None:
        """Bits after the prefix are cleared, and an IPv4-mapped network stays IPv6."""
        for text, shown in {
            "10.0.0.7/8": "10.0.0.0/8",
            "0.0.0.0/0": "0.0.0.0/0",
            "192.0.2.1/32": "192.0.2.1/32",
            "1:2::3:4/64": "1:2::/64",
            "::/0": "::/0",
            "::ffff:1.2.3.4/120": "::ffff:1.2.3.0/120",
            "::ffff:1.2.3.4/95": "::fffe:0:0/95",
        }.items():
            self.assertEqual(shown, prefix_text(*parse_prefix(text)), text)

    def test_not_a_network(self) -> None:
        """Lone addresses, zones, and lengths that are too large or oddly written are refused."""
        for text in (
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "10.0.0.0/ 8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/8/8",
            "2001:db8::/129",
            "2001:db8::/9999999999",
            "fe80::1%eth0/64",
            "fe80::%/64",
            "/8",
        ):
            self.assertRaises(ValueError, parse_prefix, text)

    @given(st.ip_addresses(), st.integers(0, 128))
    def test_as_the_standard_library_does(
        self, address: IPv4Address | IPv6Address, length: int
    ) -> None:
        """The network is the one that ipaddress names, and comes back as it went."""
        length = min(length, address.max_prefixlen)
        expected = ip_network((address, length), strict=False)
        found = parse_prefix(f"{address}/{length}")

        self.assertEqual((expected.network_address.packed, length), found)
        self.assertEqual(found, parse_prefix(prefix_text(*found)))

    @given(ADDRESSES)
    def test_an_address_in_text(self, packed: bytes) -> None:
        """Every address is written as one that reads back."""
        self.assertEqual(packed, ip_address(address_text(packed)).packed)


class SameAsIpaddressTests(SynchronousTestCase):
    """Addresses are read as the standard library reads them."""

    @given(
        st.lists(
            st.sampled_from(["0", "1", "00ab", "fFfF", "00000", "g", "", "+1", "1_0"]), max_size=10
        )
        | st.lists(st.text("0123456789abcdefg", max_size=5), min_size=6, max_size=9),
        st.lists(st.integers(0, 10), max_size=2),
        st.sampled_from(["", "192.0.2.1", "1.2.3", "01.2.3.4", ":", "1.2.3.4:"]),
    )
    def test_ipv6(self, groups: list[str], gaps: list[int], end: str) -> None:
        """So it is with every form of an IPv6 address, and with what only looks like one."""
        for gap in gaps:
            groups.insert(gap, "")
        text = ":".join([*groups, end] if end else groups)
        if ":" not in text:
            return
        try:
            expected = IPv6Address(text).packed
        except ValueError:
            self.assertRaises(ValueError, parse_prefix, f"{text}/128")
        else:
            self.assertEqual((expected, 128), parse_prefix(f"{text}/128"))

    @given(st.lists(st.text("0123456789", max_size=4) | st.just("²"), min_size=3, max_size=5))
    def test_ipv4(self, octets: list[str]) -> None:
        """So it is with IPv4."""
        text = ".".join(octets)
        try:
            expected = IPv4Address(text).packed
        except ValueError:
            self.assertRaises(ValueError, parse_prefix, f"{text}/32")
        else:
            self.assertEqual((expected, 32), parse_prefix(f"{text}/32"))


class JunkTests(SynchronousTestCase):
    """Any text at all."""

    @given(st.text(st.characters(max_codepoint=255)) | st.text("0123456789abf:./%[]-+ \0"))
    def test_a_value_or_a_value_error(self, text: str) -> None:
        """Nothing else comes of junk."""
        for parse in (parse_key, parse_endpoint, parse_prefix):
            with contextlib.suppress(ValueError):
                parse(text)
        with contextlib.suppress(ValueError):
            parse_number(text, 16)
