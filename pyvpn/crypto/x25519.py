"""Curve25519 keys: ours, other people's, and what two of them have in common.

Sources: RFC 7748; wg(8) for the form in text.
"""

from __future__ import annotations

import binascii

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEY_SIZE = 32  # bytes of a private, public or preshared key


def clamp(private: bytes) -> bytes:
    """Return 32 random bytes as a private key: three low bits and the highest clear, one set.

    The curve computes the same with either; ``wg`` shows and expects this form.
    """
    head, tail = private[0] & 0xF8, private[31] & 0x7F | 0x40
    return bytes((head, *private[1:31], tail))


def public_of(private: bytes) -> bytes:
    """Return the public key, 32 bytes, of a private one, clamped or not."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def exchange(private: X25519PrivateKey, public: bytes) -> bytes | None:
    """Return what both have in common, 32 bytes.

    None when that is zero: *public* is one of the few points that give the same with every
    private key, and whoever sent it would know the result (RFC 7748 section 6.1).
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # how OpenSSL says zero; 32 bytes are right in every other way
        return None


class StaticKey:
    """A key pair that stays: the identity of an interface.

    Args:
        private: 32 bytes, clamped or not.
    """

    __slots__ = ("key", "private", "public")

    def __init__(self, private: bytes) -> None:
        self.private = clamp(private)
        """32 bytes, clamped."""
        self.key = X25519PrivateKey.from_private_bytes(self.private)
        """The same, made ready: reading a private key costs as much as an exchange."""
        self.public = self.key.public_key().public_bytes_raw()
        """32 bytes."""

    def shared(self, public: bytes) -> bytes | None:
        """Return what we have in common with the holder of *public*; None as :func:`exchange`."""
        return exchange(self.key, public)


def key_to_base64(key: bytes) -> str:
    """Return a key as ``wg`` writes it: 44 characters."""
    return binascii.b2a_base64(key, newline=False).decode()


def key_from_base64(text: str) -> bytes:
    """Return the key, 32 bytes, that *text* writes as ``wg`` would.

    Raises:
        ValueError: anything but the one spelling of 32 bytes.
    """
    try:
        # ASCII first, as `text` may hold any character.  Strict about foreign characters and
        # padding, but not about the two last bits, which 44 characters have too many.
        key = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are kinds of it
        key = b""
    if len(key) != KEY_SIZE or key_to_base64(key) != text:
        raise ValueError("a key is 32 bytes in base64: 44 characters, the last of them =")
    return key
