"""What the tests of ``pyvpn device`` share: a server's files, and a host in a LAN."""

from __future__ import annotations

from collections.abc import Callable
from configparser import ConfigParser
from ipaddress import ip_address, ip_network

from click.testing import CliRunner, Result

from pyvpn.cli import main
from pyvpn.crypto.x25519 import key_to_base64, public_of
from pyvpn.net import netlink
from pyvpn.store import Device
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from tests.cli.test_user import UserCase

OWN = key_to_base64(public_of(b"\x51" * 32))
OTHER = key_to_base64(public_of(b"\x52" * 32))

LAN = [("eth0", ip_network("192.168.77.0/24")), ("eth1", ip_network("203.0.113.0/24"))]


def address(text: str) -> bytes:
    return ip_address(text).packed


def parse(text: str) -> ConfigParser:
    """A wg-quick file."""
    parser = ConfigParser(comment_prefixes="#", strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keeps capitals
    parser.read_string(text)
    return parser


class DeviceCase(UserCase):
    """A server's configuration, anna and bert, and a host in a LAN."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(netlink, "own_networks", lambda exclude: LAN)
        self.patch(netlink, "default_source", lambda *_: ip_address("198.18.2.2"))
        self.prepare("anna", "bert")

    def configure(self, tunnel: str = "", more: str = "") -> None:
        text = f"[server]\nstate_dir = {self.directory}\n[tunnel]\n{tunnel}\n{more}\n"
        self.config.write_text(text, encoding="utf-8")

    def run_command(self, *words: str, stdin: str | bytes = "") -> Result:
        arguments = ["device", *words, "--config", str(self.config)]
        return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)

    def add(self, *words: str, user: str = "anna", name: str = "phone") -> Result:
        """``pyvpn device add ... --wireguard``"""
        return self.run_command("add", user, name, "--wireguard", *words)

    def added(self, *words: str, user: str = "anna", name: str = "phone") -> ConfigParser:
        """The file it printed."""
        result = self.add(*words, user=user, name=name)
        self.assertEqual(0, result.exit_code, result.stderr)
        return parse(result.stdout)

    def in_store(self, do: Callable[[Store], object]) -> None:
        """Change something on file."""
        store = Store(self.path)
        do(store)
        store.close()

    def devices(self) -> list[Device]:
        return self.open().devices()

    def leases(self) -> list[Lease]:
        return self.open().leases()
