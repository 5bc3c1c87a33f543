"""An office with a VPN, opened for one test and closed after it with everything looked over.

Whoever uses it gets more than what the test asks: at the end each program must end by SIGTERM
with status 0, no log may hold a traceback, and each host must be what it was before.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import ndiff
from itertools import pairwise
from pathlib import Path

from pyvpn.store.passwords import hash_password
from pyvpn.store.sqlite import FILE_NAME, Store
from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import last_lines, stop, wait_for_line
from pyvpn.testing.vpn import Program

SERVER_TUN = "pyvpn0"
CLIENT_TUN = "pyvpnc0"
TABLE = "51820"
PATIENCE = 10.0  # seconds; what takes longer has failed

SOAKING = "PYVPN_KILLS" in os.environ
KILLS = int(os.environ.get("PYVPN_KILLS", "6"))
"""How often programs are killed; set for a long run, which also uses the default timings."""

_BUGS = re.compile(r"Traceback|#critical|Unhandled|unexpected error", re.MULTILINE)
_REPLY = re.compile(r"^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+)", re.MULTILINE)


def wait_until(done: Callable[[], bool], seconds: float = PATIENCE, what: str = "") -> float:
    """Wait until *done*; return how many seconds that took, and fail after *seconds*."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what or done}"
        time.sleep(0.02)
    return time.monotonic() - began


def tell(figure: str) -> None:
    """Print something measured; ``pytest -s`` shows it."""
    print(figure, flush=True)  # noqa: T201 - that is its purpose


class Office:
    """One VPN server, its users' clients, and what tests do with them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.name = f"vpn{random.getrandbits(40):010x}"
        self.server: Program
        self.server_host = "server"
        self.link = ""
        self._endpoint = SERVER_ADDRESS
        self._more = ""
        self._running: list[tuple[str, Program]] = []
        self._before: dict[str, dict[str, str]] = {}

    # -- the programs

    def open(
        self,
        more: str = "",
        *,
        host: str = "server",
        endpoint: str = SERVER_ADDRESS,
        users: tuple[str, ...] = ("anna",),
    ) -> Program:
        """Start the server and make its accounts; *more* as for `vpn.start_server`."""
        self.server_host, self._endpoint, self._more = host, endpoint, more
        self.start_server()
        self.link = vpn.link(self.server)
        for user in users:
            vpn.add_user(self.lab, self.server, user, host=host)
        return self.server

    def start_server(self) -> Program:
        """Start the server, again or for the first time."""
        self._remember(self.server_host)
        self.server = vpn.start_server(
            self.lab,
            host=self.server_host,
            name=self.name,
            endpoint=self._endpoint,
            more=self._more,
        )
        self._running.append((self.server_host, self.server))
        return self.server

    def start_client(
        self,
        host: str = "laptop",
        user: str = "anna",
        *,
        password: str | None = vpn.PASSWORD,
        more: str = "",
    ) -> Program:
        """Start a client, and do not wait for it."""
        self._remember(host)
        name = f"{self.name}-{user}-{host}"
        client = vpn.start_client(
            self.lab, self.link, user, host=host, name=name, password=password, more=more
        )
        self._running.append((host, client))
        return client

    def join(
        self,
        host: str = "laptop",
        user: str = "anna",
        *,
        password: str | None = vpn.PASSWORD,
        more: str = "",
    ) -> Program:
        """Start a client and wait until it carries packets."""
        client = self.start_client(host, user, password=password, more=more)
        client.says(r"\] routes into the tunnel:")
        return client

    def kill(self, program: Program) -> None:
        """End *program* as a power cut would."""
        self._look_over(program)
        program.process.kill()
        program.process.wait()
        self.forget(program)

    def end(self, program: Program) -> float:
        """End *program* as an operator would; return how many seconds it took."""
        began = time.monotonic()
        status = stop(program.process)
        seconds = time.monotonic() - began
        self._look_over(program)
        self.forget(program)
        assert status == 0, f"it ended with {status}:\n{last_lines(program.log)}"
        return seconds

    def forget(self, program: Program) -> None:
        """Leave *program* alone at the end: it has ended by itself, as the test wants it."""
        self._running = [entry for entry in self._running if entry[1] is not program]

    def close(self) -> None:
        """End what runs, clients first, and compare each host with what it was."""
        for _, program in reversed(list(self._running)):
            self.end(program)
        self.compare()

    def abandon(self) -> None:
        """Kill what runs, after a failure, so that the next test finds the lab free."""
        for _, program in self._running:
            stop(program.process, 3)

    def compare(self) -> None:
        """Fail if a host is not what it was before anything of ours was started on it."""
        for host, before in self._before.items():
            after = self.lab.hosts[host].state()
            changes = [
                f"{host}, {what}: {line}"
                for what in sorted(before | after)
                for line in ndiff(
                    before.get(what, "").splitlines(), after.get(what, "").splitlines()
                )
                if line[0] != " "
            ]

            assert changes == [], "\n".join(changes)

    def _remember(self, host: str) -> None:
        if host not in self._before:
            self._before[host] = self.lab.hosts[host].state()

    @staticmethod
    def _look_over(program: Program) -> None:
        found = _BUGS.search(program.log.read_text(errors="replace"))
        assert found is None, f"{found and found[0]} in {program.log.name}:\n" + last_lines(
            program.log, 40
        )

    # -- what an administrator does

    def pyvpn(self, *words: str, input: str | None = None) -> str:
        """Run the command line at the server, as ``pyvpn user list``."""
        command = ["python", "-c", "from pyvpn.cli import main; main()", *words]
        config = ["--config", str(self.server.config)]
        return self.lab.run(self.server_host, [*command, *config], input=input).stdout

    def reload(self, old: str, new: str) -> None:
        """Replace *old* in the server's file by *new* and have it read again."""
        text = self.server.config.read_text()
        assert old in text
        self.server.config.write_text(text.replace(old, new))
        self.server.process.send_signal(signal.SIGHUP)

    def status(self, program: Program | None = None) -> str:
        """Have *program* (the server) write its status, and return those lines."""
        program = program or self.server
        size = program.log.stat().st_size
        program.process.send_signal(signal.SIGUSR2)
        fresh = r"sessions, \d+ connections" if program is self.server else r"state: "
        wait_until(lambda: bool(re.search(fresh, program.log.read_text()[size:])))
        time.sleep(0.1)
        return program.log.read_text()[size:]

    def store(self) -> Store:
        """Open the server's database, beside the server."""
        return Store(self.lab.folder / self.name / FILE_NAME)

    def leases_in_use(self) -> int:
        """How many leases are in use, as the disk has it."""
        store = self.store()
        try:
            return sum(lease.released is None for lease in store.leases())
        finally:
            store.close()

    # -- what the users do

    def lease(self, host: str = "laptop") -> list[str]:
        """The tunnel addresses of *host*, IPv4 first; empty without a tunnel."""
        show = ["ip", "-j", "address", "show", "dev", CLIENT_TUN]
        ended = self.lab.run(host, show, check=False)
        if ended.returncode != 0:
            return []
        return [entry["local"] for entry in json.loads(ended.stdout)[0]["addr_info"]]

    def routes(self, host: str = "laptop") -> set[str]:
        """The networks that *host* routes into the tunnel."""
        found: set[str] = set()
        for family in "-4", "-6":
            show = ["ip", family, "-j", "route", "show", "table", TABLE]
            ended = self.lab.run(host, show, check=False)
            if ended.returncode == 0:
                found |= {route["dst"] for route in json.loads(ended.stdout or "[]")}
        return found

    def pings(self, host: str, address: str, count: int = 1, patience: float = 1.0) -> int:
        """Ping *address*; return how many of *count* were answered."""
        ping = ["ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", f"{patience:g}", address]
        said = self.lab.run(host, ping, check=False).stdout
        received = re.search(r"(\d+) received", said)
        return int(received[1]) if received else 0

    def wait_for_ping(self, host: str = "laptop", address: str = OFFICE_ADDRESS) -> float:
        """Ping until there is an answer; return how many seconds that took."""
        return wait_until(lambda: self.pings(host, address, patience=0.1) == 1, what="a ping")

    @contextmanager
    def steady_ping(
        self, host: str = "laptop", address: str = OFFICE_ADDRESS, seconds: float = 0.01
    ) -> Iterator[SteadyPing]:
        """Ping all the while; the result is there when the block is over."""
        log = self.lab.folder / f"{self.name}-ping-{time.monotonic_ns()}.log"
        ping = ["ping", "-n", "-D", "-i", f"{seconds:g}", "-W", "1", address]
        steady = SteadyPing(self.lab, host, ping, log)
        try:
            yield steady
        finally:
            steady.end()


class SteadyPing:
    """A ping that runs in the background, and what came of it."""

    def __init__(self, lab: Lab, host: str, command: list[str], log: Path) -> None:
        self._log = log
        self._process = lab.start(host, command, log)
        wait_for_line(log, _REPLY.pattern, process=self._process)

    def end(self) -> None:
        """Let the last answers arrive, and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._process.wait(5)

    @property
    def replies(self) -> list[tuple[float, int]]:
        """When each answer came, and to which packet."""
        found = _REPLY.findall(self._log.read_text())
        return [(float(when), int(number)) for when, number in found]

    @property
    def lost(self) -> int:
        """How many had no answer, the last one apart, which may be on its way."""
        said = re.search(r"(\d+) packets transmitted, (\d+) received", self._log.read_text())
        assert said is not None
        sent, received = int(said[1]), int(said[2])
        return max(0, sent - received - 1)

    @property
    def gap(self) -> float:
        """The longest time between two answers, in seconds."""
        times = [when for when, _ in self.replies]
        return max(after - before for before, after in pairwise(times))


class Web:
    """A web server in the office, for both families, with files of known content."""

    def __init__(self, lab: Lab, host: str = "office", port: int = 80) -> None:
        self._lab = lab
        self._folder = lab.folder / f"www-{host}"
        self._folder.mkdir(exist_ok=True)
        self._log = lab.folder / f"www-{host}.log"
        server = ["python", "-m", "http.server", "--bind", "::", "-d", str(self._folder)]
        self._process = lab.start(host, [*server, str(port)], self._log)
        wait_for_line(self._log, "Serving", process=self._process)

    def put(self, name: str, mebibytes: float) -> str:
        """Make a file of random bytes; return its SHA-256."""
        digest = hashlib.sha256()
        left = int(mebibytes * 2**20)
        with (self._folder / name).open("wb") as file:
            while left:
                data = random.randbytes(min(left, 2**20))
                file.write(data)
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()

    def visitor(self, name: str) -> str:
        """The address from which *name* was fetched last."""
        pattern = rf'^(\S+) - - .*"GET /{re.escape(name)} '
        wait_for_line(self._log, pattern, 2, self._process)
        found: list[str] = re.findall(pattern, self._log.read_text(), re.MULTILINE)
        return found[-1].removeprefix("::ffff:")

    def close(self) -> None:
        stop(self._process)


def fetch(lab: Lab, host: str, url: str, seconds: float = 20) -> str:
    """Fetch *url* by curl on *host*; return the SHA-256 of what came."""
    curl = f"set -o pipefail; curl -sSf --max-time {seconds:g} '{url}' | sha256sum"
    return lab.run(host, ["bash", "-c", curl], timeout=seconds + 5).stdout.split()[0]


def in_url(address: str) -> str:
    """Write *address* as a URL wants it."""
    return f"[{address}]" if ":" in address else address


OFFICE_ADDRESSES = (OFFICE_ADDRESS, OFFICE_ADDRESS6)


def add_accounts(office: Office, devices: int, each: int = 32) -> list[str]:
    """Make accounts for that many devices, *each* per user; return a user for each device.

    Straight into the database and with one hash for all: a hash takes 50 ms.
    """
    store = office.store()
    try:
        stored = hash_password(vpn.PASSWORD)
        names = [f"user{number}" for number in range(-(-devices // each))]
        for name in names:
            store.add_user(name, stored, time.time())
    finally:
        store.close()
    return [names[number // each] for number in range(devices)]
