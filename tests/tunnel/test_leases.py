"""Leases: who gets which addresses, now and the next time."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse, PeerError
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import (
    Granted,
    Lease,
    Leases,
    PoolEmpty,
)
from tests.tunnel.packets import packed

ANNA, BOB = 1, 2
LAPTOP, PHONE, DESKTOP = 11, 12, 21
DAY = 86400.0


def pool(network: str = "10.0.0.0/29") -> AddressPool:
    parsed = ip_network(network)
    return AddressPool(parsed, [parsed[1].packed])


def leases_of(network4: str | None = "10.0.0.0/29", network6: str | None = None) -> Leases:
    """Leases over one or two pools; /29 has five addresses, .2 to .6."""
    return Leases(
        None if network4 is None else pool(network4),
        None if network6 is None else pool(network6),
    )


class TakeTests(SynchronousTestCase):
    """What a device gets."""

    def test_every_family(self) -> None:
        """A device gets an address of each family the server has, and of no other."""
        both = leases_of("10.0.0.0/29", "fd00::/64").take(LAPTOP, ANNA, 0.0).lease
        four = leases_of("10.0.0.0/29", None).take(LAPTOP, ANNA, 0.0).lease
        six = leases_of(None, "fd00::/64").take(LAPTOP, ANNA, 0.0).lease

        first4, first6 = packed("10.0.0.2"), packed("fd00::2")
        self.assertEqual(Lease(LAPTOP, ANNA, first4, first6, None), both)
        self.assertEqual(Lease(LAPTOP, ANNA, first4, None, None), four)
        self.assertEqual(Lease(LAPTOP, ANNA, None, first6, None), six)

    def test_no_pool_at_all(self) -> None:
        """A server without any pool is our own mistake: the configuration forbids it."""
        self.assertRaises(Misuse, Leases, None, None)

    def test_in_use_stays(self) -> None:
        """A device that logs in again while it is here keeps what it has."""
        leases = leases_of()
        first = leases.take(LAPTOP, ANNA, 0.0)

        again = leases.take(LAPTOP, ANNA, 1.0, wanted4=packed("10.0.0.5"))
        self.assertEqual(first, again)
        self.assertEqual(1, leases.in_use)

    def test_sticky(self) -> None:
        """A device that comes back finds its address, although another was free before it."""
        leases = leases_of()
        leases.take(PHONE, ANNA, 0.0)
        mine = leases.take(LAPTOP, ANNA, 0.0).lease
        leases.forget(PHONE, 1.0)
        leases.release(LAPTOP, 2.0)

        back = leases.take(LAPTOP, ANNA, 29 * DAY, wanted4=packed("10.0.0.6")).lease
        self.assertEqual(mine, back)

    def test_sticky_ends(self) -> None:
        """After thirty days, and not before, an absent device's lease ends."""
        leases = leases_of()
        leases.take(LAPTOP, ANNA, 0.0)
        leases.take(PHONE, ANNA, 0.0)
        leases.release(PHONE, 5.0)
        leases.release(LAPTOP, 7.0)

        self.assertEqual([], leases.expire(30 * DAY + 4.0))
        self.assertEqual([PHONE], leases.expire(30 * DAY + 5.0))
        self.assertIsNone(leases.get(PHONE))
        self.assertEqual([LAPTOP], leases.expire(30 * DAY + 100.0))

    def test_in_use_does_not_expire(self) -> None:
        """A device that is here keeps its lease for years; also one that came back."""
        leases = leases_of()
        leases.take(LAPTOP, ANNA, 0.0)
        leases.release(LAPTOP, 1.0)
        leases.take(LAPTOP, ANNA, 2.0)

        self.assertEqual([], leases.expire(1000 * DAY))

    def test_wanted(self) -> None:
        """A device that asks for an address gets it if it is free, else another."""
        leases = leases_of()
        wanted = packed("10.0.0.5")

        self.assertEqual(wanted, leases.take(LAPTOP, ANNA, 0.0, wanted4=wanted).lease.address4)
        other = leases.take(PHONE, ANNA, 0.0, wanted4=wanted).lease.address4
        self.assertEqual(packed("10.0.0.2"), other)
        leases.release(LAPTOP, 1.0)
        other = leases.take(DESKTOP, BOB, 2.0, wanted4=wanted).lease.address4
        self.assertEqual(packed("10.0.0.3"), other)

    def test_wanted_not_permitted(self) -> None:
        """Asking for the server's, the broadcast or a foreign address gives a usual one."""
        for wanted in ("10.0.0.0", "10.0.0.1", "10.0.0.7", "192.0.2.1"):
            granted = leases_of().take(LAPTOP, ANNA, 0.0, wanted4=packed(wanted))
            self.assertEqual(packed("10.0.0.2"), granted.lease.address4)

    def test_full(self) -> None:
        """When every address is in use the next device is refused, clearly, until one leaves."""
        leases = leases_of("10.73.0.0/24")
        for device in range(253):
            leases.take(device, ANNA, 0.0)

        with self.assertRaises(PoolEmpty) as empty:
            leases.take(1000, BOB, 1.0)
        self.assertEqual("none of the 253 addresses is free", str(empty.exception))
        self.assertIsInstance(empty.exception, PeerError)
        left = leases.get(77)
        assert left is not None
        leases.release(77, 2.0)
        granted = leases.take(1000, BOB, 3.0)
        self.assertEqual(Granted(Lease(1000, BOB, left.address4, None, None), [77]), granted)

    def test_oldest_sticky_yields(self) -> None:
        """Before anybody is refused, the lease of the device away longest ends."""
        leases = leases_of()
        for device in range(5):
            leases.take(device, ANNA, 0.0)
        for device in (3, 1, 4):
            leases.release(device, 10.0 + device)

        self.assertEqual([1], leases.take(100, BOB, 20.0).evicted)
        self.assertEqual([3], leases.take(101, BOB, 20.0).evicted)
        self.assertIsNone(leases.get(3))

    def test_quarantine_before_sticky(self) -> None:
        """An address in quarantine is given before anybody's sticky lease ends."""
        leases = leases_of("10.0.0.0/30")
        leases.take(LAPTOP, ANNA, 0.0)
        leases.forget(LAPTOP, 1.0)

        self.assertEqual([], leases.take(DESKTOP, BOB, 2.0).evicted)

    def test_refused_without_trace(self) -> None:
        """Where one family is full nothing of the other is taken, and no lease ends for it."""
        leases = leases_of("10.0.0.0/30", "fd00::/64")
        mine = leases.take(LAPTOP, ANNA, 0.0).lease
        pool6 = leases._family6.pool  # type: ignore[union-attr]  # it has one
        free = pool6.free

        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1.0)
        self.assertEqual(free, pool6.free)
        self.assertEqual(mine, leases.get(LAPTOP))
        self.assertIsNone(leases.get(DESKTOP))

    def test_unknown_device(self) -> None:
        """Releasing or forgetting what has no lease does nothing, twice as well."""
        leases = leases_of()
        self.assertFalse(leases.release(LAPTOP, 0.0))
        self.assertFalse(leases.forget(LAPTOP, 0.0))
        leases.take(LAPTOP, ANNA, 0.0)
        self.assertTrue(leases.release(LAPTOP, 1.0))
        self.assertFalse(leases.release(LAPTOP, 2.0))
        self.assertTrue(leases.forget(LAPTOP, 3.0))
        self.assertIsNone(leases.get(LAPTOP))


class FixedTests(SynchronousTestCase):
    """Addresses that belong to a user."""

    FIXED = packed("10.0.0.5")

    def test_fixed_for_the_first_device(self) -> None:
        """One device of the user has the fixed address; a second one at the time has another."""
        leases = leases_of()
        leases.reserve_fixed(ANNA, self.FIXED, None)

        first = leases.take(LAPTOP, ANNA, 0.0, fixed4=self.FIXED).lease
        second = leases.take(PHONE, ANNA, 0.0, fixed4=self.FIXED).lease
        self.assertEqual(self.FIXED, first.address4)
        self.assertEqual(packed("10.0.0.2"), second.address4)

    def test_fixed_moves_between_devices(self) -> None:
        """The fixed address follows the user to the other device once the first has left."""
        leases = leases_of()
        leases.reserve_fixed(ANNA, self.FIXED, None)
        leases.take(LAPTOP, ANNA, 0.0, fixed4=self.FIXED)
        leases.release(LAPTOP, 1.0)

        moved = leases.take(PHONE, ANNA, 2.0, fixed4=self.FIXED)
        self.assertEqual((self.FIXED, [LAPTOP]), (moved.lease.address4, moved.evicted))

    def test_never_given_to_others(self) -> None:
        """A full pool refuses somebody rather than give away a user's fixed address."""
        leases = leases_of("10.0.0.0/30")
        fixed = packed("10.0.0.2")
        leases.reserve_fixed(ANNA, fixed, None)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 0.0)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 0.0, wanted4=fixed)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 0.0, fixed4=fixed)

        leases.take(LAPTOP, ANNA, 1.0, fixed4=fixed)
        leases.release(LAPTOP, 2.0)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 3.0)
        leases.reserve_fixed(ANNA, None, None)
        self.assertEqual([LAPTOP], leases.take(DESKTOP, BOB, 4.0).evicted)

    def test_fixed_while_in_use(self) -> None:
        """A device that has the address keeps it; then it is the new owner's, not its own."""
        leases = leases_of()
        leases.take(DESKTOP, BOB, 0.0, wanted4=self.FIXED)
        leases.reserve_fixed(ANNA, self.FIXED, None)

        mine = leases.take(LAPTOP, ANNA, 1.0, fixed4=self.FIXED).lease
        self.assertEqual(packed("10.0.0.2"), mine.address4)
        leases.release(DESKTOP, 2.0)
        leases.release(LAPTOP, 2.0)
        other = leases.take(DESKTOP, BOB, 3.0).lease
        self.assertEqual(packed("10.0.0.3"), other.address4)
        mine = leases.take(LAPTOP, ANNA, 4.0, fixed4=self.FIXED).lease
        self.assertEqual(self.FIXED, mine.address4)

    def test_fixed_replaces_sticky(self) -> None:
        """A device whose user got a fixed address has that the next time, not its old one."""
        leases = leases_of()
        old = leases.take(LAPTOP, ANNA, 0.0).lease.address4
        leases.release(LAPTOP, 1.0)
        leases.reserve_fixed(ANNA, self.FIXED, None)

        new = leases.take(LAPTOP, ANNA, 2.0, fixed4=self.FIXED).lease
        self.assertEqual(self.FIXED, new.address4)
        again = leases.take(PHONE, ANNA, 100.0, wanted4=old).lease
        self.assertEqual(old, again.address4)

    def test_changed_hands_in_any_order(self) -> None:
        """An address moved from one user to another is the other's, whoever is told first."""
        for order in ((ANNA, BOB), (BOB, ANNA)):
            leases = leases_of()
            leases.reserve_fixed(BOB, self.FIXED, None)
            for user in order:
                leases.reserve_fixed(user, self.FIXED if user == ANNA else None, None)

            bobs = leases.take(DESKTOP, BOB, 0.0, fixed4=self.FIXED).lease
            annas = leases.take(LAPTOP, ANNA, 0.0, fixed4=self.FIXED).lease
            self.assertEqual(packed("10.0.0.2"), bobs.address4)
            self.assertEqual(self.FIXED, annas.address4)

    def test_outside_the_pools(self) -> None:
        """A fixed address that no pool gives out is named, and the device gets a usual one."""
        leases = leases_of()
        outside, six = packed("192.0.2.9"), packed("fd00::9")

        self.assertEqual((outside, six), leases.reserve_fixed(ANNA, outside, six))
        granted = leases.take(LAPTOP, ANNA, 0.0, fixed4=outside, fixed6=six)
        self.assertEqual(Lease(LAPTOP, ANNA, packed("10.0.0.2"), None, None), granted.lease)
        self.assertEqual((), leases.reserve_fixed(ANNA, self.FIXED, None))


class RestoreTests(SynchronousTestCase):
    """Leases after a restart."""

    def test_same_address_after_a_crash(self) -> None:
        """A device finds its address after the server was killed; it counts as just released."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")
        row = Lease(LAPTOP, ANNA, packed("10.0.0.4"), packed("fd00::44"), None)

        self.assertEqual([], leases.restore([row], 1000.0))
        self.assertEqual(row._replace(released=1000.0), leases.get(LAPTOP))
        self.assertEqual(0, leases.in_use)
        self.assertEqual(row, leases.take(LAPTOP, ANNA, 1001.0).lease)

    def test_restored_addresses_are_taken(self) -> None:
        """Nobody is given an address that an absent device has, while others are free."""
        leases = leases_of()
        leases.restore([Lease(LAPTOP, ANNA, packed("10.0.0.2"), None, 5.0)], 1000.0)

        self.assertEqual(packed("10.0.0.3"), leases.take(DESKTOP, BOB, 1001.0).lease.address4)

    def test_pool_changed(self) -> None:
        """Addresses of a network given up are left out; a lease without any left is dropped."""
        leases = leases_of("10.0.0.0/29", None)
        half = Lease(LAPTOP, ANNA, packed("10.0.0.4"), packed("fd00::44"), 5.0)
        none = Lease(PHONE, ANNA, packed("172.16.0.4"), packed("fd00::45"), 6.0)
        server = Lease(DESKTOP, BOB, packed("10.0.0.1"), None, 7.0)

        self.assertEqual([server, none], leases.restore([half, none, server], 1000.0))
        self.assertEqual(half._replace(address6=None), leases.get(LAPTOP))

    def test_family_added(self) -> None:
        """A lease of before IPv6 was switched on keeps its address and gets the second."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")
        leases.restore([Lease(LAPTOP, ANNA, packed("10.0.0.4"), None, 5.0)], 1000.0)

        lease = leases.take(LAPTOP, ANNA, 1001.0).lease
        self.assertEqual((packed("10.0.0.4"), packed("fd00::2")), lease[2:4])

    def test_doubled(self) -> None:
        """Of two rows for one address or one device, the one used last is kept."""
        leases = leases_of()
        old = Lease(LAPTOP, ANNA, packed("10.0.0.4"), None, 5.0)
        live = Lease(DESKTOP, BOB, packed("10.0.0.4"), None, None)
        other = Lease(DESKTOP, BOB, packed("10.0.0.5"), None, 6.0)

        self.assertEqual([other, old], leases.restore([old, live, other], 1000.0))
        self.assertEqual(live._replace(released=1000.0), leases.get(DESKTOP))

    def test_clock_set_back(self) -> None:
        """A release time to come, from before the clock was set right, does not last longer."""
        leases = leases_of()
        leases.restore([Lease(LAPTOP, ANNA, packed("10.0.0.4"), None, 10**10)], 1000.0)

        self.assertEqual([LAPTOP], leases.expire(1000.0 + 30 * DAY))

    def test_order_kept(self) -> None:
        """The device away longest is evicted first, in whatever order the rows are read."""
        leases = leases_of()
        rows = [
            Lease(n, ANNA, packed(f"10.0.0.{n}"), None, float(t))
            for n, t in ((2, 30), (3, 10), (4, 50), (5, 20), (6, 40))
        ]
        leases.restore(rows, 1000.0)

        evicted = [leases.take(100 + n, BOB, 1001.0).evicted for n in range(5)]
        self.assertEqual([[3], [5], [2], [6], [4]], evicted)

    def test_reserved_before_or_after(self) -> None:
        """A fixed address is kept for its user whether leases or users are read first."""
        fixed = packed("10.0.0.2")
        row = Lease(LAPTOP, ANNA, fixed, None, 5.0)
        for users_first in (True, False):
            leases = leases_of("10.0.0.0/30")
            if users_first:
                leases.reserve_fixed(ANNA, fixed, None)
            leases.restore([row], 1000.0)
            leases.reserve_fixed(ANNA, fixed, None)

            self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1001.0)
            self.assertEqual(fixed, leases.take(LAPTOP, ANNA, 1001.0).lease.address4)
