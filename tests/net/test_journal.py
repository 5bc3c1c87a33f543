"""What we changed is written down first, and read back whatever happened meanwhile."""

from __future__ import annotations

import json
import os
import stat

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.journal import Guard, Journal, NftTable, Rule, Step, Sysctl

STEPS: list[Step] = [
    Sysctl("net/ipv6/conf/eth0/accept_ra", "1", "2"),
    Sysctl("net/ipv4/conf/eth0.7/forwarding", "1", None),
    Guard("10.73.0.0/24"),
    Guard("fd70:7976:706e::/64"),
    Rule(4, 51820, 51820),
    Rule(6, 1, 0xFFFF_FFFF),
    NftTable("pyvpn_pyvpn0"),
]


class JournalTests(SynchronousTestCase):
    """The journal on the disk."""

    def setUp(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        self.path = os.path.join(folder, "host.json")

    def written(self) -> Journal:
        journal = Journal(self.path)
        for step in STEPS:
            journal.write(step)
        return journal

    def test_new(self) -> None:
        """Without a file there is nothing to undo, and none is made."""
        self.assertEqual((), Journal(self.path).steps)
        self.assertFalse(os.path.exists(self.path))

    def test_survives(self) -> None:
        """The next process finds every step, in the order of making."""
        self.written()

        self.assertEqual(tuple(STEPS), Journal(self.path).steps)

    def test_private(self) -> None:
        """Nobody else may read or write the file."""
        self.written()

        self.assertEqual(0o600, stat.S_IMODE(os.stat(self.path).st_mode))

    def test_written_at_once(self) -> None:
        """A step is on the disk when writing it down returns: a crash may follow at once."""
        journal = Journal(self.path)
        for n, step in enumerate(STEPS, 1):
            journal.write(step)
            self.assertEqual(tuple(STEPS[:n]), Journal(self.path).steps)

    def test_twice(self) -> None:
        """What is written down already is not written down again."""
        journal = self.written()
        for step in STEPS:
            journal.write(step)

        self.assertEqual(tuple(STEPS), journal.steps)

    def test_first_value_stays(self) -> None:
        """The value before our first run is kept, whatever was found by a later one."""
        journal = Journal(self.path)
        journal.write(Sysctl("net/ipv4/ip_forward", "0", "1"))
        journal.write(Sysctl("net/ipv4/ip_forward", "1", "1"))

        self.assertEqual((Sysctl("net/ipv4/ip_forward", "0", "1"),), journal.steps)

    def test_strike(self) -> None:
        """Steps that were undone are forgotten, the others kept."""
        journal = self.written()
        journal.strike(STEPS[0], STEPS[3])

        expected = tuple(s for s in STEPS if s not in (STEPS[0], STEPS[3]))
        self.assertEqual(expected, journal.steps)
        self.assertEqual(expected, Journal(self.path).steps)

    def test_empty(self) -> None:
        """When everything was undone nothing is left, not even the file."""
        journal = self.written()
        journal.strike(*STEPS)
        journal.strike(*STEPS)

        self.assertEqual((), journal.steps)
        self.assertEqual([], os.listdir(os.path.dirname(self.path)))

    def test_removed_by_hand(self) -> None:
        """A file that somebody removed meanwhile is as good as struck."""
        journal = self.written()
        os.unlink(self.path)

        journal.strike(*STEPS)

        self.assertEqual((), journal.steps)

    def test_not_writable(self) -> None:
        """A step that cannot be written down is refused, so that the change is not made."""
        journal = Journal(os.path.join(self.mktemp(), "host.json"))

        error = self.assertRaises(HostError, journal.write, STEPS[0])

        self.assertIn("host.json: cannot write down what is changed on this host: ", str(error))
        self.assertEqual((), journal.steps)

    def test_half_written(self) -> None:
        """A crash while the file was being replaced leaves the whole old one."""
        self.written()
        with open(self.path + ".new", "w") as file:
            file.write("[{")

        journal = Journal(self.path)
        journal.write(Guard("10.0.0.0/8"))

        self.assertEqual((*STEPS, Guard("10.0.0.0/8")), Journal(self.path).steps)

    def test_unreadable(self) -> None:
        """A journal that is a folder is an error, not an empty journal."""
        os.mkdir(self.path)

        error = self.assertRaises(HostError, Journal, self.path)

        self.assertIn("host.json: cannot be read: Is a directory", str(error))

    def load(self, data: bytes) -> Journal:
        with open(self.path, "wb") as file:
            file.write(data)
        return Journal(self.path)

    def assert_set_aside(self, data: bytes) -> None:
        """A journal of *data* is kept beside, reported once, and starts empty."""
        self.assertEqual((), self.load(data).steps)
        with open(self.path + ".bad", "rb") as file:
            self.assertEqual(data, file.read())
        self.assertFalse(os.path.exists(self.path))

    def test_damaged(self) -> None:
        """What cannot be a journal of ours is set aside and undoes nothing."""
        good = {"kind": "sysctl", "path": "net/ipv4/ip_forward", "old": "0", "new": "1"}
        for entry in (
            {**good, "path": "kernel/core_pattern"},
            {**good, "path": "net/../kernel/core_pattern"},
            {**good, "path": "/net/ipv4/ip_forward"},
            {**good, "path": 7},
            {**good, "old": None},
            {**good, "extra": 1},
            {**good, "kind": ["sysctl"]},
            {"kind": "sysctl"},
            {"kind": "file", "path": "/etc/passwd"},
            {"kind": "nft-table", "name": "filter"},
            {"kind": "rule", "version": 5, "mark": 1, "table": 1},
            {"kind": "rule", "version": 4, "mark": True, "table": 1},
            {"kind": "rule", "version": 4, "mark": 1, "table": 1 << 32},
            {"kind": "guard", "network": "10.73.0.1/24"},
            {"kind": "guard", "network": "everything"},
            7,
        ):
            self.assert_set_aside(json.dumps([entry]).encode())
        for data in b"", b"{}", b"null", b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"[]":
            self.assert_set_aside(data)

    def test_truncated(self) -> None:
        """A journal cut at any byte is either whole or set aside, never another exception."""
        self.written()
        with open(self.path, "rb") as file:
            data = file.read()
        for length in range(len(data) - 1):  # but for the last line's end
            self.assert_set_aside(data[:length])

    @given(st.binary(max_size=200))
    def test_junk(self, data: bytes) -> None:
        """Any bytes give a journal."""
        self.setUp()
        self.assertIsInstance(self.load(data).steps, tuple)
