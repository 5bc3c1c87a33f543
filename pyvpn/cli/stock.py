"""What ``pyvpn device add`` decides: which key, which addresses, and what the file says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from pyvpn.cli.place import wanted_addresses
from pyvpn.cli.wgquick import NOWHERE, DeviceFile, endpoint_of, without_covered
from pyvpn.config import Address, Endpoint, Network, ServerConfig
from pyvpn.crypto.x25519 import KEY_SIZE, StaticKey, clamp, key_from_base64, public_of
from pyvpn.errors import ConfigError, HostError
from pyvpn.net.host import Host, private_networks
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.server.terms import offered, own_interface, pools
from pyvpn.store import Device, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import AddressHeld, Granted, Lease, Leases, PoolEmpty

NAME_CHARACTERS = 64

_PRIME = 2**255 - 19  # of the curve: numbers from here on stand for smaller ones


def check_name(name: str) -> None:
    """Raise ConfigError unless *name* may be a device's: people will read and type it."""
    if not 1 <= len(name) <= NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise ConfigError(
            f"a device's name is 1 to {NAME_CHARACTERS} printable characters, without spaces"
            " around them"
        )
    if re.fullmatch("[0-9]+", name):
        raise ConfigError(f"{name} would be taken for a device's number: add a letter")


def parse_public_key(text: str, server: StaticKey) -> bytes:
    """The public key of a device, 32 bytes; ConfigError for what no device can have."""
    try:
        key = key_from_base64(text)
    except ValueError as error:  # what was typed is not repeated: it may be a private key
        raise ConfigError(f"--public-key: {error}; `wg pubkey` and the apps print it") from None
    if key == server.public:
        raise ConfigError("--public-key: that is the server's own key; the device's is needed")
    if int.from_bytes(key, "little") >= _PRIME or server.shared(key) is None:
        raise ConfigError("--public-key: no device has that key: it belongs to no private one")
    return key


@dataclass(frozen=True)
class Plan:
    """All that is known before something is put on file."""

    server: ServerConfig
    server_key: bytes
    private_key: bytes | None = field(repr=False)
    public_key: bytes
    wanted: dict[int, bytes]
    """Addresses asked for, by version."""
    allowed: tuple[Network, ...]
    endpoint: Endpoint
    trouble: str
    """Why the networks behind the server are not known; empty if they are."""

    @classmethod
    def make(
        cls,
        server: ServerConfig,
        state_dir: Path,
        addresses: Iterable[str],
        public_key: str | None,
    ) -> Plan:
        """Look at everything; the server's key is made if there is none.

        Raises:
            ConfigError: an address or the key cannot be.
            HostError: the server's key can be neither read nor made.
        """
        wanted = wanted_addresses(addresses, server)
        static = load_or_make_wireguard_key(state_dir)
        private = None if public_key is not None else clamp(os.urandom(KEY_SIZE))
        public = (
            parse_public_key(public_key, static)
            if public_key is not None
            else public_of(private or b"")
        )
        host = Host(str(state_dir), "device")
        own, trouble = _own_networks(server, host)
        return cls(
            server,
            static.public,
            private,
            public,
            wanted,
            without_covered((*offered(server, own).routes, *pools(server))),
            endpoint_of(server, _source(host)),
            trouble,
        )

    def put_on_file(
        self, store: Store, owner: User, name: str, preshared: bool, unix: float
    ) -> tuple[Device, Lease]:
        """Put the device on file.

        Raises:
            ConfigError: its name, key or address is taken; nothing has changed.
            PeerError: there is no address left, or the user was removed; likewise.
        """

        def grant(device: int) -> Granted:
            return self._grant(store, device, owner.id, unix)

        secret = os.urandom(KEY_SIZE) if preshared else None
        return store.add_stock_device(owner.id, name, self.public_key, secret, unix, grant)

    def _grant(self, store: Store, device: int, user: int, unix: float) -> Granted:
        """Decide as a server would, about what is on file now: nobody else writes meanwhile."""
        by_version = {
            network.version: AddressPool(network, [own_interface(network).ip])
            for network in pools(self.server)
        }
        leases = Leases(by_version.get(4), by_version.get(6))
        leases.restore(store.leases(), unix, running=True)
        users = {each.id: each for each in store.users()}
        for each in users.values():
            leases.reserve_fixed(each.id, each.fixed4, each.fixed6)
        kept = users[user]
        try:
            return leases.pin_new(
                device,
                user,
                unix,
                fixed4=kept.fixed4,
                fixed6=kept.fixed6,
                wanted4=self.wanted.get(4),
                wanted6=self.wanted.get(6),
            )
        except AddressHeld as held:
            raise ConfigError(_explain(held, users, store)) from None
        except PoolEmpty as empty:
            raise PoolEmpty(
                f"{empty}: remove devices (`pyvpn device list`), or give [tunnel] a larger network"
            ) from None

    def file_for(self, owner: User, device: Device, lease: Lease) -> DeviceFile:
        """What the device needs."""
        tunnel = self.server.tunnel
        return DeviceFile(
            title=f"{device.name} of {owner.name}, for the VPN at {self.endpoint}",
            private_key=self.private_key,
            public_key=self.public_key,
            preshared_key=device.preshared_key,
            addresses=_addresses(lease),
            dns=tunnel.dns,
            mtu=tunnel.mtu,
            server_key=self.server_key,
            allowed=self.allowed,
            endpoint=self.endpoint,
            keepalive=self.server.wireguard.keepalive,
        )

    def remarks(self, owner: User, device: Device, lease: Lease) -> Iterator[str]:
        """What an operator should know of it, a line each."""
        addresses = " and ".join(map(str, _addresses(lease)))
        yield f"Device {device.name} of {owner.name} is on file: {addresses}."
        if owner.disabled:
            yield f"{owner.name} is disabled: it cannot connect before `pyvpn user enable`."
        if self.trouble:
            yield (
                f"Warning: the networks behind this server are not known here ({self.trouble}):"
                " AllowedIPs has only the tunnel's own. [tunnel] routes = ... names them."
            )
        if self.endpoint.host == NOWHERE:
            yield (
                f"Warning: write this server's name or address in the place of {NOWHERE};"
                " public_endpoints = ... does so for the next one."
            )


def _own_networks(server: ServerConfig, host: Host) -> tuple[tuple[Network, ...], str]:
    """What a server on this host takes for its own networks, or why that is not known."""
    if server.tunnel.routes is not None:
        return (), ""
    try:
        found = private_networks(host.own_networks((server.tunnel.device,)))
    except HostError as error:
        return (), str(error)
    return tuple(dict.fromkeys(network for _, network in found)), ""


def _source(host: Host) -> str | None:
    """The address that this host has towards the world."""
    for version in (4, 6):
        try:
            found = host.default_source(version)
        except HostError:
            continue
        if found is not None:
            return str(found)
    return None


def _addresses(lease: Lease) -> tuple[Address, ...]:
    return tuple(ip_address(one) for one in (lease.address4, lease.address6) if one is not None)


def _explain(held: AddressHeld, users: dict[int, User], store: Store) -> str:
    address = ip_address(held.address)
    if held.user is None:
        return f"{address} is nobody's address"
    whose = users[held.user].name
    if held.device is None:
        return f"{address} is kept for {whose}: see `pyvpn user address {whose}`"
    name = next(each.name for each in store.devices(held.user) if each.id == held.device)
    return (
        f"{address} is in use by {whose}'s device {name!r}: choose another, or leave --address"
        " out for a free one"
    )
