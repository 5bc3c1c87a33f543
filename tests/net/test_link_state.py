"""The watch over a TUN's interface, with a kernel that says what the test wants."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pyvpn.errors import HostError, Misuse
from pyvpn.net.link_state import ILinkSystem, KernelLinkSystem, LinkWatch
from pyvpn.net.rtnetlink import Link

AS_MADE = Link("wg0", 1420, False)
UP = Link("wg0", 1420, True)
SMALLER = Link("wg0", 1280, True)


@implementer(ILinkSystem)
class FakeLinkSystem:
    """An interface that is what the test says."""

    def __init__(self) -> None:
        self.link: Link | OSError = AS_MADE
        self.at_home = True
        self.is_open = False
        self.fds: list[int] = []
        self.listening = False
        self.everywhere: list[bool] = []
        self.refuse_everywhere = False
        self.heard: Callable[[], None] = lambda: None

    def open(self) -> None:
        self.is_open = True

    def news(self, reactor: object, heard: Callable[[], None]) -> Any:
        self.heard = heard
        return FakeNews(self)

    def look(self, fd: int) -> tuple[Link, bool]:
        self.fds.append(fd)
        if isinstance(self.link, OSError):
            raise self.link
        return self.link, self.at_home

    def close(self) -> None:
        self.is_open = False


class FakeNews:
    """Tells nothing; the test calls what it was given."""

    def __init__(self, system: FakeLinkSystem) -> None:
        self._system = system

    def open(self) -> None:
        self._system.listening = True

    def close(self) -> None:
        self._system.listening = False

    def listen_everywhere(self, everywhere: bool) -> None:
        if self._system.refuse_everywhere:
            raise PermissionError(errno.EPERM, "no")
        self._system.everywhere.append(everywhere)


class LinkWatchTests(SynchronousTestCase):
    """What its owner is told, and when."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.system = FakeLinkSystem()
        self.told: list[Link] = []
        self.fd = 17
        self.watch = LinkWatch(self.reactor, lambda: self.fd, self.told.append, self.system)
        self.addCleanup(self.watch.stop)

    def test_as_it_is(self) -> None:
        """At first it returns what there is, and tells nobody."""
        self.assertEqual(AS_MADE, self.watch.start())
        self.assertEqual(AS_MADE, self.watch.now)
        self.assertEqual([], self.told)
        self.assertEqual([17], self.system.fds)

    def test_change_heard_of(self) -> None:
        """A change is told when the kernel has news, once."""
        self.watch.start()
        self.system.link = UP
        self.system.heard()
        self.system.heard()

        self.assertEqual([UP], self.told)
        self.assertEqual(UP, self.watch.now)

    def test_change_not_heard_of(self) -> None:
        """Without news a change is noticed within a second."""
        self.watch.start()
        self.system.link = SMALLER
        self.reactor.advance(0.9)
        self.assertEqual([], self.told)
        self.reactor.advance(0.1)
        self.assertEqual([SMALLER], self.told)
        self.system.link = UP
        self.reactor.advance(1)

        self.assertEqual([SMALLER, UP], self.told)

    def test_unchanged(self) -> None:
        """As long as nothing changes nothing is told."""
        self.watch.start()
        for _ in range(5):
            self.reactor.advance(1)

        self.assertEqual([], self.told)
        self.assertEqual(6, len(self.system.fds))

    def test_gone_for_a_moment(self) -> None:
        """An interface that is not found, being moved just now, is looked for again."""
        self.watch.start()
        self.system.link = OSError(errno.ENODEV, "moved")
        self.reactor.advance(1)
        self.system.link = SMALLER
        self.reactor.advance(1)

        self.assertEqual([SMALLER], self.told)

    def test_tun_closed_and_opened(self) -> None:
        """While the TUN is closed there is nothing to look at; opened again it is watched on."""
        self.watch.start()
        self.fd = -1
        self.system.link = SMALLER
        self.reactor.advance(1)
        self.assertEqual([], self.told)
        self.fd = 18
        self.reactor.advance(1)

        self.assertEqual([SMALLER], self.told)
        self.assertEqual([17, 18], self.system.fds)

    def test_tun_not_open(self) -> None:
        """To watch a TUN that has no interface is a mistake of ours."""
        self.fd = -1

        self.assertRaises(Misuse, self.watch.start)

    def test_away_and_back(self) -> None:
        """While the interface is in another namespace, and only then, its news are listened to."""
        self.watch.start()
        for at_home in True, False, False, True:
            self.system.at_home = at_home
            self.reactor.advance(1)

        self.assertEqual([True, False], self.system.everywhere)

    def test_no_right_to_listen_everywhere(self) -> None:
        """Who may not listen there still looks every second."""
        self.watch.start()
        self.system.refuse_everywhere = True
        self.system.at_home = False
        self.system.link = UP
        self.reactor.advance(1)

        self.assertEqual([UP], self.told)

    def test_bug_behind_us(self) -> None:
        """A bug in who is told is logged once, and the watch goes on."""
        watch = LinkWatch(self.reactor, lambda: 17, lambda link: {}[link], self.system)
        self.addCleanup(watch.stop)
        watch.start()
        for link in UP, SMALLER:
            self.system.link = link
            self.reactor.advance(1)

        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))
        self.assertEqual(SMALLER, watch.now)

    def test_refused(self) -> None:
        """Where it cannot be watched the owner is told why, and nothing stays open."""
        self.system.link = OSError(errno.EPERM, "Operation not permitted")

        error = self.assertRaises(HostError, self.watch.start)

        self.assertEqual(
            "cannot watch the tunnel's interface: Operation not permitted", str(error)
        )
        self.assert_nothing_open()

    def assert_nothing_open(self) -> None:
        self.assertEqual((False, False), (self.system.is_open, self.system.listening))
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_stopped(self) -> None:
        """A stopped watch has nothing open, may be stopped again, and started again."""
        self.watch.start()
        self.watch.stop()
        self.watch.stop()
        self.assert_nothing_open()
        self.system.link = UP

        self.assertEqual(UP, self.watch.start())
        self.assertEqual([], self.told)

    def test_stopped_by_who_is_told(self) -> None:
        """Who stops the watch on a change has stopped it."""
        watch = LinkWatch(self.reactor, lambda: 17, lambda _: watch.stop(), self.system)
        watch.start()
        self.system.link = UP
        self.reactor.advance(1)

        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_system_interface(self) -> None:
        """The stand-in and the real one have every call that the watch makes."""
        self.assertTrue(verifyObject(ILinkSystem, self.system))
        self.assertTrue(verifyObject(ILinkSystem, KernelLinkSystem()))
