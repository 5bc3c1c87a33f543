"""The pyvpn command: what an operator does by hand.

Each command imports what it needs when it runs, so that ``pyvpn --help`` stays quick.
"""

from __future__ import annotations

import click

from pyvpn import __version__
from pyvpn.cli.device import device
from pyvpn.cli.link import cleanup, join, link
from pyvpn.cli.user import user
from pyvpn.cli.wg import wg
from pyvpn.errors import ConfigError, HostError, PeerError


class _Pyvpn(click.Group):
    """Says in one line what went wrong; only our own bugs (Misuse) are worth a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ConfigError, PeerError, HostError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Pyvpn, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pyvpn", message="%(prog)s %(version)s")
def main() -> None:
    """Look after a pyvpn server, or join one.

    The programs themselves are `twistd -n vpnserver` and `twistd -n vpnclient`.

    \b
    On the server:   pyvpn user add anna
                     pyvpn link anna            prints the link for her
    On her laptop:   pyvpn join 'LINK'
                     twistd -n vpnclient
    For her phone:   pyvpn device add anna phone --wireguard
    Without either:  pyvpn wg wg0              a plain WireGuard interface
    """


for _command in (user, device, link, join, cleanup, wg):
    main.add_command(_command)
