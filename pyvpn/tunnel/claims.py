"""Which session a WireGuard key belongs to: a claim until the holder of the key has proved it.

A client names its key on the control channel, which proves the device; the tunnel proves that it
holds the key.  The token, given on the one and brought back on the other, says that both are one.
Until then the key is a claim: it reserves nothing, and another's equal claim is not refused.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.native import (
    AGREEMENT_BYTES,
    LEAST_ECHO_REPLY,
    TOKEN_BYTES,
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    Kind,
    NativeMessage,
    Resume,
    Resumed,
    Token,
    TokenTaken,
    Way,
    parse,
)


def answer_echo(peer: Peer, reply: EchoReply, now: float) -> None:
    """Send *reply* so that it shows whether a datagram of its size comes through in one piece."""
    if reply.size > LEAST_ECHO_REPLY:
        peer.send_whole(reply.to_bytes(), now)
    else:
        peer.send_packets([reply.to_bytes()], now)


def _asks(payloads: list[bytes]) -> bool:
    return any(payload[0] == Kind.ECHO for payload in payloads)


class Claims:
    """The keys that sessions have named, and those that are proved.

    Args:
        random: returns so many random bytes.
    """

    def __init__(self, wireguard: WireGuard, random: Callable[[int], bytes]) -> None:
        self._wireguard = wireguard
        self._random = random
        self._agreements: dict[Session, bytes] = {}
        # key, token, offload, aes
        self._claims: dict[Session, tuple[bytes, bytes, bool, bool]] = {}
        self._uncut: set[Peer] = set()
        self._by_token: dict[bytes, Session] = {}
        self._by_key: dict[bytes, set[Session]] = {}

    def __len__(self) -> int:
        """How many sessions have named a key."""
        return len(self._claims)

    @property
    def any_uncut(self) -> bool:
        """Whether there is a tied key whose holder takes super-packets uncut."""
        gone = [peer for peer in self._uncut if not peer.offload]
        self._uncut.difference_update(gone)
        return bool(self._uncut)

    def is_claimed(self, public: bytes) -> bool:
        """Whether any session has named that key."""
        return public in self._by_key

    def claim(
        self,
        session: Session,
        public: bytes,
        mtu: int,
        *,
        offload: bool = False,
        aes: bool = False,
    ) -> bytes:
        """Note that *session* says the key is its own; return the token that will prove it.

        Any earlier token of the session is void.  The same key as before leaves the tunnel as it
        is; another one ends it.

        Args:
            mtu: packets to the peer are not padded beyond so many bytes.
            offload: whether *session* said :data:`pyvpn.wire.offload.CAPABILITY`.  That, too, is
                its word for the key only once it is proved.
            aes: whether it said :data:`pyvpn.crypto.suite.AES_CAPABILITY`; likewise.
        """
        before = self._claims.get(session)
        if before is not None:
            del self._by_token[before[1]]
            if before[0] != public:
                self._let_go(session, before[0])
        token = self._random(TOKEN_BYTES)
        self._claims[session] = public, token, offload, aes
        self._by_token[token] = session
        self._by_key.setdefault(public, set()).add(session)
        peer = self._wireguard.add_peer(public)
        if peer is not None and (peer.owner is None or peer.owner in self._claims):
            peer.is_native = True  # not so a stock device's, whose key was copied to us
            peer.mtu = mtu
        return token

    def prove(self, peer: Peer, token: bytes) -> Session | None:
        """Tie *peer*, through whose tunnel *token* came, to the session that was given the token.

        None, and nothing changes, when that one has named another key, when nobody was given it,
        or when the key is tied to another session whose device is connected: two devices with
        one key would take it from each other for ever.
        """
        session = self._by_token.get(token)
        if session is None or self._claims[session][0] != peer.public or not peer.is_native:
            return None
        before = peer.owner
        if isinstance(before, Session) and before is not session:
            if before.link is not None:
                return None
            before.untie(peer)  # whoever holds the key is where it says, and only there
        peer.owner = session
        session.tie(peer)
        _, _, offload, aes = self._claims[session]
        self._set_offload(peer, offload)
        peer.agree_on_aes(aes)
        return session

    def _set_offload(self, peer: Peer, offload: bool) -> None:
        peer.offload = offload
        if offload:
            self._uncut.add(peer)
        else:
            self._uncut.discard(peer)

    def resume(self, session: Session, public: bytes, mtu: int) -> Peer | None:
        """Tie the key to *session* without a token: that it is its device's is on file.

        None, and nothing changes, when the session has named another key, or another one has the
        key: what was proved to this process counts more than what is on file.
        """
        claim = self._claims.get(session)
        if claim is not None and claim[0] != public:
            return None
        peer = self._wireguard.peers.get(public)
        if peer is not None and not (peer.owner is None or peer.owner is session):
            return None
        if claim is None:
            self.claim(session, public, mtu)  # with a token that nobody is told
        peer = self._wireguard.peers.get(public)
        if peer is None:
            return None
        peer.owner = session
        session.resume(peer)
        return peer

    def agreement(self, session: Session) -> bytes:
        """The name of a session that has named a key; the same as long as it lives."""
        found = self._agreements.get(session)
        if found is None:
            found = self._agreements[session] = self._random(AGREEMENT_BYTES)
        return found

    def resumed(self, session: Session) -> Resumed:
        """Say what *session* is."""
        of = {len(each): each for each in session.addresses}
        return Resumed(
            self.agreement(session), session.epoch, of.get(4, bytes(4)), of.get(16, bytes(16))
        )

    def received(self, peer: Peer, payloads: list[bytes], now: float) -> int:
        """Answer what native ends say through their tunnels.

        Returns:
            How many of them meant nothing.
        """
        answers: list[bytes] = []
        unknown = 0
        session = peer.owner
        if isinstance(session, Session) and not session.epoch and _asks(payloads):
            # It may go by what a server knew that is no more: our word of that may be lost.
            answers.append(self.resumed(session).to_bytes())
        for payload in payloads:
            answer = self._answer_to(peer, parse(payload))
            if answer is None:
                unknown += 1
            elif isinstance(answer, EchoReply):
                answer_echo(peer, answer, now)
            else:
                answers.append(answer.to_bytes())
        if answers:
            peer.send_packets(answers, now)
        return unknown

    def _answer_to(self, peer: Peer, message: NativeMessage | None) -> NativeMessage | None:
        if isinstance(message, Token):
            proved = self.prove(peer, message.token)
            return None if proved is None else TokenTaken(message.token)
        session = peer.owner
        if not isinstance(session, Session):
            return None  # what is answered would seem to work
        if isinstance(message, Echo):
            return EchoReply(message.id, message.size)
        if isinstance(message, Resume):
            return self.resumed(session)
        if isinstance(message, Carrier):
            by_peer = message.way == Way.UDP
            session.choose(message.epoch, by_peer, message.mtu)
            # Since the client said so, it may have come back by a connection that carries now.
            if session.epoch == message.epoch and by_peer == (session.carrier is peer):
                return CarrierSet(*message)
        return None

    def end(self, session: Session) -> None:
        """Forget what *session* has named; its tunnel ends."""
        self._agreements.pop(session, None)
        claim = self._claims.pop(session, None)
        if claim is not None:
            del self._by_token[claim[1]]
            self._let_go(session, claim[0])

    def _let_go(self, session: Session, public: bytes) -> None:
        sessions = self._by_key[public]
        sessions.discard(session)
        peer = self._wireguard.peers.get(public)
        if peer is not None and peer.owner is session:
            peer.owner = None
            session.untie(peer)
            self._set_offload(peer, False)
            peer.agree_on_aes(False)
        if not sessions:
            del self._by_key[public]
            if peer is not None and peer.is_native and peer.owner is None:
                self._wireguard.remove_peer(public)
