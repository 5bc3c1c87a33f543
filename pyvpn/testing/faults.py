"""What happens to networks, done to the lab: blocked, moved, renumbered.

Each undoes itself at the end of its block, or says how to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip

_BLOCK = """
table inet blocked {{
    chain forward {{
        type filter hook forward priority filter - 10;
        {rules}
    }}
}}
"""
_SILENCE = """
table inet silence {
    chain fragments {
        type filter hook prerouting priority raw - 150;
        ip frag-off & 0x3fff != 0 drop
        exthdr frag exists drop
    }
    chain words {
        type filter hook output priority filter;
        icmp type destination-unreachable drop
        icmpv6 type packet-too-big drop
    }
}
"""
_NARROW = (("router", "wan"), ("internet", "home"))
SECOND_NETWORK = "198.18.9.2"
"""The laptop's address in the network that :func:`move` takes it to."""


@contextmanager
def blocked(
    lab: Lab, protocol: str = "udp", *, up: bool = True, down: bool = True
) -> Iterator[None]:
    """Lose packets of *protocol* (udp, tcp) at the home's router, in these directions."""
    ways = [name for name, lost in (("lan", up), ("wan", down)) if lost]
    what = f"meta l4proto {protocol} drop"
    rules = "\n".join(f'iifname "{way}" {what}' for way in ways)
    lab.run("router", ["nft", "-f", "-"], input=_BLOCK.format(rules=rules))
    try:
        yield
    finally:
        lab.run("router", ["nft", "delete", "table", "inet", "blocked"])


@contextmanager
def narrow(lab: Lab, mtu: int, *, silently: bool = False) -> Iterator[None]:
    """Let packets of at most *mtu* bytes pass between the home and the internet.

    Larger ones are fragmented, or their senders are told.

    Args:
        silently: neither of both: nobody is told, and fragments are lost.
    """
    if silently:
        for host, _ in _NARROW:
            lab.run(host, ["nft", "-f", "-"], input=_SILENCE)
    for host, interface in _NARROW:
        ip("-n", host, "link", "set", interface, "mtu", str(mtu))
    try:
        yield
    finally:
        for host, interface in _NARROW:
            ip("-n", host, "link", "set", interface, "mtu", "1500")
            if silently:
                lab.run(host, ["nft", "delete", "table", "inet", "silence"])


@contextmanager
def unplugged(lab: Lab, host: str, interface: str) -> Iterator[None]:
    """Have an interface set down, and be afterwards what whoever keeps the network makes of it.

    The kernel forgets a downed interface's IPv6 addresses and all routes by way of it.
    """
    on = ("dev", interface)
    lines = [f"link set {interface} up\n"]
    for entry in json.loads(ip("-n", host, "-j", "address", "show", *on, "scope", "global")):
        lines += [
            f"address replace {address['local']}/{address['prefixlen']} dev {interface}\n"
            for address in entry["addr_info"]
            if address  # of another scope: ip leaves an empty object
        ]
    for family in "-4", "-6":
        for route in ip("-n", host, family, "route", "show", *on).splitlines():
            if "proto kernel" not in route:
                lines.append(f"route replace {route.strip()} dev {interface}\n")
    ip("-n", host, "link", "set", interface, "down")
    try:
        yield
    finally:
        ip("-n", host, script="".join(lines))


def renumber_home(lab: Lab, last: int) -> None:
    """Give the home's router the public address 198.18.1.*last*: its NAT forgets everything."""
    held = lab.run("router", ["ip", "-4", "-br", "address", "show", "dev", "wan"]).stdout
    lines = [f"address del {each} dev wan\n" for each in held.split()[2:]]
    lines += [f"address add 198.18.1.{last}/24 dev wan\n", "route add default via 198.18.1.1\n"]
    ip("-n", "router", script="".join(lines))


def add_second_network(lab: Lab) -> None:
    """Lay a cable from the laptop straight to the internet, and leave it down."""
    lab.join_hosts(
        ("laptop", "mobile", ()),
        ("internet", "mobile", ("198.18.9.1/24", "2001:db8:9::1/64")),
    )
    ip("-n", "laptop", "link", "set", "mobile", "down")


def move(lab: Lab, *, version: int = 4) -> None:
    """Take the laptop from its home to the second network, where only IP *version* is spoken."""
    router = {4: "198.18.9.1", 6: "2001:db8:9::1"}[version]
    address = {4: f"{SECOND_NETWORK}/24", 6: "2001:db8:9::2/64"}[version]
    script = "link set eth0 down\nlink set mobile up\naddress flush dev mobile scope global\n"
    script += f"address add {address} dev mobile\nroute add default via {router}\n"
    ip("-n", "laptop", script=script)


def move_back(lab: Lab) -> None:
    """Take the laptop home again."""
    script = "address flush dev mobile\nlink set mobile down\nlink set eth0 up\n"
    script += "route add default via 192.168.50.1\n"
    # The kernel forgets IPv6 addresses of an interface that goes down.
    script += "address replace 2001:db8:50::10/64 dev eth0\n"
    script += "route add default via 2001:db8:50::1\n"
    ip("-n", "laptop", script=script)
