"""``twistd vpnclient``: options, and the service they make."""

from __future__ import annotations

import getpass
import os
import sys

from twisted.application.service import IService
from twisted.python import usage

from pyvpn.config import ClientConfig, load_client, read_password
from pyvpn.errors import ConfigError, PyvpnError
from pyvpn.net.process import (
    keep_terminal,
    refuse_shed_privileges,
    refuse_to_start,
    use_monotonic_clock,
    without_pidfile_in_foreground,
)

DEFAULT = "/etc/pyvpn/client.ini"
EXAMPLES = """
Examples:
  pyvpn join 'pyvpn://anna@vpn.example.org?pin=sha256:...'     once: writes the configuration
  twistd -n vpnclient                                in the foreground, Ctrl-C ends it
  twistd -n vpnclient --config ~/office.ini          with another configuration
  twistd --pidfile /run/pyvpnc.pid --logfile /var/log/pyvpnc.log vpnclient
                                                     as a daemon: kill `cat /run/pyvpnc.pid`
"""


class Options(usage.Options):
    """What may stand behind ``twistd vpnclient``."""

    optParameters = (
        ["config", "c", DEFAULT, "The configuration; etc/client.ini explains every option."],
    )

    longdesc = (
        "Reaches the LAN behind a pyvpn server. All it needs is the line  server = pyvpn://...  "
        "that the server prints at its start, in the [client] section of the configuration, or: "
        "pyvpn join LINK. The password is asked for at the terminal unless the configuration "
        "names a place for it, and not needed any more once the server knows this device. "
        "Signals: TERM and INT say goodbye and undo everything, HUP reads the configuration "
        "again and reconnects, USR2 writes the status to the log."
    )

    def getUsage(self, width: int | None = None) -> str:
        return super().getUsage(width) + EXAMPLES

    def postOptions(self) -> None:
        try:
            refuse_shed_privileges(self.parent)
            config = self["client"] = load_client(self["config"])
            self["typed_password"] = _ask_password(config)
        except PyvpnError as error:
            refuse_to_start(error, daemonised=False)
        without_pidfile_in_foreground(self.parent)


def _ask_password(config: ClientConfig) -> str | None:
    """The password of a person at the terminal, if it is going to be needed.

    Raises:
        ConfigError: it is needed, and there is no one to ask, or no answer.
        PeerError: what was typed cannot be a password.
    """
    from pyvpn.client.device import Device, certificate_file, server_name
    from pyvpn.wire.messages import clean_password

    if config.plain:
        return _ask_plain_password(config)
    if not config.user and not certificate_file(config.state_dir, server_name(config)).exists():
        raise ConfigError(
            f"{config.path}: no user: write  server = pyvpn://NAME@...  or  user = NAME"
        )
    if read_password(config) is not None:
        return None
    device = Device(config.state_dir, server_name(config))
    known = device.certificate is not None
    if known and not (device.password_wanted and config.user and sys.stdin.isatty()):
        return None
    if not config.user:
        raise ConfigError(
            f"{config.path}: no user, and the certificate is damaged: set  user = NAME"
        )
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{config.path}: the server does not know this device yet, so a password is needed: "
            "set password_file in [client], or start once at a terminal, where it is asked for"
        )
    password = _typed(f"Password of {config.user} at {config.server.endpoints[0]}: ")
    if password == "" and known:
        return None  # perhaps the server changed its mind
    if not password:
        raise ConfigError("no password was given")
    return clean_password(password)


def _ask_plain_password(config: ClientConfig) -> str | None:
    """The same for the first generation, whose UDP program has one password for all.

    Raises:
        ConfigError: it is needed, and there is no one to ask, or what was typed cannot be one.
    """
    from pyvpn.wire.plain_udp import is_fit

    if config.protocol != "plain-udp" or read_password(config) is not None:
        return None
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{config.path}: plain-udp needs the server's password: set password_file in "
            "[client], or start at a terminal, where it is asked for"
        )
    password = _typed(f"Password of the server at {config.server.endpoints[0]}: ") or ""
    try:
        fit = is_fit(password.encode())
    except UnicodeEncodeError:  # bytes that are no text
        fit = False
    if not fit:
        raise ConfigError("no password was given, or one that cannot be")
    return password


def _typed(prompt: str) -> str | None:
    """What was typed; None when the person went away."""
    try:
        return getpass.getpass(prompt)
    except (EOFError, KeyboardInterrupt):
        sys.stderr.write(os.linesep)
        return None


def makeService(options: Options) -> IService:
    """Build the service; it starts nothing before twistd says so."""
    from twisted.internet import reactor

    from pyvpn.client import ClientService

    use_monotonic_clock(reactor)
    parent = options.parent
    daemonised = parent is not None and not parent["nodaemon"]
    if daemonised:
        keep_terminal(reactor)
    return ClientService(
        options["client"],
        reactor,
        typed_password=options["typed_password"],
        daemonised=daemonised,
    )
