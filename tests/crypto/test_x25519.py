"""Keys: in bytes, in text, and what two of them have in common."""

from __future__ import annotations

from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.x25519 import (
    StaticKey,
    clamp,
    exchange,
    key_from_base64,
    key_to_base64,
    public_of,
)
from tests.crypto.parties import ANNA, BOB, LOW_ORDER

KEYS = st.binary(min_size=32, max_size=32)

# RFC 7748 section 6.1: private and public keys of two, and their secret.
FIRST = (
    bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
    bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
)
SECOND = (
    bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"),
)
SECRET = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# Section 5.2: scalar, u-coordinate (the second with its highest bit set), product.
PRODUCTS = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]


class ExchangeTests(SynchronousTestCase):
    """What two keys have in common."""

    def test_published_pair(self) -> None:
        """The RFC's two keys have the RFC's public keys and secret."""
        for ours, theirs in ((FIRST, SECOND), (SECOND, FIRST)):
            key = StaticKey(ours[0])
            self.assertEqual(ours[1], public_of(ours[0]))
            self.assertEqual(ours[1], key.public)
            self.assertEqual(SECRET, key.shared(theirs[1]))

    def test_published_products(self) -> None:
        """The RFC's products come out, also of a coordinate whose highest bit is set."""
        for scalar, point, product in PRODUCTS:
            key = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
            self.assertEqual(bytes.fromhex(product), exchange(key, bytes.fromhex(point)))

    def test_published_chain(self) -> None:
        """A thousand products, each made of the two before it, end as the RFC says."""
        scalar = point = bytes((9,)).ljust(32, b"\0")
        for _ in range(1000):
            product = exchange(X25519PrivateKey.from_private_bytes(scalar), point)
            assert product is not None
            scalar, point = product, scalar
        self.assertEqual(
            "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51", scalar.hex()
        )

    def test_points_of_low_order(self) -> None:
        """Seven public keys (with either highest bit) have nothing in common with anybody."""
        for point in LOW_ORDER:
            for public in (point, point[:31] + bytes((point[31] ^ 0x80,))):
                for key in (ANNA, BOB):
                    self.assertIsNone(key.shared(public))
                    self.assertIsNone(exchange(key.key, public))

    @settings(deadline=None)
    @given(KEYS, KEYS)
    def test_both_sides(self, ours: bytes, theirs: bytes) -> None:
        """Both sides compute the same, of any two private keys."""
        one, other = StaticKey(ours), StaticKey(theirs)
        self.assertIsNotNone(one.shared(other.public))
        self.assertEqual(one.shared(other.public), other.shared(one.public))

    @settings(deadline=None)
    @given(KEYS, KEYS)
    def test_any_point(self, private: bytes, public: bytes) -> None:
        """Whatever 32 bytes come as a public key: a secret that is not zero, or none."""
        result = StaticKey(private).shared(public)
        self.assertTrue(result is None or (len(result) == 32 and any(result)))


class StaticKeyTests(SynchronousTestCase):
    """A private key as ``wg`` has it."""

    def test_clamped(self) -> None:
        """Five bits of a private key are given: three low ones and the two highest."""
        self.assertEqual(bytes((0xF8, *[0xFF] * 30, 0x7F)), clamp(bytes([0xFF] * 32)))
        self.assertEqual(bytes((0, *[0] * 30, 0x40)), clamp(bytes(32)))

    @settings(deadline=None)
    @given(KEYS)
    def test_the_same_key(self, private: bytes) -> None:
        """Clamping changes neither the public key nor, done again, anything."""
        key = StaticKey(private)
        self.assertEqual(clamp(private), key.private)
        self.assertEqual(key.private, clamp(key.private))
        self.assertEqual(public_of(private), key.public)
        self.assertEqual(public_of(key.private), key.public)


class TextTests(SynchronousTestCase):
    """Keys in base64, one spelling each."""

    @settings(deadline=None)
    @given(KEYS)
    def test_round_trip(self, key: bytes) -> None:
        """A key is written in 44 characters and read back."""
        text = key_to_base64(key)
        self.assertEqual(b64encode(key).decode(), text)
        self.assertEqual(44, len(text))
        self.assertEqual(key, key_from_base64(text))

    def test_other_spellings(self) -> None:
        """Whatever ``wg`` refuses is refused: lengths, characters, padding, spare bits."""
        good = "YDCttCs9e1J52/g9vEnwJJa+2x6RqaayAYMpSVQfGEY="
        self.assertEqual(32, len(key_from_base64(good)))
        for bad in (
            "",
            "=",
            good[:-1],
            good + "=",
            good + "\n",
            " " + good,
            good[1:],
            "A" + good,
            good.replace("/", "_"),
            good.replace("+", "-"),
            good[:20] + " " + good[21:],
            good[:20] + "=" + good[21:],
            good[:20] + "é" + good[21:],
            good[:20] + "\0" + good[21:],
            good[:-2] + "Z=",  # the same 32 bytes and a bit that no byte has
            good[:-2] + "==",
            b64encode(bytes(31)).decode(),
            b64encode(bytes(33)).decode(),
        ):
            self.assertRaises(ValueError, key_from_base64, bad)

    @settings(deadline=None)
    @given(st.text(max_size=50) | st.text("AQgw/+=-_ \n", min_size=43, max_size=45))
    def test_any_text(self, text: str) -> None:
        """Any text is a key's one spelling or a ValueError, which does not quote it."""
        try:
            key = key_from_base64(text)
        except ValueError as error:
            self.assertIn("44 characters", str(error))
        else:
            self.assertEqual(text, key_to_base64(key))
