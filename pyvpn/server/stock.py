"""Stock WireGuard apps as devices of our users: a peer and a session for each that is on file.

They log in nowhere, so a session begins when the key is put on file and ends when it is removed or
its user is locked out; whether anybody is there is another question (:meth:`StockDevices.online`).
Apart from that they are sessions like all others: same router, same checks, same counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from pyvpn.server.terms import Terms
from pyvpn.store.records import Device, User
from pyvpn.tunnel.leases import Lease
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard

_log = Logger()

FOREVER = float("inf")
"""Last heard, for what silence does not end."""
OFFLINE_SECONDS = 180.0
"""Without a word for so long its keys have expired: nobody can say that it is still there."""


class StockDevices:
    """The devices without a certificate that may come now.

    Args:
        lease: gives the addresses of a device, by its number.
        now: CLOCK_BOOTTIME seconds.
    """

    def __init__(
        self,
        wireguard: WireGuard,
        router: Router,
        lease: Callable[[int], Lease | None],
        terms: Terms,
        now: Callable[[], float],
    ) -> None:
        self.sessions: dict[int, Session] = {}
        """By the device's number."""
        self._wireguard = wireguard
        self._router = router
        self._lease = lease
        self._now = now
        self._devices: dict[int, Device] = {}
        self._turned_away: set[int] = set()
        self.offer(terms)

    def offer(self, terms: Terms) -> None:
        """Let them reach what *terms* say from now on; apps cannot be told of it."""
        self._reachable = terms.reachable()
        self._mtu = terms.mtu
        for device, session in self.sessions.items():
            session.reachable = self._reachable
            self.peer(device).mtu = self._mtu

    def take_over(self, devices: Iterable[Device], users: dict[int, User]) -> None:
        """Hold the sessions against what is on file: make, change and end them."""
        wanted = {
            device.id: device
            for device in devices
            if device.is_stock and device.user in users and not users[device.user].disabled
        }
        for number in self.sessions.keys() - wanted.keys():
            self._end(number, "removed, or its user is locked out")
        for number, device in wanted.items():
            before = self._devices.get(number)
            if before is not None and self._replaced(before, device):
                self._end(number, "its key or address was changed")
            if number not in self.sessions:
                self._begin(device, users[device.user])
            if number in self.sessions:
                user = users[device.user]
                session = self.sessions[number]
                self._router.limits.set(session, user.limit_up, user.limit_down, self._now())

    def peer(self, device: int) -> Peer:
        """The peer of a device that has a session."""
        carrier = self.sessions[device].carrier
        assert isinstance(carrier, Peer)
        return carrier

    def online(self, now: float) -> int:
        """How many were heard lately."""
        return sum(now - self.peer(each).heard < OFFLINE_SECONDS for each in self.sessions)

    def _replaced(self, before: Device, device: Device) -> bool:
        lease = self._lease(device.id)
        return (
            before.public_key != device.public_key
            or before.preshared_key != device.preshared_key
            or (lease is not None and _addresses(lease) != self.sessions[device.id].addresses)
        )

    def _begin(self, device: Device, user: User) -> None:
        assert device.public_key is not None
        lease = self._lease(device.id)
        name = f"{user.name}/{device.name}"
        peer = None if lease is None else self._wireguard.add_peer(device.public_key)
        if lease is None or peer is None:
            # The configuration has changed its pools since, or a key was copied from us.
            why = "its address is not in our networks" if lease is None else "its key is ours"
            if device.id not in self._turned_away:  # whatever else changes, once is enough
                self._turned_away.add(device.id)
                _log.warn("{name} cannot come: {why}", name=name, why=why)
            return
        self._turned_away.discard(device.id)
        session = Session(
            device=device.id,
            user=user.id,
            name=name,
            addresses=_addresses(lease),
            reachable=self._reachable,
            heard=FOREVER,
        )
        peer.preshared_key = device.preshared_key or bytes(32)
        peer.mtu = self._mtu
        if isinstance(peer.owner, Session):  # one of ours has named the same key
            peer.owner.untie(peer)
        peer.owner = session
        peer.is_native = peer.offload = False
        peer.agree_on_aes(False)
        self._router.add(session)
        session.attach(peer, self._now())
        self.sessions[device.id] = session
        self._devices[device.id] = device

    def _end(self, number: int, why: str) -> None:
        session = self.sessions.pop(number)
        device = self._devices.pop(number)
        assert device.public_key is not None
        self._router.remove(session)
        self._wireguard.remove_peer(device.public_key)
        session.carrier = None
        _log.info("{name} ends: {why}", name=session.name, why=why)


def _addresses(lease: Lease) -> tuple[bytes, ...]:
    return tuple(one for one in (lease.address4, lease.address6) if one is not None)
