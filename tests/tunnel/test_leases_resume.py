"""Leases that are taken into use as they are on disk."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.leases import Lease
from tests.tunnel.packets import packed
from tests.tunnel.test_leases import ANNA, BOB, DESKTOP, LAPTOP, leases_of

FIRST = packed("10.0.0.2")


class ResumeTests(SynchronousTestCase):
    """A device comes back without asking."""

    def test_asItIs(self) -> None:
        """It has what it had, in use; twice is the same."""
        leases = leases_of()
        leases.take(LAPTOP, ANNA, 0.0)
        leases.release(LAPTOP, 1.0)
        wanted = Lease(LAPTOP, ANNA, FIRST, None, None)
        self.assertEqual(wanted, leases.resume(LAPTOP, ANNA, 2.0))
        self.assertEqual(wanted, leases.resume(LAPTOP, ANNA, 3.0))
        self.assertEqual(1, leases.in_use)
        self.assertEqual([], leases.expire(1e12))

    def test_notEvicted(self) -> None:
        """In use, it is nobody else's, however short addresses are."""
        leases = leases_of()
        for device in range(5):
            leases.take(device, ANNA, 0.0)
            leases.release(device, 1.0 + device)
        leases.resume(0, ANNA, 9.0)
        self.assertEqual([1], leases.take(DESKTOP, BOB, 9.0).evicted)

    def test_none(self) -> None:
        """Who has no lease, or a pinned one, gets none."""
        leases = leases_of()
        self.assertIsNone(leases.resume(LAPTOP, ANNA, 0.0))
        leases.pin([Lease(LAPTOP, ANNA, FIRST, None, None, True)], 0.0)
        self.assertIsNone(leases.resume(LAPTOP, ANNA, 0.0))

    def test_anotherNow(self) -> None:
        """Nor who would be given another address, or one more: it must be told first."""
        leases = leases_of()
        leases.take(LAPTOP, ANNA, 0.0)
        leases.release(LAPTOP, 1.0)
        leases.reserve_fixed(ANNA, packed("10.0.0.5"), None)
        self.assertIsNone(leases.resume(LAPTOP, ANNA, 2.0, fixed4=packed("10.0.0.5")))
        self.assertEqual(0, leases.in_use)
        both = leases_of("10.0.0.0/29", "fd00::/64")
        both.restore([Lease(LAPTOP, ANNA, FIRST, None, 1.0)], 2.0)
        self.assertIsNone(both.resume(LAPTOP, ANNA, 3.0))

    def test_fixedForAnother(self) -> None:
        """Nor who has an address that was fixed for somebody else meanwhile."""
        leases = leases_of()
        leases.take(LAPTOP, ANNA, 0.0)
        leases.release(LAPTOP, 1.0)
        leases.reserve_fixed(BOB, FIRST, None)
        self.assertIsNone(leases.resume(LAPTOP, ANNA, 2.0))
