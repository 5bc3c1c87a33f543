"""A lease, and what may be asked of those who give them: values, no decisions."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from pyvpn.errors import ConfigError, PeerError


class Lease(NamedTuple):
    """The addresses of a device; also the row the store keeps."""

    device: int
    user: int
    address4: bytes | None
    address6: bytes | None
    released: float | None
    """Unix time at which it became sticky; None while it is in use."""
    pinned: bool = False
    """It is the device's for good, and never released."""

    def without(self, address: bytes) -> Lease:
        """Return the same without *address*."""
        four, six = self.address4, self.address6
        return self._replace(
            address4=None if four == address else four, address6=None if six == address else six
        )


class Granted(NamedTuple):
    """A lease, and the devices whose sticky leases ended to make it possible."""

    lease: Lease
    evicted: list[int]


class PoolEmpty(PeerError):
    """No lease for this request: every address is in use, or fixed for somebody else."""


class AddressHeld(ConfigError):
    """The address that was asked for by name cannot be had.

    Attributes:
        address: which, packed.
        user: whose it is; None: no pool gives it out.
        device: the device that has it; None: it is kept for the user.
    """

    def __init__(self, address: bytes, user: int | None, device: int | None) -> None:
        super().__init__(f"{ip_address(address)} is not to be had")
        self.address = address
        self.user = user
        self.device = device


class Request(NamedTuple):
    """What a device asks of one family."""

    device: int
    user: int
    unix: float
    fixed: bytes | None
    own: bytes | None  # of its sticky lease
    wanted: bytes | None
