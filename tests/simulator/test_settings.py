"""Settings that the server pushes, and a host that does not take them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.tunnel.choice import Transport
from tests.simulator.native_lab import Lab

REFUSED = "cannot set routes: No such process"


class RefusedTests(SynchronousTestCase):
    """The interface is another one than it was, or gone, when it is their turn."""

    def setUp(self) -> None:
        self.lab = lab = Lab(1, transport=Transport.TCP)
        lab.until_heard()
        self.changing: Deferred[Any] = Deferred()

        async def change(settings: object, server: object) -> Any:
            return await self.changing

        assert lab.client._process is not None
        self.connection = lab.client._process.connection
        lab.client._process.interface.change = change  # type: ignore[method-assign]
        assert lab.server._process is not None
        clients = lab.server._process.clients
        clients.offer(clients.terms)
        lab.clock.advance(0.5)

    def test_refused(self) -> None:
        """The connection is made anew, whose beginning brings everything into its state."""
        self.changing.errback(HostError(REFUSED))
        self.lab.clock.advance(0.1)

        self.assertEqual([f"what the server offers now: {REFUSED}"], self.lab.client.setbacks)
        self.assertLess(self.lab.until_heard(), 2.0)
        self.assertEqual([], self.flushLoggedErrors())

    def test_while_we_leave(self) -> None:
        """Who leaves takes it away itself: that is nothing to speak of."""
        self.connection.stop()
        self.changing.errback(HostError(REFUSED))
        self.lab.clock.advance(1.0)

        self.assertEqual([], self.lab.client.setbacks)
        self.assertEqual([], self.flushLoggedErrors())
