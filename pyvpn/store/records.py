"""What the store keeps about people and their machines, and why it may refuse a change.

Times are unix seconds, addresses packed bytes (4 or 16).  A lease is
:class:`pyvpn.tunnel.leases.Lease`, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pyvpn.errors import ConfigError, PeerError
from pyvpn.wire.datagram import Path


@dataclass(frozen=True, slots=True)
class User:
    """A person's account."""

    id: int
    """Never given out twice, so that what remembers a removed user meets no successor."""

    name: str
    password_hash: str = field(repr=False)  # records end up in tracebacks and logs
    disabled: bool
    fixed4: bytes | None
    fixed6: bytes | None
    created: float
    password_changed: float
    """When the operator last set the password; a device seen before must type it again."""

    limit_up: int | None = None
    """Bits a second that each of the user's devices may send; None: as many as pass."""
    limit_down: int | None = None
    """Bits a second that each may receive."""


@dataclass(frozen=True, slots=True)
class Device:
    """One machine of a user: a native one, or one with a stock WireGuard app."""

    id: int
    """Never given out twice."""

    user: int
    fingerprint: str | None
    """Hexadecimal SHA-256 of the certificate, by which a native device is known."""

    name: str
    """For people only: a native device chose it, and others of the user may have it too."""

    created: float
    authenticated: float
    """When the user's password (not only the certificate) was last proved on it; of a stock
    device, when an administrator put it on file."""

    public_key: bytes | None = None
    """Of WireGuard; another one may take its place."""
    preshared_key: bytes | None = field(default=None, repr=False)
    """32 bytes that both ends mix into every handshake; None: there are none."""

    @property
    def is_stock(self) -> bool:
        """Whether it has no certificate: its key and its addresses were put on file by hand."""
        return self.fingerprint is None


class Remembered(NamedTuple):
    """What outlives the server of one WireGuard peer."""

    device: int
    endpoint: Path | None
    """Where it was heard last; only address, port and scope are kept."""
    heard: float | None
    """When that was: something authenticated arrived."""
    received: bytes | None
    """The highest TAI64N timestamp of its handshakes, 12 bytes: no older one is answered."""
    resets: int = 0
    """How often an operator had the timestamp forgotten: grows, and so is noticed."""


class NameTaken(ConfigError):
    """There is a user, or a device of the user, of that name already."""


class KeyTaken(ConfigError):
    """That WireGuard key is on file for another device."""


class AddressTaken(ConfigError):
    """That address is fixed for another user, or belongs to a stock device."""


class Gone(PeerError):
    """The user or device was removed while its log-in was under way."""


class TooManyDevices(PeerError):
    """The user has as many devices as one may have, and each of them is connected."""
