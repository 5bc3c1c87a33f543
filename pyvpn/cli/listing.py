"""How users and devices are listed: a table for people, JSON for programs."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvpn.store import Device, Remembered, User
    from pyvpn.tunnel.leases import Lease


def _shown(packed: bytes | None) -> str | None:
    return str(ip_address(packed)) if packed else None


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")


def as_table(users: Sequence[User], devices: Sequence[Device]) -> str:
    """One line a user, below a line of titles; the day is the local one."""
    counts = Counter(device.user for device in devices)
    rows = [("NAME", "STATE", "DEVICES", "SINCE", "KEPT ADDRESS", "LIMITS")]
    for user in users:
        state = "disabled" if user.disabled else "enabled"
        since = datetime.fromtimestamp(user.created, UTC).astimezone().strftime("%Y-%m-%d")
        fixed = ", ".join(filter(None, (_shown(user.fixed4), _shown(user.fixed6))))
        limits = limits_of(user.limit_up, user.limit_down)
        rows.append((user.name, state, str(counts[user.id]), since, fixed or "-", limits or "-"))
    return _aligned(rows)


def limits_of(up: int | None, down: int | None) -> str:
    """Bits a second as an operator writes them; empty without any."""
    from pyvpn.config.values import spell_rate

    named = {"up": up, "down": down}
    return ", ".join(f"{way} {spell_rate(bits)}" for way, bits in named.items() if bits)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
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
                "public_key": _key_text(device.public_key),
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
                "limit_up": user.limit_up,
                "limit_down": user.limit_down,
                "created": _moment(user.created),
                "password_changed": _moment(user.password_changed),
                "devices": devices_of[user.id],
            }
            for user in users
        ],
        indent=2,
        ensure_ascii=False,
    )


def key_of(device: Device) -> str:
    """What a device is known by: fingerprint, or WireGuard key if it has no certificate."""
    return device.fingerprint or _key_text(device.public_key) or ""


def devices_as_table(
    users: Sequence[User],
    devices: Sequence[Device],
    leases: Sequence[Lease],
    peers: Sequence[Remembered],
) -> str:
    """One line a device, by user; times are local ones."""
    names = {user.id: user.name for user in users}
    lease_of = {lease.device: lease for lease in leases}
    peer_of = {peer.device: peer for peer in peers}
    rows = [("USER", "DEVICE", "NUMBER", "KIND", "ADDRESSES", "LAST HEARD", "KEY")]
    for device in sorted(devices, key=lambda device: (names[device.user], device.id)):
        lease = lease_of.get(device.id)
        shown = (_shown(lease.address4), _shown(lease.address6)) if lease else ()
        rows.append(
            (
                names[device.user],
                "".join(map(_visible, device.name)),
                str(device.id),
                _kind(device),
                ", ".join(filter(None, shown)) or "-",
                _heard(device, lease, peer_of.get(device.id)),
                key_of(device),
            )
        )
    return _aligned(rows)


def _heard(device: Device, lease: Lease | None, peer: Remembered | None) -> str:
    if not device.is_stock and lease is not None and lease.released is None:
        return "connected"
    unix = peer.heard if device.is_stock and peer else lease and lease.released
    if unix is None:
        return "never" if device.is_stock else "-"
    return datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _visible(character: str) -> str:
    """A terminal must not obey a name that a machine chose."""
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def devices_to_json(
    users: Sequence[User],
    devices: Sequence[Device],
    leases: Sequence[Lease],
    peers: Sequence[Remembered],
) -> str:
    """A list of objects; times are ISO 8601 in UTC, what is not there is null."""
    names = {user.id: user.name for user in users}
    lease_of = {lease.device: lease for lease in leases}
    peer_of = {peer.device: peer for peer in peers}
    listed: list[dict[str, object]] = []
    for device in devices:
        lease, peer = lease_of.get(device.id), peer_of.get(device.id)
        heard = peer.heard if peer else None
        listed.append(
            {
                "user": names[device.user],
                "name": device.name,
                "number": device.id,
                "kind": _kind(device),
                "fingerprint": device.fingerprint,
                "public_key": _key_text(device.public_key),
                "has_preshared_key": device.preshared_key is not None,
                "address4": _shown(lease.address4) if lease else None,
                "address6": _shown(lease.address6) if lease else None,
                "created": _moment(device.created),
                "authenticated": None if device.is_stock else _moment(device.authenticated),
                "endpoint": str(peer.endpoint) if peer and peer.endpoint else None,
                "heard": _moment(heard) if heard is not None else None,
            }
        )
    return json.dumps(listed, indent=2, ensure_ascii=False)


def _kind(device: Device) -> str:
    return "wireguard" if device.is_stock else "pyvpn"


def _key_text(key: bytes | None) -> str | None:
    return None if key is None else base64.b64encode(key).decode()
