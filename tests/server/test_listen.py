"""From the port to the link: addresses, relays, PROXY headers."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.config import Endpoint
from pyvpn.errors import HostError
from pyvpn.net.control import ControlLink
from pyvpn.net.tls import server_options
from pyvpn.server.listen import (
    BACKLOG,
    Door,
    LinkFactory,
    Relays,
    listen_everywhere,
    packed_source,
)
from pyvpn.tunnel.admission import Admission
from pyvpn.wire.messages import Code
from tests.net.links import KeepingOwner
from tests.net.test_tls import IDENTITY
from tests.server.office import Caller, OfficeCase
from tests.tunnel.packets import packed

RELAY, CLIENT, CLIENT6 = "198.18.0.1", "198.51.100.7", "2001:db8::7"
V1_4 = f"PROXY TCP4 {CLIENT} 203.0.113.1 40000 51820\r\n".encode()
V1_6 = f"PROXY TCP6 {CLIENT6} 2001:db8::1 40000 51820\r\n".encode()
V1_UNKNOWN = b"PROXY UNKNOWN ::1 ::1 1 2\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PORTS = (40000).to_bytes(2, "big") + (51820).to_bytes(2, "big")
V2_4 = SIGNATURE + b"\x21\x11\x00\x0c" + packed(CLIENT) + packed("203.0.113.1") + PORTS
V2_6 = SIGNATURE + b"\x21\x21\x00\x24" + packed(CLIENT6) + packed("2001:db8::1") + PORTS
V2_LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


class SourceTests(SynchronousTestCase):
    """Where somebody comes from."""

    def test_packed(self) -> None:
        """An IPv4 address is one, also as a dual-stack socket shows it."""
        for address, expected in (
            (IPv4Address("TCP", "192.0.2.2", 1), "192.0.2.2"),
            (IPv6Address("TCP", "2001:db8::1", 1), "2001:db8::1"),
            (IPv6Address("TCP", "::ffff:192.0.2.2", 1), "192.0.2.2"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), "fe80::1"),
        ):
            self.assertEqual(packed(expected), packed_source(address))

    def test_no_address(self) -> None:
        """What has no address has none."""
        for address in (UNIXAddress("/x"), None, "192.0.2.2", IPv4Address("TCP", "name", 1)):
            self.assertIsNone(packed_source(address))


class KeepingLinks(KeepingOwner):
    """Keeps the links too."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[ControlLink] = []

    def ready(self, link: ControlLink) -> None:
        super().ready(link)
        self.links.append(link)


class RelayCase(OfficeCase):
    """A server with one relay of each kind, and an owner who keeps the links."""

    def setUp(self) -> None:
        super().setUp()
        self.fresh(
            relays=Relays([ip_network("198.18.1.0/24")], [ip_network("198.18.0.0/24")]),
            admission=Admission(512, 2),
        )

    def found(self, place: str, header: bytes = b"") -> tuple[bytes | None, str] | None:
        """Who the server believes that is; None if it lets nobody in."""
        owner = KeepingLinks()
        links = LinkFactory(owner, self.office.clock, version=2.0, tls=True)
        self.office.door = Door(links, server_options(IDENTITY), self.office.relays)
        caller = Caller(self.office, place, header=header)
        if not owner.links:
            self.assertFalse(caller.link.is_up)
            self.assertTrue(caller.far_io.disconnecting)
            return None
        return self.office.relays.source_of(owner.links[0])


class ProxyTests(RelayCase):
    """Relays that say whose connection it is."""

    def test_header(self) -> None:
        """The header of a relay gives the client's own address, in both versions."""
        for header, client in (
            (V1_4, CLIENT),
            (V1_6, CLIENT6),
            (V2_4, CLIENT),
            (V2_6, CLIENT6),
        ):
            self.assertEqual((packed(client), client), self.found(RELAY, header))

    def test_mapped_relay(self) -> None:
        """A relay is recognised on a dual-stack socket as well."""
        self.assertEqual((packed(CLIENT), CLIENT), self.found(f"::ffff:{RELAY}", V1_4))

    def test_says_nothing(self) -> None:
        """A relay that speaks for itself is a relay."""
        for header in (V1_UNKNOWN, V2_LOCAL):
            self.assertEqual((None, f"relay {RELAY}"), self.found(RELAY, header))

    def test_missing(self) -> None:
        """Without the header a relay's connection is refused: it could be anybody's."""
        self.assertIsNone(self.found(RELAY))

    def test_broken(self) -> None:
        """So it is with a broken one."""
        for header in (
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY " + b"x" * 200,
            SIGNATURE + b"\x21\xff\x00\x0c" + bytes(12),
            SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            self.assertIsNone(self.found(RELAY, header), header)

    def test_from_anybody_else(self) -> None:
        """A header from anybody else is refused: else everybody could be who they like."""
        for header in (V1_4, V2_4):
            for place in (CLIENT, "198.18.1.1", "192.0.2.2", "2001:db8::9"):
                self.assertIsNone(self.found(place, header))

    def test_direct(self) -> None:
        """Everybody else comes without a header, by an own address."""
        self.assertEqual((packed(CLIENT), CLIENT), self.found(CLIENT))
        self.assertEqual((packed(CLIENT6), CLIENT6), self.found(CLIENT6))


class LimitTests(RelayCase):
    """Limits per source must not punish those who share one."""

    def wrong(self, place: str, header: bytes = b"") -> str:
        """The code for a wrong password from there."""
        caller = Caller(self.office, place, header=header)
        code = caller.log_in(password="wrong").code
        caller.hang_up()
        return code

    def test_trusted_relay(self) -> None:
        """Behind a silent relay no limit is by source; the one by name stands."""
        callers = [Caller(self.office, "198.18.1.1") for _ in range(8)]
        self.assertEqual([False] * 8, [caller.is_ended() for caller in callers])
        codes = [self.wrong("198.18.1.1") for _ in range(11)]

        self.assertEqual([Code.BAD_CREDENTIALS] * 10 + [Code.SLOW_DOWN], codes)
        self.add_bob()
        self.assertTrue(Caller(self.office, "198.18.1.1").log_in("bob").success)

    def test_speaking_relay(self) -> None:
        """Behind a speaking one they hold by the client's address."""
        codes = [self.wrong(RELAY, V1_4) for _ in range(4)]
        self.assertEqual([Code.BAD_CREDENTIALS] * 3 + [Code.SLOW_DOWN], codes)

        self.assertTrue(Caller(self.office, RELAY, header=V1_6).log_in().success)

    def test_nobody_between(self) -> None:
        """Without a relay they hold at once."""
        callers = [Caller(self.office, CLIENT) for _ in range(4)]

        self.assertEqual([False, False, True, True], [c.is_ended() for c in callers])

    def test_replaced(self) -> None:
        """Other relays may be named while the server runs."""
        self.office.relays.replace([], [ip_network("192.0.2.0/24")])

        self.assertIsNone(self.found("192.0.2.2"))
        self.assertEqual((packed(CLIENT), CLIENT), self.found("192.0.2.2", V1_4))
        self.assertEqual((packed(RELAY), RELAY), self.found(RELAY))


class PickyReactor(MemoryReactor):
    """Refuses to listen where it is told to."""

    def __init__(self, refuse: dict[str, int]) -> None:
        super().__init__()
        self.refuse = refuse
        self.ports: list[Any] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        number = self.refuse.get(interface)
        if number is not None:
            raise CannotListenError(interface, port, OSError(number, os.strerror(number)))
        self.ports.append(super().listenTCP(port, factory, backlog, interface))
        stopped = self.ports[-1]
        stopped.stopListening = lambda: self.ports.remove(stopped)
        return stopped


class ListenTests(SynchronousTestCase):
    """The ports."""

    def listen(self, reactor: PickyReactor, *endpoints: Endpoint) -> list[tuple[Any, ...]]:
        """Listen; on what."""
        listen_everywhere(reactor, endpoints, Factory())
        return [(server[0], server[3], server[2]) for server in reactor.tcpServers]

    def test_everywhere(self) -> None:
        """No address means all of them, of both families, by one socket."""
        self.assertEqual(
            [(51820, "::", BACKLOG)], self.listen(PickyReactor({}), Endpoint("", 51820))
        )

    def test_no_ipv6(self) -> None:
        """A host without IPv6 listens by IPv4."""
        for number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            self.assertEqual(
                [(51820, "0.0.0.0", BACKLOG)],  # noqa: S104 - the test of it
                self.listen(PickyReactor({"::": number}), Endpoint("", 51820)),
            )

    def test_taken(self) -> None:
        """A port that is taken is one clear line, and no other port is left open."""
        reactor = PickyReactor({"192.0.2.9": errno.EADDRINUSE})
        error = self.assertRaises(
            HostError, self.listen, reactor, Endpoint("", 443), Endpoint("192.0.2.9", 51820)
        )

        self.assertIn("TCP 192.0.2.9 port 51820: Address already in use", str(error))
        self.assertIn("listen = ", str(error))
        self.assertNotIn("\n", str(error))
        self.assertEqual([], reactor.ports)

    def test_forbidden(self) -> None:
        """A port one may not have is said to be that, and not tried by IPv4."""
        error = self.assertRaises(
            HostError, self.listen, PickyReactor({"::": errno.EACCES}), Endpoint("", 443)
        )
        self.assertIn("TCP * port 443: Permission denied", str(error))


class LinkFactoryTests(SynchronousTestCase):
    """What is made for each connection."""

    def test_link(self) -> None:
        """A link of its own for each, which waits for the other side to speak."""
        links = LinkFactory(KeepingOwner(), Clock(), version=1.0, tls=False)
        first, second = links.buildProtocol(None), links.buildProtocol(None)

        self.assertIsNot(first, second)
        self.assertEqual(1.0, first.version)
