"""What a server says of itself when it is asked (SIGUSR2)."""

from __future__ import annotations

from twisted.logger import Logger

from pyvpn.server.core import Core
from pyvpn.server.pacing import limits_in_words
from pyvpn.server.wireguard import WireGuardServer
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session

_log = Logger()


def log_status(
    core: Core, wireguard: WireGuardServer | None, counters: Counters, now: float
) -> None:
    """Write who is here and what was dropped to the log."""
    statistics = core.clients.statistics
    _log.info(
        "{sessions} sessions, {connections} connections, {leases} addresses in use",
        sessions=len(core.clients.sessions),
        connections=core.clients.connections,
        leases=core.leases.in_use,
    )
    _log.info("passwords compared with their hash: {n}", n=statistics.passwords)
    sessions = list(core.clients.sessions.values())
    for plain in (core.plain, core.plain_udp):
        sessions += [] if plain is None else plain.sessions
    if wireguard is not None:
        wireguard.log_status()
        sessions += wireguard.stock.sessions.values()
    for session in sessions:
        _log.info(
            "{name}: in {packets_in} packets {bytes_in} bytes, out {packets_out} packets "
            "{bytes_out} bytes, {heard}{state}",
            name=session.name,
            packets_in=session.packets_in,
            bytes_in=session.bytes_in,
            packets_out=session.packets_out,
            bytes_out=session.bytes_out,
            heard=_heard(session, now),
            state=_way(session) + limits_in_words(session),
        )
    for reason, n in sorted(counters.dropped.items()):
        _log.info("dropped {n} packets: {reason}", n=n, reason=str(reason))
    for code, n in sorted(statistics.refused.items()):
        _log.info("refused {n} times: {code}", n=n, code=code)
    if core.plain_udp is not None:
        core.plain_udp.log_status()


def _way(session: Session) -> str:
    """How its packets travel, in words."""
    if session.carrier is None:
        return ", not connected"
    if session.link is None and session.heard == float("inf"):
        return ""  # a stock app: always by UDP
    if isinstance(session.carrier, Peer):
        # The place last: it is what people, and programs, look for at the end of the line.
        return f", {session.carrier.cipher or 'no key'} by UDP to {session.carrier.endpoint}"
    return ", by TCP"


def _heard(session: Session, now: float) -> str:
    """When anything came from it last, in words."""
    heard = session.carrier.heard if isinstance(session.carrier, Peer) else session.last_heard
    return "never heard" if heard == float("-inf") else f"heard {max(0.0, now - heard):.0f} s ago"
