"""How a client chooses its carrier: stories of a client and a server of ours in memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.choice import MOST_EPOCH, Transport
from pyvpn.wire.datagram import DATA
from pyvpn.wire.native import Carrier, CarrierSet, Echo, EchoReply, TokenTaken, Way
from tests.tunnel.stories import Story
from tests.tunnel.wires import End, Sent


def met(transport: Transport = Transport.AUTO) -> Story:
    """A client that is in, with UDP at work."""
    story = Story(transport)
    story.register()
    story.run(0.2)
    return story


class ChoiceTests(SynchronousTestCase):
    """Which carrier, and when."""

    def test_udpAtOnce(self) -> None:
        """Where UDP works, it carries both directions after one round trip, and both know."""
        story = met()
        self.assertTrue(story.choice.by_udp)
        self.assertIs(story.session.carrier, story.session.peer)
        self.assertTrue(story.up_packet(b"up"))
        self.assertTrue(story.down_packet(b"down"))
        self.assertEqual([(1, Way.UDP)], story.epochs)

    def test_tcpUntilThen(self) -> None:
        """Before UDP has answered, and while it never does, packets ride the connection."""
        story = Story()
        story.block()
        story.register()
        self.assertLess(story.talk(60), 0.25)
        self.assertFalse(story.choice.by_udp)
        self.assertEqual([], story.epochs)

    def test_answersOneWayOnly(self) -> None:
        """Datagrams that arrive and are not answered do not bring UDP into use."""
        for up, down in (True, False), (False, True):
            story = Story()
            story.block(up, down)
            story.register()
            self.assertLess(story.talk(30), 0.25)
            self.assertFalse(story.choice.by_udp)
            self.assertIs(story.session.carrier, story.down)

    def test_blocked(self) -> None:
        """UDP that stops, in one direction or both, is bridged within 10 s, both ways."""
        for up, down in (True, True), (True, False), (False, True):
            story = met()
            session = story.session
            self.assertLess(story.talk(5), 0.25)
            story.block(up, down)
            self.assertLess(story.talk(30), 9.0)
            self.assertIs(session.carrier, story.down)
            self.assertEqual("UDP does not answer", story.choice.why)
            self.assertLess(story.talk(30), 0.25)

    def test_blockedOneWayTraffic(self) -> None:
        """Also if packets go one way only: the sender notices, at whichever end it is."""
        for talks_up in True, False:
            for up, down in (True, True), (True, False), (False, True):
                story = met()
                story.block(up, down)
                gap = story.talk(30, up=talks_up, down=not talks_up)
                self.assertLess(gap, 10.0, (talks_up, up, down))

    def test_back(self) -> None:
        """UDP that works again is taken up again within 60 s, however long it was gone."""
        for gone in 15, 100, 400:
            story = met()
            story.block()
            story.talk(gone)
            self.assertFalse(story.choice.by_udp)
            story.unblock()
            self.assertLess(story.talk(60), 0.25)
            self.assertTrue(story.choice.by_udp, gone)
            self.assertIs(story.session.carrier, story.session.peer)

    def test_idleStaysAsItIs(self) -> None:
        """A line on which nobody says anything is not asked for a sign of life."""
        story = met()
        story.run(20)
        before = len(story.client.sent)
        story.run(100)
        self.assertEqual(before, len(story.client.sent))
        self.assertEqual(1, story.choice.moves)

    def test_blockedWhileIdle(self) -> None:
        """What happened while nobody spoke is noticed with the first packet."""
        story = met()
        story.run(20)  # until both have said all they had to
        story.block()
        story.run(100)
        self.assertTrue(story.choice.by_udp)
        self.assertLess(story.talk(20), 9.0)

    def test_aLittleLoss(self) -> None:
        """One lost packet in three does not move anything."""
        story = met()
        count = 0

        def lose(*_: object) -> bool:
            nonlocal count
            count += 1
            return count % 3 == 0

        story.net.lose = lose
        story.talk(60)
        self.assertEqual(1, story.choice.moves)

    def test_largeOnesAreLost(self) -> None:
        """Where only very small datagrams come through, either way, packets go by TCP."""
        for towards in "client", "server":
            story = Story()
            eater = getattr(story, "server" if towards == "client" else "client")

            def lose(end: End, sent: Sent, eater: End = eater) -> bool:
                return end is eater and len(sent.datagram) > 500

            story.net.lose = lose
            story.register()
            self.assertLess(story.talk(40), 0.25)
            self.assertFalse(story.choice.by_udp)
            self.assertEqual("UDP answers, and loses large packets", story.choice.why)
            story.unblock()
            story.talk(20)
            self.assertTrue(story.choice.by_udp)
            story.net.lose = lose  # the way has become narrower
            story.choice.network_changed(story.net.now)
            story.talk(8)
            self.assertFalse(story.choice.by_udp)

    def test_noChoice(self) -> None:
        """With transport = udp small packets are better than none."""
        story = Story(Transport.UDP)
        story.net.lose = lambda end, sent: len(sent.datagram) > 1300
        story.register()
        story.run(0.5)
        self.assertTrue(story.choice.by_udp)

    def test_never(self) -> None:
        """transport = tcp: no datagram is ever sent.  transport = udp: no packet by TCP."""
        story = Story(Transport.TCP)
        story.register(udp=False)
        self.assertLess(story.talk(30), 0.25)
        self.assertEqual([], story.client.sent)

        story = met(Transport.UDP)
        assert story.down is not None
        self.assertLess(story.talk(5), 0.25)
        story.block()
        gap = story.talk(20)
        self.assertGreater(gap, 19)
        story.unblock()
        story.talk(10)
        self.assertTrue(story.up_packet(b"again"))

    def test_epochOfALiar(self) -> None:
        """A server that names an absurd epoch does not use up what there is of them."""
        story = Story()
        story.session.epoch = MOST_EPOCH + 1
        story.register()
        self.assertEqual([(1, Way.UDP)], story.epochs)

    def test_unasked(self) -> None:
        """Answers to what was never asked move nothing."""
        story = Story()
        story.block()
        story.register()
        for message in (
            EchoReply(1, 12),
            EchoReply(77, 12),
            TokenTaken(bytes(16)),
            CarrierSet(0, Way.UDP),
            Carrier(9, Way.UDP),
            None,
        ):
            story.choice.received(message, story.net.now)
        self.assertFalse(story.choice.by_udp)

    def test_lateAnswer(self) -> None:
        """An answer that was on its way for long says nothing of how things are now."""
        story = met()
        story.block()
        story.talk(12)
        story.run(20)
        number, (asked, size) = max(story.choice._questions._sent.items())
        story.choice.received(EchoReply(number, size), asked + 3.5)
        self.assertFalse(story.choice.by_udp)


class WrongSwitchingTests(SynchronousTestCase):
    """The three stories of a carrier that is moved by what should not move it."""

    def test_drainingSocket(self) -> None:
        """Packets that are still in the connection's buffer after the move arrive, and no more."""
        story = Story()
        story.block()
        story.register()
        assert story.down is not None
        story.down.holding = True
        self.assertFalse(story.down_packet(b"slow"))
        story.unblock()
        story.run(10)
        self.assertIs(story.session.carrier, story.session.peer)
        story.down.let_go()
        self.assertIs(story.session.carrier, story.session.peer)
        self.assertTrue(story.choice.by_udp)
        self.assertEqual(1, sum(b"slow" in each for each in story.client_tun.packets))

    def test_heartbeats(self) -> None:
        """Signs of life on the connection leave the carrier alone, in both directions."""
        story = met()
        assert story.up is not None
        assert story.down is not None
        for _ in range(20):
            self.assertTrue(story.session.heard_from(story.down, story.net.now))
            self.assertTrue(story.client_session.heard_from(story.up, story.net.now))
            story.run(1)
        self.assertTrue(story.choice.by_udp)
        self.assertIs(story.session.carrier, story.session.peer)

    def test_deadDirection(self) -> None:
        """Datagrams of ours that arrive do not hold the server to UDP when its own do not."""
        story = met()
        story.block(up=False, down=True)
        self.assertLess(story.talk(30), 10.0)
        self.assertIs(story.session.carrier, story.down)
        self.assertTrue(story.up_packet(b"by the connection"))

    def test_oldWord(self) -> None:
        """A word on the carrier that comes late, or twice, changes nothing."""
        story = met()
        story.block()
        story.talk(12)
        self.assertIs(story.session.carrier, story.down)
        self.assertFalse(story.session.choose(1, True))
        self.assertFalse(story.session.choose(2, True))
        self.assertIs(story.session.carrier, story.down)
        self.assertTrue(story.session.choose(3, True))


class AnyStoryTests(SynchronousTestCase):
    """Whatever happens, packets pass in the end, and none is delivered twice."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                ("block", "block up", "block down", "unblock", "lose", "register", "kill", "idle")
            ),
            max_size=8,
        ),
        st.lists(st.integers(1, 60), min_size=8, max_size=8),
    )
    def test_any(self, events: list[str], pauses: list[int]) -> None:
        """Any order of faults; then all is well again."""
        story = met()
        for event, pause in zip(events, pauses, strict=False):
            if event.startswith("block"):
                story.block("down" not in event, "up" not in event)
            elif event == "unblock":
                story.unblock()
            elif event == "lose":
                story.lose_link()
            elif event == "register":
                story.register()
            elif event == "kill":
                story.kill_server()
            if event == "idle":
                story.run(10 * pause, 1.0)
            else:
                story.talk(pause / 4)
        story.unblock()
        story.register()
        story.talk(20)
        self.assertLess(story.talk(10), 0.25)
        self.assertTrue(story.choice.by_udp)
        for tun in story.client_tun, story.server_tun:
            self.assertEqual(len(tun.packets), len(set(tun.packets)))
        counted = [epoch for epoch, _ in story.epochs]
        self.assertEqual(sorted(set(counted)), counted)


class EchoTests(SynchronousTestCase):
    """What either end answers."""

    def test_bothAnswer(self) -> None:
        """An echo is answered at once, with its size, at either end."""
        story = met()
        client, server = story.client_session.peer, story.session.peer
        for peer, other, size in (client, story.client, 12), (server, story.server, 700):
            assert peer is not None
            before = len(other.of_kind(DATA))
            peer.send_packets([Echo(9, size).to_bytes()], story.net.now)
            story.net.settle()
            self.assertEqual(before + 1, len(other.of_kind(DATA)))
        self.assertGreaterEqual(len(story.client.of_kind(DATA)), 2)
