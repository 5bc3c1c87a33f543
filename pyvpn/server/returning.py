"""Devices of ours that come by UDP alone: known by the key that is on file for them.

A device proves its key once, with the token of a registration, and the key is put on file.  From
then on a handshake with that key is as good as a log-in with its certificate, and is refused for
the same reasons.  What begins the session is the first message under the new keys: a handshake
that somebody has recorded makes nobody appear.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pyvpn.errors import PyvpnError
from pyvpn.net.threads import DaemonThreads
from pyvpn.store.records import Device, Remembered, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.claims import Claims
from pyvpn.tunnel.lease import Lease
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard

_log = Logger()

NO_STAMP = bytes(12)


class Returning:
    """The native devices on file, as far as their keys are known.

    Args:
        objection: says why a user's device would be refused at log-in now; empty: it would not.
        lease: gives the addresses of a device, by its number.
        begin: begins the session of a device with the lease that it has, or returns the one that
            there is; None: the lease is gone.
        mtu: says how many bytes an inner packet has at most.
        storage: the one thread that *store* is used from.
    """

    def __init__(
        self,
        wireguard: WireGuard,
        claims: Claims,
        *,
        objection: Callable[[User, Device], str],
        lease: Callable[[int], Lease | None],
        begin: Callable[[User, Device], Session | None],
        mtu: Callable[[], int],
        store: Store,
        storage: DaemonThreads,
    ) -> None:
        self._wireguard = wireguard
        self._claims = claims
        self._objection = objection
        self._lease = lease
        self._begin = begin
        self._mtu = mtu
        self._store = store
        self._storage = storage
        self._users: dict[int, User] = {}
        self._devices: dict[int, Device] = {}
        self._keys: dict[int, bytes] = {}  # by device
        self._by_key: dict[bytes, int] = {}
        self._unsaved: dict[int, bytes] = {}  # keys that are on their way to the disk
        self._stamps: dict[bytes, bytes] = {}  # by key, of those who are not here
        self._resets: dict[int, int] = {}

    # -- what is on file

    def take_over(self, devices: Iterable[Device], users: dict[int, User]) -> None:
        """Follow what the command line has changed, and let nobody in who may come no more."""
        self._users = users
        self._devices = {device.id: device for device in devices if not device.is_stock}
        self._keys = {
            device.id: device.public_key
            for device in self._devices.values()
            if device.public_key is not None
        }
        for number, public in list(self._unsaved.items()):
            if number in self._devices:
                self._set_key(number, public)
        self._by_key = {public: number for number, public in self._keys.items()}
        self._stamps = {key: stamp for key, stamp in self._stamps.items() if key in self._by_key}
        for public, peer in list(self._wireguard.peers.items()):
            # Those whose handshake we have answered, and who have not said a word yet.
            if peer.is_native and peer.owner is None and self._who(public) is None:
                self._drop(peer)

    def remember(self, rows: Iterable[Remembered]) -> None:
        """Take over the timestamps that are on file, and what an operator has had forgotten."""
        for row in rows:
            # A device that is enrolled while we run begins with none.
            known, self._resets[row.device] = self._resets.get(row.device, 0), row.resets
            public = self._keys.get(row.device)
            if public is None:
                continue
            if row.resets != known:
                self._stamps.pop(public, None)
                peer = self._wireguard.peers.get(public)
                if peer is not None and peer.is_native:
                    peer.newest_stamp = NO_STAMP
            if row.received is not None:
                self._stamps[public] = max(self._stamps.get(public, NO_STAMP), row.received)

    def resets(self, device: int) -> int:
        """How often its timestamp was forgotten, as far as we have heard."""
        return self._resets.get(device, 0)

    def met(self, device: Device, user: User) -> None:
        """Note that *device* has logged in, which may be later than what is on file."""
        self._users[user.id] = user
        self._devices[device.id] = device

    def tied(self, device: int, public: bytes) -> None:
        """The key is that device's, it was proved just now: put it on file."""
        if device not in self._devices or self._keys.get(device) == public:
            return
        self._set_key(device, public)
        self._unsaved[device] = public

        def saved(result: Any) -> Any:
            if self._unsaved.get(device) == public:
                del self._unsaved[device]
            return result

        saving = self._storage.run(self._store.set_native_key, device, public)
        saving.addBoth(saved).addErrback(_not_saved)

    def _set_key(self, device: int, public: bytes) -> None:
        before = self._keys.get(device)
        if before is not None and self._by_key.get(before) == device:
            del self._by_key[before]
        other = self._by_key.get(public)
        if other is not None:
            self._keys.pop(other, None)
        self._keys[device] = public
        self._by_key[public] = device

    def note_stamp(self, peer: Peer) -> None:
        """Keep what *peer*, which goes now, has proved to be the past."""
        if peer.public in self._by_key:
            self._stamps[peer.public] = max(
                self._stamps.get(peer.public, NO_STAMP), peer.newest_stamp
            )

    # -- who comes

    def expected(self, public: bytes) -> Peer | None:
        """The peer for a handshake with a key that nobody who is here has; see ``WireGuard``."""
        if public in self._wireguard.peers or self._who(public) is None:
            return None
        peer = self._wireguard.add_peer(public)
        if peer is not None:
            peer.is_native = True
            peer.mtu = self._mtu()
            peer.newest_stamp = self._stamps.get(public, NO_STAMP)
        return peer

    def arrived(self, peer: Peer, now: float) -> None:
        """Somebody has spoken under new keys whose key is nobody's here."""
        if not peer.is_native:
            return
        session = self._resume(peer.public)
        if session is None:
            self._drop(peer)
            return
        peer.send_packets([self._claims.resumed(session).to_bytes()], now)
        _log.info(
            "{name} is here by UDP from {place}", name=session.name, place=str(peer.endpoint)
        )

    def begin_interrupted(self, interrupted: Collection[int]) -> list[int]:
        """Begin the sessions of those devices, which were here when the server stopped.

        Returns:
            Those for whom that was possible.
        """
        begun = []
        for public, device in self._by_key.items():
            if device in interrupted and self.expected(public) is not None:
                if self._resume(public) is None:
                    self._wireguard.remove_peer(public)
                else:
                    begun.append(device)
        return begun

    def peer(self, device: int) -> Peer | None:
        """That of a device that is on file, if it is here."""
        public = self._keys.get(device)
        return None if public is None else self._wireguard.peers.get(public)

    def _who(self, public: bytes) -> tuple[User, Device] | None:
        """Whose key that is, if they may come now."""
        device = self._devices.get(self._by_key.get(public, 0))
        user = None if device is None else self._users.get(device.user)
        if device is None or user is None or self._lease(device.id) is None:
            return None
        return None if self._objection(user, device) else (user, device)

    def _resume(self, public: bytes) -> Session | None:
        who = self._who(public)
        session = None if who is None else self._begin(*who)
        if session is None or self._claims.resume(session, public, self._mtu()) is None:
            return None
        return session

    def _drop(self, peer: Peer) -> None:
        """Forget *peer*, unless somebody who is here has named its key."""
        if self._claims.is_claimed(peer.public):
            return
        self.note_stamp(peer)
        self._wireguard.remove_peer(peer.public)


def _not_saved(failure: Any) -> None:
    if failure.check(CancelledError):  # the end of the process
        return
    failure.trap(PyvpnError)
    # It is proved again with the next registration.
    _log.warn("a device's WireGuard key is not saved: {why}", why=str(failure.value))
