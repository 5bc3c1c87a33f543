"""The server's file as a whole: values that are right alone and wrong together."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from pyvpn.config import Endpoint, load_server
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
