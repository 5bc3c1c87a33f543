"""The store on one machine: a SQLite file in the state directory.

Rules of this file: a method has committed when it returns and changed nothing when it raises;
every ``sqlite3`` error leaves as one of ours; nothing here reads a clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyvpn.errors import HostError, Misuse
from pyvpn.store.file import check_file, make_file, read_error
from pyvpn.store.records import AddressTaken, Device, Gone, NameTaken, TooManyDevices, User
from pyvpn.tunnel.leases import Lease

FILE_NAME = "users.sqlite"
"""What the store is called in the state directory."""

DEVICES_PER_USER = 32  # people have few; a stolen password must not fill the disk

BUSY_SECONDS = 5.0

SCHEMA_VERSION = 1
_APPLICATION = 0x7079766E  # "pyvn", which file(1) and we can tell from other SQLite files

# AUTOINCREMENT: a number is never used twice, so that a session or certificate which remembers a
# removed user or device can never be taken for a newer one.
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE user (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    name             TEXT NOT NULL UNIQUE,
    password_hash    TEXT NOT NULL,
    disabled         INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    fixed4           BLOB UNIQUE CHECK (length(fixed4) = 4),
    fixed6           BLOB UNIQUE CHECK (length(fixed6) = 16),
    created          REAL NOT NULL,
    password_changed REAL NOT NULL
) STRICT;
CREATE TABLE device (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    user          INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    fingerprint   TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    created       REAL NOT NULL,
    authenticated REAL NOT NULL
) STRICT;
CREATE INDEX device_of_user ON device (user, authenticated);
CREATE TABLE lease (
    device   INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    address4 BLOB UNIQUE CHECK (length(address4) = 4),
    address6 BLOB UNIQUE CHECK (length(address6) = 16),
    released REAL
) STRICT;
"""

_USER = (
    "SELECT id, name, password_hash, disabled, fixed4, fixed6, created, password_changed FROM user"
)
_DEVICE = "SELECT id, user, fingerprint, name, created, authenticated FROM device"


def _user(row: Sequence[Any]) -> User:
    user_id, name, password_hash, disabled, *rest = row
    return User(user_id, name, password_hash, bool(disabled), *rest)


class Store:
    """Users, devices and leases in the SQLite file *path*, made when missing.

    Each method blocks on the disk, up to :data:`BUSY_SECONDS` while another process writes, so
    the server calls it from a thread; from any thread, but from one at a time.  Open it after
    the process has daemonised: SQLite's locks do not survive a fork.

    Raises:
        ConfigError: the file or its directory can be read or changed by others.
        HostError: from here and every method: damaged, made by a newer version, disk full, no
            permission.  The text names the file and the cure.
        Misuse: closed.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self._path = Path(path)
        self._evictions = 0
        if not check_file(self._path):
            if not create:
                raise HostError(
                    f"{self._path} does not exist: it is made by `pyvpn user add`"
                    " and by the first start of the server"
                )
            make_file(self._path, _SCHEMA)
        with self._errors():
            self._db = sqlite3.connect(
                # Without mode=rw SQLite would make an empty file where ours has just vanished.
                f"{self._path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        with self._errors():
            if self._number("PRAGMA application_id") != _APPLICATION:
                raise HostError(f"{self._path} is not a store of pyvpn: move it away")
            version = self._number("PRAGMA user_version")
            if version != SCHEMA_VERSION:
                raise HostError(
                    f"{self._path} has schema {version}, this pyvpn knows {SCHEMA_VERSION}:"
                    " install the pyvpn that wrote it, or a newer one"
                )
            # What was answered is kept, also when the power fails.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            # Looks at every row (10 ms for 10,000 users), so that damage shows at the start
            # and not at somebody's log-in.
            [(finding,)] = self._db.execute("PRAGMA quick_check(1)").fetchall()
            if finding != "ok":
                raise sqlite3.DatabaseError(finding)

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
            AddressTaken: one of them is fixed for another user.
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
            return self._update(
                "UPDATE user SET fixed4 = ?, fixed6 = ? WHERE name = ?", fixed4, fixed6, name
            )

    # Devices

    def add_device(self, user_id: int, fingerprint: str, name: str, unix: float) -> Device:
        """Put a device on file whose user has just proved the password.

        When the user has :data:`DEVICES_PER_USER` already, one that is not connected goes, with
        its lease: one that has no lease, or was called *name* as well, else the one that left
        longest ago.  So a machine that forgets its certificate at every start, and is a new
        device each time, pushes out what it was before and not the user's laptop.

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
            [row] = self._rows(f"{_DEVICE} WHERE fingerprint = ?", fingerprint)
            return Device(*row)

    def _make_room(self, user_id: int, name: str) -> None:
        count = self._number("SELECT count(*) FROM device WHERE user = ?", user_id)
        if count < DEVICES_PER_USER:
            return
        if not self._update(
            "DELETE FROM device WHERE id ="
            " (SELECT device.id FROM device LEFT JOIN lease ON lease.device = device.id"
            " WHERE device.user = ? AND (lease.device IS NULL OR lease.released IS NOT NULL)"
            " ORDER BY lease.device IS NOT NULL, device.name != ?, lease.released,"
            " device.authenticated, device.id LIMIT 1)",
            user_id,
            name,
        ):
            raise TooManyDevices(f"the user has {count} devices, all of them connected")
        self._evictions += 1

    def device(self, fingerprint: str) -> Device | None:
        """The device with that certificate; None when it is not on file."""
        rows = self._rows(f"{_DEVICE} WHERE fingerprint = ?", fingerprint)
        return Device(*rows[0]) if rows else None

    def devices(self, user_id: int | None = None) -> list[Device]:
        """The devices of one user, or of all of them, oldest first."""
        rows = self._rows(f"{_DEVICE} WHERE ?1 IS NULL OR user = ?1 ORDER BY id", user_id)
        return [Device(*row) for row in rows]

    def set_authenticated(self, device_id: int, unix: float) -> bool:
        """Note that the password was proved on the device; False when it was removed."""
        return self._change("UPDATE device SET authenticated = ? WHERE id = ?", unix, device_id)

    # Leases

    def leases(self) -> list[Lease]:
        """Every lease on file, by device."""
        rows = self._rows(
            "SELECT lease.device, device.user, address4, address6, released"
            " FROM lease JOIN device ON device.id = lease.device ORDER BY lease.device"
        )
        return [Lease(*row) for row in rows]

    def save_lease(self, lease: Lease, evicted: Sequence[int] = ()) -> None:
        """Keep *lease* and forget those of the devices *evicted* for it, both or neither.

        Raises:
            Gone: the device was removed meanwhile.
            Misuse: another device's lease on file, not evicted, has one of the addresses.
        """
        with self._transaction():
            if not self._rows("SELECT 1 FROM device WHERE id = ?", lease.device):
                raise Gone("the device was removed")
            self._delete_leases(evicted)
            self._db.execute(
                "INSERT INTO lease (device, address4, address6, released) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (device) DO UPDATE SET address4 = excluded.address4,"
                " address6 = excluded.address6, released = excluded.released",
                (lease.device, lease.address4, lease.address6, lease.released),
            )

    def release_lease(self, device_id: int, unix: float) -> bool:
        """Note that the device left, and when; its lease stays its own.  False without one."""
        return self._change("UPDATE lease SET released = ? WHERE device = ?", unix, device_id)

    def delete_leases(self, devices: Iterable[int]) -> None:
        """Forget the leases of *devices*, all or none; those without one do not matter."""
        with self._transaction():
            self._delete_leases(devices)

    def _delete_leases(self, devices: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM lease WHERE device = ?", ((each,) for each in devices))

    # The file

    def data_version(self) -> tuple[int, int]:
        """A value that differs from the last one when users or devices may be others than before.

        Because another process has changed the file, or because a device had to make room here.
        """
        return self._number("PRAGMA data_version"), self._evictions

    def close(self) -> None:
        """Let go of the file; once is enough, twice does no harm."""
        with suppress(sqlite3.Error):  # what was answered is kept; the rest is SQLite's tidying
            self._db.close()

    def _rows(self, query: str, *values: object) -> list[Any]:
        # Any: the tables are STRICT, so SQLite vouches for the types of what it returns.
        with self._errors():
            return self._db.execute(query, values).fetchall()

    def _number(self, query: str, *values: object) -> int:
        [(number,)] = self._rows(query, *values)
        assert isinstance(number, int)
        return number

    def _user(self, query: str, value: object) -> User | None:
        rows = self._rows(query, value)
        return _user(rows[0]) if rows else None

    def _change(self, statement: str, *values: object) -> bool:
        with self._transaction():
            return self._update(statement, *values)

    def _update(self, statement: str, *values: object) -> bool:
        return self._db.execute(statement, values).rowcount > 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")  # else two writers may deadlock at the upgrade
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError) as error:
            raise Misuse(f"{self._path}: {error}") from error
        except sqlite3.Error as error:
            raise read_error(self._path, error) from error
        except UnicodeDecodeError as error:  # sqlite3 reads names out of a damaged file
            raise read_error(self._path, sqlite3.DatabaseError(str(error))) from error
