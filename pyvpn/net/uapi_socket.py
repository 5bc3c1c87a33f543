"""The file of a configuration socket: private from its first moment, and never somebody else's.

A program that dies leaves the file behind; whoever comes next takes its place.  Two of ours
that start at once are kept apart by a lock on the directory.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyvpn.errors import HostError

DIRECTORY = Path("/var/run/wireguard")
"""Where ``wg`` looks for the sockets of programs that are WireGuard devices."""

BACKLOG = 32


class UapiSocket:
    """The listening socket ``NAME.sock`` in *directory*; `open` makes it."""

    def __init__(self, name: str, directory: Path = DIRECTORY) -> None:
        self.path = directory / f"{name}.sock"
        self.socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Make the file (0600) and its directory (0700) if need be, and listen.

        Returns:
            The socket, non-blocking; `close` closes it.

        Raises:
            HostError: a living program has the file, or it cannot be made; the text says why.
        """
        try:
            with _locked(_private_directory(self.path.parent)):
                self._clear_the_way()
                self._listen()
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror or error}") from error
        assert self.socket is not None
        return self.socket

    @property
    def is_ours(self) -> bool:
        """Whether the file is still there, and still the one we made."""
        return self._identity is not None and _identity(self.path) == self._identity

    def close(self) -> None:
        """Stop listening; remove the file unless it is somebody else's by now."""
        if self.socket is not None:
            # A directory that is gone took the file with it.
            with suppress(OSError), _locked(self.path.parent):
                if self.is_ours:
                    self.path.unlink()
            self.socket.close()
            self.socket = self._identity = None

    def _clear_the_way(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise HostError(f"{self.path} is there and is no socket: look what it is, remove it")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()  # of a program that is gone
                return
            except FileNotFoundError:
                return
            except BlockingIOError:
                pass  # alive, and busy
        raise HostError(f"{self.path} is in use: another program is the device {self.path.stem}")

    def _listen(self) -> None:
        # Under a name that nobody looks for, until it listens: between bind and listen it would
        # look like a dead program's, which everybody removes.
        early = self.path.with_name(f".{self.path.stem}.{os.getpid()}")
        early.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(made.fileno(), 0o600)  # Linux gives the file of bind() this mode
            made.bind(str(early))
            try:
                made.listen(BACKLOG)
                made.setblocking(False)
                os.link(early, self.path)
                self._identity = _identity(self.path)
            finally:
                early.unlink()
        except BaseException:
            made.close()
            raise
        self.socket = made


def _private_directory(path: Path) -> Path:
    """Make *path* unless it is there; one that others may write to is refused."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"{path} can be written by others, who could put a socket of theirs in our place: "
            f"run `chown root {path}; chmod 700 {path}`"
        )
    return path


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
