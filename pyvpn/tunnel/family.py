"""The leases of one address family: which address each request has a claim to."""

from __future__ import annotations

from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.ages import Ages
from pyvpn.tunnel.lease import AddressHeld, Lease, PoolEmpty, Request


class Family:
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

    def named(self, request: Request) -> bytes | None:
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

    def to_pin(self, request: Request) -> bytes | None:
        """Return the address that a new pinned lease shall have, or None: any will do.

        Raises:
            AddressHeld: the wanted one is somebody else's, or nobody's ever.
        """
        fixed, wanted = request.fixed, request.wanted
        if wanted is not None:
            self._refuse_held(wanted, request.user)
            return wanted
        if fixed is not None and self._is_for(fixed, request.user) and fixed not in self.holder:
            return fixed
        return None

    def _refuse_held(self, address: bytes, user: int) -> None:
        if not self.pool.permits(address):
            raise AddressHeld(address, None, None)
        owner = self.fixed.get(address, user)
        if owner != user:
            raise AddressHeld(address, owner, None)
        holder = self.holder.get(address)
        if holder is not None and self._leases[holder].released is None:
            raise AddressHeld(address, self._leases[holder].user, holder)

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

    def judge(self, address: bytes | None) -> None:
        """Raise :class:`PoolEmpty` if any address will do and there is none; change nothing."""
        if address is None and not self.pool.free and not self.evictable:
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
