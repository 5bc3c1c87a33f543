"""What the tests of the store share: a real file, and every Store closed at the end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.store.records import Device, User
from pyvpn.store.sqlite import FILE_NAME, Store

NOON = 1_700_000_000.0  # unix seconds


class StoreCase(SynchronousTestCase):
    """A directory of our own, and a store in it."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pyvpn-store-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / FILE_NAME

    def open(self, path: Path | None = None) -> Store:
        """A store that is closed when the test ends."""
        store = Store(path or self.path)
        self.addCleanup(store.close)
        return store

    def add_device(self, store: Store, user: User, number: int, unix: float = NOON) -> Device:
        """Device *number* of *user*."""
        return store.add_device(user.id, f"{number:064x}", f"laptop {number}", unix)
