"""What outlives the process: users, devices and leases."""

from __future__ import annotations

from pyvpn.store.records import (
    AddressTaken,
    Device,
    Gone,
    KeyTaken,
    NameTaken,
    Remembered,
    TooManyDevices,
    User,
)

__all__ = [
    "AddressTaken",
    "Device",
    "Gone",
    "KeyTaken",
    "NameTaken",
    "Remembered",
    "TooManyDevices",
    "User",
]
