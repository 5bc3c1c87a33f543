"""The two macs of handshake messages, and cookies: proofs that a sender is where it says.

mac1 says that the sender knows our public key, and costs us a microsecond to check.  A responder
under load answers it with a cookie, sealed, instead of spending curve arithmetic; who brings the
cookie back in mac2 can receive at its source address.

Sources: WireGuard whitepaper section 5.3, 5.4.4 and 5.4.7; draft-irtf-cfrg-xchacha-03.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s
from hmac import compare_digest

from pyvpn.wire.datagram import MAC1, MAC2, CookieReply, sender_of

SECRET_LIFE = 120.0
"""Seconds that a secret, and with it every cookie made of it, is good for."""
COOKIE_LIFE = 115.0
"""Seconds that we use a cookie; the rest is for the way there and back."""

_MAC = 16  # bytes of a mac, and of a cookie
_NO_MAC = bytes(_MAC)
_NONCE = 24
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
        nonce = self._random(_NONCE)
        cookie = self._cookie(source, now)
        sealed = _seal(cookie, message[MAC1], nonce, self._cookie_key)
        return CookieReply(sender_of(message), nonce, sealed).to_bytes()

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
# cookie: its 20 ms are a tenth of the start of a client, which seldom meets one.


def _seal(plaintext: bytes, additional: bytes, nonce: bytes, key: bytes) -> bytes:
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt

    return encrypt(plaintext, additional, nonce, key)


def _open(sealed: bytes, additional: bytes, nonce: bytes, key: bytes) -> bytes | None:
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
    from nacl.exceptions import CryptoError

    try:
        return decrypt(sealed, additional, nonce, key)
    except CryptoError:
        return None
