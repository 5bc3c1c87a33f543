"""The control link: versions, frames, and what a peer must not do."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import PeerError
from pyvpn.net.control import FRAME_SECONDS
from pyvpn.net.link_owner import VersionRefused
from pyvpn.wire.command import (
    LIMIT,
    LIMIT_BEFORE_LOG_IN,
    Command,
    encode_frame,
    encode_packets,
    encode_version,
)
from tests.net.links import ACCEPTED, V2, Bench, answer, question


class VersionTests(SynchronousTestCase):
    """Both ends agree on a version before anything else is said."""

    def test_accepted(self) -> None:
        """The version that the server speaks is accepted, with one byte."""
        bench = Bench(up=False)
        bench.receive(V2)

        self.assertEqual(ACCEPTED, bench.line.take())
        self.assertEqual([("connected",), ("ready",)], bench.owner.told)
        self.assertTrue(bench.link.is_up)

    def test_in_pieces(self) -> None:
        """The version may arrive byte by byte, and with the first frame behind it."""
        bench = Bench(up=False)
        bench.receive(*(V2[n : n + 1] for n in range(7)))
        self.assertEqual(b"", bench.line.take())

        bench.receive(V2[7:] + question(1, data=b"x"))

        self.assertEqual([("question", 4, b"x")], bench.owner.of("question"))
        self.assertEqual(ACCEPTED + answer(1, b"x"), bench.line.take())

    def test_unsupported(self) -> None:
        """Another version is refused with 2, and the connection closed."""
        for version in (1.0, 2.0000001, 3.0, -2.0, 0.0, 1e308):
            bench = Bench(up=False)
            bench.receive(encode_version(version) + question(1))

            self.assertEqual(b"\x02", bench.line.take())
            self.assertIsInstance(bench.ended(), PeerError)
            self.assertEqual([], bench.owner.of("ready"))
            self.assertEqual([], bench.owner.of("question"))

    def test_no_number(self) -> None:
        """What is no number at all is refused with 0."""
        for text in ("nan", "inf", "-inf"):
            bench = Bench(up=False)
            bench.receive(struct.pack("!d", float(text)))

            self.assertEqual(b"\x00", bench.line.take())
            bench.ended()
            self.assertEqual([], bench.owner.of("ready"))

    def test_client_speaks_first(self) -> None:
        """The client says its version and is up with the server's byte, frames behind it."""
        bench = Bench(initiator=True, up=False)
        self.assertEqual(V2, bench.line.take())
        self.assertFalse(bench.link.is_up)

        bench.receive(ACCEPTED + question(1))

        self.assertTrue(bench.link.is_up)
        self.assertEqual(answer(1), bench.line.take())

    def test_client_refused(self) -> None:
        """Any byte but 1 ends the client's attempt; what follows it is not believed."""
        for byte in (0, 2, 3, 255):
            bench = Bench(initiator=True, up=False)
            bench.receive(bytes([byte]) + question(1))

            self.assertIsInstance(bench.ended(), VersionRefused)
            self.assertEqual([], bench.owner.of("question"))

    def test_not_the_server(self) -> None:
        """If the server cannot be verified, not one byte is said to it."""
        bench = Bench(initiator=True, up=False)
        bench.line.take()
        bench.link._tls = True

        def refuse(_: object) -> None:
            raise ValueError("not the one")

        bench.link._verify = refuse
        bench.link.handshakeCompleted()

        self.assertEqual(b"", bench.line.take())
        self.assertIsInstance(bench.ended(), ValueError)


CONVERSATION = (
    V2
    + question(7, Command.LOG_IN, b"{}")
    + encode_packets([b"one", b"two", b""])
    + encode_frame(Command.GOODBYE, 0)
    + question(8, 99, b"?")
    + encode_packets([b"three"])
    + answer(3, b"late")
)


class FrameTests(SynchronousTestCase):
    """Frames are cut out of the stream, however it arrives."""

    @given(st.lists(st.integers(1, len(CONVERSATION) - 1)))
    def test_any_pieces(self, cuts: list[int]) -> None:
        """However the bytes are cut, the same is delivered and the same answered."""
        edges = [0, *sorted(set(cuts)), len(CONVERSATION)]
        bench = Bench(up=False)
        bench.receive(
            *(CONVERSATION[a:b] for a, b in pairwise(edges)),
        )

        told = [each for each in bench.owner.told if each[0] not in ("heard", "packets")]
        packets = [packet for each in bench.owner.of("packets") for packet in each[1:]]
        self.assertEqual(
            [
                ("connected",),
                ("ready",),
                ("question", Command.LOG_IN, b"{}"),
                ("statement", Command.GOODBYE, b""),
                ("question", 99, b"?"),
            ],
            told,
        )
        self.assertEqual([b"one", b"two", b"", b"three"], packets)
        self.assertEqual(ACCEPTED + answer(7, b"{}") + answer(8, b"?"), bench.line.take())
        self.assertEqual(1, bench.link.unasked_answers)
        self.assertEqual(0, bench.link.faults)

    @given(st.binary(max_size=200), st.integers(1, 50))
    def test_anything(self, junk: bytes, size: int) -> None:
        """Whatever a peer sends, nothing is raised into the reactor."""
        bench = Bench()
        bench.receive(*(junk[n : n + size] for n in range(0, len(junk), size)))
        bench.hang_up()

        self.assertEqual([], bench.clock.getDelayedCalls())

    def test_batch(self) -> None:
        """Packets that arrive together are delivered together, commands between them in order."""
        bench = Bench()
        bench.receive(
            encode_packets([b"a", b"b"])
            + encode_frame(Command.GOODBYE, 0)
            + encode_packets([b"c"])
        )

        self.assertEqual(
            [("packets", b"a", b"b"), ("statement", 5, b""), ("packets", b"c"), ("heard",)],
            bench.owner.told,
        )

    def test_too_long(self) -> None:
        """A frame above the limit ends the connection before its content is awaited."""
        for raised, limit in ((False, LIMIT_BEFORE_LOG_IN), (True, LIMIT)):
            bench = Bench()
            if raised:
                bench.link.raise_limit()
            bench.receive(encode_frame(Command.GOODBYE, 0, bytes(limit - 8)))
            self.assertFalse(bench.line.is_ended())

            bench.receive(struct.pack("!i", limit + 1))

            self.assertIn(f"{limit} are allowed", str(bench.ended()))

    def test_negative(self) -> None:
        """A negative length is a far too large one."""
        for length in (-1, -8, -(2**31)):
            bench = Bench()
            bench.link.raise_limit()
            bench.receive(struct.pack("!i", length) + bytes(20))

            self.assertIsInstance(bench.ended(), PeerError)

    def test_too_short(self) -> None:
        """A frame without room for command and transaction is a fault, also a packet's."""
        for body in (b"", b"\0", bytes(7), struct.pack("!i", 2), struct.pack("!i", 2) + bytes(3)):
            bench = Bench()
            frame = struct.pack("!i", len(body)) + body
            bench.receive(frame, frame)
            self.assertEqual(2, bench.link.faults)
            self.assertEqual([], bench.owner.of("packets"))
            self.assertFalse(bench.line.is_ended())

            bench.receive(frame)

            self.assertIn("8 bytes", str(bench.ended()))

    def test_nothing_after_the_end(self) -> None:
        """What still arrives after we closed changes nothing, not even from the same read."""
        bench = Bench()
        bench.owner.hear = lambda _command, _data: bench.link.close()
        bench.receive(encode_frame(Command.GOODBYE, 0) + question(1) + encode_packets([b"x"]))
        bench.receive(question(2))

        self.assertEqual([("statement", 5, b"")], bench.owner.told)
        self.assertEqual(b"", bench.line.take())


class PatienceTests(SynchronousTestCase):
    """Half a frame is waited for, for a while."""

    def test_half_a_frame(self) -> None:
        """A frame that is not complete after 15 s ends the connection."""
        bench = Bench()
        bench.receive(question(1)[:9])
        bench.clock.advance(FRAME_SECONDS - 0.01)
        self.assertFalse(bench.line.is_ended())

        bench.clock.advance(0.02)

        self.assertIn("not complete", str(bench.ended()))

    def test_dripping(self) -> None:
        """A byte now and then gains no time."""
        bench = Bench()
        frame = question(1, data=bytes(40))
        for number in range(15):
            bench.receive(frame[number : number + 1])
            bench.clock.advance(0.99)
        self.assertFalse(bench.line.is_ended())

        bench.receive(frame[15:16])
        bench.clock.advance(0.99)

        self.assertTrue(bench.line.is_ended())

    def test_progress(self) -> None:
        """Who sends whole frames may always have begun another."""
        bench = Bench()
        frame = question(1)
        bench.receive(frame[:5])
        for _ in range(10):
            bench.clock.advance(10)
            bench.receive(frame[5:] + frame[:5])
        self.assertFalse(bench.line.is_ended())
        bench.receive(frame[5:])
        bench.clock.advance(100)

        self.assertFalse(bench.line.is_ended())

    def test_silence(self) -> None:
        """A peer that says nothing for too long is gone; any byte is a sign of life."""
        bench = Bench()
        bench.link.end_after_silence(35)
        bench.clock.advance(30)
        bench.receive(question(1))
        bench.clock.advance(34)
        self.assertFalse(bench.line.is_ended())

        bench.clock.advance(1)

        self.assertIn("nothing heard for 35 s", str(bench.ended()))

    def test_silence_changed(self) -> None:
        """The time may be changed, and counts from what was last heard."""
        bench = Bench()
        bench.link.end_after_silence(35)
        bench.clock.advance(20)
        bench.link.end_after_silence(7)
        bench.clock.advance(7)

        self.assertTrue(bench.line.is_ended())

    def test_deadline(self) -> None:
        """A step that must be done in time is, or the connection ends; a later one replaces it."""
        bench = Bench()
        bench.link.expect_within(20, "log-in")
        bench.clock.advance(19)
        bench.link.expect_within(20, "registration")
        bench.clock.advance(19)
        self.assertFalse(bench.line.is_ended())
        bench.clock.advance(1)

        self.assertEqual("no registration within 20 s", str(bench.ended()))

    def test_no_deadline(self) -> None:
        """Once all steps are done there is no deadline any more."""
        bench = Bench()
        bench.link.expect_within(20, "registration")
        bench.link.expect_within(None)
        bench.clock.advance(1000)

        self.assertFalse(bench.line.is_ended())

    def test_farewell(self) -> None:
        """A peer that does not take our farewell is cut off 2 s later."""
        bench = Bench()
        bench.link.tell(Command.NOTICE, b"bye")
        bench.link.close(PeerError("enough"))
        self.assertFalse(bench.line.aborting)
        bench.clock.advance(2)

        self.assertTrue(bench.line.aborting)
        self.assertEqual("enough", str(bench.ended()))

    def test_no_timers_left(self) -> None:
        """Nothing rings after the connection has ended."""
        bench = Bench()
        bench.link.expect_within(20)
        bench.link.end_after_silence(30)
        self.failureResultOf(self._asked(bench), PeerError)

        self.assertEqual([], bench.clock.getDelayedCalls())

    def _asked(self, bench: Bench) -> Deferred[bytes]:
        asked = bench.link.ask(Command.SETTINGS)
        bench.receive(question(1)[:5])
        bench.hang_up()
        return asked


class FaultTests(SynchronousTestCase):
    """Three mistakes end a connection."""

    def test_third_fault(self) -> None:
        """The third refused question still gets its answer, and then the connection ends."""
        bench = Bench()

        def refuse(_command: int, _data: bytes) -> bytes:
            bench.link.fault("no")
            return b"refused"

        bench.owner.answer = refuse
        bench.receive(question(1), question(2))
        self.assertEqual(answer(1, b"refused") + answer(2, b"refused"), bench.line.take())
        self.assertFalse(bench.line.is_ended())

        bench.receive(question(3) + question(4))

        self.assertEqual(answer(3, b"refused"), bench.line.take())
        self.assertEqual("no", str(bench.ended()))
        self.assertEqual(3, len(bench.owner.of("question")))

    def test_answer_that_takes_time(self) -> None:
        """The same when the answer to the third comes later."""
        bench = Bench()
        pending: Deferred[bytes] = Deferred()
        bench.link.fault("one")
        bench.link.fault("two")

        def refuse(_command: int, _data: bytes) -> Deferred[bytes]:
            bench.link.fault("three")
            return pending

        bench.owner.answer = refuse
        bench.receive(question(1))
        self.assertFalse(bench.line.is_ended())

        pending.callback(b"refused")

        self.assertEqual(answer(1, b"refused"), bench.line.take())
        self.assertEqual("three", str(bench.ended()))

    def test_faulty_statement(self) -> None:
        """A statement that breaks the rules is a fault, and no exception for the reactor."""
        bench = Bench()

        def refuse(_command: int, _data: bytes) -> None:
            raise PeerError("no JSON")

        bench.owner.hear = refuse
        bench.receive(encode_frame(Command.NOTICE, 0, b"?"))
        self.assertEqual(1, bench.link.faults)
        self.assertFalse(bench.line.is_ended())
        bench.receive(encode_frame(Command.NOTICE, 0, b"?") * 2)

        self.assertEqual("no JSON", str(bench.ended()))

    def test_stopped_meanwhile(self) -> None:
        """Who would have answered was stopped, as at the end of the program: no bug is logged."""
        bench = Bench()
        stopped: Deferred[bytes] = Deferred()
        bench.owner.answer = lambda _command, _data: stopped
        bench.receive(question(1))
        stopped.cancel()

        bench.ended()
        self.assertEqual([], self.flushLoggedErrors())
        self.assertEqual(b"", bench.line.take())

    def test_our_own_bug(self) -> None:
        """A bug of ours is logged, and ends this connection alone."""
        bench = Bench()
        bug: Deferred[bytes] = Deferred()
        bench.owner.answer = lambda _command, _data: bug
        bench.receive(question(1))
        bug.errback(Failure(ZeroDivisionError("bug")))

        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        bench.ended()
        self.assertEqual(b"", bench.line.take())
