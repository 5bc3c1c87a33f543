"""Our own clients by UDP: which WireGuard key is whose, and what is said through the tunnels."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

from twisted.logger import Logger

from pyvpn.crypto.x25519 import key_from_base64, key_to_base64
from pyvpn.errors import PeerError
from pyvpn.net.control import ControlLink
from pyvpn.tunnel.claims import Claims
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Register, RegisterAnswer
from pyvpn.wire.offload import CAPABILITY

_log = Logger()

_AGREEMENT_BYTES = 12


class Natives:
    """The sessions of clients that log in, as far as they have a WireGuard tunnel, too.

    Args:
        endpoints: says where we speak WireGuard, as :class:`RegisterAnswer` tells it.
        mtu: says how many bytes an inner packet has at most.
        random: returns so many random bytes.
    """

    def __init__(
        self,
        wireguard: WireGuard,
        counters: Counters,
        endpoints: Callable[[], tuple[str, ...]],
        mtu: Callable[[], int],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.claims = Claims(wireguard, random)
        self._random = random
        self._wireguard = wireguard
        self._counters = counters
        self._endpoints = endpoints
        self._mtu = mtu
        self._agreements: dict[Session, str] = {}

    def carries(self, session: Session, request: Register) -> bool:
        """Whether the packets of a client that registers again stay in its tunnel."""
        return (
            request.carrier == "udp"
            and isinstance(session.peer, Peer)
            and session.peer is self._wireguard.peers.get(session.peer.public)
            and key_to_base64(session.peer.public) == request.wireguard_key
        )

    def welcome(
        self, session: Session, request: Register, answer: RegisterAnswer
    ) -> RegisterAnswer:
        """Add to *answer* what the client needs to come by UDP, if it wants to."""
        static = self._wireguard.static
        if not request.wireguard_key or static is None:
            self.end(session)
            return answer
        try:
            public = key_from_base64(request.wireguard_key)
        except ValueError:
            raise PeerError("Register: 'wireguard_key' must be 32 bytes in base64") from None
        offload = CAPABILITY in request.capabilities
        token = self.claims.claim(session, public, self._mtu(), offload)
        agreement = self._agreements.get(session)
        if agreement is None:
            agreement = b64encode(self._random(_AGREEMENT_BYTES)).decode()
            self._agreements[session] = agreement
        return replace(
            answer,
            capabilities=(CAPABILITY,) if offload else (),
            wireguard_key=key_to_base64(static.public),
            wireguard_endpoints=self._endpoints(),
            token=b64encode(token).decode(),
            agreement=agreement,
            epoch=session.epoch,
        )

    def end(self, session: Session) -> None:
        """Forget the session's key; its tunnel ends."""
        self._agreements.pop(session, None)
        self.claims.end(session)

    def received(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        """Take what came through a tunnel that is no IP packet."""
        before = peer.owner
        if unknown := self.claims.received(peer, payloads, now):
            self._counters.drop(Drop.MALFORMED, unknown)
        session = peer.owner
        if session is not before and isinstance(session, Session):
            _log.info(
                "{name}: UDP from {place} works", name=session.name, place=str(peer.endpoint)
            )

    def doubted(self, peer: Peer, now: float) -> None:
        """What we send goes unanswered: only the client may draw a conclusion, so ask it."""
        session = peer.owner
        if isinstance(session, Session) and isinstance(session.link, ControlLink):
            answer = session.link.ask(Command.HEARTBEAT)
            answer.addErrback(lambda failure: failure.trap(PeerError) and None)
