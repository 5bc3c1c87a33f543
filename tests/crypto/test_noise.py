"""The handshake: two parties agree, and nobody else gets anywhere."""

from __future__ import annotations

import hmac

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.noise import NO_PSK, InitiatorHandshake, kdf1, kdf2, kdf3, open_static
from pyvpn.crypto.suite import CHACHA, IDENTIFIER
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import Misuse
from pyvpn.wire.datagram import Initiation, Response
from tests.crypto.parties import (
    ANNA,
    ANNAS_INDEX,
    BOB,
    BOBS_INDEX,
    EVE,
    LOW_ORDER,
    PSK,
    TIMESTAMP,
    answer,
    bytes32,
    initiate,
    opened,
    shared,
)

# wireguard-go, device/kdf_test.go: key, input, three outputs.
KDF_CASES = [
    (
        b"test-key",
        b"test-input",
        "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
        "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
        "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
    ),
    (
        b"wireguard",
        b"wireguard",
        "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
        "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
        "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
    ),
    (
        b"",
        b"",
        "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
        "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
        "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
    ),
]


class KeyChainTests(SynchronousTestCase):
    """How keys come out of keys."""

    def test_constants(self) -> None:
        """Every handshake begins with the values that the protocol's name gives."""
        self.assertEqual((37, 34), (len(CHACHA.construction), len(IDENTIFIER)))
        self.assertEqual(
            "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36", CHACHA.chain.hex()
        )
        self.assertEqual(
            "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3", CHACHA.hash.hex()
        )

    def test_published(self) -> None:
        """The three published cases come out, one, two or three keys at a time."""
        for key, data, *expected in KDF_CASES:
            keys = tuple(bytes.fromhex(output) for output in expected)
            self.assertEqual(keys[0], kdf1(key, data))
            self.assertEqual(keys[:2], kdf2(key, data))
            self.assertEqual(keys, kdf3(key, data))

    @settings(deadline=None)
    @given(st.binary(max_size=64), st.binary(max_size=200))
    def test_same_as_the_standard_library(self, key: bytes, data: bytes) -> None:
        """HKDF as RFC 5869 writes it, over Python's own HMAC, gives the same."""
        secret = hmac.digest(key, data, "blake2s")
        expected, block = [], b""
        for number in (1, 2, 3):
            block = hmac.digest(secret, block + bytes((number,)), "blake2s")
            expected.append(block)
        self.assertEqual(tuple(expected), kdf3(key, data))
        self.assertEqual(tuple(expected[:2]), kdf2(key, data))
        self.assertEqual(expected[0], kdf1(key, data))


class AgreementTests(SynchronousTestCase):
    """Two parties that belong together."""

    def test_whole_handshake(self) -> None:
        """Both get the same two keys, crosswise, and each the other's index."""
        for psk in (NO_PSK, PSK):
            state, initiation = initiate()
            self.assertEqual(148, len(initiation))
            half = open_static(Initiation.parse(initiation), BOB)
            assert half is not None
            self.assertEqual(ANNA.public, half.peer_public)
            self.assertEqual(TIMESTAMP, half.open_timestamp(shared(BOB, ANNA)))
            bobs, response = answer(half, psk)
            self.assertEqual(92, len(response))
            annas = state.finish(Response.parse(response), ANNA, psk)
            assert annas is not None
            self.assertEqual((bobs.receive, bobs.send), (annas.send, annas.receive))
            self.assertNotEqual(annas.send, annas.receive)
            self.assertEqual((BOBS_INDEX, ANNAS_INDEX), (annas.remote_index, bobs.remote_index))

    @settings(deadline=None)
    @given(
        st.lists(st.binary(min_size=32, max_size=32), min_size=5, max_size=5),
        st.binary(min_size=12, max_size=12),
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    )
    def test_any_choices(
        self, keys: list[bytes], timestamp: bytes, indices: tuple[int, int]
    ) -> None:
        """It does not depend on what anybody chose: any 32 bytes are a key, any 12 a time."""
        anna, bob, psk = StaticKey(keys[0]), StaticKey(keys[1]), keys[2]
        common = shared(anna, bob)
        begun = InitiatorHandshake.begin(anna, bob.public, common, indices[0], keys[3], timestamp)
        assert begun is not None
        state, message = begun
        half = open_static(Initiation.parse(message + bytes(32)), bob)
        assert half is not None
        self.assertEqual(timestamp, half.open_timestamp(shared(bob, anna)))
        answered = half.respond(half.peer_public, psk, indices[1], keys[4])
        assert answered is not None
        annas = state.finish(Response.parse(answered[1] + bytes(32)), anna, psk)
        assert annas is not None
        self.assertEqual((annas.send, annas.receive), (answered[0].receive, answered[0].send))

    def test_fresh_keys(self) -> None:
        """Another ephemeral key on either side gives other transport keys."""
        found = set()
        for ephemeral in (b"one", b"two"):
            half = opened(initiate()[1])
            answered = half.respond(
                ANNA.public, PSK, BOBS_INDEX, bytes32(f"ephemeral {ephemeral!r}")
            )
            assert answered is not None
            found |= {answered[0].send, answered[0].receive}
        self.assertEqual(4, len(found))

    def test_one_at_a_time(self) -> None:
        """A response answers one handshake, and its twin another."""
        state, initiation = initiate()
        begun = InitiatorHandshake.begin(
            ANNA, BOB.public, shared(ANNA, BOB), ANNAS_INDEX, bytes32("another"), TIMESTAMP
        )
        assert begun is not None
        _, response = answer(opened(initiation))
        self.assertIsNone(begun[0].finish(Response.parse(response), ANNA, NO_PSK))
        self.assertIsNotNone(state.finish(Response.parse(response), ANNA, NO_PSK))


class RefusalTests(SynchronousTestCase):
    """Whoever does not belong here."""

    def test_somebody_elses_initiation(self) -> None:
        """An initiation to Bob means nothing to Eve."""
        message = Initiation.parse(initiate(ANNA, BOB)[1])
        self.assertIsNone(open_static(message, EVE))
        self.assertIsNotNone(open_static(message, BOB))

    def test_claimed_key(self) -> None:
        """Anybody can name Anna's public key; the timestamp shows that it is not Anna."""

        class Impostor(StaticKey):
            """Eve's private key, Anna's public one."""

        impostor = Impostor(EVE.private)
        impostor.public = ANNA.public
        half = open_static(Initiation.parse(initiate(impostor, BOB)[1]), BOB)
        assert half is not None
        self.assertEqual(ANNA.public, half.peer_public)
        self.assertIsNone(half.open_timestamp(shared(BOB, ANNA)))
        self.assertRaises(Misuse, half.respond, ANNA.public, NO_PSK, 1, bytes32("x"))

    def test_wrong_peer_then_right(self) -> None:
        """A timestamp that did not open leaves the initiation as it was."""
        half = open_static(Initiation.parse(initiate()[1]), BOB)
        assert half is not None
        self.assertIsNone(half.open_timestamp(shared(BOB, EVE)))
        self.assertEqual(TIMESTAMP, half.open_timestamp(shared(BOB, ANNA)))
        self.assertIsNone(half.open_timestamp(shared(BOB, EVE)))

    def test_wrong_preshared_key(self) -> None:
        """With another preshared key, or on one side only, there are no keys."""
        for annas, bobs in ((PSK, NO_PSK), (NO_PSK, PSK), (PSK, bytes32("another"))):
            state, initiation = initiate()
            _, response = answer(opened(initiation), bobs)
            self.assertIsNone(state.finish(Response.parse(response), ANNA, annas))
            # ... and the handshake waits on, undisturbed.
            self.assertIsNotNone(state.finish(Response.parse(response), ANNA, bobs))

    def test_wrong_responder(self) -> None:
        """Only who holds Bob's key can answer what was for Bob."""
        state, _ = initiate(ANNA, BOB)
        _, for_eve = initiate(ANNA, EVE)
        _, response = answer(opened(for_eve, EVE))
        self.assertIsNone(state.finish(Response.parse(response), ANNA, NO_PSK))

    def test_wrong_index(self) -> None:
        """A response names our index, or it is not for this handshake."""
        state, initiation = initiate()
        message = Response.parse(answer(opened(initiation))[1])
        other = message._replace(receiver=message.receiver ^ 1)
        self.assertIsNone(state.finish(other, ANNA, NO_PSK))
        self.assertIsNotNone(state.finish(message, ANNA, NO_PSK))

    def test_same_response_again(self) -> None:
        """A response is good for one pair of keys; then nothing of the handshake is left."""
        state, initiation = initiate()
        message = Response.parse(answer(opened(initiation))[1])
        self.assertIsNotNone(state.finish(message, ANNA, NO_PSK))
        self.assertIsNone(state.finish(message, ANNA, NO_PSK))
        self.assertEqual(
            [b"", None, b"", ANNAS_INDEX, CHACHA],
            [getattr(state, name) for name in state.__slots__],
        )

    def test_answered_once(self) -> None:
        """An initiation is answered after its sender is proved, and not again."""
        half = open_static(Initiation.parse(initiate()[1]), BOB)
        assert half is not None
        arguments = (ANNA.public, NO_PSK, BOBS_INDEX, bytes32("ephemeral"))
        self.assertRaises(Misuse, half.respond, *arguments)
        half.open_timestamp(shared(BOB, ANNA))
        self.assertIsNotNone(half.respond(*arguments))
        self.assertRaises(Misuse, half.respond, *arguments)


class LowOrderTests(SynchronousTestCase):
    """Points with which everybody has the same in common."""

    def test_peer(self) -> None:
        """No handshake begins with a peer whose key is such a point."""
        for point in LOW_ORDER:
            for common in (bytes(32), bytes32("anything")):
                begun = InitiatorHandshake.begin(
                    ANNA, point, common, ANNAS_INDEX, bytes32("ephemeral"), TIMESTAMP
                )
                self.assertIsNone(begun)

    def test_nothing_in_common(self) -> None:
        """Zero as what two static keys have in common is refused by both sides."""
        begun = InitiatorHandshake.begin(
            ANNA, BOB.public, bytes(32), ANNAS_INDEX, bytes32("ephemeral"), TIMESTAMP
        )
        self.assertIsNone(begun)
        half = open_static(Initiation.parse(initiate()[1]), BOB)
        assert half is not None
        self.assertIsNone(half.open_timestamp(bytes(32)))

    def test_ephemeral_of_an_initiation(self) -> None:
        """An initiation with such an ephemeral key does not open."""
        message = Initiation.parse(initiate()[1])
        for point in LOW_ORDER:
            self.assertIsNone(open_static(message._replace(ephemeral=point), BOB))

    def test_ephemeral_of_a_response(self) -> None:
        """Nor does such a response, and the handshake waits on."""
        state, initiation = initiate()
        message = Response.parse(answer(opened(initiation))[1])
        for point in LOW_ORDER:
            self.assertIsNone(state.finish(message._replace(ephemeral=point), ANNA, NO_PSK))
        self.assertIsNotNone(state.finish(message, ANNA, NO_PSK))

    def test_peer_that_is_answered(self) -> None:
        """A peer on file with such a key gets no answer."""
        for point in LOW_ORDER:
            half = opened(initiate()[1])
            self.assertIsNone(half.respond(point, NO_PSK, BOBS_INDEX, bytes32("ephemeral")))
