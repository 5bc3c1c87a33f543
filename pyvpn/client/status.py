"""What a client says of itself when it is asked (SIGUSR2)."""

from __future__ import annotations

from twisted.logger import Logger

from pyvpn.client.connection import Connection
from pyvpn.client.interface import TunnelInterface
from pyvpn.client.plain_link import PlainUdpLink
from pyvpn.tunnel.counters import Counters

_log = Logger()


def _where(link: object, is_inside: bool) -> str:
    if link is None:
        return "none"
    return "control through the tunnel (TCP does not work outside)" if is_inside else "outside"


def log_status(connection: Connection, interface: TunnelInterface, counters: Counters) -> None:
    """Write the state of things to the log."""
    state, link, data = connection.state, connection.link, connection.data
    session, took = interface.session, connection.heart.round_trip
    trip = "unknown" if took is None else f"{took * 1000:.1f} ms"
    _log.info("state: {state}; round trip {trip}", state=state, trip=trip)
    if isinstance(link, PlainUdpLink):
        _log.info("{line}", line=link.describe())
    if data is not None:
        _log.info("{line}", line=data.describe())
        _log.info("tunnel by UDP: {how}", how=data.cipher or "none yet")
        _log.info("control connection: {where}", where=_where(session.link, connection.is_inside))
    for line in interface.describe():
        _log.info("{line}", line=line)
    _log.info(
        "in {packets_in} packets {bytes_in} bytes, out {packets_out} packets {bytes_out} bytes",
        packets_in=session.packets_in,
        bytes_in=session.bytes_in,
        packets_out=session.packets_out,
        bytes_out=session.bytes_out,
    )
    for reason, n in sorted(counters.dropped.items()):
        _log.info("dropped {n} packets: {reason}", n=n, reason=str(reason))
