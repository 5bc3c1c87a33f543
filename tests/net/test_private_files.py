"""Files that hold keys: for our eyes only, whole or not at all."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import ConfigError, HostError
from pyvpn.net.private_files import (
    make_private,
    make_private_directory,
    read_private,
    write_private,
)


class PrivateFileTests(SynchronousTestCase):
    """Reading and writing."""

    def setUp(self) -> None:
        """Begin with a private directory."""
        self.place = Path(self.mktemp())
        make_private_directory(self.place)
        self.path = self.place / "server.key"

    def test_modes(self) -> None:
        """Directory and file are for their owner alone, whatever the umask."""
        before = os.umask(0)
        try:
            write_private(self.path, b"secret")
            make_private_directory(self.place / "inner")
        finally:
            os.umask(before)

        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE((self.place / "inner").stat().st_mode))

    def test_round_trip(self) -> None:
        """What was written is read, and what is written later replaces it."""
        self.assertIsNone(read_private(self.path))
        for data in (b"first", b"second, longer", b""):
            write_private(self.path, data)

            self.assertEqual(data, read_private(self.path))
        self.assertEqual(["server.key"], os.listdir(self.place))

    def test_after_a_crash(self) -> None:
        """What a crash left half written is neither read nor in the way."""
        write_private(self.path, b"old")
        (self.place / ".server.key.new").write_bytes(b"ha")

        self.assertEqual(b"old", read_private(self.path))
        write_private(self.path, b"new")
        self.assertEqual(b"new", read_private(self.path))
        self.assertEqual(["server.key"], os.listdir(self.place))

    def test_follows_no_link(self) -> None:
        """A link put in the way of the half-written file is removed, not written through."""
        target = self.place / "target"
        target.write_bytes(b"untouched")
        (self.place / ".server.key.new").symlink_to(target)

        write_private(self.path, b"secret")

        self.assertEqual(b"untouched", target.read_bytes())

    def test_open_to_others(self) -> None:
        """A key that others may read, write or run is refused with the cure."""
        write_private(self.path, b"secret")
        for mode in (0o640, 0o604, 0o620, 0o602, 0o601):
            self.path.chmod(mode)

            error = self.assertRaises(ConfigError, read_private, self.path)

            self.assertIn(f"chmod 600 {self.path}", str(error))

    def test_directory_open_to_others(self) -> None:
        """A directory in which others may exchange our keys is refused with the cure."""
        for mode in (0o770, 0o707):
            self.place.chmod(mode)

            error = self.assertRaises(ConfigError, make_private_directory, self.place)

            self.assertIn(f"chmod 700 {self.place}", str(error))

    def test_no_space(self) -> None:
        """A full disk is said, and what was there stays, with nothing half-written beside it."""
        write_private(self.path, b"old")

        def no_space(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", no_space)

        error = self.assertRaises(HostError, write_private, self.path, b"new")

        self.assertIn("No space left on device", str(error))
        self.assertEqual(b"old", self.path.read_bytes())
        self.assertEqual(["server.key"], os.listdir(self.place))

    def test_not_a_directory(self) -> None:
        """A file where the directory should be is said in one line."""
        write_private(self.path, b"")

        self.assertRaises(HostError, make_private_directory, self.path / "below")
        self.assertRaises(HostError, read_private, self.path / "below")
        self.assertRaises(HostError, write_private, self.path / "below", b"")

    def test_made_unless_there(self) -> None:
        """A file is made whole and private, or what is there is returned and stays."""
        self.assertEqual(b"first", make_private(self.path, b"first"))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual(b"first", make_private(self.path, b"second"))
        self.assertEqual(["server.key"], os.listdir(self.place))
        self.path.chmod(0o644)
        self.assertRaises(ConfigError, make_private, self.path, b"third")

    def test_made_at_once(self) -> None:
        """Of several that make it at one moment, all have the same."""
        with ThreadPoolExecutor(8) as pool:
            answers = set(pool.map(lambda n: make_private(self.path, b"%d" % n), range(8)))

        self.assertEqual({self.path.read_bytes()}, answers)
        self.assertEqual(["server.key"], os.listdir(self.place))

    def test_made_without_space(self) -> None:
        """On a full disk nothing is made."""

        def no_space(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", no_space)

        error = self.assertRaises(HostError, make_private, self.path, b"data")

        self.assertIn("No space left on device", str(error))
        self.assertEqual([], os.listdir(self.place))
