"""A store that the first pyvpn wrote, under the hands of this one.

``schema1.sqlite.gz`` is a real one, written by the code of schema 1 (before there were stock
WireGuard devices): two users, a removed third, three devices and a removed fourth, two leases.
"""

from __future__ import annotations

import gc
import gzip
import resource
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyvpn.errors import HostError
from pyvpn.store.records import Device, User
from pyvpn.store.schema import _FROM_1_TO_2, SCHEMA_VERSION, migrate
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from tests.store.cases import NOON, StoreCase

OLD = Path(__file__).with_name("schema1.sqlite.gz")

HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
KEPT4, KEPT6 = b"\x0a\x49\x00\x32", bytes.fromhex("fd70 7976 706e 0000 0000 0000 0000 0050")
ANNA = User(1, "anna", HASH, False, KEPT4, KEPT6, NOON, NOON)
BERT = User(3, "bert.long-name@example.org", HASH, True, None, None, NOON + 1.5, NOON + 1.5)
DEVICES = [
    Device(1, 1, "ab" * 32, "läptop", NOON + 2, NOON + 2),
    Device(2, 1, "cd" * 32, "phone", NOON + 3, NOON + 100),
    Device(3, 3, "ef" * 32, "phone", NOON + 4, NOON + 4),
]
LEASES = [
    Lease(1, 1, KEPT4, KEPT6, None),
    Lease(2, 1, b"\x0a\x49\x00\x02", None, NOON + 60),
]


class Failing:
    """A connection whose *n*-th statement fails, and all that come after it but ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection, n: int) -> None:
        self._connection = connection
        self._left = n

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str) -> sqlite3.Cursor:
        self._left -= 1
        if self._left < 0 and statement != "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement)


class OldStoreCase(StoreCase):
    """A directory with the old store in it."""

    def setUp(self) -> None:
        super().setUp()
        self.place(self.path)

    def place(self, path: Path) -> None:
        path.touch(0o600)
        path.write_bytes(gzip.decompress(OLD.read_bytes()))

    def schema_of(self, path: Path) -> int:
        with sqlite3.connect(path) as connection:
            [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        connection.close()
        assert isinstance(version, int)
        return version

    def assertWhole(self, store: Store) -> None:
        """All that was in the old store is there."""
        self.assertEqual([ANNA, BERT], store.users())
        self.assertEqual(DEVICES, store.devices())
        self.assertEqual(LEASES, store.leases())


class MigrationTests(OldStoreCase):
    """Opening is all it takes."""

    def test_everythingIsThere(self) -> None:
        """Users, devices and leases are what they were, now and the next time."""
        self.assertEqual(1, self.schema_of(self.path))
        for _ in range(2):
            store = self.open()
            self.assertWhole(store)
            self.assertEqual(([], None), (store.peers(), store.sent_stamp()))
            store.close()
            self.assertEqual(SCHEMA_VERSION, self.schema_of(self.path))

    def test_sameTables(self) -> None:
        """The tables are those of a store that is made today, checks and indexes included."""
        self.open().close()
        fresh = self.directory / "fresh.sqlite"
        self.open(fresh).close()
        self.assertEqual(self.tables(fresh), self.tables(self.path))

    def tables(self, path: Path) -> dict[str, list[str]]:
        with sqlite3.connect(path) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
            ).fetchall()
        connection.close()
        # A table that was renamed has its name in quotation marks.
        return {name: sql.replace('"', "").split() for name, sql in rows}

    def test_from2(self) -> None:
        """A store of schema 2 gets the limits, which nobody has; all else is as it was."""
        with sqlite3.connect(self.path, isolation_level=None) as connection:
            for statement in _FROM_1_TO_2:
                connection.execute(statement)
        connection.close()
        self.assertEqual(2, self.schema_of(self.path))
        store = self.open()
        self.assertWhole(store)
        self.assertTrue(store.set_limits("anna", 64_000, None))
        self.assertEqual(SCHEMA_VERSION, self.schema_of(self.path))
        fresh = self.directory / "fresh.sqlite"
        self.open(fresh).close()
        self.assertEqual(self.tables(fresh), self.tables(self.path))

    def test_numbersOnce(self) -> None:
        """The numbers of what was removed before do not come again after."""
        store = self.open()
        self.assertEqual(4, store.add_user("cleo", "hash", NOON).id)
        self.assertEqual(5, self.add_device(store, ANNA, 1).id)

    def test_belongsTogether(self) -> None:
        """With a user still go the devices and the leases."""
        store = self.open()
        store.remove_user("anna")
        self.assertEqual((DEVICES[2:], []), (store.devices(), store.leases()))

    def test_emptyTables(self) -> None:
        """A store in which nobody ever logged in is no different."""
        with sqlite3.connect(self.path) as connection:
            connection.execute("DELETE FROM lease")
            connection.execute("DELETE FROM device")
            connection.execute("DELETE FROM sqlite_sequence")
        connection.close()
        self.assertEqual(1, self.add_device(self.open(), ANNA, 1).id)

    def test_atOnce(self) -> None:
        """Server and commands that open it at one moment find it done, once."""
        gc.collect()  # what others left behind is not to be found in one of these threads
        with ThreadPoolExecutor(8) as pool:
            stores = list(pool.map(lambda _: self.open(), range(8)))
        for store in stores:
            self.assertWhole(store)

    def test_newerMeanwhile(self) -> None:
        """When a newer pyvpn was quicker, the file is its own."""
        before = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(before.close)
        before.execute("PRAGMA user_version = 9")
        migrate(before)
        self.assertEqual(9, self.schema_of(self.path))


class InterruptedTests(OldStoreCase):
    """Wholly, or not at all."""

    def test_anyStatement(self) -> None:
        """Whichever statement fails, the file is the old one; the next try goes well."""
        failed = 0
        while True:
            path = self.directory / f"{failed}.sqlite"
            self.place(path)
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                migrate(Failing(connection, failed))
                break
            except sqlite3.OperationalError:
                failed += 1
            finally:
                connection.close()
            self.assertEqual(1, self.schema_of(path))
            self.assertWhole(self.open(path))
        self.assertLess(10, failed)

    def test_crash(self) -> None:
        """Whatever reached the disk before the power failed: old and whole, or new and whole."""
        store = self.open()  # which keeps the journal
        journal = Path(f"{self.path}-wal").read_bytes()
        self.assertWhole(store)
        seen = set()
        for cut in (*range(0, len(journal), 1999), len(journal)):
            directory = self.directory / f"cut{cut}"
            directory.mkdir(mode=0o700)
            copy = directory / self.path.name
            shutil.copy(self.path, copy)
            Path(f"{copy}-wal").write_bytes(journal[:cut])
            seen.add(self.schema_of(copy))
            self.assertWhole(self.open(copy))
        self.assertEqual({1, SCHEMA_VERSION}, seen)

    def test_fullDisk(self) -> None:
        """Without room for the copy nothing is changed, and the operator reads why."""
        size = self.path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        error = self.assertRaises(HostError, Store, self.path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertIn(str(self.path), str(error))
        self.assertEqual(1, self.schema_of(self.path))
        self.assertWhole(self.open())

    def test_damaged(self) -> None:
        """A lease of nobody's, or a certificate twice, is damage: named, and left as it was."""
        for number, damage in enumerate(
            (
                "INSERT INTO lease (device, address4) VALUES (99, x'0a490063')",
                "UPDATE sqlite_master SET sql = replace(sql, 'fingerprint   TEXT NOT NULL UNIQUE',"
                " 'fingerprint TEXT NOT NULL') WHERE name = 'device'",
            )
        ):
            path = self.directory / f"{number}.sqlite"
            self.place(path)
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA writable_schema = ON")
                connection.execute(damage)
            connection.close()
            self.assertIn("is damaged", str(self.assertRaises(HostError, Store, path)))
            self.assertEqual(1, self.schema_of(path))
