"""What the sandbox says when something is missing: before anything starts, with the cure."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError, Misuse
from pyvpn.testing import sandbox


class ToolTests(SynchronousTestCase):
    """System tools that are not here."""

    def setUp(self) -> None:
        self.tools = Path(self.mktemp())
        self.tools.mkdir()
        self.patch(sandbox, "environment", lambda: {"PATH": str(self.tools)})

    def install(self, name: str) -> None:
        """Put a program *name* on the path."""
        program = self.tools / name
        program.touch(mode=0o755)

    def test_all_there(self) -> None:
        """With every tool at hand nothing is said."""
        for name in sandbox.LAB_TOOLS:
            self.install(name)
        self.assertEqual([], sandbox.missing_tools())
        sandbox.check_tools()

    def test_missing_ones_are_named_with_their_packages(self) -> None:
        """All that is missing is named at once, and one line installs it."""
        self.install("ip")
        self.install("curl")
        error = self.assertRaises(HostError, sandbox.check_tools, ["ip", "nft", "ping", "curl"])
        self.assertEqual(
            "missing: nft (package nftables), ping (package iputils-ping). "
            "On Debian and Ubuntu: sudo apt-get install iputils-ping nftables",
            str(error),
        )


class EnvironmentTests(SynchronousTestCase):
    """What programs in the lab find."""

    def test_our_own_python_first(self) -> None:
        """``python`` and ``twistd`` in the lab are those of the environment that runs the lab."""
        first = sandbox.environment()["PATH"].split(os.pathsep)[0]
        self.assertEqual(os.path.dirname(sys.executable), first)

    def test_sbin_is_searched(self) -> None:
        """``nft`` is found by an ordinary user of Debian, whose path has no sbin."""
        self.patch(os, "environ", {"PATH": "/bin"})
        self.assertIn("/usr/sbin", sandbox.environment()["PATH"].split(os.pathsep))


class TunTests(SynchronousTestCase):
    """A TUN device that cannot be opened."""

    def test_absent(self) -> None:
        """Without the device, its module and the container's option are named."""
        self.patch(sandbox, "TUN_DEVICE", Path(self.mktemp()))
        problem = sandbox.tun_problem() or ""
        self.assertIn("does not exist", problem)
        self.assertIn("modprobe tun", problem)

    def test_forbidden(self) -> None:
        """A device that is closed to us is shown with its mode and the way to open it."""
        closed = Path(self.mktemp())
        closed.touch(mode=0o600)
        self.patch(sandbox, "TUN_DEVICE", closed)
        self.patch(os, "open", refuse)
        problem = sandbox.tun_problem() or ""
        self.assertIn("its mode is 0600", problem)
        self.assertIn(f"sudo chmod 0666 {closed}", problem)

    def test_usable(self) -> None:
        """Nothing is said about a device that opens."""
        usable = Path(self.mktemp())
        usable.touch()
        self.patch(sandbox, "TUN_DEVICE", usable)
        self.assertIsNone(sandbox.tun_problem())


def refuse(*arguments: object) -> int:
    """Stand in for an open that the kernel forbids: root would be let through."""
    raise PermissionError(13, "Permission denied")


class EnterTests(SynchronousTestCase):
    """Entering when it cannot be done."""

    def test_with_threads(self) -> None:
        """A process with threads is refused: they would stay in the host's network."""
        self.patch(sandbox, "_entered", None)
        leave = threading.Event()
        thread = threading.Thread(target=leave.wait)
        thread.start()
        try:
            self.assertRaises(Misuse, sandbox.enter)
        finally:
            leave.set()
            thread.join()

    def test_forbidden(self) -> None:
        """Where the kernel allows no namespaces, the text says what would."""
        self.patch(sandbox, "_entered", None)
        self.patch(os, "listdir", lambda path: ["one thread"])
        self.patch(sandbox, "_unshare", refuse)
        error = self.assertRaises(HostError, sandbox.enter)
        self.assertIn("no namespaces for the lab", str(error))
        self.assertIn("run it as root", str(error))
