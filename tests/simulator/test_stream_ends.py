"""How connections on the simulated network end, and how they do not."""

from __future__ import annotations

from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.tcp import TcpSettings
from tests.simulator.lab import Line, packed

BULK = bytes(range(256)) * 400


class EndTests(SynchronousTestCase):
    """How a connection ends, and how it does not."""

    def test_close(self) -> None:
        """What was written arrives before the end does; nothing is left of it then."""
        for conditions in (Conditions(), Conditions(loss=0.15)):
            line = Line(conditions=conditions)
            left, right = line.open()
            left.transport.write(BULK)
            left.transport.loseConnection()
            line.clock.advance(400)

            for one in (left, right):
                assert one.lost is not None
                one.lost.trap(ConnectionDone)
            self.assertEqual(BULK, right.heard)
            self.assertEqual({}, line.left.tcp.streams)
            self.assertEqual({}, line.right.tcp.streams)

    def test_unread(self) -> None:
        """Who closes with bytes unread, or is still sent some, breaks the other's connection."""
        line = Line()
        left, right = line.open()
        right.transport.pauseProducing()
        left.transport.write(b"x")
        line.clock.advance(1)
        right.transport.loseConnection()
        line.clock.advance(1)
        assert left.lost is not None
        left.lost.trap(ConnectionLost)

        line = Line()
        left, right = line.open()
        left.transport.write(b"on its way")
        line.clock.advance(0)
        right.transport.loseConnection()
        line.clock.advance(1)
        self.assertIsNotNone(left.lost)
        self.assertEqual(b"", right.heard)
        self.assertEqual({}, line.right.tcp.streams)

    def test_orphan(self) -> None:
        """A kernel does not keep for ever what its process has left behind."""
        line = Line()
        left, _ = line.open()
        line.cut()
        left.transport.write(b"x")
        left.transport.loseConnection()
        line.clock.advance(50)
        self.assertIsNotNone(left.lost)
        self.assertEqual(1, len(line.left.tcp.streams))
        line.clock.advance(50)
        self.assertEqual({}, line.left.tcp.streams)

    def test_abort(self) -> None:
        """An abort ends both at once."""
        line = Line()
        left, right = line.open()
        left.transport.abortConnection()
        self.assertIsNone(left.lost)
        line.clock.advance(0.1)
        assert left.lost is not None
        assert right.lost is not None
        left.lost.trap(ConnectionAborted)
        right.lost.trap(ConnectionLost)

    def test_cut(self) -> None:
        """A cut is outlived, and what was written meanwhile arrives after it."""
        line = Line()
        left, right = line.open()
        line.cut()
        left.transport.write(b"are you there?")
        line.clock.advance(60)
        self.assertEqual((b"", None), (bytes(right.heard), left.lost))
        line.cut(False)
        line.clock.advance(60)
        self.assertEqual(b"are you there?", right.heard)

    def test_long_cut(self) -> None:
        """It breaks when nothing was acknowledged for as long as was set, and not before."""
        line = Line(tcp=TcpSettings(give_up=30))
        left, right = line.open()
        line.clock.advance(1000)  # idle is not stuck
        line.cut()
        line.clock.advance(1000)
        self.assertIsNone(left.lost)
        left.transport.write(b"x")
        line.clock.advance(29.9)
        self.assertIsNone(left.lost)
        line.clock.advance(0.2)
        assert left.lost is not None
        left.lost.trap(ConnectionLost)
        self.assertIsNone(right.lost)

    def test_crash(self) -> None:
        """Who lost power says nothing; once it is back it answers that it knows of nothing."""
        line = Line()
        left, right = line.open()
        line.right.crash()
        left.transport.write(b"x")
        line.clock.advance(20)
        self.assertIsNone(left.lost)
        line.right.boot()
        line.clock.advance(30)
        assert left.lost is not None
        left.lost.trap(ConnectionLost)
        self.assertIsNone(right.lost)

    def test_killed_process(self) -> None:
        """The kernel ends the connections of a process that was killed."""
        line = Line()
        left, right = line.open()
        line.right.end_process()
        line.clock.advance(1)
        assert left.lost is not None
        left.lost.trap(ConnectionDone)
        self.assertIsNone(right.lost)

    def test_slept(self) -> None:
        """A machine that sleeps loses what is sent to it, and gives no connection up for that."""
        line = Line(tcp=TcpSettings(give_up=30))
        left, right = line.open()
        left.transport.write(b"before")
        line.clock.advance(1)
        line.cut()
        left.transport.write(b" it slept")
        line.clock.advance(0.5)
        line.cut(False)
        line.left.sleep()
        right.transport.write(b"are you there?")
        line.clock.advance(10)
        self.assertEqual((b"before", b""), (bytes(right.heard), bytes(left.heard)))
        line.left.wake()
        line.clock.advance(20)
        self.assertEqual(b"before it slept", right.heard)
        self.assertEqual(b"are you there?", left.heard)
        line.left.sleep()
        line.clock.advance(5000)
        line.left.wake()
        left.transport.write(b" twice")
        line.clock.advance(20)
        self.assertEqual(b"before it slept twice", right.heard)
        self.assertEqual((None, None), (left.lost, right.lost))

    def test_moved_away(self) -> None:
        """A connection from an address that is gone hangs, and goes on if it comes back."""
        line = Line()
        left, right = line.open()
        here = line.left.addresses
        line.left.move(packed("203.0.113.5"))
        left.transport.write(b"hello?")
        line.clock.advance(60)
        self.assertIsNone(left.lost)
        self.assertEqual(b"", right.heard)
        line.left.move(*here)
        line.clock.advance(60)
        self.assertEqual(b"hello?", right.heard)
