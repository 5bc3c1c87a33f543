"""A cable of the lab that can be made bad while it is in use: slow, lossy, late, cut.

For kernels without ``netem``, as of containers and small virtual machines. The cable is two TAP
devices, one in each namespace, and a program that carries Ethernet frames from one to the other:

::

    router [ wan ] ===== this program ===== [ home ] internet
              up -------------------------------->
              <------------------------------ down

:meth:`pyvpn.testing.lab.Lab.add_box` puts it in the place of a cable; :class:`Box` is how tests
talk to it; ``python -m pyvpn.testing.box --help`` tells how to talk to it by hand.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from pyvpn.errors import ConfigError, HostError, PyvpnError
from pyvpn.testing import sandbox
from pyvpn.testing.line import NAMES, Faults, Line
from pyvpn.testing.namespace import stop

DIRECTIONS = ("up", "down")
PATIENCE = 10.0  # seconds within which the program answers

_BATCH = 64  # frames read from one side before the other has its turn
_LONGEST = 65_536
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_REQUEST = struct.Struct("16sH22x")  # struct ifreq: name, flags, padding
_BUSY = frozenset({errno.EAGAIN, errno.EIO, errno.ENOBUFS, errno.ENOMEM})  # EIO: set down

_HELP = """\
It makes the TAP device INTERFACE in each of the two network namespaces (in which no interface may
have that name yet) and carries frames between them until its input ends or it gets SIGTERM.
Addresses and routes are up to you, as with any cable: ip -n NAMESPACE address add ...

Each line of input is a JSON object: what is wrong from now on. "up" is from the first end to the
second, "down" the other way, "both" is both; what is not named stays as it was:

  {"both": {"delay_ms": 25, "jitter_ms": 5}}        rtt 50 ms more, give or take 10
  {"down": {"rate_bps": 5e6, "queue_ms": 200}}      5 Mbit/s, drop-tail queue of 200 ms
  {"up": {"loss_percent": 1}, "down": {"cut": true}}
  {"both": null}                                    nothing is wrong any more
  {}                                                just tell me

and is answered by one: what is set and what became of the packets, or {"error": "..."}, with
which nothing has changed.

faults, each 0 for none:
  delay_ms           each packet takes so much longer
  jitter_ms          varied by up to so much either way; packets keep their order
  rate_bps           bits (of IP packets) a second
  queue_ms           room in the queue before that, at that rate (200); drop-tail
  queue_bytes        ... in bytes instead
  loss_percent       lost by chance
  duplicate_percent  come twice
  reorder_percent    held back by reorder_ms (20), so that those behind overtake
  largest_bytes      larger IP packets vanish without a word
  cut                true: nothing passes; the link stays up

in the lab:
  python -m pyvpn.testing.box router:wan internet:home --set '{"both": {"delay_ms": 25}}'
"""


def read_command(line: str, faults: Mapping[str, Faults]) -> dict[str, Faults]:
    """Return *faults* by direction as a line of input changes them.

    Raises:
        ConfigError: it makes no sense; the text says what does.
    """
    try:
        command = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({error}): {line.strip()[:80]!r}") from error
    if not isinstance(command, dict):
        raise ConfigError('write an object, such as {"both": {"delay_ms": 25}}')
    changed = dict(faults)
    for way, changes in command.items():
        if way not in (*DIRECTIONS, "both"):
            hint = f': write {{"both": {{"{way}": ...}}}}' if way in NAMES else ""
            raise ConfigError(f"no direction is called {way!r}, but up, down and both{hint}")
        if not isinstance(changes, dict | None):
            raise ConfigError(f"{way} = {changes!r}: write an object of faults, or null for none")
        for direction in DIRECTIONS if way == "both" else (way,):
            changed[direction] = (
                Faults() if changes is None else changed[direction].changed(changes)
            )
    return changed


def open_tap(namespace: str, interface: str) -> int:
    """Make the TAP *interface* in *namespace*, set up, and return its non-blocking descriptor.

    Raises:
        HostError: the kernel refused; the text says what and why.
    """
    path = Path("/run/netns", namespace)
    try:
        with path.open() as there, open("/proc/thread-self/ns/net") as home:
            sandbox.setns(there.fileno())
            try:
                fd = os.open(sandbox.TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            finally:
                sandbox.setns(home.fileno())
    except OSError as error:
        problem = sandbox.tun_problem() if path.exists() else ""
        why = problem or f"{error}; the namespaces are those of 'ip netns', in the sandbox"
        raise HostError(f"{namespace}:{interface}: {why}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(interface.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        why = str(error)
        if error.errno in (errno.EBUSY, errno.EINVAL):
            why = "an interface of that name is there: delete it, or choose another name"
        raise HostError(f"{namespace}:{interface}: {why}") from error
    return fd


class Carrier:
    """Carries frames between two TAPs, each direction over a :class:`Line`, until it is told."""

    def __init__(self, near: int, far: int, seed: int | None = None) -> None:
        self.lines = {
            way: Line(Random(None if seed is None else f"{seed} {way}"))  # noqa: S311 - no secret
            for way in DIRECTIONS
        }
        self._ways = (
            (near, far, self.lines["up"]),
            (far, near, self.lines["down"]),
        )
        self._input = b""

    def run(self, commands: int, answers: int) -> None:
        """Carry until *commands* ends; raises OSError when a device was deleted under us."""
        while True:
            due = [when for _, _, line in self._ways if (when := line.due()) is not None]
            wait = max(0.0, min(due) - time.monotonic()) if due else None
            # select and not epoll, which rounds the time up to a whole millisecond
            ready = select.select([*(way[0] for way in self._ways), commands], [], [], wait)[0]
            for source, _, line in self._ways:
                if source in ready:
                    self._take(source, line)
            if commands in ready and not self._command(commands, answers):
                return
            for _, target, line in self._ways:
                for frame in line.leave(time.monotonic()):
                    try:
                        os.write(target, frame)
                    except OSError as error:
                        if error.errno not in (*_BUSY, errno.EINVAL):
                            raise
                        line.counts["refused"] += 1

    def change(self, command: str) -> None:
        """Do what a line of input says; raises ConfigError."""
        wanted = read_command(command, {way: line.faults for way, line in self.lines.items()})
        for way, faults in wanted.items():
            self.lines[way].change(faults, time.monotonic())

    def tell(self) -> dict[str, dict[str, object]]:
        """Return, by direction, what is set other than usual and what became of the packets."""
        usual = Faults()
        return {
            way: {
                "set": {
                    name: value
                    for name in NAMES
                    if (value := getattr(line.faults, name)) != getattr(usual, name)
                },
                "waiting_bytes": line.waiting_bytes,
                **line.counts,
            }
            for way, line in self.lines.items()
        }

    @staticmethod
    def _take(source: int, line: Line) -> None:
        for _ in range(_BATCH):
            try:
                frame = os.read(source, _LONGEST)
            except OSError as error:
                if error.errno in _BUSY:
                    return
                raise
            line.enter(frame, time.monotonic())

    def _command(self, commands: int, answers: int) -> bool:
        """Read and answer; False at the end of input."""
        if not (data := os.read(commands, _LONGEST)):
            return False
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            answer: Mapping[str, object]
            try:
                self.change(line.decode(errors="replace"))
                answer = self.tell()
            except ConfigError as error:
                answer = {"error": str(error)}
            os.write(answers, json.dumps(answer).encode() + b"\n")
        return True


class Box:
    """The running program, as a test sees it: set what is wrong, read what became of packets.

    ``with``-less: whoever starts it calls :meth:`close`; the lab does. It dies with us anyway.

    Raises:
        HostError: it could not start; the text has its words.
    """

    def __init__(self, near: str, far: str, seed: int | None = None) -> None:
        program = [sys.executable, "-m", "pyvpn.testing.box", near, far]
        if seed is not None:
            program += ["--seed", str(seed)]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=sandbox.environment(),
        )
        try:
            self._ask(None)
        except HostError:
            self.close()
            raise

    def set(self, direction: str = "both", /, **faults: float | bool) -> None:
        """Have *faults* (names as in :class:`Faults`) from now on; others stay as they are."""
        self._ask({direction: faults})

    def clear(self, direction: str = "both", /) -> None:
        """Have nothing wrong any more."""
        self._ask({direction: None})

    def counts(self, direction: str) -> dict[str, int]:
        """Return what became of the packets of one direction so far, by reason.

        Also ``entered``, ``left``, ``bytes`` (that left) and ``waiting_bytes`` (just now).
        """
        told = self._ask({})[direction]
        return {name: int(value) for name, value in told.items() if name != "set"}

    def close(self) -> None:
        """End the program and, with it, the cable; repeatable."""
        stop(self.process)
        for pipe in self.process.stdin, self.process.stdout, self.process.stderr:
            assert pipe is not None
            with suppress(BrokenPipeError):  # of what it did not read any more
                pipe.close()

    def _ask(self, command: object) -> dict[str, dict[str, int]]:
        """Put a command (None: none, it is about to greet us) and return the answer."""
        pipes = self.process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        assert pipes.stderr is not None
        if pipes.stdin.closed:
            raise HostError("the box is closed")
        if command is not None:
            with suppress(BrokenPipeError):  # its last words are read below
                pipes.stdin.write(json.dumps(command) + "\n")
                pipes.stdin.flush()
        if not select.select([pipes.stdout], [], [], PATIENCE)[0]:
            raise HostError(f"the box did not answer within {PATIENCE:g} s")
        if not (line := pipes.stdout.readline()):
            raise HostError(f"the box has ended: {pipes.stderr.read().strip()}")
        answer: dict[str, dict[str, int]] = json.loads(line)
        if "error" in answer:
            raise ConfigError(str(answer["error"]))
        return answer


def _end(text: str) -> tuple[str, str]:
    """Read NAMESPACE:INTERFACE from the command line."""
    namespace, colon, interface = text.partition(":")
    if not (colon and namespace and 0 < len(interface) <= 15) or "/" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAMESPACE:INTERFACE, such as router:wan (15 letters at most)"
        )
    return namespace, interface


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyvpn.testing.box",
        description=__doc__.split("\n\n")[0],
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("near", type=_end, metavar="NAMESPACE:INTERFACE", help="the first end")
    parser.add_argument("far", type=_end, metavar="NAMESPACE:INTERFACE", help="the second end")
    parser.add_argument("--set", metavar="JSON", default="{}", help="a first line of input")
    parser.add_argument("--seed", type=int, help="of chance: the same packets, the same fate")
    options = parser.parse_args(arguments)
    try:
        read_command(options.set, {way: Faults() for way in DIRECTIONS})
        carrier = Carrier(open_tap(*options.near), open_tap(*options.far), options.seed)
        carrier.change(options.set)
        print(json.dumps(carrier.tell()), flush=True)
        carrier.run(sys.stdin.fileno(), sys.stdout.fileno())
    except OSError as error:
        if error.errno == errno.EPIPE:  # nobody reads our answers any more
            return 0
        print(f"an interface was deleted: {error}", file=sys.stderr)
        return 1
    except PyvpnError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
