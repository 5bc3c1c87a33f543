"""Limits: buckets of tokens, one for each source, and what counts as load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.flood import (
    LOAD_SECONDS,
    LOAD_WAITING,
    REFUSALS,
    Bucket,
    Load,
    SourceRates,
)
from tests.tunnel.packets import packed

HERE = packed("192.0.2.1")


class BucketTests(SynchronousTestCase):
    """Tokens that come back with time."""

    def test_burst(self) -> None:
        """A full bucket gives its burst at once, and no more."""
        bucket = Bucket(20.0, 5.0)

        self.assertEqual([True] * 5 + [False] * 2, [bucket.take(100.0) for _ in range(7)])

    def test_refills(self) -> None:
        """After that one comes back every twentieth of a second."""
        bucket = Bucket(20.0, 5.0)
        for _ in range(5):
            bucket.take(100.0)

        self.assertFalse(bucket.take(100.04))
        self.assertTrue(bucket.take(100.0501))
        self.assertFalse(bucket.take(100.0501))

    def test_never_more_than_the_burst(self) -> None:
        """A long silence saves up no more than a burst."""
        bucket = Bucket(20.0, 5.0)
        bucket.take(0.0)

        self.assertEqual(5, sum(bucket.take(10**6) for _ in range(50)))

    @given(st.lists(st.floats(0, 0.5), max_size=200))
    def test_never_more_than_the_rate(self, gaps: list[float]) -> None:
        """Whatever the times: burst and rate together are never exceeded."""
        bucket, now, taken = Bucket(20.0, 5.0), 50.0, 0
        for gap in gaps:
            now += gap
            taken += bucket.take(now)

        self.assertLessEqual(taken, 5 + 20 * sum(gaps) + 1e-6)

    def test_kernel_table(self) -> None:
        """The timing that Linux expects of its own limiter."""
        # src/selftest/ratelimiter.c: milliseconds to wait, then the answer.
        step = 1000 / 20
        table = [(0.0, True)] * 5 + [(0.0, False), (step, True), (0.0, False)]
        table += [(2 * step, True), (0.0, True), (0.0, False)]
        sources, now = SourceRates(), 1000.0
        for wait, expected in table:
            now += (wait + (0.001 if wait else 0.0)) / 1000
            self.assertEqual(expected, sources.take(HERE, now))


class SourceTests(SynchronousTestCase):
    """Each source has its own bucket."""

    def spent(self, sources: SourceRates, address: str) -> bool:
        """Use all of one source's tokens; whether it had any."""
        return [sources.take(packed(address), 100.0) for _ in range(5)] == [True] * 5

    def test_version_4(self) -> None:
        """An IPv4 source is one address."""
        sources = SourceRates()
        self.assertTrue(self.spent(sources, "192.0.2.1"))
        self.assertFalse(sources.take(packed("192.0.2.1"), 100.0))
        self.assertTrue(self.spent(sources, "192.0.2.2"))

    def test_version_6(self) -> None:
        """An IPv6 source is a /64: another address in it is the same source."""
        sources = SourceRates()
        self.assertTrue(self.spent(sources, "2001:db8:0:1::1"))
        self.assertFalse(sources.take(packed("2001:db8:0:1:ffff:ffff:ffff:ffff"), 100.0))
        self.assertTrue(self.spent(sources, "2001:db8:0:2::1"))
        self.assertEqual(2, len(sources))

    def test_bounded(self) -> None:
        """The table keeps the sources that were heard last, and no more than it may."""
        sources = SourceRates(capacity=100)
        given = 0
        for number in range(1000):
            sources.take(number.to_bytes(4, "big"), 100.0)
            given += sources.take(HERE, 100.0)

        self.assertEqual(100, len(sources))
        self.assertEqual(5, given)
        self.assertTrue(sources.take((0).to_bytes(4, "big"), 100.0))


class LoadTests(SynchronousTestCase):
    """Whether cookies are demanded."""

    def test_from_an_eighth_of_the_queue(self) -> None:
        """With 512 waiting handshakes it is load, with 511 it is not."""
        self.assertEqual(512, LOAD_WAITING)
        self.assertFalse(Load().under(511, 100.0))
        self.assertTrue(Load().under(512, 100.0))

    def test_sticky(self) -> None:
        """It stays so for a second after it was last seen, not longer."""
        load = Load()
        load.under(512, 100.0)
        load.under(600, 100.5)

        self.assertTrue(load.under(0, 101.4))
        self.assertFalse(load.under(0, 100.5 + LOAD_SECONDS))
        self.assertFalse(load.under(511, 102.0))

    def test_refusals(self) -> None:
        """Handshakes that come to nothing are load from the 201st in a second on, not before."""
        load = Load()
        for _ in range(200):
            load.refused(100.0)
            self.assertFalse(load.under(0, 100.0))
        load.refused(100.0)
        self.assertTrue(load.under(0, 100.0))
        self.assertTrue(load.under(0, 100.9))
        self.assertFalse(load.under(0, 100.0 + LOAD_SECONDS))

    def test_refusals_now_and_then(self) -> None:
        """Strangers who try in vain, as many as there may be, are no load for ever."""
        self.assertEqual(200, REFUSALS)
        load, now = Load(), 100.0
        for _ in range(2000):
            load.refused(now)
            self.assertFalse(load.under(0, now))
            now += 1 / 190
