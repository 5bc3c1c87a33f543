"""Outgoing connections: marked before they connect, and names that hold nobody up."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any
from unittest import SkipTest

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError, UserError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pyvpn.errors import HostError
from pyvpn.net.connect import (
    LOOKUP_SECONDS,
    DaemonResolver,
    MarkedReactor,
    prepare_socket,
)
from pyvpn.net.threads import DaemonThreads

MARK = 51820


class UnprivilegedSocket(socket.socket):
    """A socket as the kernel gives it to those without CAP_NET_ADMIN."""

    made: list[UnprivilegedSocket]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made.append(self)

    def setsockopt(self, *args: Any) -> None:
        if args[1] == socket.SO_MARK:
            raise PermissionError(1, "Operation not permitted")
        super().setsockopt(*args)


class Case(SynchronousTestCase):
    """Common to the tests below."""

    def unprivileged(self) -> list[UnprivilegedSocket]:
        """From now on forbid marks; return the list of all sockets made."""
        UnprivilegedSocket.made = []
        self.patch(socket, "socket", UnprivilegedSocket)
        return UnprivilegedSocket.made

    def need_mark(self) -> None:
        """Skip the test where marks are forbidden."""
        with socket.socket() as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            except PermissionError:
                raise SkipTest("setting SO_MARK needs CAP_NET_ADMIN (run as root)") from None


class PrepareSocketTests(Case):
    """What every outgoing socket has."""

    def test_options(self) -> None:
        """Small frames leave at once, and silence of the other side ends it after 30 s."""
        with socket.socket() as sock:
            prepare_socket(sock, 0)

            self.assertEqual(1, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertEqual(30_000, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
            self.assertEqual(0, sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))

    def test_mark(self) -> None:
        """The mark is set, also the largest."""
        self.need_mark()
        for mark in (MARK, 2**31 - 1):
            with socket.socket() as sock:
                prepare_socket(sock, mark)

                self.assertEqual(mark, sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))

    def test_largest_mark(self) -> None:
        """A mark with the highest bit is set like any other."""
        self.need_mark()
        with socket.socket() as sock:
            prepare_socket(sock, 2**32 - 1)

            mark = sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
            self.assertEqual(2**32 - 1, mark & 0xFFFFFFFF)

    def test_forbidden(self) -> None:
        """Without the right, the error names capability and option."""
        self.unprivileged()
        with socket.socket() as sock:
            error = self.assertRaises(HostError, prepare_socket, sock, MARK)

        self.assertIn("CAP_NET_ADMIN", str(error))
        self.assertIn("fwmark = 0", str(error))

    def test_no_mark_needs_no_right(self) -> None:
        """Mark 0 is no mark and needs no right."""
        self.unprivileged()
        with socket.socket() as sock:
            prepare_socket(sock, 0)


class Attempt(ClientFactory[Protocol]):
    """Notes how a connection attempt ended."""

    failure: Any = None

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.failure = reason


class MarkedReactorTests(Case):
    """The reactor that endpoints are given."""

    def setUp(self) -> None:
        """Begin with a reactor in memory."""
        self.reactor = MemoryReactorClock()

    def test_interfaces(self) -> None:
        """It is what HostnameEndpoint asks for."""
        marked = MarkedReactor(self.reactor, MARK)

        verifyObject(IReactorTime, marked)
        verifyObject(IReactorPluggableNameResolver, marked)
        verifyObject(IHostnameResolver, marked.nameResolver)

    def test_time(self) -> None:
        """Its time is the real reactor's."""
        marked = MarkedReactor(self.reactor, MARK)
        seen: list[object] = []

        call = marked.callLater(3, seen.append, "late")
        self.assertIn(call, marked.getDelayedCalls())
        self.reactor.advance(3)

        self.assertEqual(["late"], seen)
        self.assertEqual(self.reactor.seconds(), marked.seconds())

    def test_prepared_before_it_connects(self) -> None:
        """A socket of either family has all its options when nothing has been sent yet."""
        self.need_mark()
        for host in ("192.0.2.1", "2001:db8::1"):
            attempt = Attempt()

            connector: Any = MarkedReactor(self.reactor, MARK).connectTCP(host, 51820, attempt)

            sock = connector.transport.socket
            self.assertRaises(OSError, sock.getpeername)
            self.assertEqual(MARK, sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
            self.assertEqual(1, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            connector.stopConnecting()
            self.assertTrue(attempt.failure.check(UserError))
            self.assertEqual(-1, sock.fileno())

    def test_forbidden(self) -> None:
        """Without the right an endpoint fails with our text, and no socket is left open."""
        made = self.unprivileged()
        endpoint = HostnameEndpoint(MarkedReactor(self.reactor, MARK), "192.0.2.1", 51820)

        connecting = endpoint.connect(Factory.forProtocol(Protocol))
        self.reactor.advance(1)

        failure = self.failureResultOf(connecting, HostError)
        self.assertIn("CAP_NET_ADMIN", failure.getErrorMessage())
        self.assertEqual([-1], [each.fileno() for each in made])

    def test_resolver(self) -> None:
        """A resolver put in its place is used, here and only here."""

        @implementer(IHostnameResolver)
        class Nothing:
            def resolveHostName(
                self,
                resolutionReceiver: IResolutionReceiver,
                hostName: str,
                portNumber: int = 0,
                addressTypes: Sequence[type[IAddress]] | None = None,
                transportSemantics: str = "TCP",
            ) -> IHostResolution:
                resolutionReceiver.resolutionComplete()
                return None  # type: ignore[return-value]  # the endpoint does not look

        marked = MarkedReactor(self.reactor, MARK)
        before = marked.nameResolver

        self.assertIs(before, marked.installNameResolver(Nothing()))
        connecting = HostnameEndpoint(marked, "vpn.example.org", 1).connect(Factory())

        self.failureResultOf(connecting, DNSLookupError)


class Turns(Clock):
    """A reactor that turns when it is told to: for threads that report to it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self._waiting.put(lambda: callable(*args))

    def turn(self) -> None:
        """Wait for one report of a thread and handle it."""
        self._waiting.get(timeout=30)()


@implementer(IResolutionReceiver)
class Receiver:
    """Notes what a resolver says."""

    def __init__(self) -> None:
        self.began: IHostResolution | None = None
        self.addresses: list[IAddress] = []
        self.completed = 0

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.began = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        self.addresses.append(address)

    def resolutionComplete(self) -> None:
        self.completed += 1


STREAM = socket.SOCK_STREAM
ANSWERS = [
    (socket.AF_INET6, STREAM, 6, "", ("2001:db8::1", 51820, 0, 0)),
    (socket.AF_INET, STREAM, 6, "", ("192.0.2.1", 51820)),
]
ADDRESSES = [
    IPv6Address("TCP", "2001:db8::1", 51820, 0, 0),
    IPv4Address("TCP", "192.0.2.1", 51820),
]


class DaemonResolverTests(SynchronousTestCase):
    """Names become addresses, or nothing, in time."""

    def setUp(self) -> None:
        """Begin with one thread and no queue."""
        self.reactor = Turns()
        self.threads = DaemonThreads(self.reactor, 1, "resolver", 0)  # type: ignore[arg-type]  # of a reactor it uses callFromThread only
        self.addCleanup(self.threads.stop)
        self.questions: list[tuple[object, ...]] = []

    def resolver(self, answer: Callable[[], Sequence[tuple[Any, ...]]]) -> DaemonResolver:
        """Return a resolver whose C library says *answer*."""

        def getaddrinfo(*question: object) -> Sequence[tuple[Any, ...]]:
            self.questions.append(question)
            return answer()

        return DaemonResolver(self.reactor, self.threads, getaddrinfo)

    def test_interface(self) -> None:
        """It is a resolver to Twisted, and what it begins a resolution."""
        resolver, receiver = self.resolver(lambda: ()), Receiver()
        resolution = resolver.resolveHostName(receiver, "vpn.example.org")

        verifyObject(IHostnameResolver, resolver)
        verifyObject(IHostResolution, resolution)
        self.assertEqual("vpn.example.org", resolution.name)
        self.assertIs(receiver.began, resolution)

    def test_every_address(self) -> None:
        """All addresses of both families arrive, in the order of the C library."""
        receiver = Receiver()

        self.resolver(lambda: ANSWERS).resolveHostName(receiver, "vpn.example.org", 51820)
        self.assertEqual(0, receiver.completed)
        self.reactor.turn()

        self.assertEqual(ADDRESSES, receiver.addresses)
        self.assertEqual(1, receiver.completed)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_asked_anew(self) -> None:
        """Each attempt asks again: a server may have moved."""
        resolver = self.resolver(lambda: ANSWERS)
        for _ in range(2):
            resolver.resolveHostName(Receiver(), "vpn.example.org")
            self.reactor.turn()

        self.assertEqual(2, len(self.questions))

    def test_one_family(self) -> None:
        """Who wants one family gets that one asked for."""
        for wanted, family in (
            ([IPv4Address], socket.AF_INET),
            ([IPv6Address], socket.AF_INET6),
            ([IPv4Address, IPv6Address], socket.AF_UNSPEC),
            (None, socket.AF_UNSPEC),
        ):
            resolver = self.resolver(lambda: ())
            resolver.resolveHostName(Receiver(), "vpn.example.org", 1, wanted, "UDP")
            self.reactor.turn()

            self.assertEqual(("vpn.example.org", 1, family, socket.SOCK_DGRAM), self.questions[-1])

    def test_failures(self) -> None:
        """A name that does not exist, and one that cannot, have no addresses."""
        for error in (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            UnicodeError("label too long"),
            OSError(24, "Too many open files"),
        ):

            def fail(error: Exception = error) -> Sequence[tuple[Any, ...]]:
                raise error

            receiver = Receiver()
            self.resolver(fail).resolveHostName(receiver, "vpn.example.org")
            self.reactor.turn()

            self.assertEqual((1, []), (receiver.completed, receiver.addresses))

    def test_hanging(self) -> None:
        """A lookup that hangs is given up in time, and what it says later is ignored."""
        begun, go = threading.Event(), threading.Event()
        receiver = Receiver()

        def hang() -> Sequence[tuple[Any, ...]]:
            begun.set()
            go.wait(30)
            return ANSWERS

        self.resolver(hang).resolveHostName(receiver, "vpn.example.org")
        begun.wait(30)
        self.reactor.advance(LOOKUP_SECONDS - 0.1)
        self.assertEqual(0, receiver.completed)
        self.reactor.advance(0.1)
        self.assertEqual(1, receiver.completed)

        go.set()
        self.reactor.turn()
        self.assertEqual((1, []), (receiver.completed, receiver.addresses))

    def test_all_threads_taken(self) -> None:
        """While lookups hang in every thread another one has no addresses, at once."""
        go = threading.Event()
        first, second = Receiver(), Receiver()
        resolver = self.resolver(lambda: (go.wait(30) and ANSWERS) or ())

        resolver.resolveHostName(first, "vpn.example.org")
        resolver.resolveHostName(second, "vpn.example.org")

        self.assertEqual((0, 1), (first.completed, second.completed))
        go.set()
        self.reactor.turn()
        self.assertEqual((1, ADDRESSES), (first.completed, first.addresses))

    def test_cancelled(self) -> None:
        """Who cancels is told that nothing was found, once."""
        receiver = Receiver()
        resolution = self.resolver(lambda: ANSWERS).resolveHostName(receiver, "vpn.example.org")

        resolution.cancel()
        resolution.cancel()

        self.assertEqual((1, []), (receiver.completed, receiver.addresses))
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_addresses_need_no_thread(self) -> None:
        """What is an address already is answered at once, with no thread left to ask."""
        self.threads.stop()
        resolver = DaemonResolver(self.reactor, self.threads)
        for host, expected in (
            ("192.0.2.1", [ADDRESSES[1]]),
            ("2001:db8::1", [ADDRESSES[0]]),
            ("fe80::1%nowhere", []),
        ):
            receiver = Receiver()
            resolver.resolveHostName(receiver, host, 51820)

            self.assertEqual((1, expected), (receiver.completed, receiver.addresses))

    def test_receiver_that_raises(self) -> None:
        """A receiver's bug is logged and stays its own."""

        class Broken(Receiver):
            def resolutionComplete(self) -> None:
                raise ZeroDivisionError

        self.resolver(lambda: ()).resolveHostName(Broken(), "192.0.2.1")

        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
