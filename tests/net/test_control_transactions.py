"""The control link: questions and their answers."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import PeerError
from pyvpn.net.control import MOST_OPEN_QUESTIONS, TRANSACTION_SECONDS
from pyvpn.net.link_owner import LinkClosed, TransactionTimeout
from pyvpn.wire.command import Command, encode_frame
from tests.net.links import Bench, answer, question


class OurQuestionTests(SynchronousTestCase):
    """We ask."""

    def test_answered(self) -> None:
        """Each question gets its own answer, in whatever order they come."""
        bench = Bench()
        first = bench.link.ask(Command.SETTINGS, b"1")
        second = bench.link.ask(Command.HEARTBEAT)
        frames = bench.line.frames()
        self.assertEqual([(6, 1, b"1"), (4, 2, b"")], frames)

        bench.receive(answer(2, b"two") + answer(1, b"one"))

        self.assertEqual(b"one", self.successResultOf(first))
        self.assertEqual(b"two", self.successResultOf(second))
        self.assertEqual([], bench.clock.getDelayedCalls())

    def test_timed_out(self) -> None:
        """Without an answer for 15 s a question has failed, and a late answer is ignored."""
        bench = Bench()
        asked = bench.link.ask(Command.HEARTBEAT)
        bench.clock.advance(TRANSACTION_SECONDS - 0.01)
        self.assertNoResult(asked)
        bench.clock.advance(0.02)
        self.failureResultOf(asked, TransactionTimeout)

        bench.receive(answer(1))

        self.assertEqual(1, bench.link.unasked_answers)
        self.assertFalse(bench.line.is_ended())

    def test_unasked(self) -> None:
        """An answer that nobody asked for is counted, as often as it comes, and nothing else."""
        bench = Bench()
        bench.receive(*(answer(number) for number in (0, 1, -1, 2**31 - 1, -(2**31))))
        bench.receive(answer(1) * 1000)

        self.assertEqual(1005, bench.link.unasked_answers)
        self.assertEqual(0, bench.link.faults)
        self.assertFalse(bench.line.is_ended())
        self.assertEqual(b"", bench.line.take())

    def test_repeated(self) -> None:
        """The first answer counts."""
        bench = Bench()
        asked = bench.link.ask(Command.HEARTBEAT)
        bench.receive(answer(1, b"first") + answer(1, b"second"))

        self.assertEqual(b"first", self.successResultOf(asked))
        self.assertEqual(1, bench.link.unasked_answers)

    def test_closing(self) -> None:
        """When the connection ends, what was asked has failed; so has what is asked then."""
        bench = Bench()
        asked = [bench.link.ask(Command.HEARTBEAT) for _ in range(20)]
        bench.hang_up()
        asked.append(bench.link.ask(Command.HEARTBEAT))

        for each in asked:
            self.failureResultOf(each, LinkClosed)
        self.assertEqual([], bench.clock.getDelayedCalls())

    def test_numbers_come_round(self) -> None:
        """After the largest number comes 1 again, and none that is still open."""
        bench = Bench()
        bench.link._last_id = 0x7FFFFFFE
        for _ in range(3):
            bench.link.ask(Command.HEARTBEAT).addErrback(lambda _: None)
        bench.link._last_id = 0x7FFFFFFE
        bench.link.ask(Command.HEARTBEAT).addErrback(lambda _: None)

        self.assertEqual(
            [0x7FFFFFFF, 1, 2, 3], [frame.transaction for frame in bench.line.frames()]
        )
        bench.hang_up()


class TheirQuestionTests(SynchronousTestCase):
    """The peer asks."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.pending: list[Deferred[bytes]] = []

    def keep_waiting(self) -> None:
        """Let every answer take its time from now on."""

        def later(_command: int, _data: bytes) -> Deferred[bytes]:
            self.pending.append(Deferred())
            return self.pending[-1]

        self.bench.owner.answer = later

    def test_answered(self) -> None:
        """An answer has the question's number, whichever that is."""
        for number in (1, -1, 2**31 - 1, -(2**31)):
            self.bench.receive(question(number, data=b"x"))

            self.assertEqual(answer(number, b"x"), self.bench.line.take())

    def test_statement(self) -> None:
        """Number 0 wants no answer and gets none."""
        self.bench.receive(encode_frame(Command.HEARTBEAT, 0))

        self.assertEqual(b"", self.bench.line.take())
        self.assertEqual([("statement", 4, b"")], self.bench.owner.of("statement"))

    def test_no_answer(self) -> None:
        """The owner may leave a question without an answer; its number is free again."""
        self.bench.owner.answer = lambda _command, _data: None
        self.bench.receive(question(1) * 100)

        self.assertEqual(b"", self.bench.line.take())
        self.assertEqual(100, len(self.bench.owner.of("question")))
        self.assertFalse(self.bench.line.is_ended())

    def test_repeated(self) -> None:
        """A number may be used again once it is answered."""
        self.bench.receive(question(1, data=b"a") + question(1, data=b"b"))

        self.assertEqual(answer(1, b"a") + answer(1, b"b"), self.bench.line.take())
        self.assertEqual(0, self.bench.link.faults)

    def test_repeated_while_open(self) -> None:
        """A number that is still open is a fault, and is answered once."""
        self.keep_waiting()
        self.bench.receive(question(1, data=b"a") + question(1, data=b"b"))
        self.assertEqual(1, self.bench.link.faults)
        self.assertEqual(1, len(self.pending))

        self.pending[0].callback(b"a")

        self.assertEqual(answer(1, b"a"), self.bench.line.take())

    def test_too_many_open(self) -> None:
        """16 questions may be open; the 17th ends the connection."""
        self.keep_waiting()
        for number in range(1, MOST_OPEN_QUESTIONS + 1):
            self.bench.receive(question(number))
        self.assertEqual(16, len(self.pending))
        self.assertFalse(self.bench.line.is_ended())
        self.pending[3].callback(b"")
        self.bench.receive(question(4))
        self.assertFalse(self.bench.line.is_ended())

        self.bench.receive(question(17))

        self.assertIn("16 open questions", str(self.bench.ended()))
        self.assertEqual(17, len(self.pending))

    def test_too_late(self) -> None:
        """An answer that is found after the connection has ended goes nowhere, without a word."""
        self.keep_waiting()
        self.bench.receive(question(1) + question(2) + question(3))
        self.bench.hang_up()

        self.pending[0].callback(b"")
        self.pending[1].errback(PeerError("no"))
        self.pending[2].errback(PeerError("no"))

        self.assertEqual(b"", self.bench.line.take())

    def test_refused(self) -> None:
        """A question that breaks the rules is a fault."""
        self.keep_waiting()
        self.bench.receive(question(1))
        self.pending[0].errback(PeerError("no JSON"))

        self.assertEqual(1, self.bench.link.faults)
        self.assertFalse(self.bench.line.is_ended())
