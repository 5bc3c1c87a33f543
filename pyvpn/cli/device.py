"""``pyvpn device``: the machines of a user, and stock WireGuard apps among them."""

from __future__ import annotations

import difflib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyvpn.cli.place import found_user, load, open_store, placed
from pyvpn.errors import ConfigError, HostError

if TYPE_CHECKING:
    from pyvpn.cli.wgquick import DeviceFile
    from pyvpn.store import Device, User
    from pyvpn.store.sqlite import Store


@click.group()
def device() -> None:
    """Look after the devices of users: phones, laptops, anything.

    A pyvpn client puts itself on file when its user logs in. A stock WireGuard app (Android, iOS,
    macOS, Windows, wg-quick) is put on file here, and gets a file or a QR code to read. A running
    server follows within a second.

    \b
    Example:  pyvpn device add anna phone --wireguard
              pyvpn device list
    """


@device.command()
@click.argument("user")
@click.argument("name")
@click.option("--wireguard", is_flag=True, help="It is a stock WireGuard app.")
@click.option(
    "--public-key",
    metavar="KEY",
    help="The app's own public key, if it has made its keys itself. Otherwise they are made here.",
)
@click.option(
    "--preshared-key", "preshared", is_flag=True, help="Mix a secret of both ends into the keys."
)
@click.option(
    "--address",
    "addresses",
    metavar="ADDRESS",
    multiple=True,
    help="Its address in the tunnel; once for IPv4, once for IPv6. Otherwise one is chosen.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write the file there, for your eyes only."
)
@click.option(
    "--qr/--no-qr",
    default=None,
    help="Draw a QR code to be read by a phone. Drawn on a terminal if nothing is said.",
)
@placed
def add(
    user: str,
    name: str,
    wireguard: bool,
    public_key: str | None,
    preshared: bool,
    addresses: tuple[str, ...],
    output: Path | None,
    qr: bool | None,
    config: Path,
    state_dir: Path | None,
) -> None:
    """Put a WireGuard app on file as the device NAME of USER, and print its configuration.

    The app gets an address for good: one that is kept for USER if nobody has it, else a free one.
    The file that is printed holds the device's private key, unless the app made its own. It is
    shown this once and stored nowhere: who loses it removes the device and adds it again.

    \b
    For a phone: scan what is drawn, in the app, "Scan from QR code".
              pyvpn device add anna phone --wireguard
    For a laptop: a file, for wg-quick or to be imported by the app.
              pyvpn device add anna laptop --wireguard --output anna.conf
              pyvpn device add anna laptop --wireguard > anna.conf
    For an app that shows its own public key; the file has a gap for the private one.
              pyvpn device add anna tablet --wireguard --public-key 'xTIB...Dg='
    """
    from pyvpn.cli import stock

    if not wireguard:
        raise click.UsageError(
            "Write --wireguard: only WireGuard apps are added by hand. A pyvpn client puts itself"
            " on file at its first log-in."
        )
    if qr and public_key is not None:
        raise click.UsageError(
            "--qr draws the whole file, with the private key: without that key (--public-key) it"
            " would be of no use to an app."
        )
    stock.check_name(name)
    server = load(config)
    if not server.wireguard_listen:
        where = server.where("wireguard", "listen")
        raise ConfigError(f"{where} = none: no WireGuard app can reach this server")
    with open_store(config, state_dir or server.state_dir) as store:
        owner = found_user(store, user)
        plan = stock.Plan.make(server, state_dir or server.state_dir, addresses, public_key)
        with _destination(output) as write:
            made, lease = plan.put_on_file(store, owner, name, preshared, time.time())
            try:
                text = plan.file_for(owner, made, lease)
                write(text)
            except BaseException:
                # Its key is lost, so there is nothing to keep of it.
                store.remove_device(made.id)
                raise
    for remark in plan.remarks(owner, made, lease):
        click.echo(remark, err=True)
    if qr or (qr is None and output is None and _is_terminal(sys.stdout)):
        _draw(text)


@contextmanager
def _destination(output: Path | None) -> Iterator[Callable[[DeviceFile], None]]:
    """Where the file goes; found out before anything is changed.

    A file of that name is not replaced, and none is left behind when something goes wrong.
    """
    if output is None:
        yield _print
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(output, flags, 0o600)
    except FileExistsError:
        raise ConfigError(f"{output} is there already: name another file, or remove it") from None
    except OSError as error:
        raise HostError(f"{output}: cannot be written: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:

            def write(text: DeviceFile) -> None:
                try:
                    file.write(text.text().encode())
                    file.flush()
                    os.fsync(descriptor)
                except OSError as error:
                    raise _nothing_done(str(output), error) from error

            yield write
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _print(text: DeviceFile) -> None:
    if text.is_secret:
        _keep_private()
    try:
        sys.stdout.buffer.write(text.text().encode())
        sys.stdout.flush()
    except OSError as error:
        raise _nothing_done("standard output", error) from error


def _nothing_done(place: str, error: OSError) -> HostError:
    return HostError(f"{place}: {error.strerror}: nothing was put on file")


def _keep_private() -> None:
    """Take from others the file that a shell has made for ``> FILE``, before it has content."""
    with suppress(OSError, ValueError):  # standard output is closed, or no file at all
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
            try:
                os.fchmod(descriptor, 0o600)
            except OSError:
                click.echo(
                    "Warning: others may read the file you write to, and it holds a secret:"
                    " --output FILE makes one that they cannot.",
                    err=True,
                )


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


def _draw(text: DeviceFile) -> None:
    """Draw the QR code beside the file, not into it."""
    from pyvpn.cli.wgquick import TooLong, qr_code

    if text.private_key is None:
        click.echo("No QR code: without the private key it would be of no use.", err=True)
        return
    try:
        lines = qr_code(text.text(comments=False))
    except TooLong as error:
        click.echo(f"No QR code: {error}. Let [tunnel] routes be fewer.", err=True)
        return
    if not _is_terminal(sys.stderr):
        click.echo("\n".join(lines), err=True)
        return
    columns = os.get_terminal_size(sys.stderr.fileno()).columns
    if 0 < columns < len(lines[0]):
        click.echo(
            f"No QR code: it needs {len(lines[0])} columns, this terminal has {columns}."
            " Remove the device, and add it again in a wider one.",
            err=True,
        )
        return
    # White on black, whatever the terminal's own colours are: not every app reads a negative.
    click.echo("\n".join(f"\x1b[40;97m{line}\x1b[0m" for line in lines), err=True, color=True)


@device.command("list")
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything but secrets.")
@placed
def list_devices(user: str, as_json: bool, config: Path, state_dir: Path | None) -> None:
    """Show the devices of USER, or of everybody.

    \b
    Example:  pyvpn device list
              pyvpn device list anna --json
    """
    from pyvpn.cli.listing import devices_as_table, devices_to_json

    with open_store(config, state_dir) as store:
        users = [found_user(store, user)] if user else store.users()
        theirs = {each.id for each in users}
        devices = [each for each in store.devices() if each.user in theirs]
        leases, peers = store.leases(), store.peers()
    if as_json:
        click.echo(devices_to_json(users, devices, leases, peers))
    elif devices:
        click.echo(devices_as_table(users, devices, leases, peers))
    else:
        click.echo("No devices yet: a client puts itself on file; see `pyvpn device add --help`.")


@device.command()
@click.argument("user")
@click.argument("name")
@placed
def remove(user: str, name: str, config: Path, state_dir: Path | None) -> None:
    """Remove the device NAME of USER, with its keys and its address.

    NAME may also be its number or its key, as `pyvpn device list` shows them. A pyvpn client that
    is removed can come again with its user's password.

    \b
    Example:  pyvpn device remove anna phone
    """
    with open_store(config, state_dir) as store:
        found = _found_device(store, found_user(store, user), name)
        store.remove_device(found.id)
    click.echo(f"Device {name} of {user} removed: a session that it has ends within a second.")


@device.command()
@click.argument("user")
@click.argument("name")
@placed
def reset(user: str, name: str, config: Path, state_dir: Path | None) -> None:
    """Let the device NAME of USER in again, if its clock was wrong and has been set back.

    A server remembers the time in a device's WireGuard handshakes, and ignores whatever is older,
    or old ones could be played to it again. A device whose clock once was in the future stays out
    until then, unless this is forgotten. (Who has recorded such a handshake can play it again, and
    the device is out again: then remove it and add it anew, with another key.)

    \b
    Example:  pyvpn device reset anna phone
    """
    with open_store(config, state_dir) as store:
        found = _found_device(store, found_user(store, user), name)
        if not store.reset_peer(found.id):
            raise ConfigError(f"{user}'s device {name!r} has no WireGuard key: nothing to reset")
    click.echo(f"Device {name} of {user}: the time of its last handshake is forgotten.")


def _found_device(store: Store, owner: User, name: str) -> Device:
    """The one device that *name* can mean: names are not unique, numbers and keys are."""
    from pyvpn.cli.listing import key_of

    devices = store.devices(owner.id)
    meant = [each for each in devices if name in (each.name, str(each.id), key_of(each))]
    if len(meant) == 1:
        return meant[0]
    if meant:
        numbers = " or ".join(str(each.id) for each in meant)
        raise ConfigError(
            f"{owner.name} has {len(meant)} devices that {name!r} can mean: write the number"
            f" ({numbers}) or the key that `pyvpn device list {owner.name}` shows"
        )
    near = difflib.get_close_matches(name, [each.name for each in devices], 1)
    listed = f"`pyvpn device list {owner.name}` shows which there are"
    hint = f"did you mean {near[0]!r}?" if near else listed
    raise ConfigError(f"{owner.name} has no device {name!r}: {hint}")
