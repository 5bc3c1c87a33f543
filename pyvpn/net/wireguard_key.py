"""The server's WireGuard key: what stock apps and native clients know it by."""

from __future__ import annotations

import os
from pathlib import Path

from pyvpn.crypto.x25519 import KEY_SIZE, StaticKey, clamp, key_from_base64, key_to_base64
from pyvpn.errors import ConfigError
from pyvpn.net.private_files import make_private, make_private_directory, read_private

KEY_FILE = "wireguard.key"
"""What it is called in the state directory; its text is what ``wg genkey`` prints."""


def load_or_make_wireguard_key(state_dir: Path) -> StaticKey:
    """Read the key in *state_dir*; if there is none, make it.

    The server and the command line may come first, or both at once: they get the same one.

    Raises:
        ConfigError: it is open to others, or no key.
        HostError: it cannot be read or written.
    """
    path = state_dir / KEY_FILE
    text = read_private(path)
    if text is None:
        make_private_directory(state_dir)
        fresh = key_to_base64(clamp(os.urandom(KEY_SIZE)))
        text = make_private(path, f"{fresh}\n".encode())
    try:
        return StaticKey(key_from_base64(text.decode("ascii").strip()))
    except ValueError:
        raise ConfigError(
            f"{path} is not a WireGuard key (44 characters, as `wg genkey` prints them): put a"
            " backup there; or move it away for a new one, and then every WireGuard device needs"
            " a new file"
        ) from None
