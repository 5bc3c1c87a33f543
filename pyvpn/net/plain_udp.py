"""A UDP socket in the reactor that never ends by an error, for the first generation's protocol.

Twisted's own port is given up by the reactor after the first error that it hears of, for which
anybody's ICMP message is enough: epoll reports an error without anything to read, and that ends
every reader.  It also reads until nothing is left, so a flood of small datagrams would hold
everything else up.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from typing import Any

from twisted.internet import udp
from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pyvpn.net.connect import mark_socket
from pyvpn.wire.plain_udp import LARGEST

BATCH = 64
"""Datagrams read per turn of the reactor."""
BUFFER_BYTES = 1 << 20

_IP_MTU_DISCOVER = 10  # linux/in.h
_IPV6_MTU_DISCOVER = 23  # linux/in6.h
_PMTUDISC_DONT = 0
_NOTHING = frozenset({errno.EAGAIN, errno.EINTR})


class PlainPort(udp.Port):
    """A UDP socket, bound, or connected to one place.

    Args:
        protocol: gets the datagrams, and ``connectionRefused`` as Twisted's own port would.
        interface: an address of this host; "" or "::" is all of them.
        mark: see :func:`pyvpn.net.connect.mark_socket`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        mark: int = 0,
    ) -> None:
        # One byte more shows a datagram that is too long by its wrong length.
        super().__init__(port, protocol, interface, LARGEST + 1, reactor)
        self.errors: Counter[str] = Counter()
        """How often the kernel refused to send, or told of an error, by its name (EPERM)."""
        self._mark = mark
        self._told_of_bug = False

    def createInternetSocket(self) -> socket.socket:
        sock: socket.socket = super().createInternetSocket()
        try:
            mark_socket(sock, self._mark)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            # The original's MTU leaves no room for narrow paths: rather in pieces than not.
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        except BaseException:
            sock.close()
            raise
        return sock

    def doRead(self) -> None:
        for _ in range(BATCH):
            try:
                datagram, place = self.socket.recvfrom(self.maxPacketSize)
            except OSError as error:
                if error.errno not in _NOTHING:
                    self._note(error)
                return
            try:
                self.protocol.datagramReceived(datagram, place[:2])
            except Exception:  # noqa: BLE001 - raised into the reactor, a bug would end the port
                # Told once: who can provoke the bug with a datagram could else fill the disk.
                if not self._told_of_bug:
                    self._told_of_bug = True
                    self._log.failure("a datagram was lost to a bug of ours")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Close; or go on, if the reactor only saw that an error waits."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if reason else 0
        if error:
            self._note(OSError(error, ""))
            self.startReading()
        else:
            super().connectionLost(reason)

    def send(self, datagram: bytes, place: tuple[str, int] | None = None) -> int:
        """Send *datagram* to *place*, or to where we are connected.

        Returns:
            0, or the errno of why it was not sent, which is counted.  Never raises.
        """
        if not self.connected:
            return errno.EBADF
        error = self._try(datagram, place)
        if error == errno.ECONNREFUSED:
            # That is what became of an earlier one; this one has not been tried.
            error = self._try(datagram, place)
        return error

    def _try(self, datagram: bytes, place: tuple[str, int] | None) -> int:
        try:
            if place is None:
                self.socket.send(datagram)
            else:
                self.socket.sendto(datagram, place)
        except OSError as error:
            self._note(error)
            return error.errno or errno.EIO
        return 0

    def _note(self, error: OSError) -> None:
        self.errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
        if error.errno == errno.ECONNREFUSED:
            self.protocol.connectionRefused()

    def is_stranded(self) -> bool:
        """Whether this host has lost the address that we got when we were connected.

        To the sender the kernel says no more than "unreachable".
        """
        own = self.getHost()
        try:
            with socket.socket(self.addressFamily, socket.SOCK_DGRAM) as probe:
                probe.bind((own.host, 0))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
        return False

    def getPeer(self) -> IPv4Address | IPv6Address | None:
        """Where we are connected; None if we are not."""
        if self._connectedAddr is None:
            return None
        host, number = self._connectedAddr
        return (IPv6Address if isIPv6Address(host) else IPv4Address)("UDP", host, number)
