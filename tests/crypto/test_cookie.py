"""Macs and cookies: who knows our key, and who is where it says."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import (
    CookieChecker,
    CookieJar,
    CookieSeal,
    cookie_key,
    hchacha20,
    mac1_key,
)
from pyvpn.wire.datagram import COOKIE_REPLY, CookieReply, Path, kind_of
from tests.crypto import xchacha
from tests.crypto.parties import (
    ANNA,
    ANNAS_INDEX,
    BOB,
    BOBS_INDEX,
    EVE,
    answer,
    bytes32,
    initiate,
    opened,
)
from tests.crypto.xchacha import seal, unseal

HERE = Path(bytes((192, 0, 2, 1)), 51820).key
INITIATION = initiate()[1]
RESPONSE = answer(opened(INITIATION))[1]
NO_MAC = bytes(16)


def counted() -> Callable[[int], bytes]:
    """Random bytes that are different each time, and the same in each run."""
    calls = iter(range(10**6))
    return lambda size: bytes32(f"random {next(calls)}")[:size]


def seeded(seed: str) -> Callable[[int], bytes]:
    """Random bytes that are the same each time."""
    return lambda size: bytes32(seed)[:size]


class Office:
    """Bob under load, and Anna who wants in."""

    def __init__(self, random: Callable[[int], bytes] | None = None) -> None:
        self.checker = CookieChecker(BOB.public, random or counted())
        self.jar = CookieJar(BOB.public)

    def ask(self, now: float) -> bytes:
        """An initiation of Anna's, with a cookie if she has one."""
        return self.jar.add_macs(INITIATION[:-32], now)

    def hand_over(self, now: float, source: bytes = HERE) -> bool:
        """Anna asks, Bob replies with a cookie for *source*, Anna takes it."""
        reply = self.checker.reply(self.ask(now), source, now)
        return self.jar.consume(CookieReply.parse(reply), now)


class Mac1Tests(SynchronousTestCase):
    """Whether a sender knows our public key."""

    def test_as_written(self) -> None:
        """mac1 is a keyed hash of all before it; the key is the hash of label and public key."""
        key = blake2s(b"mac1----" + BOB.public).digest()
        expected = blake2s(INITIATION[:116], key=key, digest_size=16).digest()
        self.assertEqual(key, mac1_key(BOB.public))
        self.assertEqual(expected + NO_MAC, INITIATION[116:])
        self.assertEqual(INITIATION, CookieJar(BOB.public).add_macs(INITIATION[:116], 0.0))

    def test_for_us(self) -> None:
        """Messages to us are valid, messages to others are not."""
        for message, receiver in ((INITIATION, BOB), (RESPONSE, ANNA)):
            for party in (ANNA, BOB, EVE):
                checker = CookieChecker(party.public, counted())
                self.assertEqual(party is receiver, checker.mac1_valid(message))

    def test_zeros(self) -> None:
        """No mac at all is not a valid one."""
        checker = CookieChecker(BOB.public, counted())
        self.assertFalse(checker.mac1_valid(INITIATION[:116] + bytes(32)))
        self.assertFalse(checker.mac1_valid(bytes(148)))

    def test_mac2_is_not_covered(self) -> None:
        """Whatever is in mac2, mac1 stays valid: who has no cookie is still somebody."""
        checker = CookieChecker(BOB.public, counted())
        self.assertTrue(checker.mac1_valid(INITIATION[:132] + bytes32("junk")[:16]))


class Mac2Tests(SynchronousTestCase):
    """Whether a sender is where its datagrams say."""

    def test_with_a_cookie(self) -> None:
        """Who brings the cookie back is let in; without it, or with zeros, nobody is."""
        office = Office()
        before = office.ask(0.0)
        self.assertEqual(NO_MAC, before[-16:])
        self.assertFalse(office.checker.mac2_valid(before, HERE, 0.0))
        self.assertTrue(office.hand_over(0.0))
        after = office.ask(1.0)
        self.assertTrue(office.checker.mac1_valid(after))
        self.assertTrue(office.checker.mac2_valid(after, HERE, 1.0))
        self.assertFalse(office.checker.mac2_valid(after[:132] + NO_MAC, HERE, 1.0))

    def test_as_written(self) -> None:
        """mac2 is a hash, keyed by the cookie, of all before it, mac1 included."""
        office = Office(lambda size: bytes32("random")[:size])
        office.hand_over(0.0)
        cookie = blake2s(HERE, key=bytes32("random"), digest_size=16).digest()
        message = office.ask(1.0)
        expected = blake2s(message[:132], key=cookie, digest_size=16).digest()
        self.assertEqual(expected, message[132:])

    def test_for_a_response(self) -> None:
        """An initiator under load demands cookies of responders likewise."""
        checker, jar = CookieChecker(ANNA.public, counted()), CookieJar(ANNA.public)
        reply = CookieReply.parse(checker.reply(jar.add_macs(RESPONSE[:60], 0.0), HERE, 0.0))
        self.assertEqual(BOBS_INDEX, reply.receiver)
        self.assertTrue(jar.consume(reply, 0.0))
        message = jar.add_macs(RESPONSE[:60], 0.0)
        self.assertEqual(92, len(message))
        self.assertTrue(checker.mac2_valid(message, HERE, 0.0))

    def test_another_source(self) -> None:
        """A cookie is good at one address and one port, of either version."""
        here = Path(bytes((192, 0, 2, 1)), 51820)
        here6 = Path(bytes.fromhex("20010db8000000000000000000000001"), 51820)
        for path, others in (
            (here, (here._replace(host=bytes((192, 0, 2, 2))), here._replace(port=51821), here6)),
            (here6, (here6._replace(host=here6.host[:15] + b"\2"), here6._replace(port=1), here)),
        ):
            office = Office()
            self.assertTrue(office.hand_over(0.0, path.key))
            message = office.ask(0.0)
            self.assertTrue(office.checker.mac2_valid(message, path.key, 0.0))
            for other in others:
                self.assertFalse(office.checker.mac2_valid(message, other.key, 0.0))

    def test_age(self) -> None:
        """A cookie is good until its secret is 120 seconds old, not a moment longer."""
        office = Office()
        office.hand_over(1000.0)
        message = office.ask(1001.0)
        self.assertTrue(office.checker.mac2_valid(message, HERE, 1119.9))
        self.assertFalse(office.checker.mac2_valid(message, HERE, 1120.0))
        self.assertFalse(office.checker.mac2_valid(message, HERE, 1120.1))

    def test_age_of_the_secret(self) -> None:
        """What counts is the age of the secret, however young the cookie."""
        office = Office()
        office.hand_over(0.0)
        office.hand_over(100.0)
        message = office.ask(101.0)
        self.assertTrue(office.checker.mac2_valid(message, HERE, 119.0))
        self.assertFalse(office.checker.mac2_valid(message, HERE, 121.0))

    def test_of_another_process(self) -> None:
        """A cookie that another process with our key made (before a restart) is none of ours."""
        office = Office()
        office.hand_over(0.0)
        message = office.ask(0.0)
        self.assertTrue(office.checker.mac2_valid(message, HERE, 0.0))
        another = CookieChecker(BOB.public, lambda size: bytes32("another")[:size])
        self.assertTrue(another.mac1_valid(message))
        self.assertFalse(another.mac2_valid(message, HERE, 0.0))

    def test_ours_is_not_used_too_long(self) -> None:
        """We use a cookie for 115 seconds, then send zeros until we get another."""
        office = Office()
        office.hand_over(1000.0)
        self.assertNotEqual(NO_MAC, office.ask(1114.9)[-16:])
        self.assertEqual(NO_MAC, office.ask(1115.0)[-16:])
        office.hand_over(1116.0)
        self.assertNotEqual(NO_MAC, office.ask(1117.0)[-16:])


class ReplyTests(SynchronousTestCase):
    """Cookies on their way."""

    def test_as_written(self) -> None:
        """A reply is 64 bytes: the cookie, sealed with our cookie key, bound to the mac1."""
        office = Office()
        reply = office.checker.reply(INITIATION, HERE, 0.0)
        self.assertEqual((64, COOKIE_REPLY), (len(reply), kind_of(reply)))
        message = CookieReply.parse(reply)
        self.assertEqual(ANNAS_INDEX, message.receiver)
        key = blake2s(b"cookie--" + BOB.public).digest()
        self.assertEqual(key, cookie_key(BOB.public))
        cookie = unseal(key, message.nonce, message.cookie, INITIATION[116:132])
        self.assertEqual(16, len(cookie))
        mac2 = blake2s(INITIATION[:132], key=cookie, digest_size=16).digest()
        self.assertTrue(office.checker.mac2_valid(INITIATION[:132] + mac2, HERE, 0.0))

    def test_from_another_implementation(self) -> None:
        """A reply that somebody else's cipher sealed is taken."""
        office, cookie, nonce = Office(), bytes32("cookie")[:16], bytes32("nonce")[:24]
        mac1 = office.ask(0.0)[116:132]
        sealed = seal(cookie_key(BOB.public), nonce, cookie, mac1)
        self.assertTrue(office.jar.consume(CookieReply(ANNAS_INDEX, nonce, sealed), 0.0))
        message = office.ask(0.0)
        self.assertEqual(
            blake2s(message[:132], key=cookie, digest_size=16).digest(), message[132:]
        )

    def test_no_two_alike(self) -> None:
        """The same question twice gets two nonces, and the same cookie."""
        office = Office()
        message = office.ask(0.0)
        replies = [CookieReply.parse(office.checker.reply(message, HERE, 0.0)) for _ in "ab"]
        self.assertNotEqual(replies[0].nonce, replies[1].nonce)
        cookies = {
            unseal(cookie_key(BOB.public), reply.nonce, reply.cookie, message[116:132])
            for reply in replies
        }
        self.assertEqual(1, len(cookies))

    def test_a_flood_of_them(self) -> None:
        """Thousands of replies have a nonce each; of two processes with our key no two are alike.

        Only their last 8 bytes differ within a process: the cipher is made for the others.
        """
        nonces = []
        for seed in "one process", "another":
            checker = CookieChecker(BOB.public, seeded(seed))
            replies = [checker.reply(INITIATION, HERE, 0.0) for _ in range(3000)]
            nonces.append({CookieReply.parse(reply).nonce for reply in replies})
        self.assertEqual([3000, 3000], [len(each) for each in nonces])
        self.assertEqual(set(), nonces[0] & nonces[1])
        self.assertEqual([1, 1], [len({nonce[:16] for nonce in each}) for each in nonces])

    def test_unasked(self) -> None:
        """Before anything was sent no reply is taken."""
        office = Office()
        reply = CookieReply.parse(office.checker.reply(INITIATION, HERE, 0.0))
        self.assertIs(False, CookieJar(BOB.public).consume(reply, 0.0))

    def test_for_another_message(self) -> None:
        """Only a reply to the last message is taken."""
        office = Office()
        late = CookieReply.parse(office.checker.reply(office.ask(0.0), HERE, 0.0))
        other = office.jar.add_macs(b"\1" + INITIATION[1:115] + b"\7", 5.0)
        self.assertIs(False, office.jar.consume(late, 5.0))
        self.assertEqual(NO_MAC, office.ask(5.0)[-16:])
        office.jar.add_macs(other[:116], 6.0)
        self.assertTrue(
            office.jar.consume(CookieReply.parse(office.checker.reply(other, HERE, 6.0)), 6.0)
        )

    def test_one_for_each_message(self) -> None:
        """A second reply to the same message is refused, and does not harm the first."""
        office = Office()
        message = office.ask(0.0)
        first, second = (
            CookieReply.parse(office.checker.reply(message, HERE, now)) for now in (0.0, 200.0)
        )
        self.assertTrue(office.jar.consume(second, 200.0))
        self.assertFalse(office.jar.consume(first, 200.0))
        self.assertFalse(office.jar.consume(second, 200.0))
        self.assertTrue(office.checker.mac2_valid(office.ask(201.0), HERE, 201.0))

    def test_of_somebody_else(self) -> None:
        """A reply sealed with another's key is refused: it takes the key of whom we asked."""
        office = Office()
        message = office.ask(0.0)
        forged = CookieChecker(EVE.public, counted()).reply(message, HERE, 0.0)
        self.assertFalse(office.jar.consume(CookieReply.parse(forged), 0.0))
        self.assertTrue(office.hand_over(0.0))

    @settings(deadline=None)
    @given(st.binary(min_size=56, max_size=56))
    def test_junk(self, junk: bytes) -> None:
        """Any bytes as a reply: refused, never an exception."""
        office = Office()
        office.ask(0.0)
        reply = CookieReply.parse(b"\3\0\0\0" + bytes(4) + junk)
        self.assertFalse(office.jar.consume(reply, 0.0))


class SealTests(SynchronousTestCase):
    """XChaCha20-Poly1305 in two steps, of which the first is done once."""

    def test_hchacha20(self) -> None:
        """The draft's section 2.2.1: the key that a key and a nonce make."""
        self.assertEqual(
            "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc",
            hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927")).hex(),
        )

    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
    def test_another_opinion(self, key: bytes, nonce: bytes) -> None:
        """Whatever the key and the nonce, it is what the rounds written out give.

        Also for a nonce that begins with the highest count of blocks there is.
        """
        for each in nonce, b"\xff" * 4 + nonce[4:]:
            self.assertEqual(xchacha.hchacha20(key, each), hchacha20(key, each))

    @given(st.binary(min_size=16, max_size=16), st.binary(max_size=99), st.binary(max_size=99))
    def test_the_same(self, nonce: bytes, plaintext: bytes, additional: bytes) -> None:
        """What it seals is what the whole cipher seals with that nonce, each time."""
        key = bytes32("key")
        sealing = CookieSeal(key, nonce)
        for number in range(3):
            whole, sealed = sealing.seal(plaintext, additional)
            self.assertEqual(nonce + number.to_bytes(8, "little"), whole)
            self.assertEqual(seal(key, whole, plaintext, additional), sealed)
