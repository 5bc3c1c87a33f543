"""The UDP port, against a stand-in and against the kernel."""

from __future__ import annotations

import errno
import os

from twisted.internet.interfaces import IReadDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.interfaces import IDatagramSink
from pyvpn.net import udp_reader
from pyvpn.net.udp import DATA_BATCH, HANDSHAKE_BATCH, RunProtocol, UdpDrop, UdpPort
from pyvpn.net.udp_sockets import IUdpSystem, KernelUdpSystem, PortTaken
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.datagram import Path
from tests.net.udp_case import COOKIE, INITIATION, RESPONSE, UdpCase, data
from tests.net.udp_systems import (
    FakeUdpSystem,
    Heard,
    KeepingProtocol,
    KernelOutside,
    packed,
    read_all,
)


class UdpBehaviour:
    """What a port does, whatever stands behind it."""

    def test_received(self) -> None:
        """Datagrams come whole, each with where it came from, where to, and by which interface."""
        port = self.udp.open(0)
        for version, local in (4, packed("127.0.0.1")), (6, packed("::1")):
            for datagram in data(1), data(2, 65_507), data(3, 32):
                self.outside.put(datagram, port, version)

            read_all(self.reactor)

            path = self.outside.path(version)._replace(local=local, interface=1)
            self.assertEqual(
                [([data(1), data(2, 65_507), data(3, 32)], path, 0)], self.protocol.runs
            )
            self.protocol.runs.clear()

    def test_replies(self) -> None:
        """Each reply leaves by its own path, from the address that was asked."""
        port = self.udp.open(0)
        for version, local in (4, packed("127.0.0.1")), (6, packed("::1")):
            path = self.outside.path(version)._replace(local=local, interface=1)
            self.udp.send_replies([(data(1), path), (data(2), path._replace(local=b""))])

            heard = self.outside.get(version)
            self.assertEqual([data(1), data(2)], [each.datagram for each in heard])
            self.assertEqual({port}, {each.port for each in heard})
        self.assertEqual({}, self.dropped())

    def test_replies_refused(self) -> None:
        """What is for a family in which the port is closed is counted, and the rest is sent."""
        udp = self.make(host="127.0.0.1")
        udp.open(0)
        udp.send_replies([(data(1), self.outside.path(6)), (data(2), self.outside.path(4))])

        self.assertEqual([data(2)], [each.datagram for each in self.outside.get()])
        self.assertEqual({"udp-no-socket": 1}, self.dropped())

    def test_handshakes(self) -> None:
        """Every kind of handshake message comes through, besides the data."""
        port = self.udp.open(0)
        for datagram in INITIATION, data(1), RESPONSE, COOKIE:
            self.outside.put(datagram, port)

        read_all(self.reactor)

        self.assertEqual({INITIATION, RESPONSE, COOKIE, data(1)}, set(self.protocol.take()))

    def test_runs(self) -> None:
        """What comes in a row with one ECN field is one run; a change begins another."""
        port = self.udp.open(0)
        for number, tos in enumerate((0, 0, 2, 2, 3, 0)):
            self.outside.put(data(number), port, tos=tos)

        read_all(self.reactor)

        self.assertEqual(
            [
                ([data(0), data(1)], 0),
                ([data(2), data(3)], 2),
                ([data(4)], 3),
                ([data(5)], 0),
            ],
            [(run, ecn) for run, _, ecn in self.protocol.runs],
        )

    def test_ecn_only(self) -> None:
        """Of the TOS that a datagram came with, the DSCP is nobody's business."""
        for version in 4, 6:
            udp = self.make(protocol := KeepingProtocol())
            self.outside.put(data(1), udp.open(0), version, tos=0xB9)

            read_all(self.reactor)

            self.assertEqual([1], [ecn for _, _, ecn in protocol.runs])
            udp.close()

    def test_junk(self) -> None:
        """What no message of the protocol looks like does not even reach us."""
        port = self.udp.open(0)
        for datagram in b"", b"\4", bytes(148), INITIATION[:-1], INITIATION + b"\0", data(1, 31):
            self.outside.put(datagram, port)
        self.outside.put(b"\4\0\0\1" + bytes(60), port)
        self.outside.put(b"\6\0\0\0" + bytes(60), port)
        self.outside.put(data(2), port)

        read_all(self.reactor)

        self.assertEqual([data(2)], self.protocol.take())
        self.assertEqual({}, self.dropped())

    def test_junk_wanted(self) -> None:
        """Who wants to see the junk does."""
        udp = self.make(protocol := KeepingProtocol(), shed_junk=False)
        port = udp.open(0)
        for datagram in b"junk", b"", b"\xff":
            self.outside.put(datagram, port)

        read_all(self.reactor)

        self.assertEqual({b"junk", b"", b"\xff"}, set(protocol.take()))

    def test_sent(self) -> None:
        """Datagrams arrive, each whole, in order, from our port, with the TOS they were given."""
        port = self.udp.open(0)
        for version, host in (4, "127.0.0.1"), (6, "::1"):
            path = self.outside.path(version)
            large = bytearray(data(2, 9000))

            self.assertEqual(2, self.udp.send_datagrams([data(1), large], path, 0x8A))
            self.assertEqual(1, self.udp.send_datagrams([data(3)], path, 0))

            self.assertEqual(
                [
                    Heard(data(1), host, port, 0x8A),
                    Heard(data(2, 9000), host, port, 0x8A),
                    Heard(data(3), host, port, 0),
                ],
                self.outside.get(version),
            )
        self.assertEqual({}, self.dropped())

    def test_answered(self) -> None:
        """An answer along the path of a question arrives."""
        for version, host in (4, "127.0.0.1"), (6, "::1"):
            udp = self.make(protocol := KeepingProtocol())
            port = udp.open(0)
            self.outside.put(INITIATION, port, version)
            read_all(self.reactor)
            [(_, path, _)] = protocol.runs

            self.assertEqual(1, udp.send_datagrams([RESPONSE], path, 0))

            self.assertEqual([Heard(RESPONSE, host, port, 0)], self.outside.get(version))

    def test_too_big(self) -> None:
        """What no datagram can hold is counted; those beside it arrive."""
        self.udp.open(0)
        sent = [data(1), data(2, 65_508), data(3)]

        self.assertEqual(2, self.udp.send_datagrams(sent, self.outside.path(), 0))

        self.assertEqual([data(1), data(3)], [heard.datagram for heard in self.outside.get()])
        self.assertEqual({"udp-too-big": 1}, self.dropped())

    def test_taken(self) -> None:
        """A port that somebody has is refused, with the cure, and the holder keeps it."""
        port = self.udp.open(0)

        error = self.assertRaises(PortTaken, self.make().open, port)

        self.assertIn(f"cannot open UDP port {port}: is another WireGuard or pyvpn", str(error))
        self.assertIn(f"ss -ulpn sport = :{port}", str(error))
        self.outside.put(data(1), port)
        read_all(self.reactor)
        self.assertEqual([data(1)], self.protocol.take())

    def test_one_address(self) -> None:
        """A port at one address is open in that address's family only."""
        for host, version, other in ("127.0.0.1", 4, 6), ("::1", 6, 4):
            udp = self.make(protocol := KeepingProtocol(), host=host)
            port = udp.open(0)
            self.assertEqual({version}, udp.versions)
            self.outside.put(data(1), port, version)
            self.outside.put(INITIATION, port, version)

            read_all(self.reactor)

            self.assertEqual({data(1), INITIATION}, set(protocol.take()))
            self.assertEqual(0, udp.send_datagrams([data(1)], self.outside.path(other), 0))
            self.assertEqual(1, udp.send_datagrams([data(1)], self.outside.path(version), 0))
        self.assertEqual({"udp-no-socket": 2}, self.dropped())

    def test_moved(self) -> None:
        """A port moves, and the old number is free; to where it is it need not move."""
        old = self.udp.open(0)

        new = self.udp.rebind(0)

        self.assertNotEqual(old, new)
        self.assertEqual(new, self.udp.port)
        self.assertEqual(new, self.udp.rebind(new))
        self.assertEqual(old, self.make().open(old))
        self.outside.put(data(1), new)
        self.outside.put(INITIATION, new, 6)
        read_all(self.reactor)
        self.assertEqual({data(1), INITIATION}, set(self.protocol.take()))
        self.udp.send_datagrams([data(2)], self.outside.path(), 0)
        self.assertEqual([Heard(data(2), "127.0.0.1", new, 0)], self.outside.get())
        self.assertEqual(["started"], self.protocol.told)

    def test_moved_in_vain(self) -> None:
        """A port that cannot move stays, and works."""
        port = self.udp.open(0)
        taken = self.make().open(0)

        self.assertRaises(PortTaken, self.udp.rebind, taken)

        self.assertEqual(port, self.udp.port)
        self.outside.put(data(1), port)
        read_all(self.reactor)
        self.assertEqual([data(1)], self.protocol.take())

    def test_closed(self) -> None:
        """A closed port is free, reads nothing, sends nothing, may be closed and opened again."""
        port = self.udp.open(0)
        self.udp.close()
        self.udp.close()

        self.assertEqual([], self.reactor.getReaders())
        self.assertEqual((0, frozenset()), (self.udp.port, self.udp.versions))
        self.assertEqual(0, self.udp.send_datagrams([data(1)] * 3, self.outside.path(), 0))
        self.assertEqual({"udp-no-socket": 3}, self.dropped())
        self.assertEqual(port, self.udp.open(port))
        self.assertEqual(["started", "stopped", "started"], self.protocol.told)
        self.outside.put(data(1), port)
        read_all(self.reactor)
        self.assertEqual([data(1)], self.protocol.take())

    def test_system_interface(self) -> None:
        """What stands behind the port has every call that the port makes."""
        self.assertTrue(verifyObject(IUdpSystem, self.outside.system))


class FakeUdpTests(UdpBehaviour, UdpCase):
    """The stand-in behaves."""

    def setUp(self) -> None:
        system = FakeUdpSystem()
        system.refuse_send = lambda datagram, _: errno.EMSGSIZE if len(datagram) > 65_507 else 0
        self.begin(system)


class KernelUdpTests(UdpBehaviour, UdpCase):
    """The kernel behaves like the stand-in, so what the stand-in shows is true."""

    def setUp(self) -> None:
        self.begin(KernelOutside(self.addCleanup))

    def test_not_inherited(self) -> None:
        """Programs that we start do not get the sockets."""
        self.udp.open(0)

        for reader in self.reactor.getReaders():
            self.assertFalse(os.get_inheritable(reader.fileno()))


class UdpTests(UdpCase):
    """What depends on us alone."""

    def setUp(self) -> None:
        self.system = FakeUdpSystem()
        self.begin(self.system)

    def test_interfaces(self) -> None:
        """The port is what the protocol sends to, and its sockets what reactors read from."""
        self.udp.open(0)

        self.assertTrue(verifyObject(IDatagramSink, self.udp))
        self.assertEqual(8, len(self.reactor.getReaders()))
        for reader in self.reactor.getReaders():
            self.assertTrue(verifyObject(IReadDescriptor, reader))
            self.assertEqual("UDP", reader.logPrefix())
        self.assertIs(self.udp, self.protocol.transport)

    def test_batches_are_bounded(self) -> None:
        """One turn reads a bounded number from each socket; the rest waits for the next."""
        port = self.udp.open(0)
        for number in range(DATA_BATCH + 3):
            self.outside.put(data(number), port)
        for _ in range(HANDSHAKE_BATCH + 5):
            self.outside.put(INITIATION, port)

        read_all(self.reactor)
        first = self.protocol.take()
        read_all(self.reactor)

        self.assertEqual(HANDSHAKE_BATCH, first.count(INITIATION))
        self.assertEqual(DATA_BATCH, len(first) - HANDSHAKE_BATCH)
        self.assertEqual(3 + 5, len(self.protocol.take()))

    def test_memory_is_bounded(self) -> None:
        """However many kinds of arrival there are, few are remembered and each is right."""
        self.patch(udp_reader, "MOST_ARRIVALS", 2)
        port = self.udp.open(0)
        for tos in 0, 1, 2, 3, 1, 0:
            self.outside.put(data(tos), port, tos=tos)

        read_all(self.reactor)

        self.assertEqual([0, 1, 2, 3, 1, 0], [ecn for _, _, ecn in self.protocol.runs])

    def test_other_bounds(self) -> None:
        """Both bounds can be set."""
        udp = self.make(protocol := KeepingProtocol(), data_batch=2, handshake_batch=3)
        port = udp.open(0)
        for number in range(9):
            self.outside.put(data(number), port)
            self.outside.put(INITIATION, port)

        read_all(self.reactor)

        self.assertEqual(2 + 3, len(protocol.take()))

    def test_mark(self) -> None:
        """The mark is set where datagrams are sent, now and after a move, and can be cleared."""
        udp = self.make(mark=0xFFFF_0001)
        udp.open(0)
        self.assertEqual({0xFFFF_0001}, self.marks(udp))
        udp.set_mark(7)
        self.assertEqual({7}, self.marks(udp))
        udp.rebind(0)
        self.assertEqual({7}, self.marks(udp))
        udp.set_mark(0)

        self.assertEqual({0}, self.marks(udp))

    def marks(self, udp: UdpPort) -> set[int]:
        for version in 4, 6:
            udp.send_datagrams([data(1)], self.outside.path(version), 0)
        found = {sock.getsockopt(1, 36) for _, _, _, sock in self.system.sent}
        self.system.sent.clear()
        return found

    def test_nothing_left_open(self) -> None:
        """A closed port has given back all that it had."""
        self.udp.open(0)
        self.assertEqual((8, 1, 1), self.held())
        self.udp.rebind(0)
        self.assertEqual((8, 1, 1), self.held())
        self.udp.close()

        self.assertEqual((0, 0, 0), self.held())

    def held(self) -> tuple[int, int, int]:
        return len(self.system.sockets), self.system.open_news, self.system.open_questions

    def test_drop_reasons(self) -> None:
        """The port's own reasons for a drop are named apart from the common ones."""
        self.assertEqual(set(), {str(r) for r in UdpDrop} & {str(r) for r in Drop})

    def test_real_by_default(self) -> None:
        """Without anything else said, the kernel stands behind the port."""
        udp = UdpPort(self.reactor, self.protocol, self.counters)

        self.assertIsInstance(udp._system, KernelUdpSystem)


class RunProtocolTests(SynchronousTestCase):
    """The receiving side behind a port of Twisted's own."""

    def test_one_datagram(self) -> None:
        """A datagram of Twisted's is a run of one, of which less is known."""
        protocol = KeepingProtocol()

        protocol.datagramReceived(b"one", ("192.0.2.1", 7))
        protocol.datagramReceived(b"two", ("2001:db8::1", 8))

        self.assertEqual(
            [
                ([b"one"], Path(packed("192.0.2.1"), 7), 0),
                ([b"two"], Path(packed("2001:db8::1"), 8), 0),
            ],
            protocol.runs,
        )

    def test_abstract(self) -> None:
        """A protocol that takes no runs says so."""
        self.assertRaises(NotImplementedError, RunProtocol().runs_received, [])
