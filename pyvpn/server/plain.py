"""The first generation's TCP protocol, towards its original clients.

No TLS, no log-in, no heartbeat: whoever connects names an address and has it while it is free.
So it has a port, a tunnel network and a bypass network of its own, and only an operator who
names them opens it.  Three things the original forgot are kept here within the same bytes: a
second registration is checked like the first, the inner source must be the registered address,
and a connection that says nothing is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pyvpn.errors import PeerError
from pyvpn.net.control import ControlLink
from pyvpn.server.clients import REGISTER_SECONDS, SECURE_SECONDS
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import Command
from pyvpn.wire.messages import PlainAnswer, decode_plain_address

_log = Logger()

FOREVER = float("inf")
"""Last heard, for a protocol without heartbeats: silence never ends its sessions, TCP does."""


class PlainClients:
    """Everybody on the plain listener; implements :class:`pyvpn.net.link_owner.LinkOwner`.

    Args:
        network: tunnel network of the plain clients; its first host is the server.
        bypass: the one network they may reach, which they are told.
        now: CLOCK_BOOTTIME seconds.
        source_of: as for :class:`pyvpn.server.clients.Clients`.
    """

    def __init__(
        self,
        *,
        network: IPv4Network,
        bypass: IPv4Network,
        now: Callable[[], float],
        source_of: Callable[[ControlLink], tuple[bytes | None, str]],
        router: Router,
        admission: Admission,
        counters: Counters,
    ) -> None:
        self._network = network
        self._bypass = bypass
        self._now = now
        self._source_of = source_of
        self._router = router
        self.admission = admission
        self._counters = counters
        self._reachable: Prefixes[bool] = Prefixes()
        self._reachable.add(bypass.network_address.packed, bypass.prefixlen, True)
        self._sessions: dict[ControlLink, Session] = {}
        self._links: set[ControlLink] = set()
        self._holders: dict[bytes, ControlLink] = {}
        self._next_device = -1  # below zero: never a user's device

    @property
    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def connected(self, link: ControlLink) -> None:
        self._links.add(link)
        link.expect_within(SECURE_SECONDS, "version")
        victim = self.admission.admit(link, self._source_of(link)[0])
        if isinstance(victim, ControlLink):
            victim.abort(PeerError("too many connections that have not registered"))

    def ready(self, link: ControlLink) -> None:
        link.raise_limit()
        link.expect_within(REGISTER_SECONDS, "registration")

    def heard(self, link: ControlLink) -> None:
        """Nothing: see :data:`FOREVER`."""

    def question(
        self, link: ControlLink, command: int, data: bytes
    ) -> bytes | Deferred[bytes] | None:
        if command != Command.REGISTER:
            link.fault(f"unknown command {command}")
            return None
        try:
            wanted = decode_plain_address(data)
        except PeerError as error:
            return self._refuse(link, str(error))
        objection = self._objection(link, wanted)
        if objection:
            return self._refuse(link, objection)
        self._register(link, wanted)
        return PlainAnswer(success=True, message="", bypass=str(self._bypass)).to_bytes()

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        link.fault(f"unknown command {command}")

    def packets(self, link: ControlLink, packets: list[bytes]) -> None:
        session = self._sessions.get(link)
        if session is None:
            self._counters.drop(Drop.NOT_REGISTERED, len(packets))
        else:
            self._router.packets_from_session(session, packets, self._now())

    def lost(self, link: ControlLink, reason: Exception) -> None:
        self.admission.done(link)
        self._links.discard(link)
        session = self._drop_session(link)
        if session is not None:
            _log.info("{name} left: {reason}", name=session.name, reason=str(reason))

    def end(self) -> None:
        """Close all connections; this generation has no words for why."""
        for link in list(self._links):
            link.close()

    def _objection(self, link: ControlLink, wanted: bytes) -> str:
        address = IPv4Address(wanted)
        if address not in self._network:
            return f"{address} is not in the tunnel network {self._network}"
        if address in (
            self._network.network_address,
            self._network.broadcast_address,
            self._network.network_address + 1,
        ):
            return f"{address} is reserved"
        if self._holders.get(wanted, link) is not link:
            return f"{address} is in use"
        return ""

    def _refuse(self, link: ControlLink, message: str) -> bytes:
        link.end_after_answer(PeerError(message))
        return PlainAnswer(success=False, message=message, bypass="").to_bytes()

    def _register(self, link: ControlLink, address: bytes) -> None:
        self._drop_session(link)
        session = Session(
            device=self._next_device,
            user=0,
            name=f"plain/{IPv4Address(address)}",
            addresses=(address,),
            reachable=self._reachable,
            heard=FOREVER,
        )
        self._next_device -= 1
        self._router.add(session)
        session.attach(link, FOREVER)
        self._sessions[link] = session
        self._holders[address] = link
        self.admission.done(link)
        link.expect_within(None)
        _log.info("{name} is here, unencrypted", name=session.name)

    def _drop_session(self, link: ControlLink) -> Session | None:
        session = self._sessions.pop(link, None)
        if session is not None:
            self._router.remove(session)
            session.detach(link)
            self._holders.pop(session.addresses[0], None)
        return session
