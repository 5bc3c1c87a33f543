"""What it costs that nothing happens to clients of ours."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.testing.simulator.native_client import NativeClient
from pyvpn.testing.simulator.trace import Event
from pyvpn.tunnel.choice import Transport
from tests.simulator.native_lab import Lab


class IdleTests(SynchronousTestCase):
    """Fifty clients, half of them by TLS alone."""

    def test_hour(self) -> None:
        """An hour costs two hundred and sixty thousand events, fourteen of them a heartbeat."""
        lab = Lab(25)
        by_tls = [
            NativeClient(lab.make_host(f"tls{number}"), lab.client.places, Transport.TCP)
            for number in range(25)
        ]
        lab.clock.advance(60)
        before, events = lab.network.trace.counts.copy(), lab.clock.events
        lab.clock.advance(3600)
        counts = lab.network.trace.counts - before

        # A heartbeat each 10 s is three segments, as the answer takes an acknowledgement along;
        # a keepalive each 25 s, a handshake each 125 s.
        heartbeats = 50 * 3 * 3600 / 10
        tunnels = 25 * (3600 / 25 + 3 * 3600 / 125)
        self.assertApproximates(heartbeats + tunnels, counts[Event.SENT], 2500)
        self.assertEqual(counts[Event.SENT], counts[Event.DELIVERED])
        self.assertLess(lab.clock.events - events, 262_000)
        self.assertEqual(0, lab.server.counters.total())
        self.assertEqual({"udp"}, {each.carrier for each in lab.natives})
        self.assertEqual({"tcp"}, {each.carrier for each in by_tls})
        self.assertEqual(50, len(lab.server.sessions))
        self.assertEqual([], [why for each in (*lab.natives, *by_tls) for why in each.setbacks])
