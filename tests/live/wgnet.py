"""WireGuard interfaces in namespaces: ours, wireguard-go's, and the three hosts of netns.sh.

The sockets that ``wg`` uses are files, which all namespaces of the sandbox share: an interface's
name must be the only one of its kind.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from pyvpn.net.uapi_socket import DIRECTORY
from pyvpn.testing import sandbox
from pyvpn.testing.namespace import Namespace, ip, last_lines, stop

# Installed or not: the scripts pyvpn-wg and pyvpn do nothing else.
SCRIPT = ("python", "-c", "from pyvpn.cli.wg import main; main()")
COMMAND = ("python", "-c", "from pyvpn.cli import main; main()", "wg")
OURS = (*SCRIPT, "-f")
GO = ("env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "-f")
PATIENCE = 10.0


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until that is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def key_pair() -> tuple[str, str]:
    """Return a private key and its public one, as ``wg`` writes them."""
    private = run_wg("genkey").strip()
    return private, run_wg("pubkey", input=private).strip()


def run_wg(*arguments: str, input: str | None = None, check: bool = True) -> str:
    """Run ``wg`` and return what it says."""
    ended = subprocess.run(
        ["wg", *arguments],
        input=input,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**sandbox.environment(), "WG_HIDE_KEYS": "never"},
    )
    assert not check or ended.returncode == 0, f"wg {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout


class Interface:
    """One WireGuard interface and the program behind it, made in *birthplace*.

    Its UDP sockets stay there when the interface is moved.
    """

    def __init__(
        self,
        folder: Path,
        birthplace: Namespace,
        name: str,
        program: tuple[str, ...] = OURS,
    ) -> None:
        sandbox.check_tools(["wg", "wireguard-go"])
        self.name = name
        self.place = birthplace
        self.log = folder / f"{name}.log"
        self.socket = DIRECTORY / f"{name}.sock"
        self._folder = folder
        self._program = program
        assert not self.socket.exists(), f"{self.socket} is left of an earlier interface"
        self.process = birthplace.start(["env", "LOG_LEVEL=error", *program, name], self.log)
        self.private, self.public = key_pair()
        wait_until(lambda: self._is_ready() or self.process.poll() is not None)
        assert self.process.poll() is None, last_lines(self.log)

    def _is_ready(self) -> bool:
        link = self.place.run(["ip", "link", "show", self.name], check=False)
        return link.returncode == 0 and self.socket.exists()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.process.kill()
            self.process.wait()
            self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End the program, and look whether it left in order."""
        if self.process.poll() is None:
            assert stop(self.process) == 0, last_lines(self.log)
        self.check_gone()

    def check_gone(self) -> None:
        """Look whether the program ended in order, saying nothing, and left nothing."""
        wait_until(lambda: self.process.poll() is not None, 5)
        assert self.process.returncode == 0, last_lines(self.log)
        assert not self.socket.exists()
        assert self.name not in self.place.run(["ip", "-br", "link"]).stdout
        if "wireguard-go" not in self._program:  # which notes each refused request
            assert self.log.read_text() == ""

    def wg(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """Run ``wg`` with these arguments."""
        return run_wg(*arguments, input=input, check=check)

    def set(self, *arguments: str) -> None:
        """Run ``wg set`` for this interface."""
        self.wg("set", self.name, *arguments)

    def set_key(self, private: str) -> None:
        """Give it that private key."""
        self.set("private-key", self.file("private", private))

    def file(self, name: str, text: str) -> str:
        """Write *text* to a file and return its path, as ``wg`` wants its keys."""
        path = self._folder / f"{self.name}-{name}"
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return str(path)

    def show(self, what: str) -> list[list[str]]:
        """Return the words of each line of ``wg show``."""
        return [line.split() for line in self.wg("show", self.name, what).splitlines()]

    def transfer(self) -> tuple[int, int]:
        """Return the bytes received from and sent to the only peer."""
        ((_, received, sent),) = self.show("transfer")
        return int(received), int(sent)

    def endpoint(self) -> str:
        """Return where the only peer is."""
        ((_, endpoint),) = self.show("endpoints")
        return endpoint

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` where the interface is."""
        return ip("-n", self.place.name, *arguments)

    def address(self, *addresses: str) -> None:
        """Give the interface addresses."""
        for address in addresses:
            self.ip("address", "add", address, "dev", self.name, "nodad")

    def up(self, mtu: int | None = None) -> None:
        """Set it up, and wait until the program knows."""
        self.ip("link", "set", self.name, "up", *(() if mtu is None else ("mtu", str(mtu))))
        wait_until(lambda: self.show("listen-port") != [["0"]])

    def move(self, place: Namespace) -> None:
        """Move the interface to another namespace, where it is down and has no address."""
        self.ip("link", "set", self.name, "netns", place.name)
        self.place = place

    def ping(self, address: str, *options: str, count: int = 1) -> None:
        """Ping *address* from where the interface is; fail unless the pings are answered.

        Three seconds of patience are less than any second try of a handshake takes.
        """
        said = self._ping(address, "3", options, count)
        answered = len(re.findall(r"bytes from .* time=", said))
        # Once there are answers ping waits for the last one just twice as long as for the others.
        assert answered >= max(1, count - 1), said

    def reaches(self, address: str, *options: str) -> bool:
        """Tell whether *address* answers a ping within a second."""
        return " time=" in self._ping(address, "1", options, 1)

    def _ping(self, address: str, seconds: str, options: tuple[str, ...], count: int) -> str:
        command = ["ping", "-n", "-i", "0.01", "-c", str(count), "-W", seconds, *options, address]
        ended = self.place.run(command, check=False)
        return ended.stdout + ended.stderr


class Three:
    """The hosts of netns.sh: two with a tunnel's end each, and one whose network it runs over.

    ::

        +----- one ------+     +--------- between ----------+     +------ two -----+
        | wg interface   |-----| UDP ports 1 and 2 on lo    |-----| wg interface   |
        | 192.168.241.1  |     | 127.0.0.1, ::1             |     | 192.168.241.2  |
        | fd00::1        |     +----------------------------+     | fd00::2        |
        +----------------+                                        +----------------+

    Both interfaces are made in the middle and moved: their ports stay there.
    """

    def __init__(
        self,
        folder: Path,
        make_namespace: Callable[[], Namespace],
        programs: tuple[tuple[str, ...], tuple[str, ...]] = (OURS, OURS),
    ) -> None:
        self.folder = folder
        self.between, self.home_one, self.home_two = (make_namespace() for _ in range(3))
        self._stack = ExitStack()
        self.one = self.add(self.between, "wgone", programs[0], self.home_one)
        self.two = self.add(self.between, "wgtwo", programs[1], self.home_two)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.__exit__(*about)  # type: ignore[arg-type]  # as they were given to us

    def add(
        self,
        birthplace: Namespace,
        name: str,
        program: tuple[str, ...] = OURS,
        home: Namespace | None = None,
    ) -> Interface:
        """Make one more interface, and move it if it has another *home*."""
        made = self._stack.enter_context(Interface(self.folder, birthplace, name, program))
        if home is not None:
            made.move(home)
        return made

    def configure(self, psk: bool = True) -> None:
        """Let both know each other, but not where the other is; set them up."""
        secret = run_wg("genpsk").strip()
        for here, there, number, other in (self.one, self.two, 1, 2), (self.two, self.one, 2, 1):
            here.address(f"192.168.241.{number}/24", f"fd00::{number}/112")
            here.set(
                *("private-key", here.file("private", here.private)),
                *("listen-port", str(number)),
                *("peer", there.public),
                *(("preshared-key", here.file("preshared", secret)) if psk else ()),
                *("allowed-ips", f"192.168.241.{other}/32,fd00::{other}/128"),
            )
            here.up()

    def meet(self, host: str = "127.0.0.1") -> None:
        """Tell both where the other is."""
        self.one.set("peer", self.two.public, "endpoint", f"{host}:2")
        self.two.set("peer", self.one.public, "endpoint", f"{host}:1")
