"""The client: from a configuration file to a tunnel that stays up."""

from pyvpn.client.service import ClientService

__all__ = ["ClientService"]
