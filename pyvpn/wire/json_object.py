"""JSON objects from strangers: bounded before they are parsed, and with one meaning only.

``json.loads`` alone is no gate.  It recurses as deep as the text asks, takes ``NaN`` and
``1e999``, lets the last of two equal keys win (two readers may then disagree about what was
signed or checked), and makes strings that cannot be encoded again.  Each of these is an error
here, and the price of refusing is bounded by the size, which is looked at first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import NoReturn

from pyvpn.errors import Misuse, PeerError

LIMIT = 16384
"""Bytes of one object."""

DEPTH = 8
"""Objects and arrays within each other; ours need two."""

_LARGEST = 2**53 - 1  # RFC 7493 (I-JSON): beyond, other readers silently lose digits

# Strings are matched whole, so that brackets within them do not count.  The possessive "*+" and
# the optional closing quote make every match succeed at once: linear also for hostile text.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode_object(data: bytes, limit: int = LIMIT, depth: int = DEPTH) -> dict[str, object]:
    """Read one JSON object: UTF-8, at most *limit* bytes, nested at most *depth* deep.

    Raises:
        PeerError: anything else, duplicate keys and numbers beyond 2**53 or not finite included.
    """
    if len(data) > limit:
        raise PeerError(f"JSON of {len(data)} bytes; at most {limit} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError(f"JSON that is not UTF-8: {error.reason} at byte {error.start}") from None
    _check_depth(text, depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise PeerError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PeerError("a JSON value that is not an object")
    if "\\u" in text:  # the only way in for half a surrogate pair
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise PeerError("a JSON string with half a surrogate pair") from None
    return value


def encode_object(members: Mapping[str, object]) -> bytes:
    """Write *members* as compact UTF-8 JSON, in their order.

    Raises:
        Misuse: something that :func:`decode_object` would refuse at the other end.
    """
    try:
        data = json.dumps(
            members, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode("utf-8")
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise Misuse(f"not to be said in JSON: {error}") from error
    if len(data) > LIMIT:
        raise Misuse(f"JSON of {len(data)} bytes; at most {LIMIT} are allowed")
    return data


def _check_depth(text: str, allowed: int) -> None:
    """Raise PeerError if the parser would have to go deeper than *allowed*."""
    depth = 0
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in "[{":
            depth += 1
            if depth > allowed:
                raise PeerError(f"JSON nested more than {allowed} deep")
        elif mark in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise PeerError("a JSON object with a key twice")
    return members


def _whole_number(digits: str) -> int:
    # The length first: converting n digits costs n squared.
    if len(digits) > 17 or not -_LARGEST <= int(digits) <= _LARGEST:
        raise PeerError("a JSON number beyond 2**53")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise PeerError("a JSON number too large for a double")
    return number


def _constant(name: str) -> NoReturn:
    raise PeerError(f"{name} is not JSON")
