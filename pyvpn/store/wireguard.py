"""Stock WireGuard devices on file, and what a server remembers of its WireGuard peers.

A stock device has no certificate.  An administrator puts its public key on file together with
its addresses, and both are its own until the device is removed: nothing the server does by
itself touches that lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyvpn.store.database import Database
from pyvpn.store.records import Device, Gone, KeyTaken, NameTaken, Remembered
from pyvpn.tunnel.leases import Granted, Lease
from pyvpn.wire.datagram import Path

DEVICE = (
    "SELECT id, user, fingerprint, name, created, authenticated, public_key, preshared_key"
    " FROM device"
)
LEASE = (
    "SELECT lease.device, device.user, address4, address6, released, fingerprint IS NULL"
    " FROM lease JOIN device ON device.id = lease.device"
)

_SAVE = (
    "INSERT INTO peer (device, host, port, scope, heard, received, resets)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM device WHERE id = ?1)"
    " ON CONFLICT (device) DO UPDATE SET host = excluded.host, port = excluded.port,"
    " scope = excluded.scope, heard = excluded.heard,"
    " received = iif(resets = excluded.resets, excluded.received, received)"
)


def lease_of(row: Sequence[Any]) -> Lease:
    """A row of :data:`LEASE`."""
    device, user, address4, address6, released, pinned = row
    return Lease(device, user, address4, address6, released, bool(pinned))


class WireGuardRecords(Database):
    """The part of the store that is about WireGuard."""

    # Stock devices

    def set_native_key(self, device_id: int, public_key: bytes) -> bool:
        """Note that the WireGuard key has been proved to be that native device's.

        Whose it was before has none then.  False, and nothing changes, when the device was
        removed, is none of ours, or a stock device has the key.
        """
        with self._transaction():
            if self._rows(
                "SELECT 1 FROM device WHERE public_key = ? AND fingerprint IS NULL", public_key
            ):
                return False
            self._free_key(public_key)
            return self._update(
                "UPDATE device SET public_key = ? WHERE id = ? AND fingerprint IS NOT NULL",
                public_key,
                device_id,
            )

    def _free_key(self, public_key: bytes) -> None:
        """Take the key from the native device that has it, if one does."""
        self._db.execute(
            "UPDATE device SET public_key = NULL WHERE public_key = ? AND fingerprint IS NOT NULL",
            (public_key,),
        )

    def add_stock_device(
        self,
        user_id: int,
        name: str,
        public_key: bytes,
        preshared_key: bytes | None,
        unix: float,
        grant: Callable[[int], Granted],
    ) -> tuple[Device, Lease]:
        """Put a device without a certificate on file, with a lease that never ends.

        *grant* decides which addresses: called with the number of the new device, while nobody
        else can write, so what it reads here of leases and users is what counts.

        Raises:
            Gone: the user was removed meanwhile.
            NameTaken: the user has a device of that name.
            KeyTaken: another device has that public key.
            Anything that *grant* raises; nothing has changed then either.
        """
        with self._transaction():
            self._check_new(user_id, name, public_key)
            self._free_key(public_key)  # what is put on file by hand comes first
            added = self._db.execute(
                "INSERT INTO device (user, name, created, authenticated, public_key,"
                " preshared_key) VALUES (?, ?, ?, ?, ?, ?)",
                (user_id, name, unix, unix, public_key, preshared_key),
            )
            assert added.lastrowid is not None
            lease, evicted = grant(added.lastrowid)
            self._db.executemany("DELETE FROM lease WHERE device = ?", ((e,) for e in evicted))
            self._db.execute(
                "INSERT INTO lease (device, address4, address6) VALUES (?, ?, ?)",
                (added.lastrowid, lease.address4, lease.address6),
            )
            [row] = self._rows(f"{DEVICE} WHERE id = ?", added.lastrowid)
            return Device(*row), lease

    def _check_new(self, user_id: int, name: str, public_key: bytes) -> None:
        if not self._rows("SELECT 1 FROM user WHERE id = ?", user_id):
            raise Gone("the user was removed")
        if self._rows("SELECT 1 FROM device WHERE user = ? AND name = ?", user_id, name):
            raise NameTaken(f"the user has a device {name!r} already")
        holder = self._rows(
            "SELECT user.name, device.name FROM device JOIN user ON user.id = device.user"
            " WHERE public_key = ? AND fingerprint IS NULL",
            public_key,
        )
        if holder:
            raise KeyTaken(
                f"that public key is on file for {holder[0][0]}'s device {holder[0][1]!r}"
            )

    def pinned_leases(self) -> list[Lease]:
        """The leases of the stock devices, by device."""
        query = f"{LEASE} WHERE fingerprint IS NULL ORDER BY lease.device"
        return [lease_of(row) for row in self._rows(query)]

    def _stock_device_with(
        self, address4: bytes | None, address6: bytes | None
    ) -> tuple[str, str] | None:
        """The user's and the device's name of the stock device that has one of the addresses."""
        rows = self._rows(
            "SELECT user.name, device.name FROM lease JOIN device ON device.id = lease.device"
            " JOIN user ON user.id = device.user"
            " WHERE fingerprint IS NULL AND (address4 = ? OR address6 = ?)",
            address4,
            address6,
        )
        return (rows[0][0], rows[0][1]) if rows else None

    # What a server remembers of its peers

    def peers(self) -> list[Remembered]:
        """All that was remembered, by device."""
        rows = self._rows(
            "SELECT device, host, port, scope, heard, received, resets FROM peer ORDER BY device"
        )
        return [
            Remembered(device, None if host is None else Path(host, port, scope), *rest)
            for device, host, port, scope, *rest in rows
        ]

    def save_peers(self, peers: Iterable[Remembered]) -> None:
        """Remember *peers*, all or none of them; those whose device was removed are left out.

        Where ``resets`` is not what is on file, an operator has had the timestamp forgotten
        since: it stays forgotten.
        """
        with self._transaction():
            self._db.executemany(
                _SAVE,
                (
                    (device, *((None, None, None) if path is None else path[:3]), *rest)
                    for device, path, *rest in peers
                ),
            )

    def reset_peer(self, device_id: int) -> bool:
        """Forget the highest timestamp of the device's handshakes, so that any is the newest.

        False when there is no device of that number with a WireGuard key.
        """
        return self._change(
            "INSERT INTO peer (device, resets) SELECT id, 1 FROM device"
            " WHERE id = ? AND public_key IS NOT NULL"
            " ON CONFLICT (device) DO UPDATE SET received = NULL, resets = resets + 1",
            device_id,
        )

    def sent_stamp(self) -> bytes | None:
        """The TAI64N timestamp, 12 bytes, above which we may send; None: none was saved."""
        rows = self._rows("SELECT stamp FROM sent_stamp")
        return rows[0][0] if rows else None

    def save_sent_stamp(self, stamp: bytes) -> None:
        """Keep *stamp*, unless a higher one is on file: what was sent is never undercut."""
        self._change(
            "INSERT INTO sent_stamp (one, stamp) VALUES (1, ?)"
            " ON CONFLICT (one) DO UPDATE SET stamp = max(stamp, excluded.stamp)",
            stamp,
        )
