"""Connections on the simulated network behave as TCP does, as far as a VPN can tell."""

from __future__ import annotations

from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
)
from twisted.internet.interfaces import IConsumer, IListeningPort, ITransport
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.tcp import ClientEndpoint, ServerEndpoint, TcpSettings
from pyvpn.testing.simulator.trace import Event
from tests.simulator.lab import Keeping, Line, packed

BULK = bytes(range(256)) * 400


class SetupTests(SynchronousTestCase):
    """How a connection begins."""

    def test_round_trip(self) -> None:
        """Who asks is connected after one round trip, and who is asked half a one later."""
        line = Line(conditions=Conditions(delay=0.1))
        line.clock.advance(0.19)
        self.assertEqual([], line.results)
        line.clock.advance(0.02)

        self.assertEqual(1, len(line.results))
        self.assertEqual([], line.accepted)
        line.clock.advance(0.1)
        self.assertEqual(1, len(line.accepted))

    def test_interfaces(self) -> None:
        """A stream is a transport and a consumer, and knows both ends."""
        line = Line()
        left, right = line.open()

        for one in (left, right):
            verifyObject(ITransport, one.transport)
            verifyObject(IConsumer, one.transport)
        verifyObject(IListeningPort, line.port)
        self.assertEqual(left.transport.getPeer(), right.transport.getHost())
        self.assertEqual(left.transport.getHost(), right.transport.getPeer())
        self.assertEqual(("192.0.2.2", 443), _where(left.transport.getPeer()))

    def test_lost_greetings(self) -> None:
        """What is lost of a handshake is sent again."""
        for seed in range(20):
            line = Line(seed, Conditions(loss=0.3))
            left, right = line.open()
            left.transport.write(b"x")
            line.clock.advance(30)
            self.assertEqual(b"x", right.heard)

    def test_refused(self) -> None:
        """Where nobody listens, one is refused at once; where nobody is, after a long time."""
        line = Line()
        line.port.stopListening()
        line.clock.advance(1)
        [failure] = line.results
        assert isinstance(failure, Failure)
        failure.trap(ConnectionRefusedError)

        nobody = line.left.connect(packed("192.0.2.9"), 443, Factory.forProtocol(Keeping), 20)
        line.clock.advance(19.9)
        self.assertNoResult(nobody)
        line.clock.advance(0.2)
        self.failureResultOf(nobody, TimeoutError)

    def test_no_family(self) -> None:
        """Without an address of that family there is no way."""
        line = Line()
        asked = line.left.connect(packed("2001:db8::2"), 443, Factory.forProtocol(Keeping))
        self.failureResultOf(asked, NoRouteError)

    def test_cancel(self) -> None:
        """Who no longer waits for the answer leaves nothing behind."""
        line = Line()
        line.asked.cancel()
        line.clock.advance(130)

        self.assertEqual({}, line.left.tcp.streams)
        self.assertEqual({}, line.right.tcp.streams)
        self.assertEqual([], line.accepted)

    def test_endpoints(self) -> None:
        """Twisted's two endpoint interfaces are there, too."""
        line = Line()
        self.successResultOf(ServerEndpoint(line.right, 80).listen(Factory.forProtocol(Keeping)))
        asked = ClientEndpoint(line.left, line.right.addresses[0], 80).connect(
            Factory.forProtocol(Keeping)
        )
        line.clock.advance(1)
        self.assertIsInstance(self.successResultOf(asked), Keeping)

    def test_hung_up(self) -> None:
        """A factory that makes no protocol hangs up, at either end."""
        line = Line()

        class Nobody(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        line.right.listen(80, Nobody())
        client = self.connected(line, 80)
        assert client.lost is not None
        client.lost.trap(ConnectionLost)
        asked = line.left.connect(line.right.addresses[0], 443, Nobody())
        line.clock.advance(1)
        self.failureResultOf(asked, ConnectionLost)
        assert line.accepted[-1].lost is not None

    def connected(self, line: Line, port: int) -> Keeping:
        asked = line.left.connect(line.right.addresses[0], port, Factory.forProtocol(Keeping))
        line.clock.advance(1)
        client = self.successResultOf(asked)
        assert isinstance(client, Keeping)
        return client

    def test_patience(self) -> None:
        """The kernel itself gives up after two minutes."""
        line = Line(conditions=Conditions(cut=True), patience=1000)
        line.clock.advance(120)
        self.assertEqual([], line.results)
        line.clock.advance(10)
        [failure] = line.results
        assert isinstance(failure, Failure)
        failure.trap(TimeoutError)

    def test_earlier_life(self) -> None:
        """Who lost power and comes from the same port again ends the earlier connection."""
        line = Line()
        left, right = line.open()
        port = left.transport.getHost().port
        line.left.crash()
        line.left.boot()
        self.patch(line.left, "free_port", lambda taken: port)
        asked = line.left.connect(line.right.addresses[0], 443, Factory.forProtocol(Keeping))
        line.clock.advance(0.5)
        assert right.lost is not None
        right.lost.trap(ConnectionLost)
        line.clock.advance(1)
        self.successResultOf(asked)
        self.assertEqual(2, len(line.accepted))


class BytesTests(SynchronousTestCase):
    """What is written arrives, once and in order."""

    def sent(self, conditions: Conditions, seconds: float, seed: int = 1) -> bytes:
        line = Line(seed, conditions)
        left, right = line.open()
        left.transport.write(BULK)
        line.clock.advance(seconds)
        return bytes(right.heard)

    def test_good_line(self) -> None:
        """A hundred kilobytes take a few round trips on a good line."""
        self.assertEqual(BULK, self.sent(Conditions(), 0.3))

    def test_bad_lines(self) -> None:
        """Nothing of it changes on a line that loses, repeats, delays and damages."""
        for conditions in (
            Conditions(loss=0.2),
            Conditions(duplicate=0.5),
            Conditions(reorder=0.3),
            Conditions(corrupt=0.1),
            Conditions(jitter=0.2),
            Conditions(0.1, 0.1, 0.1, 0.2, 0.05, 0.05, 50_000, 10_000, 0.05),
        ):
            for seed in range(5):
                self.assertEqual(BULK, self.sent(conditions, 900, seed), conditions)

    def test_rate(self) -> None:
        """A slow line drains slowly, and is used."""
        rate = 20_000
        line = Line(conditions=Conditions(rate=rate))
        left, right = line.open()
        left.transport.write(BULK)
        seconds = len(BULK) / rate
        line.clock.advance(seconds * 0.9)
        self.assertLess(len(right.heard), len(BULK))
        self.assertGreater(len(right.heard), len(BULK) / 2)
        line.clock.advance(seconds)
        self.assertEqual(BULK, right.heard)

    def test_black_hole(self) -> None:
        """Where large packets vanish small ones pass, and large ones never do."""
        line = Line()
        left, right = line.open()
        line.network.both(line.left, line.right, max_size=1000)
        left.transport.write(b"small")
        line.clock.advance(5)
        self.assertEqual(b"small", right.heard)
        left.transport.write(BULK)
        line.clock.advance(60)
        self.assertEqual(b"small", right.heard)
        self.assertGreater(line.network.trace.counts[Event.TOO_BIG], 3)


class AcknowledgementTests(SynchronousTestCase):
    """What has arrived is said with the next segment, or after the second, or after 40 ms."""

    def setUp(self) -> None:
        self.line = Line(conditions=Conditions(delay=0.02))
        self.left, self.right = self.line.open()
        self.line.clock.advance(1)
        self.before = self.sent()

    def sent(self) -> int:
        return self.line.network.trace.counts[Event.SENT]

    def since(self) -> int:
        return self.sent() - self.before

    def test_alone(self) -> None:
        """A segment that nobody answers is acknowledged 40 ms after it came."""
        self.left.transport.write(b"x")
        self.line.clock.advance(0.059)
        self.assertEqual(1, self.since())
        self.line.clock.advance(0.002)
        self.assertEqual(2, self.since())
        self.line.clock.advance(10)
        self.assertEqual(2, self.since())

    def test_answer(self) -> None:
        """An answer takes the acknowledgement with it."""
        self.patch(self.right, "dataReceived", self.right.transport.write)
        self.left.transport.write(b"x")
        self.line.clock.advance(10)
        self.assertEqual(b"x", self.left.heard)
        self.assertEqual(3, self.since())

    def test_second(self) -> None:
        """Of many segments every second one is acknowledged, and nothing waits for that."""
        self.left.transport.write(bytes(8 * 1380))
        self.line.clock.advance(0.0201)
        self.assertEqual(8 + 4, self.since())
        self.line.clock.advance(10)
        self.assertEqual(8 + 4, self.since())

    def test_gap(self) -> None:
        """What shows that something is missing is acknowledged at once."""
        self.line.cut()
        self.left.transport.write(b"x")
        self.line.clock.advance(0.001)
        self.line.cut(False)
        self.left.transport.write(b"y")
        self.line.clock.advance(0.021)
        self.assertEqual(2 + 1, self.since())
        self.line.clock.advance(1)
        self.assertEqual(b"xy", self.right.heard)

    def test_unread(self) -> None:
        """Also if nobody reads it, it is acknowledged."""
        self.right.transport.pauseProducing()
        self.left.transport.write(b"x")
        self.line.clock.advance(10)
        self.assertEqual(2, self.since())

    def test_asleep(self) -> None:
        """A host that falls asleep first says it when it wakes."""
        self.left.transport.write(b"x")
        self.line.clock.advance(0.03)
        self.line.right.sleep()
        self.line.clock.advance(0.1)
        self.assertEqual(1, self.since())
        self.line.right.wake()
        self.line.clock.advance(0.029)
        self.assertEqual(1, self.since())
        self.line.clock.advance(0.002)
        self.assertEqual(2, self.since())


class Producer:
    """Says how often it was told to wait."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class PressureTests(SynchronousTestCase):
    """Who writes faster than the line is told so."""

    def test_producer(self) -> None:
        """A producer is paused beyond the buffer's size, and resumed when it is empty."""
        line = Line(conditions=Conditions(rate=20_000))
        left, _ = line.open()
        producer = Producer()
        left.transport.registerProducer(producer, True)
        left.transport.write(bytes(60_000))
        self.assertEqual([], producer.told)
        left.transport.write(bytes(60_000))
        self.assertEqual(["pause"], producer.told)
        line.clock.advance(1)
        self.assertEqual(["pause"], producer.told)
        line.clock.advance(5)
        self.assertEqual(["pause", "resume"], producer.told)
        left.transport.abortConnection()
        line.clock.advance(1)
        self.assertEqual(["pause", "resume", "stop"], producer.told)

    def test_registration(self) -> None:
        """There is one producer at a time; one that pulls is asked, and a late one stopped."""
        line = Line()
        left, _ = line.open()
        pulled, second, late = Producer(), Producer(), Producer()
        left.transport.registerProducer(pulled, False)
        self.assertEqual(["resume"], pulled.told)
        self.assertRaises(RuntimeError, left.transport.registerProducer, second, True)
        left.transport.writeSequence([b"a", b"b"])
        line.clock.advance(1)
        self.assertEqual(["resume", "resume"], pulled.told)
        left.transport.loseConnection()
        line.clock.advance(1)
        self.assertIsNone(left.lost)
        left.transport.unregisterProducer()
        line.clock.advance(1)
        self.assertIsNotNone(left.lost)
        left.transport.registerProducer(late, True)
        self.assertEqual(["stop"], late.told)

    def test_reader(self) -> None:
        """Who does not read stops the other end, and what was kept comes when they read."""
        line = Line(tcp=TcpSettings(window=50_000))
        left, right = line.open()
        right.transport.pauseProducing()
        left.transport.write(BULK)
        line.clock.advance(100)
        self.assertEqual(b"", right.heard)
        # The first word of there being room is lost: it is asked for.
        line.cut()
        right.transport.resumeProducing()
        line.clock.advance(0.1)
        line.cut(False)
        line.clock.advance(200)
        self.assertEqual(BULK, right.heard)


def _where(address: object) -> tuple[str, int]:
    return getattr(address, "host", ""), getattr(address, "port", 0)
