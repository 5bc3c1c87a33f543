"""What a network does to native clients, fault by fault, then all of it in any order.

Not here: a laptop that sleeps, for a simulated host cannot be stopped and go on.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.testing.simulator.link import Conditions
from pyvpn.tunnel.choice import Transport
from tests.simulator.native_lab import EVERY, Lab
from tests.simulator.native_story import CLIENTS, NATIVES, Story, stories

BRIDGED = 10.0
"""Seconds of silence at most when UDP falls silent."""
BACK = 60.0
"""Seconds within which UDP is taken up again, and anybody is heard after the last fault."""
AT_ONCE = EVERY + 0.01
"""The silence of one who lost a packet."""


def met(*args: Any, **options: Any) -> Lab:
    """A lab whose clients are all there."""
    lab = Lab(*args, **options)
    lab.meet()
    return lab


class BlockedTests(SynchronousTestCase):
    """One protocol is not let through."""

    def bridged(self, **blocked: dict[str, bool]) -> None:
        lab = met()
        session, address = lab.server.session("native0"), lab.client.address
        lab.up(**blocked.get("up", {}))
        lab.down(**blocked.get("down", {}))
        self.assertLess(lab.gap(40), BRIDGED)
        self.assertEqual("tcp", lab.client.carrier)
        lab.network.heal()
        self.assertLess(lab.until_carrier("udp", BACK), BACK)
        self.assertLess(lab.gap(20), AT_ONCE)
        self.assertEqual("udp", lab.client.carrier)
        self.assertEqual((session, address), (lab.server.session("native0"), lab.client.address))
        self.assertEqual([], lab.client.setbacks)
        self.assertEqual([], lab.repeated())

    def test_udp(self) -> None:
        """Without UDP, packets go by the connection within 10 s, and by UDP again in 60 s."""
        self.bridged(up={"no_udp": True}, down={"no_udp": True})

    def test_udpUp(self) -> None:
        """Also when only what the client sends is lost."""
        self.bridged(up={"no_udp": True})

    def test_udpDown(self) -> None:
        """Also when only what the server sends is lost."""
        self.bridged(down={"no_udp": True})

    def test_oneTalks(self) -> None:
        """Also when only one of the two has anything to say."""
        for up in True, False:
            lab = met()
            lab.both(no_udp=True)
            tun = lab.server.tun if up else lab.client.tun
            lab.clock.advance(10)
            before, gap, last = len(tun.packets), 0.0, lab.clock.seconds()
            for _ in range(300):
                lab.say_one(up)
                lab.clock.advance(EVERY)
                if len(tun.packets) > before:
                    before, last = len(tun.packets), lab.clock.seconds()
                gap = max(gap, lab.clock.seconds() - last)
            self.assertLess(gap, BRIDGED)

    def test_tcp(self) -> None:
        """Without the connection not a packet is lost while UDP carries, nor when it is back."""
        lab = met()
        session = lab.server.session("native0")
        lab.both(no_tcp=True)
        [talk] = lab.talk(120)
        self.assertEqual(0, talk.lost)
        self.assertFalse(lab.client.is_registered)
        lab.network.heal()
        [talk] = lab.talk(90)
        self.assertEqual(0, talk.lost)
        self.assertTrue(lab.client.is_registered)
        self.assertIs(session, lab.server.session("native0"))
        self.assertEqual([], lab.disagreements())

    def test_both(self) -> None:
        """After a minute without any network everybody is back soon, at the same address."""
        for transport in Transport:
            lab = Lab(transport=transport, most_backoff=20.0)
            lab.until_heard()
            address = lab.client.address
            lab.both(cut=True)
            lab.talk(70)
            lab.network.heal()
            self.assertLess(lab.until_heard(), 31)
            self.assertEqual(address, lab.client.address)


class MoveTests(SynchronousTestCase):
    """The client is somewhere else."""

    def test_rebind(self) -> None:
        """A NAT that has forgotten us costs a packet, and no session."""
        lab = met(natted=True)
        session = lab.server.session("native0")
        lab.nats[0].rebind()
        self.assertLess(lab.gap(60), AT_ONCE)
        lab.nats[0].rebind(lab.new_address())
        self.assertLess(lab.gap(60), AT_ONCE)
        self.assertEqual(1, lab.client.data.choice.moves)
        self.assertIs(session, lab.server.session("native0"))
        self.assertTrue(lab.client.is_registered)

    def test_roaming(self) -> None:
        """Who moves to another network, of either version, is heard within a second."""
        lab = met()
        session = lab.server.session("native0")
        for version in 4, 6, 6, 4:
            lab.client.host.move(lab.new_address(version))
            lab.client.network_changed()
            self.assertLess(lab.gap(60), 1.0)
        self.assertEqual("udp", lab.client.carrier)
        self.assertEqual(1, lab.client.data.choice.moves)
        self.assertIs(session, lab.server.session("native0"))

    def test_untold(self) -> None:
        """A move that nobody tells us of is noticed, and the other IP version used, in 5 s."""
        lab = met()
        session = lab.server.session("native0")
        for version in 6, 4:
            lab.client.host.move(lab.new_address(version))
            self.assertLess(lab.gap(60), 5.0)
        self.assertEqual("udp", lab.client.carrier)
        self.assertEqual(1, lab.client.data.choice.moves)
        self.assertIs(session, lab.server.session("native0"))

    def test_roamingByTcp(self) -> None:
        """Also with nothing but the connection."""
        lab = Lab(transport=Transport.TCP)
        lab.until_heard()
        for version in 4, 6:
            lab.client.host.move(lab.new_address(version))
            lab.client.network_changed()
            self.assertLess(lab.gap(30), 1.0)


class RestartTests(SynchronousTestCase):
    """A process was killed."""

    def test_server(self) -> None:
        """After the server's kill everybody is back within 5 s, also without UDP."""
        for by_udp in True, False:
            lab = met(1, 1)
            address = lab.client.address
            if not by_udp:
                lab.both(no_udp=True)
                lab.talk(20)
            lab.restart()
            self.assertLess(lab.until_heard(0, 5.0), 5.0)
            self.assertLess(lab.until_heard(1, 5.0), 5.0)
            lab.talk(20)
            self.assertEqual("udp" if by_udp else "tcp", lab.client.carrier)
            self.assertEqual(address, lab.client.address)
            self.assertEqual([], lab.repeated())

    def test_client(self) -> None:
        """So is a client that was killed, with the same session and the same address."""
        lab = met()
        session, address = lab.server.session("native0"), lab.client.address
        lab.client.kill()
        lab.clock.advance(1)
        lab.client.start()
        self.assertLess(lab.until_heard(0, 5.0), 1.0)
        self.assertLess(lab.until_carrier("udp", 5.0), 5.0)
        self.assertEqual((session, address), (lab.server.session("native0"), lab.client.address))

    def test_many(self) -> None:
        """A hundred clients of both kinds are back within 5 s of the server."""
        lab = Lab(50, 50)
        lab.meet()
        lab.clock.advance(5)
        lab.restart()
        self.assertLess(lab.until_all_heard(10.0), 5.0)
        lab.clock.advance(5)
        self.assertEqual(50, len(lab.server.sessions))
        self.assertEqual({"udp"}, {each.carrier for each in lab.natives})


class BadLineTests(SynchronousTestCase):
    """The line works, after a fashion."""

    def test_loss(self) -> None:
        """A fifth of everything is lost, and nothing else: no session, no change of carrier."""
        lab = met()
        session = lab.server.session("native0")
        lab.both(loss=0.2)
        [talk] = lab.talk(180)
        self.assertApproximates(0.2, talk.lost / sum(talk.sent), 0.05)
        self.assertLess(talk.gap, 2.0)
        self.assertLess(lab.client.data.choice.moves, 4)
        self.assertIs(session, lab.server.session("native0"))

    def test_bulk(self) -> None:
        """Three times more than 1 Mbit/s fills the line, and moves nothing."""
        lab = met()
        lab.both(rate=125_000)
        before, began = len(lab.server.tun.packets), lab.clock.seconds()
        while lab.clock.seconds() < began + 30:
            for _ in range(30):
                lab.say(size=1300)
            lab.clock.advance(EVERY)
        arrived = 1300 * (len(lab.server.tun.packets) - before)
        self.assertGreater(arrived, 0.9 * 30 * 125_000)
        self.assertEqual(("udp", 1), (lab.client.carrier, lab.client.data.choice.moves))
        lab.clock.advance(5)
        self.assertLess(lab.gap(10), AT_ONCE)

    def test_corrupted(self) -> None:
        """What was changed on its way is lost and never delivered."""
        lab = met()
        lab.both(corrupt=0.1)
        [talk] = lab.talk(60)
        self.assertApproximates(0.1, talk.lost / sum(talk.sent), 0.04)
        self.assertEqual(set(), lab.invented())
        self.assertEqual("udp", lab.client.carrier)

    def test_sameKey(self) -> None:
        """Two devices with one key disturb each other, but nobody gets the other's packets."""
        lab = Lab(2, static=True)
        lab.clock.advance(5)
        talks = lab.talk(60)
        self.assertLess(max(each.gap for each in talks), 20)
        self.assertEqual(2, len(lab.server.sessions))
        self.assertEqual([], lab.repeated())
        for client in lab.natives:
            self.assertEqual({client.address}, {packet[16:20] for packet in client.tun.packets})
        lab.natives[1].leave()
        lab.clock.advance(20)
        lab.until_carrier("udp", BACK)
        self.assertLess(lab.talk(20, among=[0])[0].gap, AT_ONCE)


class NarrowTests(SynchronousTestCase):
    """The line swallows what is larger than it likes."""

    def test_blackHole(self) -> None:
        """Found within 10 s, in one direction or both; large packets pass, small ones always."""
        for up, down in (1280, 0), (0, 1280), (1280, 1280):
            lab = met()
            lab.up(0, max_size=up)
            lab.down(0, max_size=down)
            self.assertLess(lab.gap(10), AT_ONCE)
            session = lab.server.session("native0")
            assert session is not None
            self.assertEqual((1216, 1216), (session.path_mtu, lab.client.session.path_mtu))
            self.assertEqual("udp", lab.client.carrier)
            before = len(lab.server.tun.packets)
            lab.say(size=1300)
            lab.clock.advance(1)
            self.assertEqual(before + 2, len(lab.server.tun.packets))  # in two pieces
            lab.both(max_size=0)
            lab.talk(65)
            self.assertEqual(0, session.path_mtu)


class OvertakenTests(SynchronousTestCase):
    """What a process said arrives after what the next one says."""

    def test_lateRegistration(self) -> None:
        """It changes nothing: the next one is not sent away for a minute."""
        for last in ("kill client", 0), ("leave", 0):
            there = Conditions(loss=0.4, delay=0.0, jitter=0.25, queue=4000, corrupt=0.2)
            back = Conditions(reorder=0.1, delay=0.0, queue=4000, corrupt=0.2)
            told = Story(0)
            told.tell([(("kill client", 0), 0.1), (("weather", 0, there, back), 1.0), (last, 0.0)])
            told.end()
            told.until_heard(0, BACK)
            told.pass_time(20.0)
            self.assertEqual("udp", told.natives[0].carrier)
            self.assertEqual([], told.disagreements())
            self.assertEqual([], told.natives[0].setbacks)


class StoryTests(SynchronousTestCase):
    """Two native clients and a stock one, and a server that comes and goes."""

    @settings(max_examples=45, deadline=None)
    @given(stories, st.integers(0, 2**32))
    def test_any(self, story: list[Any], seed: int) -> None:
        """After the last fault everybody is heard and answered; nothing came twice."""
        told = Story(seed)
        told.tell(story)
        told.end()
        for number in range(CLIENTS):
            self.assertLess(told.until_heard(number, BACK), BACK)
        told.pass_time(40.0)
        self.assertEqual([], told.repeated())
        self.assertEqual(set(), told.invented())
        self.assertEqual([], told.disagreements())
        self.assertEqual(["udp"] * NATIVES, [each.carrier for each in told.natives])

    @settings(max_examples=8, deadline=None)
    @given(stories, st.integers(0, 2**32))
    def test_again(self, story: list[Any], seed: int) -> None:
        """The same story with the same seed ends the same, to the byte."""
        digests = set()
        for _ in range(2):
            told = Story(seed)
            told.tell(story)
            digests.add(told.network.trace.digest)
        self.assertEqual(1, len(digests))
