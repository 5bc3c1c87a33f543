"""How the configuration's dataclasses say what may stand in a file, and are made from one.

A field made by :func:`option` is an option: its name, section, default, meaning and explanation
stand in one place, and nowhere else. A field made by :func:`section` is a section of its own
class. :func:`load` and :func:`describe` do the rest.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from pyvpn.config import ini
from pyvpn.config.values import Expected
from pyvpn.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What is known about an option besides its name."""

    default: str
    """As one would write it."""
    convert: Callable[[str], object]
    why: str
    """For people: what it does and why one would change it."""
    required: str = ""
    """What to write, if there must be something; the default is an example then."""
    conceal: Callable[[str], str] = str
    """What may be shown of a value that was written."""


def hidden(value: str) -> str:
    """What may be shown of a secret; a field that conceals by this is left out of ``repr``."""
    return "***"


class Listed(NamedTuple):
    """An option and its place."""

    section: str
    name: str
    option: Option


class Contradiction(NamedTuple):
    """Values that are right alone and wrong together."""

    section: str
    names: tuple[str, ...]
    """The options concerned, the likeliest culprit first; the first one written is blamed."""
    expected: str


def option(default: str, convert: Callable[[str], T], why: str, **more: Any) -> T:
    """A field that is an option; *more* is for :class:`Option`.

    Typed as the value the field will hold, as ``dataclasses.field`` is.
    """
    spec = Option(default, convert, why, **more)
    metadata = {"option": spec}
    shown = spec.conceal is not hidden
    if spec.required:
        return cast("T", field(metadata=metadata, repr=shown))
    return field(default=convert(default), metadata=metadata, repr=shown)


def section(kind: type[T], why: str) -> T:
    """A field that is a section, with the options of the dataclass *kind*."""
    return field(default=kind(), metadata={"section": kind, "why": why})


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What both configurations have: where they came from."""

    OWN: ClassVar[str]
    """The section of the options that stand in the class itself."""
    ABOUT: ClassVar[str]
    """The head of the file, for people."""
    HOW_TO_MAKE: ClassVar[str]
    """What to do when there is none at {path}."""

    path: Path
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, repr=False, compare=False)
    """The line of each option that was written."""

    open_to_others: bool = field(default=False, repr=False, compare=False)
    """Others than its owner may read the file."""

    def where(self, section: str, option: str) -> str:
        """``file:line: [section] option``, for complaints that only trying out can bring."""
        line = self.lines.get((section, option))
        return f"{self.path}{f':{line}' if line else ''}: [{section}] {option}"

    def contradictions(self) -> Iterator[Contradiction]:
        """What is wrong although each value by itself is right."""
        yield from ()


C = TypeVar("C", bound=Loaded)


def listed(kind: type[Loaded]) -> Iterator[Listed]:
    """Every option of *kind*, in the order of the file."""
    for one in dataclasses.fields(kind):
        if "option" in one.metadata:
            yield Listed(kind.OWN, one.name, one.metadata["option"])
    for one in dataclasses.fields(kind):
        if "section" in one.metadata:
            for inner in dataclasses.fields(one.metadata["section"]):
                yield Listed(one.name, inner.name, inner.metadata["option"])


def load(kind: type[C], path: str | os.PathLike[str]) -> C:
    """Read the file at *path* as a *kind*.

    Raises:
        ConfigError: one line for each thing wrong, in the order of the file.
    """
    document = ini.read(os.fspath(path), kind.HOW_TO_MAKE)
    options = {(each.section, each.name): each.option for each in listed(kind)}
    problems = list(_unknown(document, options))
    values: dict[str, dict[str, object]] = {section: {} for section, _ in options}
    for (section, name), spec in options.items():
        written = document.get(section, name)
        if written is None and spec.required:
            line = document.sections.get(section, 0)
            text = f"expected {spec.required}: {name} = {spec.default}"
            problems.append((line, f"[{section}] {name} is missing: {text}"))
        elif written is not None:
            try:
                values[section][name] = spec.convert(written.value)
            except Expected as error:
                problems.append(
                    (written.line, _complaint(section, name, spec, written, str(error)))
                )
    if problems:
        raise _error(document, problems)
    config = _build(kind, document, values)
    for section, names, expected in config.contradictions():
        blamed = next((name for name in names if document.get(section, name)), names[0])
        written = document.get(section, blamed)
        spec = options[section, blamed]
        line = written.line if written else document.sections.get(section, 0)
        written = written or ini.Written(spec.default, 0)
        problems.append((line, _complaint(section, blamed, spec, written, expected)))
    if problems:
        raise _error(document, problems)
    return config


def _build(kind: type[C], document: ini.Document, values: dict[str, dict[str, Any]]) -> C:
    sections = {
        one.name: one.metadata["section"](**values[one.name])
        for one in dataclasses.fields(kind)
        if "section" in one.metadata
    }
    lines = {
        (section, name): written.line
        for section, options in document.options.items()
        for name, written in options.items()
    }
    path = Path(os.path.abspath(document.path))
    return kind(
        path=path,
        lines=lines,
        open_to_others=document.open_to_others,
        **values[kind.OWN],
        **sections,
    )


def _complaint(section: str, name: str, spec: Option, written: ini.Written, expected: str) -> str:
    """``[section] option = 'value': what is expected``, and a hint where one is in sight."""
    value = written.value
    if "\n" in value:
        hint = " (a line that begins with a space continues the one above)"
    elif " #" in value or " ;" in value:
        hint = " (a comment needs a line of its own)"
    elif value[:1] in ("'", '"'):
        hint = " (without quotation marks)"
    else:
        hint = ""
    return f"[{section}] {name} = '{ini.shown(spec.conceal(value))}': {expected}{hint}"


def _unknown(
    document: ini.Document, options: Mapping[tuple[str, str], Option]
) -> Iterator[tuple[int, str]]:
    """Sections and options nobody knows. Values are not quoted: one may be a password."""
    sections = {section for section, _ in options}
    for section, line in document.sections.items():
        if section not in sections:
            hint = _meant(section.lower(), sections) or f"there are {_all(sections)}"
            yield line, f"[{ini.shown(section)}]: no such section: {hint}"
            continue
        for name, written in document.options[section].items():
            if (section, name) in options:
                continue
            here = [name for place, name in options if place == section]
            homes = [f"[{place}]" for place, known in options if known == name]
            if homes:
                hint = f"it belongs into {' or '.join(homes)}"
            else:
                hint = _meant(name, here) or f"there are {_all(here)}"
            yield written.line, f"[{section}] {ini.shown(name)}: no such option: {hint}"


def _meant(word: str, known: Mapping[str, Any] | list[str] | set[str]) -> str:
    close = difflib.get_close_matches(word[:80], sorted(known), n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def _all(known: list[str] | set[str]) -> str:
    return ", ".join(sorted(known))


def _error(document: ini.Document, problems: list[tuple[int, str]]) -> ConfigError:
    problems.sort(key=lambda problem: problem[0] or math.inf)  # what stands nowhere, last
    return ConfigError(
        "\n".join(
            f"{document.path}:{line}: {text}" if line else f"{document.path}: {text}"
            for line, text in problems
        )
    )


def describe(kind: type[Loaded]) -> str:
    """A whole file that sets nothing and explains everything: each option as a comment."""
    parts = [_comment(kind.ABOUT)]
    intros = {one.name: one.metadata.get("why") for one in dataclasses.fields(kind)}
    section = ""
    for each in listed(kind):
        if each.section != section:
            section = each.section
            intro = intros.get(section)
            parts.append(f"\n\n[{section}]\n" + (_comment(intro) if intro else ""))
        setting = f"#{each.name} = {each.option.default}".rstrip()
        parts.append(f"\n{_comment(each.option.why)}{setting}\n")
    return "".join(parts)


def _comment(text: str) -> str:
    lines = [
        line for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, 94) or [""]
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
