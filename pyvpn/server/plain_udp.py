"""The first generation's UDP protocol, towards its original clients: socket, log, summary.

What is decided is decided in :mod:`pyvpn.tunnel.plain_udp`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from pyvpn.config import Endpoint
from pyvpn.errors import HostError
from pyvpn.net.plain_udp import PlainPort
from pyvpn.tunnel.plain_udp import Place, PlainUdpClients, Refusal
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session

_log = Logger()

SUMMARY_SECONDS = 60.0
"""Wrong passwords are told together, at most once in so long."""

_HINTS = {
    errno.EADDRINUSE: "another program has that port",
    errno.EADDRNOTAVAIL: "an address that this host has, or a port alone",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}


class PlainUdp(DatagramProtocol):
    """The plain UDP port; until it is bound, nothing is sent.

    Args:
        network, bypass, password: as for :class:`pyvpn.tunnel.plain_udp.PlainUdpClients`.
        now: CLOCK_BOOTTIME seconds.
    """

    transport: PlainPort | None = None
    noisy = False

    def __init__(
        self,
        *,
        network: IPv4Network,
        bypass: IPv4Network,
        password: bytes,
        router: Router,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._clients = PlainUdpClients(
            network=network,
            bypass=bypass,
            password=password,
            router=router,
            send=self._send,
            arrived=self._arrived,
            left=self._left,
        )
        self._told = 0
        self._tell_at = 0.0

    @property
    def sessions(self) -> list[Session]:
        return self._clients.sessions

    def datagramReceived(self, datagram: bytes, addr: Place) -> None:
        self._clients.received(datagram, addr, self._now())

    def tick(self, now: float) -> None:
        """End what is over; sum up, now and then, who did not know the password."""
        self._clients.tick(now)
        refused = self._clients.refused
        wrong = refused[Refusal.PASSWORD] + refused[Refusal.TOO_OFTEN]
        if wrong > self._told and now >= self._tell_at:
            _log.info("[plain] udp: {n} log-ins with a wrong password", n=wrong - self._told)
            self._told, self._tell_at = wrong, now + SUMMARY_SECONDS

    def log_status(self) -> None:
        """Write to the log what was not answered, and what the kernel did not take."""
        for reason, n in sorted(self._clients.refused.items()):
            _log.info("refused {n} times: {reason}", n=n, reason=str(reason))
        errors = {} if self.transport is None else self.transport.errors
        for name, n in sorted(errors.items()):
            _log.info("[plain] udp: not sent {n} times: {name}", n=n, name=name)

    def _send(self, datagram: bytes, place: Place) -> bool:
        return self.transport is not None and self.transport.send(datagram, place) == 0

    def _arrived(self, session: Session) -> None:
        _log.info("{name} is here, unencrypted", name=session.name)

    def _left(self, session: Session, why: str) -> None:
        _log.info("{name} left: {reason}", name=session.name, reason=why)


def listen_udp(reactor: Any, endpoint: Endpoint, protocol: DatagramProtocol) -> PlainPort:
    """Bind *protocol* to *endpoint*; the empty host is every address, IPv6 and IPv4.

    Raises:
        HostError: it cannot be had.
    """
    for host in [endpoint.host] if endpoint.host else ["::", "0.0.0.0"]:  # noqa: S104 - as asked
        port = PlainPort(reactor, endpoint.port, protocol, host)
        try:
            port.startListening()
        except CannotListenError as problem:
            number = getattr(problem.socketError, "errno", None)
            if host == "::" and number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # a host without IPv6
            reason = getattr(problem.socketError, "strerror", None) or str(problem.socketError)
            raise HostError(
                f"cannot listen on UDP {endpoint.host or '*'} port {endpoint.port}: {reason}: "
                f"{_HINTS.get(number or 0, '[plain] udp_listen = ... names another port')}"
            ) from problem
        return port
    raise AssertionError("the last one raises or returns")
