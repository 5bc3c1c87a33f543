"""Each option of the client's file: what it may be, and what is said to everything else."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pyvpn.config import (
    ClientConfig,
    Endpoint,
    Server,
    load_client,
    load_server,
)
from pyvpn.config.addresses import pin
from pyvpn.config.table import listed
from tests.configfile import PIN, ClientFileTestCase

ALLOWED = "yes, no, or a network such as 192.168.0.0/16 or fd00:1::/64"
ADDRESS = "an address such as 10.73.0.50 or 10.73.0.50/24"
CONNECT = "host:port, such as vpn.example.org:51820 or [2001:db8::1]:51820"
DEVICE = "an interface's name: at most 15 letters, digits and . _ -, and not lo, all or default"
HOST = "a host's name or address"
LINK = "the line the server printed, such as pyvpn://anna@vpn.example.org:51820?pin=sha256:..."
MARK = "a whole number from 1 to 4294967295"
MTU = "a whole number from 1280 to 9000"
PATH = "a path such as /var/lib/pyvpn"
PIN_FORM = "sha256: and 43 letters, digits, - and _, as the server printed it"
TILDE = "a path written out: '~' means something to a shell only"
USER = "a user's name: at most 64 letters, digits and . _ - @"
VARIABLE = "the name of an environment variable"
YES_NO = "yes or no"

WRONG: dict[tuple[str, str], dict[str, str]] = {
    ("client", "server"): {
        "": LINK,
        "vpn.example.org:0": "a port from 1 to 65535",
        "vpn.example.org:https": CONNECT,
        "2001:db8::1": "an IPv6 address in brackets, such as [2001:db8::1]:51820",
        "https://vpn.example.org": LINK,
        "pyvpn//vpn.example.org": HOST,
        "anna@vpn.example.org": LINK,
        "pyvpn://": LINK,
        "pyvpn://anna@": LINK,
        "pyvpn://an na@vpn.example.org": USER,
        "pyvpn://an%00na@vpn.example.org": USER,
        "pyvpn://a.example,@b.example": USER,
        "pyvpn://a.example,,b.example": HOST,
        "pyvpn://vpn.example.org?pni=x": f"nothing but pin= after the '?': {LINK}",
        "pyvpn://vpn.example.org?pin=": PIN_FORM,
        f"pyvpn://vpn.example.org?pin={PIN}&x=1": PIN_FORM,
        f"pyvpn://vpn.example.org?pin={PIN[:-1]}": PIN_FORM,
        "a.example, a.example": "each only once, a.example is there twice",
    },
    ("client", "user"): {"a b": USER, "a" * 65: USER, "ann\u00e4": USER},
    ("client", "pin"): {
        "A" * 43: PIN_FORM,
        f"sha1:{'A' * 43}": PIN_FORM,
        f"{PIN}A": PIN_FORM,
        f"{PIN[:-1]}=": PIN_FORM,
        f"{PIN[:-1]}B": PIN_FORM,
    },
    ("client", "ca_file"): {"~/ca.pem": TILDE},
    ("client", "password"): {"x" * 1025: "one line of at most 1024 bytes"},
    ("client", "password_file"): {"~/password": TILDE, "a\tb": PATH},
    ("client", "password_env"): {"$PASSWORD": VARIABLE, "1A": VARIABLE, "A B": VARIABLE},
    ("client", "state_dir"): {"": PATH, "~": TILDE},
    ("client", "protocol"): {
        "": "pyvpn or plain-tcp or plain-udp",
        "wireguard": "pyvpn or plain-tcp or plain-udp",
        "plain": "pyvpn or plain-tcp or plain-udp",
    },
    ("client", "transport"): {
        "": "auto or udp or tcp",
        "both": "auto or udp or tcp",
        "udp tcp": "auto or udp or tcp",
    },
    ("client", "device_name"): {
        "x" * 65: "one line of at most 64 printable characters",
        "a\x07": "one line of at most 64 printable characters",
    },
    ("tunnel", "device"): {"": DEVICE, "wg/0": DEVICE, "a" * 16: DEVICE, "default": DEVICE},
    ("tunnel", "accept_routes"): {
        "maybe": ALLOWED,
        "yes, 10.0.0.0/8": ALLOWED,
        "10.0.0.1/8": "yes, no, or a network, all 0 after the prefix: 10.0.0.0/8 "
        "or, for one address, 10.0.0.1",
    },
    ("tunnel", "accept_default_route"): {"": YES_NO, "always": YES_NO},
    ("tunnel", "accept_own_networks"): {"10.0.0.0/8": YES_NO},
    ("tunnel", "accept_dns"): {"192.0.2.53": YES_NO},
    ("tunnel", "address"): {
        "laptop": ADDRESS,
        "10.73.0.50/33": ADDRESS,
        "127.0.0.1": "an address that an ordinary host can have",
        "10.73.0.50/24": "10.73.0.50 alone: the server knows the prefix length",
        "10.73.0.50, 10.73.0.51": "at most one IPv4 and one IPv6 address",
        "10.73.0.50, 10.73.0.50": "each only once, 10.73.0.50/32 is there twice",
    },
    ("tunnel", "mtu"): {"1279": MTU, "9001": MTU, "auto": MTU},
    ("tunnel", "fwmark"): {
        "-1": f"{MARK}, or 0",
        "4294967296": f"{MARK}, or 0",
        "0xca6c": f"{MARK}, or 0",
    },
    ("tunnel", "table"): {
        "0": MARK,
        "main": MARK,
        "4294967296": MARK,
        "254": "a table of our own: 253, 254 and 255 are the system's",
    },
    ("tunnel", "cipher"): dict.fromkeys(
        ("", "aes-256-gcm", "chacha20", "none"), "auto or chacha20-poly1305"
    ),
    ("tunnel", "max_backoff"): {
        "0": "a time from 1s to 1h, written like 90s, 5m, 12h or 30d",
        "2h": "a time from 1s to 1h, written like 90s, 5m, 12h or 30d",
    },
}

RIGHT: dict[tuple[str, str], dict[str, object]] = {
    ("client", "server"): {
        f"pyvpn://anna@vpn.example.org:443?pin={PIN}": Server(
            (Endpoint("vpn.example.org", 443),), PIN, "anna"
        ),
        "pyvpn://anna@corp@VPN.example.org/": Server(
            (Endpoint("vpn.example.org", 51820),), None, "anna@corp"
        ),
        f"pyvpn://an%40na@192.0.2.1,[2001:db8::1]:443/?pin={PIN}": Server(
            (Endpoint("192.0.2.1", 51820), Endpoint("2001:db8::1", 443)), PIN, "an@na"
        ),
        "a.example:1, b.example": Server(
            (Endpoint("a.example", 1), Endpoint("b.example", 51820)), None, ""
        ),
    },
    ("client", "user"): {"": "", "anna@example.org": "anna@example.org"},
    ("client", "pin"): {"": None, PIN: PIN},
    ("client", "ca_file"): {"": None, "/etc/ca.pem": Path("/etc/ca.pem")},
    ("client", "password"): {"": None, "'50% # of; =\"": "'50% # of; =\""},
    ("client", "password_file"): {"": None, "/nowhere": Path("/nowhere")},
    ("client", "password_env"): {"": None, "VPN_PASSWORD": "VPN_PASSWORD"},
    ("client", "state_dir"): {"/srv": Path("/srv")},
    ("client", "protocol"): {"pyvpn": "pyvpn", "plain-UDP": "plain-udp"},
    ("client", "transport"): {"auto": "auto", "UDP": "udp", "tcp": "tcp"},
    ("client", "device_name"): {"": "", "Anna's \u2018laptop\u2019": "Anna's \u2018laptop\u2019"},
    ("tunnel", "device"): {"tun9": "tun9"},
    ("tunnel", "accept_routes"): {
        "yes": (IPv4Network("0.0.0.0/0"), IPv6Network("::/0")),
        "no": (),
        "10.0.0.0/8, fd00::/8": (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8")),
    },
    ("tunnel", "accept_default_route"): {"yes": True, "no": False},
    ("tunnel", "accept_own_networks"): {"on": True, "off": False},
    ("tunnel", "accept_dns"): {"true": True, "no": False},
    ("tunnel", "address"): {
        "": (),
        "10.73.0.50, fd00::50": (IPv4Interface("10.73.0.50/32"), IPv6Interface("fd00::50/128")),
    },
    ("tunnel", "mtu"): {"": None, "1280": 1280},
    ("tunnel", "fwmark"): {"0": 0, "4294967295": 4294967295},
    ("tunnel", "table"): {"1": 1, "4294967295": 4294967295},
    ("tunnel", "cipher"): {"AUTO": "auto", "ChaCha20-Poly1305": "chacha20-poly1305"},
    ("tunnel", "max_backoff"): {"5m": 300.0},
}


class ClientOptionTests(ClientFileTestCase):
    """Every option, with right and wrong values."""

    def test_wrong(self) -> None:
        """Each wrong value is answered with what is expected instead."""
        for (section, name), cases in WRONG.items():
            for value, expected in cases.items():
                complaint = self.complain(f"{name} = {value}", section)
                place, _, said = complaint.partition("': ")
                self.assertTrue(place.startswith(f"FILE:2: [{section}] {name} = '"), complaint)
                self.assertEqual(expected, said, complaint)

    def test_right(self) -> None:
        """Each right value becomes what it means."""
        for (section, name), cases in RIGHT.items():
            for text, value in cases.items():
                config = self.load(f"{name} = {text}", section)
                holder = config if section == "client" else config.tunnel
                self.assertEqual(value, getattr(holder, name), f"{name} = {text}")

    def test_every(self) -> None:
        """No option is without such cases."""
        every = {(each.section, each.name) for each in listed(ClientConfig)}
        self.assertEqual(every, set(WRONG))
        self.assertEqual(every, set(RIGHT))

    def test_defaults(self) -> None:
        """Each default, written out, is accepted."""
        for section, name, option in listed(ClientConfig):
            if name != "server":  # whose default is an example
                self.load(f"{name} = {option.default}", section)

    def test_serversFile(self) -> None:
        """The server's file given to the client, and the other way round."""
        self.assertIn(
            "FILE:1: [server]: no such section: there are client, tunnel\n",
            self.complaint(load_client, self.write("[server]\nlisten = 1\n")) + "\n",
        )
        self.assertIn(
            "FILE:1: [client]: no such section: there are ",
            self.complaint(load_server, self.write("[client]\nserver = x\n")),
        )

    @given(st.binary(min_size=32, max_size=32))
    def test_anyHashIsAPin(self, digest: bytes) -> None:
        """Whatever a key's hash is, its pin is accepted."""
        text = "sha256:" + urlsafe_b64encode(digest).decode().rstrip("=")
        self.assertEqual(text, pin(text))
