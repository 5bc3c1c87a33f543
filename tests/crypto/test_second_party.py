"""The handshake against another implementation of Noise, in both roles.

``noiseprotocol`` knows the pattern and nothing of WireGuard: what it calls a message is what
lies between the indices and the macs.
"""

from __future__ import annotations

from itertools import product

from noise.connection import Keypair as Kind
from noise.connection import NoiseConnection
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.keypair import Keypair
from pyvpn.crypto.noise import NO_PSK, InitiatorHandshake, open_static
from pyvpn.crypto.suite import CHACHA, IDENTIFIER, Suite
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.wire.datagram import Initiation, Response, pack_initiation, pack_response
from tests.crypto.parties import ANNA, BOB, BOTH, PSK, TIMESTAMP, bytes32, shared

NO_MACS = bytes(32)


def stranger(
    own: StaticKey, psk: bytes, peer: StaticKey | None = None, suite: Suite = CHACHA
) -> NoiseConnection:
    """The other implementation; an initiator when it knows its *peer*."""
    noise = NoiseConnection.from_name(suite.construction)
    noise.set_prologue(IDENTIFIER)
    noise.set_psks(psk)
    noise.set_keypair_from_private_bytes(Kind.STATIC, own.private)
    if peer is None:
        noise.set_as_responder()
    else:
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Kind.REMOTE_STATIC, peer.public)
    noise.start_handshake()
    return noise


def split(message: bytes, *sizes: int) -> list[bytes]:
    """Cut *message* into pieces of these sizes, which are all of it."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(message[at : at + size])
        at += size
    assert at == len(message)
    return pieces


class SecondPartyTests(SynchronousTestCase):
    """Both sides derive keys with which each opens what the other seals."""

    def test_we_begin(self) -> None:
        """Our initiation is accepted, and the answer gives us working keys."""
        for suite, psk in product(BOTH, (NO_PSK, PSK)):
            other = stranger(BOB, psk, suite=suite)
            begun = InitiatorHandshake.begin(
                ANNA, BOB.public, shared(ANNA, BOB), 7, bytes32("ephemeral"), TIMESTAMP, suite
            )
            assert begun is not None
            state, message = begun
            self.assertEqual(TIMESTAMP, other.read_message(message[8:]))
            ephemeral, nothing = split(bytes(other.write_message(b"")), 32, 16)
            response = pack_response(9, 7, ephemeral, nothing) + NO_MACS
            keys = state.finish(Response.parse(response), ANNA, psk)
            assert keys is not None
            self.assertEqual((9, suite), (keys.remote_index, keys.suite))
            self.exchange(Keypair(7, keys, True, 0.0), other)

    def test_we_answer(self) -> None:
        """An initiation of the other is opened, and our answer gives it working keys."""
        for suite, psk in product(BOTH, (NO_PSK, PSK)):
            other = stranger(ANNA, psk, BOB, suite)
            pieces = split(bytes(other.write_message(TIMESTAMP)), 32, 48, 28)
            initiation = Initiation.parse(pack_initiation(7, *pieces) + NO_MACS)
            half = open_static(initiation, BOB, BOTH)
            assert half is not None
            self.assertEqual(suite, half.suite)
            self.assertEqual(ANNA.public, half.peer_public)
            self.assertEqual(TIMESTAMP, half.open_timestamp(shared(BOB, ANNA)))
            answered = half.respond(ANNA.public, psk, 9, bytes32("ephemeral"))
            assert answered is not None
            keys, message = answered
            self.assertEqual(b"", other.read_message(message[12:]))
            self.assertEqual((7, suite), (keys.remote_index, keys.suite))
            self.exchange(Keypair(9, keys, False, 0.0), other)

    def test_another_preshared_key(self) -> None:
        """They do not agree when they should not: here one side has no preshared key."""
        other = stranger(BOB, NO_PSK)
        begun = InitiatorHandshake.begin(
            ANNA, BOB.public, shared(ANNA, BOB), 7, bytes32("ephemeral"), TIMESTAMP
        )
        assert begun is not None
        other.read_message(begun[1][8:])
        pieces = split(bytes(other.write_message(b"")), 32, 16)
        response = Response.parse(pack_response(9, 7, *pieces) + NO_MACS)
        self.assertIsNone(begun[0].finish(response, ANNA, PSK))
        self.assertIsNotNone(begun[0].finish(response, ANNA, NO_PSK))

    def exchange(self, ours: Keypair, other: NoiseConnection) -> None:
        """Send three packets each way."""
        self.assertTrue(other.handshake_finished)
        # So many that the counter's second byte is used, where the order of bytes shows.
        packets = [b"first packet".ljust(16, b"\0"), b"", bytes(range(256)), *[b""] * 300]
        for packet, datagram in zip(packets, ours.seal(packets, 1420), strict=True):
            self.assertEqual(packet, other.decrypt(datagram[16:]))
        for counter, packet in enumerate(packets):
            header = b"\4\0\0\0" + bytes(4) + counter.to_bytes(8, "little")
            self.assertEqual(packet, ours.receive(header + bytes(other.encrypt(packet))))
