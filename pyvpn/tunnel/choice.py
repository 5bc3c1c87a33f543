"""Which carrier a client uses: UDP while it answers, its control connection while it does not.

The client alone decides, for both directions, and says so with a growing epoch.  Packets ride the
control connection (``tcp``) until an echo as large as packets may be has come back through the
tunnel just now; then they go by UDP, until that stays silent.  Nothing else moves the carrier: not
a heartbeat, not a handshake, not a straggler in a socket's buffer.

How silence is told from having nothing to say: when data was sent and nothing came for three
seconds, echoes are sent, one a second; after four without a sign of life UDP is given up.  The
server, which may be the only one that sends, has the same doubt of us and asks by the control
connection whether we are there; so its question makes us ask through UDP.

What small packets do says nothing of large ones (:mod:`pyvpn.tunnel.path_mtu`), so while any pass
the large ones are tried every three seconds.  How large they may be is said together with the
carrier, and both ends keep to it.

(A long file: what is known of the tunnel, of the connection and of the server's memory decides
together, and each thing that happens changes more than one of them.)
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from enum import StrEnum

from pyvpn.tunnel.claims import answer_echo
from pyvpn.tunnel.path_mtu import LEAST
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.questions import Questions
from pyvpn.tunnel.session import Carrier as CarrierOfPackets
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import Path
from pyvpn.wire.native import (
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    NativeMessage,
    Resume,
    Resumed,
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
CHECK_SECONDS = 3.0
"""How often large packets are tried while any pass."""
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
        tell: says the epoch, the carrier and the path MTU by the control connection, if there is
            one.
    """

    def __init__(
        self, session: Session, transport: Transport, tell: Callable[[int, Way, int], None]
    ) -> None:
        self.why = "no connection yet"
        """Why the carrier is what it is, for people."""
        self.moves = 0
        """How often packets changed over, either way."""
        self.offload = False
        """Whether both ends said in the registration that super-packets may cross uncut."""
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
        self._questions = Questions()
        self._path = self._questions.path
        self._asked = 0  # rounds of questions since all was well
        self._silent = 0  # rounds of them since any answer
        self._looks = False  # whether there is a doubt of UDP, which carries
        self._came = 0  # packets from the server when it was asked last
        self._passed = 0  # packets of the session when they were last looked at
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
        inside: bool = False,
    ) -> None:
        """A control connection stands, and the server has taken us in.

        Args:
            peer: the server's, with its key; None: it speaks no WireGuard, or we must not.
            paths: where it may be; all are tried.
            agreement: names the session at the server; another one than before: it has forgotten
                our tunnel's keys.
            token: to be brought to it through the tunnel.
            epoch: of the last word on the carrier that it has heard.
            inside: the connection runs through the tunnel: packets may not ride it, and the server
                knows the tunnel's keys, whatever else it has forgotten.
        """
        if epoch <= MOST_EPOCH:  # else it is a lie, and would leave us no higher one
            self._epoch = max(self._epoch, epoch)
        self._token = token
        self._paths = paths
        forgotten = peer is not self._peer or (agreement != self._agreement and not inside)
        self._agreement = agreement
        keep = not forgotten and self.by_udp
        self._tied = False  # it may have been tied to another, or forgotten, meanwhile
        if peer is None:
            self._let_go()
            self.why = "transport = tcp" if self._transport == Transport.TCP else "not offered"
        elif forgotten:
            self._begin(peer, now)
        if self._transport == Transport.UDP or inside:
            self._session.link, self._session.link_carries = link, False
            self._session.heard = max(self._session.heard, now)
        else:
            self._session.join(link, now, keep=keep)
        if keep:
            # What was said while the registration was under way may have been undone by it.
            self._say_udp(now)

    def resume(self, peer: Peer, paths: list[Path], now: float) -> None:
        """Begin a tunnel before anybody has taken us in: our key is on file at the server.

        Not if there is one already; that one will do.
        """
        if self._peer is None:
            self._paths = paths
            self._token = b""
            self._begin(peer, now)

    @property
    def is_sure(self) -> bool:
        """Whether packets leave by UDP, and nothing makes us doubt that they arrive."""
        return self.by_udp and not self._looks

    @property
    def has_peer(self) -> bool:
        """Whether there is a tunnel, or one is tried."""
        return self._peer is not None

    @property
    def agreement(self) -> str:
        """Names the session that the tunnel is of, as a registration does; empty: unknown."""
        return self._agreement

    @property
    def paths(self) -> list[Path]:
        """Where the server may be; where it is, as far as we know, comes first."""
        peer = self._peer
        at = None if peer is None else peer.endpoint
        known = [path for path in self._paths if at and path.key == at.key]
        return list(dict.fromkeys((*known, *self._paths)))

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
        was_ours = self._session.detach(link)
        if was_ours and self._session.carrier is None and self._peer is not None:
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
            answer_echo(peer, EchoReply(message.id, message.size), now)
        elif isinstance(message, TokenTaken):
            if message.token != self._token:
                return False
            peer.offload = self.offload  # from here on the server knows it, too
            if self.by_udp:
                self._tied = True
                self._settle()
            elif not self._tied:
                self._tied = True
                self._ask(peer, now)
            else:
                self._small_ones += 1
                if self._small_ones > 1:  # the first echo may be on its way
                    self.why = "UDP answers, and loses large packets"
        elif isinstance(message, EchoReply):
            answered = self._questions.answered(message)
            if answered is None:
                return False
            asked, size = answered
            self._silent = 0
            if self.by_udp:
                self._came_through(size, now)
            elif self._tied and now - asked <= FRESH_SECONDS:
                self._might_carry(size, now)
        elif isinstance(message, Resumed):
            self._resumed(peer, message, now)
        elif isinstance(message, CarrierSet) and message.epoch == self._epoch and self.by_udp:
            self._unconfirmed = False
            self._settle()
        else:
            return False
        return True

    def _resumed(self, peer: Peer, message: Resumed, now: float) -> None:
        """The server says which session this tunnel is of.

        Since we have asked, or since it was restarted: then it knows no token of ours, no epoch.
        """
        agreement = b64encode(message.agreement).decode()
        is_new = agreement != self._agreement
        if is_new:
            self._agreement, self._token = agreement, b""
            peer.offload = False  # until a registration says so again
        if message.epoch <= MOST_EPOCH:
            self._epoch = max(self._epoch, message.epoch)
        tied, self._tied = self._tied, True
        if not self.by_udp:
            if is_new or not tied:
                self._ask(peer, now)
        elif is_new:
            self._say_udp(now)
        else:
            self._settle()

    def doubted(self, now: float) -> None:
        """Data was sent by UDP and nothing came for a while, or the server says that of us."""
        if self.by_udp and not self._looks:
            self._unconfirmed = True
            self._begin_to_look(now)

    def used(self, now: float) -> None:
        """To be called when packets have passed, or may have."""
        if self._next == NEVER and self.by_udp:
            passed = self._session.packets_out + self._session.packets_in
            if passed != self._passed:
                self._passed = passed
                self._next = now + CHECK_SECONDS
        elif self._next > now + CHECK_SECONDS and self._looks and self._comes:
            self._next = now + ECHO_SECONDS  # after a long silence

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
        self._path.look_wider()
        if not self._looks:
            self._begin_to_look(now)
        self._next = now
        self.tick(now)

    def _ask_elsewhere(self, peer: Peer, now: float) -> None:
        """Ask at the other places of the server: whichever answers is where packets go then."""
        before = peer.endpoint
        for peer.endpoint in [path for path in self._paths if path != before][:MOST_AT_ONCE]:
            if self._tied:
                self._questions.ask_at_once(peer, now)
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
        if self.by_udp:
            if not self._looks:
                self._begin_to_look(now)
            self._look(peer, now)
        else:
            self._probe(peer, now)

    def _begin_to_look(self, now: float) -> None:
        self._looks = self._unanswered = True
        self._asked = self._silent = 0
        self._next = now

    def _look(self, peer: Peer, now: float) -> None:
        """UDP carries, and it is time to see that it does, or the server has not confirmed it.

        Only an answer to what we ask ends the doubt: with one direction dead, data may still come.
        """
        unheard = self._silent >= ECHOES or (self._asked >= ECHOES and not self._is_agreed)
        if unheard and self._may_give_up():
            self._move_to_tcp("UDP does not answer", now)
            return
        if unheard and not self._comes:
            self._take_turn(peer)  # nothing better is there: look for it elsewhere, too
            peer.initiate(now)  # and perhaps it has only forgotten our keys
        elif self._path.is_narrower and self._silent < ECHOES // 2:
            self._narrow(now)
            return
        if not self._is_agreed:
            self._introduce(peer, now)  # whose key it is may be what is in doubt
            self._send(peer, Carrier(self._epoch, Way.UDP, self._session.path_mtu), now)
        self._ask(peer, now)
        if self._silent > PATIENT_ECHOES:
            self._ask_elsewhere(peer, now)

    def _narrow(self, now: float) -> None:
        """Only smaller packets come through than do, as was thought."""
        if self._path.narrow():
            self._say_udp(now)
        elif self._may_give_up():
            self._move_to_tcp("UDP answers, and loses large packets", now)
        elif self._session.path_mtu != LEAST:
            self._session.path_mtu = LEAST  # small packets are better than none
            self._say_udp(now)
        else:
            self._unanswered = False
            self._next = now + ECHO_SECONDS  # if there is more to wait for
            self._settle()

    def _probe(self, peer: Peer, now: float) -> None:
        """UDP does not carry: see whether it might."""
        if peer.staged:
            peer.initiate(now)
        else:
            self._introduce(peer, now)  # the server may have untied the key
            if self._tied:
                self._ask(peer, now)
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
        self._tied = self._unconfirmed = self._has_carried = self._looks = False
        self._questions.begin()
        peer.offload = False
        peer.down()
        self._turn = 0
        self._take_turn(peer)
        peer.up(now)
        self._send(peer, Token(self._token) if self._token else Resume(), now)
        self._pause = FIRST_PROBE
        self._next = now + self._pause
        self.why = NOT_YET

    def _introduce(self, peer: Peer, now: float) -> None:
        """Say whose tunnel this is: by the token, by what is on file, or both."""
        if self._token:
            self._send(peer, Token(self._token), now)
        if not self._token or self._session.link is None:
            self._send(peer, Resume(), now)

    def _take_turn(self, peer: Peer) -> None:
        """Send to the next of the places where the server may be."""
        if self._paths:
            peer.endpoint = self._paths[self._turn % len(self._paths)]
            self._turn += 1

    def _came_through(self, size: int, now: float) -> None:
        """UDP carries, and an echo of *size* bytes has come back."""
        before = self._path.size
        if size < LEAST or not self._path.answered(size):
            return
        self._unanswered = False
        if size > before:
            self._say_udp(now)
        self._settle()

    def _might_carry(self, size: int, now: float) -> None:
        """UDP does not carry, and an echo of *size* bytes has come back."""
        if size >= LEAST:
            if not self._path.answered(size):
                self._path.narrow()
        elif self._transport != Transport.UDP:
            return
        self._small_ones = 0
        self._move_to_udp("it answers again" if self._has_carried else "it answers", now)

    @property
    def _comes(self) -> bool:
        """Whether packets came since the last question; which may be old, or one way only."""
        return self._session.packets_in != self._came

    @property
    def _is_agreed(self) -> bool:
        """Whether the server knows the key for ours, and does as we have chosen."""
        return self._tied and not self._unconfirmed

    def _settle(self) -> None:
        """UDP carries and answers: look no more until there is a doubt, or a while is over.

        That something answers is not enough: the server must know the key for ours, do as we have
        chosen, and packets as large as they may be must come through.
        """
        if self._is_agreed and not self._unanswered:
            self._looks = False
            self._next = NEVER

    def _may_give_up(self) -> bool:
        session = self._session
        return (
            session.link is not None and session.link_carries and self._transport != Transport.UDP
        )

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
        peer = self._peer
        assert peer is not None
        self._epoch += 1
        least = LEAST if self._session.path_mtu == LEAST else 0
        size = self._path.size or least
        self._session.path_mtu = size if size < peer.mtu else 0
        self._begin_to_look(now)
        self._unconfirmed = True
        if not self._tied:
            self._introduce(peer, now)
        self._send(peer, Carrier(self._epoch, Way.UDP, self._session.path_mtu), now)
        self._tell(self._epoch, Way.UDP, self._session.path_mtu)
        self._ask(peer, now)

    def _let_go(self) -> None:
        """Do without the peer."""
        peer, self._peer = self._peer, None
        if peer is not None:
            if self._session.carrier is peer:
                self._session.carrier = None
            if self._session.peer is peer:
                self._session.peer = None
            peer.down()
        self._tied = self._unconfirmed = self._looks = False
        self._next = NEVER

    def _move_to_tcp(self, why: str, now: float) -> None:
        self._epoch += 1
        self.moves += 1
        self.why = why
        self._unconfirmed = self._looks = False
        self._session.carrier = self._session.link
        self._small_ones = 0
        self._path.look_again()
        self._tell(self._epoch, Way.TCP, 0)
        # Where it stays silent again and again as soon as it carries, it is asked more seldom.
        lasted = now - self._moved
        self._pause = FIRST_PROBE if lasted > 2 * LAST_PROBE else min(2 * self._pause, LAST_PROBE)
        self._next = now + self._pause

    def _ask(self, peer: Peer, now: float) -> None:
        """Ask whether anything comes through, and how much; a round of questions."""
        self._asked += 1
        self._silent += 1
        self._came = self._session.packets_in
        self._next = now + (ECHO_SECONDS if self._silent <= SOON_FOR else LAST_PROBE)
        if self._silent > PATIENT_ECHOES + 1 and self.by_udp:
            self._questions.ask_at_once(peer, now)  # how large they may be is for later
        else:
            self._questions.ask(peer, now)

    def _send(self, peer: Peer, message: NativeMessage, now: float) -> None:
        peer.send_packets([message.to_bytes()], now)
