"""A session keeps its identity while connections come and go."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.limit import Limit
from pyvpn.tunnel.session import Sent, Session
from tests.tunnel.packets import KeepingSink, packed

MINE = packed("10.73.0.2")


def make_session() -> Session:
    return Session(7, 3, "anna/laptop", (MINE,), frozenset(), heard=100.0)


class SessionTests(SynchronousTestCase):
    """Carriers and counters of one device."""

    def test_new_connection_takes_over(self) -> None:
        """A new log-in of the device carries its packets; the old connection is handed back."""
        session, old, new = make_session(), KeepingSink(), KeepingSink()

        self.assertIsNone(session.attach(old, 101.0))
        self.assertIs(old, session.attach(new, 102.0))
        session.send_packets([b"packet"], 0.0)
        self.assertEqual([b"packet"], new.packets)
        self.assertEqual([], old.packets)
        self.assertEqual(102.0, session.heard)

    def test_same_connection_again(self) -> None:
        """A connection attached twice is not its own predecessor: nobody may close it."""
        session, carrier = make_session(), KeepingSink()
        session.attach(carrier, 101.0)

        self.assertIsNone(session.attach(carrier, 102.0))
        self.assertIs(carrier, session.carrier)

    def test_straggler_changes_nothing(self) -> None:
        """What the replaced connection still does neither ends the session nor keeps it alive."""
        session, old, new = make_session(), KeepingSink(), KeepingSink()
        session.attach(old, 101.0)
        session.attach(new, 102.0)

        self.assertFalse(session.heard_from(old, 150.0))
        self.assertFalse(session.detach(old))
        self.assertEqual(102.0, session.heard)
        self.assertIs(new, session.carrier)

    def test_current_connection_counts(self) -> None:
        """What the current connection does counts: the negative twin of the straggler."""
        session, carrier = make_session(), KeepingSink()
        session.attach(carrier, 101.0)

        self.assertTrue(session.heard_from(carrier, 150.0))
        self.assertEqual(150.0, session.heard)
        self.assertTrue(session.detach(carrier))
        self.assertIsNone(session.carrier)
        self.assertFalse(session.heard_from(carrier, 160.0))

    def test_time_does_not_run_backwards(self) -> None:
        """A reading older than the last one makes nobody silent."""
        session, carrier = make_session(), KeepingSink()
        session.attach(carrier, 50.0)
        session.heard_from(carrier, 99.0)

        self.assertEqual(100.0, session.heard)

    def test_counts_what_was_taken(self) -> None:
        """Packets and bytes count as sent when the carrier took them, from the front."""
        session, carrier = make_session(), KeepingSink(room=2)
        session.attach(carrier, 101.0)

        self.assertEqual(2, session.send_packets([b"1", b"22", b"333"], 0.0))
        self.assertEqual((2, 3), (session.packets_out, session.bytes_out))
        self.assertEqual(0, session.send_packets([b"4444"], 0.0))
        self.assertEqual((2, 3), (session.packets_out, session.bytes_out))

    def test_without_connection(self) -> None:
        """Nothing is taken while the device is not connected."""
        session = make_session()

        self.assertEqual(0, session.send_packets([b"packet"], 0.0))
        self.assertEqual((0, 0), (session.packets_out, session.bytes_out))

    def test_own_addresses_are_its_sources(self) -> None:
        """Unless something else is said, a device may send from its own addresses only."""
        self.assertIn(MINE, make_session().sources)
        self.assertNotIn(packed("10.73.0.3"), make_session().sources)
        other = Session(7, 3, "x", (MINE,), frozenset(), heard=0.0, sources=frozenset())
        self.assertNotIn(MINE, other.sources)

    def test_name_in_messages(self) -> None:
        """A message names the device and says whether it is connected."""
        session = make_session()
        self.assertEqual("<Session anna/laptop device 7 detached>", repr(session))
        session.attach(KeepingSink(), 1.0)
        self.assertEqual("<Session anna/laptop device 7 attached>", repr(session))


class UncutTests(SynchronousTestCase):
    """By which carrier super-packets cross uncut."""

    def test_link(self) -> None:
        """By the link while it carries, if that was announced of this very link."""
        session, link = make_session(), FrameSink()
        session.join(link, 0.0)
        self.assertIsNone(session.uncut)
        session.framed = link
        self.assertIs(link, session.uncut)
        session.path_mtu = 1216  # the peer's
        self.assertTrue(session.takes_frames(0.0))
        self.assertEqual(Sent(7, 700, 3), session.send_frames([b"frame"], 0.0))
        self.assertEqual((7, 700), (session.packets_out, session.bytes_out))

        session.join(link, 0.0)
        self.assertIs(link, session.uncut)
        session.join(FrameSink(), 0.0)
        self.assertIsNone(session.uncut)

    def test_not_now(self) -> None:
        """Not while the link is slow, the rate limited, or the link without packets."""
        session, link = make_session(), FrameSink()
        session.join(link, 0.0)
        session.framed = link
        link.is_slow = True
        self.assertFalse(session.takes_frames(0.0))
        link.is_slow = False
        session.limit_out = Limit(1000, 0.0)
        self.assertFalse(session.takes_frames(0.0))
        session.limit_out = None
        self.assertTrue(session.takes_frames(0.0))
        session.join(link, 0.0, carries=False)
        self.assertFalse(session.takes_frames(0.0))

    def test_gone(self) -> None:
        """A link that is gone takes none."""
        session, link = make_session(), FrameSink()
        session.join(link, 0.0)
        session.framed = link
        session.detach(link)
        self.assertIsNone(session.uncut)
        self.assertIsNone(session.framed)


class FrameSink(KeepingSink):
    """A link that takes frames."""

    is_slow = False

    def takes_frames(self, now: float) -> bool:
        return not self.is_slow

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        return Sent(7, 700, 3)
