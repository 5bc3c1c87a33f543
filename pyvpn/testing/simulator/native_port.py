"""A UDP port of a simulated host, as the client's data channel wants it."""

from __future__ import annotations

from collections.abc import Sequence

from pyvpn.net.clockwork import Clockwork
from pyvpn.testing.simulator.network import Host
from pyvpn.testing.simulator.udp import UdpPort
from pyvpn.wire.datagram import Path


class SimPort:
    """Implements :class:`pyvpn.client.outside.Port`."""

    def __init__(self, host: Host, clockwork: Clockwork) -> None:
        self._host = host
        self._clockwork = clockwork
        self._opened: UdpPort | None = None

    @property
    def port(self) -> int:
        return 0 if self._opened is None else self._opened.port

    def open(self, port: int) -> int:
        self._opened = self._host.udp(port, self._clockwork.runs_received)
        return self._opened.port

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        return 0 if self._opened is None else self._opened.send_datagrams(datagrams, path, tos)

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self._opened is not None and self._opened.send_whole(datagram, path)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        if self._opened is not None:
            self._opened.send_replies(replies)
