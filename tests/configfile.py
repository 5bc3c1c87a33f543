"""What the tests of the configuration share: files to write, and complaints to expect."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.config import ClientConfig, load_client
from pyvpn.errors import ConfigError

PIN = "sha256:" + "A" * 43
OTHER_PIN = "sha256:" + "B" * 42 + "E"

C = TypeVar("C")


class ConfigFileTestCase(SynchronousTestCase):
    """Writes configuration files, and reads back what the loaders say about them."""

    def write(self, content: str | bytes, mode: int = 0o600) -> str:
        """A new file with *content*; its path."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)
        return path

    def complaint(self, load: Callable[[str], object], path: str) -> str:
        """What *load* raises for the file at *path*, which is called FILE in it."""
        error = self.assertRaises(ConfigError, load, path)
        return str(error).replace(os.path.abspath(path), "FILE").replace(path, "FILE")


class ClientFileTestCase(ConfigFileTestCase):
    """Files with a server and whatever a test is about."""

    def content(self, section: str, settings: str) -> str:
        """A client's file with *settings* in line 2, and a server unless they name one."""
        if settings.startswith("server ="):
            return f"[client]\n{settings}\n"
        if section == "client":
            return f"[client]\n{settings}\nserver = vpn.example.org\n"
        return f"[{section}]\n{settings}\n[client]\nserver = vpn.example.org\n"

    def load(self, settings: str, section: str = "client") -> ClientConfig:
        """What such a file means."""
        return load_client(self.write(self.content(section, settings)))

    def complain(self, settings: str, section: str = "client", mode: int = 0o600) -> str:
        """What is said to such a file."""
        return self.complaint(load_client, self.write(self.content(section, settings), mode))
