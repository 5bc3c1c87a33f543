"""When a client comes by UDP alone, and where its control connection is tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.alone import FIRST_SCOUT, GIVE_UP_SECONDS, PATIENCE_SECONDS, Alone
from pyvpn.errors import PeerError
from pyvpn.tunnel.choice import Transport
from pyvpn.wire.messages import RegisterAnswer, Settings
from tests.client.test_memory import ANSWER


class _Choice:
    by_udp = is_sure = has_peer = False


class _Data:
    """What Alone uses of a data channel."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.choice = _Choice()
        self.doubts = 0

    def worth_keeping(self, offer: RegisterAnswer) -> RegisterAnswer:
        return offer

    def doubted(self) -> None:
        self.doubts += 1


class _Memory:
    def __init__(self, kept: RegisterAnswer | None) -> None:
        self.kept = kept

    def recall(self) -> RegisterAnswer | None:
        return self.kept

    def keep(self, answer: RegisterAnswer) -> None:
        self.kept = answer


class AloneTests(SynchronousTestCase):
    """The rules, without a network."""

    def make(
        self, kept: RegisterAnswer | None = ANSWER, transport: Transport = Transport.AUTO
    ) -> None:
        self.clock, self.did = Clock(), list[str]()
        self.data, self.memory = _Data(transport), _Memory(kept)
        self.refusal: Exception | None = None
        self.is_up = False  # whether the server answers outside
        data: Any = self.data
        self.alone = Alone(self.clock, self, data, self.memory)

    def agree(self, offer: RegisterAnswer) -> Deferred[int]:
        self.did.append("agree")
        return succeed(1420) if self.refusal is None else fail(self.refusal)

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        self.did.append("begin")
        self.data.choice.has_peer = True

    def give_up(self) -> bool:
        if self.is_up:
            return False
        self.did.append("give up")
        self.alone.failed(False)
        return True

    def scout(self) -> None:
        self.did.append("scout")

    def works(self) -> None:
        """Packets go by UDP."""
        self.data.choice.by_udp = self.data.choice.is_sure = True

    def test_patience(self) -> None:
        """TCP has two seconds, then UDP is begun beside it; once."""
        self.make()
        self.alone.trying()
        self.clock.advance(PATIENCE_SECONDS - 0.1)
        self.assertEqual([], self.did)
        self.clock.pump([0.2] + [1.0] * 10)
        self.assertEqual(["agree", "begin"], self.did)

    def test_noWayInside(self) -> None:
        """Outside is not given up for a way inside that there is not."""
        self.make()
        self.alone.registered(replace(ANSWER, tunnel_port=0), False)
        self.works()
        self.alone.lost()
        self.alone.trying()
        self.clock.pump([1.0] * 20)
        self.assertNotIn("give up", self.did)

    def test_serverAnswers(self) -> None:
        """Nor when the server answers there, however slowly."""
        self.make()
        self.alone.registered(ANSWER, False)
        self.works()
        self.alone.lost()
        self.alone.trying()
        self.is_up = True
        self.clock.pump([1.0] * 20)
        self.assertNotIn("give up", self.did)
        self.is_up = False
        self.clock.advance(1.0)
        self.assertIn("give up", self.did)

    def test_refusalOnce(self) -> None:
        """What cannot be is tried once for each try of TCP."""
        self.make()
        self.refusal = PeerError("another address")
        for tries in 1, 2:
            self.alone.trying()
            self.clock.pump([1.0] * 10)
            self.assertEqual(tries, self.did.count("agree"))
            self.alone.failed(False)
            self.assertEqual(tries, self.did.count("agree"))

    def test_arrived(self) -> None:
        """Once the server answers nothing is begun by what it said earlier."""
        self.make()
        self.alone.trying()
        self.clock.advance(1.0)
        self.alone.arrived()
        self.clock.pump([1.0] * 10)
        self.assertEqual([], self.did)

    def test_refusedTcp(self) -> None:
        """A connection that fails at once leaves nothing to wait for."""
        self.make()
        self.alone.trying()
        self.alone.failed(False)
        self.assertEqual(["agree", "begin"], self.did)

    def test_transports(self) -> None:
        """``udp`` waits for nothing, ``tcp`` never comes by UDP."""
        self.make(transport=Transport.UDP)
        self.alone.trying()
        self.clock.advance(0)
        self.assertEqual(["agree", "begin"], self.did)
        self.make(transport=Transport.TCP)
        self.alone.trying()
        self.clock.pump([1.0] * 20)
        self.alone.failed(False)
        self.assertEqual([], self.did)

    def test_nothingKept(self) -> None:
        """Who was never in, or has a file that makes no sense, cannot."""
        useless = replace(ANSWER, wireguard_endpoints=()), replace(ANSWER, success=False)
        for kept in (None, *useless):
            self.make(kept)
            self.alone.failed(False)
            self.assertEqual([], self.did)

    def test_registeredInTime(self) -> None:
        """A registration ends it all."""
        self.make()
        self.alone.trying()
        self.alone.registered(ANSWER, False)
        self.clock.pump([1.0] * 20)
        self.assertEqual([], self.did)

    def test_impossibleHere(self) -> None:
        """What the host cannot have is said, and is no bug."""
        self.make()
        self.refusal = PeerError("the lease lies in this host's own network")
        self.alone.failed(False)
        self.assertEqual(["agree"], self.did)

    def test_inside(self) -> None:
        """Packets go by UDP, TCP hangs: it is given up, and the next try is in the tunnel."""
        self.make()
        self.alone.trying()
        self.clock.advance(PATIENCE_SECONDS)
        self.works()
        self.assertIsNone(self.alone.place())
        self.clock.pump([1.0] * int(GIVE_UP_SECONDS))
        self.assertEqual(["agree", "begin", "give up"], self.did)
        self.assertEqual(("10.73.0.1", 51820), self.alone.place())
        self.assertIsNone(self.alone.place())  # then it is outside's turn
        self.assertEqual(0, self.data.doubts)

    def test_doubtsFirst(self) -> None:
        """Where TCP is refused the server may be gone: UDP is asked before it is relied on."""
        self.make()
        self.alone.failed(False)
        self.works()
        self.assertEqual(1, self.data.doubts)
        self.data.choice.is_sure = False
        self.assertIsNone(self.alone.place())

    def test_nowhereInside(self) -> None:
        """A server that takes no connections in the tunnel is not asked for one."""
        self.make(replace(ANSWER, tunnel_port=0))
        self.alone.failed(False)
        self.works()
        self.alone.failed(False)
        self.assertIsNone(self.alone.place())

    def test_lost(self) -> None:
        """A connection that was there and broke is tried where it was; so is one inside."""
        self.make()
        self.works()
        self.alone.registered(ANSWER, True)
        self.alone.lost()
        self.assertIsNone(self.alone.place())
        self.alone.failed(True)
        self.assertIsNone(self.alone.place())

    def test_refused(self) -> None:
        """A server that does not want us is not asked by another way."""
        self.make()
        self.alone.trying()
        self.alone.refused()
        self.clock.pump([1.0] * 20)
        self.assertEqual([], self.did)

    def test_scouts(self) -> None:
        """With the connection in the tunnel, outside is looked at, more and more seldom."""
        self.make()
        self.alone.registered(ANSWER, True)
        self.clock.pump([1.0] * int(FIRST_SCOUT))
        self.assertEqual(["scout"], self.did)
        self.clock.pump([1.0] * 300)
        self.assertIn(len(self.did), range(5, 9))
        self.alone.registered(ANSWER, False)
        self.did.clear()
        self.clock.pump([1.0] * 300)
        self.assertEqual([], self.did)

    def test_settings(self) -> None:
        """What the server changes is kept, too; what it does not say stays."""
        self.make(None)
        self.alone.registered(replace(ANSWER, mtu=1400), False)
        self.alone.changed(Settings(routes=("192.168.0.0/16",), heartbeat=5.0))
        kept = self.memory.kept
        assert kept is not None
        self.assertEqual((("192.168.0.0/16",), 1400), (kept.routes, kept.mtu))
        self.assertEqual(5.0, kept.heartbeat)
