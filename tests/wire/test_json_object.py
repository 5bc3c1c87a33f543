"""JSON from strangers: one meaning or an error, at a bounded price."""

from __future__ import annotations

import contextlib
import json
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse, PeerError
from pyvpn.wire.json_object import DEPTH, LIMIT, decode_object, encode_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


class DecodeTests(SynchronousTestCase):
    """What is taken for an object."""

    def refused(self, data: bytes, reason: str) -> None:
        """Assert that *data* is refused with a text that says *reason*."""
        error = self.assertRaises(PeerError, decode_object, data)
        self.assertIn(reason, str(error))

    @given(st.dictionaries(TEXT, VALUES, max_size=4))
    def test_round_trip(self, members: dict[str, object]) -> None:
        """What one end says the other end reads."""
        self.assertEqual(members, decode_object(encode_object(members), depth=32))

    @given(st.binary(max_size=200) | TEXT.map(str.encode))
    def test_junk(self, data: bytes) -> None:
        """Any bytes are an object or the peer's error, never another exception."""
        with contextlib.suppress(PeerError):
            self.assertIsInstance(decode_object(data), dict)

    @given(st.text(st.sampled_from('{}[]",:\\u d8e1.-0'), max_size=60))
    def test_almost_json(self, text: str) -> None:
        """Texts of JSON's own characters are an object or the peer's error, too."""
        with contextlib.suppress(PeerError):
            self.assertIsInstance(decode_object(text.encode()), dict)

    def test_size(self) -> None:
        """Size is judged before anything is parsed, to the byte."""
        fits = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'

        self.assertEqual(LIMIT, len(fits))
        self.assertEqual({"a": "x" * (LIMIT - 8)}, decode_object(fits))
        self.refused(fits + b" ", "at most 16384")

    def test_not_utf8(self) -> None:
        """Another encoding is refused, with the place of the first bad byte."""
        self.refused(b'{"a":"\xff"}', "byte 6")
        self.refused('{"a":1}'.encode("utf-16"), "not UTF-8")

    def test_not_an_object(self) -> None:
        """A list, a string, a number, null or nothing is not a message."""
        for data in (b"[]", b'"a"', b"1", b"null", b"true"):
            self.refused(data, "not an object")
        for data in (b"", b"{", b"{}{}", b"\xef\xbb\xbf{}", b"{'a':1}", b'{"a":1,}'):
            self.refused(data, "not JSON")

    def test_depth(self) -> None:
        """Eight levels are read and nine are not, objects and lists alike."""
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            for inner, refused in ((DEPTH - 1, False), (DEPTH, True)):
                data = b'{"x":' + opening * inner + b"1" + closing * inner + b"}"
                if refused:
                    self.refused(data, "more than 8 deep")
                else:
                    self.assertEqual(["x"], list(decode_object(data)))

    def test_brackets_in_strings(self) -> None:
        """Brackets within strings are no depth, also after escaped quotes and backslashes."""
        for text in ("[" * 50, '"' + "{" * 50, "\\" * 3 + '"[[[[[[[[[[[', '\\"' * 9 + "[" * 9):
            self.assertEqual({"a": text}, decode_object(json.dumps({"a": text}).encode()))

    def test_brackets_behind_a_string(self) -> None:
        """A string that ends with a backslash does not hide the depth behind it."""
        self.refused(b'{"a\\\\":' + b"[" * 5000, "more than 8 deep")

    def test_same_key_twice(self) -> None:
        """Two equal keys are refused at any level: two readers might choose differently."""
        self.refused(b'{"user":"anna","user":"root"}', "twice")
        self.refused(b'{"a":[{"b":1,"\\u0062":2}]}', "twice")

    def test_numbers(self) -> None:
        """Numbers that another reader would take for different ones are refused."""
        self.assertEqual(
            {"a": 2**53 - 1, "b": -0.5}, decode_object(b'{"a":9007199254740991,"b":-0.5}')
        )
        for number in (b"9007199254740992", b"-9007199254740992", b"9" * 5000):
            self.refused(b'{"a":' + number + b"}", "2**53")
        self.refused(b'{"a":1e999}', "too large")
        for name in (b"NaN", b"Infinity", b"-Infinity"):
            self.refused(b'{"a":' + name + b"}", "is not JSON")

    def test_half_a_surrogate_pair(self) -> None:
        """A string that could not be written out again is refused; a whole pair is a character."""
        self.refused(b'{"a":"\\ud83d"}', "surrogate")
        self.refused(b'{"\\ude00":1}', "surrogate")
        self.assertEqual({"a": "\U0001f600"}, decode_object(b'{"a":"\\ud83d\\ude00"}'))

    def test_bombs(self) -> None:
        """Nothing of the allowed size takes long to refuse."""
        for bomb in (
            b"[" * LIMIT,
            b'{"a":' * (LIMIT // 5),
            b'"' * LIMIT,
            b'"' + b"\\" * (LIMIT - 1),
            b'["' + b'\\"' * (LIMIT // 2 - 1),
            b'{"a":' + b"9" * (LIMIT - 6) + b"}",
            b'{"a":1e' + b"9" * (LIMIT - 8) + b"}",
            b'{"a":"' + b"\\ud800" * 2700 + b'"}',
        ):
            begun = time.process_time()

            self.assertRaises(PeerError, decode_object, bomb)
            self.assertLess(time.process_time() - begun, 0.1)


class EncodeTests(SynchronousTestCase):
    """What we say ourselves."""

    def test_compact(self) -> None:
        """No blanks, keys in their order, and letters as they are."""
        self.assertEqual('{"b":1,"a":["ü"]}'.encode(), encode_object({"b": 1, "a": ["ü"]}))

    def test_what_nobody_would_accept(self) -> None:
        """What the other end would refuse is our own mistake and not sent."""
        for value in (float("nan"), float("inf"), "\ud83d", b"bytes", "x" * LIMIT):
            self.assertRaises(Misuse, encode_object, {"a": value})
