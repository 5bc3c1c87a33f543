"""``pyvpn device add`` as a process: a shell's ``> FILE``, a terminal, a full disk."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import stat
import struct
import subprocess
import termios
from typing import IO

from pyvpn.crypto.x25519 import key_from_base64, public_of
from tests.cli.devices import parse
from tests.cli.test_main import ENVIRONMENT, PIPED, SECONDS, command
from tests.store.cases import NOON, StoreCase


class ProcessCase(StoreCase):
    """A server's files with anna in them."""

    def setUp(self) -> None:
        super().setUp()
        store = self.open()
        store.add_user("anna", "hash", NOON)
        store.close()
        self.config = self.directory / "server.ini"
        self.config.write_text(
            f"[server]\nstate_dir = {self.directory}\n[tunnel]\nroutes = none\n"
        )
        self.words = ("device", "add", "anna", "phone", "--wireguard", "--config")

    def command(self, *words: str) -> list[str]:
        return command(PIPED, *self.words, str(self.config), *words)

    def assertKeyOf(self, text: str) -> None:
        """*text* is a file with the private key to what is on file."""
        private = key_from_base64(parse(text)["Interface"]["PrivateKey"])
        [device] = self.open().devices()
        self.assertEqual(public_of(private), device.public_key)


class RedirectedTests(ProcessCase):
    """Standard output is no terminal."""

    def run_to(self, output: IO[bytes], *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
            env=ENVIRONMENT,
        )

    def test_private(self) -> None:
        """The file that a shell has made for it is ours alone by the time there is a key in it."""
        path = self.directory / "wg0.conf"
        path.touch(0o644)
        path.chmod(0o644)
        with path.open("wb") as output:
            done = self.run_to(output)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertNotIn("█", done.stderr)
        self.assertKeyOf(path.read_text("utf-8"))

    def test_no_secret(self) -> None:
        """Without a secret in it the file's mode is the operator's business."""
        path = self.directory / "wg0.conf"
        path.touch(0o644)
        path.chmod(0o644)
        key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
        with path.open("wb") as output:
            done = self.run_to(output, "--public-key", key)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual(0o644, stat.S_IMODE(path.stat().st_mode))

    def test_full(self) -> None:
        """What cannot be printed is not put on file: nobody would have the key."""
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full here")
        with open("/dev/full", "wb") as output:
            done = self.run_to(output)
        self.assertEqual(1, done.returncode)
        self.assertIn("No space left on device: nothing was put on file", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual([], self.open().devices())

    def test_gone(self) -> None:
        """Neither is what a pipe does not take any more."""
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as output:
            done = self.run_to(output)
        self.assertEqual(1, done.returncode)
        self.assertIn("Broken pipe: nothing was put on file", done.stderr)
        self.assertEqual([], self.open().devices())


class TerminalTests(ProcessCase):
    """Somebody sits at a terminal, with a phone."""

    def shown(self, columns: int, *words: str) -> str:
        """All that was shown on a terminal so wide."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            self.command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        os.close(theirs)
        shown = b""
        while True:
            ready, _, _ = select.select([ours], [], [], SECONDS)
            self.assertTrue(ready, f"no end after {shown!r}")
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: the other side has closed
                break
        self.assertEqual(0, process.wait(SECONDS), shown)
        return shown.decode("utf-8").replace("\r\n", "\n")

    def test_drawn(self) -> None:
        """The file is shown, and a QR code, white on black whatever the terminal's colours."""
        shown = self.shown(100)
        file, _, _ = shown.partition("Device phone of anna is on file")
        self.assertKeyOf(file)
        drawn = [line for line in shown.splitlines() if "█" in line]
        self.assertLess(25, len(drawn))
        for line in drawn:
            self.assertTrue(line.startswith("\x1b[40;97m"), line)
            self.assertTrue(line.endswith("\x1b[0m"), line)

    def test_not_wanted(self) -> None:
        """It is not drawn for who says so."""
        self.assertNotIn("█", self.shown(100, "--no-qr"))

    def test_too_narrow(self) -> None:
        """A terminal in which it would be torn is told how wide it must be."""
        shown = self.shown(40)
        self.assertNotIn("█", shown)
        self.assertIn("columns, this terminal has 40", shown)

    def test_without_key(self) -> None:
        """Without a private key there is nothing to be scanned; that is said."""
        key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
        shown = self.shown(100, "--public-key", key)
        self.assertNotIn("█", shown)
        self.assertIn("No QR code: without the private key", shown)
