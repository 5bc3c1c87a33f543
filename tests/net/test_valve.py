"""The valve before a line: how much may wait, by how fast the kernel sends."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.valve import DRAIN_SLOW, QUEUE_LEAST, QUEUE_MOST, TCP_INFO, Valve, seconds_unsent

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


class Connection:
    """A TCP connection of Twisted, as far as the valve looks at it."""

    bufferSize = 65_536

    def __init__(self, handle: Any) -> None:
        self.socket = handle


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
