"""Datagrams: what :class:`pyvpn.net.udp.UdpPort` is in the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zope.interface import implementer

from pyvpn.interfaces import IDatagramSink
from pyvpn.testing.simulator.trace import Packet, Place
from pyvpn.wire.datagram import Path, Run

if TYPE_CHECKING:
    from pyvpn.testing.simulator.network import Host

UDP = 17
"""The protocol's number in an IP header."""
MOST_WAITING = 277
"""Small datagrams that a socket of Linux holds as it comes; what arrives then is lost."""


@implementer(IDatagramSink)
class UdpPort:
    """One port of one host, at all its addresses.  Made by :meth:`Host.udp`.

    What arrives at the same time is handed out at once, as it is in one turn of the reactor.
    """

    def __init__(self, host: Host, port: int, receiver: Callable[[list[Run]], None]) -> None:
        self.host = host
        self.port = port
        self.receiver = receiver
        self._arrived: list[tuple[Packet, int]] = []

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Send each; none is taken in a family of which the host has no address."""
        host = self.host
        # As the real port does: from anywhere, if the address is not ours any more.
        own = host.source(path.host, path.local)
        if own is None or not host.is_up or not host.is_open(self):
            return 0
        source, target = Place(own, self.port), Place(path.host, path.port)
        send = host.network.send
        for datagram in datagrams:
            send(host, Packet(UDP, source, target, bytes(datagram), tos))
        return len(datagrams)

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0  # nobody fragments here

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        for reply, path in replies:
            self.send_datagrams([reply], path, 0)

    def close(self) -> None:
        """Give the port back; what has arrived and was not handed out yet is lost."""
        self.host.close_udp(self)

    def received(self, packet: Packet) -> None:
        """Take what has arrived; for the host."""
        stopped = self.host.is_stopped
        if stopped and len(self._arrived) >= MOST_WAITING:
            return
        if not self._arrived and not stopped:
            self.host.network.clock.soon(self._hand_out)
        self._arrived.append((packet, self.host.interface))

    def go_on(self) -> None:
        """Hand out what has waited while the process stood still; for the host."""
        if self._arrived:
            self.host.network.clock.soon(self._hand_out)

    def _hand_out(self) -> None:
        if self.host.is_stopped:
            return
        arrived, self._arrived = self._arrived, []
        if not self.host.is_open(self):
            return
        runs: list[Run] = []
        run: list[bytes] = []
        path, last = None, -1
        for (_, source, target, payload, tos), interface in arrived:
            along = Path(source.host, source.port, 0, target.host, interface)
            if along == path and tos & 3 == last:
                run.append(payload)
            else:
                path, last, run = along, tos & 3, [payload]
                runs.append((run, path, last))
        self.receiver(runs)
