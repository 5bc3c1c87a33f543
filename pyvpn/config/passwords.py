"""Passwords that stand in a file of their own, which nobody else may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pyvpn.errors import ConfigError


def first_line(path: Path, place: str, environ: Mapping[str, str] = os.environ) -> str:
    """The first line of the file at *path*, without its end; may be empty.

    Args:
        place: ``file:line: [section] option = 'value'``, where *path* was written.

    Raises:
        ConfigError: the file is missing, no text, or may be read by others.
    """
    try:
        with open(path, "rb") as file:
            data, mode = file.read(4096), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ConfigError(f"{place}: a file that can be read ({error.strerror})") from None
    if _open_to_others(path, mode, environ):
        raise ConfigError(f"{place}: {private(path)}")
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: a file of UTF-8 text") from None


def is_open_to_others(path: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Others may read the file at *path*; False too when it is not there (yet)."""
    try:
        return _open_to_others(path, path.stat().st_mode, environ)
    except OSError:
        return False


def private(path: Path) -> str:
    """What is expected of a file with a password in it."""
    return f"a file that nobody else can read: chmod 600 {path}"


def _open_to_others(path: Path, mode: int, environ: Mapping[str, str]) -> bool:
    """Others may read it. In systemd's credentials the group's bits are those of an ACL mask."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    ours = 0o007 if credentials and path.is_relative_to(credentials) else 0o077
    return bool(stat.S_IMODE(mode) & ours)
