"""Settings that the server pushes while the connection stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from pyvpn.client.interface import Agreed
from pyvpn.client.seams import Interface
from pyvpn.errors import PeerError
from pyvpn.tunnel.acceptance import Address
from pyvpn.wire.messages import Settings

_log = Logger()

CHANGE_SECONDS = 1.0
"""Settings are applied at most once in this time, however often a server pushes them."""


class PushedSettings:
    """Brings the interface into the state that they say, one after the other."""

    def __init__(self, reactor: Any, interface: Interface) -> None:
        self._reactor = reactor
        self._interface = interface
        self._changing = DeferredLock()

    async def apply(
        self, settings: Settings, holds: Callable[[], bool], server: Callable[[], Address | None]
    ) -> Agreed:
        """Apply *settings* when it is their turn.

        Args:
            holds: whether they are of the connection that there is, still.
            server: where the server is then.

        Raises:
            PeerError: they are not.
            HostError: the kernel refuses.
        """
        interface = self._interface
        before = interface.describe()
        await self._changing.acquire()
        try:
            if not holds():
                raise PeerError("settings of a connection that has ended")
            agreed = await interface.change(settings, server())
        finally:
            self._reactor.callLater(CHANGE_SECONDS, self._changing.release)
        if interface.describe() != before:
            _log.info("the server changed its settings")
            for line in interface.describe():
                _log.info("{line}", line=line)
        return agreed
