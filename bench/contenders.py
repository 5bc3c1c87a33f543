"""Who takes part: how each VPN is set up between the two hosts of a pair."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from bench.pair import SERVER, Pair
from pyvpn.errors import HostError
from pyvpn.testing import vpn
from pyvpn.testing.namespace import ip
from pyvpn.testing.sandbox import environment

PATIENCE = 30.0
"""Seconds in which a VPN is up, or has failed."""
PORT = 51820
MTU = 1420
_WIREGUARD = "10.99.0"
_PYVPN = "10.73.0.1"
_SOCKETS = Path("/var/run/wireguard")
_COMMAND = ("python", "-c", "from pyvpn.cli import main; main()")


def tool(name: str) -> str | None:
    """Where programs of the lab find *name*."""
    return shutil.which(name, path=environment()["PATH"])


def wireguard_go() -> str | None:
    """The one that ``WIREGUARD_GO`` names, else the one on the path."""
    return tool(os.environ.get("WIREGUARD_GO", "wireguard-go"))


class Contender(ABC):
    """One VPN between the hosts of *pair*."""

    name: str
    needs: tuple[str, ...] = ()
    """Programs."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.address = ""
        """The server's, inside."""
        self.servers: list[int] = []
        self.clients: list[int] = []
        """Process ids."""
        self.connect_seconds: float | None = None
        """From the start of the client to its first answered ping."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.name} @wire" if self.pair.wire else self.name

    @classmethod
    def missing(cls) -> list[str]:
        """The programs that it would need and that are not here."""
        return [name for name in cls.needs if tool(name) is None]

    @classmethod
    def version(cls) -> str:
        """Which one it is, in words."""
        return ""

    @abstractmethod
    def start(self) -> None:
        """Set it up and wait until pings pass; raises HostError."""

    def _wait_for_ping(self, began: float) -> None:
        ping = ["ping", "-n", "-c", "1", "-W", "0.2", self.address]
        self._wait(
            lambda: self.pair.run(self.pair.client, ping, check=False).returncode == 0, "a ping"
        )
        self.connect_seconds = time.monotonic() - began

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise HostError(f"{self.title}: no {what} within {PATIENCE:g} s")
            time.sleep(0.005)


class Veth(Contender):
    """No VPN at all: the limit."""

    name = "no VPN"

    def start(self) -> None:
        self.address = SERVER
        self._wait_for_ping(time.monotonic())
        self.connect_seconds = None


class _WithApp(Contender):
    """One with wireguard-go at an end."""

    needs = ("wireguard-go", "wg")

    @classmethod
    def missing(cls) -> list[str]:
        found = {"wireguard-go": wireguard_go(), "wg": tool("wg")}
        return [name for name, path in found.items() if path is None]

    @classmethod
    def version(cls) -> str:
        go = wireguard_go()
        if go is None:
            return ""
        said = subprocess.run([go, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"wireguard-go v?(\S+)", said.stdout)
        return f"wireguard-go {found[1]}" if found else go

    def _run_app(self, host: str, side: str, text: str) -> int:
        """Run wireguard-go on *host*, as wg-quick would with the file *text*; its process id."""
        go = wireguard_go()
        assert go is not None
        name = f"{side}{self.pair.number}"
        process = self.pair.start(host, [go, "-f", name], self.pair.folder / f"{name}.log")
        sock = _SOCKETS / f"{name}.sock"
        self._wait(lambda: sock.exists() or process.poll() is not None, "wireguard-go")
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        stripped = re.sub(r"(?m)^(Address|MTU|DNS) = .*\n", "", text)
        path = self.pair.write(f"{name}.conf", stripped)
        self.pair.run(host, ["wg", "setconf", name, str(path)])
        own = parser["Interface"]
        lines = [f"address add {each} dev {name}" for each in own["Address"].split(", ")]
        lines.append(f"link set {name} mtu {own.get('MTU', str(MTU))} up")
        allowed = parser["Peer"]["AllowedIPs"].split(", ")
        lines += [f"route replace {each} dev {name}" for each in allowed]
        ip("-n", host, script="\n".join(lines) + "\n")
        return process.pid


class WireGuardGo(_WithApp):
    """wireguard-go at both ends."""

    name = "wireguard-go"

    def start(self) -> None:
        keys = [self._keys(), self._keys()]
        files = [
            f"[Interface]\nPrivateKey = {own[0]}\nListenPort = {PORT}\n"
            f"Address = {_WIREGUARD}.{number}/32\n"
            f"[Peer]\nPublicKey = {other[1]}\nAllowedIPs = {_WIREGUARD}.0/24\n"
            for number, own, other in ((1, keys[0], keys[1]), (2, keys[1], keys[0]))
        ]
        self.address = f"{_WIREGUARD}.2"
        self.servers = [self._run_app(self.pair.server, "gos", files[1])]
        began = time.monotonic()
        endpoint = f"Endpoint = {SERVER}:{PORT}\n"
        self.clients = [self._run_app(self.pair.client, "goc", files[0] + endpoint)]
        self._wait_for_ping(began)

    def _keys(self) -> tuple[str, str]:
        private = self.pair.run(self.pair.client, ["wg", "genkey"]).stdout.strip()
        public = self.pair.run(self.pair.client, ["wg", "pubkey"], input=private).stdout
        return private, public.strip()


class _Pyvpn(Contender):
    """One with a pyvpn server."""

    def _serve(self) -> vpn.Program:
        program = vpn.start_server(
            self.pair, host=self.pair.server, name="server", endpoint=SERVER
        )
        vpn.link(program)
        self.servers = [program.process.pid]
        self.address = _PYVPN
        vpn.add_user(self.pair, program, "anna", host=self.pair.server)
        return program


class _Native(_Pyvpn):
    """pyvpn at both ends."""

    transport: str

    def start(self) -> None:
        link = vpn.link(self._serve())
        began = time.monotonic()
        client = vpn.start_client(
            self.pair,
            link,
            "anna",
            host=self.pair.client,
            name="client",
            more=f"transport = {self.transport}\n",
        )
        self.clients = [client.process.pid]
        self._wait_for_ping(began)


class PyvpnUdp(_Native):
    """By UDP."""

    name = "pyvpn"
    transport = "udp"


class PyvpnTls(_Native):
    """By TLS over TCP."""

    name = "pyvpn TLS"
    transport = "tcp"


class PyvpnStock(_Pyvpn, _WithApp):
    """A pyvpn server, and a stock wireguard-go as its client."""

    name = "pyvpn, app"

    def start(self) -> None:
        program = self._serve()
        path = self.pair.folder / "app.conf"
        add = ["device", "add", "anna", "app", "--wireguard", "--output", str(path)]
        self.pair.run(self.pair.server, [*_COMMAND, *add, "--config", str(program.config)])
        time.sleep(1.5)  # in which the server has noticed, as promised
        began = time.monotonic()
        self.clients = [self._run_app(self.pair.client, "app", path.read_text())]
        self._wait_for_ping(began)
