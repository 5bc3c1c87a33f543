"""Whose a routing table is."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.table_locks import TableLocks

TABLE = 4_000_000_123  # no real client's


class TableLockTests(SynchronousTestCase):
    """Two clients on one host."""

    def setUp(self) -> None:
        self.one, self.other = TableLocks(), TableLocks()
        self.addCleanup(self.one.release)
        self.addCleanup(self.other.release)

    def test_second_client(self) -> None:
        """The second one is told which options it needs, and the first keeps its table."""
        self.one.hold(TABLE)
        error = self.assertRaises(HostError, self.other.hold, TABLE)

        self.assertIn("table = ...", str(error))
        self.assertFalse(self.other.try_hold(TABLE))
        self.other.hold(TABLE + 1)

    def test_repeated(self) -> None:
        """What is held already is held."""
        self.one.hold(TABLE)
        self.one.hold(TABLE)
        self.assertTrue(self.one.try_hold(TABLE))

    def test_given_back(self) -> None:
        """Once the first has given it back, the second may have it."""
        self.one.hold(TABLE)
        self.one.release()
        self.assertTrue(self.other.try_hold(TABLE))
