"""What a client's connection stands on, as far as it uses it: a way to the server, an interface.

In the world these are :class:`pyvpn.client.approach.Approach` and
:class:`pyvpn.client.interface.TunnelInterface`; the simulator has others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from pyvpn.client.interface import Agreed
from pyvpn.client.machine import Link
from pyvpn.config import Endpoint
from pyvpn.tunnel.acceptance import Address
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.messages import RegisterAnswer, Settings


class Approach(Protocol):
    """What we use of :class:`pyvpn.client.approach.Approach`."""

    @property
    def names(self) -> tuple[Endpoint, ...]:
        """Where the server is said to be."""

    @property
    def resolver(self) -> Any:
        """Looks names up outside the tunnel."""

    def next_of(self) -> object:
        """The endpoint whose turn it is."""

    def worked(self) -> None:
        """The last one led to the server."""

    def again(self) -> None:
        """It is the last one's turn once more."""

    def connect(self, endpoint: Any, make_link: Callable[[], Link]) -> Deferred[Any]:
        """Connect to *endpoint*; PyvpnError: that cannot even be tried."""

    def connect_inside(
        self, address: str, port: int, interface: str, make_link: Callable[[], Link]
    ) -> Deferred[Any]:
        """Connect through the tunnel, likewise."""

    def look_outside(self, make_link: Callable[[], Link]) -> Deferred[Any]:
        """Connect to the next endpoint, beside the connection that there is."""


class Interface(Protocol):
    """What we use of :class:`pyvpn.client.interface.TunnelInterface`."""

    session: Session
    router: Router
    agreed: Agreed | None
    tun: Any

    async def agree(self, offer: RegisterAnswer, server: Address | None) -> Agreed:
        """Make the *offer* so."""

    async def change(self, settings: Settings, server: Address | None) -> Agreed:
        """The same for settings pushed later."""

    def describe(self) -> list[str]:
        """What was agreed, a line each."""
