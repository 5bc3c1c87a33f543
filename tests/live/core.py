"""A WireGuard of our own core on a host of the lab, without an interface.

It does what no app does: sends any packet in a tunnel, any datagram beside it, has any time on
its clock, and keeps all that it has sent and heard.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import key_from_base64
from pyvpn.net.process import boottime
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path
from tests.live.stock import DeviceFile, Lab


class Core:
    """One peer, the server of *file*, and the socket to talk to it.

    Args:
        ahead: seconds that its clock runs ahead of the right time.
    """

    def __init__(
        self, lab: Lab, host: str, file: DeviceFile, *, ahead: float = 0.0, port: int = 0
    ) -> None:
        address, _, its_port = file.value("Endpoint").rpartition(":")
        self.file = file
        self.server = address.strip("[]"), int(its_port)
        family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
        with lab.hosts[host].inside():
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("", port))
        self.sent: list[bytes] = []
        """Datagrams."""
        self.heard: list[bytes] = []
        self.packets: list[bytes] = []
        """Inner packets that have come."""
        self.secrets: list[bytes] = []
        """What it has drawn as private keys of handshakes, each 32 bytes."""
        self.counters = Counters()

        def unix() -> float:
            return time.time() + ahead

        self.wireguard = WireGuard(
            self,
            lambda peer, packets, now: self.packets.extend(packets),
            random=self._random,
            stamps=Stamps(unix),
            unix=unix,
            counters=self.counters,
        )
        self.wireguard.set_private_key(key_from_base64(file.value("PrivateKey")))
        peer = self.wireguard.add_peer(key_from_base64(file.value("PublicKey")))
        assert peer is not None
        self.peer: Peer = peer
        if secret := file.value("PresharedKey"):
            peer.preshared_key = key_from_base64(secret)
        peer.endpoint = Path(ip_address(self.server[0]).packed, self.server[1])

    def __enter__(self) -> Core:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send_whole(self, datagram: bytes, path: Path) -> bool: ...

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        for reply, path in replies:
            self.send_datagrams([reply], path, 0)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Called by the core: along *path*, whatever the marks."""
        for datagram in datagrams:
            self.send_datagram(bytes(datagram), (str(ip_address(path.host)), path.port))
        return len(datagrams)

    def send_datagram(self, datagram: bytes, to: tuple[str, int] | None = None) -> None:
        """Send something beside the tunnel, to the server or somebody else."""
        self.sent.append(datagram)
        self.socket.sendto(datagram, to or self.server)

    def send(self, *packets: bytes) -> None:
        """Send packets through the tunnel, as one run."""
        self.peer.send_packets(list(packets), boottime())

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Live for so long, or *until* something is the case; whether it is."""
        end = time.monotonic() + seconds
        while not (done := until()) and time.monotonic() < end:
            self.turn(bool(select.select([self.socket], [], [], 0.02)[0]))
        return done

    def turn(self, ready: bool) -> None:
        """Do what is due, and take a datagram if one is there."""
        if ready:
            datagram, source = self.socket.recvfrom(65536)
            self.heard.append(datagram)
            path = Path(ip_address(source[0]).packed, source[1])
            self.wireguard.received([datagram], path, 0, boottime())
        while self.wireguard.work(boottime()):
            pass
        self.wireguard.tick(boottime())

    def shake_hands(self, seconds: float = 10) -> None:
        """Begin a handshake, and see it through."""
        before = self.wireguard.handshakes
        self.peer.send_keepalive(boottime())
        if not self.run(seconds, lambda: self.wireguard.handshakes > before):
            raise TimeoutError("no handshake")

    def _random(self, size: int) -> bytes:
        drawn = os.urandom(size)
        if size == 32:
            self.secrets.append(drawn)
        return drawn
