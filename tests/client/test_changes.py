"""What changes around a client, and what does not."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client import changes
from pyvpn.client.changes import HostChanges, is_ours, ways_out


class QuietNews:
    """Stands for the kernel's news."""

    def __init__(self, reactor: object, groups: int, heard: object) -> None:
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class HostChangesTests(SynchronousTestCase):
    """When somebody is told."""

    def setUp(self) -> None:
        self.patch(changes, "News", QuietNews)
        self.asleep = 0.0
        self.patch(changes, "boottime", lambda: self.clock.seconds() + self.asleep)
        self.patch(changes.time, "monotonic", lambda: self.clock.seconds())
        self.clock = Clock()
        self.ways = {"192.0.2.1": "198.51.100.7"}
        self.told = 0
        self.changes = HostChanges(self.clock, self.tell, lambda: dict(self.ways))
        self.changes.begin()

    def tell(self) -> None:
        self.told += 1

    def test_anotherAddress(self) -> None:
        """Once for all the pieces of a change, when they have settled."""
        self.ways["192.0.2.1"] = "203.0.113.9"
        for _ in range(3):
            self.changes._heard()
            self.clock.advance(0.05)
        self.assertEqual(0, self.told)
        self.clock.advance(0.1)
        self.assertEqual(1, self.told)

    def test_neverSettled(self) -> None:
        """Where the pieces never end, nobody waits for longer than half a second."""
        self.ways["192.0.2.1"] = ""
        for _ in range(12):
            self.changes._heard()
            self.clock.advance(0.05)
        self.assertEqual(1, self.told)

    def test_elsewhere(self) -> None:
        """What leaves the ways out as they are, as our own tunnel does, is no change."""
        self.changes._heard()
        self.clock.advance(1)
        self.assertEqual(0, self.told)

    def test_placeAdded(self) -> None:
        """A further place of the server is one change at most, and only with the kernel's news."""
        self.ways["203.0.113.1"] = "198.51.100.7"
        self.clock.advance(5)
        self.assertEqual(0, self.told)

    def test_slept(self) -> None:
        """A machine that has slept is told so within a second, once."""
        self.clock.advance(3)
        self.assertEqual(0, self.told)
        self.asleep = 600.0
        self.clock.advance(1)
        self.clock.pump([1] * 5)
        self.assertEqual(1, self.told)

    def test_end(self) -> None:
        """Nothing is left behind."""
        self.changes._heard()
        self.changes.end()
        self.assertEqual([], self.clock.getDelayedCalls())
        HostChanges(Clock(), self.tell, dict).end()


class WaysOutTests(SynchronousTestCase):
    """What the kernel says."""

    def test_loopback(self) -> None:
        """To ourselves by ourselves; to nowhere by nothing."""
        found = ways_out(["127.0.0.1", "::1", "255.255.255.255"], 0)
        self.assertEqual("127.0.0.1", found["127.0.0.1"])
        self.assertIn(found["::1"], ("::1", ""))  # without IPv6 it is nowhere
        self.assertEqual("", found["255.255.255.255"])

    def test_ours(self) -> None:
        """An address that this host has, and one that nobody has."""
        self.assertTrue(is_ours("127.0.0.1"))
        self.assertFalse(is_ours("192.0.2.1"))
        self.assertFalse(is_ours("2001:db8::1"))
