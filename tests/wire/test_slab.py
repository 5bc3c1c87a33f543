"""Super-packets sealed where the TUN put them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import REJECT_AFTER_MESSAGES, Keypair
from pyvpn.crypto.noise import TransportKeys
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.segments import PLAIN
from pyvpn.wire.slab import MOST, MOST_LAYOUTS, ROOM, Sealed, Slab
from tests.wire.plain_segments import SYN, TCP, UDP, frame, ip4, ip6, tcp, udp
from tests.wire.test_offload import COUNTERS, offloadable
from tests.wire.test_segments import super_packets

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))


def keypair(counter: int = 0, index: int = 2, suite: Suite = CHACHA) -> Keypair:
    """One end's, that has sealed *counter* packets for the other end's *index*."""
    made = Keypair(1, TransportKeys(KEY, OTHER, index, suite), True, 0.0)
    made.counter = counter
    return made


def held(whole: bytes, slab: Slab | None = None) -> Slab:
    """Return a slab with *whole* in it, in a buffer that is dirty elsewhere."""
    slab = Slab() if slab is None else slab
    slab.buffer[:] = b"\xa5" * len(slab.buffer)
    slab.buffer[: len(whole)] = whole
    slab.take(len(whole))
    return slab


def sealed_there(slab: Slab, by: Keypair) -> list[bytes]:
    shape = slab.shape(0)
    assert shape is not None
    sealed = by.seal_slab(slab, shape)
    assert sealed is not None
    return list(sealed)


def sealed_as_values(whole: bytes, by: Keypair) -> list[bytes]:
    """The same by the way that copies, which is what it is held against."""
    (run,) = outgoing([whole], 0).items
    assert isinstance(run, Run)
    return by.seal_run(run)


class SealTests(SynchronousTestCase):
    """What comes out is what the other way makes of the same super-packet."""

    @given(st.lists(offloadable(), min_size=1, max_size=4), COUNTERS, st.booleans(), st.data())
    def test_as_values(
        self, wholes: list[bytes], counter: int, aes: bool, data: st.DataObject
    ) -> None:
        """Whatever the slab held before: another size, another peer, another counter."""
        suite = AES_GCM if aes else CHACHA
        slab = Slab()
        for whole in data.draw(st.lists(st.sampled_from(wholes), min_size=1, max_size=8)):
            index = data.draw(st.sampled_from((2, 0xFFFFFFFF)))
            ours, theirs = (keypair(counter, index, suite) for _ in range(2))
            expected = sealed_as_values(whole, theirs)
            self.assertEqual(expected, sealed_there(held(whole, slab), ours))
            self.assertEqual(theirs.counter, ours.counter)
            counter = min(ours.counter, 2**64 - 2**14)

    def test_lowest_byte(self) -> None:
        """The lowest byte of the counter runs over between, and inside, super-packets."""
        slab = Slab()
        for size in 40_000, 20_000, 40_000:
            whole = frame(ip4(TCP, tcp(bytes(size))), 1000)
            for counter in (*range(200, 261, 5), 255, 256, 0xFFFE, 0xFFFFFF, 2**32 - 3, 7):
                self.assertEqual(
                    sealed_as_values(whole, keypair(counter)),
                    sealed_there(held(whole, slab), keypair(counter)),
                )

    def test_many_sizes(self) -> None:
        """More of them than views are kept for."""
        slab = Slab()
        for size in (*range(1000, 1000 + 2 * MOST_LAYOUTS), 1000):
            whole = frame(ip6(TCP, tcp(bytes(20_000))), size)
            self.assertEqual(
                sealed_as_values(whole, keypair()), sealed_there(held(whole, slab), keypair())
            )

    def test_largest(self) -> None:
        """One of all the bytes there are, and one of as many datagrams as are sealed here."""
        for whole in (
            frame(ip4(TCP, tcp(bytes(65_535 - 40))), 1000),
            frame(ip4(TCP, tcp(bytes(65_535 - 40))), 65_495 // 2),
            frame(ip4(TCP, tcp(bytes(MOST * 500))), 500),
            frame(ip6(UDP, udp(bytes(64 * 1000))), 1000),
        ):
            self.assertLessEqual(len(whole), ROOM)
            self.assertEqual(
                sealed_as_values(whole, keypair()), sealed_there(held(whole), keypair())
            )

    def test_used_up(self) -> None:
        """A keypair that has not enough counters left seals nothing, and uses none."""
        whole = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        ours = keypair(REJECT_AFTER_MESSAGES - 9)
        slab = held(whole)
        shape = slab.shape(0)
        assert shape is not None
        self.assertIsNone(ours.seal_slab(slab, shape))
        self.assertEqual(REJECT_AFTER_MESSAGES - 9, ours.counter)
        self.assertEqual(whole, slab.frame())
        ours.counter -= 1
        self.assertIsNotNone(ours.seal_slab(slab, shape))


class ShapeTests(SynchronousTestCase):
    """What is sealed here is what the other way makes one run of."""

    @given(super_packets(), st.sampled_from((0, 1420)))
    def test_as_values(self, whole: bytes, mtu: int) -> None:
        items = outgoing([whole], mtu).items
        shape = held(whole).shape(mtu)
        if shape is None:
            return
        self.assertEqual([Run], [type(each) for each in items])

    def test_not_here(self) -> None:
        """Neither a whole packet, nor one that cannot be cut so, nor too many, nor too large."""
        for whole in (
            b"",
            b"\x01" * 9,
            PLAIN + ip4(TCP, tcp(bytes(500))),
            frame(ip4(TCP, tcp(bytes(9500), flags=SYN)), 1000),
            frame(ip4(TCP, tcp(bytes(48 * (MOST + 1)))), 48),
            frame(ip4(TCP, tcp(bytes(9500))), 1000)[:-1],
            frame(ip4(TCP, tcp(bytes(9500))), 1000) + b"\0",
        ):
            self.assertIsNone(held(whole).shape(0))
        whole = frame(ip4(TCP, tcp(bytes(9500))), 1000)
        self.assertIsNone(held(whole).shape(1039))
        self.assertIsNotNone(held(whole).shape(1040))


class SealedTests(SynchronousTestCase):
    """Datagrams in a buffer."""

    def test_sequence(self) -> None:
        sealed = Sealed(memoryview(b"aabbc"), 2)
        self.assertEqual([b"aa", b"bb", b"c"], list(sealed))
        self.assertEqual((3, b"bb", [b"bb", b"c"]), (len(sealed), sealed[1], sealed[1:]))

    @given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 60), st.integers(1, 20))
    def test_pieces(self, total: int, size: int, most: int, count: int) -> None:
        """In order, each as large as it may be, and of one datagram at least."""
        sealed = Sealed(memoryview(bytes(range(200)))[:total], size)
        pieces = sealed.pieces(most, count)
        self.assertEqual(list(sealed), [each for piece in pieces for each in piece])
        for piece in pieces:
            self.assertTrue(len(piece) == 1 or len(piece.data) <= most)
            self.assertLessEqual(len(piece), count)
        for piece in pieces[:-1]:
            self.assertTrue(len(piece) == count or len(piece.data) + size > most)
