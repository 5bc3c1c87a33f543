"""Each option of the server's file: what it may be, and what is said to everything else."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pyvpn.config import Endpoint, ServerConfig, load_server
from pyvpn.config.addresses import listen_endpoint, network, remote_endpoint
from pyvpn.config.table import listed
from pyvpn.config.values import Expected, duration
from tests.configfile import ConfigFileTestCase

ADDRESS = "an address such as 192.0.2.53 or 2001:db8::53"
COMMAND = "one line of at most 1024 bytes, and not r or e: those are commands"
CAN_HAVE = "an address that an ordinary host can have"
CONNECT = "host:port, such as vpn.example.org:51820 or [2001:db8::1]:51820"
LISTEN = "a port, or address:port, such as 51820, 192.0.2.1:51820 or [2001:db8::1]:51820"
NAME = "an interface's name: at most 15 letters, digits and . _ -, and not lo, all or default"
NETWORK = "a network such as 192.168.0.0/16 or fd00:1::/64"
PATH = "a path such as /var/lib/pyvpn"
POOL4 = "none, or an IPv4 network from /8 to /30, such as 10.73.0.0/24"
POOL6 = "none, or an IPv6 network from /48 to /126, such as fd70:7976:706e::/64"
PORT = "a port from 1 to 65535"
WORLD = "the relays' own addresses, not the whole world"
YES_NO = "yes or no"


class Wrong(NamedTuple):
    """A value, and what is said to it."""

    value: str
    expected: str


def time_from(least: str, most: str) -> str:
    """What is said to something that is no time between the two."""
    return f"a time from {least} to {most}, written like 90s, 5m, 12h or 30d"


def many_networks(count: int) -> str:
    """A list of so many, written as long as networks can be."""
    return ", ".join(f"fd00:1111:2222:3333:4444:5555:6666:{n + 4096:x}/128" for n in range(count))


WRONG: dict[tuple[str, str], list[Wrong]] = {
    ("server", "state_dir"): [
        Wrong("", PATH),
        Wrong("/var\x00/lib", PATH),
        Wrong("~/pyvpn", "a path written out: '~' means something to a shell only"),
    ],
    ("server", "listen"): [
        Wrong("", "at least one port"),
        Wrong("0", PORT),
        Wrong("65536", PORT),
        Wrong("192.0.2.1:0", PORT),
        Wrong("192.0.2.1", LISTEN),
        Wrong("2001:db8::1:51820", LISTEN),
        Wrong("-1", LISTEN),
        Wrong("٥١٨٢٠", LISTEN),
        Wrong("vpn.example.org:51820", f"{LISTEN}; not a name"),
        Wrong("192.0.2.256:51820", f"{LISTEN}; not a name"),
        Wrong("51820, 51820", "each only once, 51820 is there twice"),
        Wrong("1, 192.0.2.1:1", "1 or 192.0.2.1:1, not both: one of them includes the other"),
        Wrong("[::]:1, [::1]:1", "[::]:1 or [::1]:1, not both: one of them includes the other"),
    ],
    ("server", "public_endpoints"): [
        Wrong("vpn.example.org:0", PORT),
        Wrong("vpn.example.org:http", CONNECT),
        Wrong("vpn_example!", "a host's name or address"),
        Wrong("192.0.2.300", "a host's name or address"),
        Wrong("2001:db8::1", "an IPv6 address in brackets, such as [2001:db8::1]:51820"),
        Wrong(
            "[192.0.2.1]:5", "brackets around an IPv6 address only, such as [2001:db8::1]:51820"
        ),
        Wrong("0.0.0.0:51820", "an address one can connect to"),
        Wrong("a.example,,b.example", "a host's name or address"),
    ],
    ("server", "trusted_relays"): [
        Wrong("relay.example.org", NETWORK),
        Wrong("0.0.0.0/0", WORLD),
        Wrong(
            "192.0.2.1/24",
            "a network, all 0 after the prefix: 192.0.2.0/24 or, for one address, 192.0.2.1",
        ),
    ],
    ("server", "proxy_protocol_relays"): [
        Wrong("192.0.2.0/33", NETWORK),
        Wrong("192.0.2.0/255.255.255.0", NETWORK),
        Wrong("::/0", WORLD),
        Wrong("::ffff:192.0.2.1", f"{NETWORK}; IPv4 is written as IPv4"),
    ],
    ("server", "unauthenticated_connections"): [
        Wrong("15", "a whole number from 16 to 65536"),
        Wrong("65537", "a whole number from 16 to 65536"),
        Wrong("5e2", "a whole number from 16 to 65536"),
        Wrong("1_000", "a whole number from 16 to 65536"),
        Wrong("9" * 5000, "a whole number from 16 to 65536"),
    ],
    ("server", "unauthenticated_per_source"): [
        Wrong("0", "a whole number from 1 to 65536"),
        Wrong("-3", "a whole number from 1 to 65536"),
        Wrong("600", "unauthenticated_per_source not above unauthenticated_connections (512)"),
    ],
    ("server", "reauth_after"): [
        Wrong("", f"never, or {time_from('60s', '3650d')}"),
        Wrong("59s", f"never, or {time_from('60s', '3650d')}"),
        Wrong("30 days", f"never, or {time_from('60s', '3650d')}"),
        Wrong("nan", f"never, or {time_from('60s', '3650d')}"),
    ],
    ("tls", "certificate"): [
        Wrong("~/cert.pem", "a path written out: '~' means something to a shell only"),
        Wrong("/etc/cert.pem", "private_key as well: both or neither"),
    ],
    ("tls", "private_key"): [
        Wrong("a\tb", PATH),
        Wrong("/etc/key.pem", "certificate as well: both or neither"),
    ],
    ("tls", "names"): [
        Wrong("vpn.example.org:51820", "a host's name or address"),
        Wrong("*.example.org", "a host's name or address"),
        Wrong(f"{'a' * 64}.example", "a host's name or address"),
        Wrong("bücher.example", "a host's name or address"),
        Wrong("a.example, A.example", "each only once, a.example is there twice"),
    ],
    ("tunnel", "device"): [
        Wrong("", NAME),
        Wrong("a" * 16, NAME),
        Wrong("tun%d", NAME),
        Wrong("tun/0", NAME),
        Wrong("tun 0", NAME),
        Wrong("..", NAME),
        Wrong("lo", NAME),
        Wrong("all", NAME),
    ],
    ("tunnel", "network4"): [
        Wrong("", POOL4),
        Wrong("10.73.0.0", POOL4),
        Wrong("10.0.0.0/7", POOL4),
        Wrong("10.73.0.0/31", POOL4),
        Wrong("fd00::/64", POOL4),
        Wrong(
            "10.73.0.1/24",
            "none, or a network, all 0 after the prefix: 10.73.0.0/24",
        ),
        Wrong("127.0.0.0/24", f"{POOL4}, of addresses that ordinary hosts can have"),
        Wrong("224.0.0.0/24", f"{POOL4}, of addresses that ordinary hosts can have"),
        Wrong("0.0.0.0/8", f"{POOL4}, of addresses that ordinary hosts can have"),
        Wrong("169.254.0.0/16", f"{POOL4}, of addresses that ordinary hosts can have"),
        Wrong("010.73.0.0/24", POOL4),
    ],
    ("tunnel", "network6"): [
        Wrong("10.73.0.0/24", POOL6),
        Wrong("fd00:0:0::/47", POOL6),
        Wrong("fd00::/127", POOL6),
        Wrong(
            "fd00::1/64",
            "none, or a network, all 0 after the prefix: fd00::/64",
        ),
        Wrong("ff00::/64", f"{POOL6}, of addresses that ordinary hosts can have"),
        Wrong("fe80::/64", f"{POOL6}, of addresses that ordinary hosts can have"),
        Wrong("::/64", f"{POOL6}, of addresses that ordinary hosts can have"),
        Wrong("fe80::%eth0/64", POOL6),
    ],
    ("tunnel", "mtu"): [
        Wrong("", "a whole number from 1280 to 9000"),
        Wrong("huge", "a whole number from 1280 to 9000"),
        Wrong("1279", "a whole number from 1280 to 9000"),
        Wrong("9001", "a whole number from 1280 to 9000"),
        Wrong("1420.0", "a whole number from 1280 to 9000"),
    ],
    ("tunnel", "routes"): [
        Wrong("everything", f"auto, none, or {NETWORK}"),
        Wrong(
            "10.1.0.0/16, 10.1.0.0/16", "auto, none, or each only once, 10.1.0.0/16 is there twice"
        ),
        Wrong(
            "10.1.2.0/16",
            "auto, none, or a network, all 0 after the prefix: 10.1.0.0/16 "
            "or, for one address, 10.1.2.0",
        ),
        Wrong("auto, 10.0.0.0/8", f"auto, none, or {NETWORK}"),
        # No client takes more, and a thousand would not fit into the answer to a registration.
        Wrong(many_networks(257), "auto, none, or at most 256 of them, not 257"),
    ],
    ("tunnel", "dns"): [
        Wrong("dns.example.org", ADDRESS),
        Wrong("192.0.2.0/24", ADDRESS),
        Wrong("127.0.0.1", CAN_HAVE),
        Wrong("::", CAN_HAVE),
        Wrong("fe80::1%eth0", CAN_HAVE),
        Wrong("192.0.2.1,", ADDRESS),
        Wrong(", ".join(f"192.0.2.{n}" for n in range(1, 10)), "at most 8 of them, not 9"),
    ],
    ("tunnel", "client_to_client"): [Wrong("", YES_NO), Wrong("maybe", YES_NO)],
    ("tunnel", "heartbeat"): [
        Wrong("0", time_from("1s", "5m")),
        Wrong("301", time_from("1s", "5m")),
        Wrong("-5s", time_from("1s", "5m")),
        Wrong("inf", time_from("1s", "5m")),
        Wrong(
            "30s", "expiry more than twice heartbeat (30s), or one lost heartbeat ends a session"
        ),
    ],
    ("tunnel", "expiry"): [
        Wrong("2h", time_from("3s", "1h")),
        Wrong("1e1", time_from("3s", "1h")),
        Wrong(
            "20s", "expiry more than twice heartbeat (10s), or one lost heartbeat ends a session"
        ),
    ],
    ("leases", "sticky"): [
        Wrong("a month", time_from("0s", "3650d")),
        Wrong("4000d", time_from("0s", "3650d")),
    ],
    ("leases", "quarantine"): [
        Wrong("2d", time_from("0s", "1d")),
        Wrong("", time_from("0s", "1d")),
    ],
    ("firewall", "manage"): [Wrong("2", YES_NO), Wrong("nft", YES_NO)],
    ("firewall", "masquerade"): [Wrong("yes no", YES_NO)],
    ("wireguard", "listen"): [
        Wrong("", "same, none, or at least one port"),
        Wrong("yes", f"same, none, or {LISTEN}"),
        Wrong("0", f"same, none, or {PORT}"),
        Wrong("same, 51821", f"same, none, or {LISTEN}"),
        Wrong("1, 192.0.2.1:1", "1 or 192.0.2.1:1, not both: one of them includes the other"),
    ],
    ("wireguard", "public_endpoints"): [
        Wrong("vpn.example.org:0", PORT),
        Wrong("0.0.0.0:51820", "an address one can connect to"),
    ],
    ("wireguard", "cipher"): [
        Wrong(each, "auto or chacha20-poly1305")
        for each in ("", "aes-256-gcm", "chacha20", "none")
    ],
    ("wireguard", "keepalive"): [
        Wrong("", time_from("0s", "65535s")),
        Wrong("off", time_from("0s", "65535s")),
        Wrong("65536", time_from("0s", "65535s")),
        Wrong("-1s", time_from("0s", "65535s")),
        Wrong("2.5s", "whole seconds, or 0 for none"),
    ],
    ("plain", "tcp_listen"): [
        Wrong("gvpn", LISTEN),
        Wrong("99999", PORT),
        Wrong("51005", "bypass as well: the one network its clients may reach"),
    ],
    ("plain", "network"): [
        Wrong("none", "an IPv4 network from /8 to /30, such as 182.1.1.0/24"),
        Wrong(
            "182.1.1.1/24",
            "a network, all 0 after the prefix: 182.1.1.0/24",
        ),
    ],
    ("plain", "udp_listen"): [
        Wrong("gvpn", LISTEN),
        Wrong("99999", PORT),
    ],
    ("plain", "udp_network"): [
        Wrong("none", "an IPv4 network from /8 to /30, such as 10.0.0.0/24"),
        Wrong("10.0.0.1/24", "a network, all 0 after the prefix: 10.0.0.0/24"),
        Wrong("fd00::/64", "an IPv4 network from /8 to /30, such as 10.0.0.0/24"),
    ],
    ("plain", "udp_password"): [
        Wrong("r", COMMAND),
        Wrong("e", COMMAND),
        Wrong("x" * 1025, "one line of at most 1024 bytes"),
    ],
    ("plain", "udp_password_file"): [
        Wrong("~/password", "a path written out: '~' means something to a shell only"),
        Wrong("a\tb", PATH),
    ],
    ("plain", "bypass"): [
        Wrong("fd00::/64", "an IPv4 network from /8 to /32, such as 192.168.77.0/24"),
        Wrong("0.0.0.0/0", "an IPv4 network from /8 to /32, such as 192.168.77.0/24"),
    ],
}

RIGHT: dict[tuple[str, str], dict[str, object]] = {
    ("server", "state_dir"): {"/srv/a b": Path("/srv/a b")},
    ("server", "listen"): {
        "443": (Endpoint("", 443),),
        "192.0.2.1:51820, [2001:DB8:0::1]:443": (
            Endpoint("192.0.2.1", 51820),
            Endpoint("2001:db8::1", 443),
        ),
        "\n  1,\n  2\n  3": (Endpoint("", 1), Endpoint("", 2), Endpoint("", 3)),
        "192.0.2.1:1, [::]:1": (Endpoint("192.0.2.1", 1), Endpoint("::", 1)),
    },
    ("server", "public_endpoints"): {
        "": (),
        "VPN.example.org": (Endpoint("vpn.example.org", 51820),),
        "[2001:db8::1]:443, 192.0.2.1": (
            Endpoint("2001:db8::1", 443),
            Endpoint("192.0.2.1", 51820),
        ),
    },
    ("server", "trusted_relays"): {
        "192.0.2.1, 2001:db8::/64": (IPv4Network("192.0.2.1/32"), IPv6Network("2001:db8::/64"))
    },
    ("server", "proxy_protocol_relays"): {"192.0.2.0/24": (IPv4Network("192.0.2.0/24"),)},
    ("server", "unauthenticated_connections"): {"16": 16, "65536": 65536},
    ("server", "unauthenticated_per_source"): {"1": 1, "512": 512},
    ("server", "reauth_after"): {"never": None, "NEVER": None, "30d": 2592000.0, "60": 60.0},
    ("tls", "certificate"): {"": None},
    ("tls", "private_key"): {"": None},
    ("tls", "names"): {"vpn.example.org, 2001:DB8::1": ("vpn.example.org", "2001:db8::1")},
    ("tunnel", "device"): {"a": "a", "tun-0.x_y": "tun-0.x_y", "a" * 15: "a" * 15},
    ("tunnel", "network4"): {
        "none": None,
        "10.0.0.0/8": IPv4Network("10.0.0.0/8"),
        "10.0.0.0/30": IPv4Network("10.0.0.0/30"),
    },
    ("tunnel", "network6"): {
        "none": None,
        "fd00::/48": IPv6Network("fd00::/48"),
        "fd00::/126": IPv6Network("fd00::/126"),
    },
    ("tunnel", "mtu"): {"1280": 1280, "9000": 9000},
    ("tunnel", "routes"): {
        "auto": None,
        "none": (),
        "": (),
        "192.168.77.0/24, ::/0": (IPv4Network("192.168.77.0/24"), IPv6Network("::/0")),
    },
    ("tunnel", "dns"): {
        "192.0.2.53, 2001:db8::53": (IPv4Address("192.0.2.53"), IPv6Address("2001:db8::53"))
    },
    ("tunnel", "client_to_client"): {"yes": True, "ON": True, "false": False, "0": False},
    ("tunnel", "heartbeat"): {"1": 1.0, "2.5s": 2.5, "29s": 29.0},
    ("tunnel", "expiry"): {"21s": 21.0, "1h": 3600.0, "5 m": 300.0},
    ("leases", "sticky"): {"0": 0.0, "3650d": 315360000.0},
    ("leases", "quarantine"): {"0s": 0.0, "1d": 86400.0},
    ("firewall", "manage"): {"no": False, "true": True},
    ("firewall", "masquerade"): {"off": False, "1": True},
    ("wireguard", "listen"): {
        "same": None,
        "none": (),
        "51821, 192.0.2.1:443": (Endpoint("", 51821), Endpoint("192.0.2.1", 443)),
    },
    ("wireguard", "public_endpoints"): {
        "": (),
        "vpn.example.org, [2001:db8::1]:443": (
            Endpoint("vpn.example.org", 51820),
            Endpoint("2001:db8::1", 443),
        ),
    },
    ("wireguard", "cipher"): {"AUTO": "auto", "ChaCha20-Poly1305": "chacha20-poly1305"},
    ("wireguard", "keepalive"): {"0": 0, "25s": 25, "1h": 3600, "65535": 65535},
    ("plain", "tcp_listen"): {"": None},
    ("plain", "network"): {"10.9.0.0/16": IPv4Network("10.9.0.0/16")},
    ("plain", "udp_listen"): {"": None},
    ("plain", "udp_network"): {"10.9.0.0/16": IPv4Network("10.9.0.0/16")},
    ("plain", "udp_password"): {"": None, "'4fb88ca224e; #": "'4fb88ca224e; #"},
    ("plain", "udp_password_file"): {"": None, "/nowhere": Path("/nowhere")},
    ("plain", "bypass"): {"": None, "192.168.77.20/32": IPv4Network("192.168.77.20/32")},
}


class ServerOptionTests(ConfigFileTestCase):
    """Every option, with right and wrong values."""

    def test_wrong(self) -> None:
        """Each wrong value is answered with what is expected instead."""
        for (section, name), cases in WRONG.items():
            for value, expected in cases:
                complaint = self.complaint(
                    load_server, self.write(f"[{section}]\n{name} = {value}\n")
                )
                place, _, said = complaint.partition("': ")
                self.assertTrue(place.startswith(f"FILE:2: [{section}] {name} = '"), complaint)
                self.assertEqual(expected, said, complaint)

    def test_right(self) -> None:
        """Each right value becomes what it means."""
        for (section, name), cases in RIGHT.items():
            for text, value in cases.items():
                config = load_server(self.write(f"[{section}]\n{name} = {text}\n"))
                holder = config if section == "server" else getattr(config, section)
                self.assertEqual(value, getattr(holder, name), f"{name} = {text}")

    def test_longList(self) -> None:
        """A list may take many lines, with comments and empty lines among them."""
        config = load_server(
            self.write(
                "[tunnel]\nroutes =\n  10.1.0.0/16,\n  # lab\n\n  fd77::/64\n\nmtu = 1400\n"
            )
        )
        self.assertEqual(
            (IPv4Network("10.1.0.0/16"), IPv6Network("fd77::/64")), config.tunnel.routes
        )
        self.assertEqual(1400, config.tunnel.mtu)

    def test_relativePath(self) -> None:
        """A relative path is taken from the directory of the start, also after a later change."""
        here = Path.cwd()
        self.addCleanup(os.chdir, here)
        path = os.path.abspath(self.write("[server]\nstate_dir = var\n"))
        config = load_server(os.path.relpath(path))
        os.chdir("/")
        self.assertEqual(here / "var", config.state_dir)
        self.assertEqual(config.path, Path(path))

    def test_every(self) -> None:
        """No option is without such cases."""
        every = {(each.section, each.name) for each in listed(ServerConfig)}
        self.assertEqual(every, set(WRONG))
        self.assertEqual(every, set(RIGHT))

    def test_defaults(self) -> None:
        """Each default, written out, is accepted."""
        for section, name, option in listed(ServerConfig):
            load_server(self.write(f"[{section}]\n{name} = {option.default}\n"))


class ConverterTests(ConfigFileTestCase):
    """Laws that hold for every text."""

    @given(st.ip_addresses(), st.integers(1, 65535))
    def test_endpointsReadBack(self, host: object, port: int) -> None:
        """An endpoint as it is printed is read back as itself."""
        endpoint = Endpoint(str(host), port)
        self.assertEqual(endpoint, listen_endpoint(str(endpoint)))
        if host not in (IPv4Address(0), IPv6Address(0)):
            self.assertEqual(endpoint, remote_endpoint(str(endpoint)))
        self.assertEqual(Endpoint("", port), listen_endpoint(str(Endpoint("", port))))

    @given(st.ip_addresses(v=4), st.integers(0, 32))
    def test_networksReadBack(self, address: IPv4Address, bits: int) -> None:
        """A network is itself; an address inside it is answered with the network."""
        whole = IPv4Network((address, bits), strict=False)
        self.assertEqual(whole, network(str(whole)))
        if address != whole.network_address:
            error = self.assertRaises(Expected, network, f"{address}/{bits}")
            self.assertIn(str(whole), str(error))

    @given(st.integers(0, 999), st.sampled_from("smhd"))
    def test_durations(self, count: int, unit: str) -> None:
        """A number and a unit are that many of them."""
        seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
        self.assertEqual(count * seconds, duration("0s", "999d")(f"{count}{unit}"))
