"""Two suites: each agrees with itself, and neither with the other."""

from __future__ import annotations

from itertools import permutations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import REJECT_AFTER_MESSAGES, Keypair, Refused
from pyvpn.crypto.noise import NO_PSK, TransportKeys, open_static
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.wire.datagram import DATA, DATA_HEADER, OFFLOAD, Initiation, Response
from pyvpn.wire.packed import Packed
from tests.crypto.parties import ANNA, BOB, BOTH, answer, bytes32, initiate, opened, pair
from tests.crypto.test_keypair import WHOLE, run_of

# McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 13 and 14: a key
# of zeros, a nonce of zeros, nothing and then 16 zeros.
ZEROS = [
    (b"", "530f8afbc74536b9a963b4f1c4cb738b"),
    (bytes(16), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
]

COUNTERS = st.integers(0, REJECT_AFTER_MESSAGES - 10)  # a run of ten fits


def alone(suite: Suite, counter: int = 0) -> Keypair:
    """A keypair that seals with a key of zeros, and opens what it seals."""
    keypair = Keypair(1, TransportKeys(bytes(32), bytes(32), 1, suite), True, 0.0)
    keypair.counter = counter
    return keypair


def batch_of(datagrams: list[bytes]) -> Packed:
    """These, as if received as one; all but the last are as long as the first."""
    packed, whole = Packed(), b"".join(datagrams)
    packed.buffer[: len(whole)] = whole
    packed.take(len(whole), len(datagrams[0]))
    return packed


class NonceTests(SynchronousTestCase):
    """Which nonce a counter gives, and that the datagram's is the same in both suites."""

    def test_exact(self) -> None:
        """Four zeros, and the counter: as WireGuard has it, and as Noise has it for AES-GCM."""
        number = 0x0102030405060708
        self.assertEqual("000000000807060504030201", CHACHA.nonce.pack(number).hex())
        self.assertEqual("000000000102030405060708", AES_GCM.nonce.pack(number).hex())

    def test_published(self) -> None:
        """The first packet under a key of zeros is the published case of AES-GCM."""
        for plain, sealed in ZEROS:
            (datagram,) = alone(AES_GCM).seal([plain], 0)
            self.assertEqual("04000000010000000000000000000000" + sealed, datagram.hex())

    def test_names(self) -> None:
        """The names of both are those of Noise."""
        self.assertEqual(
            [b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", b"Noise_IKpsk2_25519_AESGCM_BLAKE2s"],
            [suite.construction for suite in BOTH],
        )

    @given(COUNTERS)
    def test_any_counter(self, counter: int) -> None:
        """What is sealed opens, by each way in, with the cipher of the suite and that nonce."""
        for suite, cipher, order in (
            (CHACHA, ChaCha20Poly1305, "little"),
            (AES_GCM, AESGCM, "big"),
        ):
            nonce = bytes(4) + counter.to_bytes(8, order)  # type: ignore[arg-type]
            (datagram,) = alone(suite, counter).seal([bytes(16)], 0)
            self.assertEqual(DATA_HEADER.pack(4, 1, counter), datagram[:16])
            self.assertEqual(cipher(bytes(32)).encrypt(nonce, bytes(16), None), datagram[16:])
            self.assertEqual(bytes(16), alone(suite).open(datagram))
            self.assertEqual(bytes(16), alone(suite).receive(datagram))
            self.assertEqual([bytes(16)], alone(suite).receive_all([datagram]))

    @settings(deadline=None)
    @given(COUNTERS)
    def test_any_run(self, counter: int) -> None:
        """So do the datagrams of a run, together, and one by one when one is damaged."""
        for suite, cipher, order in (
            (CHACHA, ChaCha20Poly1305, "little"),
            (AES_GCM, AESGCM, "big"),
        ):
            datagrams = alone(suite, counter).seal_run(run_of(WHOLE))
            nonce = bytes(4) + counter.to_bytes(8, order)  # type: ignore[arg-type]
            kind = OFFLOAD.to_bytes(4, "little")
            first = cipher(bytes(32)).decrypt(nonce, datagrams[0][16:], kind)
            counters, payloads, refused = alone(suite).receive_run(datagrams)
            self.assertEqual((first, []), (payloads[0], refused))
            self.assertEqual(list(range(counter, counter + len(datagrams))), counters)
            datagrams[1] = datagrams[1][:-1] + bytes((datagrams[1][-1] ^ 1,))
            again = alone(suite).receive_run(datagrams)
            self.assertEqual((payloads[:1] + payloads[2:], [Refused.TAG]), again[1:])

    @settings(deadline=None)
    @given(COUNTERS, st.integers(0, 9))
    def test_any_batch(self, counter: int, damaged: int) -> None:
        """So do those that came as one; where one is damaged, all are as they came."""
        for suite in BOTH:
            for kind in DATA, OFFLOAD:
                ours = alone(suite, counter)
                datagrams = (
                    ours.seal([bytes([n]) * 256 for n in range(10)], 0)
                    if kind == DATA
                    else ours.seal_run(run_of(WHOLE))
                )
                packed = batch_of(datagrams)
                expected = list(range(counter, counter + 10))
                self.assertEqual(expected, alone(suite).receive_packed(packed, kind))
                self.assertEqual(datagrams, list(packed))
                payloads = (
                    alone(suite).receive_all(datagrams)
                    if kind == DATA
                    else alone(suite).receive_run(datagrams)[1]
                )
                self.assertEqual(payloads, packed.payloads())
                bad = datagrams[damaged]
                datagrams[damaged] = bad[:-1] + bytes((bad[-1] ^ 1,))
                packed = batch_of(datagrams)
                self.assertEqual([], alone(suite).receive_packed(packed, kind))
                self.assertEqual(datagrams, list(packed))

    def test_replayed(self) -> None:
        """The window knows the counter, and not the nonce: it is as in the datagram."""
        for suite in BOTH:
            ours, theirs = alone(suite, 255), alone(suite)
            datagrams = ours.seal([bytes(16)] * 2, 0)
            self.assertEqual([bytes(16)] * 2, theirs.receive_all(datagrams))
            self.assertEqual([Refused.REPLAY] * 2, theirs.receive_all(datagrams))
            self.assertEqual(256, theirs.window.highest)


class AgreementTests(SynchronousTestCase):
    """Handshakes of either suite."""

    def test_round_trip(self) -> None:
        """Either suite takes packets both ways, and both ends know which it is."""
        for suite in BOTH:
            anna, bob = pair(suite)
            self.assertEqual((suite, suite), (anna.suite, bob.suite))
            for one, other in ((anna, bob), (bob, anna)):
                self.assertEqual([bytes(32)] * 3, other.receive_all(one.seal([bytes(32)] * 3, 0)))

    def test_not_asked_for(self) -> None:
        """Who takes the one suite does not open an initiation of the other."""
        for suite, other in permutations(BOTH):
            message = Initiation.parse(initiate(suite=suite)[1])
            self.assertIsNone(open_static(message, BOB, (other,)))
            self.assertIsNone(open_static(message, BOB, ()))
            half = open_static(message, BOB, (other, suite))
            assert half is not None
            self.assertEqual((suite, ANNA.public), (half.suite, half.peer_public))

    def test_by_default(self) -> None:
        """Who does not say otherwise is ordinary WireGuard, as is the oldest word on it."""
        self.assertIsNone(open_static(Initiation.parse(initiate(suite=AES_GCM)[1]), BOB))
        self.assertEqual(CHACHA, TransportKeys(b"", b"", 0).suite)

    def test_another_answer(self) -> None:
        """An answer of the other suite is none, and the handshake waits on."""
        for suite, other in permutations(BOTH):
            state, initiation = initiate(suite=suite)
            wrong = answer(opened(initiate(suite=other)[1]))[1]
            self.assertIsNone(state.finish(Response.parse(wrong), ANNA, NO_PSK))
            right = answer(opened(initiation))[1]
            keys = state.finish(Response.parse(right), ANNA, NO_PSK)
            assert keys is not None
            self.assertEqual(suite, keys.suite)

    def test_other_cipher(self) -> None:
        """With the same keys even, what one suite seals the other does not open."""
        one, other = bytes32("one"), bytes32("other")
        for suite, another in permutations(BOTH):
            ours = Keypair(1, TransportKeys(one, other, 2, suite), True, 0.0)
            theirs = Keypair(2, TransportKeys(other, one, 1, another), False, 0.0)
            (datagram,) = ours.seal([bytes(16)], 0)
            self.assertEqual(Refused.TAG, theirs.receive(datagram))
            self.assertEqual([Refused.TAG], theirs.receive_all([datagram]))
            run = ours.seal_run(run_of(WHOLE))
            self.assertEqual(([], [], [Refused.TAG] * len(run)), theirs.receive_run(run))
