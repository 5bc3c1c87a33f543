"""Who is here by the first generation's UDP protocol, and what is answered to whom.

A client is the source, address and port, that sent the password; there is no other proof.  What
the original forgot is kept here within the same bytes:

* A password that comes again from a client is answered again, with the same address: the answer
  may have been lost.
* "e" can be forged, so it only marks a client as leaving.  A packet, heartbeat or log-in from
  the same source within :data:`LEAVING_SECONDS` takes it back, and until then its packets flow.
* Heartbeats and packets both show that a client lives; the original counted heartbeats alone.
* A source that is gone finds its address again while nobody else has it.
* The addresses of the network, of its broadcast and of the server are nobody's.  When no address
  is left a log-in is not answered: the original's client would take anything for an address.
* Nothing goes to a source before the answer to its log-in, but one "r" for one heartbeat, and
  that not twice within the time that a client waits for its answer.
* Only the right password makes state.  Wrong ones are counted by source in a bounded table, and
  who has sent too many of them is not looked at for a while.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, ip_address

from pyvpn.errors import Misuse
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.ages import Ages
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.sources import source_of
from pyvpn.tunnel.tries import Tries
from pyvpn.wire.plain_udp import (
    ANSWER_SECONDS,
    EXPIRY_SECONDS,
    GOODBYE,
    HEARTBEAT,
    UNKNOWN,
    encode_answer,
    is_fit,
    is_password,
    packet_in,
    with_header,
)

LEAVING_SECONDS = 10.0
"""One heartbeat: for so long somebody who said goodbye may come back as if nothing had been."""

WRONG_AT_ONCE = 5
WRONG_SECONDS = 10.0
"""Wrong passwords of one source: five, then one every so many seconds is looked at."""

TOLD_AT_ONCE = 64
TOLD_SECONDS = 0.125
"""Likewise "r" for one source, whatever its port: many clients may live behind one router."""

Place = tuple[str, int]
"""Where a datagram comes from, as the socket says it: address and port."""


class PlainDrop(StrEnum):
    """Why a datagram is dropped, beyond what can happen to every packet."""

    UNKNOWN = "plain-udp-unknown-source"
    """A packet or a goodbye from somebody who has not logged in, or is forgotten."""
    IPV6 = "plain-udp-ipv6"
    """There is no IPv6 in that network; hosts send router solicitations all the same."""
    EARLY = "plain-udp-before-answer"
    """Something else than the answer to a log-in, before that came."""
    UNASKED = "plain-udp-unasked"
    """An answer or an "r" that makes no sense now: repeated, late or forged."""
    NOT_SENT = "plain-udp-not-sent"
    """The kernel did not take it; its reasons are counted by their own names."""


class Refusal(StrEnum):
    """What is not answered, and why; the text is what an operator reads."""

    PASSWORD = "plain-udp-wrong-password"  # noqa: S105 - a word for it
    TOO_OFTEN = "plain-udp-too-many-wrong-passwords"
    POOL_EMPTY = "plain-udp-no-free-address"
    NOT_SENT = "plain-udp-answer-not-sent"
    HEARTBEAT = "plain-udp-too-many-heartbeats"


class _Client:
    """One source that knew the password; the carrier of its session."""

    __slots__ = ("_send", "answer", "left", "place", "session")

    refusal = PlainDrop.NOT_SENT

    def __init__(
        self,
        place: Place,
        session: Session,
        answer: bytes,
        send: Callable[[bytes, Place], bool],
    ) -> None:
        self.place = place
        self.session = session
        self.answer = answer
        self.left: float | None = None
        """When it said goodbye, if it did and nothing came after."""
        self._send = send

    def send_packets(self, packets: list[bytes], now: float) -> int:
        for sent, packet in enumerate(packets):
            if not self._send(with_header(packet), self.place):
                return sent
        return len(packets)


class PlainUdpClients:
    """Everybody on the plain UDP port.

    Args:
        network: tunnel network of these clients; its first host is the server.
        bypass: the one network they may reach, besides the server's address in *network*.
        password: see :func:`pyvpn.wire.plain_udp.is_fit`.
        send: sends a datagram; False if it was not sent.  Never raises.
        arrived: called with the session of a client that has just been answered.
        left: called with a session that has ended, and why.

    Raises:
        Misuse: the password is not fit.
    """

    def __init__(
        self,
        *,
        network: IPv4Network,
        bypass: IPv4Network,
        password: bytes,
        router: Router,
        send: Callable[[bytes, Place], bool],
        arrived: Callable[[Session], None],
        left: Callable[[Session, str], None],
    ) -> None:
        if not is_fit(password):
            raise Misuse("a password that is a command")
        self._password = password
        self._router = router
        self._send = send
        self._arrived = arrived
        self._left = left
        self._own = (network.network_address + 1).packed
        self._pool = AddressPool(network, [self._own])
        self._reachable = Prefixes.from_networks([bypass, IPv4Network(self._own)], True)
        self._clients: dict[Place, _Client] = {}
        self._heard: Ages[Place] = Ages()  # a lower bound, as in the router
        self._leaving: OrderedDict[Place, float] = OrderedDict()
        self._former: OrderedDict[Place, bytes] = OrderedDict()
        self._wrong = Tries(WRONG_AT_ONCE, WRONG_SECONDS)
        self._told = Tries(TOLD_AT_ONCE, TOLD_SECONDS)
        # Two of them, one after the other, and the second would be taken for the answer.
        self._told_here = Tries(1, ANSWER_SECONDS)
        self._next_device = -1  # below zero: never a user's device
        self.refused: Counter[str] = Counter()
        """What was not answered, by :class:`Refusal`."""

    @property
    def sessions(self) -> list[Session]:
        return [client.session for client in self._clients.values()]

    def received(self, datagram: bytes, place: Place, now: float) -> None:
        """Treat one datagram from *place* at the time *now* (seconds)."""
        client = self._clients.get(place)
        if client is None:
            self._from_stranger(datagram, place, now)
        else:
            self._from_client(client, datagram, now)

    def tick(self, now: float) -> None:
        """End the sessions of those who said goodbye or fell silent; costs what is due."""
        while self._leaving:
            place, since = next(iter(self._leaving.items()))
            if since > now - LEAVING_SECONDS:
                break
            self._end(place, "said goodbye", now)
        limit = now - EXPIRY_SECONDS
        while (oldest := self._heard.oldest()) is not None and oldest[0] <= limit:
            since, place = oldest
            heard = self._clients[place].session.heard
            if heard > since:
                self._heard.set(place, heard)
            else:
                self._end(place, f"nothing was heard for {EXPIRY_SECONDS:g} s", now)

    # -- those who are here

    def _from_client(self, client: _Client, datagram: bytes, now: float) -> None:
        packet = packet_in(datagram)
        if packet is not None:
            self._lives(client, now)
            if packet[0] >> 4 == 4:
                self._router.packets_from_session(client.session, [packet], now)
            else:
                self._drop(client.session, PlainDrop.IPV6)
        elif datagram == HEARTBEAT:
            self._lives(client, now)
        elif datagram == GOODBYE:
            if client.left is None:  # a second one does not make it stay longer
                client.left = self._leaving[client.place] = now
        elif is_password(datagram, self._password):
            self._lives(client, now)
            self._send(client.answer, client.place)
        else:
            self._drop(client.session, Drop.MALFORMED)

    def _lives(self, client: _Client, now: float) -> None:
        client.session.heard = max(client.session.heard, now)
        if client.left is not None:
            client.left = None
            del self._leaving[client.place]

    def _drop(self, session: Session, reason: str) -> None:
        session.drops.drop(reason)
        self._router.counters.drop(reason)

    # -- those who are not

    def _from_stranger(self, datagram: bytes, place: Place, now: float) -> None:
        if datagram == HEARTBEAT:
            self._tell_unknown(place, now)
        elif datagram == GOODBYE or packet_in(datagram) is not None:
            # Also from a client that we have forgotten: no reason to slow its log-in down.
            self._router.counters.drop(PlainDrop.UNKNOWN)
        elif not is_fit(datagram):
            self._router.counters.drop(Drop.MALFORMED)
        else:
            self._try(datagram, place, now)

    def _tell_unknown(self, place: Place, now: float) -> None:
        source = _source(place)
        if self._told_here.blocked(place, now) or self._told.blocked(source, now):
            self.refused[Refusal.HEARTBEAT] += 1
            return
        self._told_here.count(place, now)
        self._told.count(source, now)
        self._send(UNKNOWN, place)

    def _try(self, datagram: bytes, place: Place, now: float) -> None:
        source = _source(place)
        # Who was here before is always looked at: a source can be forged, and would else be
        # kept out by what others send in its name.
        if place not in self._former and self._wrong.blocked(source, now):
            self.refused[Refusal.TOO_OFTEN] += 1
        elif is_password(datagram, self._password):
            self._log_in(place, now)
        else:
            self._wrong.count(source, now)
            self.refused[Refusal.PASSWORD] += 1

    def _log_in(self, place: Place, now: float) -> None:
        address = self._address_for(place, now)
        if address is None:
            self.refused[Refusal.POOL_EMPTY] += 1
            return
        answer = encode_answer(address, self._own)
        if not self._send(answer, place):
            # Nobody waits for long: without its answer there is no client, who would take a
            # packet for it.
            self._pool.release(address, now)
            self.refused[Refusal.NOT_SENT] += 1
            return
        session = Session(
            device=self._next_device,
            user=0,
            name=f"plain/{IPv4Address(address)}",
            addresses=(address,),
            reachable=self._reachable,
            heard=now,
        )
        self._next_device -= 1
        client = _Client(place, session, answer, self._send)
        self._clients[place] = client
        self._heard.set(place, now)
        self._former.pop(place, None)
        self._router.add(session)
        session.attach(client, now)
        self._arrived(session)

    def _address_for(self, place: Place, now: float) -> bytes | None:
        former = self._former.get(place)
        if former is not None and self._pool.claim(former):
            return former
        address = self._pool.take(now)
        if address is None:
            self.tick(now)  # somebody may be due whose turn has not come yet
            address = self._pool.take(now)
        return address

    def _end(self, place: Place, why: str, now: float) -> None:
        client = self._clients.pop(place)
        self._leaving.pop(place, None)
        self._heard.discard(place)
        session = client.session
        self._router.remove(session)
        session.detach(client)
        address = session.addresses[0]
        self._pool.release(address, now)
        self._former[place] = address
        self._former.move_to_end(place)
        if len(self._former) > self._pool.usable:
            self._former.popitem(last=False)
        self._left(session, why)


def _source(place: Place) -> bytes:
    """What counts as one source; a name that is no address counts as itself."""
    try:
        return source_of(ip_address(place[0].partition("%")[0]).packed)
    except ValueError:
        return place[0].encode()
