"""The ``pyvpn`` command as a process: its help, a terminal, a closed input."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pyvpn
from pyvpn.store.passwords import verify_password
from pyvpn.store.sqlite import Store
from tests.store.cases import StoreCase

PASSWORD = "correct horse"
SECONDS = 30.0  # a loaded machine is slow; nothing waits this long when all is well

# What a login shell does: the terminal becomes the one that /dev/tty means.
AT_TERMINAL = (
    "import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "from pyvpn.cli import main; main(prog_name='pyvpn')"
)
PIPED = "from pyvpn.cli import main; main(prog_name='pyvpn')"

# The tests run in a directory of their own, and perhaps without anything installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pyvpn.__file__).parent.parent)}


def command(program: str, *words: str) -> list[str]:
    """The command line of a Python that runs *program*."""
    return [sys.executable, "-c", program, *words]


class TerminalTests(StoreCase):
    """Somebody sits at a terminal."""

    def talk(self, *answers: str) -> tuple[int, str]:
        """Add anna, answering each question; return the exit code and all that was shown."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        words = ("user", "add", "anna", "--state-dir", str(self.directory))
        process = subprocess.Popen(
            command(AT_TERMINAL, *words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=ENVIRONMENT,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        os.close(theirs)
        shown = ""
        asked = 0
        while True:
            ready, _, _ = select.select([ours], [], [], SECONDS)
            self.assertTrue(ready, f"no end after {shown!r}")
            try:
                shown += os.read(ours, 4096).decode("utf-8")
            except OSError:  # EIO: the other side has closed
                return process.wait(SECONDS), shown
            if asked < len(answers) and shown.count(": ") > asked:
                os.write(ours, f"{answers[asked]}\n".encode())
                asked += 1

    def test_asked(self) -> None:
        """The password is asked for twice, and the terminal never shows it."""
        code, shown = self.talk(PASSWORD, PASSWORD)
        self.assertEqual(0, code, shown)
        self.assertIn("Password: ", shown)
        self.assertIn("Once more: ", shown)
        self.assertIn("User anna added.", shown)
        self.assertNotIn(PASSWORD, shown)
        [anna] = self.open().users()
        self.assertTrue(verify_password(anna.password_hash, PASSWORD))

    def test_short(self) -> None:
        """A short password is refused at the terminal as well, without a traceback."""
        code, shown = self.talk("short", "short")
        self.assertEqual(1, code)
        self.assertIn("take 8 or more", shown)
        self.assertNotIn("Traceback", shown)
        self.assertEqual([], self.open().users())


class ProcessTests(StoreCase):
    """The command in a script."""

    def run_command(self, *words: str, program: str = PIPED) -> subprocess.CompletedProcess[str]:
        """Run it to its end without any input."""
        return subprocess.run(
            command(program, *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=ENVIRONMENT,
        )

    def test_version(self) -> None:
        """It says which version it is."""
        done = self.run_command("--version")
        self.assertEqual((0, f"pyvpn {pyvpn.__version__}\n"), (done.returncode, done.stdout))

    def test_quickHelp(self) -> None:
        """Help comes without loading the hash, the database, the reactor or the configuration."""
        program = (
            f"import sys\ntry:\n    {PIPED.replace(';', '; ')}\nfinally:\n"
            "    print(sorted({'argon2', 'sqlite3', 'twisted', 'pyroute2', 'cryptography',"
            " 'configparser', 'asyncio', 'segno'} & set(sys.modules)))"
        )
        for words in (
            ["--help"],
            ["user", "--help"],
            ["user", "add", "--help"],
            ["device", "add", "--help"],
        ):
            done = self.run_command(*words, program=program)
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertIn("Usage: pyvpn", done.stdout)
            self.assertEqual("[]", done.stdout.splitlines()[-1])

    def test_closedInput(self) -> None:
        """Without any standard input the password counts as empty."""
        closed = f"import os, sys; os.close(0); sys.stdin = None; {PIPED}"
        done = self.run_command(
            "user", "add", "anna", "--state-dir", str(self.directory), program=closed
        )
        self.assertEqual(1, done.returncode)
        self.assertIn("no password: type it at a terminal", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_ourOwnBug(self) -> None:
        """Only our own mistakes show a traceback: those are for a report."""
        broken = (
            "import pyvpn.cli, pyvpn.errors, click\n"
            "@pyvpn.cli.main.command()\n"
            "def broken(): raise pyvpn.errors.Misuse('called wrongly')\n"
            "pyvpn.cli.main()"
        )
        done = self.run_command("broken", program=broken)
        self.assertEqual(1, done.returncode)
        self.assertIn("Traceback", done.stderr)

    def test_storeIsThere(self) -> None:
        """A script sees by the exit code whether it worked."""
        Store(self.path).close()
        state = ("--state-dir", str(self.directory))
        self.assertEqual(0, self.run_command("user", "list", *state).returncode)
        self.assertEqual(1, self.run_command("user", "remove", "anna", *state).returncode)
        self.assertEqual(2, self.run_command("user", "remove", *state).returncode)
