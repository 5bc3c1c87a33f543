"""The parts of a file for a stock app that have rules of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pyvpn.cli.wgquick import DeviceFile, TooLong, endpoint_of, qr_code, without_covered
from pyvpn.config import Endpoint, load_server
from tests.configfile import ConfigFileTestCase

FILE = DeviceFile(
    title="phone of anna",
    private_key=b"p" * 32,
    public_key=b"q" * 32,
    preshared_key=b"s" * 32,
    addresses=(ip_address("10.73.0.254"), ip_address("fd70::ffff")),
    dns=(ip_address("192.168.77.53"),),
    mtu=1420,
    server_key=b"r" * 32,
    allowed=(ip_network("192.168.77.0/24"), ip_network("fd70::/64")),
    endpoint=Endpoint("2001:db8::1", 51820),
    keepalive=25,
)


class EndpointTests(ConfigFileTestCase):
    """Where the app is sent."""

    def endpoint(self, server: str = "", wireguard: str = "", source: str | None = None) -> str:
        path = self.write(f"[server]\n{server}\n[wireguard]\n{wireguard}\n")
        return str(endpoint_of(load_server(path), source))

    def test_public(self) -> None:
        """To the outside name: that of UDP, or else that of TCP, at the port UDP has there."""
        public = "public_endpoints = vpn.example.org:443, b.example"
        for wireguard, expected in (
            ("", "vpn.example.org:443"),
            ("listen = 51821", "vpn.example.org:51821"),
            ("public_endpoints = udp.example.org", "udp.example.org:51820"),
            ("public_endpoints = [2001:db8::1]:4500, x.example", "[2001:db8::1]:4500"),
            ("listen = 51821\npublic_endpoints = udp.example.org", "udp.example.org:51821"),
        ):
            self.assertEqual(expected, self.endpoint(public, wireguard, "198.18.2.2"))

    def test_own(self) -> None:
        """Without one to an address that is listened on, or that this host has; or to a gap."""
        self.assertEqual("198.18.2.2:51820", self.endpoint(source="198.18.2.2"))
        self.assertEqual("[2001:db8::2]:51820", self.endpoint(source="2001:db8::2"))
        self.assertEqual("ADDRESS-OF-THIS-SERVER:51820", self.endpoint())
        listen = "listen = 0.0.0.0:4500, 192.0.2.1:443"
        self.assertEqual("192.0.2.1:443", self.endpoint(listen, source="198.18.2.2"))
        self.assertEqual("198.18.2.2:4500", self.endpoint("", "listen = [::]:4500", "198.18.2.2"))


class AllowedTests(ConfigFileTestCase):
    """What the app sends into the tunnel."""

    @given(
        st.lists(
            st.builds(
                lambda number, length: ip_network((number, length), strict=False),
                st.sampled_from([0, 1 << 31, (1 << 32) - 1]),
                st.integers(0, 32),
            )
            | st.just(ip_network("::/0"))
        )
    )
    def test_the_same_in_fewer(self, networks: list[object]) -> None:
        """Every network is in one of those left, and none of those in another."""
        left = without_covered(networks)  # type: ignore[arg-type]  # networks of either family
        for each in networks:
            self.assertEqual(1, sum(_inside(each, one) for one in left))

    def test_order(self) -> None:
        """They stay in the order in which they were written."""
        texts = ["192.168.77.0/24", "10.0.0.0/8", "10.9.0.0/16", "fd00::/8", "192.168.77.0/24"]
        expected = [ip_network(texts[n]) for n in (0, 1, 3)]
        self.assertEqual(expected, list(without_covered(map(ip_network, texts))))


def _inside(small: object, large: object) -> bool:
    return small.version == large.version and small.subnet_of(large)  # type: ignore[attr-defined]


class TextTests(ConfigFileTestCase):
    """The file as a whole."""

    def test_taken_by_wg_quick(self) -> None:
        """wg-quick reads it, with and without what may be left out."""
        if shutil.which("wg-quick") is None or os.geteuid() != 0:
            self.skipTest("there is no wg-quick here, or it would ask sudo for a password")
        bare = replace(FILE, private_key=None, preshared_key=None, dns=(), keepalive=0)
        for file in (FILE, bare):
            folder = Path(self.mktemp())
            folder.mkdir()
            path = folder.absolute() / "wg0.conf"  # it wants a name that an interface may have
            path.write_text(file.text(), "utf-8")
            done = subprocess.run(
                ["wg-quick", "strip", str(path)], capture_output=True, text=True, check=False
            )
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertNotIn("Address", done.stdout)
            self.assertIn("AllowedIPs = 192.168.77.0/24, fd70::/64", done.stdout)

    def test_secret(self) -> None:
        """A file with any key that is not public is a secret; none is in its ``repr``."""
        for private, preshared, expected in (
            (b"p" * 32, None, True),
            (None, b"s" * 32, True),
            (None, None, False),
        ):
            file = replace(FILE, private_key=private, preshared_key=preshared)
            self.assertEqual(expected, file.is_secret)
            self.assertNotIn(repr(private), repr(file).replace("None", ""))
            self.assertNotIn(repr(preshared), repr(file).replace("None", ""))

    def test_without_comments(self) -> None:
        """The picture of it has no comments, which nobody would see."""
        for file in (FILE, replace(FILE, private_key=None)):
            self.assertNotIn("#", file.text(comments=False))

    def test_longest_picture(self) -> None:
        """So many characters fit, and no more."""
        self.assertEqual(2, len({len(line) for line in qr_code("x" * 2953)} | {0}))
        self.assertRaises(TooLong, qr_code, "x" * 2954)
