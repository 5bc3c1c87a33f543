"""Super-packets between two ends of ours: opened, judged, passed on."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import REJECT_AFTER_MESSAGES
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Sent, Session
from pyvpn.wire.datagram import Path
from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.offload import Run, ends_of, outgoing
from pyvpn.wire.rebuild import SuperPacket, rebuild
from pyvpn.wire.segments import PLAIN, cut
from pyvpn.wire.slab import Slab
from tests.tunnel.packets import KeepingSink, packed
from tests.tunnel.wires import Pair, hello
from tests.wire.plain_segments import TCP, UDP, frame, ip4, ip6, tcp, udp
from tests.wire.test_slab import held

WHOLE = frame(ip4(TCP, tcp(bytes(9500)), tos=2), 1000)


def run_of(whole: bytes) -> Run:
    """Return the run that *whole* becomes."""
    (run,) = outgoing([whole], 0).items
    assert isinstance(run, Run)
    return run


def super_packet(whole: bytes) -> SuperPacket:
    """Return it as it arrives."""
    payloads = run_of(whole).plaintexts(0)
    (packet,) = rebuild(list(range(len(payloads))), payloads).packets
    return packet


class OpenTests(SynchronousTestCase):
    """Runs that arrive."""

    def setUp(self) -> None:
        """Two ends that have met; the right one keeps what it gets, in order."""
        self.pair = Pair()
        self.pair.meet()
        self.pair.to_left.offload = True
        self.got: list[bytes] = []
        self.supers: list[SuperPacket] = []
        right = self.pair.right
        right.deliver = lambda peer, packets, now: self.got.extend(packets)  # type: ignore[method-assign]
        right.wg._deliver_super = self.keep

    def keep(self, peer: Peer, packets: list[SuperPacket], now: float) -> None:
        self.supers += packets
        self.got += [packet for each in packets for packet in each.cut()]

    def seal(self, whole: bytes = WHOLE) -> list[bytes]:
        keypair = self.pair.to_right.current
        assert keypair is not None
        return keypair.seal_run(run_of(whole))

    def receive(self, datagrams: list[bytes], ecn: int = 0) -> None:
        pair = self.pair
        pair.right.wg.received(datagrams, pair.left.place, ecn, pair.net.now)

    def test_arrives(self) -> None:
        """A run is delivered as one; it is data like other data to the peer."""
        peer = self.pair.to_left
        before = peer.rx_bytes
        self.pair.net.now += 1.0
        datagrams = self.seal()
        self.receive(datagrams)

        self.assertEqual(cut(WHOLE), self.got)
        self.assertEqual([10], [each.segments for each in self.supers])
        self.assertEqual(sum(map(len, datagrams)), peer.rx_bytes - before)
        self.assertEqual(self.pair.net.now, peer.heard)
        self.assertEqual(0, self.pair.right.counters.total())

    def test_order(self) -> None:
        """Packets and runs that take turns are delivered in the order they were sealed."""
        keypair = self.pair.to_right.current
        assert keypair is not None
        sent, expected = [], []
        for number in range(4):
            whole = frame(ip4(UDP, udp(bytes(3000 + number))), 1000)
            packets = [hello(b"%d" % number), hello(b"more %d" % number)]
            sent += keypair.seal(packets, 1420) + self.seal(whole)
            expected += packets + cut(whole)
        self.receive(sent)

        self.assertEqual(expected, self.got)

    def test_not_agreed(self) -> None:
        """Of a peer that never announced it, a stock one first of all, nothing is even opened."""
        self.pair.to_left.offload = False
        datagrams = self.seal()
        self.receive(datagrams)

        self.assertEqual([], self.got)
        self.assertEqual(10, self.pair.right.dropped(Drop.JUNK))
        self.pair.to_left.offload = True
        self.receive(datagrams)
        self.assertEqual(cut(WHOLE), self.got)

    def test_said_before_a_restart(self) -> None:
        """One of ours, whose session is known, may go by what was agreed with who is no more."""
        peer = self.pair.to_left
        peer.offload, peer.is_native = False, True
        self.receive(self.seal())
        self.assertEqual(10, self.pair.right.dropped(Drop.JUNK))  # whose it is nobody knows
        peer.owner = self
        self.receive(self.seal())
        self.assertEqual(cut(WHOLE), self.got)
        self.assertEqual(10, self.pair.right.dropped(Drop.JUNK))

    def test_refused(self) -> None:
        """What is forged, replayed, malformed, expired or of no keypair is counted, each alone."""
        datagrams = self.seal()
        forged = datagrams[3][:-1] + bytes([datagrams[3][-1] ^ 1])
        stranger = datagrams[5][:4] + bytes(4) + datagrams[5][8:]
        keypair = self.pair.to_right.current
        assert keypair is not None
        bad = keypair.seal_run(Run(bytes(20), 0, [b"junk", b""]))
        self.receive([*datagrams[:3], forged, datagrams[1], stranger, *datagrams[6:], *bad])

        packets = cut(WHOLE)
        self.assertEqual(packets[:3] + packets[6:], self.got)
        right = self.pair.right
        self.assertEqual(
            [1, 1, 1, 2],
            [
                right.dropped(reason)
                for reason in (Drop.BAD_TAG, Drop.REPLAYED, Drop.UNKNOWN_INDEX, Drop.MALFORMED)
            ],
        )
        self.pair.net.now += 180.0
        self.receive(self.seal())
        self.assertEqual(10, right.dropped(Drop.EXPIRED_KEY))

    def test_congestion(self) -> None:
        """Congestion on the way is passed on, or counted where it cannot be."""
        self.receive(self.seal(), ecn=3)
        self.assertEqual(cut(frame(ip4(TCP, tcp(bytes(9500)), tos=3), 1000)), self.got)
        self.receive(self.seal(frame(ip6(TCP, tcp(bytes(9500))), 1000)), ecn=3)
        self.assertEqual(10, self.pair.right.dropped(Drop.CONGESTED))

    def test_moves_the_endpoint(self) -> None:
        """A run from elsewhere moves the endpoint, as data does, but not a straggler's."""
        late = self.seal()
        self.receive(self.seal())
        place = self.pair.left.place._replace(port=9)
        self.pair.right.wg.received(late, place, 0, self.pair.net.now)
        self.assertEqual(self.pair.left.place, self.pair.to_left.endpoint)
        self.pair.right.wg.received(self.seal(), place, 0, self.pair.net.now)
        self.assertEqual(place, self.pair.to_left.endpoint)

    def test_confirms_a_key(self) -> None:
        """The first message on a new keypair may be a run."""
        pair = Pair()
        pair.net.lose = lambda end, sent: end is pair.left and sent.kind == 4
        pair.to_left.offload = True
        pair.from_left()
        keypair = pair.to_right.current
        assert keypair is not None
        self.assertIsNone(pair.to_left.current)
        pair.right.wg.received(keypair.seal_run(run_of(WHOLE)), pair.left.place, 0, pair.net.now)
        self.assertIsNotNone(pair.to_left.current)


class SendTests(SynchronousTestCase):
    """Frames that are sent, to an end that takes them."""

    def setUp(self) -> None:
        """Two ends that have met, and the packets that arrive at the right one."""
        self.pair = Pair()
        self.pair.meet()
        self.pair.to_left.offload = True
        self.got: list[bytes] = []
        right = self.pair.right
        right.deliver = lambda peer, packets, now: self.got.extend(packets)  # type: ignore[method-assign]
        right.wg._deliver_super = lambda peer, packets, now: self.got.extend(
            packet for each in packets for packet in each.cut()
        )
        self.peer = self.pair.to_right
        self.peer.offload = True

    def frames(self) -> list[bytes]:
        return [WHOLE, PLAIN + hello(b"plain"), frame(ip6(UDP, udp(bytes(3000))), 1000)]

    def test_both_ways(self) -> None:
        """What is sent uncut arrives as the packets that it stands for, and is counted so."""
        frames = self.frames()
        packets = [packet for each in frames for packet in cut(each)]
        before = self.peer.tx_bytes
        self.assertTrue(self.peer.takes_frames(self.pair.net.now))
        taken = self.peer.send_frames(frames, self.pair.net.now)
        self.pair.net.settle()

        self.assertEqual(Sent(14, sum(map(len, packets))), taken)
        self.assertEqual(packets, self.got)
        sent = self.pair.left.sent[-14:]
        self.assertEqual(sum(len(each.datagram) for each in sent), self.peer.tx_bytes - before)
        self.assertEqual([2] * 10 + [0] * 4, [each.tos for each in sent])
        self.assertEqual([5] * 10 + [4] + [5] * 3, [each.kind for each in sent])

    def test_together(self) -> None:
        """Runs that follow each other leave together, as far as their ECN fields are the same."""
        calls: list[tuple[int, int]] = []
        left = self.pair.left
        send = left.send_datagrams

        def noting(datagrams: list[bytes], path: Path, tos: int) -> int:
            calls.append((len(datagrams), tos))
            return send(datagrams, path, tos)

        left.send_datagrams = noting  # type: ignore[method-assign]
        other = frame(ip6(UDP, udp(bytes(3000))), 1000)
        frames = [WHOLE, WHOLE, other, WHOLE, PLAIN + hello(b"plain"), WHOLE, WHOLE]
        taken = self.peer.send_frames(frames, self.pair.net.now)
        self.pair.net.settle()

        self.assertEqual([(20, 2), (3, 0), (10, 2), (1, 0), (20, 2)], calls)
        packets = [packet for each in frames for packet in cut(each)]
        self.assertEqual((len(packets), packets), (taken.packets, self.got))

    def test_slabs(self) -> None:
        """A super-packet that is sealed where it lies arrives, and is counted, like others."""
        slab = held(WHOLE)
        before = self.peer.tx_bytes
        packets = cut(WHOLE)
        taken = self.peer.send_slab(slab, self.pair.net.now)
        self.pair.net.settle()

        self.assertEqual(Sent(10, sum(map(len, packets))), taken)
        self.assertEqual(packets, self.got)
        sent = self.pair.left.sent[-10:]
        self.assertEqual(sum(len(each.datagram) for each in sent), self.peer.tx_bytes - before)
        self.assertEqual([(2, 5)] * 10, [(each.tos, each.kind) for each in sent])

    def test_slabs_not_so(self) -> None:
        """With a budget too small for it, or a keypair used up, nothing is done with it."""
        now = self.pair.net.now
        sent = len(self.pair.left.sent)
        self.peer.mtu = 1000
        self.assertIsNone(self.peer.send_slab(held(WHOLE), now))
        self.peer.mtu = 0
        assert self.peer.current is not None
        self.peer.current.counter = REJECT_AFTER_MESSAGES - 5
        slab = held(WHOLE)
        self.assertIsNone(self.peer.send_slab(slab, now))
        self.assertEqual(WHOLE, slab.frame())
        self.assertEqual(sent, len(self.pair.left.sent))

    def test_too_large_to_cross_uncut(self) -> None:
        """A packet beyond the budget goes complete, for whoever is to judge it."""
        self.peer.mtu = 1000
        self.peer.send_frames([WHOLE], self.pair.net.now)
        self.assertEqual({4}, {each.kind for each in self.pair.left.sent[-10:]})

    def test_not_to_others(self) -> None:
        """An end that did not announce it, that we have no key for, or no way to, gets none."""
        now = self.pair.net.now
        self.peer.offload = False
        self.assertFalse(self.peer.takes_frames(now))
        self.peer.offload = True
        self.assertFalse(self.peer.takes_frames(now + 181.0))
        self.peer.endpoint = None
        self.assertFalse(self.peer.takes_frames(now))
        self.peer.endpoint = self.pair.right.place
        self.assertTrue(self.peer.takes_frames(now))
        self.peer.down()
        self.assertFalse(self.peer.takes_frames(now))

    def test_timers(self) -> None:
        """A run is data: unanswered it brings a new handshake, old keys bring one, too."""
        net = self.pair.net
        net.lose = lambda end, sent: True
        handshakes = len(self.pair.left.of_kind(1))
        self.peer.send_frames([WHOLE], net.now)
        net.run(16.0)
        self.assertEqual(handshakes + 1, len(self.pair.left.of_kind(1)))
        pair = Pair()
        pair.meet()
        pair.to_right.offload = True
        pair.net.now += 121.0
        pair.to_right.send_frames([WHOLE], pair.net.now)
        self.assertEqual(2, len(pair.left.of_kind(1)))

    def test_used_up(self) -> None:
        """With a keypair that is used up the run is lost, counted, and another key is made."""
        keypair = self.peer.current
        assert keypair is not None
        self.pair.net.now += 10.0
        keypair.counter = REJECT_AFTER_MESSAGES - 5
        self.assertEqual(Sent(0, 0), self.peer.send_frames([WHOLE], self.pair.net.now))
        self.assertEqual(10, self.pair.left.dropped(Drop.EXPIRED_KEY))
        self.assertEqual(2, len(self.pair.left.of_kind(1)))
        self.assertEqual(Sent(0, 0), self.peer.send_frames([b"junk"], self.pair.net.now))
        self.assertEqual(1, self.pair.left.dropped(Drop.MALFORMED))


class Tun(KeepingSink):
    """Takes super-packets, too."""

    def __init__(self) -> None:
        super().__init__()
        self.supers: list[SuperPacket] = []

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        self.supers += packets
        return sum(each.segments for each in packets)


class JudgeTests(SynchronousTestCase):
    """Super-packets are judged as the packets that they stand for."""

    def setUp(self) -> None:
        """A router with two sessions."""
        self.tun = Tun()
        self.router = Router(self.tun, Counters(), client_to_client=True)
        self.sessions = []
        for number in 1, 2:
            addresses = packed(f"10.0.0.{number}"), packed(f"fd00::{number}")
            reachable = {packed("10.0.0.200"), packed("fd00::c8")}
            session = Session(number, number, str(number), addresses, reachable, heard=0.0)
            session.attach(KeepingSink(), 0.0)
            self.router.add(session)
            self.sessions.append(session)

    def send(self, *wholes: bytes) -> None:
        packets = [super_packet(whole) for whole in wholes]
        self.router.super_packets_from_session(self.sessions[0], packets, 5.0)

    def test_to_the_tun(self) -> None:
        """What may pass passes, and is counted as the packets that it is."""
        four = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        six = frame(ip6(UDP, udp(bytes(9500))), 1000)
        self.send(four, six)

        session = self.sessions[0]
        self.assertEqual([four, six], [b"".join(each.pieces) for each in self.tun.supers])
        self.assertEqual(20, session.packets_in)
        self.assertEqual(sum(map(len, cut(four) + cut(six))), session.bytes_in)
        self.assertEqual(5.0, session.heard)

    def test_refused(self) -> None:
        """Another's source, or a destination that is not permitted, is refused for all of it."""
        good = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        forged = frame(ip4(TCP, tcp(bytes(2500)), source=2), 1000)
        self.send(good, forged, good)
        self.assertEqual(2, len(self.tun.supers))
        self.assertEqual({Drop.SOURCE: 3}, self.sessions[0].drops.dropped)
        self.sessions[0].reachable = ()
        self.send(good)
        self.assertEqual({Drop.SOURCE: 3, Drop.DESTINATION: 10}, self.router.counters.dropped)

    def test_to_another_session(self) -> None:
        """Another session gets the packets, complete; in order with its others."""
        whole = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        whole = whole[:26] + packed("10.0.0.2") + whole[30:]
        packet = super_packet(whole)
        self.router.super_packets_from_session(self.sessions[0], [packet, packet], 5.0)
        sink = self.sessions[1].carrier
        assert isinstance(sink, KeepingSink)

        self.assertEqual(packet.cut() * 2, sink.packets)
        self.assertEqual([], self.tun.supers)
        self.router.client_to_client = False
        self.router.super_packets_from_session(self.sessions[0], [packet], 5.0)
        self.assertEqual({Drop.DESTINATION: 10}, self.sessions[0].drops.dropped)

    def test_frames_from_the_tun(self) -> None:
        """Frames go uncut to who takes them so, and in packets to the others; all are judged."""
        one, other = self.sessions
        peer = TakesFrames()
        one.peer = one.carrier = peer
        to_one = to("10.0.0.1", frame(ip4(TCP, tcp(bytes(9500))), 1000))
        to_other = to("10.0.0.2", frame(ip4(TCP, tcp(bytes(2500))), 1000))
        plain = PLAIN + hello(b"plain")
        frames = [to_one, to_other, to_one, b"junk", to_other, to("10.0.0.9", to_one), plain]
        frames += [to("224.0.0.1", to_one)]
        self.router.frames_from_tun(frames, 5.0)
        sink = other.carrier
        assert isinstance(sink, KeepingSink)

        self.assertEqual([[to_one, to_one]], peer.frames)
        self.assertEqual(cut(to_other) * 2 + [hello(b"plain")], sink.packets)
        self.assertEqual((7, 700), (one.packets_out, one.bytes_out))
        self.assertEqual(7, other.packets_out)
        expected = {Drop.MALFORMED: 1, Drop.NO_ROUTE: 10, Drop.MULTICAST: 10}
        dropped = self.router.counters.dropped
        self.assertEqual(expected, {each: dropped[each] for each in expected})
        one.carrier = KeepingSink()
        self.router.frames_from_tun([to_one], 5.0)
        self.assertEqual(cut(to_one), one.carrier.packets)
        self.assertEqual(1, len(peer.frames))

    def test_slabs_from_the_tun(self) -> None:
        """One that lies is judged like a frame, and made into one where it cannot go as it is."""
        one, other = self.sessions
        peer = TakesFrames()
        one.peer = one.carrier = peer
        whole = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        to_one, to_other = to("10.0.0.1", whole), to("10.0.0.2", whole)
        for each in to_one, to_other, to("10.0.0.9", whole), to("224.0.0.1", whole), b"junk":
            self.router.slab_from_tun(held(each), 5.0)
        sink = other.carrier
        assert isinstance(sink, KeepingSink)

        self.assertEqual(([to_one], []), (peer.slabs, peer.frames))
        self.assertEqual(cut(to_other), sink.packets)
        self.assertEqual((7, 700), (one.packets_out, one.bytes_out))
        expected = {Drop.MALFORMED: 1, Drop.NO_ROUTE: 10, Drop.MULTICAST: 10}
        dropped = self.router.counters.dropped
        self.assertEqual(expected, {each: dropped[each] for each in expected})
        peer.takes_slabs = False
        self.router.slab_from_tun(held(to_one), 5.0)
        self.assertEqual([[to_one]], peer.frames)
        self.assertEqual((14, 1400), (one.packets_out, one.bytes_out))
        peer.takes_slabs, one.path_mtu = True, 1216
        self.router.slab_from_tun(held(to_one), 5.0)
        self.assertEqual(cut(to_one), peer.packets)
        one.path_mtu = 0
        self.router.limits.set(one, 1_000_000, 1_000_000, 5.0)
        self.router.slab_from_tun(held(to_one), 5.0)
        self.assertEqual(1, len(peer.slabs))

    def test_limited(self) -> None:
        """A limit counts them as the packets that they are, either way, and they leave as such."""
        one = self.sessions[0]
        four = frame(ip4(TCP, tcp(bytes(60_000))), 1000)
        self.router.limits.set(one, 1_000_000, 1_000_000, 5.0)
        self.send(four)
        self.assertEqual([], self.tun.supers)
        passed = len(self.tun.packets)
        self.assertEqual(cut(four)[:passed], self.tun.packets)
        self.assertLess(passed, 40)
        peer = TakesFrames()
        one.peer = one.carrier = peer
        self.assertFalse(one.crosses_uncut)
        self.router.frames_from_tun([to("10.0.0.1", four)], 5.0)
        self.assertEqual([], peer.frames)
        self.assertLess(0, len(peer.packets))
        self.assertLess(len(peer.packets), 40)

    def test_frames_for_a_narrow_path(self) -> None:
        """They are cut, and what is too large even so is answered."""
        one = self.sessions[0]
        peer = TakesFrames()
        one.peer = one.carrier = peer
        one.path_mtu = 1216
        self.assertFalse(one.crosses_uncut)
        small = to("10.0.0.1", frame(ip4(TCP, tcp(bytes(2500))), 1000))
        large = to("10.0.0.1", frame(ip4(TCP, tcp(bytes(2500))), 1300))
        self.router.frames_from_tun([small, large], 5.0)
        self.assertEqual([], peer.frames)
        fit = [each for each in cut(large) if len(each) <= 1216]
        self.assertEqual(cut(small), peer.packets[:3])
        self.assertLess(len(fit), len(cut(large)))
        self.assertEqual(fit, [each for each in peer.packets[3:] if each in fit])
        self.assertTrue(all(len(each) <= 1216 for each in peer.packets))

    def test_frames_for_the_link(self) -> None:
        """What is meant for the link goes to nobody, also where a session is the default route."""
        one = self.sessions[0]
        peer = TakesFrames()
        one.peer = one.carrier = peer
        self.router.add_route(bytes(4), 0, one)
        whole = frame(ip4(TCP, tcp(bytes(2500))), 1000)
        for address in "224.0.0.1", "255.255.255.255", "169.254.0.9":
            self.router.frames_from_tun([to(address, whole)], 5.0)
        self.assertEqual([], peer.frames)
        self.assertEqual({Drop.MULTICAST: 9}, self.router.counters.dropped)

    def test_ends_of_frames(self) -> None:
        """They are those that the packet itself has, if it is one."""
        for packet in (hello(), ip4(TCP, tcp(b"x")), ip6(UDP, udp(b"y")), b"", b"\x45" * 19):
            for whole in packet, packet[:-1], packet + b"\0":
                self.assertEqual(
                    endpoints_of(whole), ends_of(PLAIN + whole, len(PLAIN) + len(whole))
                )


class TakesFrames(KeepingSink):
    """A peer that takes frames."""

    heard = 0.0
    offload = True

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[list[bytes]] = []
        self.slabs: list[bytes] = []
        self.takes_slabs = True

    def send_slab(self, slab: Slab, now: float) -> Sent | None:
        if not self.takes_slabs:
            return None
        self.slabs.append(slab.frame())
        return Sent(7, 700)

    def takes_frames(self, now: float) -> bool:
        return True

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        self.frames.append(frames)
        return Sent(7, 700)


def to(address: str, whole: bytes) -> bytes:
    """Return *whole* with another destination; its checksums are wrong then."""
    return whole[:26] + packed(address) + whole[30:]
