"""Batches that are taken where they lie: nobody outside can tell that from one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import REJECT_AFTER_MESSAGES
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.packed import Packed
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import cut
from tests.tunnel.wires import Pair
from tests.wire.plain_segments import TCP, UDP, frame, ip4, ip6, tcp, udp

STREAM = frame(ip4(TCP, tcp(bytes(11_500), options=bytes(12))), 1000)
WHOLES = (
    STREAM,
    frame(ip4(TCP, tcp(bytes(12_000))), 1000),
    frame(ip6(TCP, tcp(bytes(11_500), options=bytes(12))), 1000),
    frame(ip4(UDP, udp(bytes(11_500))), 1000),
    frame(ip4(TCP, tcp(bytes(11_500), options=bytes(12)), tos=2), 1000),
)


class Right:
    """The right one of two ends that have met; keeps what it gets, in order."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.meet()
        self.peer = self.pair.to_left
        self.peer.offload = True
        self.peer.owner = self
        self.got: list[bytes] = []
        self.supers = 0
        self.pair.right.deliver = self.keep  # type: ignore[method-assign]
        self.pair.right.wg._deliver_super = self.keep_super
        self.pair.net.now += 1.0

    def keep(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.got += packets

    def keep_super(self, peer: Peer, packets: list[SuperPacket], now: float) -> None:
        self.supers += len(packets)
        self.got += [packet for each in packets for packet in each.cut()]

    def seal(self, whole: bytes = STREAM, offload: bool = False) -> list[bytes]:
        """Return what the left one sends."""
        keypair = self.pair.to_right.current
        assert keypair is not None
        if not offload:
            return keypair.seal(cut(whole), 1052)
        (run,) = outgoing([whole], 0).items
        assert isinstance(run, Run)
        return keypair.seal_run(run)

    def receive(self, datagrams: list[bytes], as_one: bool, ecn: int = 0, port: int = 0) -> None:
        pair = self.pair
        place = pair.left.place._replace(port=port or pair.left.place.port)
        run: list[bytes] | Packed = datagrams
        if as_one:
            whole = b"".join(datagrams)
            run = Packed()
            run.buffer[: len(whole)] = whole
            run.take(len(whole), len(datagrams[0]))
        pair.right.wg.runs_received([(run, place, ecn)], pair.net.now)

    def state(self) -> dict[str, object]:
        """All that may differ outside."""
        keypair = self.peer.current
        assert keypair is not None
        return {
            "got": self.got,
            "drops": dict(self.pair.right.counters.dropped),
            "window": (keypair.window.highest, bytes(keypair.window._ring)),
            "endpoint": self.peer.endpoint,
            "heard": self.peer.heard,
            "bytes": self.peer.rx_bytes,
            "timers": (self.peer._keepalive_at, self.peer._new_handshake_at),
        }


class PackedTests(SynchronousTestCase):
    """Batches and what comes of them."""

    @settings(deadline=None)
    @given(
        st.integers(0, len(WHOLES) - 1),
        st.booleans(),
        st.sampled_from((0, 0, 1, 2, 3)),
        st.integers(0, 11),
        st.sampled_from(
            ("", "", "forged", "replayed", "swapped", "index", "kind", "short", "expired", "owner")
        ),
        st.data(),
    )
    def test_the_same(
        self, which: int, offload: bool, ecn: int, place: int, harm: str, data: st.DataObject
    ) -> None:
        """Whatever comes as one has the same effect as the same datagrams one by one."""
        states = []
        at, bit = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 7))
        for as_one in False, True:
            end = Right()
            if harm == "owner":
                end.peer.owner = None
            datagrams = end.seal(WHOLES[which], offload)
            if harm == "forged":
                one = bytearray(datagrams[place])
                one[at % len(one)] ^= 1 << bit
                datagrams[place] = bytes(one)
            elif harm == "replayed":
                end.receive(datagrams[place : place + 1], False)
            elif harm == "swapped":
                other = (place + 1) % 11
                datagrams[place % 11], datagrams[other] = datagrams[other], datagrams[place % 11]
            elif harm == "index":
                datagrams[place] = datagrams[place][:4] + b"none" + datagrams[place][8:]
            elif harm == "kind":
                datagrams[place] = b"\x01" + datagrams[place][1:]
            elif harm == "short":
                datagrams[-1] = datagrams[-1][: at % len(datagrams[-1])] or b"\x04"
            elif harm == "expired":
                end.pair.net.now += 180.0
            end.receive(datagrams, as_one, ecn, 99)
            states.append(end.state())
        self.assertEqual(states[0], states[1])

    def test_uncut(self) -> None:
        """Neither kind is ever cut when all is well: one super-packet for all."""
        for offload in False, True:
            end = Right()
            end.receive(end.seal(STREAM, offload), True)
            self.assertEqual(1, end.supers)
            self.assertEqual(cut(STREAM), end.got)
            self.assertEqual(0, end.pair.right.counters.total())

    def test_twice(self) -> None:
        """The same batch again is nothing but replays."""
        end = Right()
        datagrams = end.seal()
        for _ in range(2):
            end.receive(datagrams, True)
        self.assertEqual(cut(STREAM), end.got)
        self.assertEqual(12, end.pair.right.dropped(Drop.REPLAYED))

    def test_one_after_the_other(self) -> None:
        """What is in the window from one batch holds for the next, whatever way it takes."""
        end = Right()
        first, second, third = end.seal(), end.seal(), end.seal()
        end.receive(second, True)
        end.receive(first, True)  # late, but not too late
        end.receive(second[3:4], False)
        end.receive(third, False)
        end.receive(third, True)
        self.assertEqual(cut(STREAM) * 3, end.got)
        self.assertEqual(13, end.pair.right.dropped(Drop.REPLAYED))

    def test_last_ones(self) -> None:
        """A batch that goes beyond the last counter there may be is opened up to that one."""
        end = Right()
        keypair = end.pair.to_right.current
        assert keypair is not None
        keypair.counter = REJECT_AFTER_MESSAGES - 12
        datagrams = end.seal()
        self.assertEqual(12, len(datagrams))
        end.receive(datagrams, True)
        self.assertEqual(cut(STREAM), end.got)

    def test_not_agreed(self) -> None:
        """Runs of a peer that never announced them are not opened, as one neither."""
        end = Right()
        end.peer.offload, end.peer.owner = False, None
        end.receive(end.seal(STREAM, True), True)
        self.assertEqual([], end.got)
        self.assertEqual(12, end.pair.right.dropped(Drop.JUNK))

    def test_without_super_packets(self) -> None:
        """Whoever takes none gets packets."""
        end = Right()
        end.pair.right.wg._deliver_super = None
        end.receive(end.seal(), True)
        self.assertEqual((0, cut(STREAM)), (end.supers, end.got))
