"""How the demonstration ends when a step fails."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.testing import demo, sandbox
from pyvpn.testing.lab import Lab


def broken(*arguments: object) -> None:
    """A step, or anything else that must not be reached or cannot be done."""
    raise HostError("the office does not answer")


class TellTests(SynchronousTestCase):
    """The story, with steps that work and steps that do not."""

    def setUp(self) -> None:
        self.said = io.StringIO()
        self.patch(sys, "stdout", self.said)
        self.lab = Lab()
        self.lab.folder = Path(self.mktemp())
        self.lab.folder.mkdir()
        self.done: list[str] = []

    def test_all_work(self) -> None:
        """Every step is gone through, in order."""
        steps = [lambda: self.done.append("first"), lambda: self.done.append("second")]
        self.assertTrue(demo.tell(steps, self.lab, demo.Stage()))
        self.assertEqual(["first", "second"], self.done)

    def test_one_fails(self) -> None:
        """After a failure nothing more is tried; the reason and the logs are shown."""
        (self.lab.folder / "server.log").write_text("address in use\n")
        steps = [broken, lambda: self.done.append("never")]
        self.assertFalse(demo.tell(steps, self.lab, demo.Stage()))
        self.assertEqual([], self.done)
        self.assertIn("the office does not answer", self.said.getvalue())
        self.assertIn("address in use", self.said.getvalue())

    def test_no_colour_in_a_file(self) -> None:
        """Colours are for terminals only."""
        demo.Stage().good("fine")
        self.assertEqual("    ok  fine\n", self.said.getvalue())


class TerminalTests(SynchronousTestCase):
    """Colour, on a terminal."""

    def setUp(self) -> None:
        self.said = io.StringIO()
        self.said.isatty = lambda: True  # type: ignore[method-assign]  # it plays a terminal
        self.patch(sys, "stdout", self.said)

    def test_colour(self) -> None:
        """A terminal gets colour."""
        self.patch(os, "environ", {})
        demo.Stage().good("fine")
        self.assertIn("\x1b[32mok\x1b[0m", self.said.getvalue())

    def test_no_color(self) -> None:
        """Unless the person asked for none (https://no-color.org)."""
        self.patch(os, "environ", {"NO_COLOR": "1"})
        demo.Stage().good("fine")
        self.assertNotIn("\x1b", self.said.getvalue())


class MainTests(SynchronousTestCase):
    """A machine that cannot show it."""

    def test_missing_tools(self) -> None:
        """What is missing is said before anything starts, and the exit status tells."""
        said = io.StringIO()
        self.patch(sys, "stdout", said)
        self.patch(sandbox, "environment", lambda: {"PATH": "/nonexistent"})
        self.patch(sandbox, "enter", broken)
        self.assertEqual(1, demo.main())
        self.assertIn("nft (package nftables)", said.getvalue())

    def test_no_tun(self) -> None:
        """So is a TUN device that cannot be opened."""
        said = io.StringIO()
        self.patch(sys, "stdout", said)
        self.patch(sandbox, "check_tools", lambda: None)
        self.patch(sandbox, "TUN_DEVICE", Path("/nonexistent"))
        self.patch(sandbox, "enter", broken)
        self.assertEqual(1, demo.main())
        self.assertIn("/nonexistent does not exist", said.getvalue())
