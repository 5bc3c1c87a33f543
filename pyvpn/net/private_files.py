"""Files that hold keys: readable by us alone, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from pyvpn.errors import ConfigError, HostError


def make_private_directory(path: Path) -> None:
    """Make *path* (0700) unless it is there.

    Raises:
        ConfigError: others may write into it, and so exchange what we keep there.
        HostError: it cannot be made or looked at.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path} can be written by others: run `chmod 700 {path}`")


def read_private(path: Path, forbidden: int = stat.S_IRWXG | stat.S_IRWXO) -> bytes | None:
    """Return what is in *path*; None if there is no such file.

    Raises:
        ConfigError: its mode has a *forbidden* bit.
        HostError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            # The mode of what was opened, not of what the name means a moment later.
            mode = os.fstat(file.fileno()).st_mode
            if mode & forbidden:
                raise ConfigError(
                    f"{path} holds a key and is open to others: run `chmod 600 {path}`"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


def write_private(path: Path, data: bytes) -> None:
    """Make *path* hold *data*, 0600; after a crash at any moment it holds the old or the new.

    To be called by one process at a time (whoever holds the lock of the state directory).

    Raises:
        HostError: no permission, no space; what was there before is still there.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)  # left by a crash
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o600)
        try:
            _write(descriptor, data, path.parent)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def make_private(path: Path, data: bytes) -> bytes:
    """Make *path* hold *data*, 0600, unless it is there; return what it holds.

    Of any number of processes that do so at once, one makes the file, and all get its data.

    Raises:
        ConfigError: it is there, and others may read or change it.
        HostError: no permission, no space.
    """
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        try:
            _write(descriptor, data, path.parent)
            os.link(beside, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            pass
        finally:
            os.unlink(beside)
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    held = read_private(path)
    if held is None:
        raise HostError(f"{path} was made and has vanished: who else works in there?")
    return held


def _write(descriptor: int, data: bytes, directory: Path) -> None:
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        # Root may prepare the place of a server that runs as somebody else.
        owner = directory.stat()
        if os.geteuid() == 0 != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)


def _not_written(path: Path, error: OSError) -> HostError:
    return HostError(f"{path}: cannot be written: {error.strerror}")


def _sync(directory: Path) -> None:
    """Let the rename itself survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
