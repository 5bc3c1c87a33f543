"""XChaCha20-Poly1305 as its draft writes it, slow and plain: a second opinion on the library's.

Source: draft-irtf-cfrg-xchacha-03, sections 2.2 and 2.3; RFC 8439 section 2.1 for the rounds.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_WORDS = struct.Struct("<16I")
_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Twenty rounds over constants, key and 16 bytes of nonce; first and last row are the key."""
    state = list(_WORDS.unpack(b"expand 32-byte k" + key + nonce))
    for _ in range(10):
        for a, b, c, d in _COLUMNS_AND_DIAGONALS:
            for one, other, target, shift in (
                (a, b, d, 16),
                (c, d, b, 12),
                (a, b, d, 8),
                (c, d, b, 7),
            ):
                state[one] = (state[one] + state[other]) & 0xFFFFFFFF
                turned = state[target] ^ state[one]
                state[target] = (turned << shift | turned >> 32 - shift) & 0xFFFFFFFF
    return struct.pack("<8I", *state[:4], *state[12:])


def seal(key: bytes, nonce: bytes, plaintext: bytes, additional: bytes) -> bytes:
    """Seal *plaintext* under 24 bytes of nonce."""
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return cipher.encrypt(bytes(4) + nonce[16:], plaintext, additional)


def unseal(key: bytes, nonce: bytes, sealed: bytes, additional: bytes) -> bytes:
    """Undo :func:`seal`; raises InvalidTag."""
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return cipher.decrypt(bytes(4) + nonce[16:], sealed, additional)
