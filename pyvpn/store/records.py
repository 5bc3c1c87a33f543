"""What the store keeps about people and their machines, and why it may refuse a change.

Times are unix seconds, addresses packed bytes (4 or 16).  A lease is
:class:`pyvpn.tunnel.leases.Lease`, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyvpn.errors import ConfigError, PeerError


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


@dataclass(frozen=True, slots=True)
class Device:
    """One machine of a user, known by its certificate."""

    id: int
    """Never given out twice."""

    user: int
    fingerprint: str
    """Hexadecimal SHA-256 of the certificate."""

    name: str
    """For people only: the machine chose it."""

    created: float
    authenticated: float
    """When the user's password (not only the certificate) was last proved on it."""


class NameTaken(ConfigError):
    """There is a user of that name already."""


class AddressTaken(ConfigError):
    """That address is fixed for another user."""


class Gone(PeerError):
    """The user or device was removed while its log-in was under way."""


class TooManyDevices(PeerError):
    """The user has as many devices as one may have, and each of them is connected."""
