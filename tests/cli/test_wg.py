"""``pyvpn wg`` up to the moment where it becomes the device; tests/live has the rest."""

from __future__ import annotations

import os
import sys

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.cli import main
from pyvpn.errors import HostError

# The name pyvpn.cli.wg means the command by now.
module = sys.modules["pyvpn.cli.wg"]


class WgTests(SynchronousTestCase):
    """Arguments and environment."""

    def setUp(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.patch(module, "_be", lambda name: self.done.append(("foreground", name)))
        self.patch(module, "_start_daemon", lambda name: self.done.append(("daemon", name)))
        self.patch(os, "environ", {})

    def run_wg(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["wg", *words])

    def test_daemon(self) -> None:
        """One argument, as wg-quick gives it, makes a daemon."""
        self.assertEqual(0, self.run_wg("wg0").exit_code)
        self.assertEqual([("daemon", "wg0")], self.done)

    def test_foreground(self) -> None:
        """Either option, or wireguard-go's variable, keeps it in the foreground."""
        for words in ("-f", "wg0"), ("--foreground", "wg0"):
            self.assertEqual(0, self.run_wg(*words).exit_code)
        os.environ["WG_PROCESS_FOREGROUND"] = "0"
        self.run_wg("wg1")
        os.environ["WG_PROCESS_FOREGROUND"] = "1"
        self.run_wg("wg2")

        self.assertEqual(
            [("foreground", "wg0")] * 2 + [("daemon", "wg1"), ("foreground", "wg2")], self.done
        )

    def test_longest_name(self) -> None:
        """A name has at most 15 characters."""
        self.assertEqual(0, self.run_wg("a" * 15).exit_code)
        self.assertEqual(1, self.run_wg("a" * 16).exit_code)

    def test_no_name(self) -> None:
        """What can be no interface's name, or would lead elsewhere, is refused in one line."""
        for name in ("", ".", "..", "a/b", "../wg0", "a b", "a\nb", "wg:0", "wg\0", "wgé"):
            result = self.run_wg(name)
            self.assertEqual((1, 1), (result.exit_code, result.output.count("\n")), name)
            self.assertIn("cannot be an interface", result.output)
        self.assertEqual([], self.done)

    def test_wrong_arguments(self) -> None:
        """No name, or two, are a mistake in usage."""
        self.assertEqual(2, self.run_wg().exit_code)
        self.assertEqual(2, self.run_wg("wg0", "wg1").exit_code)

    def test_what_went_wrong(self) -> None:
        """What keeps it from starting is said in one line."""

        def fail(name: str) -> None:
            raise HostError(f"no {name} for you")

        self.patch(module, "_start_daemon", fail)
        result = self.run_wg("wg0")

        self.assertEqual((1, "Error: no wg0 for you\n"), (result.exit_code, result.output))

    def test_help(self) -> None:
        """The help shows how to use it by hand and with wg-quick."""
        shown = self.run_wg("-h").output
        for words in "wg set wg0", "WG_QUICK_USERSPACE_IMPLEMENTATION=pyvpn-wg", "LOG_LEVEL":
            self.assertIn(words, shown)


class ScriptTests(SynchronousTestCase):
    """The console script ``pyvpn-wg``."""

    def run_script(self, *words: str) -> object:
        self.patch(sys, "argv", ["pyvpn-wg", *words])
        try:
            module.main()
        except SystemExit as end:
            return end.code
        return None

    def test_errors(self) -> None:
        """They are said as by ``pyvpn wg``, with the same status."""
        self.patch(module, "_start_daemon", self.fail_to_start)
        self.assertEqual("Error: not today", self.run_script("wg0"))
        self.assertIn("cannot be an interface", str(self.run_script("a/b")))
        errors = self.patch(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115 - restored below
        self.addCleanup(sys.stderr.close)
        self.assertEqual(2, self.run_script())
        errors.restore()

    def test_started(self) -> None:
        """All is well: the script returns."""
        started: list[str] = []
        self.patch(module, "_start_daemon", started.append)
        self.assertEqual(None, self.run_script("wg0"))
        self.assertEqual(["wg0"], started)

    @staticmethod
    def fail_to_start(name: str) -> None:
        raise HostError("not today")
