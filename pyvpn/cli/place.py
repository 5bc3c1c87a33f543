"""Where the server keeps what the commands change, and who and what is meant there."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyvpn.errors import ConfigError

if TYPE_CHECKING:
    from pyvpn.config import ServerConfig
    from pyvpn.store import User
    from pyvpn.store.sqlite import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def placed(command: Command) -> Command:
    """Give *command* the two options that say where the server keeps its users."""
    from_config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        default="/etc/pyvpn/server.ini",
        show_default=True,
        help="The server's configuration.",
    )
    from_state = click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        help="The server's state directory, instead of the one its configuration names.",
    )
    return from_config(from_state(command))


def load(config: Path) -> ServerConfig:
    """Read the server's configuration."""
    from pyvpn.config import load_server

    return load_server(config)


@contextmanager
def open_store(config: Path, state_dir: Path | None, *, create: bool = False) -> Iterator[Store]:
    """The store in the state directory, closed at the end."""
    from pyvpn.store.sqlite import FILE_NAME, Store

    directory = state_dir or load(config).state_dir
    store = Store(directory / FILE_NAME, create=create)
    try:
        yield store
    finally:
        store.close()


def unknown_user(store: Store, name: str) -> ConfigError:
    """What to say of a user who is not there, with the nearest name."""
    near = difflib.get_close_matches(name, [each.name for each in store.users()], 1)
    hint = f"did you mean {near[0]!r}?" if near else "`pyvpn user list` shows who there is"
    return ConfigError(f"there is no user {name!r}: {hint}")


def found_user(store: Store, name: str) -> User:
    """The user of that name; ConfigError if there is none."""
    found = store.user(name)
    if found is None:
        raise unknown_user(store, name)
    return found


def leasable(text: str, server: ServerConfig) -> IPv4Address | IPv6Address:
    """The address *text*, if *server* could ever lease it; ConfigError says why not."""
    from pyvpn.tunnel.addresses import AddressPool

    try:
        if "%" in text:  # a zone, which would be lost without a word
            raise ValueError(text)
        wanted = ip_address(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not an IP address") from None
    family = f"network{wanted.version}"
    network = server.tunnel.network4 if wanted.version == 4 else server.tunnel.network6
    if network is None:
        raise ConfigError(f"{wanted}: {server.where('tunnel', family)} = none")
    if wanted not in network:
        raise ConfigError(f"{wanted} is outside of {server.where('tunnel', family)} = {network}")
    own = network.network_address + 1  # what [tunnel] promises in the configuration
    if wanted == own:
        raise ConfigError(f"{wanted} is the server's own address in the tunnel")
    if not AddressPool(network, [own]).permits(wanted.packed):
        raise ConfigError(f"{wanted} names the whole of {network} and is nobody's address")
    return wanted


def wanted_addresses(texts: Iterable[str], server: ServerConfig) -> dict[int, bytes]:
    """The packed addresses that *texts* say, by version; ConfigError if two are of one."""
    named = [leasable(text, server) for text in texts]
    found: dict[int, bytes] = {each.version: each.packed for each in named}
    if len(found) < len(named):
        raise ConfigError("one address of each family can be kept: IPv4, IPv6 or both")
    return found
