"""What the server still knows of its WireGuard peers after a crash, and what it does with it.

A stock app notices after fifteen seconds of silence that its keys mean nothing to a server that
was restarted; one of ours after three, if it has anything to say.  So we remember where each was
heard last, and begin the handshake ourselves: it is back with the first round trip.  The newest
timestamp of its handshakes is remembered too, or somebody who has recorded one could play it to us
again; and the newest of our own, with a reserve, or the peer would take ours for a replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pyvpn.crypto.tai64n import Stamps, reserve, tai64n
from pyvpn.errors import PyvpnError
from pyvpn.net.threads import DaemonThreads
from pyvpn.server.natives import Natives
from pyvpn.server.returning import Returning
from pyvpn.server.stock import StockDevices
from pyvpn.store.records import Remembered
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard

_log = Logger()

FRESH_SECONDS = 180.0
"""Who was heard within so long before the restart is called back: later its keys are void."""
CALLS_PER_SECOND = 500
RESERVE_SECONDS = 600.0
"""How far ahead of the clock our timestamps are reserved: so often at most that is written."""
AHEAD_SECONDS = 60.0
"""The same ahead of the latest one, which has run ahead of the clock after a crash."""
HEARD_SECONDS = 30.0
"""When a peer was heard is written down again after so long."""


def stamps_on_file(store: Store, unix: Callable[[], float]) -> Stamps:
    """Timestamps above all that an earlier process may have sent (in the store's thread)."""
    return Stamps(unix, store.sent_stamp() or b"")


class Recall:
    """Reads at the start, writes behind.

    Args:
        storage: the one thread that *store* is used from.
        unix: wall clock seconds, for what is written to disk.
        natives: the clients of ours, if their keys are on file, too.
    """

    def __init__(
        self,
        wireguard: WireGuard,
        stock: StockDevices,
        stamps: Stamps,
        store: Store,
        storage: DaemonThreads,
        unix: Callable[[], float],
        natives: Natives | None = None,
    ) -> None:
        self._natives = natives
        self._wireguard = wireguard
        self._stock = stock
        self._stamps = stamps
        self._store = store
        self._storage = storage
        self._unix = unix
        self._calls: deque[Peer] = deque()
        self._owed = 0.0
        self._called_at = 0.0
        self._resets: dict[int, int] = {}
        self._saved: dict[int, float] = {}  # by device: what was written as the time heard last
        self._noted: dict[int, Remembered] = {}  # by device: what is to be written
        self._reserved = b""
        self._saving = False
        self._failing = False

    # -- the start

    def begin(self, now: float) -> None:
        """Take over what is on file, and see to it that the first timestamp is reserved.

        Before the reactor runs: it waits for the store.
        """
        self._reserved = self._reserve(1.0)
        self._storage.call(self._store.save_sent_stamp, self._reserved)
        self._called_at = now
        remembered = self._storage.call(self._store.peers)
        returning = self._returning
        if returning is not None:
            returning.remember(remembered)
            # Whose lease is in use on disk did not leave: we did.
            leases = self._storage.call(self._store.leases)
            begun = returning.begin_interrupted(
                {each.device for each in leases if each.released is None}
            )
            if begun:
                _log.info("{n} clients were here before: called back", n=len(begun))
        self.take_over(remembered, now)

    @property
    def _returning(self) -> Returning | None:
        return None if self._natives is None else self._natives.returning

    def take_over(self, remembered: Iterable[Remembered], now: float) -> None:
        """Give peers that are new to us what is known of them; forget what was reset."""
        unix = self._unix()
        returning = self._returning
        rows = list(remembered)
        if returning is not None:
            returning.remember(rows)
        fresh: list[tuple[float, Peer]] = []
        for row in rows:
            if row.device not in self._stock.sessions:
                native = None if returning is None else returning.peer(row.device)
                if native is not None and native.endpoint is None:
                    self._know_place(native, row, unix, fresh)
                continue
            peer = self._stock.peer(row.device)
            if row.resets != self._resets.get(row.device, 0):
                if row.device in self._resets or peer.heard > float("-inf"):
                    _log.info("{peer}: its timestamp is forgotten", peer=self._name(row.device))
                peer.newest_stamp = bytes(12)
            self._resets[row.device] = row.resets
            if row.received is not None and row.received > peer.newest_stamp:
                peer.newest_stamp = row.received
            self._know_place(peer, row, unix, fresh)
        fresh.sort(key=lambda pair: pair[0], reverse=True)
        self._calls.extend(peer for _, peer in fresh)

    @staticmethod
    def _know_place(
        peer: Peer, row: Remembered, unix: float, fresh: list[tuple[float, Peer]]
    ) -> None:
        if peer.endpoint is None and row.endpoint is not None:
            peer.endpoint = row.endpoint
            if row.heard is not None and unix - row.heard < FRESH_SECONDS:
                fresh.append((row.heard, peer))

    def call_back(self, now: float) -> None:
        """Begin the handshakes that are due, newest first; to be called several times a second."""
        if not self._calls:
            self._called_at = now
            return
        self._owed = min(
            CALLS_PER_SECOND / 2, self._owed + (now - self._called_at) * CALLS_PER_SECOND
        )
        self._called_at = now
        while self._calls and self._owed >= 1:
            self._owed -= 1
            peer = self._calls.popleft()
            if peer.keypairs or not isinstance(peer.owner, Session):
                continue
            if self._natives is not None:
                self._natives.call_back(peer, now)
            else:
                peer.call_back(now)

    # -- writing behind

    def note(self, now: float) -> None:
        """Keep what is new for the next :meth:`save`; to be called before peers may go.

        Whoever is locked out for a minute is called back, too, and none of its handshakes can be
        played to us afterwards.
        """
        self._noted |= {row.device: row for row in self._rows(now)}

    def save(self, now: float) -> Deferred[None] | None:
        """Write down what is new since the last time."""
        if self._saving:  # a slow disk; what changes meanwhile stays marked
            return None
        self.note(now)
        rows, self._noted = list(self._noted.values()), {}
        used_up = self._reserve(2.0) > self._reserved
        stamp = self._reserve(1.0) if used_up else b""
        if not rows and not stamp:
            return None
        self._saving = True
        saving = self._storage.run(self._write, rows, stamp)
        saving.addCallback(lambda _: self._written(rows, stamp))
        saving.addErrback(self._not_written, rows)
        return saving

    def _rows(self, now: float) -> Iterable[Remembered]:
        changed = self._wireguard.take_changed()
        behind = self._unix() - now
        saved = self._saved.get
        # All of them, each second: with 10,000 it is 3 ms as it stands.  Who was never heard was
        # so before everything.
        for peer in self._wireguard.peers.values():
            session = peer.owner
            if (
                isinstance(session, Session)
                and peer.heard + behind - saved(session.device, 0.0) > HEARD_SECONDS
            ):
                changed.add(peer)
        return (self._row(peer, now) for peer in changed if isinstance(peer.owner, Session))

    def _row(self, peer: Peer, now: float) -> Remembered:
        assert isinstance(peer.owner, Session)
        device = peer.owner.device
        heard = None if peer.heard == float("-inf") else self._unix() - (now - peer.heard)
        stamp = peer.newest_stamp if any(peer.newest_stamp) else None
        resets = self._resets.get(device, 0)
        if peer.is_native and self._returning is not None:
            resets = self._returning.resets(device)
        return Remembered(device, peer.endpoint, heard, stamp, resets)

    def _write(self, rows: list[Remembered], stamp: bytes) -> None:
        if rows:
            self._store.save_peers(rows)
        if stamp:
            self._store.save_sent_stamp(stamp)

    def _written(self, rows: list[Remembered], stamp: bytes) -> None:
        self._saving = self._failing = False
        self._reserved = max(self._reserved, stamp)
        for row in rows:
            if row.heard is not None:
                self._saved[row.device] = row.heard

    def _not_written(self, failure: Any, rows: list[Remembered]) -> None:
        self._saving = False
        # Written as soon as the disk takes them.
        self._noted = {row.device: row for row in rows} | self._noted
        if failure.check(CancelledError):  # the end of the process
            return
        failure.trap(PyvpnError)
        if not self._failing:  # a full disk stays full for longer than a second
            self._failing = True
            _log.warn(
                "what is known of WireGuard peers is not saved: {why}", why=str(failure.value)
            )

    def _reserve(self, share: float) -> bytes:
        """What must be on file; with *share* 2, before half of it is used up."""
        return max(
            reserve(tai64n(self._unix()), RESERVE_SECONDS / share),
            reserve(self._stamps.last or bytes(12), AHEAD_SECONDS / share),
        )

    def _name(self, device: int) -> str:
        return self._stock.sessions[device].name
