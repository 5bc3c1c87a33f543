"""The store on one machine: a SQLite file in the state directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from pyvpn.store.records import AddressTaken, Device, Gone, NameTaken, TooManyDevices, User
from pyvpn.store.wireguard import DEVICE, LEASE, WireGuardRecords, lease_of
from pyvpn.tunnel.leases import Lease

FILE_NAME = "users.sqlite"
"""What the store is called in the state directory."""

DEVICES_PER_USER = 32  # people have few; a stolen password must not fill the disk

_USER = (
    "SELECT id, name, password_hash, disabled, fixed4, fixed6, created, password_changed,"
    " limit_up, limit_down FROM user"
)
_OF_DEVICE = "WHERE id = (SELECT user FROM device WHERE id = ?)"

# Of native devices only: a stock device's lease is touched by nobody but who removes the device.
_RELEASE = (
    "UPDATE lease SET released = ? WHERE device = ?"
    " AND device IN (SELECT id FROM device WHERE fingerprint IS NOT NULL)"
)
_END_LEASE = (
    "DELETE FROM lease WHERE device = ?"
    " AND device IN (SELECT id FROM device WHERE fingerprint IS NOT NULL)"
)


def _user(row: Sequence[Any]) -> User:
    user_id, name, password_hash, disabled, *rest = row
    return User(user_id, name, password_hash, bool(disabled), *rest)


class Store(WireGuardRecords):
    """Users, devices and leases, and what is remembered of WireGuard peers."""

    _evictions = 0

    # Users

    def add_user(self, name: str, password_hash: str, unix: float) -> User:
        """Put a new user on file.

        Raises:
            NameTaken: there is one of that name.
        """
        with self._transaction():
            try:
                self._db.execute(
                    "INSERT INTO user (name, password_hash, disabled, created, password_changed)"
                    " VALUES (?, ?, 0, ?, ?)",
                    (name, password_hash, unix, unix),
                )
            except sqlite3.IntegrityError:
                raise NameTaken(f"there is a user {name!r} already") from None
            [row] = self._rows(f"{_USER} WHERE name = ?", name)
            return _user(row)

    def user(self, name: str) -> User | None:
        """The user called exactly *name*; None when there is none."""
        if not name.isascii():  # no name is; and sqlite3 raises on lone surrogates
            return None
        return self._user(f"{_USER} WHERE name = ?", name)

    def user_by_id(self, user_id: int) -> User | None:
        """The user with that number; None when there is none (any more)."""
        return self._user(f"{_USER} WHERE id = ?", user_id)

    def owner(self, device_id: int) -> User | None:
        """The user of that device; None when it is not on file (any more)."""
        return self._user(f"{_USER} {_OF_DEVICE}", device_id)

    def users(self) -> list[User]:
        """Every user, by name."""
        return [_user(row) for row in self._rows(f"{_USER} ORDER BY name")]

    def remove_user(self, name: str) -> bool:
        """Forget the user with all devices and leases; False when there is none."""
        return self._change("DELETE FROM user WHERE name = ?", name)

    def set_password(self, name: str, password_hash: str, unix: float) -> bool:
        """Give the user a new password, which each device must then prove again.

        False when there is no such user.
        """
        return self._change(
            "UPDATE user SET password_hash = ?, password_changed = ? WHERE name = ?",
            password_hash,
            unix,
            name,
        )

    def replace_hash(self, user_id: int, old: str, new: str) -> bool:
        """Keep the same password under a better hash: no device has to prove it again.

        False when *old* is no longer the hash on file.
        """
        return self._change(
            "UPDATE user SET password_hash = ? WHERE id = ? AND password_hash = ?",
            new,
            user_id,
            old,
        )

    def set_disabled(self, name: str, disabled: bool) -> bool:
        """Lock the user out, or let them in again; False when there is no such user."""
        return self._change("UPDATE user SET disabled = ? WHERE name = ?", disabled, name)

    def set_fixed(self, name: str, fixed4: bytes | None, fixed6: bytes | None) -> bool:
        """Keep these addresses for the user; None keeps none.  False when there is no such user.

        Raises:
            AddressTaken: one of them is fixed for another user, or belongs to another user's
                stock device.
        """
        with self._transaction():
            taken = self._rows(
                "SELECT name FROM user WHERE name != ? AND (fixed4 = ? OR fixed6 = ?)",
                name,
                fixed4,
                fixed6,
            )
            if taken:
                raise AddressTaken(f"the address is fixed for user {taken[0][0]!r}")
            stock = self._stock_device_with(fixed4, fixed6)
            if stock is not None and stock[0] != name:
                raise AddressTaken(f"the address belongs to {stock[0]}'s device {stock[1]!r}")
            return self._update(
                "UPDATE user SET fixed4 = ?, fixed6 = ? WHERE name = ?", fixed4, fixed6, name
            )

    def set_limits(self, name: str, up: int | None, down: int | None) -> bool:
        """Let each device of the user send and receive so many bits a second; None: all.

        False when there is no such user.
        """
        return self._change(
            "UPDATE user SET limit_up = ?, limit_down = ? WHERE name = ?", up, down, name
        )

    # Devices

    def add_device(self, user_id: int, fingerprint: str, name: str, unix: float) -> Device:
        """Put a device on file whose user has just proved the password.

        When the user has :data:`DEVICES_PER_USER` already, one that is not connected goes, with
        its lease: one that has no lease, or was called *name* as well, else the one that left
        longest ago.  So a machine that forgets its certificate at every start, and is a new
        device each time, pushes out what it was before and not the user's laptop.  Stock devices
        neither count nor go: no password puts one on file.

        Raises:
            Gone: the user was removed meanwhile.
            TooManyDevices: every one of them is connected.
        """
        with self._transaction():
            if self._user(f"{_USER} WHERE id = ?", user_id) is None:
                raise Gone("the user was removed")
            self._make_room(user_id, name)
            self._db.execute(
                "INSERT INTO device (user, fingerprint, name, created, authenticated)"
                " VALUES (?, ?, ?, ?, ?)",
                (user_id, fingerprint, name, unix, unix),
            )
            [row] = self._rows(f"{DEVICE} WHERE fingerprint = ?", fingerprint)
            return Device(*row)

    def _make_room(self, user_id: int, name: str) -> None:
        count = self._number(
            "SELECT count(*) FROM device WHERE user = ? AND fingerprint IS NOT NULL", user_id
        )
        if count < DEVICES_PER_USER:
            return
        if not self._update(
            "DELETE FROM device WHERE id ="
            " (SELECT device.id FROM device LEFT JOIN lease ON lease.device = device.id"
            " WHERE device.user = ? AND device.fingerprint IS NOT NULL"
            " AND (lease.device IS NULL OR lease.released IS NOT NULL)"
            " ORDER BY lease.device IS NOT NULL, device.name != ?, lease.released,"
            " device.authenticated, device.id LIMIT 1)",
            user_id,
            name,
        ):
            raise TooManyDevices(f"the user has {count} devices, all of them connected")
        self._evictions += 1

    def device(self, fingerprint: str) -> Device | None:
        """The device with that certificate; None when it is not on file."""
        rows = self._rows(f"{DEVICE} WHERE fingerprint = ?", fingerprint)
        return Device(*rows[0]) if rows else None

    def holder(self, fingerprint: str) -> tuple[User, Device] | None:
        """Who holds that certificate, and on which device; None when it is not on file."""
        device = self.device(fingerprint)
        user = None if device is None else self.user_by_id(device.user)
        return None if user is None or device is None else (user, device)

    def devices(self, user_id: int | None = None) -> list[Device]:
        """The devices of one user, or of all of them, oldest first."""
        rows = self._rows(f"{DEVICE} WHERE ?1 IS NULL OR user = ?1 ORDER BY id", user_id)
        return [Device(*row) for row in rows]

    def has_device(self, device_id: int) -> bool:
        """Whether that device is (still) on file."""
        return bool(self._rows("SELECT 1 FROM device WHERE id = ?", device_id))

    def remove_device(self, device_id: int) -> bool:
        """Forget the device, native or stock, with its lease; False when there is none."""
        return self._change("DELETE FROM device WHERE id = ?", device_id)

    def set_authenticated(self, device_id: int, unix: float) -> bool:
        """Note that the password was proved on the device; False when it was removed."""
        return self._change("UPDATE device SET authenticated = ? WHERE id = ?", unix, device_id)

    # Leases

    def leases(self) -> list[Lease]:
        """Every lease on file, by device."""
        return [lease_of(row) for row in self._rows(f"{LEASE} ORDER BY lease.device")]

    def save_lease(self, lease: Lease, evicted: Sequence[int] = ()) -> None:
        """Keep *lease* and forget those of the devices *evicted* for it, both or neither.

        Raises:
            Gone: the device was removed meanwhile.
            AddressTaken: a stock device was put on file meanwhile, with one of the addresses.
            Misuse: another native device's lease, not evicted, has one of the addresses.
        """
        with self._transaction():
            if not self.has_device(lease.device):
                raise Gone("the device was removed")
            if self._stock_device_with(lease.address4, lease.address6) is not None:
                raise AddressTaken("the address belongs to a stock device now")
            self._delete_leases(evicted)
            self._db.execute(
                "INSERT INTO lease (device, address4, address6, released) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (device) DO UPDATE SET address4 = excluded.address4,"
                " address6 = excluded.address6, released = excluded.released",
                (lease.device, lease.address4, lease.address6, lease.released),
            )

    def release_lease(self, device_id: int, unix: float) -> bool:
        """Note that the device left, and when; its lease stays its own.

        False without one, and for a stock device, whose lease is always in use.
        """
        return self._change(_RELEASE, unix, device_id)

    def delete_leases(self, devices: Iterable[int]) -> None:
        """Forget the leases of *devices*, all or none.

        Those without one do not matter; those of stock devices stay, whoever asks.
        """
        with self._transaction():
            self._delete_leases(devices)

    def _delete_leases(self, devices: Iterable[int]) -> None:
        self._db.executemany(_END_LEASE, ((each,) for each in devices))

    # The file

    def data_version(self) -> tuple[int, int]:
        """A value that differs from the last one when users or devices may be others than before.

        Because another process has changed the file, or because a device had to make room here.
        """
        return self._number("PRAGMA data_version"), self._evictions

    def _user(self, query: str, value: object) -> User | None:
        rows = self._rows(query, value)
        return _user(rows[0]) if rows else None
