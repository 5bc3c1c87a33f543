"""The two filter programs, run by a machine of our own (test_udp_sockets: by the kernel)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.bpf import (
    ANSWER_SOCKET,
    DATA_SOCKET,
    KNOCK_SOCKET,
    LONGEST,
    MESSAGES,
    SO_ATTACH_FILTER,
    SPLIT,
    Shape,
    attach,
    junk_filter,
)
from pyvpn.wire.datagram import kind_of
from tests.net.bpf_machine import attached, run

HEADER = bytes(8)  # of UDP, which a socket's filter sees
JUNK = junk_filter(MESSAGES)

# Around every length that means something, the shortest and the longest.
LENGTHS = (0, 1, 3, 4, 5, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1452, LONGEST)
FIRST_WORDS = st.one_of(
    st.integers(0, 255).map(lambda kind: bytes([kind, 0, 0, 0])),
    st.binary(min_size=4, max_size=4),
)


def passes(program: tuple[object, ...], datagram: bytes) -> bool:
    return run(program, HEADER + datagram) != 0  # type: ignore[arg-type]  # instructions


class JunkFilterTests(SynchronousTestCase):
    """What may pass to us, and what is dropped before it costs a system call."""

    @given(FIRST_WORDS, st.sampled_from(LENGTHS) | st.integers(0, 2048))
    def test_agrees_with_the_protocol(self, word: bytes, length: int) -> None:
        """A datagram passes exactly if the protocol has such a message."""
        datagram = (word + bytes(length))[:length]

        self.assertEqual(kind_of(datagram) != 0, passes(JUNK, datagram))

    def test_every_type_and_length(self) -> None:
        """The same for every type there can be at every length that means something."""
        for kind in range(256):
            for length in LENGTHS:
                datagram = (bytes([kind, 0, 0, 0]) + bytes(length))[:length]

                self.assertEqual(kind_of(datagram) != 0, passes(JUNK, datagram), (kind, length))

    def test_reserved_bytes(self) -> None:
        """A message whose reserved bytes are not zero is junk."""
        self.assertTrue(passes(JUNK, bytes([4, 0, 0, 0]) + bytes(60)))
        for at in 1, 2, 3:
            word = bytearray([4, 0, 0, 0])
            word[at] = 1
            self.assertFalse(passes(JUNK, bytes(word) + bytes(60)))

    def test_type_with_a_meaning_in_the_reserved_bytes(self) -> None:
        """One more row lets a type pass that uses the three bytes, and no other."""
        program = junk_filter((*MESSAGES, Shape(7 << 24, 0xFF00_0000, 40, 1500)))

        for word in bytes([7, 0, 0, 0]), bytes([7, 1, 2, 255]):
            self.assertTrue(passes(program, word + bytes(36)))
            self.assertFalse(passes(program, word + bytes(35)))
            self.assertTrue(passes(program, word + bytes(1496)))
            self.assertFalse(passes(program, word + bytes(1497)))
            self.assertFalse(passes(JUNK, word + bytes(36)))
        self.assertFalse(passes(program, bytes([6, 0, 0, 0]) + bytes(36)))
        self.assertTrue(passes(program, bytes([1, 0, 0, 0]) + bytes(144)))

    def test_whole(self) -> None:
        """What passes passes whole."""
        self.assertGreaterEqual(run(JUNK, HEADER + bytes([4, 0, 0, 0]) + bytes(65_000)), 65_012)


class SplitTests(SynchronousTestCase):
    """Which of the three sockets gets a datagram."""

    def test_by_the_first_byte(self) -> None:
        """Types 4 and up are data, initiations knock, everything else answers."""
        for kind in range(256):
            wanted = DATA_SOCKET if kind >= 4 else ANSWER_SOCKET
            wanted = KNOCK_SOCKET if kind == 1 else wanted
            self.assertEqual(wanted, run(SPLIT, bytes([kind]) + bytes(147)))

    def test_cookie(self) -> None:
        """An initiation with a mac2 does not knock: its sender has been given a cookie."""
        initiation = bytes([1]) + bytes(range(131))
        self.assertEqual(KNOCK_SOCKET, run(SPLIT, initiation + bytes(16)))
        self.assertEqual(ANSWER_SOCKET, run(SPLIT, initiation + b"\x01" + bytes(15)))
        self.assertEqual(ANSWER_SOCKET, run(SPLIT, initiation + b"\0\0\0\x01" + bytes(12)))

    def test_too_short(self) -> None:
        """What is empty, or an initiation in its first byte only, does not get among the data."""
        self.assertEqual(KNOCK_SOCKET, run(SPLIT, b""))
        self.assertEqual(KNOCK_SOCKET, run(SPLIT, bytes([1]) + bytes(134)))


class AttachTests(SynchronousTestCase):
    """How the kernel is given a program."""

    def test_handed_over(self) -> None:
        """The kernel is told length and address of what was written down."""
        seen = []

        class Socket:
            def setsockopt(self, level: int, option: int, value: bytes) -> None:
                seen.append((level, option, attached(value)))

        attach(Socket(), SO_ATTACH_FILTER, JUNK)

        self.assertEqual([(1, 26, JUNK)], seen)
