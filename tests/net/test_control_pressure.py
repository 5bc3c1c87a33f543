"""The control link towards a peer that reads slowly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.control import ControlLink
from pyvpn.net.tls import client_options, server_options
from pyvpn.net.tls_transport import TlsFactory
from pyvpn.net.valve import (
    COMMANDS_MOST,
    DRAIN_QUICK,
    DRAIN_SLOW,
    QUEUE_LEAST,
    QUEUE_MOST,
)
from pyvpn.wire.command import Command
from tests.net.links import Bench, KeepingOwner, StubbornLine, frames_in, question
from tests.net.test_tls import HOST, IDENTITY

PACKET = bytes(1420)
BATCH = [PACKET] * 32
MOST = 256 * 1024


class StubbornTests(SynchronousTestCase):
    """A peer that does not read."""

    def setUp(self) -> None:
        self.line = StubbornLine()
        self.bench = Bench(line=self.line)
        self.line.drain()
        self.line.sent = b""
        self.link = self.bench.link

    def fill(self) -> int:
        """Send until nothing is taken any more; how many were."""
        taken = 0
        while n := self.link.send_packets(BATCH, 0.0):
            taken += n
        return taken

    def test_bounded(self) -> None:
        """However much is sent, little waits; the rest is dropped and counted."""
        for packet in (PACKET, bytes(9000), bytes(65_535), b"x"):
            self.setUp()
            for _ in range(500):
                self.link.send_packets([packet] * 32, 0.0)

            self.assertLess(self.line.waiting(), MOST)
            self.assertEqual(0, self.link.send_packets([packet], 0.0))
            waiting = self.line.waiting()
            self.line.drain()
            arrived = len(frames_in(self.line.sent))
            self.assertEqual(500 * 32 + 1, arrived + self.link.dropped_packets)
            self.assertEqual(waiting, len(self.line.sent))

    def test_in_order(self) -> None:
        """What is taken of a batch is its beginning."""
        batch = [bytes([n]) * 9000 for n in range(32)]
        taken = self.link.send_packets(batch, 0.0)
        self.assertTrue(0 < taken < 32)
        self.line.drain()

        self.assertEqual(batch[:taken], [frame.data for frame in frames_in(self.line.sent)])
        self.assertEqual(32 - taken, self.link.dropped_packets)

    def test_a_large_one(self) -> None:
        """A packet larger than the whole queue passes when there is room."""
        self.link._valve.size = QUEUE_LEAST
        self.assertEqual(1, self.link.send_packets([bytes(9000), bytes(9000)], 0.0))

    def test_commands_pass(self) -> None:
        """Answers and heartbeats are written although the queue is full."""
        self.fill()
        self.bench.receive(question(5, data=b"there?"))
        self.link.tell(Command.NOTICE, b"bye")
        self.line.drain()

        self.assertEqual([(-1, 5, b"there?"), (7, 0, b"bye")], frames_in(self.line.sent)[-2:])

    def test_asks_and_never_reads(self) -> None:
        """Who goes on asking without reading an answer is cut off."""
        self.fill()
        before = self.line.waiting()
        for _ in range(10_000):
            if self.line.is_ended():
                break
            self.bench.receive(question(1, data=bytes(700)))

        self.assertIn("does not read", str(self.bench.ended()))
        self.assertLessEqual(self.line.waiting() - before, COMMANDS_MOST)

    def test_asks_and_reads(self) -> None:
        """Who reads may ask for ever, also while packets fill the line."""
        for _ in range(50):
            self.fill()
            self.bench.receive(question(1, data=bytes(700)))
            self.line.drain()
            self.line.sent = b""

        self.assertFalse(self.line.is_ended())

    def test_slow_line(self) -> None:
        """On a slow line the queue is halved until it drains in time, never below its least."""
        sizes = []
        for _ in range(8):
            self.fill()
            self.bench.clock.advance(DRAIN_SLOW + 0.1)
            self.line.drain()
            sizes.append(self.link.queue_bytes)

        self.assertEqual([32_768, 16_384, 8192, 4096, 4096, 4096, 4096, 4096], sizes)
        self.assertEqual(QUEUE_LEAST, self.line.bufferSize)
        self.assertLess(self.fill() * len(PACKET), 3 * QUEUE_LEAST)

    def test_sudden_slowness(self) -> None:
        """A line that became a fraction of itself has a fitting queue after one that was not."""
        self.fill()
        self.bench.clock.advance(8 * DRAIN_SLOW)
        self.line.drain()

        self.assertEqual(8192, self.link.queue_bytes)
        self.assertEqual(8192, self.line.bufferSize)

    def test_quick_again(self) -> None:
        """A line that became quick gets its large queue back, step by step."""
        self.test_slow_line()
        self.line.drain()
        sizes = []
        for _ in range(6):
            self.fill()
            self.bench.clock.advance(DRAIN_QUICK / 2)
            self.line.drain()
            sizes.append(self.link.queue_bytes)

        self.assertEqual(QUEUE_MOST, sizes[-1])
        self.assertEqual(sorted(sizes), sizes)

    def test_fair_line(self) -> None:
        """A line that is neither keeps what it has."""
        self.fill()
        self.bench.clock.advance((DRAIN_QUICK + DRAIN_SLOW) / 2)
        self.line.drain()

        self.assertEqual(QUEUE_MOST, self.link.queue_bytes)

    def test_after_the_end(self) -> None:
        """A closed connection takes nothing and counts it."""
        self.link.close()
        self.assertEqual(0, self.link.send_packets(BATCH, 0.0))
        self.assertEqual(32, self.link.dropped_packets)
        self.bench.hang_up()
        self.assertEqual(0, self.link.send_packets(BATCH, 0.0))


class StubbornTlsTests(SynchronousTestCase):
    """The same through TLS, whose own buffers count too."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.owner = KeepingOwner()
        self.link = ControlLink(self.owner, self.clock, version=2.0, initiator=False)
        self.far_owner = KeepingOwner()
        self.far = ControlLink(self.far_owner, self.clock, version=2.0, initiator=True)
        self.line, self.far_line = StubbornLine(), StringTransport()
        self.near_tls = self._wrap(server_options(IDENTITY), lambda: self.link)
        self.far_tls = self._wrap(
            client_options(HOST, IDENTITY.pin, None, None, None), lambda: self.far
        )
        self.near_tls.makeConnection(self.line)
        self.far_tls.makeConnection(self.far_line)
        for _ in range(10):
            self.exchange()

    def _wrap(self, options: Any, make: Callable[[], ControlLink]) -> IProtocol:
        factory = TlsFactory(options, Factory.forProtocol(make))
        return factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 51820))

    def exchange(self) -> None:
        """Let everything arrive that was written."""
        self.clock.advance(0)
        self.line.drain()
        sent, self.line.sent = self.line.sent, b""
        if sent:
            self.far_tls.dataReceived(sent)
        self.clock.advance(0)
        said = self.far_line.value()
        self.far_line.clear()
        if said:
            self.near_tls.dataReceived(said)

    def test_bounded(self) -> None:
        """What waits for a peer that never reads stays below 256 KiB, within a turn as well."""
        self.assertTrue(self.far.is_up)
        for turns in (False, True):
            for _ in range(200):
                self.link.send_packets(BATCH, 0.0)
                if turns:
                    self.clock.advance(0)
        self.clock.advance(0)

        self.assertGreater(self.line.waiting(), QUEUE_MOST)
        self.assertLess(self.line.waiting(), MOST)
        self.assertGreater(self.link.dropped_packets, 390 * 32)

        self.exchange()
        self.assertEqual(
            400 * 32,
            self.link.dropped_packets
            + sum(len(told) - 1 for told in self.far_owner.of("packets")),
        )

    def test_farewell_through_a_full_line(self) -> None:
        """What was said before the close arrives, once the peer reads."""
        for _ in range(10):
            self.link.send_packets(BATCH, 0.0)
        self.link.tell(Command.NOTICE, b"bye")
        self.link.close()
        self.exchange()

        self.assertEqual([("statement", 7, b"bye")], self.far_owner.of("statement"))

    def test_aborted_after_the_end(self) -> None:
        """Ending a connection that is gone already does no harm."""
        self.near_tls.connectionLost(Failure(ConnectionLost()))
        self.link.abort()
        self.link.close()
        self.link.fault("a")

        self.assertEqual(1, len(self.owner.of("lost")))
        self.assertFalse(self.line.aborted)
