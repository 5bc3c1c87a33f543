"""The UDP port: datagrams in runs out of the kernel, and into it along the path they are to take.

Rules of this file: nothing raises into the reactor, which would drop us and live on deaf; a
datagram the kernel does not take is counted and forgotten, never queued; no opinion about what is
in a datagram.

Why not ``reactor.listenUDP``: Twisted's port is one socket, hands out one datagram at a time with
neither our own address nor its ECN field, and raises most of what ``sendto`` raises.  With all
that overridden nothing but the name would be left of it.  So the sockets are descriptors of our
own, and what is Twisted's is the side that receives: a ``DatagramProtocol``
(:class:`RunProtocol`), which works behind Twisted's own ports too.

(A long file: what makes the sockets anew when one is lost, and what sends, receives and counts
by them meanwhile, hold to the same few facts about them.)
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from zope.interface import implementer

from pyvpn.errors import HostError, Misuse
from pyvpn.interfaces import IDatagramSink
from pyvpn.net import bpf
from pyvpn.net.ancillary import (
    MOST_AT_ONCE,
    MOST_SEGMENTS,
    Ancillary,
    runs_of_equals,
    segment_ancillary,
    source_ancillary,
    tos_ancillary,
)
from pyvpn.net.udp_reader import ReaderReactor, UdpReader, path_from
from pyvpn.net.udp_sockets import (
    FamilySockets,
    IUdpSystem,
    KernelUdpSystem,
    open_port,
    send_whole,
    set_mark,
)
from pyvpn.net.ways import SOURCE_ERRORS, Way, Ways
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path, Run
from pyvpn.wire.slab import Sealed

DATA_BATCH = 128
HANDSHAKE_BATCH = 8
"""Datagrams read per turn of the reactor and socket, so that the others get theirs; of data so
many that three pieces of 64 KiB may be one batch (:mod:`pyvpn.wire.packed`).

In a flood of initiations their socket is never empty, and an answer with a cookie costs as much as
two packets: with these bounds the data keeps three quarters of the time, whatever comes.  Without
much data there are more turns, and all of a flood is answered.  What the kernel has no room for
meanwhile it drops at a cost that we do not see.
"""

RETRY_SECONDS = 1.0


class UdpDrop(StrEnum):
    """Why a datagram was not sent, or not received."""

    FULL = "udp-full"
    """The kernel's buffer takes no more."""
    NETWORK = "udp-network-unreachable"
    """There is no route, or its interface is down."""
    HOST = "udp-host-unreachable"
    FORBIDDEN = "udp-forbidden"
    """A firewall of this host refuses it."""
    TOO_BIG = "udp-too-big"
    REFUSED = "udp-refused"
    """An address or port to which nothing can be sent."""
    FAILED = "udp-failed"
    """Any other reason."""
    NO_SOCKET = "udp-no-socket"
    """The port is closed, or not open in that address family."""
    UNREAD = "udp-read-error"
    """A socket had an error for us instead of a datagram."""


_SEND_ERRORS: dict[int | None, str] = {
    errno.EAGAIN: UdpDrop.FULL,
    errno.ENOBUFS: UdpDrop.FULL,
    errno.ENOMEM: UdpDrop.FULL,
    errno.ENETUNREACH: UdpDrop.NETWORK,
    errno.ENETDOWN: UdpDrop.NETWORK,
    errno.EADDRNOTAVAIL: UdpDrop.NETWORK,
    errno.EHOSTUNREACH: UdpDrop.HOST,
    errno.EHOSTDOWN: UdpDrop.HOST,
    errno.ECONNREFUSED: UdpDrop.HOST,
    errno.EPERM: UdpDrop.FORBIDDEN,
    errno.EACCES: UdpDrop.FORBIDDEN,
    errno.EMSGSIZE: UdpDrop.TOO_BIG,
    errno.EINVAL: UdpDrop.REFUSED,
}


# What the kernel says where several datagrams cannot leave as one: it does not know how, the
# interface leaves checksums to it, or one of them is too large for the path.
_NOT_AS_ONE = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE})


class RunProtocol(DatagramProtocol):
    """Takes what a :class:`UdpPort`, its ``transport``, receives."""

    noisy = False

    def runs_received(self, runs: list[Run]) -> None:
        """Take what came in one turn of the reactor, oldest first.

        Of a path, ``local`` is our own address that the datagrams came to, ``interface`` the
        interface.
        """
        raise NotImplementedError

    def datagramReceived(self, datagram: bytes, addr: tuple[Any, ...]) -> None:
        """What Twisted's own ports call: a run of one, of which less is known."""
        self.runs_received([([datagram], path_from(addr), 0)])


@implementer(IDatagramSink)
class UdpPort:
    """One UDP port of this host.

    Args:
        reactor: where we are read from.
        protocol: takes what arrives; started when we open, stopped when we close.
        counters: where drops go (:class:`UdpDrop`, :data:`pyvpn.net.ways.SOURCE_LOST`).
        host: the address of ours to listen at; empty: all, in IPv4 and IPv6.
        mark: SO_MARK of what is sent; 0: none.
        shed_junk: have the kernel drop datagrams that are no message of WireGuard by type,
            reserved bytes or length.  The kernel counts those (``nstat UdpInErrors``), we do not.
        data_batch, handshake_batch: datagrams read per turn of the reactor and socket.
        system: the kernel, unless a test has another.
    """

    def __init__(
        self,
        reactor: ReaderReactor,
        protocol: RunProtocol,
        counters: Counters,
        *,
        host: str = "",
        mark: int = 0,
        shed_junk: bool = True,
        data_batch: int = DATA_BATCH,
        handshake_batch: int = HANDSHAKE_BATCH,
        system: IUdpSystem | None = None,
    ) -> None:
        self.port = 0
        """The number; 0 while closed."""
        self.mark = mark
        self._reactor = reactor
        self._protocol = protocol
        self._counters = counters
        self._host = host
        self._shed = bpf.junk_filter(bpf.MESSAGES) if shed_junk else ()
        self._data_batch = data_batch
        self._handshake_batch = handshake_batch
        self._system: IUdpSystem = KernelUdpSystem() if system is None else system
        self._ways = Ways(reactor, counters, self._system)
        self._families: dict[int, FamilySockets] = {}
        self._readers: list[UdpReader] = []
        self._opening: IDelayedCall | None = None
        self._told_of_bug = False

    _log = Logger()

    # -- life

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions it is open in."""
        return frozenset(4 if family == socket.AF_INET else 6 for family in self._families)

    def open(self, port: int) -> int:
        """Bind *port* (0: the kernel chooses), begin to receive, and return its number.

        Raises:
            PortTaken: somebody else has it.
            HostError: the kernel does not give it; the text says why and what to do.
            Misuse: it is open.
        """
        if self.port:
            raise Misuse(f"UDP port {self.port} is open")
        bound = self._bind(port)
        self._ways.open()
        self._use(*bound)
        # To Twisted a datagram transport is what write() sends a single datagram by; ours is not.
        self._protocol.makeConnection(self)  # type: ignore[arg-type]
        return self.port

    def rebind(self, port: int) -> int:
        """Move to *port* (0: the kernel chooses another) and return its number.

        The old one is let go when the new one is bound.  To where it is already it moves at once.

        Raises:
            PortTaken, HostError: as :meth:`open`; the old port stays.
            Misuse: it is closed.
        """
        if not self.port:
            raise Misuse("a closed UDP port cannot move")
        if port != self.port:
            bound = self._bind(port)
            self._let_go()
            self._use(*bound)
        return self.port

    def set_mark(self, mark: int) -> None:
        """Have what is sent from now on carry *mark* (SO_MARK); 0: none.

        Raises:
            HostError: we may not; the old mark stays.
        """
        for sockets in self._families.values():
            set_mark(sockets, mark)
        self.mark = mark
        self._ways.use(self._families, mark)

    def close(self) -> None:
        """Give the port back; a closed one may be closed, or opened, again."""
        if self.port:
            self._let_go()
            self._ways.close()
            self._protocol.doStop()

    def _bind(self, port: int) -> tuple[int, dict[int, FamilySockets]]:
        return open_port(self._system, self._host, port, self.mark, self._shed)

    def _use(self, port: int, families: dict[int, FamilySockets]) -> None:
        self.port = port
        self._families = families
        self._ways.use(families, self.mark)
        for sockets in families.values():
            self._read(sockets.data, self._data_batch)
            for each in sockets.others:  # the guard, too, which says so if an operator ends it
                self._read(each, self._handshake_batch)
        if reasons := {each.undivided for each in families.values() if each.undivided}:
            self._log.warn(
                "UDP port {port}: handshakes and data share one socket, so a flood of the former"
                " crowds out the latter: {reasons}",
                port=port,
                reasons=", ".join(sorted(reasons)),
            )

    def _read(self, sock: socket.socket, batch: int) -> None:
        reader = UdpReader(
            self._reactor, sock, batch, self._pass_on, self._unread, self._read_no_more
        )
        self._readers.append(reader)
        reader.start()

    def _read_no_more(self) -> None:
        # Not at once: we are in the middle of the reactor's work on the socket, or of its end.
        if self._opening is None:
            self._opening = self._reactor.callLater(0, self._open_again)

    def _open_again(self) -> None:
        """Make our sockets anew: an operator has ended one of them (``ss -K``)."""
        port = self.port
        self._let_go()
        try:
            bound = self._bind(port)
        except HostError as error:
            self._log.error("UDP port {port} was lost: {error}", port=port, error=error)
            self.port = port
            self._opening = self._reactor.callLater(RETRY_SECONDS, self._open_again)
        else:
            self._use(*bound)

    def _let_go(self) -> None:
        if self._opening is not None and self._opening.active():
            self._opening.cancel()
        self._opening = None
        for reader in self._readers:
            reader.stop()
        for sockets in self._families.values():
            sockets.close()
        self._readers = []
        self._families = {}
        self._ways.use({}, self.mark)
        self.port = 0

    # -- datagrams

    def _pass_on(self, runs: list[Run]) -> None:
        try:
            self._protocol.runs_received(runs)
        except Exception:  # noqa: BLE001 - raised into the reactor, a bug would make us deaf
            # Told once: who can provoke the bug with a datagram could else fill the disk.
            if not self._told_of_bug:
                self._told_of_bug = True
                self._log.failure(
                    "datagrams at UDP port {port} were lost to a bug of ours", port=self.port
                )

    def _unread(self) -> None:
        self._counters.drop(UdpDrop.UNREAD)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Send each along *path*; those the kernel does not take are dropped and counted."""
        way = self._ways.find(path)
        if way is None:
            self._counters.drop(UdpDrop.NO_SOCKET, len(datagrams))
            return 0
        if isinstance(datagrams, Sealed):
            return self._send_sealed(datagrams, way, tos)
        if len(datagrams) == 1:
            return self._send_each(datagrams, way, tos)
        taken = 0
        for run in runs_of_equals(datagrams):
            if len(run) == 1 or not way.as_one:
                taken += self._send_each(run, way, tos)
            else:
                taken += self._send_as_one(run, way, tos)
        return taken

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        """Send *datagram* so that nobody may fragment it; not counted if it cannot be sent so."""
        way = self._ways.find(path)
        return way is not None and send_whole(way.sock, datagram, way.source, way.address)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        """Send each datagram along its own path, and remember nothing of it."""
        pins: dict[tuple[bytes, int], Ancillary] = {}
        for reply, path in replies:
            host, port, scope, local, interface = path
            address: tuple[str | int, ...]
            if len(host) == 4:
                address = socket.inet_ntoa(host), port
                sockets = self._families.get(socket.AF_INET)
            else:
                address = socket.inet_ntop(socket.AF_INET6, host), port, 0, scope
                sockets = self._families.get(socket.AF_INET6)
            if sockets is None:
                self._counters.drop(UdpDrop.NO_SOCKET)
                continue
            pin = pins.get((local, interface))
            if pin is None:
                pin = pins[local, interface] = source_ancillary(path)
            try:
                sockets.data.sendmsg((reply,), pin, 0, address)
            except OSError as error:
                self._refused(error)

    def _send_sealed(self, datagrams: Sealed, way: Way, tos: int) -> int:
        """Send what lies in a buffer, with as few system calls as it takes."""
        taken = 0
        for some in datagrams.pieces(MOST_AT_ONCE, MOST_SEGMENTS):
            count = len(some)
            if count == 1 or not way.as_one:
                taken += self._send_each(some, way, tos)
            else:
                taken += self._send_as_one(some, way, tos)
        return taken

    def _send_as_one(self, datagrams: Sequence[bytes], way: Way, tos: int) -> int:
        """Send what :func:`runs_of_equals` gave, with one system call."""
        pinned = bool(way.source)
        ancillary = way.source + tos_ancillary(way.version, tos)
        data: Sequence[bytes | memoryview] = datagrams
        if isinstance(datagrams, Sealed):
            size, data = datagrams.size, [datagrams.data]
        else:
            size = len(datagrams[0])
        try:
            way.sock.sendmsg(data, ancillary + segment_ancillary(size), 0, way.address)
        except OSError as error:
            if error.errno not in _NOT_AS_ONE and not (pinned and error.errno in SOURCE_ERRORS):
                self._refused(error, len(datagrams))
                return 0
            taken = self._send_each(datagrams, way, tos)
            # A source that is lost now may have been all that was wrong.
            way.as_one = error.errno not in _NOT_AS_ONE or pinned != bool(way.source)
            return taken
        return len(datagrams)

    def _send_each(self, datagrams: Iterable[bytes], way: Way, tos: int) -> int:
        send, address = way.sock.sendmsg, way.address
        ancillary = way.source + tos_ancillary(way.version, tos)
        taken = 0
        for datagram in datagrams:
            try:
                send((datagram,), ancillary, 0, address)
            except OSError as error:
                if not (way.source and error.errno in SOURCE_ERRORS):
                    self._refused(error)
                elif self._send_from_anywhere(datagram, way, tos):
                    ancillary = tos_ancillary(way.version, tos)
                    taken += 1
            else:
                taken += 1
        return taken

    def _send_from_anywhere(self, datagram: bytes, way: Way, tos: int) -> bool:
        """Try again, and if that works let the kernel choose the source from now on."""
        try:
            way.sock.sendmsg((datagram,), tos_ancillary(way.version, tos), 0, way.address)
        except OSError as error:
            self._refused(error)  # the source was not what is wrong
            return False
        self._ways.lose_source(way)
        return True

    def _refused(self, error: OSError, n: int = 1) -> None:
        self._counters.drop(_SEND_ERRORS.get(error.errno, UdpDrop.FAILED), n)
