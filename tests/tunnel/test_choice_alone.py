"""By UDP without a registration: a client that is on file, a server that calls it back."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.choice import MOST_EPOCH, CarrierChoice, Transport
from pyvpn.wire.datagram import DATA
from pyvpn.wire.native import Resumed, Way
from tests.tunnel.stories import Story
from tests.tunnel.test_choice import met
from tests.tunnel.wires import End, Sent


def on_file(story: Story) -> None:
    """The server knows the client's key from its disk."""
    peer = story.claims.resume(story.session, story.client.public, 1420)
    assert peer is not None
    peer.is_native = True


def restart(story: Story) -> None:
    """Kill the server; it begins the session from what is on file, and calls back."""
    place = story.client.place
    story.kill_server()
    on_file(story)
    peer = story.server.wg.peers[story.client.public]
    peer.endpoint = place
    peer.call_back(story.net.now, story.claims.resumed(story.session).to_bytes())
    story.net.settle()


def come(story: Story) -> None:
    """Begin by UDP alone."""
    server = story.client.wg.add_peer(story.server.public)
    assert server is not None
    server.is_native = True
    server.mtu = 1420
    story.choice.resume(server, [story.server.place], story.net.now)
    story.net.settle()


class AloneTests(SynchronousTestCase):
    """Nobody has taken us in, and nobody need."""

    def test_wordLost(self) -> None:
        """What the server says of itself after a restart is lost: said again, both ends agree."""
        story = met()
        story.net.lose = lambda end, sent: len(sent.datagram) > 1280 - 28
        story.talk(15)
        self.assertEqual(1216, story.session.path_mtu)
        swallow = story.net.lose
        lost = 0

        def lose(end: End, sent: Sent) -> bool:
            nonlocal lost
            if end is story.server and sent.datagram[0] == DATA and not lost:
                lost += 1
                return True
            return swallow(end, sent)

        story.net.lose = lose
        restart(story)
        story.talk(10)
        self.assertEqual(1, lost)
        self.assertTrue(story.choice.by_udp)
        self.assertGreater(story.session.epoch, 0)
        self.assertEqual((1216, 1216), (story.session.path_mtu, story.client_session.path_mtu))

    def test_resumed(self) -> None:
        """After a handshake and the server's word packets go by UDP, both ways, and both know."""
        story = Story()
        on_file(story)
        come(story)
        self.assertTrue(story.choice.by_udp)
        self.assertTrue(story.choice.is_sure)
        self.assertEqual(1, story.session.epoch)
        self.assertTrue(story.up_packet(b"up"))
        self.assertTrue(story.down_packet(b"down"))

    def test_notOnFile(self) -> None:
        """A server that does not know the key answers nothing, and nothing is sent to it."""
        story = Story()
        come(story)
        story.run(20)
        self.assertFalse(story.choice.by_udp)
        self.assertIsNone(story.client_session.carrier)

    def test_laterThanThat(self) -> None:
        """Asked again and again: once the server does know it, it is a matter of the next try."""
        story = Story()
        come(story)
        story.run(3)
        self.assertFalse(story.choice.by_udp)
        server = story.server
        server.expected = lambda public: server.wg.add_peer(public)  # type: ignore[method-assign]
        story.run(8)
        on_file(story)
        story.run(20)
        self.assertTrue(story.choice.by_udp)

    def test_epochGoesOn(self) -> None:
        """A client that was killed learns the epoch, or its word would not be heard any more."""
        story = met()
        story.session.epoch = 57
        story.lose_link()
        story.client.wg.remove_peer(story.server.public)
        story.choice = CarrierChoice(story.client_session, Transport.AUTO, story.tell)
        story.client_session.carrier = story.client_session.peer = None
        come(story)
        self.assertTrue(story.choice.by_udp)
        self.assertEqual(58, story.session.epoch)

    def test_liesAboutTheEpoch(self) -> None:
        """An epoch beyond all reason is not taken over."""
        story = met()
        story.choice.received(Resumed(bytes(12), MOST_EPOCH + 1, bytes(4), bytes(16)), 0.0)
        story.run(1)
        self.assertLess(story.session.epoch, 10)

    def test_registered(self) -> None:
        """A registration of the session that is known leaves the tunnel as it is."""
        story = Story()
        on_file(story)
        come(story)
        handshakes = story.server.wg.handshakes
        story.register()
        story.run(1)
        self.assertEqual((1, handshakes), (story.choice.moves, story.server.wg.handshakes))
        self.assertIs(story.session.carrier, story.session.peer)


class CalledBackTests(SynchronousTestCase):
    """A server was restarted, and knows the key from its disk."""

    def test_withoutConnection(self) -> None:
        """Packets pass at once, both ways, and the word is said again."""
        story = met()
        story.talk(3)
        before = story.choice.agreement
        restart(story)
        self.assertTrue(story.down_packet(b"down"))
        self.assertTrue(story.up_packet(b"up"))
        self.assertNotEqual(before, story.choice.agreement)
        self.assertGreater(story.session.epoch, 0)
        self.assertLess(story.talk(30), 0.25)
        self.assertTrue(story.choice.is_sure)

    def test_thenRegistered(self) -> None:
        """The registration that follows moves nothing."""
        story = met()
        story.talk(3)
        moves = story.choice.moves
        restart(story)
        story.register()
        self.assertLess(story.talk(10), 0.25)
        self.assertEqual(moves, story.choice.moves)
        self.assertIs(story.session.carrier, story.session.peer)

    def test_registeredFirst(self) -> None:
        """One that is quicker than the call back begins a new tunnel, and the two ends agree."""
        story = met()
        story.talk(3)
        story.kill_server()
        on_file(story)
        story.register()
        story.run(1)
        self.assertLess(story.talk(10), 0.25)
        self.assertTrue(story.choice.by_udp)
        self.assertIs(story.session.carrier, story.session.peer)


class InsideTests(SynchronousTestCase):
    """A control connection that runs through the tunnel."""

    def inside(self) -> Story:
        story = Story()
        on_file(story)
        come(story)
        peer = story.client.wg.peers[story.server.public]
        story.choice.registered(
            story,
            peer,
            [],
            "any other name",
            b"t" * 16,
            0,
            story.net.now,
            inside=True,  # type: ignore[arg-type]  # anything is a link here
        )
        return story

    def test_packetsNeverRideIt(self) -> None:
        """When UDP falls silent they stay where they are: they would go round in circles."""
        story = self.inside()
        self.assertTrue(story.choice.by_udp)
        story.block()
        story.talk(40)
        self.assertIs(story.client_session.carrier, story.client_session.peer)
        self.assertNotIn((2, Way.TCP), story.epochs)

    def test_outsideAgain(self) -> None:
        """A connection outside is one that packets may ride, when UDP falls silent."""
        story = self.inside()
        story.run(1)
        story.choice.link_lost(story, story.net.now)  # type: ignore[arg-type]  # as above
        story.register()
        story.run(1)
        self.assertTrue(story.choice.by_udp)
        story.block()
        story.talk(30)
        self.assertFalse(story.choice.by_udp)
