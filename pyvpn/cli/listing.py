"""How ``pyvpn user list`` shows users: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvpn.store import Device, User
    from pyvpn.tunnel.leases import Lease


def _shown(packed: bytes | None) -> str | None:
    return str(ip_address(packed)) if packed else None


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")


def as_table(users: Sequence[User], devices: Sequence[Device]) -> str:
    """One line a user, below a line of titles; the day is the local one."""
    counts = Counter(device.user for device in devices)
    rows = [("NAME", "STATE", "DEVICES", "SINCE", "KEPT ADDRESS")]
    for user in users:
        state = "disabled" if user.disabled else "enabled"
        since = datetime.fromtimestamp(user.created, UTC).astimezone().strftime("%Y-%m-%d")
        fixed = ", ".join(filter(None, (_shown(user.fixed4), _shown(user.fixed6))))
        rows.append((user.name, state, str(counts[user.id]), since, fixed or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def to_json(users: Sequence[User], devices: Sequence[Device], leases: Sequence[Lease]) -> str:
    """A list of objects; times are ISO 8601 in UTC, what is not there is null."""
    lease_of = {lease.device: lease for lease in leases}
    devices_of: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    for device in devices:
        lease = lease_of.get(device.id)
        devices_of[device.user].append(
            {
                "name": device.name,
                "fingerprint": device.fingerprint,
                "created": _moment(device.created),
                "authenticated": _moment(device.authenticated),
                "address4": _shown(lease.address4) if lease else None,
                "address6": _shown(lease.address6) if lease else None,
            }
        )
    return json.dumps(
        [
            {
                "name": user.name,
                "disabled": user.disabled,
                "fixed4": _shown(user.fixed4),
                "fixed6": _shown(user.fixed6),
                "created": _moment(user.created),
                "password_changed": _moment(user.password_changed),
                "devices": devices_of[user.id],
            }
            for user in users
        ],
        indent=2,
        ensure_ascii=False,
    )
