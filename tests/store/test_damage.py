"""What a torn, flipped or overfull file does: one plain error, or nothing at all."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from pyvpn.errors import HostError
from pyvpn.store import database
from pyvpn.store.records import Remembered
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from pyvpn.wire.datagram import Path as PeerPath
from tests.store.cases import NOON, StoreCase

ADDRESS = b"\x0a\x49\x00"  # 10.73.0.


class DamageCase(StoreCase):
    """A store with something of everything in it."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        for number in range(1, 5):
            user = self.store.add_user(f"user{number}", "hash" * 20, NOON)
            device = self.add_device(self.store, user, number)
            address = ADDRESS + bytes([number + 1])
            self.store.save_lease(Lease(device.id, user.id, address, None, None))
            path = PeerPath(ADDRESS + b"\1", 51820)
            self.store.save_peers([Remembered(device.id, path, NOON, bytes(12))])
        self.store.save_sent_stamp(b"stamp" + bytes(7))

    def everything(self, store: Store) -> tuple[object, ...]:
        """All that can be read."""
        peers = store.peers(), store.sent_stamp()
        return store.users(), store.devices(), store.leases(), store.user("user1"), peers

    def outcome(self, path: Path) -> tuple[object, ...] | None:
        """What can be read of *path*; None when it is refused as it should be."""
        try:
            store = Store(path)
        except HostError as error:
            self.assertIn(str(path), str(error))
            return None
        try:
            return self.everything(store)
        except HostError:
            return None
        finally:
            store.close()


class TornTests(DamageCase):
    """A file that was cut or changed is refused with its name, or still right."""

    def variants(self, whole: bytes) -> Iterable[bytes]:
        """*whole*, cut at many places."""
        cuts = {*range(128), *range(128, len(whole), 199), *range(0, len(whole), 4096)}
        return (whole[:cut] for cut in sorted(cuts))

    def test_cut(self) -> None:
        """A store cut anywhere is refused, also at a page's end and at nothing."""
        self.store.close()
        whole = self.path.read_bytes()
        for variant in self.variants(whole):
            self.path.write_bytes(variant)
            self.assertIsNone(self.outcome(self.path), f"cut at {len(variant)}")
        self.path.write_bytes(whole)
        self.assertIsNotNone(self.outcome(self.path))

    def test_flipped(self) -> None:
        """A changed byte is noticed or harmless to us: no other exception, ever."""
        self.store.close()
        whole = self.path.read_bytes()
        for place in (*range(100), *range(100, len(whole), 151)):
            for mask in (0xFF, 0x01):
                flipped = bytearray(whole)
                flipped[place] ^= mask
                self.path.write_bytes(flipped)
                self.outcome(self.path)

    def test_cutJournal(self) -> None:
        """When the power fails amid a write, what was committed before is there, in order."""
        whole = Path(f"{self.path}-wal").read_bytes()
        complete = [f"user{number}" for number in range(1, 5)]
        seen = set()
        for cut in range(0, len(whole), 997):
            directory = self.directory / f"cut{cut}"
            directory.mkdir(mode=0o700)
            copy = directory / self.path.name
            shutil.copy(self.path, copy)
            Path(f"{copy}-wal").write_bytes(whole[:cut])
            found = self.outcome(copy)
            assert found is not None
            names = [user.name for user in found[0]]  # type: ignore[attr-defined]  # a tuple of lists
            self.assertEqual(complete[: len(names)], names)
            seen.add(len(names))
        self.assertEqual({0, 1, 2, 3, 4}, seen)

    def test_cure(self) -> None:
        """The operator reads which files to move away, and what then."""
        self.store.close()
        self.path.write_bytes(b"not a database, but long enough to be taken for one" * 99)
        told = str(self.assertRaises(HostError, Store, self.path))
        for words in (str(self.path), "stop the server", "-wal and -shm", "backup"):
            self.assertIn(words, told)


class FullTests(DamageCase):
    """A full disk costs the change that did not fit, and nothing else."""

    def limit(self, pages: int) -> None:
        """Let the file not grow beyond *pages*; SQLite then acts as on a full disk."""
        self.store._db.execute(f"PRAGMA max_page_count = {pages}")

    def test_full(self) -> None:
        """Everything answered is there, everything refused is not, and room heals it."""
        self.limit(1)  # SQLite takes the present size instead
        added = [user.name for user in self.store.users()]
        for number in range(1000):
            try:
                self.store.add_user(f"more{number:04}", "hash" * 50, NOON)
            except HostError as error:
                self.assertIn("no space left", str(error))
                break
            added.append(f"more{number:04}")
        else:
            self.fail("the disk never was full")
        self.assertEqual(sorted(added), [user.name for user in self.store.users()])
        self.assertEqual(sorted(added), [user.name for user in self.open().users()])
        self.limit(10_000)
        self.store.add_user("room", "hash", NOON)
        self.assertIsNotNone(self.open().user("room"))

    def test_locked(self) -> None:
        """A process that keeps the file locked delays us for seconds, not for ever."""
        self.patch(database, "BUSY_SECONDS", 0.01)
        hurried = self.open()
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        error = self.assertRaises(HostError, hurried.add_user, "late", "hash", NOON)
        self.assertIn("another process keeps it locked", str(error))
        self.assertIsNone(hurried.user("late"))  # reading is never locked out
        other.execute("ROLLBACK")
        hurried.add_user("late", "hash", NOON)
