"""Sealing and opening: every packet once, none twice, nothing beyond the limits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import (
    KEEPALIVE_TIMEOUT,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    Keypair,
    Refused,
)
from pyvpn.crypto.noise import TransportKeys
from pyvpn.crypto.replay import WINDOW
from pyvpn.wire.datagram import DATA, OFFLOAD, counter_of, kind_of, receiver_of
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.rebuild import rebuild
from pyvpn.wire.segments import cut
from tests.crypto.parties import ANNAS_INDEX, BOBS_INDEX, bytes32, flipped, pair
from tests.wire.plain_segments import TCP, frame, ip4, tcp


class SealTests(SynchronousTestCase):
    """Packets into datagrams."""

    def test_constants(self) -> None:
        """The limits are those of the protocol's paper."""
        self.assertEqual(1 << 60, REKEY_AFTER_MESSAGES)
        self.assertEqual(18_446_744_073_709_543_423, REJECT_AFTER_MESSAGES)
        self.assertEqual((120.0, 180.0), (REKEY_AFTER_TIME, REJECT_AFTER_TIME))
        self.assertEqual((5.0, 90.0, 10.0), (REKEY_TIMEOUT, REKEY_ATTEMPT_TIME, KEEPALIVE_TIMEOUT))

    def test_header(self) -> None:
        """A datagram names the other side's index, and counters grow by one from zero."""
        anna = pair().anna
        datagrams = anna.seal([b"a", b"b"], 0) + anna.seal([b"c"], 0)
        self.assertEqual([0, 1, 2], [counter_of(datagram) for datagram in datagrams])
        self.assertEqual({BOBS_INDEX}, {receiver_of(datagram) for datagram in datagrams})
        self.assertEqual({DATA}, {kind_of(datagram) for datagram in datagrams})
        self.assertEqual(
            (ANNAS_INDEX, BOBS_INDEX, 3), (anna.local_index, anna.remote_index, anna.counter)
        )

    def test_of_its_handshake(self) -> None:
        """A keypair remembers who began the handshake, and when it was done."""
        keypair = Keypair(1, TransportKeys(bytes32("a"), bytes32("b"), 2), True, 17.5)
        self.assertEqual((True, 17.5), (keypair.initiator, keypair.created))
        self.assertFalse(pair().bob.initiator)

    def test_keepalive(self) -> None:
        """An empty packet is 32 bytes, and opens to nothing, which is not a refusal."""
        anna, bob = pair()
        (datagram,) = anna.seal([b""], 1420)
        self.assertEqual(32, len(datagram))
        self.assertEqual(b"", bob.receive(datagram))

    def test_nothing_to_seal(self) -> None:
        """No packets are no datagrams, and no counter is used."""
        anna = pair().anna
        self.assertEqual([], anna.seal([], 1420))
        self.assertEqual(0, anna.counter)

    def test_padding(self) -> None:
        """A packet is padded to sixteen bytes, but not beyond the MTU."""
        anna, bob = pair()
        for size, mtu, expected in (
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (17, 1420, 32),
            (1408, 1420, 1408),
            (1409, 1420, 1420),
            (1419, 1420, 1420),
            (1420, 1420, 1420),
            (1420, 0, 1424),
            (9001, 0, 9008),
            # Beyond the MTU, like the last piece of it:
            (1421, 1420, 1436),
            (1424, 1420, 1436),
            (2829, 1420, 2840),
            (2840, 1420, 2840),
        ):
            packet = b"\xff" * size
            (datagram,) = anna.seal([packet], mtu)
            self.assertEqual(32 + expected, len(datagram), (size, mtu))
            self.assertEqual(packet + bytes(expected - size), bob.receive(datagram))

    def test_last_two(self) -> None:
        """Two before the limit two more packets are sealed, and then never one again."""
        anna, bob = pair()
        anna.counter = REJECT_AFTER_MESSAGES - 2
        datagrams = anna.seal([b"a", b"b", b"c"], 0)
        self.assertEqual(
            [REJECT_AFTER_MESSAGES - 2, REJECT_AFTER_MESSAGES - 1],
            [counter_of(datagram) for datagram in datagrams],
        )
        self.assertEqual([b"a", b"b"], [self.text(bob.receive(it)) for it in datagrams])
        for _ in range(3):
            self.assertEqual([], anna.seal([b"d", b"e"], 0))
        self.assertEqual(REJECT_AFTER_MESSAGES, anna.counter)

    def test_beyond_the_limit(self) -> None:
        """What is sealed with a counter from the limit on is refused by the receiver, too."""
        anna, bob = pair()
        for counter, expected in (
            (REJECT_AFTER_MESSAGES, Refused.REPLAY),
            (2**64 - 1, Refused.REPLAY),
            (REJECT_AFTER_MESSAGES - 1, b"x".ljust(16, b"\0")),
        ):
            sealed = anna._encrypt(
                bytes(4) + counter.to_bytes(8, "little"), b"x".ljust(16, b"\0"), None
            )
            header = b"\4\0\0\0\0\0\0\0" + counter.to_bytes(8, "little")
            self.assertEqual(expected, bob.receive(header + sealed))

    def test_after_a_mistake(self) -> None:
        """A counter is spent before it is used: an exception halfway does not bring it back."""
        anna = pair().anna
        self.assertRaises(TypeError, anna.seal, [b"a", None], 0)
        self.assertEqual([2], [counter_of(datagram) for datagram in anna.seal([b"b"], 0)])

    @settings(deadline=None)
    @given(
        st.lists(st.binary(max_size=100) | st.integers(0, 3000).map(bytes), max_size=8),
        st.just(0) | st.integers(1, 3000) | st.just(1420),
        st.integers(0, REJECT_AFTER_MESSAGES),
    )
    def test_round_trip(self, packets: list[bytes], mtu: int, counter: int) -> None:
        """Any packets at any MTU come back, each with fewer than sixteen zeros behind it."""
        anna, bob = pair()
        anna.counter = counter
        datagrams = anna.seal(packets, mtu)
        self.assertEqual(min(len(packets), REJECT_AFTER_MESSAGES - counter), len(datagrams))
        for number, (packet, datagram) in enumerate(zip(packets, datagrams, strict=False)):
            self.assertEqual(counter + number, counter_of(datagram))
            opened = bob.receive(datagram)
            assert isinstance(opened, bytes)
            self.assertEqual(len(opened) + 32, len(datagram))
            self.assertEqual(packet, opened[: len(packet)])
            self.assertEqual(bytes(len(opened) - len(packet)), opened[len(packet) :])
            self.assertLess(len(opened) - len(packet), 16)
            if mtu == 0:
                self.assertEqual(0, len(opened) % 16)
            elif len(packet) <= mtu:
                self.assertLessEqual(len(opened), mtu)
                self.assertTrue(len(opened) % 16 == 0 or len(opened) == mtu)

    def text(self, opened: bytes | Refused) -> bytes:
        """What was opened, without padding."""
        assert isinstance(opened, bytes)
        return opened.rstrip(b"\0")


class OpenTests(SynchronousTestCase):
    """Datagrams into packets."""

    def test_both_ways(self) -> None:
        """Each opens what the other sealed, and not what it sealed itself."""
        anna, bob = pair()
        for one, other in ((anna, bob), (bob, anna)):
            (datagram,) = one.seal([b"to and fro"], 0)
            self.assertEqual(Refused.TAG, one.receive(datagram))
            self.assertEqual(b"to and fro".ljust(16, b"\0"), other.receive(datagram))

    def test_other_keys(self) -> None:
        """A keypair of another handshake opens nothing."""
        stranger = Keypair(1, TransportKeys(bytes32("a"), bytes32("b"), 2), True, 0.0)
        (datagram,) = pair().anna.seal([b"secret"], 0)
        self.assertEqual(Refused.TAG, stranger.receive(datagram))
        self.assertIsNone(stranger.open(datagram))

    def test_once(self) -> None:
        """A datagram is received once; opened, which asks no window, it can be again."""
        anna, bob = pair()
        (datagram,) = anna.seal([b"once"], 0)
        packet = b"once".ljust(16, b"\0")
        self.assertEqual(packet, bob.open(datagram))
        self.assertEqual(packet, bob.receive(datagram))
        self.assertEqual(Refused.REPLAY, bob.receive(datagram))
        self.assertEqual(packet, bob.open(datagram))

    @given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40))
    def test_many_at_once(self, picked: list[tuple[int, bool]]) -> None:
        """A run is received as its messages are one by one: once each, damage and all."""
        anna, bob = pair()
        other = pair().bob
        sealed = anna.seal([bytes([n]) * n for n in range(31)], 0)
        run = [flipped(sealed[n], 200) if bad else sealed[n] for n, bad in picked] + sealed
        self.assertEqual([other.receive(each) for each in run], bob.receive_all(run))
        self.assertEqual(other.window.highest, bob.window.highest)
        self.assertEqual([Refused.REPLAY] * 31, bob.receive_all(sealed))
        self.assertEqual([], bob.receive_all([]))

    def test_forged_counter(self) -> None:
        """A counter that nobody sealed does not move the window, however high it is."""
        anna, bob = pair()
        first, second = anna.seal([b"one", b"two"], 0)
        bob.receive(first)
        for counter in (0, 1, 2, 9000, REJECT_AFTER_MESSAGES - 1, 2**64 - 1):
            if counter != 1:
                forged = second[:8] + counter.to_bytes(8, "little") + second[16:]
                self.assertEqual(Refused.TAG, bob.receive(forged))
        self.assertEqual(0, bob.window.highest)
        self.assertEqual(b"two".ljust(16, b"\0"), bob.receive(second))

    def test_out_of_order(self) -> None:
        """Datagrams come in any order within the window; older ones are refused."""
        anna, bob = pair()
        datagrams = anna.seal([b"x"] * (WINDOW + 2), 0)
        self.assertNotIsInstance(bob.receive(datagrams[-1]), Refused)
        self.assertEqual(Refused.REPLAY, bob.receive(datagrams[0]))
        self.assertNotIsInstance(bob.receive(datagrams[1]), Refused)

    def test_every_bit(self) -> None:
        """With one bit of counter, packet or tag changed the tag is wrong, and that is all."""
        anna, bob = pair()
        (datagram,) = anna.seal([b"a packet of thirty-two bytes, or"], 0)
        self.assertEqual(64, len(datagram))
        for bit in range(64, 64 * 8):
            self.assertEqual(Refused.TAG, bob.receive(flipped(datagram, bit)))
            self.assertIsNone(bob.open(flipped(datagram, bit)))
        self.assertEqual(-1, bob.window.highest)
        self.assertNotIsInstance(bob.receive(datagram), Refused)

    @settings(deadline=None)
    @given(st.binary(min_size=32, max_size=200))
    def test_junk(self, junk: bytes) -> None:
        """Any bytes as long as a data message are a wrong tag, never an exception."""
        self.assertEqual(Refused.TAG, pair().bob.receive(junk))


WHOLE = frame(ip4(TCP, tcp(bytes(9500))), 1000)


def run_of(whole: bytes) -> Run:
    """Return the run that *whole* becomes."""
    (run,) = outgoing([whole], 1420).items
    assert isinstance(run, Run)
    return run


class RunTests(SynchronousTestCase):
    """Super-packets in runs of datagrams."""

    def test_round_trip(self) -> None:
        """A run opens to what it was; its counters follow those of packets, and lead on."""
        anna, bob = pair()
        anna.seal([b"before"], 0)
        datagrams = anna.seal_run(run_of(WHOLE))
        counters, payloads, refused = bob.receive_run(datagrams)

        self.assertEqual((list(range(1, 11)), []), (counters, refused))
        (packet,) = rebuild(counters, payloads).packets
        self.assertEqual(cut(WHOLE), packet.cut())
        self.assertEqual(counters, [counter_of(datagram) for datagram in datagrams])
        self.assertEqual({BOBS_INDEX}, {receiver_of(datagram) for datagram in datagrams})
        self.assertEqual({bytes((OFFLOAD, 0, 0, 0))}, {each[:4] for each in datagrams})
        self.assertEqual(32 + 1040, max(map(len, datagrams)))
        self.assertEqual(11, anna.counter)

    def test_each_once(self) -> None:
        """Forged ones and those that come again are told apart, and harm no other."""
        anna, bob = pair()
        datagrams = anna.seal_run(run_of(WHOLE))
        sent = [*datagrams[:4], flipped(datagrams[4], 200), datagrams[2], *datagrams[5:]]
        counters, payloads, refused = bob.receive_run(sent)

        self.assertEqual([0, 1, 2, 3, 5, 6, 7, 8, 9], counters)
        self.assertEqual([Refused.TAG, Refused.REPLAY], refused)
        self.assertEqual([4, 5], [each.segments for each in rebuild(counters, payloads).packets])
        self.assertEqual(
            ([], [], [Refused.REPLAY] * 10), bob.receive_run(datagrams[:4] * 2 + datagrams[8:])
        )
        self.assertEqual(([4], []), bob.receive_run([datagrams[4]])[::2])

    def test_type_cannot_be_changed(self) -> None:
        """A packet does not open as part of a run, nor a part of a run as a packet."""
        anna, bob = pair()
        (packet,) = anna.seal(cut(WHOLE)[:1], 0)
        part = anna.seal_run(run_of(WHOLE))[0]

        self.assertEqual(
            ([], [], [Refused.TAG]), bob.receive_run([bytes((OFFLOAD,)) + packet[1:]])
        )
        self.assertEqual([Refused.TAG], bob.receive_all([bytes((DATA,)) + part[1:]]))
        self.assertIsInstance(bob.receive(packet), bytes)
        self.assertEqual([1], bob.receive_run([part])[0])

    def test_one_window(self) -> None:
        """Packets and runs share counters and window."""
        anna, bob = pair()
        datagrams = anna.seal_run(run_of(WHOLE))
        later = anna.seal([b"later"], 0)
        bob.window.accept(3)
        self.assertEqual([Refused.REPLAY], bob.receive_run(datagrams)[2])
        self.assertEqual([10], [counter_of(each) for each in later])

    def test_used_up(self) -> None:
        """A run of which not all can be sealed is not begun."""
        anna = pair().anna
        anna.counter = REJECT_AFTER_MESSAGES - 9
        self.assertEqual([], anna.seal_run(run_of(WHOLE)))
        self.assertEqual(REJECT_AFTER_MESSAGES - 9, anna.counter)
        anna.counter -= 1
        self.assertEqual(10, len(anna.seal_run(run_of(WHOLE))))
        self.assertEqual([], anna.seal([b""], 0))
