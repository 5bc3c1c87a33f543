"""Data: what goes into a session comes out of it, and nothing else does."""

from __future__ import annotations

import struct
from itertools import product
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import Keypair
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import OwnRoutes, Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import DATA
from pyvpn.wire.icmp import checksum
from pyvpn.wire.ip import CE, ECT0, ECT1, NOT_ECT
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.wires import Pair, hello


class Met(Pair):
    """Two ends with a session, and what left seals with it."""

    def __init__(self) -> None:
        super().__init__()
        self.meet()
        for end in self.net.ends:
            end.received.clear()
            end.sent.clear()

    @property
    def keypair(self) -> Keypair:
        current = self.to_right.current
        assert current is not None
        return current

    def inject(self, *plain: bytes, ecn: int = 0) -> list[bytes]:
        """Let *plain* come to right, sealed by left just so; return what is delivered."""
        before = len(self.right.received)
        # A limit of one byte: nothing is padded.
        sealed = [self.keypair.seal([one], 1)[0] for one in plain]
        self.right.wg.received(sealed, self.left.place, ecn, self.net.now)
        return self.right.received[before:]


class PaddingTests(SynchronousTestCase):
    """The length that everybody sees."""

    def test_to_sixteen(self) -> None:
        """A packet is filled up to a multiple of 16 bytes, and delivered as it was."""
        pair = Met()
        loads = [bytes(range(size)) for size in range(40)]
        pair.from_left(*loads)

        self.assertEqual([hello(load) for load in loads], pair.right.received)
        for load, sent in zip(loads, pair.left.sent, strict=True):
            self.assertEqual(32 + -(-(20 + len(load)) // 16) * 16, len(sent.datagram))

    def test_not_beyond_the_mtu(self) -> None:
        """But never beyond the MTU, which need not be such a multiple."""
        pair = Met()
        pair.to_right.mtu = 1420
        for size in (1400, 1408, 1409, 1420):
            pair.from_left(bytes(size - 20))
            expected = 32 + (size if size == 1408 else 1408 if size == 1400 else 1420)
            self.assertEqual(expected, len(pair.left.sent[-1].datagram))

        self.assertEqual([1400, 1408, 1409, 1420], list(map(len, pair.right.received)))

    def test_beyond_the_mtu(self) -> None:
        """A packet larger than the MTU, which somebody has just made smaller, is sent whole."""
        pair = Met()
        pair.to_right.mtu = 1280
        pair.from_left(bytes(1380))

        self.assertEqual([1400], list(map(len, pair.right.received)))

    def test_zeros(self) -> None:
        """The padding is zeros."""
        pair = Met()
        pair.from_left(b"x")
        assert pair.to_left.current is not None

        opened = pair.to_left.current.open(pair.left.sent[-1].datagram)
        self.assertEqual(hello(b"x") + bytes(11), opened)

    def test_foreign_padding(self) -> None:
        """Whatever fills a packet up, and however much, is cut off."""
        pair = Met()
        six = packet("fd00::1", "fd00::2", b"load")

        self.assertEqual([hello()], pair.inject(hello() + b"\xff" * 1000))
        self.assertEqual([six], pair.inject(six + b"\xff"))


class InnerTests(SynchronousTestCase):
    """What a session may carry."""

    def refused(self, *plain: bytes) -> None:
        """Each of *plain* is counted, and not delivered; the peer is alive all the same."""
        pair = Met()
        pair.net.now += 1.0
        self.assertEqual([], pair.inject(*plain))
        self.assertEqual({Drop.MALFORMED: len(plain)}, dict(pair.right.counters.dropped))
        self.assertEqual(pair.net.now, pair.to_left.heard)
        self.assertEqual([hello()], pair.inject(hello()))

    def test_version(self) -> None:
        """Only versions 4 and 6 exist."""
        whole = hello(bytes(40))
        self.refused(*(bytes((v << 4 | 5,)) + whole[1:] for v in set(range(16)) - {4, 6}))

    def test_too_short(self) -> None:
        """No header, no packet."""
        self.refused(*(hello()[:size] for size in range(1, 20)))
        self.refused(*(packet("fd00::1", "fd00::2")[:size] for size in range(1, 40)))

    def test_stated_length(self) -> None:
        """A packet that states more bytes than came, or less than a header, is none."""
        whole = hello(bytes(100))
        self.refused(*(whole[:2] + struct.pack("!H", n) + whole[4:] for n in (0, 19, 121, 65535)))
        six = packet("fd00::1", "fd00::2", bytes(100))
        self.refused(*(six[:4] + struct.pack("!H", n) + six[6:] for n in (101, 65535)))

    def test_bad_one_among_good_ones(self) -> None:
        """It takes nothing with it."""
        pair = Met()
        loads = [hello(b"1"), b"\x45" * 10, hello(b"2"), b"", hello(b"3")]

        self.assertEqual([hello(b"1"), hello(b"2"), hello(b"3")], pair.inject(*loads))
        self.assertEqual({Drop.MALFORMED: 1}, dict(pair.right.counters.dropped))

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.builds(
                lambda version, four, six, load: (
                    bytes((version << 4 | 5, 0))
                    + struct.pack("!H", four)
                    + struct.pack("!H", six)
                    + load
                ),
                st.sampled_from((4, 4, 6, 6, 5)),
                st.integers(0, 65535) | st.integers(0, 90),
                st.integers(0, 65535) | st.integers(0, 90),
                st.binary(max_size=80),
            )
            | st.binary(max_size=80),
            max_size=10,
        )
    )
    def test_anything(self, plain: list[bytes]) -> None:
        """Whatever the peer seals: what is a packet is delivered without what is behind it."""
        expected = []
        for one in plain:
            four = int.from_bytes(one[2:4])
            six = int.from_bytes(one[4:6]) + 40
            if one[:1] and one[0] >> 4 == 4 and 20 <= four <= len(one):
                expected.append(one[:four])
            elif one[:1] and one[0] >> 4 == 6 and six <= len(one):
                expected.append(one[:six])

        self.assertEqual(expected, Met().inject(*plain))


class CongestionTests(SynchronousTestCase):
    """Explicit congestion notification through the tunnel: RFC 6040."""

    # By the inner field: what comes out for each outer one.  Figure 4; None is "drop".
    TABLE: ClassVar[dict[int, dict[int, int | None]]] = {
        NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: None},
        ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
        ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
        CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
    }

    @staticmethod
    def four(ecn: int, dscp: int, ident: int) -> bytes:
        head = struct.pack("!BBHHHBBH", 0x45, dscp << 2 | ecn, 28, ident, 0x4000, 64, 17, 0)
        head += packed("10.0.0.1") + packed("10.0.0.2")
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + b"12345678"

    @staticmethod
    def six(ecn: int, dscp: int, flow: int) -> bytes:
        head = struct.pack("!IHBB", 6 << 28 | (dscp << 2 | ecn) << 20 | flow, 8, 17, 64)
        return head + packed("fd00::1") + packed("fd00::2") + b"12345678"

    def test_coming_out(self) -> None:
        """The whole table, for both versions; nothing else changes but the checksum of v4."""
        pair = Met()
        for inner, outer, dscp in product(range(4), range(4), (0, 46, 63)):
            expected = self.TABLE[inner][outer]
            for make, number in ((self.four, 0x1234), (self.four, 0xFFFF), (self.six, 0xABCDE)):
                delivered = pair.inject(make(inner, dscp, number), ecn=outer)
                wanted = [] if expected is None else [make(expected, dscp, number)]
                self.assertEqual(wanted, delivered)

        self.assertEqual({Drop.CONGESTED: 9}, dict(pair.right.counters.dropped))

    @given(st.integers(0, 0xFFFF), st.integers(0, 63))
    def test_checksum(self, ident: int, dscp: int) -> None:
        """The checksum of a marked packet is right, whatever it was before."""
        (delivered,) = Met().inject(self.four(ECT0, dscp, ident), ecn=CE)

        self.assertEqual(0, checksum(delivered[:20]))
        self.assertEqual(self.four(CE, dscp, ident), delivered)

    def test_going_in(self) -> None:
        """The field is copied outside, the rest of the byte is not, and packets stay in order."""
        pair = Met()
        packets = [self.four(ecn, 46, n) for n, ecn in enumerate((0, 2, 2, 1, 3, 0))]
        packets.append(self.six(2, 46, 0xFFFFF))
        pair.to_right.send_packets(packets, pair.net.now)
        pair.net.settle()

        self.assertEqual([0, 2, 2, 1, 3, 0, 2], [sent.tos for sent in pair.left.sent])
        self.assertEqual(packets, pair.right.received)

    def test_through_a_congested_network(self) -> None:
        """A packet that a router on the way has marked comes out marked; others do not."""
        pair = Met()
        pair.net.mark = CE
        pair.to_right.send_packets([self.four(2, 0, 1), self.four(0, 0, 2)], pair.net.now)
        pair.net.settle()

        self.assertEqual([self.four(CE, 0, 1), self.four(0, 0, 2)], pair.right.received)

    def test_keepalive(self) -> None:
        """A keepalive has no such field, and comes in whatever the network did to it."""
        pair = Met()
        pair.net.now += 5.0

        self.assertEqual([], pair.inject(b"", ecn=CE))
        self.assertEqual(pair.net.now, pair.to_left.heard)
        self.assertEqual(0, pair.right.counters.total())


class SourceTests(SynchronousTestCase):
    """WireGuard's cryptokey routing: a peer sends in its own name only."""

    def setUp(self) -> None:
        self.pair = Met()
        self.tun, counters = KeepingSink(), Counters()
        self.router = Router(self.tun, counters, one_link=True)
        self.session = self.join("10.0.0.0/24", "fd00::1/128")
        self.other = self.join("10.0.0.7/32", "10.9.0.0/16", "fd00::/64")
        self.session.attach(self.pair.to_left, 0.0)
        self.pair.right.deliver = self.deliver  # type: ignore[method-assign]
        self.pair.right.wg._deliver = self.deliver

    def join(self, *prefixes: str) -> Session:
        session = Session(0, 0, prefixes[0], (), frozenset(), heard=0.0)
        session.sources = OwnRoutes(self.router, session)
        self.router.add(session)
        for prefix in prefixes:
            network, length = prefix.split("/")
            self.router.add_route(packed(network), int(length), session)
        return session

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.assertIs(self.pair.to_left, peer)
        self.router.packets_from_session(self.session, packets, now)

    def test_own(self) -> None:
        """What comes from its networks goes to the kernel: the positive twin."""
        good = [packet("10.0.0.1", "10.9.0.1"), packet("fd00::1", "fd00::2")]
        good += [packet("10.0.0.6", "10.0.0.7"), packet("10.0.0.255", "224.0.0.1")]
        self.pair.inject(*good)

        self.assertEqual([good], self.tun.batches)
        self.assertEqual(0, self.session.drops.total())

    def test_forged(self) -> None:
        """What comes from anywhere else does not: also the one address inside its network."""
        forged = ["10.0.0.7", "10.9.0.1", "10.0.1.1", "127.0.0.1", "0.0.0.0", "255.255.255.255"]  # noqa: S104 - an address to forge
        for address in forged:
            self.pair.inject(packet(address, "10.9.0.1"))
        for address in ("fd00::2", "fd00:0:0:1::1", "::", "::1", "ff02::1", "::ffff:10.0.0.1"):
            self.pair.inject(packet(address, "fd00::2"))

        self.assertEqual([], self.tun.batches)
        self.assertEqual({Drop.SOURCE: 12}, dict(self.session.drops.dropped))

    def test_forged_behind_a_good_one(self) -> None:
        """Each packet of a run is looked at, wherever it stands."""
        good = packet("10.0.0.1", "10.9.0.1")
        bad = packet("10.0.0.7", "10.9.0.1")
        for run in ([good, bad], [bad, good], [good, bad, good, bad]):
            self.tun.batches.clear()
            self.pair.inject(*run)
            self.assertEqual([[one for one in run if one is good]], self.tun.batches)

        self.assertEqual({Drop.SOURCE: 4}, dict(self.session.drops.dropped))

    def test_network_moves(self) -> None:
        """When a network is given to another peer the first may not send from it any more."""
        self.router.remove_route(packed("10.0.0.0"), 24)
        self.router.add_route(packed("10.0.0.0"), 24, self.other)
        self.pair.inject(packet("10.0.0.1", "10.9.0.1"))

        self.assertEqual([], self.tun.batches)

    def test_runs_of_two_peers(self) -> None:
        """In one run of datagrams each goes by its own index: nobody's packet is another's."""
        third = self.pair.net.end("192.0.2.3")
        peer = self.pair._peer(third, self.pair.right, bytes(32))
        known = self.pair._peer(self.pair.right, third, bytes(32))
        seen: list[tuple[Peer, list[bytes]]] = []
        self.pair.right.wg._deliver = lambda one, packets, now: seen.append((one, packets))
        peer.send_packets([hello(b"third")], self.pair.net.now)
        self.pair.net.settle()
        assert peer.current is not None
        mine = self.pair.keypair.seal([hello(b"1"), hello(b"2")], 0)
        theirs = peer.current.seal([hello(b"3"), hello(b"4")], 0)
        run = [mine[0], theirs[0], b"junk", theirs[1], mine[1]]
        self.pair.right.wg.received(run, self.pair.left.place, 0, self.pair.net.now)

        self.assertEqual(
            [
                (known, [hello(b"third")]),
                (self.pair.to_left, [hello(b"1")]),
                (known, [hello(b"3"), hello(b"4")]),
                (self.pair.to_left, [hello(b"2")]),
            ],
            seen,
        )
        self.assertEqual({Drop.JUNK: 1}, dict(self.pair.right.counters.dropped))

    def test_reflected(self) -> None:
        """A packet of ours that somebody sends back to us does not open."""
        sealed = self.pair.keypair.seal([hello()], 0)[0]
        wrong = sealed[:4] + (self.pair.keypair.local_index).to_bytes(4, "little") + sealed[8:]
        self.pair.left.wg.received([wrong], self.pair.right.place, 0, self.pair.net.now)

        self.assertEqual({Drop.BAD_TAG: 1}, dict(self.pair.left.counters.dropped))
        self.assertEqual(DATA, wrong[0])
