"""From an option's text to its value.

Each converter takes the text, stripped, and returns the value or raises :class:`Expected`, whose
text says what to write instead. Digits are ASCII digits: ``int()`` would take ``1_000`` and
Arabic numerals too, and nobody who wrote those meant them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Expected(Exception):
    """The text is not what it must be; ``str()`` says what is expected."""


def text(limit: int) -> Callable[[str], str]:
    """One line of at most *limit* printable characters, possibly none."""

    def convert(value: str) -> str:
        if len(value) > limit or not value.isprintable():
            raise Expected(f"one line of at most {limit} printable characters")
        return value

    return convert


def secret(value: str) -> str | None:
    """One line, taken as it stands; nothing is None."""
    if "\n" in value or "\0" in value or len(value.encode()) > 1024:
        raise Expected("one line of at most 1024 bytes")
    return value or None


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """Text that *pattern* matches whole."""
    compiled = re.compile(pattern, re.ASCII)

    def convert(value: str) -> str:
        if not compiled.fullmatch(value):
            raise Expected(expected)
        return value

    return convert


def words(convert: Callable[[str], T], **meanings: U) -> Callable[[str], T | U]:
    """What a word of *meanings* stands for, else what *convert* makes of the text."""

    def converted(value: str) -> T | U:
        if value.lower() in meanings:
            return meanings[value.lower()]
        try:
            return convert(value)
        except Expected as error:
            raise Expected(f"{', '.join(meanings)}, or {error}") from None

    return converted


def optional(convert: Callable[[str], T]) -> Callable[[str], T | None]:
    """What *convert* makes of it, or None where nothing stands."""

    def converted(value: str) -> T | None:
        return convert(value) if value else None

    return converted


def path(value: str) -> Path:
    """A path; a relative one is taken from the current directory, now and for good."""
    if not value or not value.isprintable():
        raise Expected("a path such as /var/lib/pyvpn")
    if value.startswith("~"):
        raise Expected("a path written out: '~' means something to a shell only")
    return Path(os.path.abspath(value))  # twistd changes its directory when it daemonises


def yes_no(value: str) -> bool:
    """Yes or no, in the words ini files have for it."""
    word = value.lower()
    if word in ("yes", "true", "on", "1"):
        return True
    if word in ("no", "false", "off", "0"):
        return False
    raise Expected("yes or no")


def choice(*words: str) -> Callable[[str], str]:
    """One of *words*."""

    def convert(value: str) -> str:
        if value.lower() not in words:
            raise Expected(" or ".join(words))
        return value.lower()

    return convert


CIPHERS = ("auto", "chacha20-poly1305")
"""What ``cipher`` may say, on either side."""


def whole(least: int, most: int, *, zero: bool = False) -> Callable[[str], int]:
    """A whole number from *least* to *most*; with *zero*, 0 as well."""

    def convert(value: str) -> int:
        number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1
        if not (least <= number <= most or (zero and number == 0)):
            or_zero = ", or 0" if zero else ""
            raise Expected(f"a whole number from {least} to {most}{or_zero}")
        return number

    return convert


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(least: str, most: str) -> Callable[[str], float]:
    """Seconds, written ``90s``, ``2.5s``, ``5m``, ``12h`` or ``30d``; a bare number is seconds."""

    def convert(value: str) -> float:
        seconds = _seconds(value)
        if not _seconds(least) <= seconds <= _seconds(most):
            raise Expected(f"a time from {least} to {most}, written like 90s, 5m, 12h or 30d")
        return seconds

    return convert


def _seconds(value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([smhd]?)", value)
    return float(match[1]) * _UNITS[match[2]] if match else math.nan


_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def rate(least: int, most: int) -> Callable[[str], int]:
    """Bits a second, written ``500k``, ``10M``, ``2.5M`` or ``1G``; a bare number is bits."""

    def convert(value: str) -> int:
        match = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]{1,3}))? ?([kMG]?)", value)
        bits = -1
        if match is not None and (match[3] or not match[2]):
            thousandths = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0"))
            bits = thousandths * _MULTIPLES[match[3]] // 1000
        if not least <= bits <= most:
            between = f"{spell_rate(least)} to {spell_rate(most)}"
            raise Expected(f"bits a second from {between}, written like 500k, 10M or 2.5M")
        return bits

    return convert


def spell_rate(bits: int) -> str:
    """Write *bits* a second as :func:`rate` reads them, as short as can be; 1 or more."""
    fitting = [one for one, n in _MULTIPLES.items() if bits >= n and bits * 1000 % n == 0]
    unit = fitting[-1]
    return f"{bits / _MULTIPLES[unit]:.3f}".rstrip("0").rstrip(".") + unit


def list_of(
    convert: Callable[[str], T], most: int | None = None
) -> Callable[[str], tuple[T, ...]]:
    """Any number of values, or *most*, separated by commas or line ends, none of them twice."""

    def converted(value: str) -> tuple[T, ...]:
        items = re.split(r"\s*,\s*|\s*\n\s*", value.strip()) if value else []
        if most is not None and len(items) > most:
            raise Expected(f"at most {most} of them, not {len(items)}")
        found: list[T] = []
        for item in items:
            one = convert(item)
            if one in found:
                raise Expected(f"each only once, {one} is there twice")
            found.append(one)
        return tuple(found)

    return converted
