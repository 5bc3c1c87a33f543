"""How a client fares whose control connection, network or server comes and goes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.datagram import INITIATION
from pyvpn.wire.native import CarrierSet, Way
from tests.tunnel.test_choice import met


class LinkLossTests(SynchronousTestCase):
    """The control connection comes and goes."""

    def test_nothingIsLost(self) -> None:
        """While UDP carries, the loss of the connection and its return cost no packet."""
        story = met()
        story.lose_link()
        self.assertLess(story.talk(20), 0.25)
        session, tunnel = story.session, story.session.peer
        handshakes = len(story.client.of_kind(INITIATION))
        story.register()
        self.assertLess(story.talk(20), 0.25)
        self.assertIs(session, story.session)
        self.assertIs(tunnel, session.carrier)
        self.assertEqual(handshakes, len(story.client.of_kind(INITIATION)))
        self.assertEqual(1, story.choice.moves)

    def test_straggler(self) -> None:
        """What the old connection still says, or its end, is nobody's."""
        story = met()
        old = story.down
        assert old is not None
        story.register()
        self.assertFalse(story.session.owns(old))
        self.assertFalse(story.session.detach(old))
        self.assertIs(story.session.link, story.down)

    def test_bothGone(self) -> None:
        """Without either, the first that comes back carries."""
        story = met()
        story.block()
        story.lose_link()
        self.assertGreater(story.talk(30), 29)
        story.unblock()
        self.assertLess(story.talk(5), 2.5)
        self.assertTrue(story.choice.by_udp)

        story.block()
        story.lose_link()
        story.talk(30)
        story.register()
        story.talk(12)
        self.assertLess(story.talk(10), 0.25)
        self.assertFalse(story.choice.by_udp)

    def test_outageOver(self) -> None:
        """In the first minute without either, UDP that is back carries within a second."""
        story = met()
        story.block()
        story.talk(12)
        story.lose_link()
        story.talk(20)
        story.unblock()
        self.assertLess(story.talk(5), 1.0)

    def test_serverKilled(self) -> None:
        """A server that has forgotten everything is back with the registration."""
        story = met()
        story.talk(10)
        story.kill_server()
        story.talk(3)
        story.register()
        story.run(0.2)
        self.assertTrue(story.choice.by_udp)
        self.assertLess(story.talk(10), 0.25)

    def test_registrationOvertaken(self) -> None:
        """A registration that was under way when UDP was taken up does not part the two ends."""
        story = met()
        story.register(carried=False)
        story.run(1.5)
        self.assertTrue(story.choice.by_udp)
        self.assertIs(story.session.carrier, story.session.peer)
        story.lose_link()
        self.assertLess(story.talk(10), 0.25)

    def test_peerLostAtTheServer(self) -> None:
        """A tunnel that the server has lost is made anew with the next registration."""
        story = met()
        story.server.wg.remove_peer(story.client.public)
        story.register()
        story.talk(10)
        self.assertLess(story.talk(10), 0.25)

    def test_ended(self) -> None:
        """A client that was sent away sends nothing more, until it is taken in again."""
        story = met()
        story.choice.ended("kicked")
        story.lose_link()
        before = len(story.client.sent)
        story.talk(300, down=False)
        self.assertEqual(before, len(story.client.sent))
        self.assertEqual("kicked", story.choice.why)
        story.register()
        story.run(6)
        self.assertTrue(story.choice.by_udp)

    def test_restless(self) -> None:
        """A network that changes every three seconds does not keep UDP that is dead."""
        story = met()
        story.block()
        for _ in range(5):
            story.talk(3)
            story.choice.network_changed(story.net.now)
        self.assertFalse(story.choice.by_udp)

    def test_longAway(self) -> None:
        """After an outage that the keys did not outlive the first packet is not kept waiting."""
        story = met()
        story.lose_link()
        story.block()
        story.talk(400)
        for wait in 0.1, 1.3, 2.9, 4.4:
            story.talk(wait)
            story.unblock()
            story.choice.network_changed(story.net.now)
            self.assertLess(story.talk(3), 1.0)
            story.block()
            story.talk(200)

    def test_serverThatSaysSo(self) -> None:
        """A server that claims what was not asked does not end the looking."""
        story = met()
        story.block()
        story.talk(12)
        story.choice.received(CarrierSet(story.choice._epoch, Way.TCP), story.net.now)
        self.assertLess(story.choice.next_due, story.net.now + 60)

    def test_networkChanged(self) -> None:
        """After a change the server hears from us at once, from wherever we are."""
        story = met()
        story.client.address = b"\xc6\x33\x64\x63"
        self.assertFalse(story.down_packet(b"to the old place"))
        story.choice.network_changed(story.net.now)
        story.run(0.1)
        self.assertTrue(story.down_packet(b"to the new one"))
        self.assertEqual(1, story.choice.moves)
