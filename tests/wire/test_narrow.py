"""Packets for a narrow way: IPv4 fragments and TCP's MSS, against scapy and a plain reassembly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.narrow import clamped, fitted, fragments

RECORD_ROUTE = bytes.fromhex("07 07 04 00000000".replace(" ", ""))  # not copied
SECURITY = bytes.fromhex("82 0b 00000000000000000000".replace(" ", ""))[:11]  # copied


def datagram(load: bytes, options: bytes = b"", **fields: object) -> bytes:
    """An IPv4 packet of UDP with right checksums."""
    padded = options + bytes(-len(options) % 4)
    made = IP(src="10.0.0.1", dst="10.0.0.2", id=77, **fields) / UDP(sport=1, dport=2) / Raw(load)
    if not padded:
        return bytes(made)
    plain = bytes(made)
    head = bytes((0x40 | (20 + len(padded)) // 4,)) + plain[1:2]
    head += (len(plain) + len(padded)).to_bytes(2, "big") + plain[4:10] + b"\0\0" + plain[12:20]
    whole = IP(head + padded + plain[20:])
    del whole.chksum
    return bytes(whole)


def joined(pieces: list[bytes]) -> bytes:
    """What a host makes of fragments: the load, each byte once."""
    load: dict[int, bytes] = {}
    for piece in pieces:
        length = (piece[0] & 15) * 4
        load[int.from_bytes(piece[6:8], "big") & 0x1FFF] = piece[length:]
    whole = b""
    for offset in sorted(load):
        assert offset * 8 == len(whole), "a gap, or bytes twice"
        whole += load[offset]
    return whole


class FragmentTests(SynchronousTestCase):
    """RFC 791 section 3.2."""

    @given(st.binary(min_size=1, max_size=4000), st.integers(68, 1500), st.booleans())
    def test_identity(self, load: bytes, mtu: int, with_options: bool) -> None:
        """Each piece fits, is one whole packet with a right sum, and together they are all."""
        packet = datagram(load, SECURITY + RECORD_ROUTE if with_options else b"")
        pieces = fragments(packet, mtu)
        assert pieces is not None
        for number, piece in enumerate(pieces):
            self.assertLessEqual(len(piece), mtu)
            self.assertIsNotNone(endpoints_of(piece))
            again = IP(piece)
            del again.chksum
            self.assertEqual(piece, bytes(again))
            last = number == len(pieces) - 1
            self.assertEqual(not last, bool(piece[6] & 0x20))
            self.assertEqual(packet[4:6], piece[4:6])
        self.assertEqual(packet[(packet[0] & 15) * 4 :], joined(pieces))

    def test_options(self) -> None:
        """Of the options later pieces have those that are marked so."""
        packet = datagram(bytes(400), SECURITY + RECORD_ROUTE)
        pieces = fragments(packet, 200)
        assert pieces is not None
        self.assertEqual(packet[20:40], pieces[0][20:40])
        self.assertEqual(SECURITY + b"\0", pieces[1][20:32])
        self.assertEqual(32, (pieces[1][0] & 15) * 4)

    def test_unreadable_options(self) -> None:
        """Options that nobody can read end there, and nothing raises."""
        for options in (b"\x82\x00", b"\x82\x01", b"\x82\xff", b"\x82", b"\x01\x01\x82"):
            pieces = fragments(datagram(bytes(400), options), 200)
            assert pieces is not None
            self.assertEqual(20, (pieces[1][0] & 15) * 4)

    def test_of_a_fragment(self) -> None:
        """A piece is cut again: its offset goes on, and only the last of all is the last."""
        whole = datagram(bytes(range(256)) * 8)
        first, second = (fragments(whole, 1500) or [])[:2]
        pieces = [*(fragments(first, 576) or []), *(fragments(second, 576) or [])]
        self.assertEqual(whole[20:], joined(pieces))
        self.assertEqual([False] * (len(pieces) - 1) + [True], [p[6] & 0x20 == 0 for p in pieces])

    def test_forbidden(self) -> None:
        """Not what its sender forbids, no IPv6, and not where nothing fits."""
        self.assertIsNone(fragments(datagram(bytes(400), flags="DF"), 200))
        self.assertIsNone(fragments(bytes(IPv6() / UDP() / Raw(bytes(400))), 200))
        self.assertIsNone(fragments(datagram(bytes(400)), 27))


class MssTests(SynchronousTestCase):
    """The clamp."""

    @given(
        st.booleans(),
        st.integers(0, 65_535),
        st.integers(512, 1500),
        st.integers(0, 3),
        st.sampled_from(["S", "SA", "SEC"]),
    )
    def test_syn(self, six: bool, mss: int, mtu: int, padding: int, flags: str) -> None:
        """A SYN says at most what fits, whatever stands before the option; its sum is right."""
        options = [("NOP", None)] * padding + [("MSS", mss), ("SAckOK", b"")]
        ip = IPv6(src="fd00::1", dst="fd00::2") if six else IP(src="10.0.0.1", dst="10.0.0.2")
        packet = bytes(ip / TCP(flags=flags, options=options))
        after = (IPv6 if six else IP)(clamped(packet, mtu))
        said = dict(option for option in after[TCP].options if option[0] == "MSS")["MSS"]
        self.assertEqual(min(mss, mtu - (60 if six else 40)), said)
        again = after.copy()
        del again[TCP].chksum
        # Of the two ways to write a sum of zero scapy takes one, and subtraction the other.
        sums = {after[TCP].chksum, (type(after))(bytes(again))[TCP].chksum}
        self.assertTrue(len(sums) == 1 or sums == {0, 0xFFFF}, sums)

    def test_others(self) -> None:
        """Everything else stays as it is."""
        options = [("MSS", 1460)]
        for made in (
            IP() / TCP(flags="A", options=options),
            IP(frag=3) / TCP(flags="S", options=options),
            IP() / UDP() / Raw(bytes(13) + b"\x02" + bytes(20)),
            IP() / TCP(flags="S", options=options) / Raw(bytes(90)),
            IP() / TCP(flags="S"),
            IPv6() / UDP() / Raw(bytes(40)),
        ):
            packet = bytes(made)
            self.assertEqual(packet, clamped(packet, 1000))

    @given(st.binary(min_size=20, max_size=120), st.booleans())
    def test_anything(self, data: bytes, six: bool) -> None:
        """Whatever stands where TCP's header should be, nothing raises or becomes longer."""
        head = bytes(IP(proto=6, len=20 + len(data)))
        if six:
            head = bytes(IPv6(nh=6, plen=len(data)))
        packet = head + data
        self.assertEqual(len(packet), len(clamped(packet, 600)))


class FittedTests(SynchronousTestCase):
    """What becomes of which packet."""

    def test_each(self) -> None:
        """Small ones stay, IPv4 is cut if it may be, the least of IPv6 is special."""
        small, large = datagram(bytes(100)), datagram(bytes(1000))
        whole = datagram(bytes(1000), flags="DF")
        least = bytes(IPv6() / UDP() / Raw(bytes(1232)))
        more = bytes(IPv6() / UDP() / Raw(bytes(1233)))
        self.assertEqual(1280, len(least))
        fitting, minimal, too_large = fitted([small, large, whole, least, more], 800)
        self.assertEqual([small, *(fragments(large, 800) or [])], fitting)
        self.assertEqual(([least], [whole, more]), (minimal, too_large))
