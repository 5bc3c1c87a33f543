"""The WireGuard keys that native devices have proved."""

from __future__ import annotations

from pyvpn.store import KeyTaken
from tests.store.cases import NOON
from tests.store.test_wireguard import KEY, StockCase, grant


class NativeKeyTests(StockCase):
    """A key belongs to one device."""

    def keys(self) -> dict[str, bytes | None]:
        return {device.name: device.public_key for device in self.store.devices()}

    def test_kept(self) -> None:
        """It is on file, and another one takes its place."""
        laptop = self.store.add_device(self.anna.id, "aa", "laptop", NOON)
        self.assertTrue(self.store.set_native_key(laptop.id, KEY))
        self.assertEqual({"laptop": KEY}, self.keys())
        self.assertTrue(self.store.set_native_key(laptop.id, b"n" * 32))
        self.assertEqual({"laptop": b"n" * 32}, self.keys())
        [found] = self.store.devices()
        self.assertFalse(found.is_stock)

    def test_anothersNow(self) -> None:
        """Who proves it last has it."""
        one = self.store.add_device(self.anna.id, "aa", "one", NOON)
        two = self.store.add_device(self.anna.id, "bb", "two", NOON)
        self.store.set_native_key(one.id, KEY)
        self.assertTrue(self.store.set_native_key(two.id, KEY))
        self.assertEqual({"one": None, "two": KEY}, self.keys())

    def test_stockDevices(self) -> None:
        """What was put on file by hand comes first, whichever was there first."""
        laptop = self.store.add_device(self.anna.id, "aa", "laptop", NOON)
        self.store.set_native_key(laptop.id, KEY)
        phone = self.add_stock()
        self.assertEqual({"laptop": None, "phone": KEY}, self.keys())
        self.assertFalse(self.store.set_native_key(laptop.id, KEY))
        self.assertFalse(self.store.set_native_key(phone.id, b"n" * 32))
        self.assertEqual({"laptop": None, "phone": KEY}, self.keys())
        with self.assertRaises(KeyTaken):
            self.store.add_stock_device(self.anna.id, "x", KEY, None, NOON, grant(b"\x0a\0\0\1"))

    def test_removed(self) -> None:
        """A device that is not there has no key."""
        self.assertFalse(self.store.set_native_key(99, KEY))
