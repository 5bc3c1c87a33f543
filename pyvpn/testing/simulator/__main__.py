"""Tell chaos stories on a simulated network, and judge them.

A client of ours and a stock WireGuard app move data with hashes through one server, while a seed
decides what goes wrong, several things at a time; then all is well, and must soon look like that.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from pyvpn.testing.simulator.chaos import (
    FINISHED,
    HEARD,
    NAMES,
    UDP_AGAIN,
    Chaos,
    Verdict,
)
from pyvpn.testing.simulator.mishaps import Kind

_HELP = f"""\
what is judged, once the last mishap is over:
  packets pass both ways within {HEARD["native"]:.0f} s (stock: {HEARD["stock"]:.0f} s)
  ours go by UDP again within {UDP_AGAIN:.0f} s
  no connection inside the tunnel broke, and each hash is right, within {FINISHED:.0f} s
  nothing came out of a tunnel that did not go in, nor twice; nobody's address changed
  nothing has grown: sessions, peers, connections, timers; no bug was logged

what can happen:
  {f"{chr(10)}  ".join(each.value for each in Kind)}

Time is simulated: five minutes take some seconds.  The same seed is the same story to the byte,
which --again checks; so the seed and the minutes are all that one needs to look at it again.

Exit status: 0 all is well, 1 something is not, 2 the command line is wrong.

  python -m pyvpn.testing.simulator --seed 7
  python -m pyvpn.testing.simulator --seed 1 --runs 100 --quiet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyvpn.testing.simulator",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="decides everything (1)")
    parser.add_argument(
        "--runs", type=_positive(int), default=1, help="so many stories, from that seed on (1)"
    )
    parser.add_argument(
        "--minutes", type=_positive(float), default=5.0, help="for which things go wrong (5)"
    )
    parser.add_argument(
        "--again", action="store_true", help="tell each story twice, and compare all the bytes"
    )
    parser.add_argument("--quiet", action="store_true", help="a line for each story that is well")
    options = parser.parse_args(arguments)
    bad = []
    for seed in range(options.seed, options.seed + options.runs):
        verdict = _told(seed, options.minutes, options.again)
        if options.quiet and verdict.is_good:
            print(_line(verdict), flush=True)
        else:
            _print(verdict)
        if not verdict.is_good:
            bad.append(seed)
    if options.runs > 1:
        print(f"{options.runs} stories, {len(bad)} of them bad" + (f": {bad}" if bad else ""))
    return 1 if bad else 0


def _told(seed: int, minutes: float, again: bool) -> Verdict:
    began = time.process_time()
    verdict = Chaos(seed, minutes).tell()
    verdict.figures["all, processor time"] = f"{time.process_time() - began:.1f} s"
    if again and Chaos(seed, minutes).tell().digest != verdict.digest:
        verdict.problems.append("told again it was another story")
    return verdict


def _print(verdict: Verdict) -> None:
    print(f"Story of seed {verdict.seed}, {verdict.seconds:.0f} s of network time:")
    for mishap in verdict.mishaps:
        print(f"  {mishap.told(NAMES)}")
    print("Measured:")
    for what, value in verdict.figures.items():
        print(f"  {what}: {value}")
    for problem in verdict.problems:
        print(f"BAD: {problem}")
    print(_line(verdict), flush=True)


def _line(verdict: Verdict) -> str:
    word = "well" if verdict.is_good else "BAD"
    figures = verdict.figures
    back = ", ".join(f"{name} back in {figures.get(f'{name}, back after', '?')}" for name in NAMES)
    moved = " and ".join(figures.get(f"{name}, transfers", "?") for name in NAMES)
    return (
        f"seed {verdict.seed}: {word}; {len(verdict.mishaps)} mishaps of {verdict.kinds} kinds, "
        f"{back}; transfers: {moved}; trace {verdict.digest}"
    )


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = kind(text)
        if not number > 0 or number == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return number

    read.__name__ = "number"
    return read


if __name__ == "__main__":
    sys.exit(main())
