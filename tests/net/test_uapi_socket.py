"""The file of a configuration socket."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.uapi_socket import UapiSocket


class UapiSocketTests(SynchronousTestCase):
    """Making, keeping and removing it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "wireguard"
        self.path = self.directory / "wg0.sock"

    def make(self) -> UapiSocket:
        made = UapiSocket("wg0", self.directory)
        self.addCleanup(made.close)
        return made

    def opened(self) -> UapiSocket:
        made = self.make()
        made.open()
        return made

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(str(self.path))
        return client

    def left_behind(self) -> None:
        """Leave the file of a program that was killed."""
        self.directory.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
            dead.listen()

    def refusal(self) -> str:
        with self.assertRaises(HostError) as caught:
            self.make().open()
        return str(caught.exception)

    def test_private(self) -> None:
        """The socket is ours alone (0600) in a directory of ours (0700), whatever the umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.opened()

        self.assertEqual(0o600, stat.S_IMODE(self.path.lstat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(self.directory.stat().st_mode))
        self.assertEqual(["wg0.sock"], os.listdir(self.directory))

    def test_reached(self) -> None:
        """Who connects to the file reaches us, and waiting for somebody does not block."""
        listening = self.make().open()
        self.assertRaises(BlockingIOError, listening.accept)
        self.connect()
        listening.accept()[0].close()

    def test_closed(self) -> None:
        """At the end the file is gone; closing again does nothing."""
        made = self.opened()
        self.assertTrue(made.is_ours)
        made.close()
        made.close()

        self.assertFalse(made.is_ours)
        self.assertEqual([], os.listdir(self.directory))

    def test_one_of_a_dead_program(self) -> None:
        """What a killed program left is replaced."""
        self.left_behind()
        self.opened()
        self.connect()

    def test_one_in_use(self) -> None:
        """A living program's socket is left alone, and we say so."""
        first = self.opened()

        self.assertIn("is in use", self.refusal())
        self.assertTrue(first.is_ours)
        self.connect()

    def test_one_in_use_and_busy(self) -> None:
        """A program that lives but does not come round to accepting counts as living."""
        self.directory.mkdir(parents=True)
        busy = socket.socket(socket.AF_UNIX)
        self.addCleanup(busy.close)
        busy.bind(str(self.path))
        busy.listen(0)
        self.connect()

        self.assertIn("is in use", self.refusal())

    def test_something_else(self) -> None:
        """A file, or a link, of that name is not ours to remove."""
        self.directory.mkdir(parents=True)
        self.path.write_text("precious")
        self.assertIn("is no socket", self.refusal())
        self.assertEqual("precious", self.path.read_text())
        self.path.unlink()
        self.path.symlink_to("/nowhere")
        self.assertIn("is no socket", self.refusal())

    def test_a_directory_of_others(self) -> None:
        """A directory that others may write to is refused; one that they may read is not."""
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o777)
        self.assertIn("chmod 700", self.refusal())
        self.directory.chmod(0o755)
        self.opened()

    def test_no_directory(self) -> None:
        """Where no directory can be made, the path is named."""
        self.directory.parent.mkdir()
        self.directory.write_text("a file")

        self.assertIn("wg0.sock", self.refusal())

    def test_exchanged(self) -> None:
        """A file that took the place of ours is noticed, and is not removed."""
        made = self.opened()
        self.path.unlink()
        self.assertFalse(made.is_ours)
        self.path.write_text("somebody else's")
        self.assertFalse(made.is_ours)
        made.close()

        self.assertTrue(self.path.exists())

    def test_no_descriptor_left(self) -> None:
        """Neither success nor refusal leaves a descriptor open."""
        before = len(os.listdir("/proc/self/fd"))
        made = self.opened()
        self.refusal()
        made.close()

        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
