"""The sockets of one UDP port: how they share it, and what is set on them.

A port has, for each address family, a socket for data, one for who knocks (initiations without a
cookie), and one for what answers something of ours (initiations with one, responses, cookie
replies).  Each has a buffer of its own, so a flood of initiations, which anybody can send, fills
only the second, and who has been given a cookie need not queue there again.  The kernel sorts by
the first bytes (:data:`pyvpn.net.bpf.SPLIT`).  It does that for sockets which share a port by
SO_REUSEPORT, and only as long as they have it set: it asks one of them with each datagram.
But while it is set, another process of the same user could bind the port too, and nobody would
notice.  Hence one socket more, the guard.  It is bound to the same address and to an interface
that does not exist, so no datagram is ever for it.  It alone has SO_REUSEPORT cleared, and it lies
where the kernel looks first when somebody binds.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zope.interface import Interface, implementer

from pyvpn.errors import HostError
from pyvpn.net import bpf
from pyvpn.net.ancillary import IP_PKTINFO, UDP_GRO, Ancillary
from pyvpn.net.rtnetlink import ROUTE_NEWS, News, NewsReactor, Questions

DATA_BUFFER = 4 << 20
HANDSHAKE_BUFFER = 4 << 20
"""Bytes; the kernel gives twice as many and counts its own book-keeping, so this is some ten
thousand handshake messages: a second of a flood, for when we do not get the processor at once.
Who waits longer than that asks again anyway."""

TRIES = 100
"""How often the kernel may choose a port that is free in one family and taken in the other."""

_NO_INTERFACE = 0x7FFF_FFFF  # they are numbered from 1 up

# What Python 3.11 has no name for, from the kernel's headers.
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_BINDTOIFINDEX = 62
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DONT = 0
_PMTUDISC_PROBE = 3
_IPV6_DONTFRAG = 62

_OPTIONS: dict[int, tuple[tuple[int, int, int], ...]] = {
    socket.AF_INET: (
        (socket.IPPROTO_IP, IP_PKTINFO, 1),
        (socket.IPPROTO_IP, socket.IP_RECVTOS, 1),
        # DF clear: a datagram larger than the path takes is cut into fragments, not lost.
        (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT),
    ),
    socket.AF_INET6: (
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),
        (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),
        (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1),
        (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT),
    ),
}

# When somebody binds, the kernel goes through the sockets of the port, and the first that is in
# question decides.  It puts new ones in front; but behind, IPv6 ones that have SO_REUSEPORT set.
# Those that share must be bound in the order of bpf.KNOCK_SOCKET, DATA_SOCKET and ANSWER_SOCKET.
_ORDER: dict[int, tuple[str, ...]] = {
    socket.AF_INET: ("knocks", "data", "answers", "guard"),
    socket.AF_INET6: ("guard", "knocks", "data", "answers"),
}
_BUFFERS = {
    "data": DATA_BUFFER,
    "knocks": HANDSHAKE_BUFFER,
    "answers": HANDSHAKE_BUFFER,
    "guard": 0,
}

_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL})
_CURES = {
    errno.EADDRNOTAVAIL: "this host does not have that address",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
    errno.EMFILE: "too many open files (see: ulimit -n)",
}


class PortTaken(HostError):
    """Somebody else has the port."""


class IUdpSystem(Interface):
    """What a UDP port needs of the kernel.  All raise OSError, as the kernel would."""

    def socket(family: int) -> socket.socket:
        """Make a UDP socket that does not block and is closed on exec."""

    def questions() -> Questions:
        """Make what tells by which interface a datagram would leave."""

    def news(reactor: NewsReactor, heard: Callable[[], None]) -> News:
        """Make what calls *heard* when addresses, routes or rules have changed."""


@implementer(IUdpSystem)
class KernelUdpSystem:
    """The real one."""

    @staticmethod
    def socket(family: int) -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setblocking(False)
        return made

    @staticmethod
    def questions() -> Questions:
        return Questions()

    @staticmethod
    def news(reactor: NewsReactor, heard: Callable[[], None]) -> News:
        return News(reactor, ROUTE_NEWS, heard)


@dataclass(slots=True)
class FamilySockets:
    """What one address family has of the port."""

    data: socket.socket
    """Receives data, and sends everything."""
    knocks: socket.socket | None = None
    """None: handshakes arrive among the data."""
    answers: socket.socket | None = None
    guard: socket.socket | None = None
    undivided: str = ""
    """Why there are no others, in words."""

    @property
    def others(self) -> list[socket.socket]:
        """All but the one for data."""
        return [each for each in (self.knocks, self.answers, self.guard) if each is not None]

    def close(self) -> None:
        for each in (self.data, *self.others):
            each.close()


def open_port(
    system: IUdpSystem, host: str, port: int, mark: int, shed: Iterable[bpf.Instruction]
) -> tuple[int, dict[int, FamilySockets]]:
    """Bind the sockets of one port.

    Args:
        host: an address of ours; empty: all of them, in both families if this host has both.
        port: 0: the kernel chooses one that is free in both.
        mark: SO_MARK of what is sent; 0: none.
        shed: a filter to put before each socket; empty: none.

    Returns:
        The port, and what each family (AF_INET, AF_INET6) has of it.

    Raises:
        PortTaken: it is somebody else's.
        HostError: the kernel does not give it for another reason; the text has the cure.
    """
    places = _places(host)
    shed = tuple(shed)
    for tries_left in reversed(range(TRIES)):
        opened: dict[int, FamilySockets] = {}
        number = port
        try:
            for family, place in places.items():
                try:
                    sockets = _open_family(system, family, _at(place, number), shed)
                except OSError as error:
                    if host or error.errno not in _NO_FAMILY:
                        raise
                    continue
                opened[family] = sockets
                number = sockets.data.getsockname()[1]
                set_mark(sockets, mark)
            if not opened:
                raise OSError(errno.EAFNOSUPPORT, "there is neither IPv4 nor IPv6")
        except BaseException as error:
            for sockets in opened.values():
                sockets.close()
            if not isinstance(error, OSError):
                raise
            if port == 0 and error.errno == errno.EADDRINUSE and tries_left:
                continue
            raise _open_error(host, port, error) from error
        return number, opened
    raise AssertionError("the last try returned or raised")


def set_mark(sockets: FamilySockets, mark: int) -> None:
    """Have all that is sent from now on carry *mark*; 0: none.

    Raises:
        HostError: we may not; nothing is changed.
    """
    sender = sockets.data
    if mark == 0 == sender.getsockopt(socket.SOL_SOCKET, socket.SO_MARK):
        return
    try:
        # As bytes: Python takes no int beyond 2**31 - 1 here, the kernel 32 bits.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
    except PermissionError as error:
        raise HostError(
            "no permission to mark datagrams (SO_MARK): run with CAP_NET_ADMIN, or set no mark"
        ) from error


def _places(host: str) -> dict[int, tuple[Any, ...]]:
    if not host:
        return {socket.AF_INET: ("", 0), socket.AF_INET6: ("::", 0, 0, 0)}
    try:
        [(family, _, _, _, place)] = socket.getaddrinfo(
            host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, ValueError) as error:
        raise HostError(f"cannot open a UDP port at {host!r}: that is no address") from error
    return {family: place}


def _at(place: tuple[Any, ...], port: int) -> tuple[Any, ...]:
    return (place[0], port, *place[2:])


def _open_family(
    system: IUdpSystem, family: int, place: tuple[Any, ...], shed: tuple[bpf.Instruction, ...]
) -> FamilySockets:
    first = _ORDER[family][0]
    # Not shared: else we might join others who share the port already, and get half of theirs.
    made = {first: _bound(system, family, first, place, shed)}
    place = _at(place, made[first].getsockname()[1])
    try:
        for role in _ORDER[family]:
            if role != first:
                made[role] = _bound(system, family, role, place, shed, shared=True)
            if role == "guard":
                # Not before it is bound: IPv6 wants an interface that exists for some addresses.
                made[role].setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
            _share(made[role], True)
        bpf.attach(made["knocks"], bpf.SO_ATTACH_REUSEPORT_CBPF, bpf.SPLIT)
        # Data only: the junk filter knows how long a single handshake message is.
        with suppress(OSError):  # then they come one by one
            made["data"].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        _share(made["guard"], False)
        if not _is_taken(system, family, place):
            raise OSError(0, "another process could bind the port too")
    except BaseException as error:
        for each in made.values():
            each.close()
        if not isinstance(error, OSError):
            raise
        alone = _bound(system, family, "data", place, shed)
        return FamilySockets(alone, undivided=error.strerror or str(error))
    return FamilySockets(made["data"], made["knocks"], made["answers"], made["guard"])


def _bound(
    system: IUdpSystem,
    family: int,
    role: str,
    place: tuple[Any, ...],
    shed: tuple[bpf.Instruction, ...],
    shared: bool = False,
) -> socket.socket:
    """Return a socket of *family*, ready for its *role*."""
    made = system.socket(family)
    try:
        for option in _OPTIONS[family]:
            made.setsockopt(*option)
        if size := _BUFFERS[role]:
            _enlarge_buffers(made, size)
        if shed:
            with suppress(OSError):  # then junk costs us a system call each, and is all
                bpf.attach(made, bpf.SO_ATTACH_FILTER, shed)
        if shared:
            _share(made, True)
        made.bind(place)
    except BaseException:
        made.close()
        raise
    return made


def _share(sock: socket.socket, shared: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))


def _is_taken(system: IUdpSystem, family: int, place: tuple[Any, ...]) -> bool:
    """Whether another process is refused the port even if it is ready to share."""
    try:
        _bound(system, family, "data", place, (), shared=True).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _enlarge_buffers(sock: socket.socket, size: int) -> None:
    # The first of each pair goes beyond net.core.rmem_max and wmem_max, with CAP_NET_ADMIN.
    for force, ask in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, ask, size)


def _open_error(host: str, port: int, error: OSError) -> HostError:
    attempt = f"cannot open UDP port {port}{' at ' + host if host else ''}: "
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"{attempt}is another WireGuard or pyvpn server running?  ss -ulpn sport = :{port}  "
            "shows it (if not, it is WireGuard in the kernel); stop it, or choose another port"
        )
    return HostError(attempt + _CURES.get(error.errno or 0, error.strerror or str(error)))


def send_whole(sock: socket.socket, datagram: bytes, ancillary: Ancillary, address: Any) -> bool:
    """Send *datagram* so that nobody may fragment it; False when the kernel does not take it.

    What it has heard of the path's MTU does not matter, only what its own interface takes.  IPv4
    has this per socket only; nothing else is sent in between.
    """
    if sock.family == socket.AF_INET:
        option = socket.IPPROTO_IP, _IP_MTU_DISCOVER
    else:
        option = socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER
        ancillary = [*ancillary, (socket.IPPROTO_IPV6, _IPV6_DONTFRAG, struct.pack("=i", 1))]
    try:
        sock.setsockopt(*option, _PMTUDISC_PROBE)
        try:
            sock.sendmsg((datagram,), ancillary, 0, address)
        finally:
            sock.setsockopt(*option, _PMTUDISC_DONT)
    except OSError:
        return False
    return True
