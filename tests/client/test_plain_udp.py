"""The first generation's UDP protocol at the client: what a log-in amounts to, and the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pyvpn.client import plain_udp
from pyvpn.client.machine import Setback
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.client.plain_udp import PlainUdpDialogue, open_link
from pyvpn.config import ClientConfig, Endpoint, load_client
from pyvpn.errors import ConfigError, PeerError
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.messages import RegisterAnswer
from pyvpn.wire.plain_udp import Addresses, addresses_in

ANSWER = b"10.0.0.2;10.0.0.1"
FOUR, SIX = IPv4Address("UDP", "192.0.2.9", 2003), IPv6Address("UDP", "2001:db8::9", 2003)


class AnsweredLink:
    """Stands for a link whose server answers."""

    def __init__(self) -> None:
        self.passwords: list[bytes] = []

    def log_in(self, password: bytes) -> Deferred[Addresses]:
        self.passwords.append(password)
        found = addresses_in(ANSWER)
        assert found is not None
        return succeed(found)


class DialogueTests(SynchronousTestCase):
    """The password, and what the answer means in our own words."""

    def config(self, tunnel: str = "") -> ClientConfig:
        path = Path(self.mktemp())
        path.write_text(
            f"[client]\nserver = 192.0.2.9\nprotocol = plain-udp\n[tunnel]\n{tunnel}\n"
        )
        return load_client(path)

    def introduce(self, password: Any, tunnel: str = "") -> tuple[Any, AnsweredLink]:
        link = AnsweredLink()
        dialogue = PlainUdpDialogue(self.config(tunnel), password)
        dialogue.verify(link)
        coroutine = dialogue.introduce(link)  # type: ignore[arg-type]  # all that is used of one
        return Deferred.fromCoroutine(coroutine), link

    def offer(self, tunnel: str = "") -> RegisterAnswer:
        offer: RegisterAnswer = self.successResultOf(self.introduce(lambda: "horse", tunnel)[0])
        return offer

    def test_offer(self) -> None:
        """A point-to-point link of two addresses, and packets of 1400 bytes."""
        offer = self.offer()
        self.assertEqual(
            ("10.0.0.2/32", "10.0.0.1", ("10.0.0.1/32",), 1400),
            (offer.address4, offer.server4, offer.routes, offer.mtu),
        )

    def test_routes(self) -> None:
        """The server names no networks: those that were listed here are meant."""
        listed = self.offer("accept_routes = 192.168.77.0/24, 10.9.0.0/16")
        self.assertEqual(("10.0.0.1/32", "192.168.77.0/24", "10.9.0.0/16"), listed.routes)
        self.assertEqual(("10.0.0.1/32",), self.offer("accept_routes = no").routes)

    def test_password(self) -> None:
        """The password in UTF-8, as it stands."""
        told, link = self.introduce(lambda: " h\u00f6rse ")
        self.successResultOf(told)
        self.assertEqual([" h\u00f6rse ".encode()], link.passwords)

    def test_unfit(self) -> None:
        """Without a password, or with one that cannot be, nothing is sent: a person must act."""

        def missing() -> str:
            raise ConfigError("no such file")

        for password in (lambda: None, lambda: "", lambda: "e", lambda: "r", missing):
            told, link = self.introduce(password)
            setback = self.failureResultOf(told, Setback).value
            self.assertTrue(setback.serious)
            self.assertGreaterEqual(setback.seconds, 300)
            self.assertEqual([], link.passwords)


@implementer(IHostnameResolver)
class Resolver:
    """Knows these addresses, now or when it is told to."""

    def __init__(self, *found: IAddress, later: bool = False) -> None:
        self.found = found
        self.later = later
        self.receiver: Any = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.receiver.resolutionComplete()

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        self.asked = (hostName, portNumber, transportSemantics)
        self.receiver = resolutionReceiver
        resolutionReceiver.resolutionBegan(self)  # type: ignore[arg-type]  # it can be cancelled
        if not self.later:
            for each in self.found:
                resolutionReceiver.addressResolved(each)
            resolutionReceiver.resolutionComplete()
        return self  # type: ignore[return-value]  # likewise


class ScriptedPort:
    """Stands for the socket that is made; fails as a test says."""

    made: list[ScriptedPort]
    trouble: Exception | None

    def __init__(self, reactor: Any, port: int, protocol: Any, interface: str, mark: int) -> None:
        self.made.append(self)
        self.interface, self.mark = interface, mark
        self.protocol = protocol
        self.place: tuple[str, int] | None = None
        self.open = False

    def startListening(self) -> None:
        if isinstance(self.trouble, CannotListenError):
            raise self.trouble
        self.open = True

    def connect(self, host: str, port: int) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.place = (host, port)

    def stopListening(self) -> None:
        self.open = False


class OpenTests(SynchronousTestCase):
    """From a name to a socket."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.events: list[str] = []
        self.link = PlainUdpLink(self, self.reactor, Counters())  # type: ignore[arg-type]
        self.patch(plain_udp, "PlainPort", ScriptedPort)
        self.ports: list[ScriptedPort] = []
        ScriptedPort.made = self.ports
        ScriptedPort.trouble = None

    def connected(self, link: object) -> None:
        self.events.append("connected")

    def ready(self, link: object) -> None:
        self.events.append("ready")

    def opening(self, resolver: Resolver, turn: int = 0) -> Deferred[None]:
        endpoint = Endpoint("vpn.example.org", 2003)
        coroutine = open_link(self.reactor, resolver, 51820, endpoint, turn, self.link)
        return Deferred.fromCoroutine(coroutine)

    def opened(self, resolver: Resolver, turn: int = 0) -> Deferred[None]:
        opening = self.opening(resolver, turn)
        self.reactor.advance(0)
        return opening

    def test_way(self) -> None:
        """The name is asked for, the socket marked and connected, the link begins; not before."""
        resolver = Resolver(FOUR)
        opening = self.opening(resolver)
        self.assertEqual([], self.events)
        self.reactor.advance(0)
        self.successResultOf(opening)

        self.assertEqual(("vpn.example.org", 2003, "UDP"), resolver.asked)
        [port] = self.ports
        self.assertEqual((51820, ("192.0.2.9", 2003)), (port.mark, port.place))
        self.assertEqual(["connected", "ready"], self.events)

    def test_turns(self) -> None:
        """Several addresses are tried in turn, IPv4 first: the original has no other."""
        for turn in range(4):
            self.opened(Resolver(SIX, FOUR), turn)
        self.assertEqual(
            [("192.0.2.9", ""), ("2001:db8::9", "::")] * 2,
            [(port.place and port.place[0], port.interface) for port in self.ports],
        )

    def test_no_address(self) -> None:
        """A name without an address leads nowhere."""
        error = self.failureResultOf(self.opened(Resolver()), PeerError).value
        self.assertIn("no address", str(error))

    def test_no_way(self) -> None:
        """Without a way there the socket is closed again."""
        ScriptedPort.trouble = OSError(101, "Network is unreachable")
        error = self.failureResultOf(self.opened(Resolver(FOUR)), PeerError).value
        self.assertEqual("Network is unreachable", str(error))
        self.assertEqual([False], [port.open for port in self.ports])
        self.assertEqual([], self.events)

    def test_no_socket(self) -> None:
        """Nor is a host without sockets a reason to fall over."""
        ScriptedPort.trouble = CannotListenError("", 0, OSError(24, "Too many open files"))
        self.failureResultOf(self.opened(Resolver(FOUR)), PeerError)

    def test_given_up(self) -> None:
        """A name that takes too long may be given up."""
        resolver = Resolver(FOUR, later=True)
        opening = self.opened(resolver)
        opening.addErrback(lambda _: None)
        opening.cancel()

        self.assertTrue(resolver.cancelled)
        self.assertEqual([], self.ports)
