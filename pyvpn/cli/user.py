"""``pyvpn user``: who may log in.  A running server follows within a second."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Iterator
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

PASSWORD_CHARACTERS = 8
"""Shortest password we take."""

_LINE = 8192  # bytes read for a password: more than the longest, so that a longer one is noticed

Command = TypeVar("Command", bound=Callable[..., Any])


def _place(command: Command) -> Command:
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


def _load(config: Path) -> ServerConfig:
    from pyvpn.config import load_server

    return load_server(config)


@contextmanager
def _store(config: Path, state_dir: Path | None, *, create: bool = False) -> Iterator[Store]:
    from pyvpn.store.sqlite import FILE_NAME, Store

    directory = state_dir or _load(config).state_dir
    store = Store(directory / FILE_NAME, create=create)
    try:
        yield store
    finally:
        store.close()


def _unknown(store: Store, name: str) -> ConfigError:
    near = difflib.get_close_matches(name, [each.name for each in store.users()], 1)
    hint = f"did you mean {near[0]!r}?" if near else "`pyvpn user list` shows who there is"
    return ConfigError(f"there is no user {name!r}: {hint}")


def _found(store: Store, name: str) -> User:
    found = store.user(name)
    if found is None:
        raise _unknown(store, name)
    return found


def _read_password() -> str:
    """A new password: asked for twice at a terminal, else one line of standard input.

    Never an argument or an environment variable: every user of the machine can read those.
    """
    from pyvpn.wire.messages import clean_password

    if sys.stdin is not None and sys.stdin.isatty():
        typed = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    else:
        line = b"" if sys.stdin is None else sys.stdin.buffer.readline(_LINE)
        if not line:
            raise ConfigError(
                "no password: type it at a terminal, or send one line to standard input"
            )
        try:
            typed = line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError("the password on standard input is not UTF-8") from None
    password = clean_password(typed)
    if len(password) < PASSWORD_CHARACTERS:
        raise ConfigError(
            f"the password has {len(password)} characters: take {PASSWORD_CHARACTERS} or more,"
            " best a few words (shorter ones can be found by trying)"
        )
    return password


@click.group()
def user() -> None:
    """Add and remove users, set their passwords and addresses.

    A running server follows within a second.

    \b
    Example:  pyvpn user add anna
              pyvpn user list
    """


@user.command()
@click.argument("name")
@_place
def add(name: str, config: Path, state_dir: Path | None) -> None:
    """Add the user NAME.

    The password is asked for, or read as one line from standard input.

    \b
    Example:  pyvpn user add anna
              pyvpn user add anna < file-with-the-password
    """
    from pyvpn.store import NameTaken
    from pyvpn.store.passwords import hash_password
    from pyvpn.wire.messages import clean_user_name

    clean_user_name(name)
    with _store(config, state_dir, create=True) as store:
        if store.user(name):  # before somebody types a password for nothing
            raise NameTaken(f"there is a user {name!r} already")
        store.add_user(name, hash_password(_read_password()), time.time())
    click.echo(f"User {name} added.")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything but the hashes.")
@_place
def list_users(as_json: bool, config: Path, state_dir: Path | None) -> None:
    """Show who may log in.

    \b
    Example:  pyvpn user list --json
    """
    from pyvpn.cli.listing import as_table, to_json

    with _store(config, state_dir) as store:
        users, devices, leases = store.users(), store.devices(), store.leases()
    if as_json:
        click.echo(to_json(users, devices, leases))
    elif users:
        click.echo(as_table(users, devices))
    else:
        click.echo("No users yet: add one with `pyvpn user add NAME`.")


@user.command()
@click.argument("name")
@_place
def remove(name: str, config: Path, state_dir: Path | None) -> None:
    """Remove the user NAME, with all devices and leases.

    \b
    Example:  pyvpn user remove anna
    """
    with _store(config, state_dir) as store:
        if not store.remove_user(name):
            raise _unknown(store, name)
    click.echo(f"User {name} removed: live sessions end within a second.")


@user.command()
@click.argument("name")
@_place
def passwd(name: str, config: Path, state_dir: Path | None) -> None:
    """Set a new password for the user NAME.

    It is asked for, or read as one line from standard input.

    \b
    Example:  pyvpn user passwd anna
    """
    from pyvpn.store.passwords import hash_password

    with _store(config, state_dir) as store:
        _found(store, name)
        if not store.set_password(name, hash_password(_read_password()), time.time()):
            raise _unknown(store, name)
    click.echo(f"Password of {name} set: every device asks for it at its next log-in.")


@user.command()
@click.argument("name")
@_place
def disable(name: str, config: Path, state_dir: Path | None) -> None:
    """Lock the user NAME out; nothing is forgotten.

    \b
    Example:  pyvpn user disable anna
    """
    with _store(config, state_dir) as store:
        if not store.set_disabled(name, True):
            raise _unknown(store, name)
    click.echo(f"User {name} disabled: live sessions end within a second.")


@user.command()
@click.argument("name")
@_place
def enable(name: str, config: Path, state_dir: Path | None) -> None:
    """Let the user NAME in again.

    \b
    Example:  pyvpn user enable anna
    """
    with _store(config, state_dir) as store:
        if not store.set_disabled(name, False):
            raise _unknown(store, name)
    click.echo(f"User {name} enabled.")


@user.command()
@click.argument("name")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--clear", is_flag=True, help="Keep no address for the user any more.")
@_place
def address(
    name: str, addresses: tuple[str, ...], clear: bool, config: Path, state_dir: Path | None
) -> None:
    """Keep an address for the user NAME, or show which are kept.

    One IPv4 and one IPv6 ADDRESS can be kept; the family that is not named stays as it is.

    \b
    Example:  pyvpn user address anna 10.73.0.50
              pyvpn user address anna --clear
    """
    if clear and addresses:
        raise click.UsageError("Write addresses or --clear, not both.")
    server = _load(config) if addresses else None
    with _store(config, state_dir) as store:
        found = _found(store, name)
        fixed = {4: None, 6: None} if clear else {4: found.fixed4, 6: found.fixed6}
        named = [_leasable(text, server) for text in addresses if server]
        if len({each.version for each in named}) < len(named):
            raise ConfigError("one address of each family can be kept: IPv4, IPv6 or both")
        fixed |= {each.version: each.packed for each in named}
        if (clear or named) and not store.set_fixed(name, fixed[4], fixed[6]):
            raise _unknown(store, name)
    kept = " and ".join(str(ip_address(packed)) for packed in fixed.values() if packed)
    when = "; a device gets it at its next log-in, within a second if here" if named else ""
    click.echo(f"Kept for {name}: {kept or 'no address'}{when}.")


def _leasable(text: str, server: ServerConfig) -> IPv4Address | IPv6Address:
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
