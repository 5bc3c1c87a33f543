"""The valve before a line: how much may wait, by how fast the kernel sends."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.valve import (
    DRAIN_AT_ONCE,
    DRAIN_QUICK,
    DRAIN_SLOW,
    QUEUE_LEAST,
    QUEUE_MOST,
    QUEUE_WIDE,
    READ_WIDE,
    TCP_INFO,
    Valve,
    bytes_a_second,
    seconds_unsent,
)

SIOCOUTQNSD = 0x894B
"""Asks for the bytes not sent yet, in another way."""


class TellingSocket:
    """A TCP socket of which the kernel says what it was told to say."""

    unsent = 0
    rate = 0
    is_ours = False
    size = 256

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Nothing of it matters here."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Answer TCP_INFO, as long as this kernel's is."""
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        info = bytearray(size)
        info[7] = self.is_ours
        struct.pack_into("=I", info, 144, self.unsent)
        struct.pack_into("=Q", info, 160, self.rate)
        return bytes(info[: self.size])


class Connection(FileDescriptor):
    """A TCP connection of Twisted, as far as the valve looks at it."""

    bufferSize = 65_536
    SEND_LIMIT = 131_072
    writes = 0

    def __init__(self, handle: Any) -> None:
        super().__init__(MemoryReactor())
        self.connected = 1
        self.socket = handle

    def doWrite(self) -> None:
        self.writes += 1


class KernelTests(SynchronousTestCase):
    """What the kernel has taken from us and not sent yet counts like what waits with us."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.socket = TellingSocket()
        self.valve = Valve(self.clock)
        self.valve.fit(Connection(self.socket))

    def drain(self, seconds: float = 0.0) -> int:
        """Have the queue full and drained after *seconds*; return its size from then on."""
        self.valve.pauseProducing()
        self.clock.advance(seconds)
        self.valve.resumeProducing()
        return self.valve.size

    def test_swallowed(self) -> None:
        """A slow line is found also when the kernel took the whole queue at once."""
        self.socket.unsent, self.socket.rate = 80_000, 40_000

        self.assertEqual(QUEUE_MOST * DRAIN_SLOW / 2, self.drain())

    def test_before_it_is_full(self) -> None:
        """A line that became slow is found before its queue is full, and not looked at always."""
        self.socket.unsent, self.socket.rate = 80_000, 40_000
        self.valve.look(100.0)
        self.valve.look(100.05)
        self.assertEqual(QUEUE_MOST * DRAIN_SLOW / 2, self.valve.size)

        self.socket.unsent = 40_000
        self.valve.look(100.2)
        self.assertEqual(QUEUE_MOST / 8, self.valve.size)

        self.socket.unsent = 100
        self.valve.look(100.4)
        self.assertEqual(QUEUE_MOST / 8, self.valve.size)

    def test_does_not_grow(self) -> None:
        """Nor does a queue that was cut down grow because the kernel took all of it."""
        self.drain(1000)
        self.socket.unsent, self.socket.rate = 8000, 40_000

        self.assertEqual([QUEUE_LEAST] * 4, [self.drain() for _ in range(4)])

    def test_fast(self) -> None:
        """A fast line gets all of it back, though the kernel holds some."""
        self.drain(1000)
        self.socket.unsent, self.socket.rate = 60_000, 10_000_000
        for _ in range(4):
            self.drain()

        self.assertEqual(QUEUE_MOST, self.valve.size)

    def test_a_rate_that_says_nothing(self) -> None:
        """A low rate for want of packets is not the line's, and a kernel may not tell at all."""
        self.socket.unsent, self.socket.rate, self.socket.is_ours = 60_000, 1000, True
        self.assertEqual(QUEUE_MOST, self.drain())

        self.socket.is_ours, self.socket.size = False, 104
        self.assertEqual(QUEUE_MOST, self.drain())

        self.socket.size, self.socket.rate = 256, 0
        self.assertEqual(QUEUE_MOST, self.drain())

    def test_room_for_super_packets(self) -> None:
        """Only where they ride, and as much as the line is known to take at once."""
        self.socket.unsent, self.socket.rate = 0, 10**9
        self.assertEqual(QUEUE_MOST, self.valve.make_room(400_000))
        self.valve.widen()
        self.assertEqual(QUEUE_MOST, self.valve.make_room(QUEUE_MOST))
        for rate, expected in (
            (0, QUEUE_MOST),
            (QUEUE_MOST / DRAIN_AT_ONCE, QUEUE_MOST),
            (2 * QUEUE_MOST / DRAIN_AT_ONCE, 2 * QUEUE_MOST),
            (QUEUE_MOST / DRAIN_AT_ONCE, 2 * QUEUE_MOST),
            (10**9, QUEUE_WIDE),
        ):
            self.socket.rate = int(rate)
            self.assertEqual(expected, self.valve.make_room(10**6), rate)

    def test_no_room_on_a_slow_line(self) -> None:
        """A queue that was cut down does not grow so."""
        self.valve.widen()
        self.drain(DRAIN_SLOW + 0.1)
        self.socket.rate = 10**9
        self.assertEqual(QUEUE_MOST // 2, self.valve.make_room(10**6))

    def test_wide_no_more(self) -> None:
        """A line that is not that quick any more has the usual queue, before it is slow."""
        self.valve.widen()
        for look in (lambda: self.drain(), lambda: self.valve.look(self.clock.seconds())):
            self.socket.unsent, self.socket.rate = 0, 10**9
            self.assertEqual(QUEUE_WIDE, self.valve.make_room(10**6))
            self.assertEqual(QUEUE_WIDE, self.drain())
            self.clock.advance(1)
            self.socket.unsent, self.socket.rate = 110_000, int(100_000 / DRAIN_QUICK)
            look()
            self.assertEqual(QUEUE_MOST, self.valve.size)

    def test_sent_at_once(self) -> None:
        """What was written leaves in this turn, and all of a queue in one call."""
        connection = Connection(self.socket)
        valve = Valve(self.clock)
        valve.fit(connection)
        sizes: list[int] = []

        class Top(StringTransport):
            def write(self, data: bytes) -> None:
                sizes.append(connection.bufferSize)

        valve.write(Top(), b"a")
        self.assertEqual((0, 131_072), (connection.writes, connection.SEND_LIMIT))
        valve.widen()
        self.assertEqual((READ_WIDE, QUEUE_WIDE), (connection.bufferSize, connection.SEND_LIMIT))
        valve.write(Top(), b"b")
        self.assertEqual((1, READ_WIDE), (connection.writes, connection.bufferSize))
        # More than a queue is noticed all the same.
        self.assertEqual([QUEUE_MOST, QUEUE_MOST], sizes)

    def test_not_sent_at_the_end(self) -> None:
        """A connection that ends, or has ended, is the reactor's: it would never end else."""
        connection = Connection(self.socket)
        valve = Valve(self.clock)
        valve.fit(connection)
        valve.widen()
        for connected, disconnecting, writes in ((1, 1, 0), (0, 0, 0), (1, 0, 1)):
            connection.connected, connection.disconnecting = connected, disconnecting
            valve.write(StringTransport(), b"a")
            self.assertEqual(writes, connection.writes)

    def test_rate(self) -> None:
        """A rate that was ours is a line's all the same, at least."""
        self.socket.rate, self.socket.is_ours = 5000, True
        self.assertEqual(5000, bytes_a_second(self.socket))  # type: ignore[arg-type]  # a fake
        self.socket.size = 104
        self.assertEqual(0, bytes_a_second(self.socket))  # type: ignore[arg-type]  # a fake

    def test_this_kernel_tells(self) -> None:
        """The fields are where we look for them: what nobody takes is told as not sent."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
            with near, far:
                self.assertEqual(0.0, seconds_unsent(near))
                near.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        near.send(bytes(65_536))
                info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                unsent = fcntl.ioctl(near, SIOCOUTQNSD, bytes(4))
                self.assertEqual(struct.unpack("=i", unsent)[0], TCP_INFO.unpack_from(info)[1])
                self.assertNotEqual(bytes(4), unsent)
