"""What one end asks the other through the tunnel: echoes, small ones and large ones."""

from __future__ import annotations

from pyvpn.tunnel.path_mtu import LEAST, PathMtu, usual_sizes
from pyvpn.tunnel.peer import Peer
from pyvpn.wire.native import LEAST_ECHO, Echo, EchoReply

FORGET_AFTER = 15.0
"""Seconds after which an answer is to nothing that anybody remembers."""


class Questions:
    """Those that are on their way, and what the answers said of the path."""

    def __init__(self) -> None:
        self.path = PathMtu()
        self._last = 0
        self._sent: dict[int, tuple[float, int]] = {}  # since when, and how large

    def begin(self) -> None:
        """Know nothing of the path, and wait for no answer."""
        self.path.begin()
        self._sent.clear()

    def ask(self, peer: Peer, now: float) -> None:
        """Ask whether anything comes through, and how much; a round of questions.

        Nothing while a handshake is under way, for its end is what there is to wait for.
        """
        for number in [each for each, (at, _) in self._sent.items() if now - at > FORGET_AFTER]:
            del self._sent[number]
        if peer.staged or peer.endpoint is None:
            return
        sizes = usual_sizes(max(LEAST, peer.mtu), 4 if len(peer.endpoint.host) == 4 else 6)
        self._echo(peer, LEAST_ECHO, now)
        for size in self.path.question(sizes, now):
            self._echo(peer, size, now)

    def ask_at_once(self, peer: Peer, now: float) -> None:
        """Ask along a way that is tried beside the usual one."""
        if not peer.staged:
            self._echo(peer, LEAST_ECHO, now)
            self._echo(peer, self.path.size or max(LEAST, peer.mtu), now)

    def answered(self, reply: EchoReply) -> tuple[float, int] | None:
        """Return when this was asked, and how large what came back is; None: it was not asked."""
        sent = self._sent.pop(reply.id, None)
        return sent if sent is not None and sent[1] == reply.size else None

    def _echo(self, peer: Peer, size: int, now: float) -> None:
        """Ask for an answer of *size* bytes, with as many."""
        self._last += 1
        self._sent[self._last] = now, size
        echo = Echo(self._last, size).to_bytes()
        if size == LEAST_ECHO:
            peer.send_packets([echo], now)
        else:
            peer.send_whole(echo, now)
