"""What the tests of floods and crowds share: a server that knows everybody, and their programs.

The crowd and the flood come from a host that stands straight on the internet and owns 65,534
addresses; the answers to all of them find their way back to it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from pyvpn.crypto.x25519 import key_from_base64, key_to_base64, public_of
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop
from pyvpn.tunnel.lease import Granted, Lease
from tests.live.handshakes import SOURCES, private_key
from tests.live.office import SERVER_TUN, Office, wait_until

PORT = 51820
NETWORK = IPv4Network("10.99.0.0/18")
TUNNEL = f"[tunnel]\nnetwork4 = {NETWORK}\nnetwork6 = none\n"
SERVERS_CORE, OTHER_CORE = 0, 1

_TICKS = os.sysconf("SC_CLK_TCK")


def add_crowds_host(lab: Lab) -> str:
    """Add the host that the crowd comes from; return its name."""
    name = lab.add_laptop(at_home=False)
    shown = lab.run(name, ["ip", "-4", "-j", "address", "show", "dev", "eth0"]).stdout
    address = json.loads(shown)[0]["addr_info"][0]["local"]
    lab.run(name, ["ip", "route", "add", "local", SOURCES, "dev", "lo"])
    lab.run("internet", ["ip", "route", "add", SOURCES, "via", address])
    return name


def put_on_file(office: Office, members: int) -> None:
    """Give each member of the crowd a device, before the server starts or while it runs."""
    store = office.store()
    try:
        user = store.add_user("crowd", "", time.time()).id
        for number in range(members):
            address = NETWORK[2 + number].packed

            def grant(device: int, address: bytes = address) -> Granted:
                return Granted(Lease(device, user, address, None, None, True), [])

            public = public_of(private_key(number))
            store.add_stock_device(user, f"member {number}", public, None, time.time(), grant)
    finally:
        store.close()


class Program:
    """One of the load generators, running on *host*; each line that it prints is JSON."""

    def __init__(self, office: Office, host: str, module: str, *words: object) -> None:
        self._log = office.lab.folder / f"{office.name}-{time.monotonic_ns()}.log"
        self._read = 0
        key = load_or_make_wireguard_key(office.lab.folder / office.name).public.hex()
        what, *rest = words
        command = ["python", "-m", f"tests.live.{module}", what, SERVER_ADDRESS, PORT, key, *rest]
        self._process = office.lab.start(host, [str(word) for word in command], self._log)
        pin(self._process.pid, OTHER_CORE)

    def says(self, word: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the next line that has the figure *word*."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self._process.poll() is not None
            lines = self._log.read_text().split("\n")[:-1]
            while self._read < len(lines):
                self._read += 1
                if f'"{word}":' in lines[self._read - 1]:
                    found: dict[str, Any] = json.loads(lines[self._read - 1])
                    return found
            assert not ended, f"it ended:\n{self._log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"no {word!r} within {seconds:g} s"
            time.sleep(0.05)

    def end(self) -> None:
        stop(self._process)


@contextmanager
def crowd(
    office: Office, host: str, what: str, members: range, *rest: object
) -> Iterator[Program]:
    """A crowd of :mod:`tests.live.handshakes`, ended with the block."""
    words = (members.start, len(members), *rest)
    program = Program(office, host, "handshakes", what, *words)
    try:
        yield program
    finally:
        program.end()


@contextmanager
def flood(
    office: Office, host: str, kind: str, per_second: int, seconds: float
) -> Iterator[Program]:
    """A flood of :mod:`tests.live.wg_flood`, begun when the block begins, ended with it."""
    program = Program(office, host, "wg_flood", kind, per_second, seconds)
    try:
        program.says("begun")
        yield program
    finally:
        program.end()


# -- what the server needs and says


def pin(pid: int, core: int) -> None:
    """Have all threads of a process run on one core only, if there are two."""
    if (os.cpu_count() or 1) > 1:
        subprocess.run(["taskset", "-apc", str(core), str(pid)], check=True, capture_output=True)


def memory(office: Office) -> float:
    """MiB that the server has in memory."""
    text = Path(f"/proc/{office.server.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def cpu_seconds(office: Office) -> float:
    """What the server has used so far, all threads, in the kernel too."""
    text = Path(f"/proc/{office.server.process.pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def handshakes(office: Office) -> int:
    """How many handshakes the server says that it has completed."""
    found = re.search(r"(\d+) handshakes", office.status())
    assert found is not None
    return int(found[1])


def dropped(office: Office) -> dict[str, int]:
    """What the server has dropped, by reason."""
    found = re.findall(r"dropped (\d+) packets: (\S+)", office.status())
    return {reason: int(number) for number, reason in found}


def wait_for_devices(office: Office, count: int) -> None:
    """Wait until the server has read that so many devices are on file."""
    wait_until(lambda: f"of {count} devices heard" in office.status(), 30)


# -- a stock client


@contextmanager
def stock_client(office: Office, host: str, name: str) -> Iterator[None]:
    """A device of Anna's, with wg-quick; wireguard-go where the kernel has no WireGuard."""
    lab = office.lab
    text = office.pyvpn("device", "add", "anna", name, "--wireguard")
    config = lab.write(f"{name}.conf", text)
    private = re.search(r"^PrivateKey = (\S+)$", text, re.MULTILINE)
    assert private is not None
    public = key_to_base64(public_of(key_from_base64(private[1])))
    peers = ["wg", "show", SERVER_TUN, "peers"]
    wait_until(lambda: public in lab.run("server", peers).stdout, what="the server to know it")
    lab.run(host, ["wg-quick", "up", str(config)])
    try:
        yield
    finally:
        lab.run(host, ["wg-quick", "down", str(config)], check=False)
