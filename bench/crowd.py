"""``python -m bench.crowd``: how soon one client is served while ten others download.

The server's loop serves everybody, so who takes long makes all wait.  Ten clients on hosts of
their own download as fast as they can from behind the server, an eleventh only pings, 100 times
a second.  Two delays are told: of the server's reactor, watched from another of its threads,
without the time in which others had the processor; and of the ping, with all that.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.report import spell, table
from pyvpn import __version__
from pyvpn.errors import HostError, PyvpnError
from pyvpn.testing import sandbox, vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.lag import read_lags, write_watch
from pyvpn.testing.namespace import stop, wait_for_line

DOWNLOADS = 10
FIRST_PORT = 5201
TARGET_MS = 20.0
CARRIERS = ("udp", "tcp")
RESULTS = Path(__file__).with_name("results")
_REPLY = re.compile(r"time=([\d.]+) ms")


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for programs that are started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class Crowd:
    """An office with eleven clients outside, all by one carrier."""

    def __init__(self, lab: Outside, transport: str) -> None:
        self._lab = lab
        self._lags = lab.folder / f"lags-{transport}"
        folder = Path(tempfile.mkdtemp(dir=lab.folder))
        write_watch(folder, self._lags)
        with environment("PYTHONPATH", str(folder)):
            self._server = vpn.start_server(lab, name=f"server-{transport}")
            link = vpn.link(self._server)
        self._clients: list[vpn.Program] = []
        for number, host in enumerate(lab.travellers):
            vpn.add_user(lab, self._server, f"user{number}")
            more = f"transport = {transport}\n"
            name = f"client{number}-{transport}"
            client = vpn.start_client(lab, link, f"user{number}", host=host, name=name, more=more)
            self._clients.append(client)
        for client in self._clients:
            client.says("packets go by UDP" if transport == "udp" else "routes into the tunnel")

    def measure(self, seconds: float) -> dict[str, float]:
        """Download for so long; return what was seen."""
        lab = self._lab
        loads = []
        for number, host in enumerate(lab.travellers[1:]):
            where = ("-p", str(FIRST_PORT + number), "-c", OFFICE_ADDRESS)
            command = ["iperf3", "-J", "-R", *where, "-t", f"{seconds + 2:g}"]
            log = lab.folder / f"load-{number}.json"
            log.unlink(missing_ok=True)
            loads.append((lab.start(host, command, log), log))
        time.sleep(1.0)
        self._lags.write_text("")
        count = int(seconds * 100)
        ping = ["ping", "-n", "-c", str(count), "-i", "0.01", "-W", "1", OFFICE_ADDRESS]
        said = lab.run(lab.travellers[0], ping, check=False, timeout=seconds * 3 + 10).stdout
        lags = read_lags(self._lags)
        total = 0.0
        for process, log in loads:
            if process.wait(seconds + 30) != 0:
                raise HostError(f"iperf3 failed: {log.read_text()}")
            total += json.loads(log.read_text())["end"]["sum_received"]["bits_per_second"]
        times = sorted(map(float, _REPLY.findall(said)))
        if not lags or len(times) < count / 2:
            raise HostError(f"{len(times)} of {count} pings answered, {len(lags)} lags seen")
        return {
            "loop": lags[int(len(lags) * 0.99)] * 1e3,
            "longest": lags[-1] * 1e3,
            "ping": times[int(len(times) * 0.99)],
            "total": total / 1e9,
        }

    def close(self) -> None:
        """End all programs."""
        for program in (*self._clients, self._server):
            stop(program.process)


class Outside(Lab):
    """The lab, with eleven laptops straight on the internet."""

    travellers: list[str]

    def build(self) -> None:
        super().build()
        self.travellers = [self.add_laptop(at_home=False) for _ in range(DOWNLOADS + 1)]
        for number in range(DOWNLOADS):
            log = self.folder / f"serve-{number}.log"
            serve = ["iperf3", "-s", "--forceflush", "-p", str(FIRST_PORT + number)]
            process = self.start("office", serve, log)
            wait_for_line(log, "listening", process=process)


TITLES = {
    "loop": "server's loop, p99, ms",
    "longest": "server's loop, longest, ms",
    "ping": "ping, p99, ms",
    "total": "all downloads, Gbit/s",
}


def to_rst(values: dict[str, dict[str, list[float]]], about: dict[str, str]) -> str:
    """A row for each figure, a column for each carrier."""
    text = ["One client beside ten that download", "=" * 35, ""]
    text += [f"* {key}: {value}" for key, value in about.items()]
    target = f"Target: the loop's p99 at most {TARGET_MS:g} ms."
    text += ["", f"{target} Medians, ranges in brackets.", ""]
    rows = [["", *values]]
    for figure, title in TITLES.items():
        rows.append([title, *(spell(each.get(figure, []), 2) for each in values.values())])
    return "\n".join([*text, table(rows)]) + "\n"


@click.command()
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often all is measured.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=5.0,
    show_default=True,
    help="How long each time.",
)
@click.option("--into", type=click.Path(path_type=Path), default=RESULTS, help="Folder.")
def main(rounds: int, seconds: float, into: Path) -> None:
    """Measure how soon one client is served while ten others download."""
    about = {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}; all hosts on it",
        "pyvpn": f"{__version__}, Python {platform.python_version()}",
        "load before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }
    values: dict[str, dict[str, list[float]]] = {}
    try:
        sandbox.check_tools([*sandbox.LAB_TOOLS, "iperf3"])
        if problem := sandbox.tun_problem():
            raise HostError(problem)
        sandbox.enter()
        for transport in CARRIERS:
            found = values.setdefault(f"by {transport.upper()}", {})
            with Outside() as lab:
                crowd = Crowd(lab, transport)
                try:
                    for _ in range(rounds):
                        for figure, value in crowd.measure(seconds).items():
                            found.setdefault(figure, []).append(value)
                finally:
                    crowd.close()
    except PyvpnError as error:
        raise click.ClickException(str(error)) from error
    text = to_rst(values, about)
    click.echo(text)
    into.mkdir(parents=True, exist_ok=True)
    path = into / time.strftime("%Y-%m-%d-%H%M-crowd.rst")
    path.write_text(text, encoding="utf-8")
    click.echo(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
