"""``pyvpn link``, ``pyvpn join`` and ``pyvpn cleanup``: what stands around the two daemons."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from pyvpn.errors import ConfigError, HostError

SERVER_INI = "/etc/pyvpn/server.ini"
CLIENT_INI = "/etc/pyvpn/client.ini"

_ini = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SERVER_INI,
    show_default=True,
    help="The server's configuration.",
)


@click.command()
@_ini
@click.argument("user", default="")
def link(config: Path, user: str) -> None:
    """Print the link that a client needs, for USER if named.

    It says where the server is and how its key is recognised; it is no secret. The other side
    takes it with `pyvpn join LINK`.

    \b
    Example:  pyvpn link anna
    """
    from pyvpn.config import load_server
    from pyvpn.net.host import Host
    from pyvpn.server.identity import find_pin
    from pyvpn.server.terms import link_of
    from pyvpn.wire.messages import clean_user_name

    server = load_server(config)
    pin = find_pin(server, time.time())
    host = Host(str(server.state_dir), "link")
    source = host.default_source(4) or host.default_source(6)
    shown = None if source is None else str(source)
    print(link_of(server, pin, shown, clean_user_name(user) if user else ""))


@click.command()
@click.argument("link")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CLIENT_INI,
    show_default=True,
    help="The client's configuration, which is written.",
)
@click.option("--user", default="", help="The user, if the link does not name one.")
@click.option("--force", is_flag=True, help="Replace a configuration that is there already.")
def join(link: str, config: Path, user: str, force: bool) -> None:
    """Write the client's configuration from the LINK that the server printed.

    Then start the client with `twistd -n vpnclient`. It asks for the password the first time;
    from then on the server knows this device.

    \b
    Example:  pyvpn join 'pyvpn://anna@vpn.example.org:51820?pin=sha256:...'
    (in quotation marks: a shell would take the ? for itself)
    """
    from pyvpn.config import load_client

    if not (link + user).isprintable():  # another line would be another option
        raise ConfigError("a link is one line, as the server printed it")
    if config.exists() and not force:
        raise ConfigError(f"{config} is there already: --force replaces it")
    lines = ["# Written by pyvpn join; etc/client.ini explains every option.", "[client]"]
    lines.append(f"server = {link}")
    if user:
        lines.append(f"user = {user}")
    beside = config.with_name(f".{config.name}.new")
    try:
        config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        # Judged by the same eyes that will read it, before it takes its place.
        try:
            found = load_client(beside)
        except ConfigError as error:
            beside.unlink()
            raise ConfigError(str(error).replace(str(beside), str(config))) from None
        beside.replace(config)
    except OSError as error:
        raise HostError(f"{config}: {error.strerror}") from error
    print(f"{config} is written: {found.server.endpoints[0]}, user {found.user or '(none yet)'}")
    if not found.user:
        print("No user is named yet: add a line  user = NAME")
    where = "" if str(config) == CLIENT_INI else f" --config {config}"
    print(f"Start it with:  twistd -n vpnclient{where}")


@click.command()
@_ini
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="The state directory of a server or a client, instead of the configured one.",
)
def cleanup(config: Path, state_dir: Path | None) -> None:
    """Undo on this host what a killed server or client left behind.

    The next start does the same by itself. Refused while the daemon runs.

    \b
    Example:  pyvpn cleanup
              pyvpn cleanup --state-dir /var/lib/pyvpn-client
    """
    from pyvpn.config import load_server
    from pyvpn.net.host import Host
    from pyvpn.net.process import StateLock

    directory = state_dir or load_server(config).state_dir
    if not directory.is_dir():
        raise ConfigError(f"{directory} is not there: no server or client kept its state in it")
    lock = StateLock(str(directory))
    lock.take()
    try:
        left = Host(str(directory), "cleanup").reconcile()
    finally:
        lock.release()
    if left:
        raise HostError("not undone: " + "; ".join(left))
    print("Nothing is left behind.")
