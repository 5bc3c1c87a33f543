"""One ``set`` request, applied to a device line by line, as wireguard-go does.

What came before a wrong line stays.  A peer that is made, or given a keepalive, begins when its
part of the request is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvpn.tunnel.peer import Peer
from pyvpn.wire.uapi_operations import (
    AllowedIp,
    Operation,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SelectPeer,
    SetEndpoint,
    SetFwmark,
    SetKeepalive,
    SetListenPort,
    SetPresharedKey,
    SetPrivateKey,
    UpdateOnly,
)

if TYPE_CHECKING:
    from pyvpn.wg.device import Device


class DeviceSetting:
    """Where the lines of one request take effect."""

    def __init__(self, device: Device, boottime: Callable[[], float]) -> None:
        self._device = device
        self._boottime = boottime
        self._peer: Peer | None = None
        self._is_new = False
        self._keepalive: int | None = None

    def apply(self, operation: Operation) -> None:
        """Do what one line says; raises Refusal if it cannot be done."""
        device = self._device
        match operation:
            case AllowedIp(network, length, remove):  # first: there may be 65,000 of them
                peer = self._current()
                if peer is not None:
                    change = device.remove_network if remove else device.add_network
                    change(peer, network, length)
            case SelectPeer(public):
                self.finish()
                self._select(public)
            case SetPrivateKey(key):
                device.set_private_key(key)
            case SetListenPort(port):
                device.set_listen_port(port)
            case SetFwmark(mark):
                device.set_fwmark(mark)
            case ReplacePeers():
                for public in list(device.wireguard.peers):
                    device.remove_peer(public)
            case UpdateOnly():
                if self._is_new:
                    self._remove()
            case RemovePeer():
                self._remove()
            case _:
                peer = self._current()
                if peer is not None:
                    self._apply_to(peer, operation)

    def finish(self) -> None:
        """Let the peer that was spoken of begin; the request, or its part of it, is over."""
        peer = self._current()
        keepalive, self._keepalive = self._keepalive, None
        if peer is not None:
            now = self._boottime()
            if keepalive is not None:
                peer.set_keepalive(keepalive, now)
            peer.send_staged(now)
            self._device.clockwork.arm()
        self._peer = None

    def _apply_to(self, peer: Peer, operation: Operation) -> None:
        match operation:
            case SetPresharedKey(key):
                peer.preshared_key = key
            case SetEndpoint(endpoint):
                self._device.set_endpoint(peer, endpoint)
            case SetKeepalive(seconds):
                # Sent when its endpoint is known, which may be said after this.
                self._keepalive = seconds
            case ReplaceAllowedIps():
                self._device.remove_networks(peer)

    def _select(self, public: bytes) -> None:
        device = self._device
        self._is_new = False
        if public != device.own_public:  # whose lines are read, and ignored
            self._peer = device.wireguard.peers.get(public)
            if self._peer is None:
                self._peer = device.add_peer(public)
                self._is_new = True

    def _current(self) -> Peer | None:
        """The peer spoken of; None if it is ours, not wanted, or another client removed it."""
        peer = self._peer
        if peer is not None and self._device.wireguard.peers.get(peer.public) is not peer:
            return None
        return peer

    def _remove(self) -> None:
        peer = self._current()
        self._peer = None
        self._keepalive = None
        if peer is not None:
            self._device.remove_peer(peer.public)
