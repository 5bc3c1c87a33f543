"""Drop counters: what an operator reads when packets do not arrive."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Counters, Drop


class CountersTests(SynchronousTestCase):
    """Reasons and their numbers."""

    def test_nothing_dropped(self) -> None:
        """Where nothing was dropped, nothing is listed, and every reason reads as 0."""
        counters = Counters()

        self.assertEqual({}, dict(counters.dropped))
        self.assertEqual(0, counters.dropped[Drop.SOURCE])
        self.assertEqual({}, dict(counters.dropped))
        self.assertEqual(0, counters.total())

    def test_each_reason_by_itself(self) -> None:
        """Every reason has its own number, and the total is their sum."""
        counters = Counters()
        counters.drop(Drop.MALFORMED)
        counters.drop(Drop.QUEUE_FULL, 40)
        counters.drop(Drop.QUEUE_FULL, 2)
        counters.drop("a sink's own word")

        self.assertEqual(
            {"malformed": 1, "queue-full": 42, "a sink's own word": 1}, dict(counters.dropped)
        )
        self.assertEqual(44, counters.total())

    def test_reason_is_its_text(self) -> None:
        """A reason may be looked up by what the operator sees."""
        counters = Counters()
        counters.drop(Drop.SOURCE)

        self.assertEqual(1, counters.dropped["source-not-own"])
        self.assertEqual("source-not-own", f"{Drop.SOURCE}")

    def test_owners_do_not_share(self) -> None:
        """Two owners' counters are two."""
        one, other = Counters(), Counters()
        one.drop(Drop.TOO_BIG)

        self.assertEqual(0, other.total())
