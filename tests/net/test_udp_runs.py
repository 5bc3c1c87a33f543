"""Several datagrams with one system call, in and out of the kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import IPRoute
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.ancillary import (
    MOST_AT_ONCE,
    runs_of_equals,
    segment_ancillary,
    segment_size,
)
from pyvpn.net.udp import DATA_BATCH
from pyvpn.wire.datagram import Run
from pyvpn.wire.packed import Packed
from pyvpn.wire.slab import Sealed
from tests.net.udp_case import INITIATION, UdpCase, data
from tests.net.udp_systems import (
    LOOPBACK,
    FakeSocket,
    FakeUdpSystem,
    Heard,
    KernelOutside,
    packed,
    read_all,
)

UDP_SEGMENT, UDP_GRO = 103, 104


def is_segmented(ancillary: list[Any]) -> bool:
    return any(each[:2] == (socket.IPPROTO_UDP, UDP_SEGMENT) for each in ancillary)


class RunTests(SynchronousTestCase):
    """What the kernel takes as one."""

    def sizes(self, *sizes: int) -> list[list[int]]:
        return [[len(each) for each in run] for run in runs_of_equals([bytes(n) for n in sizes])]

    def test_equal(self) -> None:
        """Equal ones are one run; a shorter one ends it, a longer one begins another."""
        self.assertEqual([[96, 96, 96]], self.sizes(96, 96, 96))
        self.assertEqual([[96, 96, 32], [96]], self.sizes(96, 96, 32, 96))
        self.assertEqual([[32], [96, 96]], self.sizes(32, 96, 96))
        self.assertEqual([[96, 32], [32]], self.sizes(96, 32, 32))

    def test_limits(self) -> None:
        """The kernel takes 64 at once, and 65,507 bytes."""
        self.assertEqual([64, 64, 2], [len(run) for run in self.sizes(*[96] * 130)])
        self.assertEqual([45, 45, 10], [len(run) for run in self.sizes(*[1452] * 100)])
        self.assertEqual([[65_507], [65_507]], self.sizes(65_507, 65_507))
        self.assertEqual([[65_508], [1]], self.sizes(65_508, 1))

    @given(st.lists(st.sampled_from([32, 48, 96, 1024, 1452, 40_000, 70_000]), max_size=200))
    def test_all_of_them(self, sizes: list[int]) -> None:
        """Nothing is lost or reordered, and each run is one that the kernel takes."""
        datagrams = [number.to_bytes(4, "big") + bytes(n - 4) for number, n in enumerate(sizes)]
        runs = list(runs_of_equals(datagrams))
        self.assertEqual(datagrams, [datagram for run in runs for datagram in run])
        for run in runs:
            if len(run) > 1:
                self.assertEqual({len(run[0])}, {len(each) for each in run[:-1]})
                self.assertLessEqual(len(run[-1]), len(run[0]))
                self.assertLessEqual(len(run), 64)
                self.assertLessEqual(sum(map(len, run)), MOST_AT_ONCE)


class AncillaryTests(SynchronousTestCase):
    """The sizes beside them."""

    def test_size(self) -> None:
        """A size that is not said, or somebody else's number, is none."""
        tos = (socket.IPPROTO_IP, socket.IP_TOS, b"\2")
        told = (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", 1452))
        self.assertEqual(1452, segment_size([tos, told]))
        self.assertEqual(1452, segment_size([told, tos]))
        self.assertEqual(0, segment_size([tos]))
        self.assertEqual(0, segment_size([(socket.IPPROTO_IP, UDP_GRO, struct.pack("=i", 9))]))

    def test_two_bytes(self) -> None:
        """The kernel refuses a size in four bytes."""
        self.assertEqual([(17, 103, b"\xac\x05")], segment_ancillary(1452))


class OutBehaviour:
    """Runs on their way out, whatever stands behind the port."""

    def test_sent(self) -> None:
        """Each arrives by itself, whole and in order, with the TOS that all were given."""
        port = self.udp.open(0)
        sizes = [1452] * 50 + [96, 1452, 1452, 32, 96, 112] + [96] * 70
        for version, host in LOOPBACK.items():
            sent = [data(number, size) for number, size in enumerate(sizes)]

            self.assertEqual(
                len(sent), self.udp.send_datagrams(sent, self.outside.path(version), 2)
            )

            self.assertEqual(
                [Heard(datagram, host, port, 2) for datagram in sent], self.outside.get(version)
            )
        self.assertEqual({}, self.dropped())

    def test_source_pinned(self) -> None:
        """They leave from the address that the peer talks to."""
        self.udp.open(0)
        for version, local in (4, packed("127.0.0.1")), (6, packed("::1")):
            path = self.outside.path(version)._replace(local=local, interface=1)
            self.assertEqual(3, self.udp.send_datagrams([data(n) for n in range(3)], path, 0))
            self.assertEqual(3, len(self.outside.get(version)))

    def test_a_lost_source(self) -> None:
        """From an address that is not ours any more all leave all the same."""
        self.udp.open(0)
        path = self.outside.path()._replace(local=packed("192.0.2.77"), interface=1)

        self.assertEqual(3, self.udp.send_datagrams([data(n) for n in range(3)], path, 0))

        self.assertEqual(3, len(self.outside.get()))
        self.assertEqual({"udp-source-lost": 1}, self.dropped())


class FakeOutTests(OutBehaviour, UdpCase):
    """The stand-in behaves."""

    def setUp(self) -> None:
        system = FakeUdpSystem()
        foreign = packed("192.0.2.77")
        system.refuse_send = lambda _, ancillary: (
            errno.EINVAL if any(foreign in value for _, _, value in ancillary) else 0
        )
        self.begin(system)


class KernelOutTests(OutBehaviour, UdpCase):
    """So does the kernel."""

    def setUp(self) -> None:
        self.begin(KernelOutside(self.addCleanup))

    def test_too_large_for_the_path(self) -> None:
        """Where one of them needs fragments they leave one by one, and arrive."""
        self.udp.open(0)
        with IPRoute() as netlink:
            netlink.link("set", index=1, mtu=1500)
        for version in LOOPBACK:
            for size in 1600, 1000:
                sent = [data(number, size) for number in range(5)]
                path = self.outside.path(version)

                self.assertEqual(5, self.udp.send_datagrams(sent, path, 0))

                self.assertEqual(sent, [heard.datagram for heard in self.outside.get(version)])
                way = self.udp._ways.find(path)
                assert way is not None
                self.assertFalse(way.as_one)
        self.assertEqual({}, self.dropped())


class OutTests(UdpCase):
    """What depends on us alone."""

    as_given: Callable[[list[bytes]], Sequence[bytes]] = staticmethod(list)

    def setUp(self) -> None:
        self.system = FakeUdpSystem()
        self.begin(self.system)
        self.udp.open(0)
        self.many = [data(number) for number in range(20)]

    def refuse(self, number: int, condition: Callable[[list[Any]], bool] = is_segmented) -> None:
        self.system.refuse_send = lambda _, ancillary: number if condition(ancillary) else 0

    def send(self) -> int:
        """Send twenty; return with how many system calls that were taken."""
        self.system.calls = 0
        given = self.as_given(self.many)
        self.assertEqual(20, self.udp.send_datagrams(given, self.outside.path(), 0))
        self.assertEqual(self.many, [heard.datagram for heard in self.outside.get()])
        return self.system.calls

    def test_one_call(self) -> None:
        """Twenty of a size take one system call, each time."""
        self.assertEqual([1, 1], [self.send(), self.send()])

    def test_not_here(self) -> None:
        """Where the kernel takes them only one by one it is asked once, and gets them so."""
        for number in errno.EINVAL, errno.EIO, errno.EMSGSIZE:
            self.udp.rebind(0)
            self.refuse(number)
            self.assertEqual(20, self.send())
            self.refuse(0)
            self.assertEqual(20, self.send())
        self.assertEqual({}, self.dropped())

    def test_only_on_that_way(self) -> None:
        """What one way does not take others may."""
        self.refuse(errno.EIO)
        self.send()
        self.refuse(0)
        other = self.outside.path()._replace(port=9)
        self.system.calls = 0
        self.udp.send_datagrams(self.many, other, 0)

        self.assertEqual(1, self.system.calls)

    def test_lost(self) -> None:
        """What the kernel has no room for, or no way to, is counted, each of them."""
        for number, reason in (
            (errno.EAGAIN, "udp-full"),
            (errno.ENOBUFS, "udp-full"),
            (errno.ENETUNREACH, "udp-network-unreachable"),
            (errno.EPERM, "udp-forbidden"),
        ):
            self.counters.dropped.clear()
            self.refuse(number)
            self.assertEqual(0, self.udp.send_datagrams(self.many, self.outside.path(), 0))
            self.assertEqual({reason: 20}, self.dropped())
        self.refuse(0)
        self.assertEqual(1, self.send())

    def test_a_lost_source_is_no_reason(self) -> None:
        """EINVAL for an address that is gone does not keep later ones from leaving as one."""
        path = self.outside.path()._replace(local=packed("127.0.0.9"), interface=1)
        for number in errno.EINVAL, errno.ENETUNREACH:
            self.udp.rebind(0)
            self.system.calls = 0
            self.refuse(number, lambda ancillary: any(kind == 8 for _, kind, _ in ancillary))
            self.assertEqual(20, self.udp.send_datagrams(self.many, path, 0))
            self.assertEqual(20, self.system.calls)
            self.assertEqual(20, self.udp.send_datagrams(self.many, path, 0))
            self.assertEqual(21, self.system.calls)
        self.assertEqual({"udp-source-lost": 2}, self.dropped())


def mine(number: int, size: int = 96) -> bytes:
    """A data message for one keypair, that differs from those of other numbers."""
    return bytes([4, 0, 0, 0, 9, 9, 9, 9]) + number.to_bytes(8, "little") + bytes(size - 16)


def lying(datagrams: list[bytes]) -> Sealed:
    """Return them back to back."""
    return Sealed(memoryview(b"".join(datagrams)), len(datagrams[0]))


class LyingOutTests(OutTests):
    """The same with datagrams that lie in a buffer."""

    as_given = staticmethod(lying)

    def test_pieces(self) -> None:
        """More than the kernel takes as one leave in as few system calls as there can be."""
        for sizes, calls in (
            ([1452] * 48, 2),
            ([1452] * 44 + [100], 1),
            ([1452] * 45 + [100], 2),
            ([96] * 130, 3),
            ([1452], 1),
            ([1452] * 90 + [96], 3),
        ):
            many = [data(number, size) for number, size in enumerate(sizes)]
            self.system.calls = 0
            taken = self.udp.send_datagrams(lying(many), self.outside.path(), 0)
            heard = [heard.datagram for heard in self.outside.get()]
            self.assertEqual((len(sizes), calls), (taken, self.system.calls))
            self.assertEqual(many, heard)

    def test_nowhere(self) -> None:
        """What nobody can send is counted, each of them."""
        self.udp.close()
        self.assertEqual(0, self.udp.send_datagrams(lying(self.many), self.outside.path(), 0))
        self.assertEqual({"udp-no-socket": 20}, self.dropped())


class InTests(UdpCase):
    """Runs on their way in, as the stand-in gives them."""

    def setUp(self) -> None:
        self.system = FakeUdpSystem()
        self.begin(self.system)
        self.port = self.udp.open(0)

    def put(self, datagrams: list[bytes], version: int = 4, tos: int = 0) -> None:
        """Have them come as one."""
        self.outside.put(b"".join(datagrams), self.port, version, tos)
        waiting = self.data_socket(version).waiting
        whole, ancillary, flags, address = waiting.pop()
        told = (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", len(datagrams[0])))
        waiting.append((whole, [told, *ancillary], flags, address))

    def data_socket(self, version: int = 4) -> FakeSocket:
        [found] = [
            sock
            for sock in self.system.sockets
            if (socket.IPPROTO_UDP, UDP_GRO) in sock.options
            and (sock.family == socket.AF_INET) == (version == 4)
        ]
        return found

    def test_cut(self) -> None:
        """Each is handed out by itself; the last may be shorter; path and ECN are of all."""
        for version in LOOPBACK:
            one, other = [data(n) for n in range(5)], [data(5, 1452), data(6, 1452), data(7, 32)]
            self.put(one, version, 2)
            self.put(other, version, 2)
            self.outside.put(data(8), self.port, version, 2)
            self.put(one, version, 3)

            read_all(self.reactor)

            runs = self.protocol.runs
            self.assertEqual([(one + other + [data(8)], 2), (one, 3)], [
                (run, ecn) for run, _, ecn in runs
            ])  # fmt: skip
            local = packed(LOOPBACK[version])
            expected = self.outside.path(version)._replace(local=local, interface=1)
            self.assertEqual({expected}, {path for _, path, _ in runs})
            self.protocol.runs.clear()

    def test_batches(self) -> None:
        """Many large ones are handed out as they lie, before anything overwrites them.

        What came before them is told before, and what comes behind them behind.
        """
        batches = [[data(n, 1452) for n in range(first, first + 20)] for first in (20, 40)]
        self.outside.put(data(1), self.port)
        self.put(batches[0])
        self.put(batches[1], tos=1)
        self.outside.put(data(2), self.port, 4, 1)
        self.put([data(3), data(4)], tos=1)
        told: list[tuple[bool, int, int]] = []
        receive = self.protocol.runs_received

        def runs_received(runs: list[Run]) -> None:
            told.extend((isinstance(run, Packed), len(run), ecn) for run, _, ecn in runs)
            receive(runs)

        self.protocol.runs_received = runs_received  # type: ignore[method-assign]
        read_all(self.reactor)

        self.assertEqual([(False, 1, 0), (True, 20, 0), (True, 20, 1), (False, 3, 1)], told)
        paths = {path for _, path, _ in self.protocol.runs}
        expected = self.outside.path()._replace(local=packed(LOOPBACK[4]), interface=1)
        self.assertEqual({expected}, paths)
        self.assertEqual(
            [data(1), *batches[0], *batches[1], data(2), data(3), data(4)], self.protocol.take()
        )

    def sizes(self, *batches: list[bytes]) -> list[int]:
        """Have *batches* come, each as one; return how many are handed out together."""
        for batch in batches:
            self.put(batch)
        told: list[int] = []
        self.protocol.runs_received = lambda runs: told.extend(len(run) for run, *_ in runs)  # type: ignore[method-assign]
        read_all(self.reactor)
        return told

    def test_goes_on(self) -> None:
        """What goes on like the batch before it is one with it; behind a shorter one nothing."""
        twenty = [mine(n, 1452) for n in range(20)]

        self.assertEqual([60], self.sizes(twenty, twenty, twenty))
        self.assertEqual([41, 20], self.sizes(twenty, [*twenty, mine(20, 1451)], twenty))
        self.assertEqual([20, 20], self.sizes(twenty, [mine(n, 1451) for n in range(20)]))
        self.assertEqual([20, 20], self.sizes(twenty, [mine(n, 1453) for n in range(20)]))
        self.assertEqual([22, 20], self.sizes(twenty, [mine(20, 1452)], [mine(21, 99)], twenty))
        # What is few by itself is the end of a super-packet, and more of the next is behind it.
        self.assertEqual([22], self.sizes(twenty[:2], twenty))
        self.assertEqual([2, 20], self.sizes(twenty[:2], [mine(n, 1400) for n in range(20)]))

    def test_another_kind(self) -> None:
        """What is for another keypair, or of another type, would spoil it for all."""
        twenty = [mine(n, 1452) for n in range(20)]
        for at, byte in (0, 5), (4, 8), (7, 8):
            for size, count in (1452, 20), (100, 1):
                other = bytearray(mine(20, size))
                other[at] = byte
                self.assertEqual([20, count], self.sizes(twenty, [bytes(other)] * count))

    def test_closed_before_it(self) -> None:
        """Who closes the port because of what came before a batch does not get the batch."""
        self.outside.put(mine(0), self.port)
        self.put([mine(n, 1452) for n in range(20)], tos=1)
        self.protocol.receive = self.udp.close

        read_all(self.reactor)

        self.assertEqual([mine(0)], self.protocol.take())

    def test_as_many_as_there_is_room_for(self) -> None:
        """Nor does it for ever."""
        most = [mine(n, 1452) for n in range(45)]  # 64 KiB

        self.assertEqual([135], self.sizes(most, most, most, most))
        read_all(self.reactor)
        large = [mine(n, 8150) for n in range(8)]
        self.assertEqual([24, 8], self.sizes(large, large, large, large))
        many = [mine(n, 130) for n in range(100)]
        self.assertEqual([200], self.sizes(many, many, many))

    def test_nothing_at_all(self) -> None:
        """Empty ones behind a batch are told, each: they are none of it, nor swallowed by it."""
        self.put([data(n, 1452) for n in range(20)])
        waiting = self.data_socket().waiting  # past the filter, which lets none through
        [(_, [_, *ancillary], flags, address)] = waiting
        waiting.extend([(b"", ancillary, flags, address)] * 3)

        read_all(self.reactor)

        self.assertEqual([20, 3], [len(run) for run, *_ in self.protocol.runs])

    def test_nobody_elses(self) -> None:
        """Nor where it comes from somebody else: each keeps their own."""
        batches = [[mine(n, 1452) for n in range(first, first + 20)] for first in (0, 20)]
        for batch in batches:
            self.put(batch)
        waiting = self.data_socket().waiting
        whole, ancillary, flags, (host, _, *more) = waiting.pop()
        waiting.append((whole, ancillary, flags, (host, 4001, *more)))

        read_all(self.reactor)

        self.assertEqual(
            [(batches[0], self.outside.path().port), (batches[1], 4001)],
            [(run, path.port) for run, path, _ in self.protocol.runs],
        )

    def test_closed_by_what_came(self) -> None:
        """Who closes the port because of a batch gets no more of what was there."""
        for tos in 0, 1:
            self.put([data(n, 1452) for n in range(20)], tos=tos)
        self.protocol.receive = self.udp.close

        read_all(self.reactor)

        self.assertEqual(20, len(self.protocol.take()))

    def test_a_single_one(self) -> None:
        """Without a word of the kernel's a long one is one."""
        self.outside.put(data(1, 9000), self.port)

        read_all(self.reactor)

        self.assertEqual([data(1, 9000)], self.protocol.take())

    def test_bounded(self) -> None:
        """A turn's bound counts datagrams; only what came as one with the last goes beyond it."""
        for _ in range(10):
            self.put([data(n) for n in range(40)])

        read_all(self.reactor)

        self.assertEqual(160, len(self.protocol.take()))
        self.assertTrue(DATA_BATCH <= 160 < DATA_BATCH + 40)

    def test_not_known(self) -> None:
        """An old kernel gives them one by one, and that is all."""
        self.system.refuse_option = {(socket.IPPROTO_UDP, UDP_GRO): errno.ENOPROTOOPT}
        self.udp.rebind(0)
        self.outside.put(data(1), self.udp.port)

        read_all(self.reactor)

        self.assertEqual([data(1)], self.protocol.take())
        self.assertEqual({}, self.dropped())


class KernelInTests(UdpCase):
    """Runs on their way in, as the kernel gives them."""

    def setUp(self) -> None:
        self.begin(KernelOutside(self.addCleanup))
        self.port = self.udp.open(0)
        self.sender = self.make()
        self.sender.open(0)

    def test_data(self) -> None:
        """What left as one arrives, each by itself, from either family."""
        for version, host in LOOPBACK.items():
            path = self.outside.path(version)._replace(host=packed(host), port=self.port)
            sent = [data(number, 1000) for number in range(60)] + [data(60, 48)]

            self.sender.send_datagrams(sent, path, 2)
            for _ in range(3):
                read_all(self.reactor)

            self.assertEqual({2}, {ecn for _, _, ecn in self.protocol.runs})
            self.assertEqual(sent, self.protocol.take())

    def test_handshakes(self) -> None:
        """Initiations that left as one are no junk, though their socket knows no runs."""
        path = self.outside.path()._replace(port=self.port)
        self.sender.send_datagrams([INITIATION] * 5, path, 0)

        read_all(self.reactor)

        self.assertEqual([INITIATION] * 5, self.protocol.take())
