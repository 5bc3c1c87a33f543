"""Which carrier a client uses: UDP while it answers, its control connection while it does not.

The client alone decides, for both directions, and says so with a growing epoch.  Packets ride the
control connection (``tcp``) until an echo as large as packets are has come back through the tunnel
just now; then they go by UDP, until that stays silent.  Nothing else moves the carrier: not a
heartbeat, not a handshake, not a straggler in a socket's buffer.

How silence is told from having nothing to say: when data was sent and nothing came for three
seconds, echoes are sent, one a second; after four without a sign of life UDP is given up.  The
server, which may be the only one that sends, has the same doubt of us and asks by the control
connection whether we are there; so its question makes us ask through UDP.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Carrier as CarrierOfPackets
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import Path
from pyvpn.wire.native import (
    LEAST_ECHO,
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    NativeMessage,
    Token,
    TokenTaken,
    Way,
)

ECHO_SECONDS = 1.0
"""Between two echoes while UDP is in doubt."""
ECHOES = 4
"""So many without an answer, and UDP is given up: seven seconds with the three before them."""
PATIENT_ECHOES = 1
"""After so many the server's other addresses are asked, too: perhaps it is one IP version that
does not get through any more, and nobody has told us."""
FRESH_SECONDS = 3.0
"""An answer proves the way only if the question is not older."""
FIRST_PROBE = 1.0
LAST_PROBE = 16.0
"""The pauses between two looks whether UDP is back double up to this."""
SOON_SECONDS = 0.5
"""The pause while there is no connection either ..."""
SOON_FOR = 60.0
"""... for so long: the line may be back any moment, and then packets shall pass in a second."""

MOST_AT_ONCE = 4
"""Further places of the server that are asked when the network has changed."""

MOST_EPOCH = 2**52
"""Moving every microsecond for a century does not bring one so far."""

NEVER = float("inf")
NOT_YET = "UDP has not answered yet"
"""Why packets go by TCP for the first moments, which is not worth a word."""


class Transport(StrEnum):
    """What the operator allows."""

    AUTO = "auto"
    UDP = "udp"
    TCP = "tcp"


class CarrierChoice:
    """The rules for one session of a client.

    Args:
        tell: says the epoch and the carrier by the control connection, if there is one.
    """

    def __init__(
        self, session: Session, transport: Transport, tell: Callable[[int, Way], None]
    ) -> None:
        self.why = "no connection yet"
        """Why the carrier is what it is, for people."""
        self.moves = 0
        """How often packets changed over, either way."""
        self._session = session
        self._transport = transport
        self._tell = tell
        self._peer: Peer | None = None
        self._paths: list[Path] = []
        self._turn = 0
        self._agreement = ""  # names the session at the server
        self._token = b""
        self._tied = False
        self._epoch = 0
        self._unconfirmed = False
        self._echo_id = 0
        self._echoes: dict[int, float] = {}  # that are on their way, and since when
        self._asked = 0  # echoes since the last sign of life
        self._next = NEVER
        self._pause = FIRST_PROBE
        self._moved = float("-inf")  # to UDP
        self._nothing_since = float("-inf")  # neither UDP nor a connection
        self._has_carried = False  # since the tunnel was begun
        self._unanswered = False
        self._small_ones = 0  # that were answered since a large one was

    # -- what happens

    @property
    def by_udp(self) -> bool:
        """Whether packets leave by UDP."""
        return self._peer is not None and self._session.carrier is self._peer

    def registered(
        self,
        link: CarrierOfPackets,
        peer: Peer | None,
        paths: list[Path],
        agreement: str,
        token: bytes,
        epoch: int,
        now: float,
    ) -> None:
        """A control connection stands, and the server has taken us in.

        Args:
            peer: the server's, with its key; None: it speaks no WireGuard, or we must not.
            paths: where it may be; all are tried.
            agreement: names the session at the server; another one than before: it has forgotten
                our tunnel's keys.
            token: to be brought to it through the tunnel.
            epoch: of the last word on the carrier that it has heard.
        """
        if epoch <= MOST_EPOCH:  # else it is a lie, and would leave us no higher one
            self._epoch = max(self._epoch, epoch)
        self._token = token
        self._paths = paths
        forgotten = agreement != self._agreement or peer is not self._peer
        self._agreement = agreement
        keep = not forgotten and self.by_udp
        self._tied = False  # it may have been tied to another, or forgotten, meanwhile
        if peer is None:
            self._let_go()
            self.why = "transport = tcp" if self._transport == Transport.TCP else "not offered"
        elif forgotten:
            self._begin(peer, now)
        if self._transport == Transport.UDP:
            self._session.link = link
            self._session.heard = max(self._session.heard, now)
        else:
            self._session.join(link, now, keep=keep)
        if keep:
            # What was said while the registration was under way may have been undone by it.
            self._say_udp(now)

    def ended(self, why: str) -> None:
        """The server has ended the session: no tunnel any more, until it takes us in again."""
        self._let_go()
        self._agreement = ""
        self.why = why

    @property
    def hosts(self) -> list[bytes]:
        """The addresses at which the server may be, packed, each once."""
        return list(dict.fromkeys(path.host for path in self._paths))

    def add_paths(self, paths: list[Path], most: int) -> None:
        """Know further places where the server may be, *most* of them in all."""
        self._paths = list(dict.fromkeys((*self._paths, *paths)))[:most]

    def link_lost(self, link: CarrierOfPackets, now: float) -> None:
        """The control connection is no more; UDP goes on if it carries, else it had better."""
        self._session.detach(link)
        if self._session.carrier is None and self._peer is not None:
            self._pause = FIRST_PROBE
            self._next = self._nothing_since = now

    def received(self, message: NativeMessage | None, now: float) -> bool:
        """Take what came through the tunnel from the server's end.

        Returns:
            Whether it meant anything: what was not asked for, or is from the past, does not.
        """
        peer = self._peer
        if peer is None:
            return False
        if isinstance(message, Echo):
            peer.send_packets([EchoReply(message.id, message.size).to_bytes()], now)
        elif isinstance(message, TokenTaken):
            if message.token != self._token:
                return False
            if self.by_udp:
                self._tied = True
                self._settle()
            elif not self._tied:
                self._tied = True
                self._echo(peer, now)
            else:
                self._small_ones += 1
                if self._small_ones > 1:  # the first echo may be on its way
                    self.why = "UDP answers, and loses large packets"
        elif isinstance(message, EchoReply):
            asked = self._echoes.pop(message.id, None)
            if asked is None:
                return False
            self._small_ones = 0
            if self.by_udp:
                self._unanswered = False
                self._settle()
            elif self._tied and now - asked <= FRESH_SECONDS:
                self._move_to_udp("it answers again" if self._has_carried else "it answers", now)
        elif isinstance(message, CarrierSet) and message.epoch == self._epoch and self.by_udp:
            self._unconfirmed = False
            self._settle()
        else:
            return False
        return True

    def doubted(self, now: float) -> None:
        """Data was sent by UDP and nothing came for a while, or the server says that of us."""
        if self.by_udp and self._next == NEVER:
            self._asked = 0
            self._unconfirmed = self._unanswered = True
            self._next = now

    def network_changed(self, now: float) -> None:
        """Addresses or routes are others than before, or this machine has slept.

        All places are asked at once: the old one may be out of reach, and the answer tells the
        server where we are now.
        """
        peer = self._peer
        if peer is None:
            return
        self._pause = FIRST_PROBE
        peer.hurry(now)
        self._ask_elsewhere(peer, now)
        if self._next == NEVER:  # else it is in doubt already, and stays so
            self._asked = 0
            self._unanswered = True
        self._next = min(self._next, now)

    def _ask_elsewhere(self, peer: Peer, now: float) -> None:
        """Ask at the other places of the server: whichever answers is where packets go then."""
        before = peer.endpoint
        for peer.endpoint in [path for path in self._paths if path != before][:MOST_AT_ONCE]:
            if self._tied:
                self._echo(peer, now)
        peer.endpoint = before

    # -- time

    @property
    def next_due(self) -> float:
        """When :meth:`tick` has something to do."""
        return self._next

    def put_off(self, now: float) -> None:
        """Do what is due later: it failed just now."""
        self._next = now + LAST_PROBE

    def tick(self, now: float) -> None:
        """Do what is due."""
        peer = self._peer
        if now < self._next or peer is None:
            return
        for number in [each for each, at in self._echoes.items() if now - at > 5 * FRESH_SECONDS]:
            del self._echoes[number]
        if self.by_udp:
            self._look(peer, now)
        else:
            self._probe(peer, now)

    def _look(self, peer: Peer, now: float) -> None:
        """UDP carries, and is in doubt, or the server has not confirmed that it does.

        Only an answer to what we ask ends the doubt: with one direction dead, data may still come.
        """
        if self._asked >= ECHOES and self._may_give_up():
            self._move_to_tcp("UDP does not answer", now)
            return
        if self._asked >= ECHOES:
            self._take_turn(peer)  # nothing better is there: look for it elsewhere, too
        if self._unconfirmed or not self._tied:
            self._send(peer, Token(self._token), now)  # whose key it is may be what is in doubt
            self._send(peer, Carrier(self._epoch, Way.UDP), now)
        self._echo(peer, now)
        if self._asked >= PATIENT_ECHOES:
            self._ask_elsewhere(peer, now)
        self._asked += 1
        self._next = now + ECHO_SECONDS

    def _probe(self, peer: Peer, now: float) -> None:
        """UDP does not carry: see whether it might."""
        if peer.staged:
            peer.initiate(now)
        else:
            self._send(peer, Token(self._token), now)  # the server may have untied the key
            if self._tied:
                self._echo(peer, now)
        self._take_turn(peer)
        nothing = self._session.carrier is None and now - self._nothing_since < SOON_FOR
        if nothing and not peer.staged:  # a handshake takes its time, at each place
            self._next = now + SOON_SECONDS
            return
        self._next = now + self._pause
        self._pause = min(2 * self._pause, LAST_PROBE)

    # -- inside

    def _begin(self, peer: Peer, now: float) -> None:
        """Make a tunnel anew: the server knows nothing of any earlier one."""
        if self.by_udp:
            self._session.carrier = None
        self._peer = peer
        self._session.peer = peer
        self._tied = self._unconfirmed = self._has_carried = False
        self._echoes.clear()
        self._asked = 0
        peer.down()
        self._turn = 0
        self._take_turn(peer)
        peer.up(now)
        self._send(peer, Token(self._token), now)
        self._pause = FIRST_PROBE
        self._next = now + self._pause
        self.why = NOT_YET

    def _take_turn(self, peer: Peer) -> None:
        """Send to the next of the places where the server may be."""
        if self._paths:
            peer.endpoint = self._paths[self._turn % len(self._paths)]
            self._turn += 1

    def _settle(self) -> None:
        """UDP carries and answers: look no more until there is a doubt.

        That something answers is not enough: the server must know the key for ours, do as we have
        chosen, and packets of full size must come through.
        """
        if self._tied and not self._unconfirmed and not self._unanswered:
            self._asked = 0
            self._next = NEVER

    def _may_give_up(self) -> bool:
        return self._session.link is not None and self._transport != Transport.UDP

    def _move_to_udp(self, why: str, now: float) -> None:
        assert self._peer is not None
        self.moves += 1
        self.why = why
        self._session.carrier = self._peer
        self._has_carried = True
        self._moved = now
        self._say_udp(now)

    def _say_udp(self, now: float) -> None:
        """Have the server send by UDP; to be repeated until it says that it does."""
        assert self._peer is not None
        self._epoch += 1
        self._unconfirmed = self._unanswered = True
        self._asked = 0
        if not self._tied:
            self._send(self._peer, Token(self._token), now)
        self._send(self._peer, Carrier(self._epoch, Way.UDP), now)
        self._tell(self._epoch, Way.UDP)
        self._echo(self._peer, now)
        self._next = now + ECHO_SECONDS

    def _let_go(self) -> None:
        """Do without the peer."""
        peer, self._peer = self._peer, None
        if peer is not None:
            if self._session.carrier is peer:
                self._session.carrier = None
            if self._session.peer is peer:
                self._session.peer = None
            peer.down()
        self._tied = self._unconfirmed = False
        self._next = NEVER

    def _move_to_tcp(self, why: str, now: float) -> None:
        self._epoch += 1
        self.moves += 1
        self.why = why
        self._unconfirmed = False
        self._asked = 0
        self._session.carrier = self._session.link
        self._small_ones = 0
        self._tell(self._epoch, Way.TCP)
        # Where it stays silent again and again as soon as it carries, it is asked more seldom.
        lasted = now - self._moved
        self._pause = FIRST_PROBE if lasted > 2 * LAST_PROBE else min(2 * self._pause, LAST_PROBE)
        self._next = now + self._pause

    def _echo(self, peer: Peer, now: float) -> None:
        """Ask for an answer, with a message as large as packets are; so is the answer.

        Where large datagrams are lost, and fragments of them, too, packets had better go by TCP;
        unless there is no choice.
        """
        if peer.staged:
            return  # a handshake is under way; its end is what we wait for
        self._echo_id += 1
        self._echoes[self._echo_id] = now
        size = LEAST_ECHO if self._transport == Transport.UDP else max(LEAST_ECHO, peer.mtu)
        self._send(peer, Echo(self._echo_id, size), now)

    def _send(self, peer: Peer, message: NativeMessage, now: float) -> None:
        peer.send_packets([message.to_bytes()], now)
