"""The addresses of a name."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer

from pyvpn.config import Endpoint


def look_up(
    resolver: IHostnameResolver, endpoint: Endpoint
) -> Deferred[list[IPv4Address | IPv6Address]]:
    """Find the addresses of *endpoint*, IPv4 first; none when its name has none.

    May be cancelled.
    """
    lookup = _Lookup()
    resolver.resolveHostName(lookup, endpoint.host, endpoint.port, transportSemantics="UDP")
    return lookup.found


@implementer(IResolutionReceiver)
class _Lookup:
    """Collects the addresses of one name."""

    def __init__(self) -> None:
        self._addresses: list[IPv4Address | IPv6Address] = []
        self.found: Deferred[list[IPv4Address | IPv6Address]] = Deferred(self._cancel)
        self._resolution: IHostResolution | None = None

    def _cancel(self, _: object) -> None:
        if self._resolution is not None:
            self._resolution.cancel()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._resolution = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        assert isinstance(address, IPv4Address | IPv6Address)
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        if not self.found.called:
            # The original listens on IPv4 alone.
            self._addresses.sort(key=lambda each: isinstance(each, IPv6Address))
            self.found.callback(self._addresses)
