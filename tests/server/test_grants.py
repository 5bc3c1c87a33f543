"""Leases between memory and disk, while a write is under way."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.server.grants import Grants
from pyvpn.store.records import Device, User
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import Leases
from pyvpn.wire.messages import Register
from tests.store.cases import NOON


class SlowDisk:
    """Stands for the store and its thread: what is written is there when the test says so."""

    save_lease = release_lease = pinned_leases = None

    def __init__(self) -> None:
        self.writes: list[Deferred[Any]] = []

    def run(self, *_: object) -> Deferred[Any]:
        self.writes.append(Deferred())
        return self.writes[-1]


class _Named:
    """Stands for a user or a device."""

    fixed4 = fixed6 = None

    def __init__(self, number: int, name: str) -> None:
        self.id, self.name = number, name


class GrantTests(SynchronousTestCase):
    """A device that comes by both ways at once."""

    def test_underWay(self) -> None:
        """By UDP alone it gets no lease that is not on disk yet, and after that it does."""
        pool = AddressPool(ip_network("10.73.0.0/29"), [ip_address("10.73.0.1")], 0.0)
        leases = Leases(pool, None, 1e9)
        disk = SlowDisk()
        grants = Grants(leases, cast(Any, disk), cast(Any, disk), lambda: NOON)
        user, device = cast(User, _Named(1, "anna")), cast(Device, _Named(7, "laptop"))
        leases.take(7, 1, NOON - 100)
        leases.release(7, NOON - 50)
        for outcome in HostError("disk full"), None:
            granting = Deferred.fromCoroutine(grants.grant(user, device, Register()))
            self.assertIsNone(grants.resume(user, device))
            if outcome is None:
                disk.writes[-1].callback(None)
                self.assertIsNotNone(self.successResultOf(granting))
            else:
                disk.writes[-1].errback(outcome)
                self.failureResultOf(granting, HostError)
        self.assertEqual(leases.get(7), grants.resume(user, device))
