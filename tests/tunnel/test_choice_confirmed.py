"""A client uses UDP only as long as the server says that it does, too."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.peer import Peer
from tests.tunnel.stories import Line
from tests.tunnel.test_choice import met


class ConfirmationTests(SynchronousTestCase):
    """Where one end believes that packets go by UDP, and the other that they do not."""

    def test_movedWhileRegistering(self) -> None:
        """A client that took up UDP after it had asked to be registered uses it both ways."""
        story = met()
        story.block()
        story.talk(12)
        story.lose_link()
        story.unblock()
        story.talk(10)
        self.assertTrue(story.choice.by_udp)
        story.register(carried=False)
        story.run(2)
        self.assertIs(story.session.carrier, story.session.peer)
        story.lose_link()
        self.assertLess(story.talk(10), 0.25)

    def test_saidAgainUntilHeard(self) -> None:
        """A word on the carrier that was lost by both ways is said until the server has heard."""
        story = met()
        story.lose_link()
        story.block()
        story.choice._tell = lambda epoch, way, mtu: (
            None
        )  # the connection does not deliver, as yet
        story.register(carried=False)
        story.run(2)
        self.assertIs(story.session.carrier, story.down)
        story.unblock()
        story.run(2)
        self.assertIs(story.session.carrier, story.session.peer)
        self.assertEqual(1, story.choice.moves)
        before = len(story.client.sent)
        story.run(1)
        self.assertEqual(before, len(story.client.sent))

    def test_untied(self) -> None:
        """Where UDP answers, but the server has given our key to another, packets find a way."""
        for link in True, False:
            story = met()
            peer, other = story.session.peer, story.make_session(8, "10.73.0.3")
            assert isinstance(peer, Peer)
            token = story.claims.claim(other, story.client.public, 1420)
            story.lose_link()  # else ours is the better right
            story.claims.prove(peer, token)
            story.claims.end(other)
            self.assertIsNone(story.session.peer)
            if link:
                story.register()
            self.assertLess(story.talk(20), 10.0)
            self.assertLess(story.talk(20), 0.25)
            self.assertIs(story.session.carrier, peer)
            self.assertTrue(story.choice.by_udp)

    def test_rival(self) -> None:
        """They take the connection while another device, with the same key, has the tunnel."""
        story = met()
        peer, other = story.session.peer, story.make_session(8, "10.73.0.3")
        assert isinstance(peer, Peer)
        story.lose_link()
        story.claims.prove(peer, story.claims.claim(other, story.client.public, 1420))
        other.join(Line(story, False), story.net.now)
        self.assertTrue(other.choose(story.session.epoch, True))
        story.register()
        self.assertLess(story.talk(20), 10.0)
        self.assertLess(story.talk(20), 0.25)
        self.assertIs(story.session.carrier, story.down)
        self.assertIs(peer, other.peer)

    def test_notOurs(self) -> None:
        """UDP that answers and does not know us is given up, and tried again now and then."""
        story = met()
        story.claims.prove = lambda peer, token: None  # type: ignore[method-assign]
        peer = story.session.peer
        assert isinstance(peer, Peer)
        peer.owner = None
        story.session.detach(peer)
        story.session.carrier = story.session.link
        self.assertLess(story.talk(30), 10.0)
        self.assertLess(story.talk(30), 0.25)
        self.assertFalse(story.choice.by_udp)
        del story.claims.prove
        story.talk(20)
        self.assertLess(story.talk(10), 0.25)
        self.assertTrue(story.choice.by_udp)
