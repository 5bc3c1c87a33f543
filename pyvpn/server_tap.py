"""``twistd vpnserver``: options, and the service they make."""

from __future__ import annotations

from twisted.application.service import IService
from twisted.python import usage

from pyvpn.config import load_server
from pyvpn.errors import PyvpnError
from pyvpn.net.process import (
    keep_terminal,
    refuse_shed_privileges,
    refuse_to_start,
    use_monotonic_clock,
    without_pidfile_in_foreground,
)

DEFAULT = "/etc/pyvpn/server.ini"
EXAMPLES = """
Examples:
  twistd -n vpnserver                                in the foreground, Ctrl-C ends it
  twistd -n vpnserver --config ~/vpn/server.ini      with another configuration
  twistd --pidfile /run/pyvpn.pid --logfile /var/log/pyvpn.log vpnserver
                                                     as a daemon: kill `cat /run/pyvpn.pid`
  python3 -m pyvpn.config server                     prints a configuration to begin with
"""


class Options(usage.Options):
    """What may stand behind ``twistd vpnserver``."""

    optParameters = (
        ["config", "c", DEFAULT, "The configuration; etc/server.ini explains every option."],
    )

    longdesc = (
        "Lets people reach the LAN behind this host. It works with etc/server.ini as it is: the "
        "first start makes keys and certificate and prints the line that clients need. Users are "
        "made with:  pyvpn user add NAME.  Signals: TERM and INT stop and undo everything, HUP "
        "reads the configuration again, USR2 writes the status to the log."
    )

    def getUsage(self, width: int | None = None) -> str:
        return super().getUsage(width) + EXAMPLES

    def postOptions(self) -> None:
        try:
            refuse_shed_privileges(self.parent)
            self["server"] = load_server(self["config"])
        except PyvpnError as error:
            # Not a UsageError: twistd would print a page of help above the line that matters.
            refuse_to_start(error, daemonised=False)
        without_pidfile_in_foreground(self.parent)


def makeService(options: Options) -> IService:
    """Build the service; it starts nothing before twistd says so."""
    from twisted.internet import reactor

    from pyvpn.server import ServerService

    use_monotonic_clock(reactor)
    parent = options.parent
    daemonised = parent is not None and not parent["nodaemon"]
    if daemonised:
        keep_terminal(reactor)
    return ServerService(options["server"], reactor, daemonised=daemonised)
