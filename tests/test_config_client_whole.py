"""The client's file as a whole: what its options say together, and the password."""

from __future__ import annotations

import os
from ipaddress import IPv4Interface
from pathlib import Path

from pyvpn.config import (
    Endpoint,
    load_client,
    read_password,
)
from pyvpn.errors import ConfigError
from tests.configfile import OTHER_PIN, PIN, ClientFileTestCase


class WhoAndWhereTests(ClientFileTestCase):
    """Link and options together say one thing."""

    def test_userOverridesLink(self) -> None:
        """A user that is written counts, not the link's; both places then say so."""
        config = self.load("server = pyvpn://anna@vpn.example.org\nuser = bert")
        self.assertEqual(("bert", "bert"), (config.user, config.server.user))

    def test_fromLink(self) -> None:
        """What only the link says is found in both places."""
        config = self.load(f"server = pyvpn://anna@vpn.example.org?pin={PIN}")
        self.assertEqual(("anna", PIN), (config.user, config.pin))

    def test_pinFromOption(self) -> None:
        """What only the options say is found in both places."""
        config = self.load(f"server = vpn.example.org\npin = {PIN}\nuser = anna")
        self.assertEqual(("anna", PIN), (config.server.user, config.server.pin))

    def test_twoPins(self) -> None:
        """Two different pins: one of them is wrong, so neither is trusted."""
        self.assertEqual(
            f"FILE:3: [client] pin = '{OTHER_PIN}': the same pin as in the server option, or none",
            self.complain(f"server = pyvpn://vpn.example.org?pin={PIN}\npin = {OTHER_PIN}"),
        )
        self.load(f"server = pyvpn://vpn.example.org?pin={PIN}\npin = {PIN}")

    def test_pinAndAuthority(self) -> None:
        """A pin and authorities: it would be unclear which of them protects."""
        self.assertEqual(
            "FILE:3: [client] ca_file = '/ca.pem': a pin or ca_file, not both",
            self.complain(f"server = pyvpn://vpn.example.org?pin={PIN}\nca_file = /ca.pem"),
        )


class PlainProtocolTests(ClientFileTestCase):
    """The first generation's protocol, from the client."""

    def plain(self, rest: str) -> str:
        """A file that speaks it."""
        return self.write(f"[client]\nprotocol = plain-tcp\nserver = 192.0.2.1\n{rest}\n")

    def test_complete(self) -> None:
        """Server and address are enough; the port is the original's."""
        config = load_client(self.plain("[tunnel]\naddress = 182.1.1.101/24"))
        self.assertTrue(config.plain)
        self.assertEqual((Endpoint("192.0.2.1", 51005),), config.server.endpoints)
        self.assertEqual((IPv4Interface("182.1.1.101/24"),), config.tunnel.address)

    def test_address(self) -> None:
        """There is nobody to give an address, so one with its prefix must be written."""
        expected = "with plain-tcp, one IPv4 address and its prefix, such as 182.1.1.101/24"
        for wrong in ("182.1.1.101", "fd00::5/64", "182.1.1.101/24, 182.1.1.102/24"):
            self.assertEqual(
                f"FILE:5: [tunnel] address = '{wrong}': {expected}",
                self.complaint(load_client, self.plain(f"[tunnel]\naddress = {wrong}")),
            )
        self.assertEqual(
            f"FILE: [tunnel] address = '': {expected}",
            self.complaint(load_client, self.plain("")),
        )

    def test_nothingThatLooksSafe(self) -> None:
        """Options that would only seem to protect are refused, and secrets not shown."""
        for name, value, shown in (
            ("user", "anna", "anna"),
            ("pin", PIN, PIN),
            ("ca_file", "/ca.pem", "/ca.pem"),
            ("password", "horse", "***"),
            ("password_file", "/nowhere", "/nowhere"),
            ("password_env", "VPN", "VPN"),
        ):
            self.assertEqual(
                f"FILE:4: [client] {name} = '{shown}': "
                "nothing: plain-tcp has neither log-in nor encryption",
                self.complaint(
                    load_client,
                    self.plain(f"{name} = {value}\n[tunnel]\naddress = 182.1.1.101/24"),
                ),
            )

    def test_link(self) -> None:
        """A link with user and pin belongs to the other protocol."""
        link = f"pyvpn://anna@vpn.example.org?pin={PIN}"
        self.assertIn(
            "': host:port alone: plain-tcp has neither users nor pins",
            self.complain(
                f"server = {link}\nprotocol = plain-tcp\n[tunnel]\naddress = 182.1.1.101/24"
            ),
        )


class PlainUdpProtocolTests(ClientFileTestCase):
    """The first generation's other protocol, from the client."""

    def plain(self, rest: str = "") -> str:
        """A file that speaks it."""
        return self.write(f"[client]\nprotocol = plain-udp\nserver = 192.0.2.1\n{rest}\n")

    def test_complete(self) -> None:
        """A server is enough; the port is the original's, the password comes from anywhere."""
        config = load_client(self.plain())
        self.assertTrue(config.plain)
        self.assertEqual((Endpoint("192.0.2.1", 2003),), config.server.endpoints)
        self.assertIsNone(read_password(config, {}))
        self.assertEqual("horse", read_password(load_client(self.plain("password = horse")), {}))

    def test_nothingThatLooksSafe(self) -> None:
        """Options that would only seem to protect are refused."""
        for name, value in (("user", "anna"), ("pin", PIN), ("ca_file", "/ca.pem")):
            self.assertEqual(
                f"FILE:4: [client] {name} = '{value}': "
                "nothing: plain-udp has neither users nor encryption",
                self.complaint(load_client, self.plain(f"{name} = {value}")),
            )
        self.assertIn(
            "': host:port alone: plain-udp has neither users nor pins",
            self.complain(f"server = pyvpn://anna@vpn.example.org?pin={PIN}\nprotocol=plain-udp"),
        )

    def test_address(self) -> None:
        """An address cannot be asked for."""
        self.assertEqual(
            "FILE:5: [tunnel] address = '10.0.0.5/24': "
            "nothing: with plain-udp the server gives an address unasked",
            self.complaint(load_client, self.plain("[tunnel]\naddress = 10.0.0.5/24")),
        )

    def test_commands(self) -> None:
        """A password that the protocol takes for something else is refused, and not shown."""
        for password in ("r", "e"):
            self.assertEqual(
                "FILE:4: [client] password = '***': "
                "another one: with plain-udp, r and e are commands",
                self.complaint(load_client, self.plain(f"password = {password}")),
            )
        self.load("password = r")

    def test_readableByOthers(self) -> None:
        """A file with the password in it is private here too."""
        path = self.plain("password = horse")
        os.chmod(path, 0o640)
        self.assertIn("chmod 600", self.complaint(load_client, path))


class PasswordTests(ClientFileTestCase):
    """Where the password comes from, and who else could read it."""

    def test_none(self) -> None:
        """Without any of the three there is none, and somebody must be asked."""
        self.assertIsNone(read_password(self.load("user = anna"), {}))

    def test_inFile(self) -> None:
        """A password in the file, as it stands."""
        self.assertEqual("50% #1 = ", read_password(self.load("password = 50% #1 = "), {}) + " ")

    def test_onlyOne(self) -> None:
        """Two sources: the later line is blamed."""
        self.assertEqual(
            "FILE:3: [client] password_env = 'VPN': "
            "only one of password, password_file, password_env",
            self.complain("password = horse\npassword_env = VPN"),
        )

    def test_readableByOthers(self) -> None:
        """A file with a password that others may read is refused; without one it is not."""
        for mode in (0o640, 0o604, 0o644, 0o660):
            self.assertEqual(
                "FILE:2: [client] password = '***': "
                "a file that nobody else can read: chmod 600 FILE",
                self.complain("password = horse", mode=mode),
            )
        self.assertEqual("horse", self.load("password = horse").password)
        load_client(self.write(self.content("client", "user = anna"), 0o644))

    def test_passwordFile(self) -> None:
        """The first line of the file, without its end."""
        for content in (b"horse", b"horse\n", b"horse\r\n", b"horse\nsecond\n"):
            path = os.path.abspath(self.write(content))
            self.assertEqual("horse", read_password(self.load(f"password_file = {path}"), {}))

    def test_passwordFileReadableByOthers(self) -> None:
        """A password file that others may read is refused at the start, and when it is read."""
        path = os.path.abspath(self.write("horse\n", 0o640))
        expected = f"a file that nobody else can read: chmod 600 {path}"
        self.assertEqual(
            f"FILE:2: [client] password_file = '{path}': {expected}",
            self.complain(f"password_file = {path}"),
        )
        os.chmod(path, 0o600)
        config = self.load(f"password_file = {path}")
        os.chmod(path, 0o604)
        error = self.assertRaises(ConfigError, read_password, config, {})
        self.assertEqual(
            f"{config.path}:2: [client] password_file = '{path}': {expected}", str(error)
        )

    def test_credential(self) -> None:
        """Below systemd's credentials the group's bits mean nothing, others' bits do."""
        path = Path(os.path.abspath(self.write("horse\n", 0o440)))
        systemd = {"CREDENTIALS_DIRECTORY": str(path.parent)}
        self.assertIn("chmod 600", self.complain(f"password_file = {path}"))
        os.environ.update(systemd)
        self.addCleanup(os.environ.pop, "CREDENTIALS_DIRECTORY")
        config = self.load(f"password_file = {path}")
        self.assertEqual("horse", read_password(config, systemd))
        self.assertRaises(ConfigError, read_password, config, {})
        os.chmod(path, 0o444)
        self.assertRaises(ConfigError, read_password, config, systemd)

    def test_passwordFileUnfit(self) -> None:
        """A password file that is missing, empty or no text, told when it is needed."""
        for content, expected in (
            (None, "a file that can be read (No such file or directory)"),
            (b"", "a file whose first line is the password"),
            (b"\nhorse\n", "a file whose first line is the password"),
            (b"\xff\n", "a file of UTF-8 text"),
            (
                b"x" * 1025,
                "a file whose first line is the password, at most 1024 bytes of UTF-8",
            ),
        ):
            path = os.path.abspath(self.mktemp() if content is None else self.write(content))
            config = self.load(f"password_file = {path}")
            error = self.assertRaises(ConfigError, read_password, config, {})
            self.assertEqual(
                f"{config.path}:2: [client] password_file = '{path}': {expected}", str(error)
            )

    def test_environment(self) -> None:
        """A password in the environment; an unset variable is told when it is needed."""
        config = self.load("password_env = VPN_PASSWORD")
        self.assertEqual("horse", read_password(config, {"VPN_PASSWORD": "horse"}))
        for environ, expected in (
            ({}, "the name of an environment variable that is set"),
            ({"VPN_PASSWORD": ""}, "the name of an environment variable that is set"),
            (
                {"VPN_PASSWORD": "\udcff"},
                "the name of an environment variable that is set, at most 1024 bytes of UTF-8",
            ),
        ):
            error = self.assertRaises(ConfigError, read_password, config, environ)
            self.assertEqual(
                f"{config.path}:2: [client] password_env = 'VPN_PASSWORD': {expected}", str(error)
            )
