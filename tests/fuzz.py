"""Throw changed bytes at everything that reads bytes: ``python -m tests.fuzz NAME --runs N``.

The same seed tries the same bytes.  With ``--atheris`` the bytes are chosen by what they reach
in the program, for as long as one likes (``pip install atheris``); what it finds it writes to a
file, which ``--input`` tries again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import count
from pathlib import Path

from tests.fuzz_targets import TARGETS, Target

INTERESTING = bytes((0, 1, 4, 15, 16, 20, 40, 0x45, 0x60, 127, 128, 255))
LONGEST = 4096


def changed(dice: random.Random, corpus: list[bytes], tokens: list[bytes]) -> bytes:
    """Return one of *corpus* with one to four changes."""
    bits = dice.getrandbits
    data = bytearray(corpus[bits(16) % len(corpus)])
    for _ in range(1 + bits(2)):
        size = len(data)
        at = bits(16) % (size + 1)
        how = bits(3)
        if how == 0:
            del data[at:]
        elif how == 1:
            del data[at : at + 1 + bits(4)]
        elif how == 2:
            data[at:at] = dice.randbytes(1 + bits(5))
        elif how == 3:
            data[at:at] = tokens[bits(16) % len(tokens)]
        elif how == 4:
            token = tokens[bits(16) % len(tokens)]
            data[at : at + len(token)] = token
        elif how == 5:
            other = corpus[bits(16) % len(corpus)]
            data[at:] = other[bits(16) % (len(other) + 1) :]
        elif at < size:
            data[at] = (
                INTERESTING[bits(16) % len(INTERESTING)] if how == 6 else data[at] ^ (1 << bits(3))
            )
    return bytes(data[:LONGEST])


class Broken(Exception):
    """A promise was broken by some bytes."""

    def __init__(self, number: int, data: bytes) -> None:
        super().__init__(f"at try {number}, by {data.hex()}")
        self.number = number
        self.data = data


def fuzz(target: Target, runs: int, seed: int) -> None:
    """Try *runs* inputs, the corpus itself first.

    Raises:
        Broken: one of them broke a promise; its cause is what was raised.
    """
    for number, data in enumerate(_inputs(target, runs, seed)):
        try:
            target.run(data, number)
        except Exception as error:
            raise Broken(number, data) from error


def _inputs(target: Target, runs: int, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    corpus, tokens = target.corpus, target.tokens
    for number in range(runs):
        yield corpus[number] if number < len(corpus) else changed(dice, corpus, tokens)


def try_target(name: str, runs: int, seed: int) -> tuple[bool, str]:
    """Fuzz one target; return whether it held, and what there is to say."""
    start = time.process_time()
    try:
        fuzz(TARGETS[name](), runs, seed)
    except Broken as broken:
        shown = "".join(traceback.format_exception(broken))
        return False, f"{shown}{name}, seed {seed}: {broken}\n"
    return True, f"{name}: {runs} tries, {time.process_time() - start:.1f} s\n"


def with_atheris(name: str, folder: Path, arguments: list[str]) -> None:
    """Let atheris choose the bytes, beginning with the corpus; ends with the process only."""
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["pyvpn"]):
        for module in [each for each in sys.modules if each.split(".")[0] in ("pyvpn", "tests")]:
            del sys.modules[module]  # and read them again, instrumented
        target: Target = import_module("tests.fuzz_targets").TARGETS[name]()
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(target.corpus):
        (folder / f"corpus-{number}").write_bytes(data)
    numbers = count()
    atheris.Setup(
        [sys.argv[0], *arguments, str(folder)], lambda data: target.run(data, next(numbers))
    )
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*TARGETS, "all"], metavar="NAME")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="try the bytes in this file only")
    parser.add_argument(
        "--atheris",
        type=Path,
        metavar="FOLDER",
        help="keeps what it has learned in FOLDER; the options that are left are its own",
    )
    options, rest = parser.parse_known_args(arguments)
    names = list(TARGETS) if "all" in options.names else options.names
    if options.atheris is not None:
        with_atheris(names[0], options.atheris, rest)
    elif rest:
        parser.error(f"what is {rest[0]}?")
    if options.input is not None:
        target, data = TARGETS[names[0]](), options.input.read_bytes()
        for number in range(64):  # in every way that a target has
            target.run(data, number)
        return 0
    jobs = [(name, options.runs, options.seed) for name in names]
    held = True
    with ProcessPoolExecutor() as pool:
        for well, said in pool.map(try_target, *zip(*jobs, strict=True)):
            sys.stdout.write(said)
            held = held and well
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
