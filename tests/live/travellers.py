"""Three ways into one office, side by side: our client by UDP, our client by TLS, a stock app.

::

    laptop  (vpnclient, transport = udp) ---.
    laptop2 (vpnclient, transport = tcp) ----+--- router ---- internet ---- server ---- office
    laptop3 (wireguard-go) -----------------'

Each fetches bytes without end, which must be what was sent, and pings the office every 10 ms all
the while; so whatever happens to the network or to the server is one story with three figures.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from pyvpn.testing.vpn import Program
from tests.live.office import Office, SteadyPing, wait_until
from tests.live.stock import App, add_device, server_peers
from tests.live.stream import digest

USERS = ("anna", "bert", "carl")
KINDS = ("udp", "tcp", "stock")
_PORT = 7200
_STREAM = ["python", "-m", "tests.live.stream"]


class Source:
    """What sends without end, in the office."""

    def __init__(self, lab: Lab) -> None:
        log = lab.folder / "source.log"
        self._process = lab.start("office", [*_STREAM, "serve", OFFICE_ADDRESS, str(_PORT)], log)
        wait_for_line(log, "ready", process=self._process)

    def close(self) -> None:
        """End it."""
        stop(self._process)


class Download:
    """Bytes on their way to a host, at an even pace; at the end they must be what was sent."""

    def __init__(self, office: Office, host: str) -> None:
        self._seed = random.getrandbits(32)
        self._log = office.lab.folder / f"{office.name}-{host}-{self._seed}.stream"
        words = ["take", OFFICE_ADDRESS, str(_PORT), str(self._seed)]
        self._process = office.lab.start(host, [*_STREAM, *words], self._log)
        wait_for_line(self._log, r"^\d", process=self._process)

    @property
    def count(self) -> int:
        """How many bytes have arrived, told once a second."""
        return int(self._log.read_text().split("\n")[-2].split()[0])

    def arrive(self, patience: float) -> None:
        """Wait until it goes on, and end it; fail if what arrived is not what was sent."""
        before = self.count
        wait_until(
            lambda: self.count > before or self._process.poll() is not None,
            patience,
            "a download to go on",
        )
        assert stop(self._process) == 0, self._log.read_text()
        count, found = self._log.read_text().split("\n")[-2].split()
        assert found == digest(self._seed, int(count)), "what arrived is not what was sent"

    def close(self) -> None:
        """Let go of it, whatever has become of it."""
        stop(self._process)


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

    @property
    def lost(self) -> int:
        """How many of the pings before the last answered one had no answer."""
        numbers = [number for _, number in self.ping.replies]
        return max(numbers) - len(set(numbers))


def three_hosts(lab: Lab, *, at_home: bool = True) -> tuple[str, ...]:
    """Hosts for the three, behind the home's router or each straight on the internet."""
    if at_home:
        return ("laptop", lab.add_laptop(), lab.add_laptop())
    return tuple(lab.add_laptop(at_home=False) for _ in KINDS)


@contextmanager
def travellers(
    office: Office,
    source: Source,
    hosts: Sequence[str],
    *,
    more: str = "",
    around: Callable[[str], AbstractContextManager[None]] = lambda program: nullcontext(),
) -> Iterator[list[Traveller]]:
    """Open the office, bring all three in, and have them at work; at the end all is whole.

    Args:
        source: must be there.
        more: further lines of the server's file.
        around: what one of our programs ("server", "client") is to be started within.
    """
    with around("server"):
        office.open(more, users=USERS)
    with ExitStack() as stack:
        made: list[Traveller] = []
        clients: list[Program | App] = []
        for kind, host, user in zip(KINDS, hosts, USERS, strict=True):
            if kind == "stock":
                file = add_device(office, user)
                clients.append(stack.enter_context(App(office.lab, host, file)))
            else:
                with around("client"):
                    clients.append(office.join(host, user, more=f"transport = {kind}\n"))
        for kind, host, program in zip(KINDS, hosts, clients, strict=True):
            office.wait_for_ping(host)
            if kind == "udp":
                assert isinstance(program, Program)
                program.says("packets go by UDP")
            download = Download(office, host)
            stack.callback(download.close)
            ping = stack.enter_context(office.steady_ping(host))
            made.append(Traveller(kind, host, program, ping, download))
        time.sleep(0.5)
        yield made
        for each in made:
            each.download.arrive(150)


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
