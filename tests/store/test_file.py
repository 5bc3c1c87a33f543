"""How the store's file is made, and who may see it."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyvpn.errors import ConfigError, HostError, Misuse
from pyvpn.store.file import read_error
from pyvpn.store.schema import SCHEMA_VERSION
from pyvpn.store.sqlite import Store
from tests.store.cases import NOON, StoreCase


def mode(path: Path) -> int:
    """The permission bits of *path*."""
    return stat.S_IMODE(path.stat().st_mode)


class FileTests(StoreCase):
    """The file is private, and either whole or not there."""

    def test_private(self) -> None:
        """The store, its journals and a directory made for them are the owner's alone."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        path = self.directory / "state" / "users.sqlite"
        self.open(path).add_user("anna", "hash", NOON)
        self.assertEqual(0o700, mode(path.parent))
        self.assertEqual(
            {"users.sqlite": 0o600, "users.sqlite-wal": 0o600, "users.sqlite-shm": 0o600},
            {each.name: mode(each) for each in path.parent.iterdir()},
        )

    def test_openToOthers(self) -> None:
        """A file that others could read or write is refused, with the command that helps."""
        self.open().close()
        for bits in (0o640, 0o604, 0o620, 0o602):
            self.path.chmod(bits)
            error = self.assertRaises(ConfigError, Store, self.path)
            self.assertIn(f"chmod 600 {self.path}", str(error))
        self.path.chmod(0o600)
        self.open()

    def test_openDirectory(self) -> None:
        """A directory in which others could exchange the file is refused as well."""
        for bits in (0o720, 0o702, 0o1777):
            self.directory.chmod(bits)
            error = self.assertRaises(ConfigError, Store, self.path)
            self.assertIn(f"chmod 700 {self.directory}", str(error))
        self.directory.chmod(0o755)
        self.open()

    def test_notMade(self) -> None:
        """Commands that only look do not leave an empty store where somebody mistyped a path."""
        error = self.assertRaises(HostError, Store, self.path, create=False)
        self.assertIn(f"{self.path} does not exist", str(error))
        self.assertEqual([], list(self.directory.iterdir()))

    def test_notADirectory(self) -> None:
        """A state directory that is a file is named."""
        self.path.write_bytes(b"")
        error = self.assertRaises(HostError, Store, self.path / "users.sqlite")
        self.assertIn("Not a directory", str(error))

    def test_isADirectory(self) -> None:
        """So is a store that is a directory."""
        self.path.mkdir(mode=0o700)
        self.assertRaises(HostError, Store, self.path)

    def test_notWritable(self) -> None:
        """Without permission the answer says who has it."""
        self.directory.chmod(0o500)
        self.addCleanup(self.directory.chmod, 0o700)
        if os.access(self.directory, os.W_OK):
            self.skipTest("root may write everywhere")
        error = self.assertRaises(HostError, Store, self.path)
        self.assertIn("run this as root, or as the server's own user", str(error))

    def test_madeAtOnce(self) -> None:
        """Several processes that make the store at one moment get one and the same."""
        with ThreadPoolExecutor(8) as pool:
            stores = list(pool.map(lambda _: self.open(), range(8)))
        stores[0].add_user("anna", "hash", NOON)
        self.assertEqual([["anna"]] * 8, [[u.name for u in each.users()] for each in stores])
        for each in stores:
            each.close()
        self.assertEqual(["users.sqlite"], [each.name for each in self.directory.iterdir()])

    def test_noRoom(self) -> None:
        """A disk that is full at the first start leaves nothing behind that is half a store."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        refused = 0
        for size in range(0, 131072, 4096):
            path = self.directory / f"{size}.sqlite"
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                Store(path).close()
            except HostError:
                refused += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            self.open(path).add_user("anna", "hash", NOON)
            self.assertEqual([], list(self.directory.glob(".*")))
        self.assertTrue(0 < refused < 32)

    def test_ownerOfTheDirectory(self) -> None:
        """What root prepares belongs to the user whose server will need it."""
        if os.geteuid() != 0:
            self.skipTest("only root can give files away")
        try:
            os.chown(self.directory, 4711, 4712)
        except OSError:
            self.skipTest("this user namespace has one user only")
        self.addCleanup(os.chown, self.directory, 0, 0)
        if not os.access(self.directory, os.W_OK):
            self.skipTest("this root may not write everywhere")
        store = self.open()
        store.add_user("anna", "hash", NOON)
        self.assertEqual(
            [(4711, 4712)] * 3,
            [(each.stat().st_uid, each.stat().st_gid) for each in self.directory.iterdir()],
        )

    def test_oddPath(self) -> None:
        """A path may hold any character, those of a URI too."""
        path = self.directory / "50% of #1? ü" / "users.sqlite"
        self.open(path).add_user("anna", "hash", NOON)
        self.assertTrue(path.exists())


class ForeignTests(StoreCase):
    """A file that is not ours, or not yet, is named and left alone."""

    def test_newer(self) -> None:
        """The store of a newer pyvpn is not touched by this one."""
        self.open().close()
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.close()
        before = self.path.read_bytes()
        error = self.assertRaises(HostError, Store, self.path)
        self.assertIn(
            f"schema {SCHEMA_VERSION + 1}, this pyvpn knows {SCHEMA_VERSION}", str(error)
        )
        self.assertEqual(before, self.path.read_bytes())

    def test_otherProgram(self) -> None:
        """Another program's SQLite file is not filled with our tables."""
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE bookmark (url TEXT)")
        connection.close()
        self.path.chmod(0o600)
        error = self.assertRaises(HostError, Store, self.path)
        self.assertIn("is not a store of pyvpn", str(error))

    def test_missingTable(self) -> None:
        """A store from which somebody dropped a table is called damaged."""
        self.open().close()
        with sqlite3.connect(self.path) as connection:
            connection.execute("DROP TABLE lease")
        connection.close()
        self.assertIn("is damaged", str(self.assertRaises(HostError, self.open().leases)))


class CauseTests(StoreCase):
    """Each kind of SQLite trouble is told with its own cure."""

    def test_cures(self) -> None:
        """Full, locked, forbidden, damaged and broken disks are told apart."""
        for code, cure in (
            (sqlite3.SQLITE_FULL, "no space left"),
            (sqlite3.SQLITE_BUSY_SNAPSHOT, "fuser -v"),
            (sqlite3.SQLITE_READONLY_DBMOVED, "as root"),
            (sqlite3.SQLITE_CANTOPEN, "as root"),
            (sqlite3.SQLITE_CORRUPT_INDEX, "put a backup there"),
            (sqlite3.SQLITE_NOTADB, "put a backup there"),
            (sqlite3.SQLITE_IOERR_FSYNC, "dmesg"),
        ):
            error = sqlite3.OperationalError("what SQLite says")
            error.sqlite_errorcode = code
            told = str(read_error(self.path, error))
            self.assertIn(cure, told)
            self.assertIn(str(self.path), told)

    def test_readOnly(self) -> None:
        """A disk that is mounted read-only is called that: to be root does not help."""
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        flags = os.statvfs(self.directory)

        def mounted_read_only(path: object) -> os.statvfs_result:
            return os.statvfs_result([*flags[:8], flags.f_flag | os.ST_RDONLY, flags[9]])

        self.patch(os, "statvfs", mounted_read_only)
        self.assertIn("mounted read-only: see `findmnt", str(read_error(self.path, error)))

    def test_closed(self) -> None:
        """To use a closed store is our own bug; to close it twice is none."""
        store = self.open()
        store.close()
        store.close()
        self.assertRaises(Misuse, store.users)
        self.assertRaises(Misuse, store.add_user, "anna", "hash", NOON)
