"""Pinned leases: a stock device's addresses, decided on the command line and never taken back."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import ConfigError
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import AddressHeld, Granted, Lease, PoolEmpty
from tests.tunnel.packets import packed
from tests.tunnel.test_leases import ANNA, BOB, DAY, DESKTOP, LAPTOP, PHONE, leases_of

TABLET = 13
FIRST, LAST, SIX = packed("10.0.0.2"), packed("10.0.0.6"), packed("fd00::ffff")


def pinned(device: int, four: bytes | None, six: bytes | None = None, user: int = ANNA) -> Lease:
    return Lease(device, user, four, six, None, pinned=True)


class PinNewTests(SynchronousTestCase):
    """What a new stock device gets."""

    def test_far_from_the_next(self) -> None:
        """The addresses furthest from those that a server gives next."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")

        self.assertEqual(Granted(pinned(PHONE, LAST, SIX), []), leases.pin_new(PHONE, ANNA, 0.0))
        second = leases.pin_new(TABLET, ANNA, 0.0).lease
        self.assertEqual((packed("10.0.0.5"), packed("fd00::fffe")), second[2:4])
        self.assertEqual(FIRST, leases.take(LAPTOP, ANNA, 0.0).lease.address4)

    def test_kept_address(self) -> None:
        """The user's kept address, if nobody has it, not even a device that is away."""
        leases = leases_of()
        leases.reserve_fixed(ANNA, FIRST, None)
        leases.take(LAPTOP, ANNA, 0.0, fixed4=FIRST)
        leases.release(LAPTOP, 1.0)
        self.assertEqual(LAST, leases.pin_new(PHONE, ANNA, 2.0, fixed4=FIRST).lease.address4)
        leases.forget(LAPTOP, 3.0)

        self.assertEqual(FIRST, leases.pin_new(TABLET, ANNA, 4.0, fixed4=FIRST).lease.address4)
        laptop = leases.take(LAPTOP, ANNA, 5.0, fixed4=FIRST).lease
        self.assertEqual(packed("10.0.0.3"), laptop.address4)

    def test_wanted(self) -> None:
        """An address asked for by name, also when a device that is away must lose it."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")
        leases.take(LAPTOP, ANNA, 0.0)
        leases.release(LAPTOP, 1.0)

        granted = leases.pin_new(PHONE, ANNA, 2.0, wanted4=FIRST)
        self.assertEqual(Granted(pinned(PHONE, FIRST, SIX), [LAPTOP]), granted)
        self.assertIsNone(leases.get(LAPTOP))

    def test_held(self) -> None:
        """What somebody has or may have is refused, with whose it is; nothing has changed."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")
        leases.take(LAPTOP, ANNA, 0.0)
        leases.pin_new(PHONE, BOB, 0.0)
        leases.reserve_fixed(BOB, packed("10.0.0.4"), None)
        for wanted4, wanted6, expected in (
            ("10.0.0.2", None, (ANNA, LAPTOP)),
            ("10.0.0.6", None, (BOB, PHONE)),
            ("10.0.0.4", None, (BOB, None)),
            ("10.0.0.1", None, (None, None)),
            ("10.0.0.7", None, (None, None)),
            ("192.0.2.1", None, (None, None)),
            ("10.0.0.3", "fd00::2", (ANNA, LAPTOP)),
        ):
            six = wanted6 and packed(wanted6)
            error = self.assertRaises(
                AddressHeld,
                leases.pin_new,
                TABLET,
                ANNA,
                1.0,
                wanted4=packed(wanted4),
                wanted6=six,
            )
            self.assertEqual((six or packed(wanted4), *expected), vars_of(error))
            self.assertIsInstance(error, ConfigError)
            self.assertIsNone(leases.get(TABLET))
        owners = leases.pin_new(TABLET, BOB, 1.0, wanted4=packed("10.0.0.4")).lease
        self.assertEqual(packed("10.0.0.4"), owners.address4)
        self.assertEqual(2, leases.pinned)

    def test_full(self) -> None:
        """In a full pool the oldest sticky lease ends; without any it is refused, clearly."""
        leases = leases_of()
        for device in range(5):
            leases.take(device, ANNA, 0.0)
        self.assertRaises(PoolEmpty, leases.pin_new, PHONE, ANNA, 1.0)
        leases.release(3, 2.0)
        leases.release(1, 3.0)

        self.assertEqual([3], leases.pin_new(PHONE, ANNA, 4.0).evicted)

    def test_next_to_a_server(self) -> None:
        """Decided beside a server that runs: its leases in use stay, the sticky ones yield."""
        rows = [
            Lease(LAPTOP, ANNA, FIRST, None, None),
            Lease(DESKTOP, BOB, packed("10.0.0.3"), None, 5.0),
        ]
        leases = leases_of()
        self.assertEqual([], leases.restore(rows, 10.0, running=True))

        self.assertEqual(rows, [leases.get(LAPTOP), leases.get(DESKTOP)])
        self.assertEqual(1, leases.in_use)
        self.assertRaises(AddressHeld, leases.pin_new, PHONE, ANNA, 10.0, wanted4=FIRST)
        granted = leases.pin_new(PHONE, ANNA, 10.0, wanted4=packed("10.0.0.3"))
        self.assertEqual([DESKTOP], granted.evicted)


class ForGoodTests(SynchronousTestCase):
    """Nothing takes a pinned lease back but who pinned it."""

    def test_never_evicted(self) -> None:
        """A full pool refuses somebody rather than take a stock device's address."""
        leases = leases_of("10.0.0.0/30")
        leases.pin([pinned(PHONE, FIRST)], 0.0)

        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1.0)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1.0, wanted4=FIRST)
        leases.reserve_fixed(BOB, FIRST, None)
        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1.0, fixed4=FIRST)

    def test_never_over(self) -> None:
        """It does not expire, is not released, and is no session's."""
        leases = leases_of()
        leases.pin([pinned(PHONE, FIRST)], 0.0)

        self.assertFalse(leases.release(PHONE, 1.0))
        self.assertEqual([], leases.expire(10_000 * DAY))
        self.assertEqual(0, leases.forget_all_but(set(), 2.0))
        self.assertEqual(pinned(PHONE, FIRST), leases.get(PHONE))
        self.assertEqual((0, 1), (leases.in_use, leases.pinned))

    def test_removed(self) -> None:
        """When its device is removed the address rests, and is anybody's."""
        leases = leases_of("10.0.0.0/30")
        leases.pin([pinned(PHONE, FIRST)], 0.0)

        self.assertEqual([], leases.pin([], 1.0))
        self.assertEqual((None, 0), (leases.get(PHONE), leases.pinned))
        self.assertEqual(FIRST, leases.take(DESKTOP, BOB, 2.0).lease.address4)

    def test_user_loses_the_address(self) -> None:
        """What was kept for its user too stays the device's when it is kept no more."""
        leases = leases_of("10.0.0.0/30")
        leases.reserve_fixed(ANNA, FIRST, None)
        leases.pin([pinned(PHONE, FIRST)], 0.0)
        leases.reserve_fixed(ANNA, None, None)

        self.assertRaises(PoolEmpty, leases.take, DESKTOP, BOB, 1.0)


class PinTests(SynchronousTestCase):
    """A server follows what was decided on the command line."""

    def test_in_the_way(self) -> None:
        """Who has the address by then loses it, away or not, and can have another."""
        for here in (False, True):
            leases = leases_of()
            leases.take(LAPTOP, ANNA, 0.0)
            if not here:
                leases.release(LAPTOP, 1.0)

            self.assertEqual([LAPTOP], leases.pin([pinned(PHONE, FIRST, user=BOB)], 2.0))
            self.assertIsNone(leases.get(LAPTOP))
            again = leases.take(LAPTOP, ANNA, 3.0).lease
            self.assertEqual(packed("10.0.0.3"), again.address4)

    def test_again(self) -> None:
        """Told the same again it changes nothing, not even who was given the rest."""
        leases = leases_of()
        leases.pin([pinned(PHONE, FIRST), pinned(TABLET, LAST)], 0.0)
        mine = leases.take(LAPTOP, ANNA, 1.0).lease

        self.assertEqual([], leases.pin([pinned(TABLET, LAST), pinned(PHONE, FIRST)], 2.0))
        self.assertEqual(mine, leases.get(LAPTOP))

    def test_changed_places(self) -> None:
        """Two that have changed places are where they are now, and nobody was in the way."""
        leases = leases_of()
        leases.pin([pinned(PHONE, FIRST), pinned(TABLET, LAST)], 0.0)
        swapped = [pinned(PHONE, LAST), pinned(TABLET, FIRST)]

        self.assertEqual([], leases.pin(swapped, 1.0))
        self.assertEqual(swapped, [leases.get(PHONE), leases.get(TABLET)])

    def test_doubled(self) -> None:
        """Of two with one address, which the disk forbids, the first has it."""
        leases = leases_of("10.0.0.0/29", "fd00::/64")
        leases.pin([pinned(PHONE, FIRST), pinned(TABLET, FIRST, SIX)], 0.0)

        expected = [pinned(PHONE, FIRST), pinned(TABLET, None, SIX)]
        self.assertEqual(expected, [leases.get(PHONE), leases.get(TABLET)])

    def test_outside_the_pools(self) -> None:
        """An address that is given out no more is left out, with the lease if it was the last."""
        leases = leases_of("10.0.0.0/29", None)
        leases.pin([pinned(PHONE, FIRST, SIX), pinned(TABLET, packed("192.0.2.1"))], 0.0)

        self.assertEqual(pinned(PHONE, FIRST), leases.get(PHONE))
        self.assertIsNone(leases.get(TABLET))

    def test_restart(self) -> None:
        """After a restart it is there first, pinned as ever; no row of its kind is dropped."""
        rows = [
            Lease(LAPTOP, ANNA, FIRST, None, None),
            pinned(PHONE, FIRST),
            pinned(TABLET, packed("192.0.2.1")),
        ]
        leases = leases_of()

        self.assertEqual(rows[:1], leases.restore(rows, 1000.0))
        self.assertEqual(rows[1], leases.get(PHONE))
        self.assertEqual([], leases.expire(10_000 * DAY))


class TakeLastTests(SynchronousTestCase):
    """The pool's other end."""

    def test_last(self) -> None:
        """From the top down; what is held, aside or resting is stepped over while it can be."""
        pool = AddressPool(ip_network("10.0.0.0/29"), [packed("10.0.0.1"), packed("10.0.0.6")])
        pool.set_aside(packed("10.0.0.5"))
        self.assertEqual(packed("10.0.0.4"), pool.take_last(0.0))
        pool.release(packed("10.0.0.4"), 1.0)

        taken = [pool.take_last(2.0) for _ in range(4)]
        self.assertEqual([packed("10.0.0.3"), packed("10.0.0.2"), packed("10.0.0.4"), None], taken)

    def test_large(self) -> None:
        """Of a large IPv6 network not the last one, which nobody could type; of IPv4 it is."""
        six = AddressPool(ip_network("fd00::/64"), [packed("fd00::1")])
        self.assertEqual(packed("fd00::ffff"), six.take_last(0.0))
        four = AddressPool(ip_network("10.0.0.0/8"), [packed("10.0.0.1")])
        self.assertEqual(packed("10.255.255.254"), four.take_last(0.0))
        small = AddressPool(ip_network("fd00::/125"), [packed("fd00::1")])
        self.assertEqual(packed("fd00::7"), small.take_last(0.0))


def vars_of(error: AddressHeld) -> tuple[bytes, int | None, int | None]:
    return error.address, error.user, error.device
