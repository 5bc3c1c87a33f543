"""What all peers of one static key share: randomness, clocks, indices, the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pyvpn.crypto.suite import CHACHA, Suite
from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.tunnel.ages import Ages
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path

if TYPE_CHECKING:
    from pyvpn.crypto.keypair import Keypair
    from pyvpn.tunnel.peer import Peer

JITTER_SECONDS = 1 / 3


class DatagramSink(Protocol):
    """The deaf rooms' view of :class:`pyvpn.interfaces.IDatagramSink`."""

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None: ...

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Send *datagrams* along *path*; return how many were taken.

        They may lie in a buffer (:class:`pyvpn.wire.slab.Sealed`) that is used again afterwards.
        """

    def send_whole(self, datagram: bytes, path: Path) -> bool: ...


class Surroundings:
    """Made by :class:`pyvpn.tunnel.wireguard.WireGuard`, used by its peers.

    Args:
        outside: takes datagrams for the network.
        random: returns that many random bytes.
        stamps: the TAI64N times of our initiations.
        unix: wall clock seconds, for what people read.
        counters: where drops go.
        doubted: told of a peer of ours that does not answer, and when.
    """

    def __init__(
        self,
        outside: DatagramSink,
        random: Callable[[int], bytes],
        stamps: Stamps,
        unix: Callable[[], float],
        counters: Counters,
        doubted: Callable[[Peer, float], None],
    ) -> None:
        self.doubted = doubted
        self.outside = outside
        self.random = random
        self.stamps = stamps
        self.unix = unix
        self.counters = counters
        self.static: StaticKey | None = None
        self.suites: tuple[Suite, ...] = (CHACHA,)
        """What a handshake may be of, whoever begins it."""
        self.deadlines: Ages[Peer] = Ages()
        """A lower bound of when each peer has something to do."""
        self.changed: set[Peer] = set()
        """Peers whose endpoint or newest timestamp is another than when the owner last looked."""
        self.indices: dict[int, tuple[Peer, Keypair | None]] = {}
        """Our index in a message to whom it concerns; no keypair: an initiation of the peer, the
        open one or one that it has given up."""

    def new_index(self, peer: Peer) -> int:
        """Reserve an index that nobody has: random, so that nobody can guess it."""
        while True:
            index = int.from_bytes(self.random(4), "little")
            if index not in self.indices:
                self.indices[index] = (peer, None)
                return index

    def jitter(self) -> float:
        """Seconds to add to a timer, so that two ends do not fire at once for ever."""
        return int.from_bytes(self.random(2), "little") / 65536 * JITTER_SECONDS
