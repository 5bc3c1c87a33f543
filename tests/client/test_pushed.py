"""Settings pushed by the server are applied one after the other, and not too often."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.pushed import CHANGE_SECONDS, PushedSettings
from pyvpn.client.seams import Interface
from pyvpn.errors import PeerError
from pyvpn.wire.messages import Settings


class Remembering:
    """An interface that remembers what it was to be."""

    def __init__(self) -> None:
        self.changes: list[tuple[Settings, object]] = []

    def describe(self) -> list[str]:
        return [str(len(self.changes))]

    async def change(self, settings: Settings, server: object) -> str:
        self.changes.append((settings, server))
        return "agreed"


class PushedTests(SynchronousTestCase):
    """One a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.interface = Remembering()
        self.pushed = PushedSettings(self.clock, cast(Interface, self.interface))
        self.holds = True
        self.server: Any = "first"

    def push(self, mtu: int) -> Deferred[Any]:
        settings = Settings(mtu=mtu)
        return Deferred.fromCoroutine(
            self.pushed.apply(settings, lambda: self.holds, lambda: self.server)
        )

    def test_one_a_second(self) -> None:
        """The first is applied at once, the next in its time, and where the server is then."""
        self.assertEqual("agreed", self.successResultOf(self.push(1400)))
        later = self.push(1300)
        self.clock.advance(CHANGE_SECONDS - 0.1)
        self.assertNoResult(later)
        self.server = "second"
        self.clock.advance(0.2)
        self.assertEqual("agreed", self.successResultOf(later))
        self.assertEqual(
            [(1400, "first"), (1300, "second")],
            [(settings.mtu, server) for settings, server in self.interface.changes],
        )

    def test_too_late(self) -> None:
        """Those of a connection that has ended meanwhile are not applied; later ones are."""
        self.successResultOf(self.push(1400))
        late = self.push(1300)
        self.holds = False
        self.clock.advance(CHANGE_SECONDS)
        self.failureResultOf(late, PeerError)
        self.holds = True
        self.clock.advance(CHANGE_SECONDS)
        self.successResultOf(self.push(1200))
        self.assertEqual([1400, 1200], [each.mtu for each, _ in self.interface.changes])
