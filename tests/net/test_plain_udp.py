"""The plain UDP socket: no error ends its reading, none comes out of its sending."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError, ConnectionLost
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.plain_udp import BATCH, PlainPort
from pyvpn.wire.plain_udp import LARGEST

PLACE = ("192.0.2.7", 40001)
MARK = 51820


class ScriptedSocket:
    """A socket whose kernel does what a test says."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.arrived: list[bytes | int] = []
        self.errors: list[int] = []
        """What becomes of the next things sent: an errno each, 0 is well."""
        self.sent: list[tuple[bytes, Any]] = []
        self.options: list[tuple[int, ...]] = []
        self.pending = 0
        self.own = ("192.0.2.1", 2003)
        self.closed = False

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.arrived:
            raise BlockingIOError(errno.EAGAIN, "again")
        found = self.arrived.pop(0)
        if isinstance(found, int):
            raise OSError(found, "as the test says")
        return found[:size], PLACE

    def send(self, datagram: bytes) -> int:
        return self.sendto(datagram, None)

    def sendto(self, datagram: bytes, place: Any) -> int:
        error = self.errors.pop(0) if self.errors else 0
        if error:
            raise OSError(error, "as the test says")
        self.sent.append((datagram, place))
        return len(datagram)

    def setsockopt(self, *option: Any) -> None:
        self.options.append(option[:2])

    def getsockopt(self, *_: int) -> int:
        pending, self.pending = self.pending, 0
        return pending

    def getsockname(self) -> tuple[str, int]:
        return self.own

    def bind(self, _: object) -> None:
        """Well."""

    def connect(self, _: object) -> None:
        """Well."""

    def setblocking(self, _: object) -> None:
        """Well."""

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.closed = True


class Probe:
    """A socket whose binding ends as a test says."""

    def __init__(self, error: int) -> None:
        self.error = error
        self.places: list[Any] = []

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""

    def bind(self, place: object) -> None:
        self.places.append(place)
        if self.error:
            raise OSError(self.error, "as the test says")


class Keeping(DatagramProtocol):
    """Keeps what it is told; fails upon a datagram that says so."""

    noisy = False

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Any]] = []
        self.refused = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if datagram == b"bug":
            raise ZeroDivisionError
        self.got.append((datagram, addr))

    def connectionRefused(self) -> None:
        self.refused += 1


class PortCase(SynchronousTestCase):
    """A port with such a socket."""

    def setUp(self) -> None:
        self.socket = ScriptedSocket()
        self.reactor = MemoryReactorClock()
        self.protocol = Keeping()
        self.port = self.make(self.socket, self.protocol)
        self.port.startListening()

    def make(self, sock: Any, protocol: Keeping | None = None, mark: int = 0) -> PlainPort:
        self.patch(socket, "socket", lambda *_, **__: sock)
        return PlainPort(self.reactor, 2003, protocol or Keeping(), "", mark)


class ReadingTests(PortCase):
    """What arrives, and errors among it."""

    def test_datagrams(self) -> None:
        """Each is handed on with its place, also an empty one."""
        self.socket.arrived = [b"one", b"", b"two"]
        self.port.doRead()

        self.assertEqual([(b"one", PLACE), (b"", PLACE), (b"two", PLACE)], self.protocol.got)

    def test_errors(self) -> None:
        """Whatever the kernel says, nothing is raised, and what comes after is read."""
        for number in (
            errno.ECONNREFUSED,
            errno.EHOSTUNREACH,
            errno.ENETUNREACH,
            errno.EMSGSIZE,
            errno.EPERM,
            errno.ENOBUFS,
            errno.ENOTCONN,
            12345,
        ):
            self.socket.arrived = [number, b"after"]
            self.port.doRead()
            self.port.doRead()
            self.assertEqual((b"after", PLACE), self.protocol.got[-1])
            self.assertIn(self.port, self.reactor.getReaders())

        self.assertEqual(8, len(self.protocol.got))
        self.assertEqual(1, self.protocol.refused)
        self.assertEqual(1, self.port.errors["EHOSTUNREACH"])
        self.assertEqual(1, self.port.errors["unknown"])

    def test_error_without_reading(self) -> None:
        """epoll reports an error alone as the end of the reader: it goes on instead."""
        for name in ("ECONNREFUSED", "EHOSTUNREACH"):
            self.reactor.removeReader(self.port)
            self.socket.pending = getattr(errno, name)
            self.port.connectionLost(Failure(ConnectionLost()))
            self.assertIn(self.port, self.reactor.getReaders())
            self.assertEqual(1, self.port.errors[name])
        self.assertEqual((1, False), (self.protocol.refused, self.socket.closed))

    def test_end(self) -> None:
        """At the reactor's own end it is closed."""
        self.port.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(self.socket.closed)

    def test_stop(self) -> None:
        """So it is when it is stopped, and then nothing can be sent."""
        stopped = self.port.stopListening()
        self.reactor.advance(0)
        self.successResultOf(stopped)
        self.assertTrue(self.socket.closed)
        self.assertNotIn(self.port, self.reactor.getReaders())
        self.assertEqual(errno.EBADF, self.port.send(b"late", PLACE))

    def test_batch(self) -> None:
        """A flood of the smallest datagrams is read so many at a time, for others have a turn."""
        self.socket.arrived = [b""] * 1000
        self.port.doRead()
        self.assertEqual(BATCH, len(self.protocol.got))

    def test_too_long(self) -> None:
        """A datagram that is longer than any comes a byte too long, not cut to a good one."""
        self.socket.arrived = [bytes(9000)]
        self.port.doRead()
        self.assertEqual(LARGEST + 1, len(self.protocol.got[0][0]))

    def test_bug(self) -> None:
        """A bug of ours loses one datagram, is told once, and ends nothing."""
        self.socket.arrived = [b"bug", b"bug", b"good"]
        self.port.doRead()

        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual([(b"good", PLACE)], self.protocol.got)


class SendingTests(PortCase):
    """What is sent, and what is not."""

    def test_to(self) -> None:
        """To a place, and to where it is connected."""
        self.assertEqual(0, self.port.send(b"one", PLACE))
        self.port.connect("192.0.2.9", 2003)
        self.assertEqual(0, self.port.send(b"two"))

        self.assertEqual([(b"one", PLACE), (b"two", None)], self.socket.sent)
        self.assertEqual(IPv4Address("UDP", "192.0.2.9", 2003), self.port.getPeer())

    def test_errors(self) -> None:
        """Why it was not sent is returned and counted, never raised."""
        for name in ("ENETUNREACH", "EPERM", "ENOBUFS", "EMSGSIZE", "EAGAIN"):
            number = getattr(errno, name)
            self.socket.errors = [number]
            self.assertEqual(number, self.port.send(b"x", PLACE))
            self.assertEqual(1, self.port.errors[name])
        self.assertEqual(0, self.port.send(b"x", PLACE))

    def test_refused(self) -> None:
        """An earlier datagram's refusal does not cost this one."""
        self.port.connect("192.0.2.9", 2003)
        self.socket.errors = [errno.ECONNREFUSED]

        self.assertEqual(0, self.port.send(b"x"))
        self.assertEqual(([(b"x", None)], 1), (self.socket.sent, self.protocol.refused))

    def test_refused_twice(self) -> None:
        """It is tried once more, not for ever."""
        self.port.connect("192.0.2.9", 2003)
        self.socket.errors = [errno.ECONNREFUSED] * 3

        self.assertEqual(errno.ECONNREFUSED, self.port.send(b"x"))
        self.assertEqual(1, len(self.socket.errors))

    def test_stranded(self) -> None:
        """Whether its address is still this host's is found out by binding to it once more."""
        for number, expected in ((0, False), (errno.EADDRNOTAVAIL, True), (errno.EMFILE, False)):
            probe = Probe(number)
            self.patch(socket, "socket", lambda *_, probe=probe: probe)
            self.assertEqual(expected, self.port.is_stranded())
            self.assertEqual([("192.0.2.1", 0)], probe.places)


class MakingTests(PortCase):
    """What every such socket has, and what may be in its way."""

    def test_mark(self) -> None:
        """It is marked if asked for, and its datagrams may be cut into pieces on the way."""
        marked = ScriptedSocket()
        self.make(marked, mark=MARK).startListening()

        self.assertIn((socket.SOL_SOCKET, socket.SO_MARK), marked.options)
        self.assertNotIn((socket.SOL_SOCKET, socket.SO_MARK), self.socket.options)
        self.assertIn((socket.IPPROTO_IP, 10), self.socket.options)

    def test_no_right(self) -> None:
        """Without the right to mark it there is none, and the reason has the cure."""

        class Unprivileged(ScriptedSocket):
            def setsockopt(self, *option: Any) -> None:
                if option[1] == socket.SO_MARK:
                    raise PermissionError(1, "Operation not permitted")

        refused = Unprivileged()
        error = self.assertRaises(HostError, self.make(refused, mark=MARK).startListening)
        self.assertIn("CAP_NET_ADMIN", str(error))
        self.assertTrue(refused.closed)

    def test_taken(self) -> None:
        """A port that somebody has is Twisted's usual error."""

        class Taken(ScriptedSocket):
            def bind(self, _: object) -> None:
                raise OSError(errno.EADDRINUSE, "Address already in use")

        self.assertRaises(CannotListenError, self.make(Taken()).startListening)
