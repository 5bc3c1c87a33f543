"""What we take from libraries is what the protocol's papers mean by these names.

(Curve25519 is in :mod:`tests.crypto.test_x25519`, HKDF in :mod:`tests.crypto.test_noise`.)
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import blake2s

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.crypto.xchacha import hchacha20, seal

KEY = bytes(range(0x80, 0xA0))
ADDITIONAL = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    b"future, sunscreen would be it."
)


class HashTests(SynchronousTestCase):
    """BLAKE2s, RFC 7693."""

    def test_abc(self) -> None:
        """Appendix B: the hash of three letters."""
        self.assertEqual(
            "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982",
            blake2s(b"abc").hexdigest(),
        )

    def test_all_sizes(self) -> None:
        """Appendix E: the hash of hashes, with and without keys, of four sizes each."""

        def sequence(size: int, seed: int) -> bytes:
            a, b, out = 0xDEAD4BAD * seed & 0xFFFFFFFF, 1, bytearray()
            for _ in range(size):
                a, b = b, (a + b) & 0xFFFFFFFF
                out.append(b >> 24)
            return bytes(out)

        total = blake2s()
        for size in (16, 20, 28, 32):
            for length in (0, 3, 64, 65, 255, 1024):
                data = sequence(length, length)
                total.update(blake2s(data, digest_size=size).digest())
                key = sequence(size, size)
                total.update(blake2s(data, key=key, digest_size=size).digest())
        self.assertEqual(
            "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe", total.hexdigest()
        )


class CipherTests(SynchronousTestCase):
    """ChaCha20-Poly1305 and its relative with the long nonce."""

    def test_rfc_8439(self) -> None:
        """Section 2.8.2: the sealed advice."""
        self.assertEqual(
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
            "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
            "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
            "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
            ChaCha20Poly1305(KEY)
            .encrypt(bytes.fromhex("070000004041424344454647"), SUNSCREEN, ADDITIONAL)
            .hex(),
        )

    def test_hchacha20(self) -> None:
        """The draft's section 2.2.1: the key that a key and a nonce make."""
        self.assertEqual(
            "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc",
            hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927")).hex(),
        )

    def test_xchacha20(self) -> None:
        """The draft's appendix A.3.1, by the library and by our own plain version."""
        nonce = bytes(range(0x40, 0x58))
        expected = bytes.fromhex(
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
            "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
            "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
            "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
        )
        arguments = (ADDITIONAL, nonce, KEY)
        self.assertEqual(
            expected, crypto_aead_xchacha20poly1305_ietf_encrypt(SUNSCREEN, *arguments)
        )
        self.assertEqual(
            SUNSCREEN, crypto_aead_xchacha20poly1305_ietf_decrypt(expected, *arguments)
        )
        self.assertEqual(expected, seal(KEY, nonce, SUNSCREEN, ADDITIONAL))

    def test_loaded_late(self) -> None:
        """The library for cookies is not loaded before there is a cookie."""
        program = "import sys, pyvpn.crypto.cookie; sys.exit('nacl' in sys.modules)"
        self.assertEqual(0, subprocess.call([sys.executable, "-c", program]))
