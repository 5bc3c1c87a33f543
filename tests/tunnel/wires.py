"""WireGuards on a network in memory, with a clock that only the test moves.

Each end has an address; what it sends arrives at whoever has the address it was sent to, unless
a filter of the test eats it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.noise import InitiatorHandshake
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
        self._random = random.Random(seed).randbytes
        self._begin(random.Random(seed + 1000).randbytes(32))

    def _begin(self, private: bytes, floor: bytes = b"") -> None:
        self.stamps = Stamps(lambda: EPOCH + self.net.now, floor)
        self.wg = WireGuard(
            self,
            lambda peer, packets, now: self.deliver(peer, packets, now),
            random=self._random,
            stamps=self.stamps,
            unix=lambda: EPOCH + self.net.now,
            counters=self.counters,
            native=lambda peer, payloads, now: self.native(peer, payloads, now),
            doubted=lambda peer, now: self.doubted(peer, now),
            expected=lambda public: self.expected(public),
        )
        self.wg.set_private_key(private)
        assert self.wg.static is not None
        self.public = self.wg.static.public

    def restart(self) -> None:
        """Forget everything but keys, endpoints, and the timestamps that were written down."""
        before = self.wg
        assert before.static is not None
        self._begin(before.static.private, self.stamps.last)
        for public, old in before.peers.items():
            peer = self.wg.add_peer(public)
            assert peer is not None
            for name in ("endpoint", "preshared_key", "keepalive", "mtu", "newest_stamp"):
                setattr(peer, name, getattr(old, name))

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        for reply, path in replies:
            self.send_datagrams([reply], path, 0)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        assert datagrams, "nothing to send"
        for datagram in datagrams:
            sent = Sent(self.net.now, bytes(datagram), path, tos)
            self.sent.append(sent)
            self.net.flying.append((self, sent))
        return len(datagrams)

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.batches.append((peer, packets))
        self.received += packets

    def native(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        """Takes what is no IP packet, if a peer is one of ours."""

    def doubted(self, peer: Peer, now: float) -> None:
        """Told of a peer of ours that does not answer."""

    def expected(self, public: bytes) -> Peer | None:
        """Asked for a peer that nobody has added."""
        return None

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
        self.delay = 0.0
        """Seconds that everything is on its way."""
        self.mark = 0
        """The ECN field that the network gives to everything not marked "not capable"."""

    def end(self, address: str) -> End:
        end = End(self, address, len(self.ends))
        self.ends.append(end)
        return end

    def settle(self) -> None:
        """Let everything arrive that is due, and what is sent in answer too."""
        for _ in range(1000):
            flying, self.flying = self.flying, []
            for sender, sent in flying:
                if not self.is_due(sent):
                    self.flying.append((sender, sent))
                elif not self.lose(sender, sent):
                    self.arrive(sender, sent)
            working = [end.wg.work(self.now) for end in self.ends]
            if not any(working) and not any(self.is_due(sent) for _, sent in self.flying):
                return
        raise AssertionError("they talk for ever")

    def is_due(self, sent: Sent) -> bool:
        return sent.at + self.delay <= self.now + 1e-9

    def arrive(self, sender: End, sent: Sent) -> None:
        path = Path(sender.address, sender.port, local=sent.path.host)
        ecn = sent.tos & 3
        if ecn and self.mark:
            ecn = self.mark
        for end in self.ends:
            if (end.address, end.port) == (sent.path.host, sent.path.port):
                end.wg.received([sent.datagram], path, ecn, self.now)

    def run(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, and everything happen that it brings about, each timer in time."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            due = min(each.wg.next_due for each in self.ends)
            self.now = min(end, self.now + step, max(due, self.now + 1e-6))
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

    def meet(self) -> None:
        """Let left begin a session and both use it, so that nobody has anything left to say."""
        self.from_left()
        self.from_right()

    def from_right(self, *loads: bytes) -> None:
        self.to_left.send_packets([hello(load) for load in loads or (b"hello",)], self.net.now)
        self.net.settle()


def state_of(peer: Peer) -> dict[str, object]:
    """Everything a peer knows, to see that something has changed nothing of it."""
    state: dict[str, object] = {
        name: getattr(peer, name) for name in Peer.__slots__ if name not in ("cookies", "_world")
    }
    for name in ("previous", "current", "next"):
        keypair = getattr(peer, name)
        if keypair is not None:
            window = keypair.window
            state[name] = keypair, keypair.counter, window.highest, bytes(window._ring)
    state["_staged"] = list(peer._staged)
    return state


def in_use(end: End) -> set[int]:
    """The indices that the peers of *end* hold; its table has to have these and no others."""
    held: list[int] = []
    for peer in end.wg.peers.values():
        keypairs = (peer.previous, peer.current, peer.next)
        held += [keypair.local_index for keypair in keypairs if keypair is not None]
        if peer.initiation is not None:
            held.append(peer.initiation.sender)
        held += peer._given_up
    assert len(held) == len(set(held))
    return set(held)


def initiation(of: End, to: End, stamp: bytes, index: int = 7, seed: int = 0) -> bytes:
    """An initiation as *of* would send it at the time *stamp*."""
    static = of.wg.static
    assert static is not None
    shared = static.shared(to.public)
    assert shared is not None
    ephemeral = random.Random(seed + 99).randbytes(32)
    begun = InitiatorHandshake.begin(static, to.public, shared, index, ephemeral, stamp)
    assert begun is not None
    return CookieJar(to.public).add_macs(begun[1], 0.0)


def hand_in(end: End, message: bytes, place: Path) -> list[Sent]:
    """Give *message* to *end* and let it work; return what it sends at once."""
    before = len(end.sent)
    end.wg.received([message], place, 0, end.net.now)
    end.wg.work(end.net.now)
    return end.sent[before:]


def hello(load: bytes = b"hello", tos: int = 0) -> bytes:
    """A packet from one side's network to the other's."""
    made = packet("10.0.0.1", "10.0.0.2", load)
    return made[:1] + bytes((tos,)) + made[2:]
