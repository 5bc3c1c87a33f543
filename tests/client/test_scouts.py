"""Looks outside, beside a connection through the tunnel."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.scouts import Scouts
from pyvpn.net.control import ControlLink
from pyvpn.wire.command import VERSION


class Owner:
    """Counts what was lost."""

    def __init__(self) -> None:
        self.gone: list[object] = []

    def connected(self, link: Any) -> None:
        """As expected."""

    def lost(self, link: Any, reason: Exception) -> None:
        self.gone.append(link)


class Transport(StringTransport):
    """One that can be aborted."""

    def abortConnection(self) -> None:
        self.aborting = True


class ScoutsTests(SynchronousTestCase):
    """One attempt at a time, which knows its links."""

    def setUp(self) -> None:
        self.owner = Owner()
        self.scouts = Scouts(
            lambda: ControlLink(self.owner, Clock(), version=VERSION, initiator=True)  # type: ignore[arg-type]  # as much as is called
        )

    def test_own(self) -> None:
        """It knows the links that it made, until they are taken out."""
        link, other = self.scouts.make(), self.scouts.make()
        self.assertIn(link, self.scouts)
        assert isinstance(link, ControlLink)
        self.scouts.remove(link)
        self.assertNotIn(link, self.scouts)
        self.assertIn(other, self.scouts)

    def test_over(self) -> None:
        """An attempt that came to nothing is over, and nobody is told."""
        for result in (RuntimeError("refused"), object()):
            attempt: Deferred[Any] = Deferred()
            self.scouts.begin(attempt)
            self.assertTrue(self.scouts.is_looking)
            if isinstance(result, Exception):
                attempt.errback(result)
            else:
                attempt.callback(result)
            self.assertFalse(self.scouts.is_looking)

    def test_drop(self) -> None:
        """Who looks no more cancels the attempt, and ends the links that it has come to."""
        cancelled: list[object] = []
        self.scouts.begin(Deferred(cancelled.append))
        link, transport = self.scouts.make(), Transport()
        assert isinstance(link, ControlLink)
        link.makeConnection(transport)
        self.scouts.make()  # has come to nothing yet
        self.scouts.drop()
        self.assertEqual(1, len(cancelled))
        self.assertFalse(self.scouts.is_looking)
        self.assertTrue(transport.aborting)
        self.assertNotIn(link, self.scouts)
        self.scouts.drop()
