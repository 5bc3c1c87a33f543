"""Whose a WireGuard key is: who claims it, and who proves it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.native import Carrier, Echo, Token, Way
from tests.tunnel.stories import Story


class ClaimTests(SynchronousTestCase):
    """Between a registration and the token that comes back through the tunnel."""

    def setUp(self) -> None:
        self.story = Story()
        self.net = self.story.net
        self.claims = self.story.claims
        self.other = self.story.make_session(8, "10.73.0.3")

    def begin(self) -> None:
        self.story.register()
        self.story.run(0.2)

    def say(self, *messages: Token | Carrier | Echo) -> None:
        """Have the client say something through its tunnel."""
        peer = self.story.client.wg.peers[self.story.server.public]
        peer.send_packets([each.to_bytes() for each in messages], self.net.now)
        self.net.settle()

    def test_proved(self) -> None:
        """The token that came back ties the key to the session that got it."""
        self.begin()
        peer = self.story.server.wg.peers[self.story.client.public]
        self.assertIs(peer.owner, self.story.session)
        self.assertIs(peer, self.story.session.peer)

    def test_claimedByAnother(self) -> None:
        """Who names another's key gets nothing of it, and takes nothing from it."""
        self.claims.claim(self.other, self.story.client.public, 1420)
        self.begin()
        token = self.claims.claim(self.other, self.story.client.public, 1420)
        self.assertNotEqual(b"", token)
        self.assertIsNone(self.other.peer)
        self.assertTrue(self.story.up_packet(b"still mine"))
        self.assertTrue(self.story.down_packet(b"still to me"))
        self.claims.end(self.other)
        self.assertTrue(self.story.down_packet(b"and after it left"))

    def test_offload(self) -> None:
        """What a client says it takes holds for its key once that is proved, and no longer."""
        story = self.story
        token = self.claims.claim(story.session, story.client.public, 1420, offload=True)
        peer = story.server.wg.peers[story.client.public]
        self.assertFalse(peer.offload)
        self.assertFalse(self.claims.any_uncut)
        self.claims.prove(peer, token)
        self.assertTrue(peer.offload)
        self.assertTrue(self.claims.any_uncut)
        # Neither another's claim nor an unproved one of its own changes it.
        self.claims.claim(self.other, story.client.public, 1420)
        again = self.claims.claim(story.session, story.client.public, 1420)
        self.assertTrue(peer.offload)
        self.claims.prove(peer, again)
        self.assertFalse(peer.offload)
        last = self.claims.claim(story.session, story.client.public, 1420, offload=True)
        self.claims.prove(peer, last)
        self.claims.end(story.session)
        self.assertFalse(peer.offload)
        self.assertFalse(self.claims.any_uncut)

    def test_aes(self) -> None:
        """So does the word that it takes AES-GCM, until the session ends."""
        story = self.story
        token = self.claims.claim(story.session, story.client.public, 1420, aes=True)
        peer = story.server.wg.peers[story.client.public]
        self.assertFalse(peer.aes)
        self.claims.prove(peer, token)
        self.assertEqual((True, False), (peer.aes, peer.offload))
        self.claims.claim(self.other, story.client.public, 1420)
        self.assertTrue(peer.aes)
        again = self.claims.claim(story.session, story.client.public, 1420)
        self.claims.prove(peer, again)
        self.assertFalse(peer.aes)
        self.claims.prove(
            peer, self.claims.claim(story.session, story.client.public, 1420, aes=True)
        )
        self.claims.end(story.session)
        self.assertFalse(peer.aes)

    def test_keyOfAStockDevice(self) -> None:
        """To claim the key of a stock device does not make it one of ours, which may use AES."""
        peer = self.story.server.wg.add_peer(bytes(range(32)))
        assert peer is not None
        peer.owner = object()
        token = self.claims.claim(self.other, bytes(range(32)), 1420, aes=True)
        self.assertFalse(peer.is_native)
        self.assertIsNone(self.claims.prove(peer, token))
        self.assertFalse(peer.aes)

    def test_tokenOfAnother(self) -> None:
        """A token works only through the tunnel of the key that was named with it."""
        self.begin()
        theirs = self.claims.claim(self.other, bytes(range(32)), 1420)
        self.say(Token(theirs), Token(bytes(16)))
        self.assertIsNone(self.other.peer)
        self.assertIs(
            self.story.session, self.story.server.wg.peers[self.story.client.public].owner
        )

    def test_oldToken(self) -> None:
        """The token of an earlier registration is void."""
        story = self.story
        old = self.claims.claim(story.session, story.client.public, 1420)
        self.begin()
        before = story.server.wg.peers[story.client.public].owner
        self.assertIs(story.session, before)
        self.assertIsNone(self.claims.prove(story.server.wg.peers[story.client.public], old))

    def test_holderMoves(self) -> None:
        """Who holds the key and proves it for another session has left the first."""
        self.begin()
        token = self.claims.claim(self.other, self.story.client.public, 1420)
        self.say(Token(token))
        self.assertIsNone(self.other.peer)  # the first is connected, and has it
        self.story.lose_link()
        self.say(Token(token))
        self.assertIs(self.other.peer, self.story.server.wg.peers[self.story.client.public])
        self.assertIsNone(self.story.session.peer)
        self.assertIsNone(self.story.session.carrier)

    def test_stock(self) -> None:
        """A key that is on file for a stock app is not to be had by a claim, nor its tunnel."""
        story = self.story
        peer = story.server.wg.add_peer(story.client.public)
        assert peer is not None
        stock = peer.owner = story.make_session(9, "10.73.0.4")
        token = self.claims.claim(story.session, story.client.public, 1420)
        self.assertFalse(peer.is_native)
        self.assertIsNone(self.claims.prove(peer, token))
        self.assertIs(stock, peer.owner)
        self.claims.end(story.session)
        self.assertIn(story.client.public, story.server.wg.peers)

    def test_ended(self) -> None:
        """The end of a session ends its tunnel, and leaves nothing behind."""
        self.begin()
        session = self.story.session
        self.claims.end(session)
        self.claims.end(session)
        self.assertIsNone(session.peer)
        self.assertEqual({}, self.story.server.wg.peers)
        self.assertEqual(0, len(self.claims))
        self.assertEqual(({}, {}), (self.claims._by_key, self.claims._by_token))

    def test_anotherKey(self) -> None:
        """A device that names a new key gives up the old one."""
        self.begin()
        self.claims.claim(self.story.session, bytes(range(32)), 1420)
        self.assertEqual([bytes(range(32))], list(self.story.server.wg.peers))
        self.assertIsNone(self.story.session.peer)
        self.assertIs(self.story.session.carrier, self.story.down)

    def test_confirmedOnlyIfSo(self) -> None:
        """A word on the carrier is confirmed again and again, but not once it does not hold."""
        self.begin()
        session, client = self.story.session, self.story.client
        peer = self.story.server.wg.peers[client.public]
        word = Carrier(session.epoch, Way.UDP).to_bytes()
        self.assertEqual(0, self.claims.received(peer, [word, word], self.net.now))
        assert self.story.down is not None
        session.join(self.story.down, self.net.now)  # another connection of the client has come
        self.assertEqual(1, self.claims.received(peer, [word], self.net.now))
        self.assertIs(session.carrier, self.story.down)

    def test_notMovedByStrangers(self) -> None:
        """Before the key is tied, a word on the carrier means nothing."""
        story = self.story
        story.session.join(story.down, 0.0) if story.down else None
        self.claims.claim(story.session, story.client.public, 1420)
        peer = story.server.wg.peers[story.client.public]
        self.assertEqual(
            1, self.claims.received(peer, [Carrier(5, Way.UDP).to_bytes()], self.net.now)
        )
        self.assertEqual(0, story.session.epoch)

    def test_nonsense(self) -> None:
        """What means nothing is counted and not answered."""
        self.begin()
        peer = self.story.server.wg.peers[self.story.client.public]
        sent = len(self.story.server.sent)
        wrong = [b"\x0f\0\0\x04", b"\x01\0\0\x04", b"\x03\0\0\x04" + bytes(9), b"\0\0\0\0"]
        self.assertEqual(4, self.claims.received(peer, wrong, self.net.now))
        self.assertEqual(sent, len(self.story.server.sent))

    def test_stockPeerSpeaks(self) -> None:
        """From a stock peer the same bytes are malformed packets."""
        self.begin()
        peer = self.story.server.wg.peers[self.story.client.public]
        peer.is_native = False
        before = self.story.server.dropped("malformed")
        self.say(Echo(1))
        self.assertEqual(before + 1, self.story.server.dropped("malformed"))
