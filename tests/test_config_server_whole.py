"""The server's file as a whole: values that are right alone and wrong together."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path

from pyvpn.config import Endpoint, load_server, read_plain_password
from pyvpn.errors import ConfigError
from tests.configfile import ConfigFileTestCase


class ServerContradictionTests(ConfigFileTestCase):
    """Values that are right alone and wrong together."""

    def test_noAddresses(self) -> None:
        """A tunnel without any addresses is none."""
        self.assertEqual(
            "FILE:2: [tunnel] network4 = 'none': network4 or network6, or both",
            self.complaint(load_server, self.write("[tunnel]\nnetwork4=none\nnetwork6=none\n")),
        )

    def test_routesWithoutAddresses(self) -> None:
        """Routes of a family the tunnel does not have lead nowhere."""
        self.assertEqual(
            "FILE:3: [tunnel] routes = 'fd77::/64': "
            "no fd77::/64: there is no IPv6 inside the tunnel",
            self.complaint(
                load_server, self.write("[tunnel]\nnetwork6 = none\nroutes = fd77::/64\n")
            ),
        )

    def test_relayInBothLists(self) -> None:
        """A relay sends a PROXY header or does not."""
        self.assertEqual(
            "FILE:3: [server] proxy_protocol_relays = '192.0.2.0/24': "
            "192.0.2.0/24 here or in trusted_relays, not in both",
            self.complaint(
                load_server,
                self.write(
                    "[server]\ntrusted_relays = 2001:db8::1, 192.0.2.7\n"
                    "proxy_protocol_relays = 192.0.2.0/24\n"
                ),
            ),
        )
        load_server(
            self.write("[server]\ntrusted_relays=192.0.2.7\nproxy_protocol_relays=192.0.2.8\n")
        )

    def test_ownCertificate(self) -> None:
        """A certificate with its key is complete."""
        config = load_server(self.write("[tls]\ncertificate = /a\nprivate_key = /b\n"))
        self.assertEqual(
            (Path("/a"), Path("/b")), (config.tls.certificate, config.tls.private_key)
        )

    def test_heartbeatAndExpiryTogether(self) -> None:
        """A slow heartbeat needs a slow expiry, and may have it."""
        config = load_server(self.write("[tunnel]\nheartbeat = 5m\nexpiry = 11m\n"))
        self.assertEqual((300.0, 660.0), (config.tunnel.heartbeat, config.tunnel.expiry))


class WireGuardListenTests(ConfigFileTestCase):
    """Where WireGuard is spoken."""

    def test_same(self) -> None:
        """Unless something is said, on the ports of TCP; none switches it off."""
        for text, expected in (
            ("", (Endpoint("192.0.2.1", 443), Endpoint("", 51820))),
            ("listen = none", ()),
            ("listen = 51821", (Endpoint("", 51821),)),
        ):
            path = self.write(f"[server]\nlisten = 192.0.2.1:443, 51820\n[wireguard]\n{text}\n")
            self.assertEqual(expected, load_server(path).wireguard_listen)

    def test_portOfPublicEndpoints(self) -> None:
        """A public endpoint without a port has the first one of WireGuard's."""
        for listen, port in (("same", 443), ("51821", 51821), ("none", 443)):
            config = load_server(
                self.write(
                    "[server]\nlisten = 443\npublic_endpoints = a.example\n"
                    f"[wireguard]\nlisten = {listen}\npublic_endpoints = b.example, c.example:1\n"
                )
            )
            expected = (Endpoint("b.example", port), Endpoint("c.example", 1))
            self.assertEqual(expected, config.wireguard.public_endpoints)
            self.assertEqual((Endpoint("a.example", 443),), config.public_endpoints)

    def test_plainPort(self) -> None:
        """The first generation's UDP cannot share its port."""
        said = self.complaint(
            load_server,
            self.write(
                "[wireguard]\nlisten = 2003\n[plain]\nudp_listen = 192.0.2.1:2003\n"
                "udp_password = x\nbypass = 192.168.77.0/24\n"
            ),
        )
        expected = "a port that [plain] udp_listen does not have (192.0.2.1:2003)"
        self.assertIn(f"FILE:2: [wireguard] listen = '2003': {expected}", said)


class PlainListenerTests(ConfigFileTestCase):
    """The listener without encryption: complete, apart from everything else, or refused."""

    def complain(self, rest: str) -> str:
        """What is said to a plain listener on port 51005 with *rest*."""
        return self.complaint(load_server, self.write(f"[plain]\ntcp_listen = 51005\n{rest}\n"))

    def test_complete(self) -> None:
        """Port and bypass network are enough."""
        config = load_server(self.write("[plain]\ntcp_listen=51005\nbypass=192.168.77.0/24\n"))
        self.assertEqual(Endpoint("", 51005), config.plain.tcp_listen)
        self.assertEqual(IPv4Network("192.168.77.0/24"), config.plain.bypass)
        self.assertEqual(IPv4Network("182.1.1.0/24"), config.plain.network)

    def test_samePort(self) -> None:
        """It cannot share the port of the real protocol."""
        self.assertEqual(
            "FILE:2: [plain] tcp_listen = '192.0.2.1:51820': "
            "a port that [server] listen does not have",
            self.complaint(
                load_server,
                self.write("[plain]\ntcp_listen = 192.0.2.1:51820\nbypass = 192.168.77.0/24\n"),
            ),
        )

    def test_networksApart(self) -> None:
        """Its clients never share a network with users who have logged in."""
        self.assertEqual(
            "FILE:3: [plain] network = '10.73.0.128/25': "
            "a network apart from [tunnel] network4 (10.73.0.0/24)",
            self.complain("network = 10.73.0.128/25\nbypass = 192.168.77.0/24"),
        )
        self.assertEqual(
            "FILE:3: [plain] bypass = '10.0.0.0/8': "
            "a network apart from [tunnel] network4 (10.73.0.0/24)",
            self.complain("bypass = 10.0.0.0/8"),
        )
        self.assertEqual(
            "FILE:3: [plain] bypass = '182.1.0.0/16': a network apart from 182.1.1.0/24",
            self.complain("bypass = 182.1.0.0/16"),
        )

    def test_poolOnPlainsNetwork(self) -> None:
        """The same when it is the pool that was moved."""
        self.assertEqual(
            "FILE:1: [plain] network = '182.1.1.0/24': "
            "a network apart from [tunnel] network4 (182.1.0.0/16)",
            self.complain("bypass = 192.168.77.0/24\n[tunnel]\nnetwork4 = 182.1.0.0/16"),
        )


UDP = "[plain]\nudp_listen = 2003\n"
COMPLETE = f"{UDP}udp_password = 4fb88ca224e\nbypass = 192.168.77.0/24\n"


class PlainUdpListenerTests(ConfigFileTestCase):
    """The same for the one with a password."""

    def complain(self, text: str, mode: int = 0o600) -> str:
        """What is said to a file with *text*."""
        return self.complaint(load_server, self.write(text, mode))

    def test_complete(self) -> None:
        """Port, password and bypass network are enough; the network is the original's."""
        plain = load_server(self.write(COMPLETE)).plain
        self.assertEqual(Endpoint("", 2003), plain.udp_listen)
        self.assertEqual(IPv4Network("10.0.0.0/24"), plain.udp_network)
        self.assertEqual((IPv4Network("10.0.0.0/24"),), plain.networks)
        self.assertNotIn("4fb88ca224e", repr(plain))

    def test_incomplete(self) -> None:
        """Without password or bypass network it is not opened."""
        self.assertEqual(
            "FILE:2: [plain] udp_listen = '2003': "
            "bypass as well: the one network its clients may reach\n"
            "FILE:2: [plain] udp_listen = '2003': "
            "udp_password or udp_password_file as well: what its clients log in with",
            self.complain(UDP),
        )

    def test_off(self) -> None:
        """Switched off, its network may be anybody's."""
        config = load_server(self.write("[tunnel]\nnetwork4 = 10.0.0.0/8\n"))
        self.assertEqual((), config.plain.networks)

    def test_networksApart(self) -> None:
        """Its clients share no network with users, with the TCP clients or with the bypass."""
        both = f"{COMPLETE}tcp_listen = 51005\n"
        self.assertEqual(2, len(load_server(self.write(both)).plain.networks))
        for text, expected in (
            (
                f"{COMPLETE}udp_network = 10.73.0.128/25\n",
                "FILE:5: [plain] udp_network = '10.73.0.128/25': "
                "a network apart from [tunnel] network4 (10.73.0.0/24)",
            ),
            (
                f"{both}udp_network = 182.1.0.0/16\n",
                "FILE:6: [plain] udp_network = '182.1.0.0/16': "
                "network (182.1.1.0/24) and udp_network (182.1.0.0/16) apart from each other",
            ),
            (
                f"{both}network = 10.0.0.0/16\n",
                "FILE:6: [plain] network = '10.0.0.0/16': "
                "network (10.0.0.0/16) and udp_network (10.0.0.0/24) apart from each other",
            ),
            (
                f"{COMPLETE}udp_network = 192.168.0.0/16\n",
                "FILE:4: [plain] bypass = '192.168.77.0/24': a network apart from 192.168.0.0/16",
            ),
        ):
            self.assertEqual(expected, self.complain(text))

    def test_ports(self) -> None:
        """UDP of the real protocol's port is WireGuard's; the TCP listener's port is free."""
        text = COMPLETE.replace("2003", "51820")
        self.assertIn("[plain] udp_listen = '51820': a port that", self.complain(text))
        load_server(self.write(f"{COMPLETE}tcp_listen = 2003\n"))

    def test_mtu(self) -> None:
        """Packets must fit into the original client's buffer."""
        self.assertEqual(
            "FILE:6: [tunnel] mtu = '4093': at most 4092 with [plain] udp_listen: "
            "its clients' buffers are small",
            self.complain(f"{COMPLETE}[tunnel]\nmtu = 4093\n"),
        )
        load_server(self.write(f"{COMPLETE}[tunnel]\nmtu = 4092\n"))

    def test_readableByOthers(self) -> None:
        """A password that others may read is none, in either file."""
        self.assertEqual(
            "FILE:3: [plain] udp_password = '***': "
            "a file that nobody else can read: chmod 600 FILE",
            self.complain(COMPLETE, 0o640),
        )
        load_server(self.write("[plain]\n", 0o644))
        path = os.path.abspath(self.write("horse\n", 0o604))
        text = COMPLETE.replace("udp_password = 4fb88ca224e", f"udp_password_file = {path}")
        self.assertEqual(
            f"FILE:3: [plain] udp_password_file = '{path}': "
            f"a file that nobody else can read: chmod 600 {path}",
            self.complain(text),
        )

    def test_twoPasswords(self) -> None:
        """One place for it, not two."""
        self.assertEqual(
            "FILE:5: [plain] udp_password_file = '/nowhere': "
            "udp_password or udp_password_file, not both",
            self.complain(f"{COMPLETE}udp_password_file = /nowhere\n"),
        )

    def read(self, content: bytes | None) -> bytes:
        """The password of a file with *content*."""
        path = os.path.abspath(self.mktemp() if content is None else self.write(content))
        text = COMPLETE.replace("udp_password = 4fb88ca224e", f"udp_password_file = {path}")
        config = load_server(self.write(text))
        return read_plain_password(config.plain, config.where("plain", "udp_password_file"))

    def test_passwordFile(self) -> None:
        """The first line, as bytes; blanks belong to it."""
        plain = load_server(self.write(COMPLETE)).plain
        self.assertEqual(b"4fb88ca224e", read_plain_password(plain, ""))
        self.assertEqual("h\u00f6rse ".encode(), self.read("h\u00f6rse \r\nsecond\n".encode()))

    def test_passwordFileUnfit(self) -> None:
        """A file that is missing, empty, no text or a command is told with its place."""
        for content, expected in (
            (None, "a file that can be read (No such file or directory)"),
            (b"", "a file whose first line is the password"),
            (b"\xff\n", "a file of UTF-8 text"),
            (b"e\n", "and not r or e: those are commands"),
            (b"a\0b\n", "a file whose first line is one line of at most 1024 bytes"),
            (b"x" * 1025, "a file whose first line is one line of at most 1024 bytes"),
        ):
            error = self.assertRaises(ConfigError, self.read, content)
            self.assertIn(":3: [plain] udp_password_file = '", str(error))
            self.assertIn(expected, str(error))
