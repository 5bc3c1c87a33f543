"""What counts as one source."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.sources import source_of
from tests.tunnel.packets import packed


class SourceTests(SynchronousTestCase):
    """The part of an address that one customer cannot change."""

    def test_version_4(self) -> None:
        """Each IPv4 address is a source."""
        self.assertEqual(packed("198.51.100.7"), source_of(packed("198.51.100.7")))

    def test_version_6(self) -> None:
        """All of a /64 is one source, the next /64 another."""
        one = source_of(packed("2001:db8:0:1::1"))
        self.assertEqual(one, source_of(packed("2001:db8:0:1:ffff:ffff:ffff:ffff")))
        self.assertNotEqual(one, source_of(packed("2001:db8:0:2::1")))

    def test_version_4_as_version_6(self) -> None:
        """IPv4 on a listener for both families is IPv4: its clients are not all one source."""
        self.assertEqual(packed("198.51.100.7"), source_of(packed("::ffff:198.51.100.7")))
        self.assertNotEqual(
            source_of(packed("::ffff:198.51.100.7")), source_of(packed("::ffff:198.51.100.8"))
        )
