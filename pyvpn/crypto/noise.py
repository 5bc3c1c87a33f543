"""The WireGuard handshake, Noise_IKpsk2: two messages, after which both sides have two keys.

    initiator                                   responder
    begin()           -- initiation, e s t -->  open_static(), open_timestamp()
    finish()          <-- response, e --------  respond()

Pure functions of keys, messages and random bytes: no state of a peer lives here, no clock and no
mac (:mod:`pyvpn.crypto.cookie` adds those).  A message that does not fit gives None and changes
nothing, so a forged one does not disturb the handshake under way.

Private keys, chaining keys and hashes are let go of as soon as the keys are derived.  They are
Python ``bytes``, so when their memory is reused is not in our hands.

Sources: WireGuard whitepaper section 5.4; the Noise Protocol Framework, revision 34.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pyvpn.crypto.suite import CHACHA, Suite
from pyvpn.crypto.x25519 import StaticKey, exchange
from pyvpn.errors import Misuse
from pyvpn.wire.datagram import Initiation, Response, pack_initiation, pack_response

NO_PSK = bytes(32)
"""The preshared key of two peers that have none."""

_ZERO = bytes(32)
_NONCE = bytes(12)  # every key of a handshake seals one thing, so they all begin, and end, at 0


class TransportKeys(NamedTuple):
    """What a handshake is for."""

    send: bytes
    """Seals what we send: 32 bytes."""
    receive: bytes
    """Opens what we receive: 32 bytes."""
    remote_index: int
    """What the other side wants to be called in our datagrams."""
    suite: Suite = CHACHA
    """How both keys seal."""


class InitiatorHandshake:
    """A handshake we began, waiting for its response."""

    __slots__ = ("_chain", "_ephemeral", "_hash", "sender", "suite")

    def __init__(
        self, sender: int, ephemeral: X25519PrivateKey, chain: bytes, hash_: bytes, suite: Suite
    ):
        self.sender = sender
        """Our index, which the response has to name."""
        self.suite = suite
        """What the response has to be of."""
        self._ephemeral: X25519PrivateKey | None = ephemeral
        self._chain = chain
        self._hash = hash_

    @classmethod
    def begin(
        cls,
        static: StaticKey,
        peer_public: bytes,
        static_shared: bytes,
        sender: int,
        ephemeral: bytes,
        timestamp: bytes,
        suite: Suite = CHACHA,
    ) -> tuple[InitiatorHandshake, bytes] | None:
        """Begin a handshake with the holder of *peer_public*.

        Args:
            static: our key.
            peer_public: theirs.
            static_shared: ``static.shared(peer_public)``, which is the same each time.
            sender: our index: 32 bits, of no other handshake or keypair that lives.
            ephemeral: 32 random bytes, never used before.
            timestamp: TAI64N, later than all we have sent with this key.
            suite: of the handshake and its keys.

        Returns:
            The handshake, and the initiation up to its macs (116 bytes).  None when
            *peer_public* is a point that no key pair has.
        """
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        ours = private.public_key().public_bytes_raw()
        hash_ = _mix(_mix(suite.hash, peer_public), ours)
        chain = kdf1(suite.chain, ours)
        shared = exchange(private, peer_public)
        if shared is None or static_shared == _ZERO:
            return None
        chain, key = kdf2(chain, shared)
        sealed_static = _seal(suite, key, static.public, hash_)
        hash_ = _mix(hash_, sealed_static)
        chain, key = kdf2(chain, static_shared)
        sealed_timestamp = _seal(suite, key, timestamp, hash_)
        hash_ = _mix(hash_, sealed_timestamp)
        message = pack_initiation(sender, ours, sealed_static, sealed_timestamp)
        return cls(sender, private, chain, hash_, suite), message

    def finish(self, response: Response, static: StaticKey, psk: bytes) -> TransportKeys | None:
        """Derive the keys from *response*, once; None when it does not answer this handshake.

        *static* is the key the handshake began with.  With a wrong *psk* the response does not
        open.
        """
        private = self._ephemeral
        if private is None or response.receiver != self.sender:
            return None
        theirs = response.ephemeral
        first = exchange(private, theirs)
        second = exchange(static.key, theirs)
        if first is None or second is None:
            return None
        chain = kdf1(kdf1(kdf1(self._chain, theirs), first), second)
        chain, mixed, key = kdf3(chain, psk)
        hash_ = _mix(_mix(self._hash, theirs), mixed)
        if _open(self.suite, key, response.nothing, hash_) is None:
            return None
        self._ephemeral, self._chain, self._hash = None, b"", b""
        send, receive = kdf2(chain, b"")
        return TransportKeys(send, receive, response.sender, self.suite)


def open_static(
    message: Initiation, static: StaticKey, suites: tuple[Suite, ...] = (CHACHA,)
) -> HalfOpen | None:
    """Open the first half of an initiation to us: who says that they want to talk.

    None when it is not for our key, or of none of *suites*, which are tried in turn.  Costs one
    exchange of Curve25519, however many they are.
    """
    theirs = message.ephemeral
    shared = exchange(static.key, theirs)
    if shared is None:
        return None
    for suite in suites:
        hash_ = _mix(_mix(suite.hash, static.public), theirs)
        chain, key = kdf2(kdf1(suite.chain, theirs), shared)
        peer_public = _open(suite, key, message.static, hash_)
        if peer_public is not None:
            return HalfOpen(peer_public, message, chain, _mix(hash_, message.static), suite)
    return None


class HalfOpen:
    """An initiation whose sender is named, but not proved before :meth:`open_timestamp`."""

    __slots__ = ("_chain", "_hash", "_message", "_proved", "peer_public", "suite")

    def __init__(
        self, peer_public: bytes, message: Initiation, chain: bytes, hash_: bytes, suite: Suite
    ):
        self.peer_public = peer_public
        """Whose key the sender claims to have: anybody may claim that."""
        self.suite = suite
        """Of which it is, and the answer and the keys will be."""
        self._message = message
        self._chain = chain
        self._hash = hash_
        self._proved = False

    def open_timestamp(self, static_shared: bytes) -> bytes | None:
        """Return the timestamp, 12 bytes, which proves that the sender has the key.

        None when it proves nothing.  *static_shared* is ``static.shared(peer_public)``.
        Whether the timestamp is a new one is for the caller to see.
        """
        if static_shared == _ZERO:
            return None
        chain, key = kdf2(self._chain, static_shared)
        timestamp = _open(self.suite, key, self._message.timestamp, self._hash)
        if timestamp is not None and not self._proved:
            self._chain = chain
            self._hash = _mix(self._hash, self._message.timestamp)
            self._proved = True
        return timestamp

    def respond(
        self, peer_public: bytes, psk: bytes, sender: int, ephemeral: bytes
    ) -> tuple[TransportKeys, bytes] | None:
        """Answer, once.

        Args:
            peer_public: the proved key of the peer.
            psk: the key shared with this peer beforehand, or :data:`NO_PSK`.
            sender: our index: 32 bits, of no other handshake or keypair that lives.
            ephemeral: 32 random bytes, never used before.

        Returns:
            The keys, and the response up to its macs (60 bytes).  None when the peer's
            ephemeral or static key is a point that no key pair has.

        Raises:
            Misuse: the timestamp has not been opened, or this is the second answer.
        """
        if not self._proved:
            raise Misuse("an answer to an initiation whose sender is not proved")
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        ours = private.public_key().public_bytes_raw()
        first = exchange(private, self._message.ephemeral)
        second = exchange(private, peer_public)
        if first is None or second is None:
            return None
        chain = kdf1(kdf1(kdf1(self._chain, ours), first), second)
        chain, mixed, key = kdf3(chain, psk)
        nothing = _seal(self.suite, key, b"", _mix(_mix(self._hash, ours), mixed))
        self._chain, self._hash, self._proved = b"", b"", False
        receive, send = kdf2(chain, b"")
        remote = self._message.sender
        message = pack_response(sender, remote, ours, nothing)
        return TransportKeys(send, receive, remote, self.suite), message


# -- the chain of keys
#
# HKDF (RFC 5869) over HMAC-BLAKE2s.  `hmac.digest` takes 2.9 us for what takes 1.3 us here, as
# it asks OpenSSL for the algorithm each time; a handshake has some twenty of them a side.

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def kdf1(key: bytes, data: bytes) -> bytes:
    """Derive one key of 32 bytes from *key* (a chaining key: 64 bytes at most) and *data*."""
    inner, outer = _pads(_extract(key, data))
    return blake2s(outer + blake2s(inner + b"\x01").digest()).digest()


def kdf2(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Derive two keys, as :func:`kdf1` does one."""
    inner, outer = _pads(_extract(key, data))
    first = blake2s(outer + blake2s(inner + b"\x01").digest()).digest()
    return first, blake2s(outer + blake2s(inner + first + b"\x02").digest()).digest()


def kdf3(key: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Derive three keys, as :func:`kdf1` does one."""
    inner, outer = _pads(_extract(key, data))
    first = blake2s(outer + blake2s(inner + b"\x01").digest()).digest()
    second = blake2s(outer + blake2s(inner + first + b"\x02").digest()).digest()
    third = blake2s(outer + blake2s(inner + second + b"\x03").digest()).digest()
    return first, second, third


def _extract(key: bytes, data: bytes) -> bytes:
    inner, outer = _pads(key)
    return blake2s(outer + blake2s(inner + data).digest()).digest()


def _pads(key: bytes) -> tuple[bytes, bytes]:
    block = key.ljust(64, b"\0")  # the block of BLAKE2s
    return block.translate(_INNER), block.translate(_OUTER)


def _mix(hash_: bytes, data: bytes) -> bytes:
    return blake2s(hash_ + data).digest()


def _seal(suite: Suite, key: bytes, plaintext: bytes, hash_: bytes) -> bytes:
    return suite.aead(key).encrypt(_NONCE, plaintext, hash_)


def _open(suite: Suite, key: bytes, sealed: bytes, hash_: bytes) -> bytes | None:
    try:
        return suite.aead(key).decrypt(_NONCE, sealed, hash_)
    except InvalidTag:
        return None
