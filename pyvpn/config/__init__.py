"""From ini files to frozen values: the only room that spells an option.

``load_server`` and ``load_client`` read a file; whatever is wrong in it becomes one
:class:`~pyvpn.errors.ConfigError`, a line for each thing:
``file:line: [section] option = 'value': what is expected``.
"""

from __future__ import annotations

from pyvpn.config.addresses import Address, Endpoint, Interface, Network, Server
from pyvpn.config.client import ClientConfig, load_client, read_password
from pyvpn.config.plain import read_plain_password
from pyvpn.config.server import ServerConfig, load_server
from pyvpn.config.table import describe

__all__ = [
    "Address",
    "ClientConfig",
    "Endpoint",
    "Interface",
    "Network",
    "Server",
    "ServerConfig",
    "describe",
    "load_client",
    "load_server",
    "read_password",
    "read_plain_password",
]
