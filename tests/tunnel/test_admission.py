"""Connections that have not logged in: bounded in all and by source."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.tunnel.admission import Admission
from tests.tunnel.packets import packed

HOME, CAFE = packed("198.51.100.7"), packed("203.0.113.9")


class AdmissionTests(SynchronousTestCase):
    """Who may wait at the door."""

    def test_share_of_a_source(self) -> None:
        """A source at its share is refused; the others, and its older connections, are not."""
        admission = Admission(total=100, per_source=2)
        self.assertIsNone(admission.admit("a", HOME))
        self.assertIsNone(admission.admit("b", HOME))

        self.assertEqual("c", admission.admit("c", HOME))
        self.assertEqual(2, len(admission))
        self.assertFalse(admission.done("c"))
        self.assertIsNone(admission.admit("d", CAFE))

    def test_share_given_back(self) -> None:
        """Who has logged in, or gone, leaves room for the next of that source."""
        admission = Admission(total=100, per_source=1)
        admission.admit("a", HOME)

        self.assertTrue(admission.done("a"))
        self.assertFalse(admission.done("a"))
        self.assertIsNone(admission.admit("b", HOME))

    def test_oldest_gives_way(self) -> None:
        """When all places are taken the connection that waited longest is closed."""
        admission = Admission(total=2, per_source=16)
        admission.admit("a", HOME)
        admission.admit("b", CAFE)

        self.assertEqual("a", admission.admit("c", HOME))
        self.assertFalse(admission.done("a"))
        self.assertEqual("b", admission.admit("d", HOME))
        self.assertEqual(2, len(admission))

    def test_flood_from_many_sources(self) -> None:
        """Two thousand silent connections do not keep a client out."""
        admission = Admission(total=512, per_source=16)
        for n in range(2000):
            admission.admit(n, (0x0B000000 + n // 16).to_bytes(4))

        self.assertNotEqual("client", admission.admit("client", HOME))
        self.assertTrue(admission.done("client"))

    def test_behind_a_relay(self) -> None:
        """Behind a trusted relay there is no share, only the total."""
        admission = Admission(total=50, per_source=1)
        for n in range(50):
            self.assertIsNone(admission.admit(n, None))
        self.assertEqual(0, admission.admit("next", None))

    def test_version_6_network(self) -> None:
        """All addresses of a /64 share one share."""
        admission = Admission(total=100, per_source=1)
        self.assertIsNone(admission.admit("a", packed("2001:db8::1")))
        self.assertEqual("b", admission.admit("b", packed("2001:db8::2")))
        self.assertIsNone(admission.admit("c", packed("2001:db8:0:1::1")))

    def test_twice(self) -> None:
        """Admitting a connection twice is our own mistake."""
        admission = Admission()
        admission.admit("a", HOME)
        self.assertRaises(Misuse, admission.admit, "a", HOME)

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 15), st.none() | st.integers(0, 2)),
            max_size=60,
        )
    )
    def test_same_as_the_obvious_model(self, events: list[tuple[bool, int, int | None]]) -> None:
        """Agrees with a plain list, for any order of coming and going; sources are forgotten."""
        admission = Admission(total=5, per_source=2)
        waiting: list[tuple[int, bytes | None]] = []
        for coming, connection, origin in events:
            known = [entry for entry in waiting if entry[0] == connection]
            if not coming:
                self.assertEqual(bool(known), admission.done(connection))
                waiting = [entry for entry in waiting if entry[0] != connection]
            elif not known:
                source = None if origin is None else bytes([10, 0, 0, origin])
                if source is not None and [s for _, s in waiting].count(source) >= 2:
                    expected: int | None = connection
                else:
                    expected = waiting.pop(0)[0] if len(waiting) >= 5 else None
                    waiting.append((connection, source))
                self.assertEqual(expected, admission.admit(connection, source))
            self.assertEqual(len(waiting), len(admission))
            sources = {source for _, source in waiting if source is not None}
            self.assertEqual(sources, set(admission._by_source))
