"""Which device has which addresses, here and across restarts.

A lease is *in use* while its device has a session and *sticky* afterwards: the device finds the
same addresses again, until ``sticky_seconds`` have passed or somebody else would have to be
turned away.  A *fixed* address belongs to a user: it goes to one device of that user, and to
nobody else ever.  A *pinned* lease is a device's own for good, whether it is here or not: that
of a stock WireGuard device, whose addresses stand in a file of its own.  Times are unix seconds,
because leases outlive the process and the boot.

This is the decision only.  The caller stores what is granted before it answers, and deletes
the leases that were evicted for it in the same transaction.  Pinned leases are decided by the
command line, on its own copy of what is stored; a server that runs is told of them by
:meth:`Leases.pin`, and they take precedence over whatever it has decided meanwhile.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from pyvpn.errors import Misuse
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.ages import Ages
from pyvpn.tunnel.family import Family
from pyvpn.tunnel.lease import AddressHeld, Granted, Lease, PoolEmpty, Request

__all__ = ["AddressHeld", "Granted", "Lease", "Leases", "PoolEmpty"]


class Leases:
    """All leases of one server, over one pool a family (None: the family is not used).

    Raises:
        Misuse: there is no pool at all.
    """

    def __init__(
        self,
        pool4: AddressPool | None,
        pool6: AddressPool | None,
        sticky_seconds: float = 30 * 86400.0,
    ) -> None:
        if pool4 is None and pool6 is None:
            raise Misuse("leases without any pool")
        self.sticky_seconds = sticky_seconds
        """How long a lease is kept for a device that is away; may change at any time."""
        self._leases: dict[int, Lease] = {}
        self._sticky: Ages[int] = Ages()
        self._pinned: set[int] = set()
        self._family4 = None if pool4 is None else Family(pool4, self._leases)
        self._family6 = None if pool6 is None else Family(pool6, self._leases)

    @property
    def in_use(self) -> int:
        """How many leases have a session now; pinned ones are not counted."""
        return len(self._leases) - len(self._sticky) - len(self._pinned)

    @property
    def pinned(self) -> int:
        """How many leases are pinned."""
        return len(self._pinned)

    def get(self, device: int) -> Lease | None:
        """Return the lease of *device*, in use or sticky."""
        return self._leases.get(device)

    def restore(self, rows: Iterable[Lease], unix: float, *, running: bool = False) -> list[Lease]:
        """Take over what the store kept, at the start.

        Leases that were in use at the crash count as released at *unix*.  An address whose
        pool is gone, or does not give it out any more, is left out of its lease.  Pinned
        leases come first, as by :meth:`pin`.

        Args:
            running: there was no crash, a server is at work on those rows: what is in use stays.

        Returns:
            The rows that could not be kept, for the caller to delete: no address was left, or
            the device or an address is another row's (the one used last is kept).  None of
            them is pinned.
        """
        every = list(rows)
        self.pin((row for row in every if row.pinned), unix)
        dropped: list[Lease] = []
        ordinary = (row for row in every if not row.pinned)
        for row in sorted(ordinary, key=lambda row: _released(row, unix), reverse=True):
            released = _released(row, unix)
            lease = self._permitted(row)._replace(released=released)
            parts = self._parts(lease)
            doubled = row.device in self._leases or any(
                address in family.holder for family, address in parts
            )
            if doubled or not parts:
                dropped.append(row)
                continue
            for family, address in parts:
                family.give(address, row.device)
            if running and row.released is None:
                self._leases[row.device] = lease._replace(released=None)
            else:
                self._keep_sticky(lease)
        return dropped

    def pin(self, rows: Iterable[Lease], unix: float) -> list[int]:
        """Make *rows* the pinned leases, and no others.

        They are on disk, so whoever has one of their addresses here has it by mistake.  A row's
        address that no pool gives out (any more) is left out of its lease, and a row that has no
        other is left out; of two rows with one address the first has it.

        Returns:
            The devices whose leases ended for it.  One that was in use was lost by a device that
            was removed, or is being taken at this moment and will be refused by the store.
        """
        permitted = ((row.device, self._permitted(row)) for row in rows)
        wanted = {device: lease for device, lease in permitted if self._parts(lease)}
        changed = [device for device in self._pinned if wanted.get(device) != self._leases[device]]
        for device in changed:
            self.forget(device, unix)
        ended: list[int] = []
        for device, lease in wanted.items():
            if device not in self._pinned:
                self._pin(lease, unix, ended)
        return ended

    def _pin(self, lease: Lease, unix: float, ended: list[int]) -> None:
        self.forget(lease.device, unix)
        for family, address in self._parts(lease):
            holder = family.holder.get(address)
            if holder in self._pinned:
                lease = lease.without(address)
                continue
            if holder is not None:
                ended.append(holder)
                self.forget(holder, unix)
            family.give(address, lease.device)
        self._leases[lease.device] = lease
        self._pinned.add(lease.device)

    def pin_new(
        self,
        device: int,
        user: int,
        unix: float,
        fixed4: bytes | None = None,
        fixed6: bytes | None = None,
        wanted4: bytes | None = None,
        wanted6: bytes | None = None,
    ) -> Granted:
        """Give *device* of *user*, which has no lease, a pinned one: an address of every family.

        Which, in this order: the wanted one, although a sticky lease must end for it; the user's
        fixed one, unless anybody has it; the highest free one, which is the last that
        :meth:`take` gives; that of the oldest sticky lease, which ends.

        Raises:
            AddressHeld: a wanted address is in use, pinned, not given out at all, or fixed for
                somebody else.
            PoolEmpty: a family has nothing left.
        """
        request4 = Request(device, user, unix, fixed4, None, wanted4)
        request6 = Request(device, user, unix, fixed6, None, wanted6)
        for family, request in ((self._family4, request4), (self._family6, request6)):
            if family is not None:
                family.judge(family.to_pin(request))
        evicted: list[int] = []
        lease = Lease(
            device,
            user,
            self._give(self._family4, request4, evicted, new_pin=True),
            self._give(self._family6, request6, evicted, new_pin=True),
            None,
            pinned=True,
        )
        self._leases[device] = lease
        self._pinned.add(device)
        return Granted(lease, evicted)

    def take(
        self,
        device: int,
        user: int,
        unix: float,
        fixed4: bytes | None = None,
        fixed6: bytes | None = None,
        wanted4: bytes | None = None,
        wanted6: bytes | None = None,
    ) -> Granted:
        """Give *device* of *user* an address of every family there is.

        Which, in this order: the user's fixed one, unless another device has it in use; the
        device's own sticky one; the wanted one, if it is free; a never-used one; the one whose
        quarantine began first; that of the oldest sticky lease, which ends.
        A device whose lease is in use gets the same again, whatever it asks for.

        Raises:
            PoolEmpty: a family has nothing left; nothing has changed.
        """
        old = self._leases.get(device)
        if old is not None and old.released is None:
            return Granted(old, [])
        own4, own6 = (old.address4, old.address6) if old is not None else (None, None)
        request4 = Request(device, user, unix, fixed4, own4, wanted4)
        request6 = Request(device, user, unix, fixed6, own6, wanted6)
        # Judge both families before touching either, so that a refusal leaves no trace.
        # What is then done for one can only make more room in the other.
        for family, request in ((self._family4, request4), (self._family6, request6)):
            if family is not None:
                family.judge(family.named(request))
        evicted: list[int] = []
        lease = Lease(
            device,
            user,
            self._give(self._family4, request4, evicted),
            self._give(self._family6, request6, evicted),
            None,
        )
        if old is not None:
            self._sticky.discard(device)
            for family, address in self._parts(old):
                family.evictable.discard(device)
                if address not in (lease.address4, lease.address6):
                    family.take_back(address, unix)
        self._leases[device] = lease
        return Granted(lease, evicted)

    def resume(
        self,
        device: int,
        user: int,
        unix: float,
        fixed4: bytes | None = None,
        fixed6: bytes | None = None,
    ) -> Lease | None:
        """Take the lease that *device* of *user* has into use, as it is.

        None, and nothing changes, when it has none, a pinned one, or would be given other
        addresses by :meth:`take`: those must be on disk, and the device told, before it may come.
        """
        lease = self._leases.get(device)
        if lease is None or lease.pinned:
            return None
        if lease.released is None:
            return lease
        own4, own6 = lease.address4, lease.address6
        for family, fixed, own in (
            (self._family4, fixed4, own4),
            (self._family6, fixed6, own6),
        ):
            request = Request(device, user, unix, fixed, own, None)
            if family is not None and (own is None or family.named(request) != own):
                return None
        lease = self._leases[device] = lease._replace(released=None)
        self._sticky.discard(device)
        for family, _ in self._parts(lease):
            family.evictable.discard(device)
        return lease

    def release(self, device: int, unix: float) -> bool:
        """Make the lease sticky, because its device has left.

        False when it is not in use, or pinned, which it stays.
        """
        lease = self._leases.get(device)
        if lease is None or lease.released is not None or lease.pinned:
            return False
        self._keep_sticky(lease._replace(released=unix))
        return True

    def forget(self, device: int, unix: float) -> bool:
        """End the lease of a device that exists no more; False when it has none."""
        lease = self._leases.pop(device, None)
        if lease is None:
            return False
        self._sticky.discard(device)
        self._pinned.discard(device)
        for family, address in self._parts(lease):
            family.evictable.discard(device)
            family.take_back(address, unix)
        return True

    def forget_all_but(self, devices: Container[int], unix: float) -> int:
        """End the leases of devices that exist no more; return how many.

        *devices* are those that exist.  A lease in use stays until its device is released, and a
        pinned one until :meth:`pin` is told so.  Looks at every lease: for when accounts have
        changed.
        """
        gone = [
            lease.device
            for lease in self._leases.values()
            if lease.released is not None and lease.device not in devices
        ]
        for device in gone:
            self.forget(device, unix)
        return len(gone)

    def expire(self, unix: float) -> list[int]:
        """End the sticky leases whose time is over; return their devices, oldest first."""
        ended: list[int] = []
        limit = unix - self.sticky_seconds
        while (oldest := self._sticky.oldest()) is not None and oldest[0] <= limit:
            ended.append(oldest[1])
            self.forget(oldest[1], unix)
        return ended

    def reserve_fixed(
        self, user: int, address4: bytes | None, address6: bytes | None
    ) -> tuple[bytes, ...]:
        """Say which fixed addresses *user* has from now on; None for none.

        An address belongs to the user it was last said of, so a number of changes may be told in
        any order.  A device that has the address in use keeps it until it leaves.

        Returns:
            Those that no pool gives out: they are not reserved, and nobody will get them.
        """
        pairs = ((self._family4, address4), (self._family6, address6))
        refused = [address for family, address in pairs if not _fix(family, user, address)]
        return tuple(address for address in refused if address is not None)

    def _parts(self, lease: Lease) -> list[tuple[Family, bytes]]:
        pairs = ((self._family4, lease.address4), (self._family6, lease.address6))
        return [(f, address) for f, address in pairs if f is not None and address is not None]

    def _keep_sticky(self, lease: Lease) -> None:
        assert lease.released is not None
        self._leases[lease.device] = lease
        self._sticky.set(lease.device, lease.released)
        for family, address in self._parts(lease):
            if address not in family.fixed:
                family.evictable.set(lease.device, lease.released)

    def _permitted(self, row: Lease) -> Lease:
        """*row* without the addresses that are not given out any more."""
        return row._replace(
            address4=_still_permitted(self._family4, row.address4),
            address6=_still_permitted(self._family6, row.address6),
        )

    def _give(
        self,
        family: Family | None,
        request: Request,
        evicted: list[int],
        *,
        new_pin: bool = False,
    ) -> bytes | None:
        """Give what :meth:`Family.judge` found possible, ending a sticky lease if need be."""
        if family is None:
            return None
        address = family.to_pin(request) if new_pin else family.named(request)
        victim = family.in_the_way(address, request.device)
        if victim is not None:
            evicted.append(victim)
            self.forget(victim, request.unix)
        if address is None:
            address = (family.pool.take_last if new_pin else family.pool.take)(request.unix)
            assert address is not None
        family.give(address, request.device)
        return address


def _released(row: Lease, unix: float) -> float:
    """When the lease became sticky; a time to come is a clock set back in between."""
    return unix if row.released is None else min(row.released, unix)


def _still_permitted(family: Family | None, address: bytes | None) -> bytes | None:
    if family is None or address is None or not family.pool.permits(address):
        return None
    return address


def _fix(family: Family | None, user: int, address: bytes | None) -> bool:
    return address is None if family is None else family.fix(user, address)
