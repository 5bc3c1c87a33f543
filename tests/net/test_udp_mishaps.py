"""The UDP port when something goes wrong: the kernel, the reactor, an operator, or we."""

from __future__ import annotations

import errno

from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from pyvpn.errors import HostError, Misuse
from tests.net.udp_case import UdpCase, data
from tests.net.udp_systems import FakeUdpSystem, read_all


class MishapTests(UdpCase):
    """Whatever happens, nothing is raised and the port lives on."""

    def setUp(self) -> None:
        self.system = FakeUdpSystem()
        self.begin(self.system)

    def test_read_errors(self) -> None:
        """An error instead of a datagram is counted, and the next turn reads on."""
        port = self.udp.open(0)
        self.outside.put(data(1), port)
        self.system.refuse_read = [errno.ECONNREFUSED] * 4

        read_all(self.reactor)
        read_all(self.reactor)

        self.assertEqual([data(1)], self.protocol.take())
        self.assertEqual({"udp-read-error": 4}, self.dropped())

    def test_send_errors(self) -> None:
        """What the kernel does not send is counted by its cause, and nothing is raised."""
        self.udp.open(0)
        for number, reason in (
            (errno.EAGAIN, "udp-full"),
            (errno.ENOBUFS, "udp-full"),
            (errno.ENETUNREACH, "udp-network-unreachable"),
            (errno.ENETDOWN, "udp-network-unreachable"),
            (errno.EHOSTUNREACH, "udp-host-unreachable"),
            (errno.ECONNREFUSED, "udp-host-unreachable"),
            (errno.EPERM, "udp-forbidden"),
            (errno.EACCES, "udp-forbidden"),
            (errno.EMSGSIZE, "udp-too-big"),
            (errno.EINVAL, "udp-refused"),
            (errno.EIO, "udp-failed"),
        ):
            self.system.refuse_send = lambda _d, _a, number=number: number
            self.counters.dropped.clear()

            self.assertEqual(
                0, self.udp.send_datagrams([data(1), data(2)], self.outside.path(), 0)
            )

            self.assertEqual({reason: 2}, self.dropped())

            self.udp.send_replies([(data(1), self.outside.path())])
            self.assertEqual({reason: 3}, self.dropped())

    def test_not_queued(self) -> None:
        """What the kernel has no room for is gone: nothing is sent later."""
        self.udp.open(0)
        self.system.refuse_send = lambda datagram, _: 0 if datagram == data(2) else errno.EAGAIN

        # One by one: what leaves as one is lost as one.
        taken = sum(
            self.udp.send_datagrams([data(number)], self.outside.path(), 0) for number in (1, 2, 3)
        )
        self.system.refuse_send = lambda datagram, ancillary: 0
        self.reactor.advance(10)

        self.assertEqual(1, taken)
        self.assertEqual([data(2)], [heard.datagram for heard in self.outside.get()])
        self.assertEqual({"udp-full": 2}, self.dropped())

    def test_bug_behind_us(self) -> None:
        """A bug in what takes the datagrams is logged once, and the port lives on."""
        self.protocol.receive = lambda: [][1]
        port = self.udp.open(0)
        for number in range(3):
            self.outside.put(data(number), port)
            self.outside.put(data(number), port, tos=1)
            read_all(self.reactor)

        self.assertEqual(1, len(self.flushLoggedErrors(IndexError)))
        self.assertEqual(6, len(self.protocol.take()))
        self.assertEqual(8, len(self.reactor.getReaders()))

    def test_closed_while_reading(self) -> None:
        """Who closes the port gets what came in the same turn, and no more."""
        port = self.udp.open(0)
        self.protocol.receive = self.udp.close
        for number in range(4):
            self.outside.put(data(number), port, tos=number)

        for reader in self.reactor.getReaders():
            reader.doRead()
            reader.doRead()

        self.assertEqual([data(number) for number in range(4)], self.protocol.take())
        self.assertEqual({}, self.dropped())

    def test_moved_while_reading(self) -> None:
        """Who moves the port on a datagram goes on at the new one."""
        port = self.udp.open(0)
        self.protocol.receive = lambda: self.udp.rebind(7)
        self.outside.put(data(1), port)
        read_all(self.reactor)

        self.outside.put(data(2), 7)
        read_all(self.reactor)

        self.assertEqual([data(1), data(2)], self.protocol.take())

    def test_given_up_by_the_reactor(self) -> None:
        """When the reactor lets go of a socket, for an error of it, all are made anew, once."""
        port = self.udp.open(0)
        lost = self.reactor.getReaders()
        for reader in lost:
            self.reactor.removeReader(reader)
            reader.connectionLost(Failure(ConnectionDone()))

        self.reactor.advance(0)

        self.assertEqual(8, len(self.reactor.getReaders()))
        self.assertEqual(8, len(self.system.sockets))
        self.assertEqual(set(), set(lost) & set(self.reactor.getReaders()))
        self.outside.put(data(1), port)
        read_all(self.reactor)
        self.assertEqual([data(1)], self.protocol.take())
        self.assertEqual(["started"], self.protocol.told)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_given_up_and_taken(self) -> None:
        """When somebody else was quicker we try again every second, and say so."""
        port = self.udp.open(0)
        self.reactor.getReaders()[0].connectionLost(Failure(ConnectionDone()))
        self.system.refuse_bind = lambda family, port: errno.EADDRINUSE
        with capturedLogs() as logs:
            self.reactor.advance(0)
        self.assertIn(f"UDP port {port} was lost: cannot open UDP port", formatEvent(logs[0]))
        self.assertEqual(0, self.udp.send_datagrams([data(1)], self.outside.path(), 0))
        self.system.refuse_bind = lambda family, port: 0
        self.reactor.advance(1)

        self.assertEqual(1, self.udp.send_datagrams([data(1)], self.outside.path(), 0))
        self.outside.put(data(2), port)
        read_all(self.reactor)
        self.assertEqual([data(2)], self.protocol.take())

    def test_given_up_and_closed_or_moved(self) -> None:
        """Closed in that moment it stays closed; moved, it is at the new port."""
        for move in True, False:
            self.udp.open(0)
            for reader in self.reactor.getReaders():
                reader.connectionLost(Failure(ConnectionDone()))
            if move:
                self.udp.rebind(0)
                port = self.udp.port
                self.reactor.advance(0)
                self.assertEqual((port, 8), (self.udp.port, len(self.reactor.getReaders())))
            self.udp.close()
            self.reactor.advance(0)

            self.assertEqual(([], []), (self.reactor.getReaders(), self.reactor.getDelayedCalls()))

    def test_late_word_of_the_reactor(self) -> None:
        """A socket that we have closed ourselves is not missed."""
        self.udp.open(0)
        readers = self.reactor.getReaders()
        self.udp.close()
        for reader in readers:
            reader.connectionLost(Failure(ConnectionDone()))
            reader.doRead()

        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual({}, self.dropped())

    def test_no_right_to_mark(self) -> None:
        """Who may not mark is told what it takes, and nothing stays open or changes."""
        self.system.refuse_option[1, 36] = errno.EPERM
        udp = self.make(mark=7)

        error = self.assertRaises(HostError, udp.open, 0)

        self.assertIn("CAP_NET_ADMIN", str(error))
        self.assertEqual((0, set()), (udp.port, self.system.sockets))
        self.udp.open(0)
        self.assertRaises(HostError, self.udp.set_mark, 7)
        self.assertEqual(0, self.udp.mark)
        self.udp.set_mark(0)

    def test_out_of_order(self) -> None:
        """Opening twice and moving while closed are our mistakes."""
        self.assertRaises(Misuse, self.udp.rebind, 7)
        self.udp.open(0)
        self.assertRaises(Misuse, self.udp.open, 0)
