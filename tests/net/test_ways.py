"""From which address of ours datagrams leave: sticky, but not too sticky."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.udp import UdpPort
from pyvpn.net.ways import MOST_WAYS
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path
from tests.net.udp_systems import FakeUdpSystem, KeepingProtocol, packed

DATA = bytes([4, 0, 0, 0]) + bytes(60)
HERE = packed("192.0.2.1")
PEER = Path(packed("198.51.100.7"), 51820, 0, HERE, 3)
PEER6 = Path(packed("2001:db8::7"), 51820, 0, packed("2001:db8::1"), 3)
LINK_LOCAL = Path(packed("fe80::7"), 51820, 3, packed("fe80::1"), 3)


class WaysTests(SynchronousTestCase):
    """The port, with a kernel that answers what the test wants."""

    def setUp(self) -> None:
        self.system = FakeUdpSystem()
        self.system.leaves_by = 3
        self.counters = Counters()
        self.udp = UdpPort(
            MemoryReactorClock(), KeepingProtocol(), self.counters, system=self.system, mark=9
        )
        self.addCleanup(self.udp.close)
        self.udp.open(7)

    def send(self, path: Path, count: int = 1, tos: int = 0) -> list[bytes]:
        """Send; return the source address of each datagram that left, empty if not pinned."""
        self.system.sent.clear()
        self.udp.send_datagrams([DATA] * count, path, tos)
        return [self.source(ancillary) for _, ancillary, _, _ in self.system.sent]

    @staticmethod
    def source(ancillary: list[Any]) -> bytes:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, 8):
                return bytes(struct.unpack("=I4s4s", value)[1])
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                return bytes(struct.unpack("=16sI", value)[0])
        return b""

    def refuse_source(self, number: int) -> None:
        self.system.refuse_send = lambda _, ancillary: number if self.source(ancillary) else 0

    def lost(self) -> int:
        return self.counters.dropped["udp-source-lost"]

    def test_sticky(self) -> None:
        """What is sent leaves from the address that the path names."""
        self.assertEqual([HERE], self.send(PEER))
        self.assertEqual([packed("2001:db8::1")], self.send(PEER6))
        self.assertEqual([b""], self.send(PEER._replace(local=b"")))

    def test_not_asked_about_strangers(self) -> None:
        """A path that is used once, as by an answer to a flood, costs no question."""
        for number in range(3):
            self.send(PEER._replace(port=number))
        for _ in range(3):
            self.send(PEER._replace(local=b""))
            self.send(LINK_LOCAL)

        self.assertEqual([], self.system.asked)

    def test_asked_once_a_change(self) -> None:
        """The kernel is asked once for each change of the routes, about a datagram like ours."""
        for _ in range(4):
            self.assertEqual([HERE], self.send(PEER))
        self.assertEqual([(PEER.host, HERE, 9)], self.system.asked)
        self.system.change_routes()
        self.system.change_routes()
        for _ in range(4):
            self.assertEqual([HERE], self.send(PEER))

        self.assertEqual([(PEER.host, HERE, 9)] * 2, self.system.asked)
        self.assertEqual(0, self.lost())

    def test_always_by_another_interface(self) -> None:
        """Where the way out is another one than the way in from the beginning, it stays sticky."""
        self.system.leaves_by = 4
        self.send(PEER)
        for _ in range(3):
            self.assertEqual([HERE], self.send(PEER))
            self.system.change_routes()
        self.assertEqual([HERE], self.send(PEER))
        self.assertEqual(0, self.lost())
        self.system.leaves_by = 3  # the way in
        self.system.change_routes()
        self.assertEqual([HERE], self.send(PEER))
        self.system.leaves_by = 5
        self.system.change_routes()

        self.assertEqual([b""], self.send(PEER))
        self.assertEqual(1, self.lost())

    def test_route_moves_before_it_was_asked_about(self) -> None:
        """A path used once is judged by the interface its datagrams came in by."""
        self.send(PEER)
        self.send(PEER6)
        self.system.leaves_by = 4
        self.system.change_routes()

        self.assertEqual([b"", b""], self.send(PEER, 2))
        self.assertEqual([b""], self.send(PEER6))

    def test_route_moves(self) -> None:
        """When the route leads elsewhere the kernel chooses the source; no datagram is lost."""
        for path in PEER, PEER6:
            self.send(path)
            self.send(path)
            self.system.leaves_by = 4
            self.system.change_routes()

            self.assertEqual([b"", b""], self.send(path, 2))
            self.assertEqual([b""], self.send(path))

            self.assertEqual({"udp-source-lost": 1}, dict(self.counters.dropped))
            self.counters.dropped.clear()
            self.system.leaves_by = 3

    def test_route_comes_back(self) -> None:
        """When it leads there again, the source is the old one again."""
        self.send(PEER)
        self.system.leaves_by = 4
        self.system.change_routes()
        self.send(PEER)
        self.system.leaves_by = 3
        self.system.change_routes()

        self.assertEqual([HERE], self.send(PEER))
        self.assertEqual(1, self.lost())

    def test_no_route_from_there(self) -> None:
        """An address that no route leads from is given up."""
        self.send(PEER)
        self.system.leaves_by = OSError(errno.ENETUNREACH, "no")
        self.system.change_routes()

        self.assertEqual([b""], self.send(PEER))
        self.assertEqual(1, self.lost())

    def test_link_local(self) -> None:
        """A link-local address belongs to its interface, whatever the routes are."""
        self.send(LINK_LOCAL)
        self.system.leaves_by = 4
        self.system.change_routes()

        self.assertEqual([packed("fe80::1")], self.send(LINK_LOCAL))
        [(_, _, address, _)] = self.system.sent
        self.assertEqual(("fe80::7", 51820, 0, 3), address)

    def test_address_removed(self) -> None:
        """What the kernel does not send from there it is given again without; nothing is lost."""
        for number in errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL:
            self.udp.rebind(0)
            self.counters.dropped.clear()
            self.assertEqual([HERE], self.send(PEER))
            self.refuse_source(number)

            self.assertEqual([b"", b"", b""], self.send(PEER, 3))
            self.refuse_source(0)
            self.assertEqual([b""], self.send(PEER))

            self.assertEqual({"udp-source-lost": 1}, dict(self.counters.dropped))

    def test_tos_stays(self) -> None:
        """A datagram that leaves from another address has the TOS it was given."""
        self.refuse_source(errno.EINVAL)

        self.send(PEER, tos=0x8A)

        [(_, [(_, _, tos)], _, _)] = self.system.sent
        self.assertEqual((0x8A,), struct.unpack("=i", tos))

    def test_all_is_refused(self) -> None:
        """When it is not the source that is wrong, it stays, and the real cause is counted."""
        self.system.refuse_send = lambda _, ancillary: (
            errno.EINVAL if self.source(ancillary) else errno.ENETUNREACH
        )
        self.assertEqual([], self.send(PEER, 2))
        self.assertEqual({"udp-network-unreachable": 2}, dict(self.counters.dropped))
        self.refuse_source(0)

        self.assertEqual([HERE], self.send(PEER))

    def test_other_errors(self) -> None:
        """What has nothing to do with the source is not tried again."""
        self.refuse_source(errno.EPERM)

        self.assertEqual([], self.send(PEER))

        self.assertEqual({"udp-forbidden": 1}, dict(self.counters.dropped))

    def test_mark_changes(self) -> None:
        """Rules may go by the mark, so what was found without it counts no more."""
        self.refuse_source(errno.EINVAL)
        self.send(PEER)
        self.refuse_source(0)
        self.udp.set_mark(10)

        self.assertEqual([HERE], self.send(PEER))
        self.system.change_routes()
        self.send(PEER)
        self.assertEqual([(PEER.host, HERE, 10)], self.system.asked)

    def test_memory_is_bounded(self) -> None:
        """Answers to a flood do not fill the memory."""
        for number in range(MOST_WAYS + 10):
            self.send(Path(number.to_bytes(4, "big"), 7))

        self.assertEqual(10, len(self.udp._ways._ways))

    def test_without_news(self) -> None:
        """Where the kernel tells nothing of routes, a lost address is still noticed by sending."""

        def refused(*_: object) -> Any:
            raise OSError(errno.EPERM, "no")

        self.udp.close()
        self.patch(self.system, "questions", refused)
        self.udp.open(7)
        self.assertEqual([HERE], self.send(PEER))
        self.system.change_routes()
        self.assertEqual([HERE], self.send(PEER))
        self.refuse_source(errno.EINVAL)

        self.assertEqual([b""], self.send(PEER))
        self.assertEqual(1, self.lost())
