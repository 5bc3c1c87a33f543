"""The JSON messages of the control channel, as values.

Each message is a frozen dataclass; a field's annotation says what may stand in its place on the
wire (:data:`Text`, :data:`Seconds`, ...), and :class:`Message` reads and writes all of them by
these annotations.  Three rules hold for every message:

* A key nobody here knows is ignored and counted in ``unknown``: old and new understand each other.
* A known key with a value of another type is an error that names the key and what was expected.
* Text that is only shown to people or judged elsewhere is cut at its limit and what a terminal or
  a log would obey (control characters, direction marks) is written as an escape.  So a hostile
  server's one bad route costs that route and not the message, and nobody has to wash it again.

(A long file: it is the one list of what is said, and of what may stand in each place.)
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, cast, get_type_hints

from pyvpn.errors import PeerError
from pyvpn.wire.json_object import decode_object, encode_object

NAME_CHARACTERS = 64
"""Longest user name, device name and capability."""

PASSWORD_BYTES = 1024
"""Longest password, in UTF-8 after normalisation."""

MESSAGE_CHARACTERS = 512
"""Longest text for people; what is longer is cut."""

LIST_ITEMS = 4096
"""Most items of one list."""

_PEM_CHARACTERS = 8192
_USER_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_WORD = re.compile(r"[a-z0-9-]{1,64}")


class Code(StrEnum):
    """Why: the stable word of an answer or a notice, for programs (``message`` is for people).

    A peer may send words that are not here; what to do with each is said in ``docs/protocol.rst``.
    """

    OK = "ok"
    BAD_CREDENTIALS = "bad-credentials"
    """The one answer to unknown user, wrong password, disabled and expired alike."""
    SLOW_DOWN = "slow-down"
    PASSWORD_NEEDED = "password-needed"  # noqa: S105 - a word of the protocol, no secret
    """Only said to a device proved by its certificate: its user must type the password again."""
    TOO_MANY_DEVICES = "too-many-devices"
    POOL_EMPTY = "pool-empty"
    ADDRESS_TAKEN = "address-taken"
    ADDRESS_REFUSED = "address-refused"
    NOT_LOGGED_IN = "not-logged-in"
    BAD_REQUEST = "bad-request"
    UNKNOWN_COMMAND = "unknown-command"
    SERVER_ERROR = "server-error"

    # In notices:
    REPLACED = "replaced"
    KICKED = "kicked"
    DISABLED = "disabled"
    SHUTTING_DOWN = "shutting-down"
    LOG_IN_AGAIN = "log-in-again"
    EXPIRED = "expired"
    QUOTA = "quota-used-up"


def clean_user_name(name: str) -> str:
    """Return *name* if it may be a user's name: 1 to 64 of ``A-Z a-z 0-9 . _ @ -``.

    Raises:
        PeerError: it may not.
    """
    if not _USER_NAME.fullmatch(name):
        raise PeerError("a user name is 1 to 64 letters, digits and . _ @ -")
    return name


def clean_password(password: str) -> str:
    """Return *password* in normal form C, as which it is hashed whatever the keyboard sent.

    Raises:
        PeerError: longer than 1024 bytes of UTF-8, with a NUL, or not encodable at all.
    """
    # Normalising may shrink a text but costs its length: refuse the absurd first.
    if len(password) <= PASSWORD_BYTES and "\0" not in password:
        normal = unicodedata.normalize("NFC", password)
        try:
            if len(normal.encode("utf-8")) <= PASSWORD_BYTES:
                return normal
        except UnicodeEncodeError:
            pass  # half a surrogate pair
    raise PeerError("a password is at most 1024 bytes of UTF-8 without NUL")


class _Kind(NamedTuple):
    """What may stand in a field: *convert* returns the value to keep or raises _Unexpected."""

    expected: str
    convert: Callable[[object], object]


class _Unexpected(Exception):
    """The value is not of this kind; the reader of the message adds which field it was."""


def _to_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Unexpected
    return value


def _to_text(limit: int) -> Callable[[object], str]:
    def convert(value: object) -> str:
        if not isinstance(value, str):
            raise _Unexpected
        return _printable(value, limit)

    return convert


def _printable(text: str, limit: int) -> str:
    if len(text) <= limit and text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return "".join(shown)[:limit]


def _to_word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _Unexpected
    return value


def _to_pem(value: object) -> str:
    if not isinstance(value, str) or len(value) > _PEM_CHARACTERS or not value.isascii():
        raise _Unexpected
    return value


def _to_user_name(value: object) -> str:
    if not isinstance(value, str):
        raise _Unexpected
    return value and clean_user_name(value)


def _to_password(value: object) -> str:
    if not isinstance(value, str):
        raise _Unexpected
    return clean_password(value)


def _to_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > LIST_ITEMS:
        raise _Unexpected
    return tuple(map(_to_text(NAME_CHARACTERS), value))


def _to_mtu(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise _Unexpected
    return value


def _to_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise _Unexpected
    return value


def _to_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unexpected
    if not (math.isfinite(value) and value >= 0):
        raise _Unexpected
    return float(value)


Flag = Annotated[bool, _Kind("true or false", _to_flag)]
Word = Annotated[str, _Kind("a word of a-z, 0-9 and -", _to_word)]
Text = Annotated[str, _Kind("a string", _to_text(NAME_CHARACTERS))]
LongText = Annotated[str, _Kind("a string", _to_text(MESSAGE_CHARACTERS))]
Texts = Annotated[tuple[str, ...], _Kind("a list of at most 4096 strings", _to_texts)]
Pem = Annotated[str, _Kind("a PEM string of at most 8192 characters", _to_pem)]
UserName = Annotated[str, _Kind("a string", _to_user_name)]
Password = Annotated[str, _Kind("a string", _to_password)]
Mtu = Annotated[int, _Kind("a whole number from 0 to 65535", _to_mtu)]
Count = Annotated[int, _Kind("a whole number from 0 to 2^53 - 1", _to_count)]
Seconds = Annotated[float, _Kind("a number of seconds, 0 or more", _to_seconds)]


@dataclass(frozen=True, slots=True)
class Message:
    """Reads and writes a message by the annotations of its fields."""

    unknown: int = field(default=0, compare=False, kw_only=True, repr=False)
    """How many keys of the received object nobody here knows; never sent."""

    def to_bytes(self) -> bytes:
        """Return the message as JSON, every field written, in the order of the class."""
        return encode_object({name: getattr(self, name) for name, _, _ in self._fields()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a message.

        Raises:
            PeerError: not an object (:func:`decode_object`), a required key missing, or a value
                of another kind than its key has; the text names the key and the expectation.
        """
        received = decode_object(data)
        values: dict[str, Any] = {}
        for name, kind, required in cls._fields():
            if name in received:
                try:
                    values[name] = kind.convert(received.pop(name))
                except _Unexpected:
                    raise PeerError(f"{cls.__name__}: {name!r} must be {kind.expected}") from None
                except PeerError as error:
                    raise PeerError(f"{cls.__name__}: {name!r}: {error}") from None
            elif required:
                raise PeerError(f"{cls.__name__}: {name!r} is missing: {kind.expected}")
        return cls(**values, unknown=len(received))

    @classmethod
    def _fields(cls) -> tuple[tuple[str, _Kind, bool], ...]:
        return _fields_of(cls)  # type: ignore[arg-type]  # mypy takes __hash__ of the instances


@cache
def _fields_of(message: type[Message]) -> tuple[tuple[str, _Kind, bool], ...]:
    """Return (name, kind, required) of every field that travels, in order."""
    hints = get_type_hints(message, include_extras=True)
    return tuple(
        (each.name, cast(_Kind, hints[each.name].__metadata__[0]), each.default is MISSING)
        for each in fields(message)
        if each.name != "unknown"
    )


@dataclass(frozen=True, slots=True)
class LogIn(Message):
    """Client: who I am.  Neither user nor password: "you know me by my certificate"."""

    user: UserName = ""
    password: Password = field(default="", repr=False)  # a secret: not into logs or tracebacks
    one_time_code: Text = field(default="", repr=False)
    device: Text = ""
    """What people call this machine."""
    certificate_request: Pem = ""
    """PKCS #10; answered with a certificate that is this device's identity from then on."""


@dataclass(frozen=True, slots=True)
class LogInAnswer(Message):
    """Server: whether, and if a certificate was requested, the certificate."""

    success: Flag
    code: Word
    message: LongText = ""
    certificate: Pem = ""
    retry_after: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class Register(Message):
    """Client: give me addresses; those named are wishes."""

    address4: Text = ""
    address6: Text = ""
    capabilities: Texts = ()
    wireguard_key: Text = ""
    """The client's public key in base64, with which it will come by UDP; empty: it will not."""
    carrier: Word = "tcp"
    """How its packets travel now: ``udp`` if a tunnel of the same session carries them."""
    agreement: Text = ""
    """Which session that is; empty: unsaid."""


@dataclass(frozen=True, slots=True)
class RegisterAnswer(Message):
    """Server: the lease, and how this tunnel works.

    Only the kinds of values are checked here.  Whether a string is an address or a network one
    wants is judged by the client's policy, one by one.
    """

    success: Flag
    code: Word
    message: LongText = ""
    address4: Text = ""
    """With its prefix length, "10.73.0.2/24"; empty if this family has no pool."""
    address6: Text = ""
    server4: Text = ""
    """The server's own address in the tunnel, without a prefix length."""
    server6: Text = ""
    routes: Texts = ()
    """Networks behind the server."""
    dns: Texts = ()
    """Addresses of resolvers."""
    mtu: Mtu = 0
    """Bytes of inner IP packet; 0: unsaid."""
    heartbeat: Seconds = 0.0
    """Seconds between the client's heartbeats; 0: unsaid."""
    expiry: Seconds = 0.0
    """Seconds of silence after which either side gives the other up; 0: unsaid."""
    capabilities: Texts = ()
    wireguard_key: Text = ""
    """The server's public key in base64; empty: it speaks no WireGuard, or not with us."""
    wireguard_endpoints: Texts = ()
    """Where it does: "host:port", or ":port" at the address of this connection."""
    token: Text = ""
    """16 bytes in base64, to be brought back through the tunnel: this key is this device's."""
    agreement: Text = ""
    """Names the session; another one than before: the server has forgotten the earlier tunnel."""
    epoch: Count = 0
    """Of the client's latest word on the carrier that this session has heard."""
    tunnel_port: Count = 0
    """Where the server takes control connections at its address in the tunnel; 0: nowhere."""


@dataclass(frozen=True, slots=True)
class ChosenCarrier(Message):
    """Client: how packets travel from now on; the highest epoch counts."""

    carrier: Word
    epoch: Count
    mtu: Mtu = 0
    """Bytes of the largest inner packet that comes through by UDP; 0: all do."""


@dataclass(frozen=True, slots=True)
class Settings(Message):
    """Server: these replace what :class:`RegisterAnswer` said; the fields mean the same."""

    routes: Texts = ()
    dns: Texts = ()
    mtu: Mtu = 0
    heartbeat: Seconds = 0.0
    expiry: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """Either side: the outcome of a transaction that brings nothing else with it."""

    success: Flag
    code: Word
    message: LongText = ""
    retry_after: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class Notice(Message):
    """Server: something happened to this session; for how long not to come back."""

    code: Word
    message: LongText = ""
    retry_after: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class PlainAnswer(Message):
    """First generation: the server's answer to a registration, exactly these three keys."""

    success: Flag
    message: LongText = ""
    bypass: Text = ""
    """The one network behind the server, "192.168.1.0/24", or empty."""


_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2


def encode_plain_address(address4: bytes) -> bytes:
    """First generation: return the data of a registration for the packed *address4*.

    Sixteen bytes (``::ffff:a.b.c.d``), because that is what Go's ``net.IP`` writes.
    """
    return _MAPPED + address4


def decode_plain_address(data: bytes) -> bytes:
    """First generation: return the packed IPv4 address that a registration asks for.

    Raises:
        PeerError: neither 4 bytes nor a mapped address of 16.
    """
    if len(data) == 4:
        return data
    if len(data) == 16 and data.startswith(_MAPPED):
        return data[12:]
    raise PeerError("a registration is an IPv4 address of 4 bytes, or of 16 as ::ffff:a.b.c.d")
