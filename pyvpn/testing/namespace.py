"""One network namespace of the sandbox: a host of the lab, with its own links and programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyvpn.errors import HostError
from pyvpn.testing import sandbox

# Everything about a namespace that our programs change and must put back.
STATE_COMMANDS = (
    "ip -br link",
    "ip -br address",
    "ip -4 rule",
    "ip -6 rule",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "nft list ruleset",
)
SYSCTLS = ("ipv4/ip_forward", "ipv4/conf", "ipv6/conf")


class Namespace:
    """A named network namespace, empty but for ``lo``, which is up.

    Only inside the sandbox: :func:`pyvpn.testing.sandbox.enter` comes first. ``close`` kills what
    still runs here and removes the namespace.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns", name)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def argv(self, program: Sequence[str]) -> list[str]:
        """Return the command line that runs *program* here and dies with us, even on kill -9.

        Each step replaces the one before (exec), so the process id is the program's own.
        ``setpriv`` instead of a ``preexec_fn``: no Python runs between fork and exec.
        ``nsenter`` instead of ``ip netns exec``: that mounts /sys, which containers forbid.
        """
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("nsenter", f"--net={self.path}", "--"),
            *program,
        ]

    def run(
        self,
        program: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *program* here to its end and return what it said (as text).

        Raises:
            HostError: with *check*, if it failed or took longer than *timeout* seconds; the
                text has the command and what it wrote.
        """
        try:
            ended = subprocess.run(
                self.argv(program),
                capture_output=True,
                text=True,
                timeout=timeout,
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                check=False,
                env=sandbox.environment(),
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(
                f"{self.name}: '{' '.join(program)}' did not end within {timeout:g} s"
            ) from error
        if check and ended.returncode != 0:
            said = (ended.stderr or ended.stdout).strip()
            raise HostError(
                f"{self.name}: '{' '.join(program)}' ended with {ended.returncode}: {said}"
            )
        return ended

    def start(self, program: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start *program* here, its output appended to *log*; ``pid`` is the program's own."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.argv(program),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is for us: we end it in order
                env=sandbox.environment(),
            )

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be here with the calling thread: sockets opened meanwhile belong here for good."""
        with open("/proc/thread-self/ns/net") as home, self.path.open() as there:
            sandbox.setns(there.fileno())
            try:
                yield
            finally:
                sandbox.setns(home.fileno())

    def state(self) -> dict[str, str]:
        """Return links, addresses, rules, routes, nft tables and sysctls, to compare with later.

        Two equal answers mean that a program run in between left nothing behind.
        """
        found = {command: self.run(command.split()).stdout for command in STATE_COMMANDS}
        with self.inside():
            for name in SYSCTLS:
                top = Path("/proc/sys/net", name)
                for path in [top] if top.is_file() else sorted(top.rglob("*")):
                    with suppress(OSError):  # a few are write-only; stable_secret, if unset
                        if path.is_file():
                            found[str(path)] = path.read_text().strip()
        return found

    def processes(self) -> list[int]:
        """Return the ids of the processes here, ours or somebody's grandchildren."""
        return [int(word) for word in ip("netns", "pids", self.name).split()]

    def close(self) -> None:
        """Kill what runs here and remove the namespace with all its links."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ip("netns", "delete", self.name)


def ip(*arguments: str, script: str | None = None) -> str:
    """Run iproute2's ``ip``, with *script* (lines for ``-batch``) if given; return its output.

    Raises:
        HostError: it failed; the text has its own words.
    """
    command = ["ip", *arguments] if script is None else ["ip", *arguments, "-batch", "-"]
    ended = subprocess.run(
        command,
        input=script or "",
        capture_output=True,
        text=True,
        check=False,
        env=sandbox.environment(),
    )
    if ended.returncode != 0:
        raise HostError(f"'{' '.join(command)}' failed: {ended.stderr.strip()}")
    return ended.stdout


def stop(process: subprocess.Popen[Any], timeout: float = 5) -> int:
    """End *process* by SIGTERM and return its exit status; kill it after *timeout* seconds.

    A killed one gives ``-9``, so a caller that expects 0 notices.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return int(process.returncode)


def wait_for_line(
    log: Path, pattern: str, timeout: float = 10, process: subprocess.Popen[bytes] | None = None
) -> re.Match[str]:
    """Wait until a line of *log* matches *pattern* (searched, multi-line) and return the match.

    Raises:
        HostError: not within *timeout* seconds, or *process* ended first; with the log's end.
    """
    deadline = time.monotonic() + timeout
    while True:
        ended = process is not None and process.poll() is not None  # before the last look
        text = log.read_text(errors="replace") if log.exists() else ""
        if match := re.search(pattern, text, re.MULTILINE):
            return match
        if ended or time.monotonic() > deadline:
            why = "the program ended" if ended else f"{timeout:g} s passed"
            raise HostError(f"{log}: {why} without '{pattern}'. It ends:\n{last_lines(log)}")
        time.sleep(0.02)


def last_lines(log: Path, count: int = 15) -> str:
    """Return the end of *log*, for a message; empty if there is no such file."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
