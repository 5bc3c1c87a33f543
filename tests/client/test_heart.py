"""The client's heartbeat."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.heart import Heart
from pyvpn.errors import PeerError


class Link:
    """A control link that counts what it is asked, and is ended."""

    is_closed = False

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[tuple[float, float]] = []
        self.answers: list[Deferred[bytes]] = []
        self.ended: Exception | None = None

    def ask(self, command: int, data: bytes = b"", timeout: float = 15.0) -> Deferred[bytes]:
        self.asked.append((self.clock.seconds(), timeout))
        self.answers.append(Deferred())
        return self.answers[-1]

    def abort(self, reason: Exception) -> None:
        self.ended = reason

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]


class HeartTests(SynchronousTestCase):
    """It beats evenly, on one link."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.heart = Heart(self.clock)
        self.link: Any = Link(self.clock)
        self.heart.start(self.link, 10)

    def test_even(self) -> None:
        """At once, and then at even intervals, until it is stopped."""
        self.clock.pump([10] * 3)
        self.assertEqual([0, 10, 20, 30], self.link.times)
        self.heart.stop()
        self.heart.stop()
        self.clock.advance(100)
        self.assertEqual(4, len(self.link.asked))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_other_link(self) -> None:
        """It goes over to another link altogether."""
        other: Any = Link(self.clock)
        self.heart.start(other, 5)
        self.clock.pump([5, 5])
        self.assertEqual(([0], [0, 5, 10]), (self.link.times, other.times))

    def test_pace(self) -> None:
        """Another pace holds from now on; the same one changes nothing, nor does one after it."""
        self.clock.advance(4)
        self.heart.change(self.link, 10)
        self.assertEqual([0], self.link.times)
        self.heart.change(self.link, 3)
        self.clock.pump([3])
        self.assertEqual([0, 4, 7], self.link.times)
        self.heart.stop()
        self.heart.change(self.link, 1)
        self.clock.advance(10)
        self.assertEqual([0, 4, 7], self.link.times)

    def test_between(self) -> None:
        """A beat between two does not put the next one off, and is less patient."""
        self.clock.advance(5)
        self.heart.ask_now(self.link, 3)
        self.clock.advance(5)
        self.assertEqual([0, 5, 10], self.link.times)
        self.assertEqual(3, self.link.asked[1][1])

    def test_answers(self) -> None:
        """An answer shows how long it took, and none ends the connection."""
        self.assertIsNone(self.heart.round_trip)
        self.link.answers[0].callback(b"")
        assert self.heart.round_trip is not None
        self.assertIsNone(self.link.ended)
        self.clock.advance(10)
        self.link.answers[1].errback(PeerError("no answer"))
        self.assertIsInstance(self.link.ended, PeerError)

    def test_closed(self) -> None:
        """A link that is closing is not asked."""
        self.link.is_closed = True
        self.clock.advance(10)
        self.assertEqual([0], self.link.times)
