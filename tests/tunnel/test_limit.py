"""A limit: how much passes, how much waits, and that nothing is out of order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.limit import (
    BURST_SECONDS,
    LEAST_BURST,
    LEAST_ROOM,
    LONGEST,
    MOST_ROOM,
    PIECE,
    SHORTEST,
    Limit,
)

RATES = st.integers(64_000, 100_000_000_000)
SIZES = st.integers(20, 65_535)
BATCHES = st.lists(SIZES, max_size=130)
PAUSES = st.floats(0, 3) | st.just(0.0)
MEGABIT = 1_000_000


class Packet(bytes):
    """One that is as long as it says, and each another, without memory for what is in it."""

    size = 0

    def __len__(self) -> int:
        return self.size


def of_sizes(sizes: list[int]) -> list[bytes]:
    """Packets so long."""
    packets: list[bytes] = []
    for size in sizes:
        packet = Packet()
        packet.size = size
        packets.append(packet)
    return packets


class Offered:
    """What was offered to a limit in one go after another, and what has become of it."""

    def __init__(self, bits: int) -> None:
        self.limit = Limit(bits, 0.0)
        self.now = 0.0
        self.passed: list[tuple[float, int]] = []
        self.order: list[bytes] = []
        self.offered: list[bytes] = []
        self.dropped = 0

    def offer(self, pause: float, sizes: list[int]) -> None:
        """After a *pause* ask for what is due, and offer packets of these *sizes*."""
        self.now += pause
        self._pass(self.limit.due(self.now))
        packets = of_sizes(sizes)
        self.offered += packets
        gone, dropped = self.limit.admit(packets, self.now)
        self.dropped += dropped
        self._pass(gone)

    def _pass(self, packets: list[bytes]) -> None:
        self.passed += [(self.now, len(packet)) for packet in packets]
        self.order += packets

    def most(self, rate: float) -> float:
        """How much more than *rate* bytes a second passed in any stretch of time, at most."""
        worst = excess = before = 0.0
        for at, size in self.passed:
            excess = max(0.0, excess - (at - before) * rate) + size
            worst, before = max(worst, excess), at
        return worst


class LimitTests(SynchronousTestCase):
    """One direction of one session."""

    @settings(max_examples=150)
    @given(RATES, st.lists(st.tuples(PAUSES, BATCHES), max_size=30))
    def test_neverMore(self, bits: int, story: list[tuple[float, list[int]]]) -> None:
        """In no stretch of time more passes than the rate, a burst, and what has waited."""
        offered = Offered(bits)
        for pause, sizes in story:
            offered.offer(pause, sizes)
        rate = bits / 8 * 1.02
        burst = max(rate * BURST_SECONDS, LEAST_BURST)
        most = burst + offered.limit.room + 2 * 65_535  # both end with a whole packet
        self.assertLessEqual(offered.most(rate), most * (1 + 1e-9))

    @settings(max_examples=150)
    @given(RATES, st.lists(st.tuples(PAUSES, BATCHES), max_size=30))
    def test_neverMoreAtOnce(self, bits: int, story: list[tuple[float, list[int]]]) -> None:
        """Where nothing has to wait, it is the rate, a burst, and one packet."""
        limit, now = Limit(bits, 0.0), 0.0
        rate, passed = bits / 8 * 1.02, 0
        for pause, sizes in story:
            now += pause
            gone, _ = limit.admit(of_sizes(sizes), now)
            passed += sum(map(len, gone))
            limit.let_go()
        self.assertLessEqual(passed, now * rate + limit.burst + 65_535 + 1)

    @settings(max_examples=150)
    @given(RATES, st.lists(st.tuples(PAUSES, BATCHES), max_size=30))
    def test_accounted(self, bits: int, story: list[tuple[float, list[int]]]) -> None:
        """Each packet passes, waits or is dropped, in order; what waits is bounded."""
        offered = Offered(bits)
        for pause, sizes in story:
            offered.offer(pause, sizes)
            waiting = offered.limit.waiting
            self.assertEqual(len(offered.offered), len(offered.order) + waiting + offered.dropped)
        waiting = offered.limit.let_go()
        self.assertEqual(0, offered.limit.waiting)
        self.assertLess(sum(map(len, waiting)), MOST_ROOM + 65_535)
        places = {id(packet): place for place, packet in enumerate(offered.offered)}
        seen = [places[id(packet)] for packet in (*offered.order, *waiting)]
        self.assertEqual(sorted(seen), seen)

    @given(st.integers(64_000, 1_000_000_000), st.integers(200, 1500))
    @settings(max_examples=30, deadline=None)
    def test_always_used(self, bits: int, size: int) -> None:
        """With more offered than may pass, and asked as often as it says, the figure passes."""
        offered = Offered(bits)
        pause = offered.limit.pause
        steps = int(2 / pause)
        each = int(bits / 8 * 2 * pause / size) + 1
        for _ in range(min(steps, 250)):
            offered.offer(pause, [size] * each)
        rate = bits / 8 * 1.02
        passed = sum(length for _, length in offered.passed)
        self.assertGreaterEqual(passed, rate * offered.now - size)
        self.assertLessEqual(passed, rate * offered.now + offered.limit.burst + size)

    def test_late(self) -> None:
        """Who comes late by no more than what waits, and a burst, loses nothing; else the rest."""
        for late, share in ((0.04, 1.0), (0.14, 1.0), (0.3, 0.5)):
            offered = Offered(10 * MEGABIT)
            offered.offer(0.0, [1000] * 200)
            begun = len(offered.passed)
            for _ in range(20):
                offered.offer(late, [1000] * 200)
            rate = (len(offered.passed) - begun) * 1000 / offered.now
            self.assertApproximates(share, rate / 1.275e6, 0.02)

    def test_behind(self) -> None:
        """What comes while something waits does not overtake it, whatever could pass."""
        limit = Limit(MEGABIT, 0.0)
        first, second, third = of_sizes([6500, 1000, 1000])
        passed, dropped = limit.admit([first, second], 0.0)
        self.assertEqual(([id(first)], 0), ([id(each) for each in passed], dropped))
        self.assertEqual(([], 0), limit.admit([third], 1.0))
        due = limit.due(1.0)
        self.assertEqual([id(second), id(third)], [id(packet) for packet in due])

    def test_large(self) -> None:
        """A packet that is larger than burst and room passes, when its turn comes."""
        limit = Limit(64_000, 0.0)
        passed, dropped = limit.admit(of_sizes([60_000] * 3), 0.0)
        self.assertEqual((1, 1), (len(passed), dropped))
        self.assertEqual([], limit.due(6.9))
        self.assertEqual(1, len(limit.due(7.1)))

    def test_lowered(self) -> None:
        """With a lower figure less may wait, and what was saved up is no more than a burst."""
        limit = Limit(100 * MEGABIT, 0.0)
        limit.admit(of_sizes([1000] * 2000), 0.0)
        waiting = limit.waiting
        dropped = limit.change(5 * MEGABIT, 0.0)
        self.assertEqual(waiting - dropped, limit.waiting)
        self.assertLess(limit.waiting, 70)
        limit = Limit(100 * MEGABIT, 0.0)
        limit.change(5 * MEGABIT, 0.0)
        passed, _ = limit.admit(of_sizes([1000] * 2000), 0.0)
        self.assertEqual(32, len(passed))

    def test_back(self) -> None:
        """A clock that steps back gives nothing."""
        limit = Limit(MEGABIT, 10.0)
        limit.admit(of_sizes([6500, 1000]), 10.0)
        self.assertEqual([], limit.due(3.0))
        self.assertEqual([], limit.due(10.0))

    def test_bounds(self) -> None:
        """Small figures leave room for a TCP to begin, large ones do not fill the memory."""
        slow, fast = Limit(64_000, 0.0), Limit(100_000_000_000, 0.0)
        self.assertEqual((LEAST_BURST, LEAST_ROOM), (slow.burst, slow.room))
        self.assertEqual(MOST_ROOM, fast.room)
        self.assertEqual((LONGEST, SHORTEST), (slow.pause, fast.pause))
        self.assertAlmostEqual(PIECE / 12.75e6, Limit(100 * MEGABIT, 0.0).pause)
