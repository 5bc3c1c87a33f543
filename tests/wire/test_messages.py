"""The messages: what is written, what is read, and what is said about the rest."""

from __future__ import annotations

import contextlib
import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import PeerError
from pyvpn.wire.messages import (
    Answer,
    Code,
    LogIn,
    LogInAnswer,
    Message,
    Notice,
    PlainAnswer,
    Register,
    RegisterAnswer,
    Settings,
    clean_password,
    clean_user_name,
    decode_plain_address,
    encode_plain_address,
)

KINDS: tuple[type[Message], ...] = (
    Answer,
    LogIn,
    LogInAnswer,
    Notice,
    PlainAnswer,
    Register,
    RegisterAnswer,
    Settings,
)

PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
WORD = st.sampled_from(list(Code)) | st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)
TEXTS = st.lists(PRINTABLE, max_size=5).map(tuple)
SECONDS = st.floats(0, 1e300)
MTU = st.integers(0, 65535)
MESSAGES = st.one_of(
    st.builds(Answer, st.booleans(), WORD, PRINTABLE, SECONDS),
    st.builds(
        LogIn,
        st.from_regex(r"[A-Za-z0-9._@-]{0,64}", fullmatch=True),
        PRINTABLE.map(lambda text: unicodedata.normalize("NFC", text)),
        PRINTABLE,
        PRINTABLE,
        st.text(st.characters(codec="ascii"), max_size=99),
    ),
    st.builds(LogInAnswer, st.booleans(), WORD, PRINTABLE, st.just("-----BEGIN"), SECONDS),
    st.builds(Notice, WORD, PRINTABLE, SECONDS),
    st.builds(PlainAnswer, st.booleans(), PRINTABLE, PRINTABLE),
    st.builds(Register, PRINTABLE, PRINTABLE, TEXTS),
    st.builds(
        RegisterAnswer,
        st.booleans(),
        WORD,
        address4=PRINTABLE,
        server6=PRINTABLE,
        routes=TEXTS,
        dns=TEXTS,
        mtu=MTU,
        heartbeat=SECONDS,
        expiry=SECONDS,
        capabilities=TEXTS,
    ),
    st.builds(Settings, TEXTS, TEXTS, MTU, SECONDS, SECONDS),
)


def said(message: Message) -> dict[str, object]:
    """Return what *message* is on the wire."""
    members: dict[str, object] = json.loads(message.to_bytes())
    return members


class MessageTests(SynchronousTestCase):
    """What holds for every message."""

    @given(MESSAGES)
    def test_round_trip(self, message: Message) -> None:
        """What one end says the other end reads."""
        self.assertEqual(message, type(message).from_bytes(message.to_bytes()))

    @given(MESSAGES)
    def test_unknown_keys(self, message: Message) -> None:
        """What a newer peer adds is counted and changes nothing."""
        data = json.dumps({"newer": {"a": [1]}, **said(message), "newest": None}).encode()

        received = type(message).from_bytes(data)

        self.assertEqual(message, received)
        self.assertEqual(2, received.unknown)

    def test_the_count_is_not_sent(self) -> None:
        """The number of unknown keys is ours alone, and a peer cannot say it."""
        message = Notice.from_bytes(b'{"code":"kicked","unknown":7}')

        self.assertEqual(1, message.unknown)
        self.assertNotIn("unknown", said(message))

    @given(st.sampled_from(KINDS), st.binary(max_size=100))
    def test_junk(self, kind: type[Message], data: bytes) -> None:
        """Any bytes are a message or the peer's error."""
        with contextlib.suppress(PeerError):
            self.assertIsInstance(kind.from_bytes(data), kind)

    @given(MESSAGES, st.data())
    def test_any_value_of_another_type(self, message: Message, data: st.DataObject) -> None:
        """Any value in any place is read or refused with the key's name."""
        members = said(message)
        key = data.draw(st.sampled_from(sorted(members)))
        members[key] = data.draw(
            st.none()
            | st.booleans()
            | st.integers(-(2**53) + 1, 2**53 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
            | st.lists(st.none() | st.just("a"), max_size=3)
            | st.dictionaries(st.just("a"), st.none())
        )
        try:
            type(message).from_bytes(json.dumps(members).encode())
        except PeerError as error:
            self.assertIn(f"{type(message).__name__}: {key!r}", str(error))

    def test_expectations(self) -> None:
        """A refusal says which message, which key and what is expected there."""
        for kind, data, text in (
            (Notice, b"{}", "Notice: 'code' is missing: a word of a-z, 0-9 and -"),
            (Notice, b'{"code":"Kicked!"}', "Notice: 'code' must be a word of a-z, 0-9 and -"),
            (Answer, b'{"success":1,"code":"ok"}', "Answer: 'success' must be true or false"),
            (Register, b'{"address4":null}', "Register: 'address4' must be a string"),
            (Settings, b'{"mtu":65536}', "Settings: 'mtu' must be a whole number from 0 to 65535"),
            (Settings, b'{"mtu":true}', "Settings: 'mtu' must be a whole number from 0 to 65535"),
            (
                Settings,
                b'{"mtu":1420.0}',
                "Settings: 'mtu' must be a whole number from 0 to 65535",
            ),
            (
                Settings,
                b'{"expiry":-1}',
                "Settings: 'expiry' must be a number of seconds, 0 or more",
            ),
            (
                Settings,
                b'{"routes":["10.0.0.0/8",1]}',
                "Settings: 'routes' must be a list of at most 4096 strings",
            ),
            (
                LogIn,
                b'{"user":"anna smith"}',
                "LogIn: 'user': a user name is 1 to 64 letters, digits and . _ @ -",
            ),
            (
                LogIn,
                b'{"certificate_request":"\\u00fc"}',
                "LogIn: 'certificate_request' must be a PEM string of at most 8192 characters",
            ),
        ):
            error = self.assertRaises(PeerError, kind.from_bytes, data)

            self.assertEqual(text, str(error))

    def test_list_length(self) -> None:
        """4096 items are read, one more is refused."""
        routes = [""] * 4096
        data = json.dumps({"routes": routes}, separators=(",", ":")).encode()

        self.assertEqual(tuple(routes), Settings.from_bytes(data).routes)
        error = self.assertRaises(PeerError, Settings.from_bytes, data.replace(b"[", b'["",'))
        self.assertIn("'routes'", str(error))

    def test_text_for_people(self) -> None:
        """What a terminal would obey arrives as an escape, and a novel is cut."""
        data = json.dumps({"code": "kicked", "message": "a\x1b[2J\n\u202eb" + "x" * 600}).encode()

        message = Notice.from_bytes(data).message

        self.assertEqual("a\\x1b[2J\\n\\u202eb", message[:17])
        self.assertEqual(512, len(message))

    def test_hostile_route(self) -> None:
        """A route with control characters spoils itself and not the message."""
        data = json.dumps({"routes": ["10.0.0.0/8", "10.0.0.0/8\n", "1" * 9999]}).encode()

        routes = Settings.from_bytes(data).routes

        self.assertEqual(("10.0.0.0/8", "10.0.0.0/8\\n", "1" * 64), routes)

    def test_secrets_are_not_shown(self) -> None:
        """Neither password nor one-time code is in a traceback or a log line."""
        shown = repr(LogIn("anna", "correct horse", "123456"))

        self.assertIn("anna", shown)
        self.assertNotIn("correct horse", shown)
        self.assertNotIn("123456", shown)

    def test_codes(self) -> None:
        """A code compares equal to the word on the wire, and a newer word is kept."""
        self.assertEqual(
            Code.POOL_EMPTY, Answer.from_bytes(b'{"success":false,"code":"pool-empty"}').code
        )
        self.assertEqual("of-2031", Notice.from_bytes(b'{"code":"of-2031"}').code)


class CredentialTests(SynchronousTestCase):
    """User names and passwords."""

    def test_names(self) -> None:
        """Names of the allowed characters stay as they are; all else is refused."""
        for name in ("a", "anna.smith@example.org", "A_9-", "x" * 64, "..", "-rf"):
            self.assertEqual(name, clean_user_name(name))
        for name in (
            "",
            "x" * 65,
            "a b",
            "a/b",
            "anna\n",
            "ännä",
            "a\0",
            "$(id)",
            "%n",
            "a\u202e",
        ):
            self.assertRaises(PeerError, clean_user_name, name)

    def test_password_forms(self) -> None:
        """A password is the same however the keyboard composes its letters."""
        self.assertEqual("\u00e4", clean_password("a\u0308"))
        self.assertEqual("\u00e4", LogIn.from_bytes('{"password":"a\u0308"}'.encode()).password)

    def test_password_length(self) -> None:
        """1024 bytes are a password, not 1024 letters; the absurd is refused quickly."""
        self.assertEqual("x" * 1024, clean_password("x" * 1024))
        self.assertEqual("ü" * 512, clean_password("ü" * 512))
        for password in ("x" * 1025, "ü" * 513, "x" * 10**6):
            self.assertRaises(PeerError, clean_password, password)

    def test_password_characters(self) -> None:
        """Blanks and quotes belong to a password; NUL and half characters do not."""
        self.assertEqual(" a'\"\\ ", clean_password(" a'\"\\ "))
        for password in ("a\0b", "\ud83d"):
            self.assertRaises(PeerError, clean_password, password)

    @given(st.text(max_size=50))
    def test_any_password(self, password: str) -> None:
        """Any text is a password that cleaning does not change again, or the peer's error."""
        try:
            once = clean_password(password)
        except PeerError:
            return
        self.assertEqual(once, clean_password(once))


class PlainTests(SynchronousTestCase):
    """The first generation's registration."""

    def test_answer(self) -> None:
        """The answer has exactly the three keys of the first program."""
        self.assertEqual(
            b'{"success":true,"message":"","bypass":"192.168.1.0/24"}',
            PlainAnswer(True, "", "192.168.1.0/24").to_bytes(),
        )

    def test_short_answer(self) -> None:
        """An answer without message and bypass is understood."""
        self.assertEqual(PlainAnswer(False), PlainAnswer.from_bytes(b'{"success":false}'))

    def test_address(self) -> None:
        """An address is sent in sixteen bytes and taken in four, too."""
        packed = bytes((182, 1, 1, 101))
        sixteen = bytes.fromhex("00000000000000000000ffffb6010165")

        self.assertEqual(sixteen, encode_plain_address(packed))
        self.assertEqual(packed, decode_plain_address(sixteen))
        self.assertEqual(packed, decode_plain_address(packed))

    def test_no_address(self) -> None:
        """Any other length, and an IPv6 address proper, is refused."""
        for data in (b"", bytes(5), bytes(15), bytes(16), bytes(17), b"\x20\x01" + bytes(14)):
            self.assertRaises(PeerError, decode_plain_address, data)
