"""Longest-prefix match over packed IPv4 and IPv6 addresses.

One dict for whole addresses and one per shorter prefix length, tried from the longest: the cost
of a lookup is the number of *different lengths* in use (at most 32 or 128, in practice two or
three), whatever the number of networks.  A server with a thousand sessions and no routes to
them has host entries only: one dict lookup a packet.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

from pyvpn.errors import Misuse

T = TypeVar("T")


class Prefixes(Generic[T]):
    """Networks of both families, each with a value (never None, which means "no match").

    Addresses are 4 or 16 packed bytes; bytes of any other length match nothing.
    """

    __slots__ = ("_hosts", "_levels")

    def __init__(self) -> None:
        self._hosts: dict[bytes, T] = {}
        # Address bytes -> [(bits to shift away, {what is left: value})], longest prefix first.
        self._levels: dict[int, list[tuple[int, dict[int, T]]]] = {4: [], 16: []}

    @classmethod
    def from_networks(cls, networks: Iterable[IPv4Network | IPv6Network], value: T) -> Prefixes[T]:
        """All of *networks*, each with the same *value*."""
        prefixes = cls()
        for network in networks:
            prefixes.add(network.network_address.packed, network.prefixlen, value)
        return prefixes

    def add(self, network: bytes, length: int, value: T) -> None:
        """Map *network*/*length* to *value*; an equal network gets the new value.

        Raises:
            Misuse: *network* is no packed address, *length* does not fit it, or bits after
                the prefix are set (the caller meant another network than it wrote).
        """
        shift = _shift(network, length)
        if shift == 0:
            self._hosts[network] = value
            return
        key, left = divmod(int.from_bytes(network), 1 << shift)
        if left:
            raise Misuse(f"{network.hex()}/{length} has bits set after its prefix")
        levels = self._levels[len(network)]
        for level, networks in levels:
            if level == shift:
                networks[key] = value
                return
        levels.append((shift, {key: value}))
        levels.sort(key=_by_shift)

    def remove(self, network: bytes, length: int) -> bool:
        """Forget exactly this network; False when it was not there."""
        shift = _shift(network, length)
        if shift == 0:
            return self._hosts.pop(network, None) is not None
        levels = self._levels[len(network)]
        for index, (level, networks) in enumerate(levels):
            if level == shift:
                found = networks.pop(int.from_bytes(network) >> shift, None) is not None
                if not networks:
                    del levels[index]  # an empty level would cost every later lookup
                return found
        return False

    def exact(self, network: bytes, length: int) -> T | None:
        """Return the value of exactly this network; shorter prefixes are not consulted."""
        shift = _shift(network, length)
        if shift == 0:
            return self._hosts.get(network)
        for level, networks in self._levels[len(network)]:
            if level == shift:
                return networks.get(int.from_bytes(network) >> shift)
        return None

    def lookup(self, address: bytes) -> T | None:
        """Return the value of the longest network that holds *address*, or None."""
        value = self._hosts.get(address)
        if value is not None:
            return value
        levels = self._levels.get(len(address))
        if not levels:
            return None
        number = int.from_bytes(address)
        for shift, networks in levels:
            value = networks.get(number >> shift)
            if value is not None:
                return value
        return None

    def __contains__(self, address: object) -> bool:
        """Whether any network holds *address*."""
        return isinstance(address, bytes) and self.lookup(address) is not None

    def __len__(self) -> int:
        """How many networks there are."""
        return len(self._hosts) + sum(
            len(networks) for levels in self._levels.values() for _, networks in levels
        )


def _shift(network: bytes, length: int) -> int:
    """Return how many bits of an address lie after the prefix."""
    shift = 8 * len(network) - length
    if len(network) not in (4, 16) or length < 0 or shift < 0:
        raise Misuse(f"{network.hex()}/{length} is no network of packed IPv4 or IPv6")
    return shift


def _by_shift(level: tuple[int, object]) -> int:
    return level[0]
