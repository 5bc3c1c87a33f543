"""Our own clients by UDP: which WireGuard key is whose, and what is said through the tunnels."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

from twisted.logger import Logger

from pyvpn.crypto.suite import AES_CAPABILITY, AES_GCM
from pyvpn.crypto.x25519 import key_from_base64, key_to_base64
from pyvpn.errors import PeerError
from pyvpn.net.control import ControlLink
from pyvpn.server.returning import Returning
from pyvpn.tunnel.claims import Claims
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Register, RegisterAnswer
from pyvpn.wire.native import Kind
from pyvpn.wire.offload import CAPABILITY

_log = Logger()


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
        self._wireguard = wireguard
        self._counters = counters
        self._endpoints = endpoints
        self._mtu = mtu
        self.tunnel_port = 0
        """Where we take control connections at our own address in the tunnel; 0: nowhere."""
        self.returning: Returning | None = None
        """Those who may come by UDP before they have registered; None: nobody may."""

    def carries(self, session: Session, request: Register) -> bool:
        """Whether the packets of a client that registers again stay in its tunnel."""
        return (
            request.carrier == "udp"
            and isinstance(session.peer, Peer)
            and session.peer is self._wireguard.peers.get(session.peer.public)
            and key_to_base64(session.peer.public) == request.wireguard_key
            and request.agreement in ("", self._agreement(session))
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
        aes = AES_CAPABILITY in request.capabilities and AES_GCM in self._wireguard.suites
        token = self.claims.claim(session, public, self._mtu(), offload=offload, aes=aes)
        return replace(
            answer,
            capabilities=(
                *answer.capabilities,
                *(CAPABILITY,) * offload,
                *(AES_CAPABILITY,) * aes,
            ),
            wireguard_key=key_to_base64(static.public),
            wireguard_endpoints=self._endpoints(),
            token=b64encode(token).decode(),
            agreement=self._agreement(session),
            epoch=session.epoch,
            tunnel_port=self.tunnel_port,
        )

    def _agreement(self, session: Session) -> str:
        return b64encode(self.claims.agreement(session)).decode()

    def end(self, session: Session) -> None:
        """Forget the session's key; its tunnel ends."""
        if self.returning is not None and isinstance(session.peer, Peer):
            self.returning.note_stamp(session.peer)
        self.claims.end(session)

    def received(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        """Take what came through a tunnel that is no IP packet."""
        before = peer.owner
        if before is None and not any(each[0] == Kind.TOKEN for each in payloads):
            self.owner(peer, now)
        if unknown := self.claims.received(peer, payloads, now):
            self._counters.drop(Drop.MALFORMED, unknown)
        if peer.owner is None:  # a token that nobody knows any more
            self.owner(peer, now)
        session = peer.owner
        if not isinstance(session, Session):
            return
        is_new = session is not before
        # A token has proved it, perhaps again, or it is what is on file already.
        if self.returning is not None and (
            is_new or any(each[0] == Kind.TOKEN for each in payloads)
        ):
            self.returning.tied(session.device, peer.public)
        if is_new:
            _log.info(
                "{name}: UDP from {place} works", name=session.name, place=str(peer.endpoint)
            )

    def owner(self, peer: Peer, now: float) -> object:
        """Whose *peer* is that has just said something; who is on file begins to be here."""
        if peer.owner is None and self.returning is not None:
            self.returning.arrived(peer, now)
        return peer.owner

    def call_back(self, peer: Peer, now: float) -> None:
        """Begin a handshake with *peer*, who has forgotten nothing, but we have."""
        session = peer.owner
        if isinstance(session, Session):
            first = self.claims.resumed(session).to_bytes() if peer.is_native else b""
            peer.call_back(now, first)

    def doubted(self, peer: Peer, now: float) -> None:
        """What we send goes unanswered: only the client may draw a conclusion, so ask it."""
        session = peer.owner
        if isinstance(session, Session) and isinstance(session.link, ControlLink):
            answer = session.link.ask(Command.HEARTBEAT)
            answer.addErrback(lambda failure: failure.trap(PeerError) and None)
