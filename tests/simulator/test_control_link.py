"""The control link over a simulated connection: as in the world, with the world's mishaps."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.control import ControlLink
from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.network import Network
from pyvpn.testing.simulator.tcp import TcpSettings
from pyvpn.wire.command import Command
from tests.net.links import KeepingOwner
from tests.simulator.lab import packed


class Talk:
    """A control link from one host to another, an owner at each end."""

    def __init__(self, seed: int = 1, conditions: Conditions | None = None) -> None:
        self.network = Network(seed, conditions, tcp=TcpSettings(give_up=30))
        self.clock = self.network.clock
        self.client = self.network.host("client", packed("192.0.2.1"))
        self.server = self.network.host("server", packed("192.0.2.2"))
        self.owners = [KeepingOwner(), KeepingOwner()]
        self.accepted: list[ControlLink] = []
        self.server.listen(51820, self._factory(False))
        self.asked = self.client.connect(self.server.addresses[0], 51820, self._factory(True))
        self.clock.run_while(lambda: not all(each.of("ready") for each in self.owners), 60)
        self.link: Any = getattr(self.asked, "result", None)

    def _factory(self, initiator: bool) -> Any:
        def make() -> ControlLink:
            owner = self.owners[not initiator]
            link = ControlLink(owner, self.clock, version=2.0, initiator=initiator, tls=False)
            if not initiator:
                self.accepted.append(link)
            return link

        return Factory.forProtocol(make)

    def ask(self, data: bytes, timeout: float = 15.0) -> Deferred[bytes]:
        asked: Deferred[bytes] = self.link.ask(Command.HEARTBEAT, data, timeout)
        return asked


class ControlLinkTests(SynchronousTestCase):
    """Questions, answers and packets."""

    def test_good_line(self) -> None:
        """A question is answered after one round trip, and packets arrive."""
        talk = Talk(conditions=Conditions(delay=0.05))
        answer = talk.ask(b"hello")
        talk.clock.advance(0.099)
        self.assertNoResult(answer)
        talk.clock.advance(0.002)
        self.assertEqual(b"hello", self.successResultOf(answer))
        self.assertEqual(2, talk.link.send_packets([b"one", b"two"], 0.0))
        talk.accepted[0].tell(Command.NOTICE, b"{}")
        talk.clock.advance(1)
        self.assertEqual([("packets", b"one", b"two")], talk.owners[1].of("packets"))
        self.assertEqual([("statement", Command.NOTICE, b"{}")], talk.owners[0].of("statement"))

    def test_loss(self) -> None:
        """With every fifth packet lost everything arrives, in order."""
        for seed in range(10):
            talk = Talk(seed, Conditions(loss=0.2))
            answers = []
            for number in range(60):
                answers.append(talk.ask(b"%d" % number, 60.0))
                talk.clock.advance(1)
            talk.clock.advance(60)
            wanted = [b"%d" % number for number in range(60)]
            self.assertEqual(wanted, [self.successResultOf(each) for each in answers])
            self.assertEqual(wanted, [data for _, _, data in talk.owners[1].of("question")])
            self.assertEqual([], talk.owners[0].of("lost"))

    def test_cut(self) -> None:
        """A cut of ten seconds delays what was asked, and nothing else happens."""
        talk = Talk()
        talk.network.both(talk.client, talk.server, cut=True)
        answer = talk.ask(b"hello", 60.0)
        talk.clock.advance(10)
        self.assertNoResult(answer)
        talk.network.heal()
        talk.clock.advance(10)
        self.assertEqual(b"hello", self.successResultOf(answer))
        for owner in talk.owners:
            self.assertEqual([], owner.of("lost"))

    def test_half_open(self) -> None:
        """Who listens for silence notices within it that the other end is gone."""
        talk = Talk()
        talk.accepted[0].end_after_silence(20)
        talk.client.crash()
        talk.clock.advance(19.9)
        self.assertEqual([], talk.owners[1].of("lost"))
        talk.clock.advance(0.2)
        self.assertEqual(1, len(talk.owners[1].of("lost")))
        self.assertEqual([], talk.owners[0].of("lost"))

    def test_slow_line(self) -> None:
        """More packets than the line takes are refused, and the queue becomes small."""
        talk = Talk(conditions=Conditions(rate=20_000))
        for end in (talk.link, talk.accepted[0]):
            end.raise_limit()
        sent = taken = 0
        for _ in range(600):
            taken += talk.link.send_packets([bytes(1000)] * 4, talk.clock.seconds())
            sent += 4
            talk.clock.advance(0.1)
        talk.clock.advance(60)
        arrived = sum(len(packets) - 1 for packets in talk.owners[1].of("packets"))
        self.assertEqual(taken, arrived)
        self.assertEqual(sent - taken, talk.link.dropped_packets)
        self.assertApproximates(60 * 20_000, 1000 * arrived, 300_000)
        self.assertLess(talk.link.queue_bytes, 65_536)

    def test_farewell(self) -> None:
        """Closed at one end it is lost at the other, and after that nothing is left."""
        talk = Talk(conditions=Conditions(loss=0.1))
        talk.link.tell(Command.GOODBYE)
        talk.link.close()
        talk.clock.advance(200)
        self.assertEqual([("statement", Command.GOODBYE, b"")], talk.owners[1].of("statement"))
        for owner, host in zip(talk.owners, (talk.client, talk.server), strict=True):
            self.assertEqual(1, len(owner.of("lost")))
            self.assertEqual({}, host.tcp.streams)
