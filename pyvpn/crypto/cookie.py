"""The two macs of handshake messages, and cookies: proofs that a sender is where it says.

mac1 says that the sender knows our public key, and costs us a microsecond to check.  A responder
under load answers it with a cookie, sealed, instead of spending curve arithmetic; who brings the
cookie back in mac2 can receive at its source address.

Sources: WireGuard whitepaper section 5.3, 5.4.4 and 5.4.7; draft-irtf-cfrg-xchacha-03.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2s
from hmac import compare_digest

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from pyvpn.wire.datagram import MAC1, MAC2, CookieReply, pack_cookie_reply, sender_of

SECRET_LIFE = 120.0
"""Seconds that a secret, and with it every cookie made of it, is good for."""
COOKIE_LIFE = 115.0
"""Seconds that we use a cookie; the rest is for the way there and back."""

_MAC = 16  # bytes of a mac, and of a cookie
_NO_MAC = bytes(_MAC)
_SECRET = 32


def mac1_key(public: bytes) -> bytes:
    """Return the key of mac1 in messages to the holder of *public*."""
    return blake2s(b"mac1----" + public).digest()


def cookie_key(public: bytes) -> bytes:
    """Return the key that seals cookies from the holder of *public*."""
    return blake2s(b"cookie--" + public).digest()


class CookieChecker:
    """What we, the holder of *public*, demand of initiations and responses.

    Args:
        public: our public key.
        random: returns so many random bytes.

    Messages are whole ones, that :func:`~pyvpn.wire.datagram.kind_of` calls initiation or
    response; a *source* is the sender's address and port in bytes
    (:attr:`~pyvpn.wire.datagram.Path.key`); *now* is CLOCK_BOOTTIME seconds.
    """

    def __init__(self, public: bytes, random: Callable[[int], bytes]) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._random = random
        self._seal = CookieSeal(self._cookie_key, random(SEAL_NONCE))
        self._secret = b""
        self._expires = float("-inf")

    def mac1_valid(self, message: bytes) -> bool:
        """Whether the sender knows our public key."""
        return compare_digest(_mac(message[: MAC1.start], self._mac1_key), message[MAC1])

    def mac2_valid(self, message: bytes, source: bytes, now: float) -> bool:
        """Whether the sender has a cookie of ours that was made for *source* lately."""
        cookie = self._cookie(source, now)
        return compare_digest(_mac(message[: MAC2.start], cookie), message[MAC2])

    def reply(self, message: bytes, source: bytes, now: float) -> bytes:
        """Return the cookie reply to a *message* whose mac1 is valid: 64 bytes.

        Bound to that mac1, so only who sent (or saw) the message can open it.
        """
        cookie = self._cookie(source, now)
        nonce, sealed = self._seal.seal(cookie, message[MAC1])
        return pack_cookie_reply(sender_of(message), nonce, sealed)

    def _cookie(self, source: bytes, now: float) -> bytes:
        if now >= self._expires:
            self._secret = self._random(_SECRET)
            self._expires = now + SECRET_LIFE
        return _mac(source, self._secret)


class CookieJar:
    """The macs of what we send to the holder of *peer_public*, and the cookie it gave us."""

    def __init__(self, peer_public: bytes) -> None:
        self._mac1_key = mac1_key(peer_public)
        self._cookie_key = cookie_key(peer_public)
        self._last_mac1 = b""  # of the last message that no cookie reply has answered
        self._cookie = b""
        self._expires = float("-inf")

    def add_macs(self, message_without_macs: bytes, now: float) -> bytes:
        """Return the whole message: 32 bytes more.  mac2 is zeros without a fresh cookie."""
        mac1 = _mac(message_without_macs, self._mac1_key)
        message = message_without_macs + mac1
        self._last_mac1 = mac1
        return message + (_mac(message, self._cookie) if now < self._expires else _NO_MAC)

    def consume(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie out of *reply*; False when it does not answer our last message.

        One reply per message: the second is refused, whatever it holds.
        """
        if not self._last_mac1:
            return False
        cookie = _open(reply.cookie, self._last_mac1, reply.nonce, self._cookie_key)
        if cookie is None:
            return False
        self._cookie, self._expires, self._last_mac1 = cookie, now + COOKIE_LIFE, b""
        return True


def _mac(data: bytes, key: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=_MAC).digest()


# XChaCha20-Poly1305 is not in `cryptography`.  PyNaCl has it, and is imported with the first
# cookie that we are given: its 20 ms are a tenth of the start of a client, which seldom meets one.


def _open(sealed: bytes, additional: bytes, nonce: bytes, key: bytes) -> bytes | None:
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
    from nacl.exceptions import CryptoError

    try:
        return decrypt(sealed, additional, nonce, key)
    except CryptoError:
        return None


# Sealing is what a flood makes us do ten thousand times a second.  XChaCha20 makes of its key and
# the first 16 bytes of the nonce the key of an ordinary ChaCha20, and the other 8 bytes are that
# one's nonce.  So we keep the first bytes, and with them the cipher, and count with the others:
# no two are alike, as little as with a random nonce each, at a quarter of the time.

SEAL_NONCE = 16  # bytes of a nonce that stay
_COUNT = struct.Struct("<Q")
_WORDS = struct.Struct("<16I")
_KEY = struct.Struct("<8I")
_CONSTANT = b"expand 32-byte k"


class CookieSeal:
    """XChaCha20-Poly1305 with one *key* (32 bytes) and the first 16 bytes of all nonces.

    Both together must never have been used before: those 16 bytes are random.
    """

    __slots__ = ("_begin", "_count", "_encrypt")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._begin = nonce
        self._count = 0
        self._encrypt = ChaCha20Poly1305(hchacha20(key, nonce)).encrypt

    def seal(self, plaintext: bytes, additional: bytes) -> tuple[bytes, bytes]:
        """Return a nonce of 24 bytes, different each time, and *plaintext* sealed with it."""
        count = _COUNT.pack(self._count)
        self._count += 1
        return self._begin + count, self._encrypt(bytes(4) + count, plaintext, additional)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Return the key, 32 bytes, that XChaCha20 makes of *key* and 16 bytes of nonce.

    Source: draft-irtf-cfrg-xchacha-03 section 2.2.
    """
    # ChaCha20's block is the same rounds with their input added to their output.
    block = _WORDS.unpack(Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(64)))
    added = _WORDS.unpack(_CONSTANT + key + nonce)
    words = [(there - here) & 0xFFFFFFFF for there, here in zip(block, added, strict=True)]
    return _KEY.pack(*words[:4], *words[12:])
