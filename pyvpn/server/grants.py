"""Addresses for devices: decided in memory, on disk before anybody is told."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pyvpn.errors import PyvpnError
from pyvpn.net.threads import DaemonThreads
from pyvpn.store.records import AddressTaken, Device, Gone, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease, Leases, PoolEmpty
from pyvpn.wire.messages import Register

_log = Logger()

TRIES = 5
"""How often an address may be lost to the command line before one registration is refused."""


class Grants:
    """The leases, and their copy on disk.

    Args:
        storage: the one thread that *store* is used from.
        unix: wall clock seconds.
    """

    def __init__(
        self, leases: Leases, store: Store, storage: DaemonThreads, unix: Callable[[], float]
    ) -> None:
        self._leases = leases
        self._store = store
        self._storage = storage
        self._unix = unix
        # Whose lease is in use on disk, from before a restart: to take it again costs no write.
        self.interrupted: set[int] = set()
        self._granting: set[int] = set()
        # Devices whose lease has ended here, and not yet on disk, where it would be in the way.
        self._evicted: set[int] = set()

    async def grant(self, user: User, device: Device, request: Register) -> tuple[Lease, bool]:
        """Give *device* its addresses, and say whether the disk was waited for; one at a time.

        Raises:
            PoolEmpty: there are none for it.
            PyvpnError: the disk refuses; nothing was given then.
        """
        self._granting.add(device.id)
        try:
            lease, waited = await self._grant_at_last(user, device, request)
        finally:
            self._granting.discard(device.id)
        wishes = ((request.address4, lease.address4, 4), (request.address6, lease.address6, 16))
        for wish, given, size in wishes:
            if wish and _packed(wish, size) != given:
                _log.info(
                    "{user}/{device} asked for {wish}, which is not to be had",
                    user=user.name,
                    device=device.name,
                    wish=wish,
                )
        return lease, waited

    async def _grant_at_last(
        self, user: User, device: Device, request: Register
    ) -> tuple[Lease, bool]:
        for number in range(TRIES):
            try:
                lease, waited = await self._grant(user, device, request)
            except AddressTaken:
                # The command line was quicker: it pinned the address to a stock device a moment
                # ago, and we have not looked since.
                pinned = await self._storage.run(self._store.pinned_leases)
                self._leases.pin(pinned, self._unix())
            else:
                return lease, waited or number > 0
        raise PoolEmpty("the addresses were given away meanwhile; try again")

    def resume(self, user: User, device: Device) -> Lease | None:
        """Take the lease that *device* has into use, as it is on disk; None: it has none.

        That it is in use is written behind.  None, too, while :meth:`grant` is about to give it
        one that is not on disk yet, and may never be.
        """
        if device.id in self._granting:
            return None
        before = self._leases.get(device.id)
        lease = self._leases.resume(
            device.id, user.id, self._unix(), fixed4=user.fixed4, fixed6=user.fixed6
        )
        if lease is not None and lease != before and device.id not in self.interrupted:
            saving = self._storage.run(self._store.save_lease, lease)
            saving.addErrback(_not_saved, device.name)
        return lease

    async def _grant(self, user: User, device: Device, request: Register) -> tuple[Lease, bool]:
        before = self._leases.get(device.id)
        granted = self._leases.take(
            device.id,
            user.id,
            self._unix(),
            fixed4=user.fixed4,
            fixed6=user.fixed6,
            wanted4=_packed(request.address4, 4),
            wanted6=_packed(request.address6, 16),
        )
        if granted.lease == before:
            return granted.lease, False
        if (
            device.id in self.interrupted
            and before is not None
            and granted.lease[:4] == before[:4]
        ):
            return granted.lease, False
        self.interrupted.discard(device.id)
        self._evicted.update(granted.evicted)
        self._evicted.discard(device.id)  # whose row is about to be written
        evicted = tuple(self._evicted)
        try:
            await self._storage.run(self._store.save_lease, granted.lease, evicted)
        except BaseException:
            self._take_back(device, before)
            raise
        self._evicted.difference_update(evicted)
        return granted.lease, True

    def release(self, device: int, name: str) -> None:
        """The device has left: its lease stays its own, free to be evicted."""
        unix = self._unix()
        self.interrupted.discard(device)
        self._leases.release(device, unix)
        saving = self._storage.run(self._store.release_lease, device, unix)
        saving.addErrback(_not_saved, name)

    def expire(self) -> Deferred[None] | None:
        """End the sticky leases whose time is over; the Deferred may fail with PyvpnError."""
        self._evicted.update(self._leases.expire(self._unix()))
        if not self._evicted:
            return None
        ended = tuple(self._evicted)
        forgetting = self._storage.run(self._store.delete_leases, ended)
        return forgetting.addCallback(lambda _: self._evicted.difference_update(ended))

    def _take_back(self, device: Device, before: Lease | None) -> None:
        granted = self._leases.get(device.id)
        if before is not None and granted is not None and before[:4] == granted[:4]:
            self._leases.release(device.id, self._unix())
        else:
            self._leases.forget(device.id, self._unix())
            self._evicted.add(device.id)


def _not_saved(failure: Any, name: str) -> None:
    # The lease is held in memory; at worst a restart believes it was in use until then.
    if failure.check(Gone, AddressTaken):
        return  # by the command line, a moment ago: whoever looks for changes ends the session
    if failure.check(PyvpnError):
        _log.warn("{name}: lease not saved: {why}", name=name, why=str(failure.value))
    elif not failure.check(CancelledError):  # which is the end of the process
        _log.failure("the lease of {name} was not saved", failure, name=name)


def _packed(text: str, size: int) -> bytes | None:
    """A wished-for address; what is none is no wish."""
    try:
        packed = ip_address(text).packed
    except ValueError:
        return None
    return packed if len(packed) == size else None
