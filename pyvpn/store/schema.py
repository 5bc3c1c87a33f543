"""The tables of the store, and how a file that an older pyvpn wrote gets them.

A number is never used twice (AUTOINCREMENT), so that a session or certificate which remembers a
removed user or device can never be taken for a newer one.
"""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 3
APPLICATION = 0x7079766E  # "pyvn", which file(1) and we can tell from other SQLite files

_USER = """
CREATE TABLE user (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    name             TEXT NOT NULL UNIQUE,
    password_hash    TEXT NOT NULL,
    disabled         INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    fixed4           BLOB UNIQUE CHECK (length(fixed4) = 4),
    fixed6           BLOB UNIQUE CHECK (length(fixed6) = 16),
    created          REAL NOT NULL,
    password_changed REAL NOT NULL
) STRICT
"""

# Without a certificate (fingerprint) it is a stock WireGuard app: an administrator has put its key
# on file, and its row in "lease" is for good.
_DEVICE = """
CREATE TABLE {name} (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    user          INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    fingerprint   TEXT UNIQUE,
    name          TEXT NOT NULL,
    created       REAL NOT NULL,
    authenticated REAL NOT NULL,
    public_key    BLOB UNIQUE CHECK (length(public_key) = 32),
    preshared_key BLOB CHECK (length(preshared_key) = 32),
    CHECK (fingerprint IS NOT NULL OR public_key IS NOT NULL)
) STRICT
"""

_DEVICE_OF_USER = "CREATE INDEX device_of_user ON device (user, authenticated)"

_LEASE = """
CREATE TABLE lease (
    device   INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    address4 BLOB UNIQUE CHECK (length(address4) = 4),
    address6 BLOB UNIQUE CHECK (length(address6) = 16),
    released REAL
) STRICT
"""

# What a running server would have to ask WireGuard peers for again, and cannot.
_PEER = """
CREATE TABLE peer (
    device   INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    host     BLOB CHECK (length(host) IN (4, 16)),
    port     INTEGER CHECK (port BETWEEN 0 AND 65535),
    scope    INTEGER CHECK (scope >= 0),
    heard    REAL,
    received BLOB CHECK (length(received) = 12),
    resets   INTEGER NOT NULL,
    CHECK ((host IS NULL) = (port IS NULL) AND (host IS NULL) = (scope IS NULL))
) STRICT
"""

_SENT_STAMP = """
CREATE TABLE sent_stamp (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    stamp BLOB NOT NULL CHECK (length(stamp) = 12)
) STRICT
"""

# Bits a second from, and to, each device of the user; NULL: as many as pass.  Added to the table
# in a new file, too, so that it is the same in all.
_LIMITS = tuple(
    f"ALTER TABLE user ADD COLUMN {name} INTEGER CHECK ({name} > 0)"
    for name in ("limit_up", "limit_down")
)

_STATEMENTS = (
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    _USER,
    *_LIMITS,
    _DEVICE.format(name="device"),
    _DEVICE_OF_USER,
    _LEASE,
    _PEER,
    _SENT_STAMP,
)

SCHEMA = ";\n".join(_STATEMENTS) + ";"
"""A script that makes an empty store of an empty file."""

# SQLite cannot take NOT NULL off a column: the table is copied.  Its counter as well: that would
# fall back to the highest number left, and a removed device's number would come again.
_FROM_1_TO_2 = (
    _DEVICE.format(name="device_2"),
    "INSERT INTO device_2 (id, user, fingerprint, name, created, authenticated)"
    " SELECT id, user, fingerprint, name, created, authenticated FROM device",
    "DELETE FROM sqlite_sequence WHERE name = 'device_2'",
    "INSERT INTO sqlite_sequence (name, seq)"
    " SELECT 'device_2', seq FROM sqlite_sequence WHERE name = 'device'",
    "DROP TABLE device",
    "ALTER TABLE device_2 RENAME TO device",
    _DEVICE_OF_USER,
    _PEER,
    _SENT_STAMP,
    "PRAGMA user_version = 2",
)

_FROM_2_TO_3 = (*_LIMITS, "PRAGMA user_version = 3")

_STEPS = {1: _FROM_1_TO_2, 2: _FROM_2_TO_3}
"""What turns a file of each older schema into the next one's."""


def is_known(version: int) -> bool:
    """Whether a file of that schema can be used, perhaps after :func:`migrate`."""
    return version == SCHEMA_VERSION or version in _STEPS


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older file to :data:`SCHEMA_VERSION`: wholly, or not at all.

    *connection* is in autocommit mode and does not enforce foreign keys: a table that others
    refer to is exchanged.  Of several processes one does it, and the others find it done; by a
    pyvpn that is newer than this one perhaps, so look at the version again.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        while (step := _STEPS.get(_version(connection))) is not None:
            for statement in step:
                connection.execute(statement)
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise sqlite3.DatabaseError(f"a row of {broken[0]} belongs to nothing in {broken[2]}")
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # a full disk has rolled back by itself
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.IntegrityError):  # in what was on file: not our mistake
            raise sqlite3.DatabaseError(str(error)) from error
        raise


def _version(connection: sqlite3.Connection) -> int:
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    assert isinstance(version, int)
    return version
