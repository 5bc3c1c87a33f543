"""The addresses of one pool: which are free, and which to give next.

An address is in exactly one of four states: *held*; *set aside* for a user who has it fixed;
*resting* (it was held before, waits in order of release); or never used.  Never-used addresses
are not listed anywhere, a rising number stands for them: a /64 costs no more than a /24.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pyvpn.errors import Misuse


class AddressPool:
    """Gives out the host addresses of *network*, each to one holder at a time.

    Never given are *reserved* addresses (the server's own), the network and broadcast address
    of IPv4, and for IPv6 the first address, which is the routers' anycast (RFC 4291 2.6.1).
    Addresses are packed bytes.  ``quarantine_seconds`` is how long a released address is kept
    from whoever asks for it by name, so that late packets for its last holder do not reach
    somebody else; it may change at any time.

    Raises:
        Misuse: fewer than four addresses, or a reserved address of the other family.
    """

    def __init__(
        self,
        network: IPv4Network | IPv6Network,
        reserved: Iterable[bytes | IPv4Address | IPv6Address] = (),
        quarantine_seconds: float = 60.0,
    ) -> None:
        if network.num_addresses < 4:
            raise Misuse(f"{network} is too small for a pool")
        self.network = network
        self.quarantine_seconds = quarantine_seconds
        self._size = network.max_prefixlen // 8  # bytes of an address
        # Leasable numbers are first .. end-1, without those in _reserved.
        self._first = int(network.network_address) + 1
        self._end = int(network.broadcast_address) + (network.version == 6)
        self._reserved: set[bytes] = set()
        for address in map(ip_address, reserved):
            if address.version != network.version:
                raise Misuse(f"{address} reserved in {network}")
            if self._first <= int(address) < self._end:
                self._reserved.add(address.packed)
        self._next = self._first  # numbers from here on are never-used, but for the named ones
        self._held: set[bytes] = set()
        self._aside: set[bytes] = set()  # held or not
        self._aside_idle = 0  # how many of them nobody holds
        self._resting: OrderedDict[bytes, float] = OrderedDict()  # to the end of quarantine

    @property
    def usable(self) -> int:
        """How many addresses there are to give out in all."""
        return self._end - self._first - len(self._reserved)

    @property
    def free(self) -> int:
        """How many :meth:`take` could give out now: neither held nor set aside."""
        return self.usable - len(self._held) - self._aside_idle

    def permits(self, address: bytes) -> bool:
        """Whether *address* is one that this pool gives out at all."""
        return (
            len(address) == self._size
            and self._first <= int.from_bytes(address) < self._end
            and address not in self._reserved
        )

    def holds(self, address: bytes) -> bool:
        """Whether somebody has *address* now."""
        return address in self._held

    def offers(self, address: bytes, now: float) -> bool:
        """Whether *address* itself may be had by anybody: free, and its quarantine is over."""
        return (
            self.permits(address)
            and address not in self._held
            and address not in self._aside
            and self._resting.get(address, now) <= now
        )

    def take(self, now: float, wanted: bytes | None = None) -> bytes | None:
        """Give out an address: *wanted* or none, or any if nothing is wanted.

        Any: a never-used one, lowest first; then the one that was released first, also when
        its quarantine is not over, since the alternative is to turn somebody away.

        Returns:
            None when *wanted* is not offered, or nothing is free.
        """
        if wanted is not None:
            if not self.offers(wanted, now):
                return None
            self._resting.pop(wanted, None)
            self._held.add(wanted)
            return wanted
        address = self._never_used()
        if address is None:
            if not self._resting:
                return None
            address, _ = self._resting.popitem(last=False)
        self._held.add(address)
        return address

    def take_last(self, now: float) -> bytes | None:
        """Give out a free address far from those that :meth:`take` gives next; None without any.

        The highest one, except in large networks of version 6: somebody will have to type it.
        """
        top = self._end if self._size == 4 else min(self._end, self._first + 0xFFFF)
        for number in range(top - 1, self._first - 1, -1):
            address = number.to_bytes(self._size)
            if self.offers(address, now):
                return self.take(now, address)
        return self.take(now)

    def claim(self, address: bytes) -> bool:
        """Give out *address* although it may be set aside or in quarantine.

        For its owner: a fixed address, a lease read back after a restart.  False when somebody
        holds it or the pool does not permit it.
        """
        if not self.permits(address) or address in self._held:
            return False
        self._resting.pop(address, None)
        self._aside_idle -= address in self._aside
        self._held.add(address)
        return True

    def release(self, address: bytes, now: float) -> None:
        """Take *address* back, into quarantine.

        Raises:
            Misuse: nobody holds it.
        """
        if address not in self._held:
            raise Misuse(f"{address.hex()} released, but nobody holds it")
        self._held.remove(address)
        if address in self._aside:
            self._aside_idle += 1
        else:
            self._resting[address] = now + self.quarantine_seconds

    def set_aside(self, address: bytes) -> bool:
        """Give *address* to nobody but by :meth:`claim`; who holds it now keeps it.

        False, and nothing changes, when it is set aside already or not permitted.
        """
        if not self.permits(address) or address in self._aside:
            return False
        self._aside.add(address)
        if address not in self._held:
            self._aside_idle += 1
            self._resting.pop(address, None)
        return True

    def put_back(self, address: bytes) -> bool:
        """Undo :meth:`set_aside`; False when it was not set aside."""
        if address not in self._aside:
            return False
        self._aside.remove(address)
        if address not in self._held:
            self._aside_idle -= 1
            if int.from_bytes(address) < self._next:  # or the rising number still comes by
                self._resting[address] = 0.0
                self._resting.move_to_end(address, last=False)
        return True

    def _never_used(self) -> bytes | None:
        """Return the lowest address never given out, or None.

        Steps over addresses that were taken by name.  Each is stepped over once, ever: taking
        by name has paid for it.
        """
        while self._next < self._end:
            address = self._next.to_bytes(self._size)
            self._next += 1
            if not (
                address in self._held
                or address in self._aside
                or address in self._resting
                or address in self._reserved
            ):
                return address
        return None
