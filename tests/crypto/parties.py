"""Two parties and their handshake, for tests: every key a fixed one."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.keypair import Keypair
from pyvpn.crypto.noise import NO_PSK, HalfOpen, InitiatorHandshake, open_static
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.wire.datagram import Initiation, Response


def bytes32(label: str) -> bytes:
    """32 bytes that look random and are the same each time."""
    return sha256(label.encode()).digest()


ANNA = StaticKey(bytes32("Anna"))
BOB = StaticKey(bytes32("Bob"))
EVE = StaticKey(bytes32("Eve"))
PSK = bytes32("a preshared key")
TIMESTAMP = bytes.fromhex("400000006931f5a03b000000")

BOTH = (CHACHA, AES_GCM)

ANNAS_INDEX, BOBS_INDEX = 0x01020304, 0xF1F2F3F4

# From the kernel's own network test: public keys that no private key has.
LOW_ORDER = [
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]


def shared(ours: StaticKey, theirs: StaticKey) -> bytes:
    """What two good keys have in common."""
    result = ours.shared(theirs.public)
    assert result is not None
    return result


def initiate(
    initiator: StaticKey = ANNA, responder: StaticKey = BOB, suite: Suite = CHACHA
) -> tuple[InitiatorHandshake, bytes]:
    """Begin a handshake; the initiation is whole, mac1 included."""
    begun = InitiatorHandshake.begin(
        initiator,
        responder.public,
        shared(initiator, responder),
        ANNAS_INDEX,
        bytes32("ephemeral of the initiator"),
        TIMESTAMP,
        suite,
    )
    assert begun is not None
    state, message = begun
    return state, CookieJar(responder.public).add_macs(message, 0.0)


def opened(initiation: bytes, responder: StaticKey = BOB, initiator: StaticKey = ANNA) -> HalfOpen:
    """Open both halves of an initiation."""
    half = open_static(Initiation.parse(initiation), responder, BOTH)
    assert half is not None
    assert half.open_timestamp(shared(responder, initiator)) is not None
    return half


def answer(half: HalfOpen, psk: bytes = NO_PSK, initiator: StaticKey = ANNA):
    """Respond; returns the keys and the whole response."""
    answered = half.respond(
        initiator.public, psk, BOBS_INDEX, bytes32("ephemeral of the responder")
    )
    assert answered is not None
    keys, message = answered
    return keys, CookieJar(initiator.public).add_macs(message, 0.0)


class Pair(NamedTuple):
    """The keypairs of a finished handshake."""

    anna: Keypair
    bob: Keypair


def pair(suite: Suite = CHACHA) -> Pair:
    """Do a whole handshake."""
    state, initiation = initiate(suite=suite)
    bobs, response = answer(opened(initiation), PSK)
    annas = state.finish(Response.parse(response), ANNA, PSK)
    assert annas is not None
    return Pair(Keypair(ANNAS_INDEX, annas, True, 0.0), Keypair(BOBS_INDEX, bobs, False, 0.0))


def flipped(data: bytes, bit: int) -> bytes:
    """Return *data* with one bit changed."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)
