"""A TUN that others delete, and what hangs on it."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.tun import Tun
from pyvpn.net.upkeep import CHECK_SECONDS, NEWS_SECONDS, REPAIR_PAUSE, REPAIR_TRIES, Upkeep
from pyvpn.tunnel.counters import Counters
from tests.net.at_once import AtOnce
from tests.net.tun_systems import FakeTunSystem


class UpkeepTests(SynchronousTestCase):
    """One TUN on a kernel that lives in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.system = FakeTunSystem()
        self.made = 0
        self.lost: list[str] = []
        self.refusing = ""
        self.upkeep = Upkeep(self.reactor, AtOnce(), self.make_so, self.lost.append)  # type: ignore[arg-type]  # see tests/net/at_once.py
        self.upkeep.tun = Tun(
            self.reactor,
            "pyvpn0",
            1420,
            lambda packets: None,
            self.upkeep.deleted,
            Counters(),
            self.system,
        )
        self.addCleanup(self.upkeep.close)

    def make_so(self) -> None:
        self.made += 1
        if self.refusing:
            raise HostError(self.refusing)

    def begin(self) -> None:
        self.upkeep.open()
        self.upkeep.begin()
        self.assertIn(self.upkeep.tun, self.reactor.getReaders())

    def delete(self) -> None:
        """Somebody says ``ip link del``, and the TUN finds out."""
        self.upkeep.tun.close()
        self.upkeep.deleted("the interface pyvpn0 is gone")

    def test_looked_after(self) -> None:
        """Everything is made again every few seconds, which changes only what differs."""
        self.begin()
        self.reactor.pump([CHECK_SECONDS] * 3)
        self.assertEqual(3, self.made)

    def test_news(self) -> None:
        """News of an interface are not waited for, and a swarm of them is looked at once."""
        self.begin()
        for _ in range(5):
            self.upkeep._news._heard()
        self.reactor.advance(NEWS_SECONDS)
        self.assertEqual(1, self.made)
        self.upkeep._news._heard()
        self.reactor.advance(NEWS_SECONDS)
        self.assertEqual(2, self.made)

    def test_closedAfterNews(self) -> None:
        """Nothing is looked at when all is over."""
        self.begin()
        self.upkeep._news._heard()
        self.upkeep.close()
        self.assertEqual([], self.reactor.getReaders())
        self.reactor.advance(NEWS_SECONDS)
        self.assertEqual(0, self.made)

    def test_not_before(self) -> None:
        """An interface that was not brought up yet is left alone."""
        self.upkeep.open()
        self.reactor.pump([CHECK_SECONDS] * 3)
        self.assertEqual(0, self.made)

    def test_not_after(self) -> None:
        """What was given back is left alone."""
        self.begin()
        self.upkeep.close()
        self.upkeep.deleted("the interface pyvpn0 is gone")
        self.reactor.pump([CHECK_SECONDS] * 3)
        self.assertEqual((0, []), (self.made, self.lost))

    def test_deleted(self) -> None:
        """A deleted device is there again at once, with all that belongs to it."""
        self.begin()
        self.delete()

        self.assertEqual(1, self.made)
        self.assertIn(self.upkeep.tun, self.reactor.getReaders())

    def test_refused_for_a_moment(self) -> None:
        """A kernel that refuses for a moment, as it does during a deletion, is asked again."""
        self.begin()
        self.refusing = "No such device"
        self.delete()
        self.refusing = ""
        self.reactor.advance(REPAIR_PAUSE)

        self.assertEqual((2, []), (self.made, self.lost))
        self.assertIn(self.upkeep.tun, self.reactor.getReaders())

    def test_refused_for_good(self) -> None:
        """After two seconds of refusals it is given up, once, with the kernel's reason."""
        self.begin()
        self.refusing = "Operation not permitted"
        self.delete()
        self.reactor.pump([REPAIR_PAUSE] * (REPAIR_TRIES - 1))
        self.assertEqual([], self.lost)
        self.reactor.advance(REPAIR_PAUSE)

        self.assertEqual(["Operation not permitted"], self.lost)

    def test_closed_during_the_repair(self) -> None:
        """A service that stops meanwhile is not told that its device is lost."""
        self.begin()
        self.refusing = "No such device"
        self.delete()
        self.upkeep.close()
        self.reactor.pump([REPAIR_PAUSE] * (REPAIR_TRIES + 1))
        self.assertEqual([], self.lost)

    def test_check_refused(self) -> None:
        """A check that fails changes nothing, and the next one may succeed."""
        self.begin()
        self.refusing = "Device or resource busy"
        self.reactor.pump([CHECK_SECONDS] * 2)
        self.refusing = ""
        self.reactor.advance(CHECK_SECONDS)

        self.assertEqual((3, []), (self.made, self.lost))
