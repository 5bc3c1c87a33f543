"""The server: what it offers, who may come in, and the service that owns it all."""

from pyvpn.server.service import ServerService

__all__ = ["ServerService"]
