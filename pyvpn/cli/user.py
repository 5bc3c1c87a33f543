"""``pyvpn user``: who may log in.  A running server follows within a second."""

from __future__ import annotations

import sys
import time
from ipaddress import ip_address
from pathlib import Path

import click

from pyvpn.cli.place import found_user, load, open_store, placed, unknown_user, wanted_addresses
from pyvpn.errors import ConfigError

PASSWORD_CHARACTERS = 8
"""Shortest password we take."""

SLOWEST, FASTEST = 64_000, 100_000_000_000
"""Bits a second that may be a limit.  With less no session would be usable; it is a typing error
then, mostly a forgotten unit."""

_LINE = 8192  # bytes read for a password: more than the longest, so that a longer one is noticed


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
    """Add and remove users, set their passwords, addresses and limits.

    A running server follows within a second.

    \b
    Example:  pyvpn user add anna
              pyvpn user list
    """


@user.command()
@click.argument("name")
@placed
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
    with open_store(config, state_dir, create=True) as store:
        if store.user(name):  # before somebody types a password for nothing
            raise NameTaken(f"there is a user {name!r} already")
        store.add_user(name, hash_password(_read_password()), time.time())
    click.echo(f"User {name} added.")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything but the hashes.")
@placed
def list_users(as_json: bool, config: Path, state_dir: Path | None) -> None:
    """Show who may log in.

    \b
    Example:  pyvpn user list --json
    """
    from pyvpn.cli.listing import as_table, to_json

    with open_store(config, state_dir) as store:
        users, devices, leases = store.users(), store.devices(), store.leases()
    if as_json:
        click.echo(to_json(users, devices, leases))
    elif users:
        click.echo(as_table(users, devices))
    else:
        click.echo("No users yet: add one with `pyvpn user add NAME`.")


@user.command()
@click.argument("name")
@placed
def remove(name: str, config: Path, state_dir: Path | None) -> None:
    """Remove the user NAME, with all devices and leases.

    \b
    Example:  pyvpn user remove anna
    """
    with open_store(config, state_dir) as store:
        if not store.remove_user(name):
            raise unknown_user(store, name)
    click.echo(f"User {name} removed: live sessions end within a second.")


@user.command()
@click.argument("name")
@placed
def passwd(name: str, config: Path, state_dir: Path | None) -> None:
    """Set a new password for the user NAME.

    It is asked for, or read as one line from standard input.

    \b
    Example:  pyvpn user passwd anna
    """
    from pyvpn.store.passwords import hash_password

    with open_store(config, state_dir) as store:
        found_user(store, name)
        if not store.set_password(name, hash_password(_read_password()), time.time()):
            raise unknown_user(store, name)
    click.echo(f"Password of {name} set: every device asks for it at its next log-in.")


@user.command()
@click.argument("name")
@placed
def disable(name: str, config: Path, state_dir: Path | None) -> None:
    """Lock the user NAME out; nothing is forgotten.

    \b
    Example:  pyvpn user disable anna
    """
    with open_store(config, state_dir) as store:
        if not store.set_disabled(name, True):
            raise unknown_user(store, name)
    click.echo(f"User {name} disabled: live sessions end within a second.")


@user.command()
@click.argument("name")
@placed
def enable(name: str, config: Path, state_dir: Path | None) -> None:
    """Let the user NAME in again.

    \b
    Example:  pyvpn user enable anna
    """
    with open_store(config, state_dir) as store:
        if not store.set_disabled(name, False):
            raise unknown_user(store, name)
    click.echo(f"User {name} enabled.")


@user.command()
@click.argument("name")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--clear", is_flag=True, help="Keep no address for the user any more.")
@placed
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
    named = wanted_addresses(addresses, load(config)) if addresses else {}
    with open_store(config, state_dir) as store:
        found = found_user(store, name)
        fixed = {4: None, 6: None} if clear else {4: found.fixed4, 6: found.fixed6}
        fixed |= named
        if (clear or named) and not store.set_fixed(name, fixed[4], fixed[6]):
            raise unknown_user(store, name)
    kept = " and ".join(str(ip_address(packed)) for packed in fixed.values() if packed)
    when = "; a device gets it at its next log-in, within a second if here" if named else ""
    click.echo(f"Kept for {name}: {kept or 'no address'}{when}.")


@user.command()
@click.argument("name")
@click.option("--up", metavar="RATE", help="What each device may send: 500k, 10M, 2.5M or none.")
@click.option("--down", metavar="RATE", help="What each device may receive, likewise.")
@placed
def limit(
    name: str, up: str | None, down: str | None, config: Path, state_dir: Path | None
) -> None:
    """Limit how fast the user NAME is, or show the limits.

    A RATE is in bits a second, with k, M or G for thousands, millions and billions of them; none
    ends the limit. What is not named stays as it is. Each device has it for itself: somebody who
    is connected with two gets twice as much. It holds within a second, also for who is connected,
    by either carrier and for WireGuard apps.

    It is what a program inside the tunnel measures, within a few per cent. Up to a tenth of a
    second's worth waits, what comes beyond is dropped, and the log's status (USR2) counts it:
    rate-limit.

    \b
    Example:  pyvpn user limit anna --up 10M --down 50M
              pyvpn user limit anna --up none
              pyvpn user limit anna
    """
    with open_store(config, state_dir) as store:
        found = found_user(store, name)
        new_up = found.limit_up if up is None else _rate("--up", up)
        new_down = found.limit_down if down is None else _rate("--down", down)
        changed = up is not None or down is not None
        if changed and not store.set_limits(name, new_up, new_down):
            raise unknown_user(store, name)
    from pyvpn.cli.listing import limits_of

    click.echo(f"Limits of {name}: {limits_of(new_up, new_down) or 'none'}.")


def _rate(option: str, text: str) -> int | None:
    from pyvpn.config.values import Expected, rate, words

    try:
        return words(rate(SLOWEST, FASTEST), none=None)(text)
    except Expected as error:
        raise ConfigError(f"{option} {text!r}: write {error}") from None
