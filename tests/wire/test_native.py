"""What two ends of ours say inside the tunnel, as bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.wire.native import (
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    NativeMessage,
    Resume,
    Resumed,
    Token,
    TokenTaken,
    Way,
    is_native,
    parse,
)

numbers = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**53 - 1)
sizes = st.integers(12, 65_535)
mtus = st.just(0) | st.integers(512, 65_535)
tokens = st.binary(min_size=16, max_size=16)
messages: st.SearchStrategy[NativeMessage] = st.one_of(
    st.builds(Echo, numbers, sizes),
    st.builds(EchoReply, numbers, sizes),
    st.builds(Carrier, epochs, st.sampled_from(Way), mtus),
    st.builds(CarrierSet, epochs, st.sampled_from(Way), mtus),
    st.builds(Token, tokens),
    st.builds(TokenTaken, tokens),
    st.builds(Resume),
    st.builds(
        Resumed,
        st.binary(min_size=12, max_size=12),
        epochs,
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=16, max_size=16),
    ),
)


class NativeMessageTests(SynchronousTestCase):
    """There and back, and what is refused."""

    @given(messages, st.integers(0, 15))
    def test_roundTrip(self, message: NativeMessage, padding: int) -> None:
        """What is written is read back, also behind padding."""
        data = message.to_bytes()
        self.assertTrue(is_native(data))
        self.assertEqual(message, parse(data + bytes(padding)))
        self.assertIs(type(message), type(parse(data)))

    def test_bytes(self) -> None:
        """The very bytes that docs/protocol.rst describes."""
        for message, wanted in (
            (Echo(7), "0100000c 0000000000000007"),
            (Echo(7, 14), "0100000e 0000000000000007 0000"),
            (EchoReply(7, 12), "0200000e 0000000000000007 000c"),
            (EchoReply(7, 16), "0200000e 0000000000000007 0010 0000"),
            (Carrier(9, Way.UDP), "0300000f 0000000000000009 02 0000"),
            (CarrierSet(9, Way.TCP, 1216), "0400000f 0000000000000009 01 04c0"),
            (Token(bytes(range(16))), "05000014 000102030405060708090a0b0c0d0e0f"),
            (TokenTaken(bytes(16)), "06000014 00000000000000000000000000000000"),
            (Resume(), "0900002c" + 40 * "00"),
            (
                Resumed(bytes(range(12)), 9, b"\x0a\0\0\x02", bytes(15) + b"\x01"),
                "0a00002c 000102030405060708090a0b 0000000000000009"
                " 0a000002 00000000000000000000000000000001",
            ),
        ):
            self.assertEqual(bytes.fromhex(wanted), message.to_bytes())

    @given(messages, st.data())
    def test_cut(self, message: NativeMessage, data: st.DataObject) -> None:
        """A message that ends too soon is none."""
        whole = message.to_bytes()
        length = int.from_bytes(whole[2:4], "big")
        self.assertIsNone(parse(whole[: data.draw(st.integers(0, length - 1))]))

    def test_everyFieldWrong(self) -> None:
        """Kinds that do not exist, a byte that is not 0, lengths that do not fit, other ways."""
        for wrong in (
            "00000004",
            "07000014 00000000000000000000000000000000",
            "0f000004",
            "0101000c 0000000000000007",
            "0100000b 0000000000000007",
            "0100000d 0000000000000007",
            "0200000d 0000000000000007 05",
            "0200000f 0000000000000007 0578 00",
            "0300000f 0000000000000009 00 0000",
            "0300000f 0000000000000009 03 0000",
            "0300000d 0000000000000009 01",
            "0300000f 0020000000000000 01 0000",
            "0300000f 0000000000000009 02 01ff",
            "05000013 000102030405060708090a0b0c0d0e",
            "05000015 000102030405060708090a0b0c0d0e0f10",
            "09000004",
            "0900002b" + 39 * "00",
            "0900002d" + 41 * "00",
            "0a00002b" + 39 * "00",
            "0a00002c" + 12 * "00" + "0020000000000000" + 20 * "00",
            "0a00002d" + 41 * "00",
        ):
            self.assertIsNone(parse(bytes.fromhex(wrong)), wrong)

    @given(st.binary(max_size=64))
    def test_anything(self, data: bytes) -> None:
        """No bytes raise; an IP packet is never taken for a message."""
        parse(data)
        self.assertFalse(is_native(b"\x45" + data))
        self.assertFalse(is_native(b"\x60" + data))

    def test_echoOfWrongSize(self) -> None:
        """An echo has a least and a most size."""
        self.assertRaises(Misuse, Echo(1, 11).to_bytes)
        self.assertRaises(Misuse, Echo(1, 65_536).to_bytes)
