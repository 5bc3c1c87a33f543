"""What tests of a UDP port begin with."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.net.udp import RunProtocol, UdpPort
from pyvpn.tunnel.counters import Counters
from tests.net.udp_systems import KeepingProtocol, Outside

INITIATION = bytes([1, 0, 0, 0]) + bytes(144)
RESPONSE = bytes([2, 0, 0, 0]) + bytes(88)
COOKIE = bytes([3, 0, 0, 0]) + bytes(60)


def data(number: int, size: int = 96) -> bytes:
    """A data message that differs from those of other numbers."""
    return bytes([4, 0, 0, 0]) + number.to_bytes(4, "little") + bytes(size - 8)


class UdpCase(SynchronousTestCase):
    """What every test of a port needs."""

    outside: Outside

    def begin(self, outside: Outside) -> None:
        self.outside = outside
        self.reactor = MemoryReactorClock()
        self.protocol = KeepingProtocol()
        self.counters = Counters()
        self.udp = self.make(self.protocol)

    def make(self, protocol: RunProtocol | None = None, **settings: object) -> UdpPort:
        udp = UdpPort(
            self.reactor,
            KeepingProtocol() if protocol is None else protocol,
            self.counters,
            system=self.outside.system,
            **settings,  # type: ignore[arg-type]  # whatever the test wants otherwise
        )
        self.addCleanup(udp.close)
        return udp

    def dropped(self) -> dict[str, int]:
        return {str(reason): n for reason, n in self.counters.dropped.items() if n}
