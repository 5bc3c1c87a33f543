"""The first generation's UDP protocol, towards its original server: one socket's life.

What the protocol does not say, nobody can know: a wrong password, a full server and no server at
all look the same, and a heartbeat has no answer.  What it does say can be forged by anybody who
knows our port, so it is believed as little as possible: "r" makes us log in again on the same
socket, while packets go on flowing as before.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from pyvpn.errors import PeerError
from pyvpn.interfaces import ICarrier
from pyvpn.net.link_owner import LinkClosed
from pyvpn.net.plain_udp import PlainPort
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.plain_udp import PlainDrop
from pyvpn.wire.plain_udp import (
    ANSWER_SECONDS,
    GOODBYE,
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    UNKNOWN,
    Addresses,
    addresses_in,
    packet_in,
    with_header,
)

MOST_UNANSWERED = 3
"""So many times the server may say "r" and not answer the log-in after it; then begin anew."""

PROBE_SECONDS = 1.0
"""How often we look, at most, whether the socket can still be of use."""

# What the kernel says when the address of the socket is not this host's any more.
_MOVED = frozenset({errno.ENETUNREACH, errno.EINVAL, errno.EADDRNOTAVAIL})


class PlainUdpOwner(Protocol):
    """What a link tells the one it works for."""

    def connected(self, link: Any) -> None:
        """There is a socket; nothing has been sent."""

    def ready(self, link: Any) -> None:
        """The log-in may begin."""

    def packets(self, link: Any, packets: list[bytes]) -> None:
        """Inner packets arrived."""

    def renewed(self, link: Any, addresses: Addresses) -> None:
        """The server had forgotten us and took us in again, under other addresses."""

    def lost(self, link: Any, reason: Exception) -> None:
        """It goes no further; called once."""


@implementer(ICarrier)
class PlainUdpLink(DatagramProtocol):
    """One socket towards one server, from the log-in to the goodbye.

    Args:
        clock: for heartbeats and time-outs; in production the reactor.
        counters: where what makes no sense is counted.
    """

    transport: PlainPort | None = None
    refusal = PlainDrop.NOT_SENT
    noisy = False

    def __init__(self, owner: PlainUdpOwner, clock: IReactorTime, counters: Counters) -> None:
        self._owner = owner
        self._clock = clock
        self._counters = counters
        self.is_up = False
        self.is_closed = False
        self.addresses: Addresses | None = None
        """What the last answer said."""
        self._password = b""
        self._answer: Deferred[Addresses] | None = None  # of the first log-in
        self._asked_again = self._looked = float("-inf")
        self._unanswered = 0
        self._alarm: IDelayedCall | None = None
        self._heart = LoopingCall(self._say, HEARTBEAT)
        self._heart.clock = clock
        self._heard: float | None = None
        self._refused = False
        self._failed = False

    # -- what the owner calls

    def opened(self) -> None:
        """Begin: the socket is connected."""
        self._owner.connected(self)
        if not self.is_closed:
            self._owner.ready(self)

    def expect_within(self, seconds: float | None, what: str = "") -> None:
        """Nothing: there is nothing to wait for before the log-in, which has its own time."""

    def log_in(self, password: bytes) -> Deferred[Addresses]:
        """Send the password and wait for an answer; all else that arrives is ignored.

        Fails with PeerError when none comes within :data:`ANSWER_SECONDS`, or none can come.
        """
        self._password = password
        answer = self._answer = Deferred()
        self._alarm = self._clock.callLater(ANSWER_SECONDS, self._no_answer)
        self._say(password)
        return answer

    def send_packets(self, packets: list[bytes], now: float) -> int:
        if self.is_closed:
            return 0
        for sent, packet in enumerate(packets):
            if self._say(with_header(packet)):
                return sent
        return len(packets)

    def close(self) -> None:
        """Say goodbye, if we had said anything, and close; repeatable."""
        if self.is_closed:
            return
        self.is_closed = True
        self.is_up = False
        if self._heart.running:
            self._heart.stop()
        self._silence_alarm()
        if self.transport is not None:
            if self._password:
                self.transport.send(GOODBYE)
            self.transport.stopListening()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.errback(LinkClosed("the socket was closed"))

    def abort(self) -> None:
        """The same: one byte costs nothing, and gives the address back."""
        self.close()

    def describe(self) -> str:
        """What is known of the server, in words; the protocol leaves most of it in the dark."""
        if self._heard is None:
            heard = "nothing has arrived from it yet"
        else:
            heard = f"it was last heard {self._clock.seconds() - self._heard:.0f} s ago"
        if self._refused:
            heard += ", and its host has said since that nobody listens there"
        errors = {} if self.transport is None else self.transport.errors
        failed = "".join(f"; {name} {n} times" for name, n in sorted(errors.items()))
        unknown = "the server answers no heartbeats, so whether it hears us is not known"
        return f"{unknown}; {heard}{failed}"

    # -- what the reactor calls

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        if self.is_closed:
            return
        packet = packet_in(datagram)
        if packet is not None and self.is_up:
            self._hears()
            self._unanswered = 0  # it sends packets to nobody that it does not know
            self._owner.packets(self, [packet])
        elif datagram == UNKNOWN and self.is_up:
            self._hears()
            self._unknown()
        elif (addresses := addresses_in(datagram)) is not None:
            self._answered(addresses)
        else:
            self._counters.drop(PlainDrop.UNASKED if self.is_up else PlainDrop.EARLY)

    def connectionRefused(self) -> None:
        """An ICMP message says that nobody listens: true at the moment, or forged."""
        self._refused = True
        if self._answer is not None:
            self._fail("nobody listens there (connection refused)")

    # -- inside

    def _say(self, datagram: bytes) -> int:
        """Send; return 0 or the errno of why it was not sent."""
        if self.transport is None:
            return errno.ENOTCONN
        error = self.transport.send(datagram)
        if error and self._answer is not None:
            self._fail(f"cannot send: {os.strerror(error)}")
        elif error in _MOVED:
            self._look_where_we_are()
        return error

    def _look_where_we_are(self) -> None:
        now = self._clock.seconds()
        if self.transport is not None and now >= self._looked + PROBE_SECONDS:
            self._looked = now
            if self.transport.is_stranded():
                self._fail("this host's address has changed")

    def _hears(self) -> None:
        self._heard = self._clock.seconds()
        self._refused = False

    def _answered(self, addresses: Addresses) -> None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            self._silence_alarm()
            self._hears()
            self.addresses = addresses
            self.is_up = True
            self._heart.start(HEARTBEAT_SECONDS, now=False)
            answer.callback(addresses)
        elif self._alarm is not None:
            self._silence_alarm()
            self._hears()
            self._unanswered = 0
            if addresses != self.addresses:
                self.addresses = addresses
                self._owner.renewed(self, addresses)
        else:
            self._counters.drop(PlainDrop.UNASKED)

    def _no_answer(self) -> None:
        self._alarm = None
        self._fail(
            f"no answer to the password within {ANSWER_SECONDS:g} s: it is wrong, or the server "
            "has no free address, or there is none (this protocol does not say which)"
        )

    def _unknown(self) -> None:
        now = self._clock.seconds()
        if self._alarm is not None or now < self._asked_again + ANSWER_SECONDS:
            self._counters.drop(PlainDrop.UNASKED)
            return
        self._asked_again = now
        self._alarm = self._clock.callLater(ANSWER_SECONDS, self._not_known_again)
        self._say(self._password)

    def _not_known_again(self) -> None:
        """Nothing came.

        The original does not answer whom it knows, so the "r" may have been forged; if it was not,
        another comes upon the next heartbeat, which we send at once.
        """
        self._alarm = None
        self._unanswered += 1
        if self._unanswered < MOST_UNANSWERED:
            self._say(HEARTBEAT)
        else:
            self._fail("the server says that it does not know us, and does not answer the log-in")

    def _fail(self, why: str) -> None:
        """Tell the owner, once and in a turn of its own: we may be in the middle of its work."""
        if not self._failed and not self.is_closed:
            self._failed = True
            self._clock.callLater(0, self._tell_of_failure, PeerError(why))

    def _tell_of_failure(self, error: PeerError) -> None:
        answer, self._answer = self._answer, None
        self._silence_alarm()
        if self.is_closed:
            return
        if answer is not None:
            answer.errback(error)
        else:
            self._owner.lost(self, error)

    def _silence_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
