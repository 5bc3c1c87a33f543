"""Limits at work in the router: whose packets pass, wait and are dropped, and what is counted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Drop
from tests.tunnel.office import ANNA4, BOB4, OFFICE4, Server
from tests.tunnel.packets import packed, packet

MEGABIT = 1_000_000
FULL = bytes(1380)  # 1400 with its header


class LimitsTests(SynchronousTestCase):
    """anna has limits, bob has none."""

    def setUp(self) -> None:
        self.server = Server(client_to_client=True)
        self.router = self.server.router
        self.limits = self.router.limits
        self.asked: list[float] = []
        self.limits.held_up = self.asked.append

    def test_from_session(self) -> None:
        """What comes too fast waits, and goes on in order; what finds no room is counted."""
        self.limits.set(self.server.anna, 5 * MEGABIT, None, 0.0)
        sent = [packet(ANNA4, OFFICE4, FULL + bytes([n])) for n in range(100)]
        self.router.packets_from_session(self.server.anna, sent, 0.0)
        begun = len(self.server.tun.packets)
        self.assertEqual(23, begun)  # 31,875 bytes: 50 ms
        self.assertEqual([0.01], self.asked)
        waiting = self.server.anna.limit_in
        assert waiting is not None
        self.assertEqual(46, waiting.waiting)  # 63,750 bytes: 100 ms
        self.assertEqual({Drop.RATE: 31}, dict(self.server.counters.dropped))
        self.assertEqual({Drop.RATE: 31}, dict(self.server.anna.drops.dropped))

        self.assertEqual(0.01, self.limits.release(0.05))
        self.assertEqual(0.0, self.limits.release(0.1) + self.limits.release(0.15))
        self.assertEqual(sent[:69], self.server.tun.packets)
        self.assertEqual(69, self.server.anna.packets_in)

    def test_nothing(self) -> None:
        """Packets of no bytes do not wait, where they would take no room, but are refused."""
        self.limits.set(self.server.anna, 64_000, None, 0.0)
        self.router.packets_from_session(self.server.anna, [b"x" * 65_535], 0.0)
        self.router.packets_from_session(self.server.anna, [b""] * 5000, 0.0)
        waiting = self.server.anna.limit_in
        assert waiting is not None
        self.assertEqual(0, waiting.waiting)
        self.assertEqual(5001, self.server.counters.dropped[Drop.MALFORMED])

    def test_forgotten(self) -> None:
        """What waits when the session ends is counted as dropped."""
        self.limits.set(self.server.anna, 64_000, None, 0.0)
        self.router.packets_from_session(
            self.server.anna, [packet(ANNA4, OFFICE4, FULL)] * 20, 0.0
        )
        waiting = self.server.anna.limit_in
        assert waiting is not None
        left = waiting.waiting
        self.assertLess(0, left)
        before = self.server.counters.dropped[Drop.RATE]
        self.limits.forget(self.server.anna)
        self.assertEqual(before + left, self.server.counters.dropped[Drop.RATE])
        self.assertEqual(0, waiting.waiting)

    def test_to_session(self) -> None:
        """So it is on the way to a session, with nobody else held up."""
        self.limits.set(self.server.anna, None, 5 * MEGABIT, 0.0)
        to_anna = [packet(OFFICE4, ANNA4, FULL + bytes([n])) for n in range(40)]
        to_bob = [packet(OFFICE4, BOB4, FULL + bytes([n])) for n in range(100)]
        self.router.packets_from_tun(to_anna + to_bob, 0.0)
        self.assertEqual(to_bob, self.server.to_bob.packets)
        self.assertEqual(to_anna[:23], self.server.to_anna.packets)
        self.assertEqual(23, self.server.anna.packets_out)
        self.assertEqual(0.0, self.limits.release(0.05))
        self.assertEqual(to_anna, self.server.to_anna.packets)
        self.assertEqual(0, self.server.counters.total())

    def test_judged(self) -> None:
        """What has waited is judged like everything: in whose name, and where to."""
        self.limits.set(self.server.anna, 64_000, None, 0.0)
        self.server.from_anna(*[packet(ANNA4, OFFICE4, FULL)] * 3)
        self.server.from_anna(packet(BOB4, OFFICE4), packet(ANNA4, "8.8.8.8"))
        self.limits.release(5.0)
        self.assertEqual({Drop.SOURCE: 1, Drop.DESTINATION: 1}, dict(self.server.counters.dropped))
        self.assertEqual(3, len(self.server.tun.packets))

    def test_one_to_another(self) -> None:
        """Between two sessions the limits of both hold, one after the other."""
        self.limits.set(self.server.anna, 5 * MEGABIT, None, 0.0)
        self.limits.set(self.server.bob, None, MEGABIT, 0.0)
        sent = [packet(ANNA4, BOB4, FULL + bytes([n])) for n in range(30)]
        self.router.packets_from_session(self.server.anna, sent, 0.0)
        passed = len(self.server.to_bob.packets)
        self.assertEqual(5, passed)
        self.assertTrue(self.limits.release(0.05))
        self.assertLess(passed, len(self.server.to_bob.packets))
        for step in range(100):
            more = self.limits.release(0.05 + step / 10)
        self.assertEqual(0.0, more)
        dropped = self.server.bob.drops.dropped[Drop.RATE]
        self.assertEqual(30, len(self.server.to_bob.packets) + dropped)

    def test_lifted(self) -> None:
        """When a limit ends, what waits goes at once, and nothing is held up any more."""
        self.limits.set(self.server.anna, MEGABIT, MEGABIT, 0.0)
        out = [packet(ANNA4, OFFICE4, FULL + bytes([n])) for n in range(10)]
        back = [packet(OFFICE4, ANNA4, FULL + bytes([n])) for n in range(10)]
        self.router.packets_from_session(self.server.anna, out, 0.0)
        self.router.packets_from_tun(back, 0.0)
        self.assertLess(len(self.server.tun.packets), 10)
        self.limits.set(self.server.anna, None, None, 0.0)
        self.assertEqual((out, back), (self.server.tun.packets, self.server.to_anna.packets))
        self.assertEqual(0.0, self.limits.release(0.01))
        self.assertIsNone(self.server.anna.limit_in)

    def test_changed(self) -> None:
        """Another figure holds at once; the same one again changes nothing."""
        self.limits.set(self.server.anna, MEGABIT, None, 0.0)
        limit = self.server.anna.limit_in
        assert limit is not None
        self.router.packets_from_session(
            self.server.anna, [packet(ANNA4, OFFICE4, FULL)] * 10, 0.0
        )
        self.limits.set(self.server.anna, MEGABIT, None, 0.0)
        self.assertIs(limit, self.server.anna.limit_in)
        self.limits.set(self.server.anna, 100 * MEGABIT, None, 0.0)
        self.assertEqual(100 * MEGABIT, limit.bits)
        self.assertEqual(0.0, self.limits.release(0.001))
        self.assertEqual(10, len(self.server.tun.packets))

    def test_gone(self) -> None:
        """Of a session that has ended nothing is passed on."""
        self.limits.set(self.server.anna, MEGABIT, None, 0.0)
        self.router.packets_from_session(
            self.server.anna, [packet(ANNA4, OFFICE4, FULL)] * 10, 0.0
        )
        before = len(self.server.tun.packets)
        self.router.remove(self.server.anna)
        self.assertEqual(0.0, self.limits.release(1.0))
        self.assertEqual(before, len(self.server.tun.packets))

    def test_heard(self) -> None:
        """Who sends too much is here: also what is dropped shows that."""
        self.limits.set(self.server.anna, 64_000, None, 0.0)
        for second in range(100):
            self.router.packets_from_session(
                self.server.anna, [packet(ANNA4, OFFICE4, FULL)] * 50, float(second)
            )
            self.assertNotIn(self.server.anna, self.router.tick(float(second)))

    def test_without_carrier(self) -> None:
        """What has waited and finds nobody there is counted as ever."""
        self.limits.set(self.server.anna, None, MEGABIT, 0.0)
        self.router.packets_from_tun([packet(OFFICE4, ANNA4, FULL)] * 8, 0.0)
        went = len(self.server.to_anna.packets)
        self.server.anna.detach(self.server.to_anna)
        self.limits.release(1.0)
        self.assertEqual({Drop.NO_CARRIER: 8 - went}, dict(self.server.counters.dropped))

    def test_address_stays(self) -> None:
        """A session with limits is found by its address like any other."""
        self.limits.set(self.server.anna, MEGABIT, MEGABIT, 0.0)
        self.assertIs(self.server.anna, self.router.sessions.lookup(packed(ANNA4)))
