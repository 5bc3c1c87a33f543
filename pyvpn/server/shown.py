"""The server as ``wg show`` sees it: what there is, and nothing to be set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from pyvpn.server.stock import StockDevices
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.uapi import DeviceView, PeerView
from pyvpn.wire.uapi_operations import Errno, Refusal


class Shown:
    """What :class:`pyvpn.net.uapi.UapiPort` asks; a :class:`pyvpn.wire.uapi.Configured`.

    The server's peers are its users' devices, so ``pyvpn device`` changes them, and ``wg set`` is
    refused.  The private key is told: the socket is as private as the file it comes from, and
    ``wg`` shows the public key that belongs to it.  Preshared keys are not: zeros say "none".
    """

    def __init__(self, wireguard: WireGuard, stock: StockDevices, listen_port: int) -> None:
        self._wireguard = wireguard
        self._stock = stock
        self._listen_port = listen_port

    def begin_setting(self) -> NoReturn:
        raise Refusal(Errno.NOT_PERMITTED, "the server's devices are changed by: pyvpn device")

    def describe(self) -> DeviceView:
        static = self._wireguard.static
        private = b"" if static is None else static.private
        return DeviceView(private, self._listen_port, 0, self._peers(list(self._stock.sessions)))

    def _peers(self, devices: list[int]) -> Iterator[PeerView]:
        for device in devices:
            session = self._stock.sessions.get(device)
            if session is None:  # removed while the answer was written
                continue
            peer = self._stock.peer(device)
            yield PeerView(
                peer.public,
                bytes(32),
                "" if peer.endpoint is None else str(peer.endpoint),
                peer.last_handshake,
                peer.tx_bytes,
                peer.rx_bytes,
                peer.keepalive,
                [(address, 8 * len(address)) for address in session.addresses],
            )
