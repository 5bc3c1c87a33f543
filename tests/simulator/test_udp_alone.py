"""Clients on file whose TCP is blocked, servers that restart, and both at once."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.choice import Transport
from tests.simulator.native_lab import EVERY, Lab
from tests.simulator.test_native_stories import AT_ONCE, met

SOAKING = "PYVPN_KILLS" in os.environ
BACK = 1.0
"""Seconds after the server is up in which packets pass again by UDP."""


class AloneTests(SynchronousTestCase):
    """TCP does not lead to the server."""

    def test_started(self) -> None:
        """A client that starts is up in a few seconds, and at once if it may not use TCP."""
        for transport, most in (Transport.AUTO, 2.5), (Transport.UDP, 0.5):
            lab = met(transport=transport)
            session, address = lab.server.session("native0"), lab.client.address
            lab.client.kill()
            lab.both(no_tcp=True)
            lab.client.start()
            self.assertLess(lab.until_heard(0, 5.0), most)
            self.assertEqual(("udp", address), (lab.client.carrier, lab.client.address))
            self.assertIs(session, lab.server.session("native0"))
            self.assertFalse(lab.client.is_registered)
            self.assertEqual([], lab.disagreements())

    def test_startedLater(self) -> None:
        """Also when its session has ended long ago, or it said goodbye: the lease is the same."""
        for farewell in True, False:
            lab = met()
            address = lab.client.address
            lab.client.leave() if farewell else lab.client.kill()
            lab.clock.advance(70)
            self.assertEqual([], lab.server.sessions)
            lab.both(no_tcp=True)
            lab.client.start()
            self.assertLess(lab.until_heard(0, 5.0), 2.5)
            self.assertEqual(address, lab.client.address)
            self.assertLess(lab.gap(60), AT_ONCE)

    def test_notOnFile(self) -> None:
        """Who was never in has nothing to come with."""
        lab = Lab()
        lab.both(no_tcp=True)
        lab.clock.advance(30)
        self.assertEqual("", lab.client.carrier)
        self.assertEqual(0, lab.server.counters.dropped["unknown-peer"])

    def test_lockedOut(self) -> None:
        """A disabled user's device gets no answer; once enabled it does."""
        lab = met()
        lab.client.kill()
        lab.clock.advance(70)
        lab.server.store.set_disabled("native0", True)
        lab.server.look()
        lab.both(no_tcp=True)
        lab.client.start()
        self.assertEqual(float("inf"), lab.until_heard(0, 20.0))
        self.assertGreater(lab.server.counters.dropped["unknown-peer"], 0)
        self.assertEqual([], lab.server.sessions)
        lab.server.store.set_disabled("native0", False)
        lab.server.look()
        self.assertLess(lab.until_heard(0, 40.0), 40)

    def test_leaseGone(self) -> None:
        """A device whose lease is another's now gets no answer until it has registered."""
        lab = met()
        lab.client.kill()
        lab.clock.advance(70)
        lab.server.forget_lease("native0")
        lab.both(no_tcp=True)
        lab.client.start()
        self.assertEqual(float("inf"), lab.until_heard(0, 20.0))
        lab.network.heal()
        self.assertLess(lab.until_heard(0, 60.0), 60)

    def test_tcpIsBack(self) -> None:
        """When TCP works again, the connection is there again, and not a packet is lost."""
        lab = met()
        lab.client.kill()
        lab.both(no_tcp=True)
        lab.client.start()
        lab.until_heard(0, 5.0)
        session = lab.server.session("native0")
        lab.network.heal()
        [talk] = lab.talk(90)
        self.assertEqual(0, talk.lost)
        self.assertTrue(lab.client.is_registered)
        self.assertIs(session, lab.server.session("native0"))
        self.assertEqual([], lab.disagreements())


class RestartTests(SynchronousTestCase):
    """The server is killed, and what it knows is what was on its disk."""

    def test_withoutTcp(self) -> None:
        """Packets flow again in both directions within a second of the start; again and again."""
        lab = met(1, 1)
        address = lab.client.address
        lab.both(no_tcp=True)
        lab.talk(2)
        for seconds in 0.3, 1.0, 20.0, 100.0:
            lab.restart(seconds)
            self.assertLess(lab.until_heard(0, 5.0), BACK, seconds)
            self.assertLess(lab.until_heard(1, 5.0), BACK, seconds)
            self.assertLess(lab.talk(5)[0].gap, AT_ONCE)
            self.assertEqual("udp", lab.client.carrier)
            self.assertEqual([], lab.disagreements())
        lab.network.heal()
        talk = lab.talk(90)[0]
        self.assertEqual((0, address), (talk.lost, lab.client.address))
        self.assertEqual([], lab.repeated())
        self.assertEqual(set(), lab.invented())

    def test_withTcp(self) -> None:
        """With TCP, too; packets ride it for a moment at most, if it is back before UDP."""
        lab = met()
        moves = lab.client.data.choice.moves
        lab.restart()
        self.assertLess(lab.until_heard(0, 5.0), BACK)
        self.assertLess(lab.talk(20)[0].gap, AT_ONCE)
        self.assertIn(lab.client.data.choice.moves - moves, (0, 1))
        self.assertEqual("udp", lab.client.carrier)
        self.assertTrue(lab.client.is_registered)
        self.assertEqual([], lab.disagreements())

    def test_onlyTheOfficeTalks(self) -> None:
        """What the office sends brings a silent client back, too."""
        lab = met()
        lab.both(no_tcp=True)
        lab.restart()
        before = len(lab.client.tun.packets)
        lab.clock.advance(BACK)
        lab.say_one(up=False)
        lab.clock.advance(EVERY)
        self.assertEqual(before + 1, len(lab.client.tun.packets))

    def test_longAway(self) -> None:
        """A server that was gone for ten minutes is found again by those who cannot use TCP."""
        lab = met()
        lab.both(no_tcp=True)
        lab.restart(600.0)
        self.assertLess(lab.until_heard(0, 30.0), 11.0)

    def test_everybodyKilled(self) -> None:
        """Both ends killed, TCP blocked: back as if only the client had been."""
        lab = met()
        address = lab.client.address
        lab.clock.advance(2)  # what is known is written down once a second
        lab.client.kill()
        lab.both(no_tcp=True)
        lab.restart()
        lab.client.start()
        self.assertLess(lab.until_heard(0, 10.0), 3.0)
        self.assertEqual(address, lab.client.address)

    def test_leftBefore(self) -> None:
        """Who had said goodbye before the crash is not called back, and has no session."""
        lab = met(2)
        lab.natives[1].leave()
        lab.clock.advance(2)
        lab.restart()
        lab.clock.advance(0.05)
        self.assertEqual(["native0/native0"], [each.name for each in lab.server.sessions])

    def test_many(self) -> None:
        """Of both kinds, with and without TCP: all heard within 5 s of the start."""
        each = 500 if SOAKING else 30
        lab = Lab(each, each)
        lab.meet(60.0)
        lab.clock.advance(5)
        for number in range(0, each, 2):
            lab.both(number, no_tcp=True)
        lab.restart()
        took = lab.until_all_heard(10.0)
        self.assertLess(took, 5.0)
        lab.clock.advance(5)
        self.assertEqual(each, len(lab.server.sessions))
        self.assertEqual({"udp"}, {client.carrier for client in lab.natives})
