"""WireGuards on a network in memory, with a clock that only the test moves.

Each end has an address; what it sends arrives at whoever has the address it was sent to, unless
a filter of the test eats it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from pyvpn.crypto.tai64n import Stamps
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path, kind_of
from tests.tunnel.packets import packed, packet

EPOCH = 1_700_000_000.0


class Sent(NamedTuple):
    """One datagram that an end has sent."""

    at: float
    datagram: bytes
    path: Path
    tos: int

    @property
    def kind(self) -> int:
        return kind_of(self.datagram)


class End:
    """One WireGuard with an address of its own."""

    def __init__(self, net: Net, address: str, seed: int) -> None:
        self.net = net
        self.address = packed(address)
        self.port = 51820
        self.sent: list[Sent] = []
        self.received: list[bytes] = []
        self.batches: list[tuple[Peer, list[bytes]]] = []
        self.counters = Counters()
        self.wg = WireGuard(
            self,
            self.deliver,
            random=random.Random(seed).randbytes,
            stamps=Stamps(lambda: EPOCH + net.now),
            unix=lambda: EPOCH + net.now,
            counters=self.counters,
        )
        self.wg.set_private_key(random.Random(seed + 1000).randbytes(32))
        assert self.wg.static is not None
        self.public = self.wg.static.public

    def send_datagrams(self, datagrams: list[bytes], path: Path, tos: int) -> int:
        for datagram in datagrams:
            sent = Sent(self.net.now, bytes(datagram), path, tos)
            self.sent.append(sent)
            self.net.flying.append((self, sent))
        return len(datagrams)

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.batches.append((peer, packets))
        self.received += packets

    @property
    def place(self) -> Path:
        """Where others find this end."""
        return Path(self.address, self.port)

    def dropped(self, reason: str) -> int:
        return self.counters.dropped[reason]

    def of_kind(self, kind: int) -> list[Sent]:
        return [sent for sent in self.sent if sent.kind == kind]


class Net:
    """Carries datagrams between ends; ``lose`` eats what it says True to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.flying: list[tuple[End, Sent]] = []
        self.ends: list[End] = []
        self.lose: Callable[[End, Sent], bool] = lambda end, sent: False
        self.mark = 0
        """The ECN field that the network gives to everything not marked "not capable"."""

    def end(self, address: str) -> End:
        end = End(self, address, len(self.ends))
        self.ends.append(end)
        return end

    def settle(self) -> None:
        """Let everything that flies arrive, and what is sent in answer too."""
        for _ in range(1000):
            flying, self.flying = self.flying, []
            for sender, sent in flying:
                if not self.lose(sender, sent):
                    self.arrive(sender, sent)
            working = [end.wg.work(self.now) for end in self.ends]
            if not self.flying and not any(working):
                return
        raise AssertionError("they talk for ever")

    def arrive(self, sender: End, sent: Sent) -> None:
        path = Path(sender.address, sender.port, local=sent.path.host)
        ecn = sent.tos & 3
        if ecn and self.mark:
            ecn = self.mark
        for end in self.ends:
            if (end.address, end.port) == (sent.path.host, sent.path.port):
                end.wg.received([sent.datagram], path, ecn, self.now)

    def run(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, and everything happen that it brings about."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step)
            for each in self.ends:
                each.wg.tick(self.now)
            self.settle()


class Pair:
    """Two ends that know each other, at rest."""

    def __init__(self, psk: bytes = bytes(32)) -> None:
        self.net = Net()
        self.left = self.net.end("192.0.2.1")
        self.right = self.net.end("192.0.2.2")
        self.to_right = self._peer(self.left, self.right, psk)
        self.to_left = self._peer(self.right, self.left, psk)

    @staticmethod
    def _peer(of: End, other: End, psk: bytes) -> Peer:
        peer = of.wg.add_peer(other.public)
        assert peer is not None
        peer.preshared_key = psk
        peer.endpoint = other.place
        peer.mtu = 1420
        return peer

    def from_left(self, *loads: bytes) -> None:
        """Send packets from left to right, and let them arrive."""
        self.to_right.send_packets([hello(load) for load in loads or (b"hello",)], self.net.now)
        self.net.settle()

    def from_right(self, *loads: bytes) -> None:
        self.to_left.send_packets([hello(load) for load in loads or (b"hello",)], self.net.now)
        self.net.settle()


def hello(load: bytes = b"hello", tos: int = 0) -> bytes:
    """A packet from one side's network to the other's."""
    made = packet("10.0.0.1", "10.0.0.2", load)
    return made[:1] + bytes((tos,)) + made[2:]
