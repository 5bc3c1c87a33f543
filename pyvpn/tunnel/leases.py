"""Which device has which addresses, here and across restarts.

A lease is *in use* while its device has a session and *sticky* afterwards: the device finds the
same addresses again, until ``sticky_seconds`` have passed or somebody else would have to be
turned away.  A *fixed* address belongs to a user: it goes to one device of that user, and to
nobody else ever.  Times are unix seconds, because leases outlive the process and the boot.

This is the decision only.  The caller stores what is granted before it answers, and deletes
the leases that were evicted for it in the same transaction.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from pyvpn.errors import Misuse, PeerError
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.ages import Ages


class Lease(NamedTuple):
    """The addresses of a device; also the row the store keeps."""

    device: int
    user: int
    address4: bytes | None
    address6: bytes | None
    released: float | None
    """Unix time at which it became sticky; None while it is in use."""


class Granted(NamedTuple):
    """A lease, and the devices whose sticky leases ended to make it possible."""

    lease: Lease
    evicted: list[int]


class PoolEmpty(PeerError):
    """No lease for this request: every address is in use, or fixed for somebody else."""


class _Request(NamedTuple):
    """What a device asks of one family."""

    device: int
    user: int
    unix: float
    fixed: bytes | None
    own: bytes | None  # of its sticky lease
    wanted: bytes | None


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
        self._family4 = None if pool4 is None else _Family(pool4, self._leases)
        self._family6 = None if pool6 is None else _Family(pool6, self._leases)

    @property
    def in_use(self) -> int:
        """How many leases have a session now."""
        return len(self._leases) - len(self._sticky)

    def get(self, device: int) -> Lease | None:
        """Return the lease of *device*, in use or sticky."""
        return self._leases.get(device)

    def restore(self, rows: Iterable[Lease], unix: float) -> list[Lease]:
        """Take over what the store kept, at the start.

        Leases that were in use at the crash count as released at *unix*.  An address whose
        pool is gone, or does not give it out any more, is left out of its lease.

        Returns:
            The rows that could not be kept, for the caller to delete: no address was left, or
            the device or an address is another row's (the one used last is kept).
        """
        dropped: list[Lease] = []
        for row in sorted(rows, key=lambda row: _released(row, unix), reverse=True):
            lease = Lease(
                row.device,
                row.user,
                _still_permitted(self._family4, row.address4),
                _still_permitted(self._family6, row.address6),
                _released(row, unix),
            )
            parts = self._parts(lease)
            doubled = row.device in self._leases or any(
                address in family.holder for family, address in parts
            )
            if doubled or not parts:
                dropped.append(row)
                continue
            for family, address in parts:
                family.give(address, row.device)
            self._keep_sticky(lease)
        return dropped

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
        request4 = _Request(device, user, unix, fixed4, own4, wanted4)
        request6 = _Request(device, user, unix, fixed6, own6, wanted6)
        # Judge both families before touching either, so that a refusal leaves no trace.
        # What is then done for one can only make more room in the other.
        for family, request in ((self._family4, request4), (self._family6, request6)):
            if family is not None:
                family.judge(request)
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

    def release(self, device: int, unix: float) -> bool:
        """Make the lease sticky, because its device has left; False when it is not in use."""
        lease = self._leases.get(device)
        if lease is None or lease.released is not None:
            return False
        self._keep_sticky(lease._replace(released=unix))
        return True

    def forget(self, device: int, unix: float) -> bool:
        """End the lease of a device that exists no more; False when it has none."""
        lease = self._leases.pop(device, None)
        if lease is None:
            return False
        self._sticky.discard(device)
        for family, address in self._parts(lease):
            family.evictable.discard(device)
            family.take_back(address, unix)
        return True

    def forget_all_but(self, devices: Container[int], unix: float) -> int:
        """End the leases of devices that exist no more; return how many.

        *devices* are those that exist.  A lease in use stays until its device is released.  Looks
        at every lease: for when accounts have changed.
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

    def _parts(self, lease: Lease) -> list[tuple[_Family, bytes]]:
        pairs = ((self._family4, lease.address4), (self._family6, lease.address6))
        return [(f, address) for f, address in pairs if f is not None and address is not None]

    def _keep_sticky(self, lease: Lease) -> None:
        assert lease.released is not None
        self._leases[lease.device] = lease
        self._sticky.set(lease.device, lease.released)
        for family, address in self._parts(lease):
            if address not in family.fixed:
                family.evictable.set(lease.device, lease.released)

    def _give(self, family: _Family | None, request: _Request, evicted: list[int]) -> bytes | None:
        """Give what :meth:`_Family.judge` found possible, ending a sticky lease if need be."""
        if family is None:
            return None
        address = family.named(request)
        victim = family.in_the_way(address, request.device)
        if victim is not None:
            evicted.append(victim)
            self.forget(victim, request.unix)
        if address is None:
            address = family.pool.take(request.unix)
            assert address is not None
        family.give(address, request.device)
        return address


class _Family:
    """One pool, and whose its addresses are.

    Addresses that are fixed for a user are set aside in the pool, so that nobody gets them by
    chance, and a sticky lease's fixed address is not listed as one that can be evicted.
    """

    def __init__(self, pool: AddressPool, leases: dict[int, Lease]) -> None:
        self.pool = pool
        self.holder: dict[bytes, int] = {}
        """Address to the device whose lease, in use or sticky, has it."""
        self.fixed: dict[bytes, int] = {}
        """Address to the user whose fixed one it is."""
        self._fixed_of: dict[int, bytes] = {}
        self.evictable: Ages[int] = Ages()
        """Devices whose sticky lease would free an address here that anybody may have."""
        self._leases = leases

    def named(self, request: _Request) -> bytes | None:
        """Return the address that the request has a claim to, or None: any will do."""
        fixed, own, wanted = request.fixed, request.own, request.wanted
        if fixed is not None and self._is_for(fixed, request.user):
            holder = self.holder.get(fixed)
            if holder is None or self._leases[holder].released is not None:
                return fixed
        if own is not None and self._is_for(own, request.user):
            return own
        if wanted is not None and self.pool.offers(wanted, request.unix):
            return wanted
        return None

    def in_the_way(self, address: bytes | None, device: int) -> int | None:
        """Return the device whose sticky lease must end so that *device* gets *address*."""
        if address is not None:
            holder = self.holder.get(address)
            return None if holder == device else holder
        if self.pool.free:
            return None
        oldest = self.evictable.oldest()
        assert oldest is not None
        return oldest[1]

    def judge(self, request: _Request) -> None:
        """Raise :class:`PoolEmpty` if the request cannot be met; change nothing."""
        if self.named(request) is None and not self.pool.free and not self.evictable:
            raise PoolEmpty(f"none of the {self.pool.usable} addresses is free")

    def give(self, address: bytes, device: int) -> None:
        """Note that *device* has *address*, which the pool may or may not have given yet."""
        self.pool.claim(address)
        self.holder[address] = device

    def take_back(self, address: bytes, unix: float) -> None:
        """Note that nobody has *address* any more."""
        del self.holder[address]
        self.pool.release(address, unix)

    def fix(self, user: int, address: bytes | None) -> bool:
        """Make *address* the fixed one of *user*, instead of any other; False if it cannot be."""
        old = self._fixed_of.get(user)
        if old is not None and old != address:
            self._unfix(user, old)
        if address is None:
            return True
        if not self.pool.permits(address):
            return False
        previous = self.fixed.get(address)
        if previous is not None:
            del self._fixed_of[previous]
        self.fixed[address] = user
        self._fixed_of[user] = address
        self.pool.set_aside(address)
        if address in self.holder:
            self.evictable.discard(self.holder[address])
        return True

    def _unfix(self, user: int, address: bytes) -> None:
        del self._fixed_of[user]
        del self.fixed[address]
        self.pool.put_back(address)
        if address in self.holder:
            lease = self._leases[self.holder[address]]
            if lease.released is not None:
                self.evictable.set(lease.device, lease.released)

    def _is_for(self, address: bytes, user: int) -> bool:
        """Whether *user* may have *address*: it is given out, and not another user's."""
        return self.pool.permits(address) and self.fixed.get(address, user) == user


def _released(row: Lease, unix: float) -> float:
    """When the lease became sticky; a time to come is a clock set back in between."""
    return unix if row.released is None else min(row.released, unix)


def _still_permitted(family: _Family | None, address: bytes | None) -> bytes | None:
    if family is None or address is None or not family.pool.permits(address):
        return None
    return address


def _fix(family: _Family | None, user: int, address: bytes | None) -> bool:
    return address is None if family is None else family.fix(user, address)
