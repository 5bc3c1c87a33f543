"""A configuration file as text: which option was written, where, and what cannot be read at all.

What the values mean is not known here (:mod:`pyvpn.config.table` knows). Two rules:

* Everything found carries its line, because every complaint begins with ``file:line``.
* No complaint about a line that is not ``option = value`` quotes it: it may be half a password.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pyvpn.errors import ConfigError

LIMIT = 1 << 20  # bytes; /dev/zero and a log file given by mistake end here


class Written(NamedTuple):
    """An option's value as it stands in the file, and its line (counted from 1)."""

    value: str
    line: int


@dataclass(frozen=True)
class Document:
    """What a file says, section by section, in its order."""

    path: str
    sections: dict[str, int]
    """The line of each section's header."""
    options: dict[str, dict[str, Written]]
    open_to_others: bool
    """Somebody else than the owner may read the file."""

    def get(self, section: str, option: str) -> Written | None:
        """What was written for *option*, None if nothing was."""
        return self.options.get(section, {}).get(option)


class _Name(str):
    """An option's name that knows the line it was found in."""

    __slots__ = ("line",)
    line: int


class _Parser(configparser.RawConfigParser):
    """The library's parser, strict, which keeps the line of all it finds."""

    # The library's own pattern ignores whatever follows the bracket.
    SECTCRE = re.compile(r"\[\s*(?P<header>[^\]]*[^\]\s])\s*\]\s*$")

    def __init__(self) -> None:
        super().__init__(
            strict=True,
            interpolation=None,  # a password may hold a '%'
            delimiters=("=",),  # addresses are full of ':'
            comment_prefixes=("#", ";"),
            inline_comment_prefixes=None,  # ... and passwords of '#'
            empty_lines_in_values=True,  # else a comment inside a list ends the list
            default_section="",  # no [DEFAULT] whose options appear in every section
        )
        self.line = 0
        self.headers: dict[str, int] = {}

    def numbered(self, text: str) -> Iterator[str]:
        """The lines of *text*; while one is being parsed, ``line`` is its number."""
        for self.line, line in enumerate(io.StringIO(text, newline=None), 1):
            header = self.SECTCRE.match(line.strip())
            if header:
                self.headers.setdefault(header["header"], self.line)
            yield line

    def optionxform(self, optionstr: str) -> str:
        """Called by the library for each option it meets in a file, while it meets it."""
        name = _Name(optionstr.lower())
        name.line = self.line
        return name


def read(path: str, how_to_make: str) -> Document:
    """Read the file at *path*; *how_to_make* one is said if there is none.

    Raises:
        ConfigError: there is no such file, it may not be read, or it is not written as a
            configuration file is; one line for each thing wrong.
    """
    data, mode = _content(path, how_to_make)
    try:
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: save the file as UTF-8 text") from None
    parser = _Parser()
    try:
        parser.read_file(parser.numbered(text), path)
    except configparser.DuplicateSectionError as error:
        first = parser.headers.get(error.section, 0)
        raise ConfigError(
            f"{path}:{error.lineno}: [{shown(error.section)}] stands in line {first} already: "
            f"keep one of them"
        ) from None
    except configparser.DuplicateOptionError as error:
        first = next(name.line for name in parser[error.section] if name == error.option)  # type: ignore[attr-defined]  # every name in the parser is a _Name
        raise ConfigError(
            f"{path}:{error.lineno}: [{shown(error.section)}] {shown(error.option)} "
            f"is set in line {first} already: keep one of them"
        ) from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: expected a [section] alone on its line before all else"
        ) from None
    except configparser.ParsingError as error:
        raise ConfigError(
            "\n".join(
                f"{path}:{line}: expected 'option = value', a [section] alone on its line, "
                f"or a comment that begins with '#'"
                for line, _ in error.errors
            )
        ) from None
    options = {
        section: {
            str(name): Written(value, name.line)  # type: ignore[attr-defined]  # a _Name
            for name, value in parser.items(section)
        }
        for section in parser.sections()
    }
    return Document(path, parser.headers, options, bool(mode & 0o077))


def _content(path: str, how_to_make: str) -> tuple[bytes, int]:
    """The bytes of a file, and its mode as it was when they were read."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: {how_to_make.format(path=path)}") from None
    except PermissionError:
        raise ConfigError(
            f"{path}: permission denied: user id {os.geteuid()} must be able to read it"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > LIMIT:
        raise ConfigError(f"{path}: more than {LIMIT} bytes: not a configuration file")
    return data, mode


def shown(text: str) -> str:
    """*text* for a message: without what would move a terminal's cursor, and not endless."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 200 else text[:197] + "..."
