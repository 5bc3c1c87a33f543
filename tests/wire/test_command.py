"""Control frames: what goes on the wire, and what junk from the wire becomes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import Int32StringReceiver
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse, PeerError
from pyvpn.wire.command import (
    LIMIT,
    NO_TRANSACTION,
    PLAIN_VERSION,
    VERSION,
    Command,
    Frame,
    decode_body,
    decode_version,
    encode_frame,
    encode_packets,
    encode_version,
    packets_in,
)

NUMBERS = st.integers(-(2**31), 2**31 - 1)


class Cutter(Int32StringReceiver):
    """Twisted's own idea of where frames begin and end."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def stringReceived(self, string: bytes) -> None:
        self.bodies.append(string)


def cut(stream: bytes) -> list[bytes]:
    """Return the frame bodies in *stream*, as the receiving transport sees them."""
    cutter = Cutter()
    cutter.makeConnection(StringTransport())
    cutter.dataReceived(stream)
    return cutter.bodies


class VersionTests(SynchronousTestCase):
    """The eight bytes with which a client opens."""

    def test_first_generation(self) -> None:
        """1.0 is said in the very bytes of the first program."""
        self.assertEqual(bytes.fromhex("3ff0000000000000"), encode_version(PLAIN_VERSION))

    def test_this_generation(self) -> None:
        """2.0 is said as docs/protocol.rst shows."""
        self.assertEqual(bytes.fromhex("4000000000000000"), encode_version(VERSION))

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_round_trip(self, version: float) -> None:
        """Whatever version a peer says is understood as such."""
        self.assertEqual(version, decode_version(encode_version(version)))

    def test_no_number(self) -> None:
        """NaN and the infinities are no versions."""
        for version in (float("nan"), float("inf"), float("-inf")):
            self.assertRaises(PeerError, decode_version, encode_version(version))

    def test_length(self) -> None:
        """A version has eight bytes, neither more nor fewer."""
        for length in (0, 7, 9):
            self.assertRaises(PeerError, decode_version, bytes(length))


class FrameTests(SynchronousTestCase):
    """A command, a transaction id and data, behind a length."""

    def test_bytes(self) -> None:
        """A frame looks as docs/protocol.rst shows."""
        self.assertEqual(
            bytes.fromhex("0000000c 00000003 00000007 7b7d7b7d"),
            encode_frame(Command.LOG_IN, 7, b"{}{}"),
        )

    def test_answer(self) -> None:
        """An answer is command -1, all bits set."""
        self.assertEqual(
            bytes.fromhex("00000008 ffffffff 00000007"), encode_frame(Command.ANSWER, 7)
        )

    @given(NUMBERS, NUMBERS, st.binary(max_size=200))
    def test_round_trip(self, command: int, transaction: int, data: bytes) -> None:
        """What one end sends the other end reads, whatever the numbers."""
        (body,) = cut(encode_frame(command, transaction, data))

        self.assertEqual(Frame(command, transaction, data), decode_body(body))

    @given(st.binary(max_size=64))
    def test_junk(self, body: bytes) -> None:
        """Any bytes are a frame or the peer's error."""
        try:
            frame = decode_body(body)
        except PeerError:
            self.assertLess(len(body), 8)
        else:
            self.assertEqual(
                body, struct.pack("!ii", frame.command, frame.transaction) + frame.data
            )

    def test_largest(self) -> None:
        """The largest IPv4 packet fits; a byte more is our own mistake, not sent."""
        frame = encode_frame(Command.PACKET, NO_TRANSACTION, bytes(65535))

        self.assertEqual(LIMIT, len(frame) - 4)
        self.assertRaises(Misuse, encode_frame, Command.PACKET, NO_TRANSACTION, bytes(65536))


class PacketsTests(SynchronousTestCase):
    """Packets in one write."""

    @given(st.lists(st.binary(max_size=100), max_size=10))
    def test_as_frames(self, packets: list[bytes]) -> None:
        """A batch is the same bytes as its packets sent one by one."""
        self.assertEqual(
            b"".join(encode_frame(Command.PACKET, NO_TRANSACTION, each) for each in packets),
            encode_packets(packets),
        )

    @given(
        st.lists(
            st.binary(max_size=60).map(lambda data: encode_packets([data]))
            | st.tuples(NUMBERS, st.binary(max_size=20)).map(
                lambda each: encode_frame(each[0], 0, each[1])  # type: ignore[arg-type]  # any number may come
            )
            | st.binary(max_size=12).map(lambda body: struct.pack("!i", len(body)) + body)
            | NUMBERS.map(lambda length: struct.pack("!i", length) + bytes(12)),
            max_size=8,
        ),
        st.integers(0, 30),
        st.integers(8, LIMIT),
    )
    def test_cut_at_once(self, frames: list[bytes], missing: int, longest: int) -> None:
        """What is cut off the front at once is what Twisted's receiver finds there, in order."""
        stream = b"".join(frames)
        stream = stream[: len(stream) - missing]
        packets, taken = packets_in(stream, longest)

        bodies = cut(stream[:taken])
        self.assertEqual([struct.pack("!ii", 2, 0)[:4]] * len(packets), [b[:4] for b in bodies])
        self.assertEqual(packets, [body[8:] for body in bodies])
        self.assertTrue(all(len(body) <= longest for body in bodies))
        rest = cut(stream[taken:])[:1]
        is_packet = rest and rest[0][:4] == b"\0\0\0\2" and 8 <= len(rest[0]) <= longest
        self.assertFalse(is_packet, "it stopped too early")

    @given(st.binary(max_size=200), st.integers(8, LIMIT))
    def test_cut_junk(self, stream: bytes, longest: int) -> None:
        """Of what is no frame nothing is taken that is not there."""
        packets, taken = packets_in(stream, longest)

        self.assertEqual(taken, sum(12 + len(packet) for packet in packets))
        self.assertLessEqual(taken, len(stream))
