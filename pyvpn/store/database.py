"""The opened file: transactions, and every ``sqlite3`` error turned into one of ours.

Rules of everything built on it: a method has committed when it returns and changed nothing when
it raises; nothing here reads a clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyvpn.errors import HostError, Misuse
from pyvpn.store.file import check_file, make_file, read_error
from pyvpn.store.schema import APPLICATION, SCHEMA, SCHEMA_VERSION, is_known, migrate

BUSY_SECONDS = 5.0


class Database:
    """The SQLite file *path*, made when missing, and brought up to date when an older one.

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
        if not check_file(self._path):
            if not create:
                raise HostError(
                    f"{self._path} does not exist: it is made by `pyvpn user add`"
                    " and by the first start of the server"
                )
            make_file(self._path, SCHEMA)
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
            if self._number("PRAGMA application_id") != APPLICATION:
                raise HostError(f"{self._path} is not a store of pyvpn: move it away")
            version = self._number("PRAGMA user_version")
            if not is_known(version):
                raise self._unknown(version)
            # What was answered is kept, also when the power fails.
            self._db.execute("PRAGMA synchronous = FULL")
            # Looks at every row (10 ms for 10,000 users), so that damage shows at the start
            # and not at somebody's log-in.
            [(finding,)] = self._db.execute("PRAGMA quick_check(1)").fetchall()
            if finding != "ok":
                raise sqlite3.DatabaseError(finding)
            if version != SCHEMA_VERSION:
                self._db.execute("PRAGMA foreign_keys = OFF")
                migrate(self._db)
                version = self._number("PRAGMA user_version")
                if version != SCHEMA_VERSION:
                    raise self._unknown(version)
            self._db.execute("PRAGMA foreign_keys = ON")

    def _unknown(self, version: int) -> HostError:
        return HostError(
            f"{self._path} has schema {version}, this pyvpn knows {SCHEMA_VERSION}:"
            " install the pyvpn that wrote it, or a newer one"
        )

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
