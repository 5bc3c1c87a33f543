"""``python -m bench``: measure whoever is here, and write what came of it."""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path

import click

from bench.contenders import Contender, PyvpnStock, PyvpnTls, PyvpnUdp, Veth, WireGuardGo
from bench.measure import FIGURES, TESTS, Bench
from bench.others import Ocserv, OcservDtls, OpenVpn, Tinc
from bench.pair import Pair
from bench.report import WIRE, Results, to_rst, to_svg
from pyvpn import __version__
from pyvpn.errors import HostError, PyvpnError
from pyvpn.testing import sandbox

RESULTS = Path(__file__).with_name("results")
ALL: tuple[type[Contender], ...] = (
    Veth,
    PyvpnUdp,
    PyvpnStock,
    PyvpnTls,
    WireGuardGo,
    OpenVpn,
    Tinc,
    Ocserv,
    OcservDtls,
)
"""In the order of the tables."""
NAMES = {each.name: each for each in ALL}


def _about() -> dict[str, str]:
    """What the figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} x {model}, Linux {platform.release()}",
        "pyvpn": f"{__version__}, Python {platform.python_version()}",
        "load before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }


def _contenders(names: tuple[str, ...], results: Results) -> list[type[Contender]]:
    """Those that can take part; of the others, why not."""
    chosen: list[type[Contender]] = []
    for kind in [NAMES[name] for name in names] if names else ALL:
        if missing := kind.missing():
            results.missing.append(f"{kind.name}: there is no {' and no '.join(missing)}")
            continue
        chosen.append(kind)
        if version := kind.version():
            results.about.setdefault(version.split()[0], version.partition(" ")[2])
    return chosen


def _start(
    kinds: list[type[Contender]], wires: list[bool], results: Results, stack: ExitStack
) -> list[Contender]:
    """Set up a pair and a VPN each; who fails is left out, with the reason."""
    started: list[Contender] = []
    numbers = count(1)
    for wire in wires:
        for kind in kinds:
            pair = Pair(next(numbers), wire)
            stack.enter_context(pair)
            contender = kind(pair)
            try:
                contender.start()
            except PyvpnError as error:
                _miss(results, contender.title, error)
            else:
                started.append(contender)
                seconds = contender.connect_seconds
                if seconds is not None:
                    results.add(contender.title, "connect", 0, seconds)
                click.echo(f"{contender.title} is up")
    return started


def _miss(results: Results, what: str, error: Exception) -> None:
    said = f"{what}: {error}"
    click.echo(said, err=True)
    results.missing.append(said.splitlines()[0])


def _measure(
    contenders: list[Contender], tests: list[str], rounds: int, seconds: float, results: Results
) -> None:
    """Measure in turns: one thing of everybody, in another order each time, then the next."""
    benches = [Bench(contender, seconds) for contender in contenders]
    for bench in benches:
        bench.serve()
    for number in range(rounds):
        for test in tests:
            random.shuffle(benches)
            for bench in benches:
                title = bench.contender.title
                try:
                    values = TESTS[test](bench)
                except (PyvpnError, OSError) as error:
                    _miss(results, f"{title}, {test}, round {number + 1}", error)
                    continue
                for figure, value in values.items():
                    results.add(title, figure, number, value)
                shown = ", ".join(
                    f"{FIGURES[each].title} {value:.{FIGURES[each].digits}f} {FIGURES[each].unit}"
                    for each, value in values.items()
                )
                click.echo(f"round {number + 1}: {title}: {shown}")
        results.rounds = number + 1
    for bench in benches:
        bench.close()


def _write(results: Results, folder: Path) -> list[Path]:
    """Write table, picture and the bare values; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y-%m-%d-%H%M")
    written = {
        folder / f"{stem}.rst": to_rst(results),
        folder / f"{stem}.svg": to_svg(results),
        folder / f"{stem}.json": json.dumps(asdict(results), indent=1) + "\n",
    }
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often all is measured.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each transfer is.")
@click.option("--only", "names", multiple=True, type=click.Choice(sorted(NAMES)))
@click.option("--test", "tests", multiple=True, type=click.Choice(list(TESTS)))
@click.option("--wire/--no-wire", default=True, help="Measure also with cable offloads off.")
@click.option("--quick", is_flag=True, help="One short round: to see whether all works.")
@click.option("--into", type=click.Path(path_type=Path), default=RESULTS, help="Folder to write.")
def main(
    rounds: int,
    seconds: float,
    names: tuple[str, ...],
    tests: tuple[str, ...],
    wire: bool,
    quick: bool,
    into: Path,
) -> None:
    """Measure pyvpn side by side with other VPNs, in namespaces of this machine.

    WIREGUARD_GO=FILE names a newer wireguard-go than the one on the path.
    """
    if quick:
        rounds, seconds = 1, 1.0
    results = Results(about=_about())
    try:
        sandbox.check_tools([*sandbox.LAB_TOOLS, "iperf3"])
        if problem := sandbox.tun_problem():
            raise HostError(problem)
        sandbox.enter()
        kinds = _contenders(names, results)
        with ExitStack() as stack:
            wires = [False, True] if wire else [False]
            contenders = _start(kinds, wires, results, stack)
            _measure(contenders, list(tests or TESTS), rounds, seconds, results)
    except PyvpnError as error:
        raise click.ClickException(str(error)) from error
    order = [f"{name}{wire}" for wire in ("", WIRE) for name in NAMES]
    results.values = {each: results.values[each] for each in order if each in results.values}
    results.about["load after"] = " ".join(f"{each:.1f}" for each in os.getloadavg())
    click.echo(to_rst(results))
    for path in _write(results, into):
        click.echo(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
