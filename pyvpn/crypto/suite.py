"""The two suites a handshake may be of: WireGuard's own, and one for processors that know AES.

A suite is what its Noise name says.  Both are Noise_IKpsk2 over Curve25519 and BLAKE2s with keys
of 32 bytes, and differ in the cipher and in how it takes its nonce.  The name is the first thing
that a handshake hashes, so two ends of different suites have nothing in common: no message of the
one opens in the other.

The counter in a datagram is WireGuard's, little endian, whatever the suite.

Sources: the Noise Protocol Framework, revision 34, section 12; WireGuard whitepaper section 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from struct import Struct
from typing import Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
"""What WireGuard has for Noise's prologue, with either suite."""

AES_CAPABILITY = "aes-gcm"
"""The word by which one end of ours tells the other that it takes :data:`AES_GCM`."""


@dataclass(frozen=True, eq=False, slots=True)
class Suite:
    """How a handshake, and the keypair that it gives, seal."""

    name: str
    """Of the cipher, for people."""
    construction: bytes
    """Noise's name of the whole."""
    chain: bytes
    """The chaining key that every handshake begins with."""
    hash: bytes
    """The hash that it begins with."""
    aead: type[ChaCha20Poly1305] | type[AESGCM]
    nonce: Struct
    """Packs a counter: 12 bytes."""
    counter: slice
    """Where a data message has the last 8 bytes of its nonce; the first 4 are zeros."""
    order: Literal["little", "big"]
    """Of the bytes of a counter in the nonce."""


def _suite(
    name: str,
    cipher: bytes,
    aead: type[ChaCha20Poly1305] | type[AESGCM],
    order: Literal["little", "big"],
) -> Suite:
    construction = b"Noise_IKpsk2_25519_" + cipher + b"_BLAKE2s"
    # Noise hashes a name that is longer than a hash, as both are.
    chain = blake2s(construction).digest()
    hash_ = blake2s(chain + IDENTIFIER).digest()
    nonce, counter = _NONCES[order]
    return Suite(name, construction, chain, hash_, aead, nonce, counter, order)


_NONCES = {"little": (Struct("<4xQ"), slice(8, 16)), "big": (Struct(">4xQ"), slice(15, 7, -1))}

CHACHA = _suite("ChaCha20-Poly1305", b"ChaChaPoly", ChaCha20Poly1305, "little")
"""WireGuard's: what everybody speaks, and stock peers get."""
AES_GCM = _suite("AES-256-GCM", b"AESGCM", AESGCM, "big")
"""Only between two ends of ours that said so."""
