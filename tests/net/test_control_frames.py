"""Super-packets on the control link: both ways, announced or not, and on slow lines."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.control import ControlLink
from pyvpn.net.valve import DRAIN_SLOW, QUEUE_MOST, QUEUE_WIDE
from pyvpn.tunnel.session import Sent
from pyvpn.wire.command import LIMIT, Command, encode_frame, encode_packets
from pyvpn.wire.framed import framed
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import PLAIN, VNET_SIZE, cut
from tests.net.links import Bench, StubbornLine, frames_in
from tests.wire.plain_segments import TCP, UDP, frame, ip4, ip6, tcp, udp

ROOM = 1 << 20
FOUR = frame(ip4(TCP, tcp(bytes(9500))), 1000)
SIX = frame(ip6(UDP, udp(bytes(2500))), 1000)
LARGE = frame(ip4(TCP, tcp(bytes(60_000))), 1000)
ALONE = ip4(TCP, tcp(b"alone"))


def written(*frames: bytes) -> bytes:
    """What an end that announced it writes of *frames*."""
    return framed(list(frames), ROOM).data


class ReceiveTests(SynchronousTestCase):
    """What arrives."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.link.raise_limit()

    def give(self, link: ControlLink, packets: list[SuperPacket]) -> None:
        self.bench.owner.told.append(("supers", *(b"".join(each.pieces) for each in packets)))

    def test_in_order(self) -> None:
        """Packets, super-packets and commands are told in their order, in as few calls."""
        self.bench.link.carry_super_packets(self.give)
        self.bench.receive(
            written(FOUR, SIX)
            + encode_packets([ALONE, ALONE])
            + written(SIX)
            + encode_frame(Command.GOODBYE, 0)
            + encode_packets([ALONE])
        )

        self.assertEqual(
            [
                ("supers", FOUR, SIX),
                ("packets", ALONE, ALONE),
                ("supers", SIX),
                ("statement", 5, b""),
                ("packets", ALONE),
                ("heard",),
            ],
            self.bench.owner.told,
        )

    def test_in_pieces(self) -> None:
        """However the stream is cut."""
        self.bench.link.carry_super_packets(self.give)
        stream = written(FOUR) + encode_packets([ALONE]) + written(SIX)
        for size in 1, 11, 13, 5000, 9565, 9600, 9700:
            self.bench.owner.told.clear()
            self.bench.receive(*(stream[n : n + size] for n in range(0, len(stream), size)))
            told = [each for each in self.bench.owner.told if each[0] != "heard"]
            self.assertEqual([("supers", FOUR), ("packets", ALONE), ("supers", SIX)], told)

    @given(st.lists(st.integers(1, 13_000)), st.lists(st.integers(0, 3), max_size=9))
    def test_any_pieces(self, cuts: list[int], order: list[int]) -> None:
        """The same of any stream, with commands in between."""
        self.setUp()
        self.bench.link.carry_super_packets(self.give)
        kinds = (
            (written(FOUR), ("supers", FOUR)),
            (written(SIX), ("supers", SIX)),
            (encode_packets([ALONE]), ("packets", ALONE)),
            (encode_frame(Command.GOODBYE, 0), ("statement", 5, b"")),
        )
        stream = b"".join(kinds[each][0] for each in order)
        edges = [0, *sorted({each for each in cuts if each < len(stream)}), len(stream)]
        self.bench.receive(*(stream[a:b] for a, b in pairwise(edges)))
        told: list[object] = []
        for what, *items in self.bench.owner.told:
            if what == "statement":
                told.append((what, *items))
            elif what != "heard":
                told += [(what, each) for each in items]
        self.assertEqual([kinds[each][1] for each in order], told)
        self.assertFalse(self.bench.link._unprocessed)

    def test_not_announced(self) -> None:
        """Without the word on both sides it is what it always was: a packet, and no good one."""
        self.bench.receive(written(FOUR))

        self.assertEqual(["packets", "heard"], [each[0] for each in self.bench.owner.told])
        [(_, packet)] = self.bench.owner.of("packets")
        self.assertEqual(0, packet[0])

    def test_refused(self) -> None:
        """What is none is told as a packet, of which the router sees that it is none."""
        self.bench.link.carry_super_packets(self.give)
        good = frames_in(written(FOUR))[0].data
        for bad in good[:-1], b"\0", bytes(4), bytes(2) + b"\xff" * 60:
            self.bench.owner.told.clear()
            self.bench.receive(encode_packets([good, bad, good]))
            told = [("supers", FOUR), ("packets", bad), ("supers", FOUR), ("heard",)]
            self.assertEqual(told, self.bench.owner.told)
        self.assertEqual(0, self.bench.link.faults)

    def test_limit(self) -> None:
        """The limit of a frame is the same with the word."""
        self.bench.link.carry_super_packets(self.give)
        self.bench.receive(encode_packets([bytes(LIMIT - 8)]))
        self.assertFalse(self.bench.line.is_ended())
        self.bench.receive((LIMIT + 1).to_bytes(4, "big"))
        self.assertTrue(self.bench.line.is_ended())


class SendTests(SynchronousTestCase):
    """What is sent."""

    def setUp(self) -> None:
        self.line = StubbornLine()
        self.bench = Bench(line=self.line)
        self.line.drain()
        self.line.sent = b""
        self.link = self.bench.link
        self.link.carry_super_packets(lambda _link, _packets: None)

    def drain(self, seconds: float = 0.0) -> bytes:
        self.bench.clock.advance(seconds)
        self.line.drain()
        sent, self.line.sent = self.line.sent, b""
        return sent

    def test_one_write(self) -> None:
        """All of a batch leaves in one write, and is counted as the packets that it is."""
        writes: list[bytes] = []
        write = self.line.write
        self.line.write = lambda data: (writes.append(data), write(data))[1]  # type: ignore[method-assign]
        frames = [FOUR, PLAIN + ALONE, SIX]
        packets = [packet for each in frames for packet in cut(each)]
        sent = self.link.send_frames(frames, 0.0)

        self.assertEqual(Sent(len(packets), sum(map(len, packets))), sent)
        self.assertEqual([written(*frames)], writes)
        self.assertEqual(written(*frames), self.drain())

    def test_only_where_announced(self) -> None:
        """A link without the word takes none."""
        self.assertTrue(self.link.takes_frames(0.0))
        self.assertFalse(Bench().link.takes_frames(0.0))

    def test_bounded(self) -> None:
        """However much is sent, little waits; the rest is dropped and counted."""
        taken = refused = 0
        for _ in range(500):
            sent = self.link.send_frames([LARGE] * 4, 0.0)
            taken, refused = taken + sent.packets, refused + sent.refused
        waiting = self.line.waiting()
        self.assertLessEqual(waiting, 2 * (QUEUE_MOST + len(LARGE)))
        self.assertEqual(waiting, len(self.drain()))
        self.assertEqual(500 * 4 * 60, taken + refused)
        self.assertEqual(refused, self.link.dropped_packets)

    def test_slow_line(self) -> None:
        """On a line that has proved slow they are cut, until it is quick again."""
        self.link.send_frames([LARGE] * 4, 0.0)
        self.link.send_frames([LARGE] * 4, 0.0)
        self.drain(DRAIN_SLOW + 0.1)

        self.assertFalse(self.link.takes_frames(0.0))
        while self.link.send_packets([bytes(1400)] * 20, 0.0):
            pass
        self.drain()
        self.assertTrue(self.link.takes_frames(0.0))

    def test_after_the_end(self) -> None:
        """A closed connection takes nothing and counts it."""
        self.link.close()
        self.assertEqual(Sent(0, 0, 60), self.link.send_frames([LARGE], 0.0))
        self.bench.hang_up()
        self.assertEqual(Sent(0, 0, 60), self.link.send_frames([LARGE], 0.0))

    def test_commands_pass(self) -> None:
        """Answers and heartbeats are written although the queue is full."""
        for _ in range(10):
            self.link.send_frames([LARGE] * 4, 0.0)
        self.link.tell(Command.NOTICE, b"bye")

        self.assertEqual((7, 0, b"bye"), frames_in(self.drain())[-1])

    def test_room_for_a_batch(self) -> None:
        """Where the line is known to be quick, all that one turn reads from the TUN is taken."""
        self.link._valve._resize(QUEUE_WIDE)
        frames = [LARGE] * 7
        self.assertLess(sum(map(len, frames)) - 7 * VNET_SIZE, QUEUE_WIDE)
        self.assertEqual(7 * 60, self.link.send_frames(frames, 0.0).packets)
