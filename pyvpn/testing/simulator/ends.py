"""WireGuard devices on a simulated network, as ``wg`` would have set them up.

Each is an interface of its own: packets go to the peer whose allowed networks hold their
destination, and come from peers only out of these.  So a server and a stock app are the same thing
with a different number of peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import Misuse
from pyvpn.net.clockwork import Clockwork
from pyvpn.testing.simulator.network import Host
from pyvpn.testing.simulator.udp import UdpPort
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import OwnRoutes, Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path
from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.rebuild import SuperPacket

EPOCH = 1_700_000_000.0
"""Unix time at the clock's zero."""
PORT = 51_820
MTU = 1420

Prefix = tuple[bytes, int]
"""Packed address and length of its prefix."""


@dataclass(frozen=True, slots=True)
class PeerSetting:
    """What a configuration says of one peer, and what is written down while we run."""

    public: bytes
    networks: tuple[Prefix, ...]
    """Allowed IPs."""
    endpoint: Path | None = None
    keepalive: int = 0
    preshared: bytes = bytes(32)
    newest_stamp: bytes = bytes(12)


class MemoryTun:
    """A TUN of which nobody reads but the test."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        """Everything that came out of the tunnel, in order; nothing while somebody takes it."""
        self.taker: Callable[[list[bytes]], None] | None = None
        """Takes what comes out; it must not give the tunnel anything before it returns."""

    def send_packets(self, packets: list[bytes]) -> int:
        if self.taker is None:
            self.packets += packets
        else:
            self.taker(packets)
        return len(packets)

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        return sum(self.send_packets(each.cut()) for each in packets)


class WireGuardEnd:
    """One WireGuard interface at one host, with its process.

    It runs from the beginning.

    Args:
        port: UDP; 0: another one at each start, as apps have it.
        remembers: whether endpoints and timestamps of peers outlive the process, as they do with
            pyvpn; a stock one knows after a restart what its file says.
    """

    def __init__(self, host: Host, port: int = PORT, *, remembers: bool = False) -> None:
        network = host.network
        self.host = host
        self.clock = network.clock
        self.tun = MemoryTun()
        self.counters = Counters()
        """Of all its lives."""
        self.settings: dict[bytes, PeerSetting] = {}
        """By public key: what the next process starts with."""
        self.lives = 0
        """How often it was started."""
        self.udp: UdpPort | None = None
        """None while it does not run."""
        self.wall_error = 0.0
        """Seconds by which its wall clock is fast."""
        self._port = port
        self._remembers = remembers
        self._random = network.randbytes()
        self._static = StaticKey(self._random(32))
        self._floor = b""  # no timestamp was ever sent that is later
        self.start()

    # -- life

    def start(self) -> None:
        """Run, with what is written down; Misuse: it does."""
        if self.udp is not None:
            raise Misuse(f"{self} runs")
        self.lives += 1
        self.udp = port = self.host.udp(self._port, lambda runs: clockwork.runs_received(runs))
        self._stamps = Stamps(self._unix, self._floor)
        self.router = Router(self.tun, self.counters, one_link=True)
        self.wireguard = WireGuard(
            port,
            self._deliver,
            random=self._random,
            stamps=self._stamps,
            unix=self._unix,
            counters=self.counters,
        )
        self.wireguard.set_private_key(self._static.private)
        self.clockwork = clockwork = Clockwork(self.clock, self.wireguard, self.clock.seconds)
        self.host.process = clockwork
        for setting in self.settings.values():
            self._begin(setting)
        self.clockwork.arm()

    def kill(self) -> None:
        """End at once, with no farewell; every key and session is gone."""
        if self.udp is None:
            return
        self._floor = self._stamps.last
        if self._remembers:
            for public, peer in self.wireguard.peers.items():
                self.settings[public] = replace(
                    self.settings[public],
                    endpoint=peer.endpoint,
                    newest_stamp=peer.newest_stamp,
                )
        self.clockwork.stop()
        self.udp.close()
        self.udp = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.udp is not None

    # -- what wg and the kernel do

    @property
    def public(self) -> bytes:
        """Its key, 32 bytes."""
        return self._static.public

    @property
    def place(self) -> Path:
        """Where others find it: its first address."""
        return self.place_of(0)

    def place_of(self, number: int) -> Path:
        """Where others find it by its address of that number."""
        return Path(self.host.addresses[number], self.udp.port if self.udp else self._port)

    def add_peer(self, setting: PeerSetting) -> None:
        """Know a peer, now and after each start."""
        self.settings[setting.public] = setting
        if self.is_running:
            self._begin(setting)
            self.clockwork.arm()

    def set_endpoint(self, public: bytes, endpoint: Path) -> None:
        """Send to that peer *endpoint* from now on, until it shows itself elsewhere."""
        self.settings[public] = replace(self.settings[public], endpoint=endpoint)
        if self.is_running:
            self.wireguard.peers[public].endpoint = endpoint

    def peer(self, public: bytes) -> Peer:
        """Return the peer of that key, as the running process has it."""
        return self.wireguard.peers[public]

    def send(self, *packets: bytes) -> None:
        """Have programs of the host send *packets* into the tunnel; without process, nowhere.

        Nor while that stands still: what then waits in the TUN is not told of here.
        """
        if self.is_running and not self.host.is_stopped:
            self.router.packets_from_tun(list(packets), self.clock.seconds())
            self.clockwork.arm()

    # -- inside

    def _begin(self, setting: PeerSetting) -> None:
        now = self.clock.seconds()
        peer = self.wireguard.add_peer(setting.public)
        assert peer is not None, "our own key as a peer's"
        peer.mtu = MTU
        peer.endpoint = setting.endpoint
        peer.preshared_key = setting.preshared
        peer.newest_stamp = setting.newest_stamp
        session = Session(0, 0, setting.public[:4].hex(), (), (), now)
        session.sources = OwnRoutes(self.router, session)
        session.attach(peer, now)
        self.router.add(session)
        for network, length in setting.networks:
            self.router.add_route(network, length, session)
        peer.owner = session
        peer.set_keepalive(setting.keepalive, now)

    def _deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        session = peer.owner
        assert isinstance(session, Session)
        self.router.packets_from_session(session, packets, now)

    def _unix(self) -> float:
        return EPOCH + self.clock.seconds() + self.wall_error

    def __repr__(self) -> str:
        """Where it runs."""
        return f"<WireGuardEnd at {self.host.name}>"


def introduce(
    server: WireGuardEnd,
    client: WireGuardEnd,
    address: bytes,
    *,
    networks: tuple[Prefix, ...] = ((bytes(4), 0),),
    keepalive: int = 25,
    place: Path | None = None,
) -> None:
    """Let *client* have the packed *address* at *server*, and reach *networks* by it.

    Args:
        place: where the client looks for the server; its first address if nothing is said.
    """
    server.add_peer(PeerSetting(client.public, ((address, 8 * len(address)),)))
    client.add_peer(
        PeerSetting(server.public, networks, place or server.place, keepalive=keepalive)
    )


def packet_between(source: bytes, destination: bytes, load: bytes) -> bytes:
    """Return a UDP packet between two packed addresses of one family, which carries *load*."""
    if len(source) == 4:
        head = b"\x45\0" + (28 + len(load)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0"
    else:
        head = b"\x60\0\0\0" + (8 + len(load)).to_bytes(2, "big") + b"\x11\x40"
    udp = b"\x04\0\x04\0" + (8 + len(load)).to_bytes(2, "big") + b"\0\0"
    packet = head + source + destination + udp + load
    assert endpoints_of(packet) == (source, destination)
    return packet


def load_of(packet: bytes) -> bytes:
    """Return what :func:`packet_between` put in."""
    return packet[28 if packet[0] >> 4 == 4 else 48 :]
