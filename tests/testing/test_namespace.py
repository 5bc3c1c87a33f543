"""Waiting for what a program says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.testing.namespace import last_lines, stop, wait_for_line


class WaitForLineTests(SynchronousTestCase):
    """A log that has the line, or will never have it."""

    def setUp(self) -> None:
        self.log = Path(self.mktemp())

    def test_found(self) -> None:
        """The match is given back, with its groups."""
        self.log.write_text("starting\nlistening on 51820\n")
        self.assertEqual("51820", wait_for_line(self.log, r"^listening on (\d+)$", 0)[1])

    def test_too_late(self) -> None:
        """After the time is up the error shows what was said instead."""
        self.log.write_text("starting\nno such device\n")
        error = self.assertRaises(HostError, wait_for_line, self.log, "listening", 0)
        self.assertIn("without 'listening'", str(error))
        self.assertIn("no such device", str(error))

    def test_no_log(self) -> None:
        """A log that never came into being is the same error."""
        self.assertRaises(HostError, wait_for_line, self.log, "listening", 0)

    def test_ended(self) -> None:
        """When the program has ended nobody waits for the rest of the time."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        error = self.assertRaises(HostError, wait_for_line, self.log, "listening", 600, process)
        self.assertIn("the program ended", str(error))

    def test_last_words_of_one_that_ended(self) -> None:
        """What a program said just before it ended is still found."""
        self.log.write_text("goodbye\n")
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        self.assertEqual("goodbye", wait_for_line(self.log, "goodbye", 600, process)[0])


class LastLinesTests(SynchronousTestCase):
    """The end of a log."""

    def test_the_end(self) -> None:
        """Only the last lines are given, and bytes that are no text do no harm."""
        log = Path(self.mktemp())
        log.write_bytes(b"1\n2\n3\xff\n")
        self.assertEqual("2\n3�", last_lines(log, 2))

    def test_absent(self) -> None:
        """No log is no lines."""
        self.assertEqual("", last_lines(Path(self.mktemp())))


class StopTests(SynchronousTestCase):
    """Ending a program."""

    def test_in_order(self) -> None:
        """The exit status is the program's own."""
        process = subprocess.Popen(["sleep", "60"])
        self.assertEqual(-15, stop(process))
        self.assertEqual(-15, stop(process))

    def test_by_force(self) -> None:
        """One that ignores SIGTERM is killed, which shows in the status."""
        program = (
            "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.assertEqual(-9, stop(process, 0.05))
        process.stdout.close()
