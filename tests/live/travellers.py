"""Three ways into one office, side by side: our client by UDP, our client by TLS, a stock app.

::

    laptop  (vpnclient, transport = udp) ---.
    laptop2 (vpnclient, transport = tcp) ----+--- router ---- internet ---- server ---- office
    laptop3 (wireguard-go) -----------------'

Each fetches a file, which must arrive whole, and pings the office every 10 ms all the while; so
whatever happens to the network or to the server is one story with three figures.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.vpn import Program
from tests.live.office import Office, SteadyPing, Web, wait_until
from tests.live.stock import App, add_device, server_peers

USERS = ("anna", "bert", "carl")
KINDS = ("udp", "tcp", "stock")
RATE = 512
"""Kibibytes a second of each download: there is a load, and nobody waits for it."""


class Download:
    """A file on its way to a host, at an even pace; when it is there it must be what was sent."""

    def __init__(self, office: Office, web: Web, host: str, seconds: float) -> None:
        self._seconds = seconds
        name = f"{office.name}-{host}"
        self._digest = web.put(name, seconds * RATE / 1024)
        self._log = office.lab.folder / f"{name}.sha256"
        curl = f"curl -sSf --limit-rate {RATE}K 'http://{OFFICE_ADDRESS}/{name}' | sha256sum"
        self._process = office.lab.start(
            host, ["bash", "-c", f"set -o pipefail; {curl}"], self._log
        )
        self._file = office.lab.folder / "www-office" / name

    @property
    def is_under_way(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def arrive(self, patience: float) -> None:
        """Wait for the end, and fail if what arrived is not what was sent."""
        assert self._process.wait(patience) == 0, self._log.read_text()
        assert self._log.read_text().split()[0] == self._digest

    def close(self) -> None:
        """Let go of it, whatever has become of it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._file.unlink(missing_ok=True)


class Traveller:
    """One of the three at work."""

    def __init__(
        self, kind: str, host: str, program: Program | App, ping: SteadyPing, download: Download
    ) -> None:
        self.kind, self.host = kind, host
        self.ping, self.download = ping, download
        self._program = program

    @property
    def client(self) -> Program:
        """The program of one of ours."""
        assert isinstance(self._program, Program)
        return self._program

    @property
    def app(self) -> App:
        """The stock one."""
        assert isinstance(self._program, App)
        return self._program

    def back(self, since: float, patience: float = 60) -> float:
        """How many seconds after the moment *since* (unix) the first answer came; waits for it."""

        def first() -> float | None:
            return next((when for when, _ in self.ping.replies if when > since), None)

        wait_until(lambda: first() is not None, patience, f"an answer for {self.kind}")
        found = first()
        assert found is not None
        return found - since

    def gap(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """The longest time between two answers, of those between two moments (unix)."""
        times = [when for when, _ in self.ping.replies if begin < when < end]
        return max(after - before for before, after in pairwise(times))

    def put(self, program: Program) -> None:
        """Another process is our client from now on."""
        self._program = program


def three_hosts(lab: Lab, *, at_home: bool = True) -> tuple[str, ...]:
    """Hosts for the three, behind the home's router or each straight on the internet."""
    if at_home:
        return ("laptop", lab.add_laptop(), lab.add_laptop())
    return tuple(lab.add_laptop(at_home=False) for _ in KINDS)


@contextmanager
def travellers(
    office: Office,
    web: Web,
    hosts: Sequence[str],
    seconds: float,
    *,
    more: str = "",
) -> Iterator[list[Traveller]]:
    """Open the office, bring all three in, and have them at work; at the end all is whole.

    Args:
        seconds: how long the downloads take where nothing goes wrong.
        more: further lines of the server's file.
    """
    office.open(more, users=USERS)
    with ExitStack() as stack:
        made: list[Traveller] = []
        clients: list[Program | App] = []
        for kind, host, user in zip(KINDS, hosts, USERS, strict=True):
            if kind == "stock":
                file = add_device(office, user)
                clients.append(stack.enter_context(App(office.lab, host, file)))
            else:
                clients.append(office.join(host, user, more=f"transport = {kind}\n"))
        for kind, host, program in zip(KINDS, hosts, clients, strict=True):
            office.wait_for_ping(host)
            if kind == "udp":
                assert isinstance(program, Program)
                program.says("packets go by UDP")
            download = Download(office, web, host, seconds)
            stack.callback(download.close)
            ping = stack.enter_context(office.steady_ping(host))
            made.append(Traveller(kind, host, program, ping, download))
        time.sleep(0.5)
        yield made
        for each in made:
            each.download.arrive(2 * seconds + 150)


def place_of(office: Office, traveller: Traveller) -> str:
    """Where the server sends the packets of *traveller* by UDP: address and port."""
    if traveller.kind == "stock":
        return server_peers(office.lab, office.server_host)[0].endpoint
    user = USERS[KINDS.index(traveller.kind)]
    found = re.search(rf"{user}/\S+: in .* by UDP to (\S+)$", office.status(), re.MULTILINE)
    return found[1] if found else ""


def figures(what: str, seconds: dict[str, float]) -> str:
    """Write one figure for each of the three."""
    return f"{what}: " + ", ".join(f"{kind} {one:.2f} s" for kind, one in seconds.items())


def descriptors(process: subprocess.Popen[bytes]) -> int:
    """How many files a program has open."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
