"""Timestamps that only grow, whatever the clock does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.tai64n import SIZE, TICK, Stamps, reserve, tai64n
from pyvpn.errors import Misuse

NOW = 1_700_000_000.0
TIMES = st.floats(0, 2.0**33)


class LabelTests(SynchronousTestCase):
    """A time in twelve bytes."""

    def test_published(self) -> None:
        """The examples of the definition: 1970 began ten seconds into TAI64's half."""
        self.assertEqual("400000000000000a00000000", tai64n(0.0).hex())
        self.assertEqual("400000002a2b2c2d00000000", tai64n(0x2A2B2C2D - 10).hex())

    def test_rounded_down(self) -> None:
        """The nanoseconds are whole multiples of 2**24, never ahead of the clock."""
        for fraction, ticks in ((0.0, 0), (0.0167, 0), (0.0168, 1), (0.5, 29), (0.999, 59)):
            stamp = tai64n(NOW + fraction)
            self.assertEqual(tai64n(NOW)[:8], stamp[:8])
            self.assertEqual(ticks * TICK, int.from_bytes(stamp[8:], "big"))

    @settings(deadline=None)
    @given(TIMES, TIMES)
    def test_sorts_by_time(self, one: float, other: float) -> None:
        """Of two times the later has no smaller timestamp, and a tick later a greater one."""
        earlier, later = sorted((one, other))
        self.assertLessEqual(tai64n(earlier), tai64n(later))
        self.assertLess(tai64n(earlier), tai64n(later + 0.0168))
        self.assertEqual(SIZE, len(tai64n(one)))

    @settings(deadline=None)
    @given(TIMES, st.floats(0, 1e6))
    def test_reserve(self, time: float, seconds: float) -> None:
        """A reserve lies so far ahead, to the tick."""
        ahead = reserve(tai64n(time), seconds)
        self.assertGreaterEqual(ahead, tai64n(time))
        self.assertLessEqual(ahead, tai64n(time + seconds + 0.018))
        self.assertGreaterEqual(ahead, tai64n(max(0, time + seconds - 0.018)))

    def test_reserve_across_a_second(self) -> None:
        """Nanoseconds carry over into seconds."""
        half_past = bytes.fromhex("400000000000000a1dcd6500")
        self.assertEqual("400000000000001500000000", reserve(half_past, 10.5).hex())
        self.assertEqual("400000000000000a1dcd6500", reserve(half_past, 0.0).hex())


class StampsTests(SynchronousTestCase):
    """What one key sends."""

    def test_the_time(self) -> None:
        """With a clock that runs, a stamp is the time."""
        time = [NOW]
        stamps = Stamps(lambda: time[0])
        self.assertEqual(b"", stamps.last)
        self.assertEqual(tai64n(NOW), stamps.next())
        time[0] += 5.0
        self.assertEqual(tai64n(NOW + 5.0), stamps.next())
        self.assertEqual(tai64n(NOW + 5.0), stamps.last)

    def test_a_clock_that_stands(self) -> None:
        """Stamps of one moment follow one another by a tick, sixty to the second."""
        stamps = Stamps(lambda: NOW)
        first = stamps.next()
        found = [stamps.next() for _ in range(60)]
        self.assertEqual(reserve(first, TICK / 1e9), found[0])
        self.assertEqual(tai64n(NOW + 1.0), found[-1])
        self.assertEqual(tai64n(NOW + 0.999), found[-2])

    def test_a_clock_set_back(self) -> None:
        """A day back, stamps go on from the last, and are the time again when it is later."""
        time = [NOW]
        stamps = Stamps(lambda: time[0])
        before = stamps.next()
        time[0] -= 86400.0
        self.assertEqual(reserve(before, TICK / 1e9), stamps.next())
        time[0] += 86410.0
        self.assertEqual(tai64n(NOW + 10.0), stamps.next())

    def test_floor(self) -> None:
        """What an earlier process may have sent is not sent again."""
        floor = reserve(tai64n(NOW), 3600.0)
        stamps = Stamps(lambda: NOW, floor)
        self.assertEqual(floor, stamps.last)
        self.assertLess(floor, stamps.next())
        self.assertEqual(tai64n(NOW + 3601), Stamps(lambda: NOW + 3601, floor).next())

    def test_floor_at_the_end_of_a_second(self) -> None:
        """A tick from a floor that is no whole tick never makes a thousand milliseconds."""
        for nanoseconds, expected in (
            (1_000_000_000 - TICK - 1, (10, 999_999_999)),
            (1_000_000_000 - TICK, (11, 0)),
            (999_999_999, (11, 0)),
        ):
            floor = tai64n(0.0)[:8] + nanoseconds.to_bytes(4, "big")
            stamp = Stamps(lambda: 0.0, floor).next()
            found = stamp[7], int.from_bytes(stamp[8:], "big")
            self.assertEqual(expected, found)

    def test_no_floor(self) -> None:
        """A floor that is no timestamp is our own mistake, not a stamp that sorts anyhow."""
        for floor in (b"\0", bytes(11), bytes(13), b"\x80".ljust(12, b"\0"), b"\xff" * 12):
            self.assertRaises(Misuse, Stamps, lambda: NOW, floor)
        Stamps(lambda: NOW, b"\x7f" + b"\xff" * 7 + bytes(4))

    @settings(deadline=None)
    @given(
        st.lists(st.floats(-1e5, 1e5) | st.just(0.0), max_size=60), st.binary(max_size=0) | TIMES
    )
    def test_only_upwards(self, steps: list[float], floor: bytes | float) -> None:
        """Whatever steps the clock makes, each stamp is later than all before it, and real."""
        time = [NOW]
        last = tai64n(floor) if isinstance(floor, float) else floor
        stamps = Stamps(lambda: time[0], last)
        for step in steps:
            time[0] += step
            stamp = stamps.next()
            self.assertGreater(stamp, last)
            self.assertGreaterEqual(stamp, tai64n(time[0]))
            self.assertEqual(SIZE, len(stamp))
            nanoseconds = int.from_bytes(stamp[8:], "big")
            self.assertLess(nanoseconds, 1_000_000_000)
            self.assertEqual(stamp, stamps.last)
            last = stamp
