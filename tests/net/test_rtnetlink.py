"""Questions to the kernel's links and routes, and news of them, in a namespace of our own."""

from __future__ import annotations

import errno
import os
import socket

from pyroute2 import IPRoute
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.net.netlink import set_link_up
from pyvpn.net.rtnetlink import LINK_NEWS, ROUTE_NEWS, Link, News, Questions
from tests.net.own_namespace import enter_own_namespace
from tests.net.udp_systems import packed


class NetlinkCase(SynchronousTestCase):
    """A namespace with two cables, ``a`` and ``b``, whose other ends are unused."""

    def setUp(self) -> None:
        enter_own_namespace(self.addCleanup)
        self.netlink = IPRoute()
        self.addCleanup(self.netlink.close)
        self.index = {}
        for name in "a", "b":
            self.netlink.link("add", ifname=name, kind="veth", peer=f"{name}x")
            for each in name, f"{name}x":
                self.index[each] = self.netlink.link_lookup(ifname=each)[0]
                self.netlink.link("set", index=self.index[each], state="up")


class QuestionsTests(NetlinkCase):
    """What the kernel answers."""

    def setUp(self) -> None:
        super().setUp()
        self.netlink.addr("add", index=self.index["a"], address="192.0.2.1", prefixlen=24)
        self.netlink.addr("add", index=self.index["b"], address="198.51.100.1", prefixlen=24)
        self.questions = Questions()
        self.addCleanup(self.questions.close)

    def ask(self, destination: str, source: str, mark: int = 0) -> int:
        return self.questions.interface_for(packed(destination), packed(source), mark)

    def refused(self, destination: str, source: str) -> str:
        return errno.errorcode[self.assertRaises(OSError, self.ask, destination, source).errno]

    def test_interface(self) -> None:
        """Each destination's datagrams leave by the interface of its network."""
        self.assertEqual(self.index["a"], self.ask("192.0.2.9", "192.0.2.1"))
        self.assertEqual(self.index["b"], self.ask("198.51.100.9", "198.51.100.1"))
        self.assertEqual(self.index["b"], self.ask("198.51.100.9", "192.0.2.1"))

    def test_interface_6(self) -> None:
        """The same in IPv6."""
        self.netlink.route("add", dst="2001:db8::/64", oif=self.index["b"])

        self.assertEqual(self.index["b"], self.ask("2001:db8::9", "2001:db8::1"))

    def test_mark(self) -> None:
        """A rule by the mark is heeded."""
        self.netlink.route("add", dst="192.0.2.0/24", oif=self.index["b"], table=77)
        self.netlink.rule("add", fwmark=0xFFFF_0001, table=77, priority=100)

        self.assertEqual(self.index["b"], self.ask("192.0.2.9", "192.0.2.1", 0xFFFF_0001))
        self.assertEqual(self.index["a"], self.ask("192.0.2.9", "192.0.2.1"))

    def test_no_route(self) -> None:
        """Where no route leads, and from where none does, is an error."""
        self.assertEqual("ENETUNREACH", self.refused("203.0.113.1", "192.0.2.1"))
        self.assertIn(self.refused("192.0.2.9", "192.0.2.77"), ("EINVAL", "ENETUNREACH"))
        # After an error the next answer is to the next question.
        self.assertEqual(self.index["a"], self.ask("192.0.2.9", "192.0.2.1"))

    def test_link(self) -> None:
        """An interface has its name, its MTU, and is up or not."""
        self.assertEqual(Link("a", 1500, True), self.questions.link("a"))
        self.netlink.link("set", index=self.index["a"], mtu=1280, state="down")
        self.assertEqual(Link("a", 1280, False), self.questions.link("a"))
        self.assertRaises(OSError, self.questions.link, "none")

    def test_link_elsewhere(self) -> None:
        """An interface of another namespace is asked about from here; ours is another one."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.addCleanup(os.close, home)
        enter_own_namespace(self.addCleanup)
        elsewhere = Questions()
        self.addCleanup(elsewhere.close)
        self.netlink.link("set", index=self.index["a"], mtu=1300)

        number = elsewhere.number_of_namespace(home)

        self.assertEqual(number, elsewhere.number_of_namespace(home))
        self.assertEqual(Link("a", 1300, True), elsewhere.link("a", number))
        self.assertRaises(OSError, elsewhere.link, "a")


class NewsTests(NetlinkCase):
    """What the kernel tells."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.heard = 0

    def listen(self, groups: int) -> News:
        news = News(self.reactor, groups, self.hear)
        self.addCleanup(news.close)
        news.open()
        return news

    def hear(self) -> None:
        self.heard += 1

    def told(self) -> int:
        """How often we were told in one turn of the reactor."""
        self.heard = 0
        for reader in self.reactor.getReaders():
            reader.doRead()
        return self.heard

    def test_links(self) -> None:
        """Any change of an interface is told, once a turn however many there were."""
        self.listen(LINK_NEWS)
        self.assertEqual(0, self.told())
        for mtu in 1400, 1300, 1280:
            self.netlink.link("set", index=self.index["a"], mtu=mtu)

        self.assertEqual(1, self.told())
        self.assertEqual(0, self.told())

    def test_an_interface_as_it_is_to_be(self) -> None:
        """Who finds the interface as it was meant changes nothing, and so is not told of it."""
        self.listen(LINK_NEWS | ROUTE_NEWS)
        addresses = ["10.73.0.1/24", "fd00:73::1/64"]
        set_link_up("b", 1400, addresses)
        self.assertEqual(1, self.told())
        for _ in range(3):
            set_link_up("b", 1400, addresses)

        self.assertEqual(0, self.told())

    def test_routes(self) -> None:
        """Addresses, routes and rules are told of, each; links are not what was asked for."""
        self.listen(ROUTE_NEWS)
        b = self.index["b"]
        for change in (
            lambda: self.netlink.addr("add", index=b, address="192.0.2.1", prefixlen=24),
            lambda: self.netlink.addr("add", index=b, address="2001:db8::1", prefixlen=64),
            lambda: self.netlink.route("add", dst="203.0.113.0/24", oif=b),
            lambda: self.netlink.route("add", dst="2001:db8:1::/64", oif=b),
            lambda: self.netlink.rule("add", table=77, priority=100),
            lambda: self.netlink.rule("add", family=socket.AF_INET6, table=77, priority=100),
            lambda: self.netlink.addr("del", index=b, address="192.0.2.1", prefixlen=24),
        ):
            self.told()
            change()
            self.assertEqual(1, self.told())

    def test_too_many(self) -> None:
        """More news than the socket holds are news."""
        news = self.listen(LINK_NEWS)
        assert news._socket is not None
        news._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for mtu in range(1400, 1420):
            self.netlink.link("set", index=self.index["a"], mtu=mtu)

        self.assertEqual(1, self.told())

    def test_bug_behind_us(self) -> None:
        """A bug in who hears is logged once, and the next news are told."""
        news = self.listen(LINK_NEWS)
        self.patch(news, "_heard", lambda: {}["nothing"])
        for mtu in 1400, 1300:
            self.netlink.link("set", index=self.index["a"], mtu=mtu)
            self.told()

        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))

    def test_closed(self) -> None:
        """Who has closed hears no more, may close again, and open again."""
        news = self.listen(LINK_NEWS)
        self.netlink.link("set", index=self.index["a"], mtu=1400)
        news.close()
        news.close()
        self.assertEqual([], self.reactor.getReaders())
        self.assertEqual(-1, news.fileno())
        news.doRead()
        self.assertEqual(0, self.heard)

        news.open()
        self.netlink.link("set", index=self.index["a"], mtu=1300)
        self.assertEqual(1, self.told())

    def test_interface(self) -> None:
        """Reactors can read from it."""
        news = self.listen(LINK_NEWS)

        self.assertTrue(verifyObject(IReadDescriptor, news))
        self.assertEqual("netlink", news.logPrefix())
        news.connectionLost(None)
