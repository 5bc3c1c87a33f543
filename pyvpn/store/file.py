"""The store's file before SQLite opens it: made whole or not at all, and only for our eyes."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from pathlib import Path

from pyvpn.errors import ConfigError, HostError

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FORBIDDEN = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}


def check_file(path: Path) -> bool:
    """Whether there is a store at *path*; it is looked at, never opened.

    (To open and close it here would take away the locks of every other connection that this
    process has to the file: POSIX locks are like that.)

    Raises:
        ConfigError: others may read the file or write into its directory.
        HostError: we may not look, or the file is empty, which a whole store never is.
    """
    try:
        directory = path.parent.stat()
        if directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{path.parent} can be written by others: run `chmod 700 {path.parent}`"
            )
        found = path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _host_error(path, error) from error
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{path} holds password hashes and is open to others: run `chmod 600 {path}`"
        )
    if found.st_size == 0:
        raise _damaged(path, "it is empty")
    return True


def make_file(path: Path, schema: str) -> None:
    """Make an empty store (0600, in a directory made 0700), unless another process is quicker.

    It is written beside and linked into place, so that a crash leaves the whole file or none.

    Raises:
        HostError: no permission, no space.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        os.close(descriptor)
    except OSError as error:
        raise _host_error(path, error) from error
    beside = Path(name)
    try:
        _write(beside, schema)
        # Root prepares the users of a server that runs as somebody else: that one owns the place.
        owner = path.parent.stat()
        if os.geteuid() == 0 != owner.st_uid:
            os.chown(beside, owner.st_uid, owner.st_gid)
        os.link(beside, path)
        _sync(path.parent)
    except FileExistsError:
        pass  # as whole as ours
    except sqlite3.Error as error:
        raise read_error(path, error) from error
    except OSError as error:
        raise _host_error(path, error) from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(name + suffix).unlink(missing_ok=True)


def _write(path: Path, schema: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.executescript(schema)
        # Last: until here every byte has gone into the file itself.  With a write-ahead log it
        # would go there first, and a full disk at the closing would leave it there, unsaid.
        [(journal,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if journal != "wal":
            raise sqlite3.OperationalError(f"journal_mode stays {journal}")
    finally:
        connection.close()
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_error(path: Path, error: sqlite3.Error) -> HostError:
    """What *error* means for the operator, and what to do about it."""
    # The low byte is the kind, the rest says where in SQLite it was noticed.  Without a number
    # it was Python that could not read a value, or our own check: both mean damage.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and _is_full(path)):
        return HostError(f"{path}: no space left: free some on that disk, nothing was changed")
    if kind in _LOCKED:
        return HostError(f"{path}: another process keeps it locked: see `fuser -v {path}`")
    if kind in _FORBIDDEN and _is_read_only(path):
        return HostError(f"{path}: its disk is mounted read-only: see `findmnt -T {path.parent}`")
    if kind in _FORBIDDEN:
        return HostError(f"{path}: {error}: run this as root, or as the server's own user")
    if kind in _DAMAGED or kind == sqlite3.SQLITE_ERROR:
        return _damaged(path, str(error))
    return HostError(f"{path}: {error}: see `dmesg`")


def _is_full(path: Path) -> bool:
    """Whether the disk is: SQLite calls it an I/O error where it cannot map its -shm."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _is_read_only(path: Path) -> bool:
    """Whether the disk is, for root too: SQLite says only that it cannot open something there."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _damaged(path: Path, finding: str) -> HostError:
    return HostError(
        f"{path} is damaged ({finding}): stop the server, move the file away together with its"
        " -wal and -shm, then put a backup there, or add the users again"
    )


def _host_error(path: Path, error: OSError) -> HostError:
    if isinstance(error, PermissionError):
        return HostError(
            f"{path}: {error.strerror}: run this as root, or as the server's own user"
        )
    return HostError(f"{path}: {error.strerror}")
