"""A small internet of network namespaces: somebody at home, and the office to be reached.

::

    laptop ---------- router ------------ internet ------------- server ---------- office
    192.168.50.10     .50.1 | 198.18.1.2  .1.1 | .2.1  198.18.2.2 | 192.168.77.1   192.168.77.20
    2001:db8:50::10   (NAT for IPv4)                   2001:db8:2::2 | fd77::1     fd77::20

``router`` masquerades its home, as home routers do; ``internet`` routes public addresses only,
so nothing but a tunnel leads from the laptop to the office LAN. All IPv4 "public" addresses are
from 198.18.0.0/15, the range set aside for tests (RFC 2544); IPv6 ones from 2001:db8::/32.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pyvpn.errors import Misuse
from pyvpn.testing.box import Box
from pyvpn.testing.namespace import Namespace, ip, stop
from pyvpn.testing.sandbox import environment

HOSTS = ("laptop", "router", "internet", "server", "office")
SERVER_ADDRESS = "198.18.2.2"
SERVER_ADDRESS6 = "2001:db8:2::2"
OFFICE_NETWORK = "192.168.77.0/24"
OFFICE_NETWORK6 = "fd77::/64"
OFFICE_ADDRESS = "192.168.77.20"
OFFICE_ADDRESS6 = "fd77::20"
ROUTERS_MAC = "02:00:00:00:50:01"

# Both ends of each cable: host, interface, addresses.
CABLES = (
    (
        ("router", "wan", ("198.18.1.2/24", "2001:db8:1::2/64")),
        ("internet", "home", ("198.18.1.1/24", "2001:db8:1::1/64")),
    ),
    (
        ("internet", "office", ("198.18.2.1/24", "2001:db8:2::1/64")),
        ("server", "wan", ("198.18.2.2/24", "2001:db8:2::2/64")),
    ),
    (
        ("server", "lan", ("192.168.77.1/24", "fd77::1/64")),
        ("office", "eth0", ("192.168.77.20/24", "fd77::20/64")),
    ),
)
ROUTES = (
    ("router", "default via 198.18.1.1"),
    ("router", "default via 2001:db8:1::1"),
    ("internet", "2001:db8:50::/64 via 2001:db8:1::2"),
    ("server", "default via 198.18.2.1"),
    ("server", "default via 2001:db8:2::1"),
    ("office", "default via 192.168.77.1"),
    ("office", "default via fd77::1"),
)
NAT = """
table ip home {
    chain outward {
        type nat hook postrouting priority srcnat;
        oifname "wan" masquerade
    }
}
"""


class Lab:
    """The hosts drawn above, as namespaces of the sandbox; one lab at a time.

    Use it as a context manager, or call :meth:`build` and :meth:`close`. ``folder`` takes
    configuration, state and logs; it lies in memory and is gone with the lab.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Namespace] = {}
        self.folder = Path()
        self._started: list[subprocess.Popen[bytes]] = []
        self._cables: dict[tuple[str, str], tuple[str, str]] = {}  # hosts, interfaces
        self._boxes: list[Box] = []
        self._laptops = 0

    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def build(self) -> None:
        """Make the hosts, their cables, addresses, routes and the home's NAT.

        Raises:
            HostError: the kernel refused something; the text has the command and its words.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/run"))
        for name in HOSTS:
            self._add_host(name)
        # With an address of its own: else a bridge takes the lowest of its ports, and one more
        # laptop may change it under those that know it, who are cut off for half a minute then.
        bridge = f"link add lan address {ROUTERS_MAC} type bridge\nlink set lan up\n"
        ip("-n", "router", script=bridge)
        self._address("router", "lan", ("192.168.50.1/24", "2001:db8:50::1/64"))
        for one, other in CABLES:
            self.join_hosts(one, other)
        self._plug_in("laptop")
        for host in HOSTS:
            mine = [f"route add {route}\n" for where, route in ROUTES if where == host]
            ip("-n", host, script="".join(mine))
        for host in ("router", "internet"):
            self._sysctl(host, "ipv4/ip_forward", "1")
            self._sysctl(host, "ipv6/conf/all/forwarding", "1")
        self.run("router", ["nft", "-f", "-"], input=NAT)

    def close(self) -> None:
        """Stop every program of the lab, remove the hosts and the folder; repeatable."""
        for process in reversed(self._started):
            stop(process)
        self._started.clear()
        for box in self._boxes:
            box.close()
        self._boxes.clear()
        for host in self.hosts.values():
            host.close()
        self.hosts.clear()
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        host: str,
        program: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *program* on *host* to its end; as :meth:`Namespace.run`."""
        return self.hosts[host].run(program, check=check, timeout=timeout, input=input)

    def start(self, host: str, program: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start *program* on *host*, output appended to *log*; ended with the lab."""
        process = self.hosts[host].start(program, log)
        self._started.append(process)
        return process

    @staticmethod
    def has(tool: str) -> bool:
        """Whether programs of the lab find *tool*."""
        return shutil.which(tool, path=environment()["PATH"]) is not None

    def write(self, name: str, text: str) -> Path:
        """Write a file of mode 0600 into the lab's folder: configuration may hold a password."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def add_laptop(self, *, at_home: bool = True) -> str:
        """Add one more laptop, behind the home's router or straight on the internet.

        Returns:
            its host name: ``laptop2`` (192.168.50.11 or 198.18.102.2), ``laptop3``, ...
        """
        if self._laptops == 0:
            raise Misuse("build the lab first")
        number = self._laptops + 1
        name = f"laptop{number}"
        self._add_host(name)
        if at_home:
            self._plug_in(name)
            return name
        self._laptops += 1
        four, six = f"198.18.{100 + number}", f"2001:db8:{100 + number}:"
        self._cable(name, "eth0", "internet", name)
        self._address(name, "eth0", (f"{four}.2/24", f"{six}:2/64"))
        self._address("internet", name, (f"{four}.1/24", f"{six}:1/64"))
        ip("-n", name, script=f"route add default via {four}.1\nroute add default via {six}:1\n")
        return name

    def join_hosts(
        self, one: tuple[str, str, Sequence[str]], other: tuple[str, str, Sequence[str]]
    ) -> None:
        """Lay a cable between two hosts; of each end: host, interface, addresses."""
        self._cable(one[0], one[1], other[0], other[1])
        for host, interface, addresses in one, other:
            self._address(host, interface, addresses)

    def add_box(
        self, host: str = "router", other: str = "internet", *, seed: int | None = None
    ) -> Box:
        """Put a cable that can be made bad in the place of the one between two neighbours.

        The interfaces keep names, addresses and routes, and programs their connections. What is
        wrong with it, nothing at first, is set on the box, also while packets pass::

            box = lab.add_box()
            box.set(delay_ms=25)                           # both ways
            box.set("down", rate_bps=5e6, queue_ms=200)    # towards *host*
            box.counts("down")["queue_full"]

        Args:
            host: where ``up`` begins and ``down`` ends.
            other: the host at the other end of the cable.
            seed: of chance: the same packets have the same fate.

        Raises:
            Misuse: no cable between the two, or a box is there already.
            HostError: the kernel refused something.
        """
        if (host, other) not in self._cables:
            cables = ", ".join(f"{a} - {b}" for a, b in self._cables if a < b)
            raise Misuse(f"no cable between {host} and {other}, or a box already: {cables}")
        interface, its_interface = self._cables[host, other]
        script = self._interface_script(host, interface)
        its_script = self._interface_script(other, its_interface)
        ip("-n", host, "link", "delete", interface)  # the other end goes with it
        del self._cables[host, other], self._cables[other, host]
        box = Box(f"{host}:{interface}", f"{other}:{its_interface}", seed)
        self._boxes.append(box)
        ip("-n", host, script=script)
        ip("-n", other, script=its_script)
        return box

    @staticmethod
    def _interface_script(host: str, interface: str) -> str:
        """Write what makes a new interface of that name what this one is, for ``ip -batch``."""
        on = ("dev", interface)
        link = json.loads(ip("-n", host, "-j", "link", "show", *on))[0]
        lines = [f"link set {interface} address {link['address']} mtu {link['mtu']}"]
        if "master" in link:
            lines.append(f"link set {interface} master {link['master']}")
        lines.append(f"link set {interface} up")
        known = json.loads(ip("-n", host, "-j", "address", "show", *on, "scope", "global"))
        lines += [
            f"address add {address['local']}/{address['prefixlen']} dev {interface}"
            for entry in known
            for address in entry["addr_info"]
            if address  # of another scope: ip leaves an empty object
        ]
        for family in "-4", "-6":
            routes = ip("-n", host, family, "route", "show", *on).splitlines()
            lines += [
                f"route add {route} dev {interface}"
                for route in routes
                if "proto kernel" not in route
            ]
        return "\n".join(lines) + "\n"

    def _plug_in(self, name: str) -> None:
        """Give *name* a port of the home's switch, an address and the router as the way out."""
        self._laptops += 1
        last = 9 + self._laptops
        port = f"port{self._laptops}"
        self._cable(name, "eth0", "router", port)
        ip("-n", "router", "link", "set", port, "master", "lan")
        self._address(name, "eth0", (f"192.168.50.{last}/24", f"2001:db8:50::{last}/64"))
        ways = "route add default via 192.168.50.1\nroute add default via 2001:db8:50::1\n"
        ip("-n", name, script=ways)

    def _add_host(self, name: str) -> None:
        self.hosts[name] = Namespace(name)
        # A router whose link-local address is still being probed for duplicates, which takes a
        # second, cannot ask for its neighbours: the first IPv6 packets would be lost.
        self._sysctl(name, "ipv6/conf/all/accept_dad", "0")
        self._sysctl(name, "ipv6/conf/default/accept_dad", "0")

    def _sysctl(self, host: str, name: str, value: str) -> None:
        with self.hosts[host].inside():
            Path("/proc/sys/net", name).write_text(value)

    def _cable(self, host: str, interface: str, other: str, its_interface: str) -> None:
        """Join two hosts by a veth pair, both ends up."""
        ends = f"{interface} netns {host} type veth peer name {its_interface} netns {other}"
        ip("link", "add", *ends.split())
        ip("-n", host, "link", "set", interface, "up")
        ip("-n", other, "link", "set", its_interface, "up")
        self._cables[host, other] = interface, its_interface
        self._cables[other, host] = its_interface, interface

    def _address(self, host: str, interface: str, addresses: Sequence[str]) -> None:
        lines = [f"address add {address} dev {interface}\n" for address in addresses]
        ip("-n", host, script="".join(lines))
