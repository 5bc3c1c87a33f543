"""Short questions to the kernel's routing and links, and news of them, in the reactor's thread.

pyroute2, which :mod:`pyvpn.net.netlink` uses, is made for changing the host, in a thread of its
own: it takes a millisecond for a socket and reads every attribute there is.  The questions here
are one datagram each and come up between two packets.  The kernel answers such a question before
the system call that asks it returns, so nobody waits, and one takes 15 microseconds.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

LINK_NEWS = 0x1  # RTMGRP_LINK
ROUTE_NEWS = 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000  # addresses, routes and rules, 4 and 6

_NEWS_AT_ONCE = 256  # messages read per turn of the reactor

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_NAMESPACE = struct.Struct("=B3x")  # struct rtgenmsg
_NUMBER = struct.Struct("=I")
_SIGNED = struct.Struct("=i")

_REQUEST = 0x1
_ACKNOWLEDGE = 0x4
_ERROR = 2  # NLMSG_ERROR; with the number 0 an acknowledgement

_GETLINK = 18
_GETROUTE = 26
_NEWNSID = 88
_GETNSID = 90

_IFF_UP = 0x1
_ANY_TYPE = 0x3FFF  # an attribute's type without its flags

_SOL_NETLINK = 270
_LISTEN_ALL_NSID = 8


class Link(NamedTuple):
    """An interface, as far as anybody here wants to know."""

    name: str
    mtu: int  # bytes
    up: bool


class Questions:
    """A socket to ask by; belongs to the network namespace in which it was made.

    Every method raises OSError as the kernel answers; none needs any rights.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._number = 0

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def interface_for(self, destination: bytes, source: bytes, mark: int) -> int:
        """Return the number of the interface by which such a packet would leave.

        *destination* and *source* are packed addresses of one family.
        """
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        bits = 8 * len(destination)
        answer = self._ask(
            _GETROUTE,
            _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0)
            + _attribute(1, destination)  # RTA_DST
            + _attribute(2, source)  # RTA_SRC
            + _attribute(16, _NUMBER.pack(mark)),  # RTA_MARK
        )
        found = _attributes(answer[_ROUTE.size :]).get(4)  # RTA_OIF
        return 0 if found is None else int(_NUMBER.unpack(found)[0])

    def link(self, name: str, namespace: int | None = None) -> Link:
        """Return what there is to know of an interface, here or in another *namespace*.

        *namespace* is what :meth:`number_of_namespace` returned; it takes CAP_NET_ADMIN there.
        """
        body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(3, os.fsencode(name) + b"\0")  # IFLA_IFNAME
        if namespace is not None:
            body += _attribute(46, _SIGNED.pack(namespace))  # IFLA_TARGET_NETNSID
        answer = self._ask(_GETLINK, body)
        found = _attributes(answer[_LINK.size :])
        flags = _LINK.unpack_from(answer)[3]
        mtu = int(_NUMBER.unpack(found[4])[0])  # IFLA_MTU
        return Link(os.fsdecode(found[3].rstrip(b"\0")), mtu, bool(flags & _IFF_UP))

    def number_of_namespace(self, fd: int) -> int:
        """Return our number for the network namespace open as *fd*, given to it if it has none.

        It is the number that ``ip netns list-id`` shows, and goes with that namespace.
        """
        reference = _attribute(3, _NUMBER.pack(fd))  # NETNSA_FD
        for _ in range(2):
            answer = self._ask(_GETNSID, _NAMESPACE.pack(0) + reference)
            number: int = _SIGNED.unpack(_attributes(answer[_NAMESPACE.size :])[1])[0]
            if number >= 0:
                return number
            choose = _attribute(1, _SIGNED.pack(-1))  # NETNSA_NSID: whichever is free
            self._ask(_NEWNSID, _NAMESPACE.pack(0) + reference + choose, _ACKNOWLEDGE)
        raise OSError("the kernel gives the namespace no number")

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        self._number = self._number + 1 & 0xFFFF_FFFF
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, _REQUEST | flags, self._number, 0) + body)
        while True:
            message = self._socket.recv(65_536)
            size, kind, _, number, _ = _HEADER.unpack_from(message)
            if number != self._number:
                continue  # left over from a question whose answer there was no memory for
            if kind == _ERROR:
                error = -_SIGNED.unpack_from(message, _HEADER.size)[0]
                if error:
                    raise OSError(error, os.strerror(error))
            return message[_HEADER.size : size]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    while len(body) >= 4:
        size, kind = _ATTRIBUTE.unpack_from(body)
        found[kind & _ANY_TYPE] = body[4:size]
        body = body[max(size, 4) + 3 & ~3 :]
    return found


class NewsReactor(Protocol):
    """What we ask of the reactor."""

    def addReader(self, reader: IReadDescriptor) -> None: ...

    def removeReader(self, reader: IReadDescriptor) -> None: ...


@implementer(IReadDescriptor)
class News:
    """Calls *heard*, once a turn of the reactor, when something of those *groups* has changed.

    What has changed is not told: the messages may be lost when there are many, so whoever wants
    to know has to look anyway.

    Args:
        groups: :data:`LINK_NEWS`, :data:`ROUTE_NEWS` or both.
    """

    def __init__(self, reactor: NewsReactor, groups: int, heard: Callable[[], None]) -> None:
        self._reactor = reactor
        self._groups = groups
        self._heard = heard
        self._socket: socket.socket | None = None
        self._told_of_bug = False

    _log = Logger()

    def open(self) -> None:
        """Begin to listen, in the network namespace we are in.

        Raises:
            OSError: as the kernel says.
        """
        self.close()
        ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            ear.setblocking(False)
            ear.bind((0, self._groups))
        except BaseException:
            ear.close()
            raise
        self._socket = ear
        self._reactor.addReader(self)

    def close(self) -> None:
        """Listen no more; may be opened again."""
        if self._socket is not None:
            self._reactor.removeReader(self)
            ear, self._socket = self._socket, None
            ear.close()

    def listen_everywhere(self, everywhere: bool) -> None:
        """Hear also of the other namespaces that have a number in ours, or no longer.

        Raises:
            OSError: that takes CAP_NET_BROADCAST.
        """
        assert self._socket is not None
        self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, int(everywhere))

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "netlink"

    def doRead(self) -> None:
        """Empty the socket, and pass on that there was something."""
        if self._socket is None:
            return
        any_news = False
        for _ in range(_NEWS_AT_ONCE):
            try:
                self._socket.recv(1)  # the rest of the message is thrown away
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: there were more than the socket holds
                any_news = True
                break
            any_news = True
        if any_news:
            try:
                self._heard()
            except Exception:  # noqa: BLE001 - the reactor would take the socket away from us
                if not self._told_of_bug:
                    self._told_of_bug = True
                    self._log.failure("netlink news were lost to a bug of ours")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends."""
