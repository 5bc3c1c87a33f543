"""The TUN device, against a stand-in and against the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.errors import HostError, Misuse
from pyvpn.interfaces import IPacketSink
from pyvpn.net.tun import BATCH, Tun, TunDrop
from pyvpn.net.tun_system import ITunSystem, KernelTunSystem
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.rebuild import SuperPacket, rebuild
from pyvpn.wire.segments import PLAIN, cut
from pyvpn.wire.slab import LEAST as SLAB
from pyvpn.wire.slab import Slab
from tests.net.tun_systems import FakeTunSystem, KernelOutside, Outside, packet
from tests.wire.plain_segments import (
    ACK,
    CWR,
    FIN,
    PSH,
    TCP,
    UDP,
    frame,
    ip4,
    ip6,
    plain_cut,
    tcp,
    udp,
)

NAME = "pyvpnt0"


def rebuilt(whole: bytes, first: int = 0, after: int | None = None) -> SuperPacket:
    """Return what is rebuilt of *whole*, or of some of its datagrams."""
    (run,) = outgoing([whole], 0).items
    assert isinstance(run, Run)
    payloads = run.plaintexts(0)
    (packet,) = rebuild(list(range(len(payloads)))[first:after], payloads[first:after]).packets
    return packet


class TunCase(SynchronousTestCase):
    """What every test of a TUN needs."""

    outside: Outside

    def begin(self, outside: Outside) -> None:
        self.outside = outside
        self.reactor = MemoryReactorClock()
        self.counters = Counters()
        self.batches: list[list[bytes]] = []
        self.losses: list[str] = []
        self.tun = self.make()

    def make(
        self,
        mtu: int = 1420,
        segments: bool = False,
        frames: Callable[[list[bytes]], None] | None = None,
        slab: Callable[[Slab], None] | None = None,
    ) -> Tun:
        tun = Tun(
            self.reactor,
            NAME,
            mtu,
            self.batches.append,
            self.losses.append,
            self.counters,
            self.outside.system,
            segments=segments,
            frames=frames,
            slab=slab,
        )
        self.addCleanup(tun.close)
        return tun

    def opened(self) -> Tun:
        self.tun.open()
        self.tun.start()
        self.outside.set_up(NAME)
        return self.tun

    def dropped(self) -> dict[str, int]:
        return {str(reason): n for reason, n in self.counters.dropped.items() if n}


class TunBehaviour:
    """What a TUN does, whatever stands behind it."""

    def test_received(self) -> None:
        """Waiting packets come as one batch, each whole, in their order."""
        tun = self.opened()
        sent = [packet(number, 20 + 100 * number) for number in range(8)]
        self.outside.put(NAME, sent)

        tun.doRead()

        self.assertEqual([sent], self.batches)

    def test_nothing_waits(self) -> None:
        """A wake-up for nothing hands out nothing."""
        self.opened().doRead()

        self.assertEqual([], self.batches)

    def test_largest(self) -> None:
        """A packet as large as the MTU passes."""
        tun = self.opened()
        self.outside.put(NAME, [packet(1, 1420)])

        tun.doRead()

        self.assertEqual([[packet(1, 1420)]], self.batches)

    def test_larger_than_mtu(self) -> None:
        """A packet larger than our MTU is counted, not cut: somebody raised the interface's."""
        tun = self.opened()
        self.outside.set_up(NAME, mtu=1500)
        self.outside.put(NAME, [packet(1), packet(2, 1421), packet(3)])

        tun.doRead()

        self.assertEqual([[packet(1), packet(3)]], self.batches)
        self.assertEqual({"larger-than-mtu": 1}, self.dropped())

    def test_without_limit(self) -> None:
        """Without a limit of ours a packet of any MTU comes whole, also when the MTU changes."""
        tun = self.opened()
        tun.mtu = None
        for mtu in 9000, 65_535, 1280:
            self.outside.set_up(NAME, mtu=mtu)
            self.outside.put(NAME, [packet(1, mtu), packet(2)])
            tun.doRead()

            self.assertEqual([packet(1, mtu), packet(2)], self.batches.pop())
        self.assertEqual({}, self.dropped())

    def test_sent(self) -> None:
        """Packets sent come in by the interface, each whole, in their order."""
        tun = self.opened()
        sent = [packet(number, 20 + 100 * number) for number in range(8)]

        self.assertEqual(8, tun.send_packets(sent))

        self.assertEqual(sent, self.outside.get(NAME))
        self.assertEqual({}, self.dropped())

    def test_junk(self) -> None:
        """What is no packet is refused and counted; those beside it arrive."""
        tun = self.opened()

        self.assertEqual(2, tun.send_packets([packet(1), b"\0junk", packet(2), b""]))

        self.assertEqual([packet(1), packet(2)], self.outside.get(NAME))
        self.assertEqual({"tun-refused": 2}, self.dropped())

    def test_down_and_up(self) -> None:
        """While the interface is down packets are counted; after it everything works again."""
        tun = self.opened()
        self.outside.set_down(NAME)
        self.assertEqual(0, tun.send_packets([packet(1), packet(2)]))
        tun.doRead()
        self.outside.set_up(NAME)

        self.assertEqual(1, tun.send_packets([packet(3)]))
        self.outside.put(NAME, [packet(4)])
        tun.doRead()

        self.assertEqual([packet(3)], self.outside.get(NAME))
        self.assertEqual([[packet(4)]], self.batches)
        self.assertEqual({"tun-down": 2}, self.dropped())
        self.assertEqual([], self.losses)

    def assert_lost_once(self) -> None:
        """The loss is told once, later, and nobody reads from the device any more."""
        self.assertEqual([], self.losses)
        self.reactor.advance(0)
        self.assertEqual(
            ["the interface pyvpnt0 is gone (File descriptor in bad state)"], self.losses
        )
        self.assertEqual([], self.reactor.getReaders())
        self.tun.doRead()
        self.tun.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(0, self.tun.send_packets([packet(9)]))
        self.reactor.advance(1)
        self.assertEqual(1, len(self.losses))

    def test_deleted_noticed_by_reading(self) -> None:
        """A read from a deleted device tells its loss once."""
        tun = self.opened()
        self.outside.delete(NAME)

        tun.doRead()

        self.assert_lost_once()

    def test_deleted_noticed_by_writing(self) -> None:
        """A write to a deleted device tells its loss once, and counts the whole batch."""
        tun = self.opened()
        self.outside.delete(NAME)

        self.assertEqual(0, tun.send_packets([packet(1), packet(2), packet(3)]))

        self.assertEqual({"tun-gone": 3}, self.dropped())
        self.assert_lost_once()

    def test_deleted_noticed_by_the_reactor(self) -> None:
        """A reactor that gives up on a deleted device makes us tell its loss once."""
        tun = self.opened()
        self.outside.delete(NAME)

        tun.connectionLost(Failure(ConnectionDone()))

        self.assert_lost_once()

    def test_reactor_ends(self) -> None:
        """A reactor that lets go of a sound device, because it ends, is no loss."""
        self.opened().connectionLost(Failure(ConnectionDone()))
        self.reactor.advance(1)

        self.assertEqual([], self.losses)
        self.assertNotEqual(-1, self.tun.fileno())

    def test_reopened(self) -> None:
        """After a loss the same object opens a new device of the same name."""
        self.opened()
        self.outside.delete(NAME)
        self.tun.doRead()
        self.reactor.advance(0)

        tun = self.opened()
        self.outside.put(NAME, [packet(1)])
        tun.doRead()

        self.assertEqual([[packet(1)]], self.batches)
        self.assertEqual([tun], self.reactor.getReaders())

    def test_name_taken(self) -> None:
        """A second device of the same name is refused, with the cure, and the first lives."""
        self.opened()

        error = self.assertRaises(HostError, self.make().open)

        self.assertEqual(
            "cannot open the tunnel device pyvpnt0: another process holds it: stop that one, or "
            "choose another name",
            str(error),
        )
        self.assertEqual(1, self.tun.send_packets([packet(1)]))

    def test_closed(self) -> None:
        """A closed device frees its name, is read no more, and may be closed again."""
        self.opened()
        self.tun.close()
        self.tun.close()

        self.assertEqual([], self.reactor.getReaders())
        self.assertEqual(-1, self.tun.fileno())
        self.make().open()

    def test_system_interface(self) -> None:
        """What stands behind the device has every call that the device makes."""
        self.assertTrue(verifyObject(ITunSystem, self.outside.system))


class FakeTunTests(TunBehaviour, TunCase):
    """The stand-in behaves."""

    def setUp(self) -> None:
        self.begin(FakeTunSystem())


class OldFakeTunTests(TunBehaviour, TunCase):
    """A kernel without virtio headers will do."""

    def setUp(self) -> None:
        self.begin(FakeTunSystem(old=True))


class KernelTunTests(TunBehaviour, TunCase):
    """The kernel behaves like the stand-in, so what the stand-in shows is true."""

    outside: KernelOutside

    def setUp(self) -> None:
        self.begin(KernelOutside(self.addCleanup))

    def test_one_write(self) -> None:
        """The kernel takes packets of one flow as one, and sees in it what they were."""
        for make, headers in (ip4, 40), (ip6, 60):
            tun = self.opened()
            content = bytes(range(256)) * 40
            sent = cut(frame(make(TCP, tcp(content)), 1000))

            self.assertEqual(11, tun.send_packets(sent))

            (got,) = self.outside.get(NAME)
            self.assertEqual(content, got[headers:])
            self.assertEqual({}, self.dropped())
            tun.close()

    def test_datagrams_in_one_write(self) -> None:
        """So it does with datagrams, if it knows how to."""
        tun = self.opened()
        sent = cut(frame(ip4(UDP, udp(bytes(5000))), 1000))

        self.assertEqual(5, tun.send_packets(sent))

        got = self.outside.get(NAME)
        self.assertEqual(1 if tun._datagrams else 5, len(got))
        self.assertEqual(5000, sum(len(each) - 28 for each in got))

    def test_cut(self) -> None:
        """What the kernel cuts, and what we cut, are the same packets."""
        content = bytes(range(256)) * 150
        frames = [
            frame(make(protocol, inner), 1234)
            for make in (ip4, ip6)
            for protocol, inner in (
                (TCP, tcp(content, flags=ACK | PSH | FIN | CWR, seq=2**32 - 5000)),
                (TCP, tcp(content[:3000], options=b"\1\1\x08\x0a" + bytes(8))),
                (UDP, udp(content)),
            )
        ]
        for segments in False, True:
            self.tun = tun = self.make(segments=segments)
            self.opened()
            for each in frames:
                self.outside.put_frame(NAME, each)
                tun.doRead()
                got = [packet for batch in self.batches for packet in batch]
                self.assertEqual(plain_cut(each), got)
                self.batches.clear()
            tun.close()
        self.assertEqual({}, self.dropped())

    def test_not_a_tun(self) -> None:
        """The name of an interface of another kind is refused in words that say so."""
        tun = Tun(self.reactor, "lo", 1420, list.clear, print, self.counters)

        error = self.assertRaises(HostError, tun.open)

        self.assertIn("lo: an interface of that name exists and is not a TUN", str(error))

    def test_not_inherited(self) -> None:
        """Programs that we start do not get the device."""
        self.assertFalse(os.get_inheritable(self.opened().fileno()))


class TunTests(TunCase):
    """What depends on us alone."""

    def setUp(self) -> None:
        self.system = FakeTunSystem()
        self.begin(self.system)

    def test_interfaces(self) -> None:
        """The device is what reactors read from and what routers send to."""
        self.assertTrue(verifyObject(IReadDescriptor, self.tun))
        self.assertTrue(verifyObject(IPacketSink, self.tun))
        self.assertEqual(NAME, self.tun.logPrefix())

    def test_batches_are_bounded(self) -> None:
        """One turn reads a bounded batch; the rest waits for the next."""
        tun = self.opened()
        waiting = [packet(number) for number in range(BATCH + 3)]
        system_read = iter([PLAIN + each for each in waiting])

        def read(_fd: int, _size: int) -> bytes:
            try:
                return next(system_read)
            except StopIteration:
                raise BlockingIOError(errno.EAGAIN, "later") from None

        self.patch(tun._system, "read", read)
        tun.doRead()
        tun.doRead()
        tun.doRead()

        self.assertEqual([waiting[:BATCH], waiting[BATCH:]], self.batches)

    def test_joined(self) -> None:
        """What fits together goes with one write; another packet in between keeps its own."""
        tun = self.opened()
        flow = cut(frame(ip4(TCP, tcp(bytes(5000))), 1000))
        ping = packet(1)

        self.assertEqual(6, tun.send_packets([*flow[:2], ping, *flow[2:]]))

        # The stand-in's view: of a flow and a stranger the order is ours to choose.
        self.assertEqual([*flow, ping], self.outside.get(NAME))
        self.assertEqual([5, 1], self.system.writes)

    def test_without_datagrams(self) -> None:
        """A kernel that does not know UDP super-packets gets none."""
        self.system.known = 0x07
        tun = self.opened()
        sent = cut(frame(ip4(UDP, udp(bytes(3000))), 1000))

        self.assertEqual(3, tun.send_packets(sent))

        self.assertEqual([1, 1, 1], self.system.writes)

    def test_super_packet_refused(self) -> None:
        """What the kernel does not take as one it gets one by one."""
        tun = self.opened()
        self.system.known = 0x07  # now, after it promised more
        sent = cut(frame(ip4(UDP, udp(bytes(3000))), 1000))

        self.assertEqual(3, tun.send_packets(sent))

        self.assertEqual(sent, self.outside.get(NAME))
        self.assertEqual({}, self.dropped())

    def test_super_packet_lost(self) -> None:
        """Of a super-packet that is dropped each packet is counted."""
        tun = self.opened()
        flow = cut(frame(ip4(TCP, tcp(bytes(5000))), 1000))
        self.outside.set_down(NAME)
        self.assertEqual(0, tun.send_packets([*flow, packet(1)]))
        self.outside.delete(NAME)
        self.assertEqual(0, tun.send_packets([*flow, packet(1)]))

        self.assertEqual({"tun-down": 6, "tun-gone": 6}, self.dropped())

    def test_offloads(self) -> None:
        """The kernel is asked for what it knows, and for nothing if we did not want any."""
        for known, segments, expected in (
            (0x67, True, 0x67),
            (0x07, True, 0x07),
            (0x01, True, 0),
            (0x00, True, 0),
            (0x67, False, 0),
            (0x00, False, 0),
        ):
            self.system.known = known
            self.tun = self.make(segments=segments)
            self.opened()
            self.assertEqual(expected, self.system.offloads)
            self.tun.close()

    def test_cut_batches(self) -> None:
        """A super-packet is cut, one that is not understood is counted; the batch is bounded."""
        self.tun = self.make(segments=True)
        tun = self.opened()
        whole = frame(ip4(TCP, tcp(bytes(40_000))), 1000)
        bad = b"\1\2" + whole[2:]
        waiting = iter([PLAIN + packet(1), bad, whole, PLAIN + packet(2), whole])

        self.patch(self.system, "read", lambda _fd, _size: next(waiting))
        tun.doRead()

        self.assertEqual([[packet(1), *cut(whole), packet(2), *cut(whole)]], self.batches)
        self.assertEqual({"tun-not-to-be-cut": 1}, self.dropped())

    def test_cut_too_large(self) -> None:
        """Super-packets whose packets are larger than our MTU are counted by packets."""
        self.tun = self.make(segments=True)
        tun = self.opened()
        whole = frame(ip4(TCP, tcp(bytes(40_000))), 1400)
        waiting = iter([whole] * 50)

        self.patch(self.system, "read", lambda _fd, _size: next(waiting))
        tun.doRead()

        self.assertEqual([], self.batches)
        self.assertEqual({"larger-than-mtu": 29 * BATCH}, self.dropped())

    def test_frames(self) -> None:
        """Frames are handed out as they are, by somebody's wish, until it is taken back."""
        frames: list[list[bytes]] = []
        self.tun = self.make(frames=frames.append)
        tun = self.opened()
        whole = frame(ip4(TCP, tcp(bytes(40_000))), 1000)
        large = frame(ip6(UDP, udp(bytes(40_000))), 1400)
        tun.hand_out_frames(True)
        tun.hand_out_frames(True)
        self.assertEqual(0x67, self.system.offloads)
        several = [PLAIN + packet(1), whole, large, PLAIN + packet(2, 1421)]
        waiting = iter([*several, *[whole] * 6])
        self.patch(self.system, "read", lambda _fd, _size: next(waiting))
        tun.doRead()

        self.assertEqual([[PLAIN + packet(1), *[whole] * 6]], frames)
        self.assertEqual({"larger-than-mtu": 30}, self.dropped())
        self.assertEqual([whole], list(waiting))  # a batch is bounded by what is in it
        tun.hand_out_frames(False)
        self.assertEqual(0, self.system.offloads)
        waiting = iter([PLAIN + packet(1)] * BATCH)
        tun.doRead()
        self.assertEqual([[packet(1)] * BATCH], self.batches)
        self.assertEqual(1, len(frames))

    def test_slabs(self) -> None:
        """A large super-packet is handed out where it lies, in its turn; frames end the batch."""
        got: list[object] = []
        self.tun = self.make(frames=got.append, slab=lambda slab: got.append(slab.frame()))
        tun = self.opened()
        tun.hand_out_frames(True)
        one, other = (frame(ip4(TCP, tcp(bytes(size))), 1000) for size in (40_000, 20_000))
        small = frame(ip4(TCP, tcp(bytes(SLAB - 100))), 1000)
        large = frame(ip4(TCP, tcp(bytes(40_000))), 1400)
        read = [PLAIN + packet(1), one, other, small, large, PLAIN + packet(2), one]
        waiting = iter(read)

        def read_next(_fd: int, _size: int) -> bytes:
            try:
                return next(waiting)
            except StopIteration:
                raise OSError(errno.EAGAIN, "nothing") from None

        self.patch(self.system, "read", read_next)
        tun.doRead()
        self.assertEqual(
            [[PLAIN + packet(1)], one, other, [small, PLAIN + packet(2)], one, []], got
        )
        self.assertEqual({"larger-than-mtu": 29}, self.dropped())
        tun.doRead()
        self.assertEqual(6, len(got))

    def test_frames_of_older_kernels(self) -> None:
        """Without virtio headers, and without somebody who takes them, there are packets."""
        self.tun.hand_out_frames(True)
        tun = self.opened()
        self.assertEqual(0, self.system.offloads)
        self.outside.put(NAME, [packet(1)])
        tun.doRead()
        self.assertEqual([[packet(1)]], self.batches)

    def test_rebuilt(self) -> None:
        """A super-packet that crossed the tunnel is written as it is."""
        tun = self.opened()
        whole = frame(ip4(TCP, tcp(bytes(5000))), 1000)

        self.assertEqual(8, tun.send_super_packets([rebuilt(whole), rebuilt(whole, 1, 4)]))

        self.assertEqual([5, 3], self.system.writes)
        self.assertEqual(cut(whole) + cut(whole)[1:4], self.outside.get(NAME))
        self.assertEqual({}, self.dropped())

    def test_rebuilt_for_older_kernels(self) -> None:
        """What the kernel does not take as one, or as it is, it gets in complete packets."""
        whole = frame(ip4(UDP, udp(bytes(3000))), 1000)
        for known, old, writes in ((0x67, False, [3, 3]), (7, False, [1] * 6), (0, True, [1] * 6)):
            self.system.known, self.system.old = known, old
            tun = self.opened()
            self.system.writes.clear()

            self.assertEqual(6, tun.send_super_packets([rebuilt(whole), rebuilt(whole)]))

            self.assertEqual(cut(whole) * 2, self.outside.get(NAME))
            self.assertEqual(writes, self.system.writes)
            tun.close()
        self.system.known, self.system.old = 0x67, False
        tun = self.opened()
        self.system.known = 0x07  # now, after it promised more
        self.assertEqual(3, tun.send_super_packets([rebuilt(whole)]))
        self.assertEqual({}, self.dropped())

    def test_rebuilt_and_lost(self) -> None:
        """Of one that is dropped each packet that it stands for is counted."""
        tun = self.opened()
        packets = [rebuilt(frame(ip4(TCP, tcp(bytes(5000))), 1000))] * 2
        self.outside.set_down(NAME)
        self.assertEqual(0, tun.send_super_packets(packets))
        self.outside.delete(NAME)
        self.assertEqual(0, tun.send_super_packets(packets))

        self.assertEqual({"tun-down": 10, "tun-gone": 10}, self.dropped())

    def test_full(self) -> None:
        """A device that takes no more makes nobody wait: the rest is dropped and counted."""
        tun = self.opened()
        sent = [packet(number) for number in range(2000)]

        accepted = tun.send_packets(sent)

        self.assertGreater(2000, accepted)
        self.assertEqual(sent[:accepted], self.outside.get(NAME))
        self.assertEqual({"tun-full": 2000 - accepted}, self.dropped())

    def test_gone_in_the_middle(self) -> None:
        """Of a batch during which the device vanishes, each packet is accounted for once."""
        tun = self.opened()
        self.counters.drop(Drop.TUN_FULL)
        write = self.system.write

        def write_and_delete(fd: int, each: bytes) -> int:
            if each == packet(3):
                self.system.delete(NAME)
            return write(fd, each)

        self.patch(self.system, "write", write_and_delete)

        self.assertEqual(1, tun.send_packets([packet(1), b"", packet(3), packet(4)]))

        self.assertEqual({"tun-full": 1, "tun-refused": 1, "tun-gone": 2}, self.dropped())

    def test_read_before_the_loss(self) -> None:
        """What was read before the device vanished is still passed on."""
        tun = self.opened()
        reads = iter([PLAIN + packet(1), PLAIN + packet(2)])

        def read(_fd: int, _size: int) -> bytes:
            try:
                return next(reads)
            except StopIteration:
                raise OSError(errno.EBADFD, "gone") from None

        self.patch(self.system, "read", read)
        tun.doRead()
        self.reactor.advance(0)

        self.assertEqual([[packet(1), packet(2)]], self.batches)
        self.assertEqual(["the interface pyvpnt0 is gone (gone)"], self.losses)

    def test_passing_trouble(self) -> None:
        """A read that fails for want of memory is tried again at the next wake-up."""
        tun = self.opened()
        for number in errno.ENOMEM, errno.ENOBUFS, errno.EIO:

            def read(_fd: int, _size: int, number: int = number) -> bytes:
                raise OSError(number, "passing")

            self.patch(self.system, "read", read)
            tun.doRead()
        self.reactor.advance(0)

        self.assertEqual([], self.losses)
        self.assertEqual([tun], self.reactor.getReaders())

    def test_bug_behind_us(self) -> None:
        """A bug in what takes the packets is logged once, and the device lives on."""
        self.tun._received = self.batches.__getitem__  # a list is no index: TypeError
        tun = self.opened()
        for number in range(3):
            self.outside.put(NAME, [packet(number)])
            tun.doRead()

        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))
        self.assertEqual([tun], self.reactor.getReaders())

    def test_refusals(self) -> None:
        """Each way in which the kernel refuses the device is answered with its cure."""
        for stage, number, text in (
            ("open", errno.ENOENT, "modprobe tun"),
            ("open", errno.ENODEV, "modprobe tun"),
            ("open", errno.ENXIO, "modprobe tun"),
            ("open", errno.EACCES, "chmod 0666 /dev/net/tun"),
            ("open", errno.EPERM, "--device /dev/net/tun"),
            ("open", errno.EMFILE, "Too many open files"),
            ("attach", errno.EPERM, "CAP_NET_ADMIN"),
            ("attach", errno.EBUSY, "another process holds it"),
            ("attach", errno.EINVAL, "is not a TUN"),
            ("attach", errno.ENOMEM, "Cannot allocate memory"),
        ):
            self.system.refuse_open = number if stage == "open" else None
            self.system.refuse_attach = number if stage == "attach" else None

            error = self.assertRaises(HostError, self.tun.open)

            self.assertIn(f"cannot open the tunnel device {NAME}: ", str(error))
            self.assertIn(text, str(error))
            self.assertEqual(0, self.system.open_descriptors())

    def test_out_of_order(self) -> None:
        """Opening twice, starting before opening, and impossible names are our mistakes."""
        self.assertRaises(Misuse, self.tun.start)
        self.tun.open()
        self.assertRaises(Misuse, self.tun.open)
        for name in "", "sixteen-letters-":
            self.assertRaises(Misuse, Tun, self.reactor, name, 1420, print, print, self.counters)

    def test_drop_reasons(self) -> None:
        """The device's own reasons for a drop are named apart from the common ones."""
        self.assertEqual(set(), {str(r) for r in TunDrop} & {str(r) for r in Drop})

    def test_real_by_default(self) -> None:
        """Without anything else said, the kernel stands behind the device."""
        tun = Tun(self.reactor, NAME, 1420, print, print, self.counters)

        self.assertIsInstance(tun._system, KernelTunSystem)
