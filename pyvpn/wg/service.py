"""The service behind ``pyvpn wg``: it owns the TUN, the UDP port and the socket for ``wg``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from pyvpn.net.link_state import LinkWatch
from pyvpn.net.process import boottime
from pyvpn.net.rtnetlink import Link
from pyvpn.net.tun import Tun
from pyvpn.net.tun_link import prepare_link
from pyvpn.net.uapi import UapiPort
from pyvpn.net.uapi_socket import DIRECTORY
from pyvpn.net.udp import RunProtocol, UdpPort
from pyvpn.tunnel.counters import Counters
from pyvpn.wg.device import DEFAULT_MTU, Device
from pyvpn.wire.datagram import Run

_log = Logger()


class WgService(Service):
    """One WireGuard device, from its interface's creation to its end.

    The interface is made once.  When somebody deletes it, or removes the socket, the service
    asks to be *ended*, as wireguard-go ends then.

    Args:
        ended: told in words why there is no more to do.
        directory: where the socket for ``wg`` is made.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        ended: Callable[[str], None],
        directory: Path = DIRECTORY,
    ) -> None:
        self._ended = ended
        self.counters = Counters()
        arrivals = _Arrivals()
        self._tun = Tun(reactor, name, None, self._packets_from_tun, ended, self.counters)
        self._udp = UdpPort(reactor, arrivals, self.counters)
        self.device = arrivals.device = Device(
            reactor,
            self._tun,
            self._udp,
            self.counters,
            boottime=boottime,
            unix=time.time,
            random=os.urandom,
        )
        self._watch = LinkWatch(reactor, self._tun.fileno, self._link_changed)
        self._uapi = UapiPort(reactor, self.device, name, self._socket_removed, directory)

    def startService(self) -> None:
        """Make the socket and the interface, which is down at first.

        Raises:
            HostError: one of them cannot be had; nothing is left then.
        """
        try:
            self._uapi.open()  # first: it says who has the name
            self._tun.open()
            prepare_link(self._tun.name, DEFAULT_MTU)
            self._tun.start()
            self._link_changed(self._watch.start())
        except BaseException:
            self._close()
            raise
        super().startService()
        _log.info("{name} is there", name=self._tun.name)

    def stopService(self) -> None:
        """Take everything away again."""
        super().stopService()
        self._close()

    def log_status(self) -> None:
        """Write who is here and what was dropped to the log."""
        _log.info(
            "{name}: {peers} peers, {handshakes} handshakes, dropped {dropped}",
            name=self._tun.name,
            peers=len(self.device.wireguard.peers),
            handshakes=self.device.wireguard.handshakes,
            dropped={str(why): n for why, n in self.counters.dropped.items()},
        )

    def _close(self) -> None:
        self._uapi.close()
        self._watch.stop()
        self.device.close()
        self._tun.close()

    def _packets_from_tun(self, packets: list[bytes]) -> None:
        self.device.packets_from_tun(packets)

    def _link_changed(self, link: Link) -> None:
        _log.debug("the interface is now {link}", link=link)
        self.device.set_link(link.up, link.mtu)

    def _socket_removed(self) -> None:
        self._ended("the socket for wg was removed")


class _Arrivals(RunProtocol):
    device: Device

    def runs_received(self, runs: list[Run]) -> None:
        self.device.clockwork.runs_received(runs)
