"""One connection of a client, from accept to close, and what is counted at the door."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyvpn.store.records import Device, User
from pyvpn.tunnel.session import Session


@dataclass(slots=True, eq=False)
class Visit:
    """What is known of one connection so far."""

    source: bytes | None
    """Packed address of the far end; None behind a trusted relay."""
    place: str
    """The same for people."""
    number: int
    """Later connections have higher ones."""
    user: User | None = None
    """Set once somebody has logged in."""
    device: Device | None = None
    session: Session | None = None
    """Set once the device has registered."""
    unasked_answers: int = 0
    """Those of the link that are counted as faults already."""
    busy: bool = False
    """A log-in or a registration is under way."""


@dataclass(slots=True)
class Statistics:
    """What happened at the door, for the status."""

    refused: dict[str, int] = field(default_factory=dict)
    faults: int = 0
    passwords: int = 0
    """How many were compared with a hash, which is what costs."""

    def refuse(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1
