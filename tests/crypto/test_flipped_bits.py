"""Every message with every single bit changed: it is refused at the first check that sees it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieChecker, CookieJar
from pyvpn.crypto.keypair import Refused
from pyvpn.crypto.noise import NO_PSK, open_static
from pyvpn.wire.datagram import OFFLOAD, CookieReply, Initiation, Response, kind_of, receiver_of
from tests.crypto.parties import (
    ANNA,
    BOB,
    answer,
    bytes32,
    flipped,
    initiate,
    opened,
    pair,
    shared,
)

SOURCE = b"192.0.2.1:51820"


def with_cookie(message: bytes, receiver: bytes, checker: CookieChecker) -> bytes:
    """The same message with a mac2, as its sender makes it who got a cookie."""
    jar = CookieJar(receiver)
    reply = checker.reply(jar.add_macs(message[:-32], 0.0), SOURCE, 0.0)
    assert jar.consume(CookieReply.parse(reply), 0.0)
    return jar.add_macs(message[:-32], 0.0)


class FlippedBitTests(SynchronousTestCase):
    """One bit at a time; what is not changed is accepted, or the test would show nothing."""

    def test_macs(self) -> None:
        """Type and zeros are seen by the first look, the rest by mac1, mac2 itself by mac2."""
        state_and_initiation = initiate()
        response = answer(opened(state_and_initiation[1]))[1]
        for bare, receiver in ((state_and_initiation[1], BOB), (response, ANNA)):
            checker = CookieChecker(receiver.public, lambda size: bytes32("random")[:size])
            message = with_cookie(bare, receiver.public, checker)
            self.assertTrue(checker.mac1_valid(message))
            self.assertTrue(checker.mac2_valid(message, SOURCE, 0.0))
            for bit in range(8 * len(message)):
                changed = flipped(message, bit)
                # One bit makes an initiation's type an offload payload's, which nobody agreed on.
                self.assertEqual(bit >= 32, kind_of(changed) not in (0, OFFLOAD))
                self.assertEqual(bit >= 8 * (len(message) - 16), checker.mac1_valid(changed))
                self.assertFalse(checker.mac2_valid(changed, SOURCE, 0.0))

    def test_initiation(self) -> None:
        """Whoever makes mac1 right again gets no further: the handshake itself notices."""
        initiation = initiate()[1]
        common = shared(BOB, ANNA)
        for bit in range(8 * 8, 8 * 116):
            half = open_static(Initiation.parse(flipped(initiation, bit)), BOB)
            # Behind the sealed key only the timestamp is left to change.
            self.assertEqual(bit >= 8 * 88, half is not None)
            if half is not None:
                self.assertIsNone(half.open_timestamp(common))

    def test_response(self) -> None:
        """Likewise of a response; the handshake waits on and takes the right one."""
        state, initiation = initiate()
        response = answer(opened(initiation))[1]
        for bit in range(8 * 8, 8 * 60):
            changed = Response.parse(flipped(response, bit))
            # The highest bit of a point of the curve means nothing, but is hashed, too.
            self.assertIsNone(state.finish(changed, ANNA, NO_PSK))
        self.assertIsNotNone(state.finish(Response.parse(response), ANNA, NO_PSK))

    def test_cookie_reply(self) -> None:
        """A changed cookie reply is none, and the right one is still taken."""
        checker, jar = CookieChecker(BOB.public, lambda size: bytes(size)), CookieJar(BOB.public)
        reply = checker.reply(jar.add_macs(initiate()[1][:-32], 0.0), SOURCE, 0.0)
        for bit in range(32):
            self.assertEqual(0, kind_of(flipped(reply, bit)))
        for bit in range(32, 64):
            self.assertNotEqual(receiver_of(reply), receiver_of(flipped(reply, bit)))
        for bit in range(64, 8 * 64):
            self.assertFalse(jar.consume(CookieReply.parse(flipped(reply, bit)), 0.0))
        self.assertTrue(jar.consume(CookieReply.parse(reply), 0.0))

    def test_data(self) -> None:
        """A changed data message is no data, for another keypair, or has a wrong tag."""
        anna, bob = pair()
        (datagram,) = anna.seal([bytes(64)], 1420)
        for bit in range(32):
            changed = flipped(datagram, bit)
            # The first bit makes an offload payload of it; the tag is of its type, too.
            self.assertEqual(OFFLOAD if bit == 0 else 0, kind_of(changed))
            if bit == 0:
                self.assertEqual(([], [], [Refused.TAG]), bob.receive_run([changed]))
        for bit in range(32, 64):
            self.assertNotEqual(receiver_of(datagram), receiver_of(flipped(datagram, bit)))
        for bit in range(64, 8 * len(datagram)):
            self.assertEqual(Refused.TAG, bob.receive(flipped(datagram, bit)))
        self.assertEqual(bytes(64), bob.receive(datagram))
