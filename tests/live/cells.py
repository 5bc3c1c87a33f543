"""The dimensions of the matrix, and what brings a cell of it about.

::

    laptop ---- router ---- internet ---- server ---- office
      our client or               loses some         our server, and with it the cable
      wireguard-go                                   on which checksums are for real

What the kernel can do is refused where our programs ask it, as an older one would refuse it
(``OLD_KERNEL``): so what is tested is how they find out, too. The newest wireguard-go is one that
offloads, the system's may be one that does not.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.offloads import SEGMENTATION, switch, switch_off
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip
from pyvpn.wire.datagram import DATA, OFFLOAD
from tests.live.stock import PORT, SO_RCVBUFFORCE

DIMENSIONS: dict[str, tuple[object, ...]] = {
    "version": (4, 6),
    "protocol": ("tcp", "udp"),
    # mixed: super-packets at the client alone; of the stock ones it is the system's, which
    # knows none, with a server that does.
    "tun": ("offload", "plain", "mixed"),
    "gro": ("gro", "none"),
    "carrier": ("udp", "stock", "tls"),
    "loss": (0, 0.1, 1),
}
"""Names and values; a further dimension is a line here, and something in :class:`Cell`."""

OLD_KERNEL = """
import errno, fcntl, socket
plain, single = {plain!r}, {single!r}
_ioctl, _setsockopt, _sendmsg = fcntl.ioctl, socket.socket.setsockopt, socket.socket.sendmsg
def _refuse(*_):
    raise OSError(errno.EINVAL, "an older kernel")
def ioctl(fd, request, argument=0, *rest):
    if request == 0x400454CA and argument[17] & 0x40:  # TUNSETIFF, IFF_VNET_HDR
        _refuse()
    return _ioctl(fd, request, argument, *rest)
def setsockopt(self, *option):
    if option[:2] == (17, 104):  # UDP_GRO
        _refuse()
    return _setsockopt(self, *option)
def sendmsg(self, pieces, beside=(), *rest):
    if any(each[:2] == (17, 103) for each in beside):  # UDP_SEGMENT
        _refuse()
    return _sendmsg(self, pieces, beside, *rest)
if plain:
    fcntl.ioctl = ioctl
if single:
    socket.socket.setsockopt, socket.socket.sendmsg = setsockopt, sendmsg
"""
"""What our programs run with (``sitecustomize``) where the kernel is to know less than it does."""

_PLAIN = {"offload": (), "plain": ("client", "server"), "mixed": ("server",)}
_ENDS = (("laptop", "eth0"), ("server", "wan"))
_NEIGHBOURS = {"laptop": ("router", "port1"), "server": ("internet", "office")}
"""The other ends of their cables."""
_LOSS = """
table inet loss {{
    chain way {{
        type filter hook forward priority -300;
        numgen random mod 1000 < {thousandth} drop
    }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination."""

    version: int
    protocol: str
    tun: str
    gro: str
    carrier: str
    loss: float

    def __str__(self) -> str:
        return (
            f"inner IPv{self.version} {self.protocol.upper()}, TUN {self.tun},"
            f" {'GRO' if self.gro == 'gro' else 'no GRO'}, {self.carrier}, {self.loss:g} % lost"
        )

    @property
    def runs(self) -> tuple[bool, bool]:
        """Whether super-packets cross uncut from client and from server, in type 5."""
        if self.carrier != "udp":
            return False, False
        return self.tun != "plain", self.tun == "offload"

    @contextmanager
    def around(self, whose: str, folder: Path, patched: pytest.MonkeyPatch) -> Iterator[None]:
        """Start a program of ours (client, server) on the kernel that it is to find."""
        path = folder / whose
        path.mkdir(exist_ok=True)
        without = () if (self.tun, self.carrier) == ("mixed", "stock") else _PLAIN[self.tun]
        program = OLD_KERNEL.format(plain=whose in without, single=self.gro == "none")
        (path / "sitecustomize.py").write_text(program)
        with patched.context() as inner:
            inner.setenv("PYTHONPATH", str(path))
            yield

    @contextmanager
    def line(self, lab: Lab) -> Iterator[None]:
        """Have the line between the two ends lose what it is to lose, and be as it was afterwards.

        A bundle (GSO) is one packet to what loses them; so where any are lost bundles are cut
        before, and GRO makes others of what arrives, as on a cable of copper.
        """
        with ExitStack() as stack:
            if self.loss or self.gro == "none":
                for host, interface in _ENDS:
                    on = ("-n", host, "link", "set", interface, "gso_max_segs")
                    ip(*on, "1")
                    stack.callback(ip, *on, "65535")
            if self.loss and self.gro == "gro":
                for host, interface in _ENDS:
                    stack.enter_context(_receive_offload(lab, host, interface))
            if self.loss:
                words = _LOSS.format(thousandth=round(self.loss * 10))
                lab.run("internet", ["nft", "-f", "-"], input=words)
                gone = ["nft", "delete", "table", "inet", "loss"]
                stack.callback(lab.run, "internet", gone)
            yield


@contextmanager
def _receive_offload(lab: Lab, host: str, interface: str) -> Iterator[None]:
    """Have an end make bundles of what arrives.

    A veth does that only where nothing comes that could be one already (TSO).
    """
    neighbour, its_interface = _NEIGHBOURS[host]

    def have(on: bool) -> None:
        with lab.hosts[neighbour].inside():
            switch(its_interface, SEGMENTATION, on=not on)
        with lab.hosts[host].inside():
            switch(interface, ("rx-gro",), on=on)

    have(True)
    try:
        yield
    finally:
        have(False)


def checksums_for_real(lab: Lab) -> None:
    """Have the server's kernel compute what it sends to the office, which then verifies it.

    Else neither does: what is left undone is taken for right on a cable of a lab.
    """
    with lab.hosts["server"].inside():
        switch_off("lan", ("tx-checksum-ip-generic",))


def checksum_errors(lab: Lab) -> Counter[str]:
    """All counters of all hosts that count wrong checksums, of either version of IP."""
    found: Counter[str] = Counter()
    for host in lab.hosts:
        files = [f"/proc/net/{name}" for name in ("snmp", "netstat", "snmp6")]
        names: list[str] = []
        for line in lab.run(host, ["cat", *files]).stdout.splitlines():
            first, *words = line.split()
            if first.endswith(":") and not words[0].lstrip("-").isdigit():
                names = words
                continue
            pairs = zip(names, words, strict=True) if first.endswith(":") else [(first, words[0])]
            for name, value in pairs:
                if "CsumErrors" in name or "InHdrErrors" in name:
                    found[f"{host} {first.strip(':')} {name}"] += int(value)
    return found


class Sample:
    """The first of what arrives by a cable of an end: kinds of messages, and the largest."""

    def __init__(self, lab: Lab, host: str, interface: str) -> None:
        with lab.hosts[host].inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            with suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
            self._socket.bind((interface, 3))
        self._socket.setblocking(False)
        self.kinds: Counter[int] = Counter()
        self.largest = 0

    def look(self) -> None:
        """Read what there is, and end."""
        port = PORT.to_bytes(2, "big")
        with self._socket, suppress(BlockingIOError):
            while True:
                packet, (_, _, direction, *_) = self._socket.recvfrom(65_536)
                if direction == socket.PACKET_OUTGOING or packet[0] >> 4 != 4:
                    continue
                at = (packet[0] & 15) * 4
                if port in (packet[at : at + 2], packet[at + 2 : at + 4]):
                    self.largest = max(self.largest, len(packet))
                    if packet[9] == socket.IPPROTO_UDP and packet[at + 8] in (DATA, OFFLOAD):
                        self.kinds[packet[at + 8]] += 1


@contextmanager
def zero_checksums(lab: Lab, interface: str) -> Iterator[list[int]]:
    """Count IPv6 datagrams that come out of the tunnel at the server with a checksum of 0.

    That is none (RFC 8200 section 8.1), so the office drops them; but wireguard-go writes it where
    the sum is 0, instead of its other name, when it cuts what its kernel has left to it.
    """
    table = "table inet zero {\n chain way {\n type filter hook prerouting priority -300;\n"
    table += f' iifname "{interface}" ip6 nexthdr udp udp checksum 0 counter\n }}\n}}\n'
    lab.run("server", ["nft", "-f", "-"], input=table)
    found: list[int] = []
    try:
        yield found
        listed = lab.run("server", ["nft", "list", "table", "inet", "zero"]).stdout
        found += [int(number) for number in re.findall(r"packets (\d+)", listed)]
    finally:
        lab.run("server", ["nft", "delete", "table", "inet", "zero"])


def dropped(status: str) -> Counter[str]:
    """What a status says was dropped, but for what hosts say to all."""
    found = re.findall(r"dropped (\d+) packets: (\S+)$", status, re.MULTILINE)
    return Counter({why: int(n) for n, why in found if why != "multicast-or-link-local"})
