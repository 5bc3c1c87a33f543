"""Where both directions meet: every packet is judged here, one by one, in both directions.

Rules of this file:

* No packet passes unchecked, and no check knows whether we are server or client: the difference
  lies in the sessions (:class:`~pyvpn.tunnel.session.Session` says whose ``sources`` and
  ``reachable`` these are).
* Packets of one flow leave in the order they came, and each sink is called once a batch.
* Nothing here raises because of a packet.  What is refused is counted, with the reason, and who
  on this host's side sent a packet to nobody, or too large a one, is told so (ICMP).

(A long file: packets, frames and super-packets are judged by the same rules, in both directions,
and whether one way lets pass what another refuses is only seen side by side.)
"""

from __future__ import annotations

from pyvpn.errors import Misuse
from pyvpn.tunnel.ages import Ages
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.flood import Bucket
from pyvpn.tunnel.limits import Limits
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.session import PacketSink, Session
from pyvpn.wire.icmp import too_big, unreachable
from pyvpn.wire.ip import endpoints_of
from pyvpn.wire.narrow import LEAST_MTU6, fitted
from pyvpn.wire.offload import ends_of
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import cut
from pyvpn.wire.slab import Slab

ERRORS = 100.0
"""ICMP errors a second that we send at most."""

_UNROUTED6 = bytes(8)


class Router:
    """Carries packets between one TUN and any number of sessions.

    Args:
        counters: collects the drops of both directions.
        one_link: this host and the sessions share a link, as with a plain WireGuard interface.
            Multicast and link-local packets go where routes say, and what one session sends to
            another goes by way of the kernel, whose routes and firewall decide.
    """

    def __init__(
        self,
        tun: PacketSink,
        counters: Counters,
        client_to_client: bool = False,
        expiry_seconds: float = 60.0,
        one_link: bool = False,
    ) -> None:
        self._tun = tun
        self._one_link = one_link
        self._errors = Bucket(ERRORS, ERRORS)
        self.counters = counters
        self.client_to_client = client_to_client
        """Whether a session may send to another's addresses; may change at any time.  It decides
        also where ``reachable`` covers those addresses (10.0.0.0/8 pushed, the pool inside it),
        or the kernel would hand the packet back to us and so to the other session."""
        self.expiry_seconds = expiry_seconds
        """How long a session may be silent before :meth:`tick` says so; may change likewise."""
        self.sessions: Prefixes[Session] = Prefixes()
        """Destination to session: the sessions' own addresses, and routes to them."""
        self._routes: dict[Session, set[tuple[bytes, int]]] = {}
        # A lower bound of each session's ``heard``, corrected only when it comes up: hearing
        # from a session, which happens with every batch, costs nothing here.
        self._heard: Ages[Session] = Ages()
        self.limits = Limits(self._from_session, self._send_late, self._refuse)
        """How fast sessions may be."""

    # -- who is here

    def add(self, session: Session) -> None:
        """Deliver packets for the session's addresses to it, and watch its silence.

        Raises:
            Misuse: it is here already, or another session has one of its addresses; nothing
                is changed then.
        """
        if session in self._heard:
            raise Misuse(f"{session} is in the router already")
        for address in session.addresses:
            self._refuse_foreign(address, 8 * len(address), session)
        for address in session.addresses:
            self.sessions.add(address, 8 * len(address), session)
        self._heard.set(session, session.last_heard)

    def remove(self, session: Session) -> bool:
        """Forget the session, its addresses and its routes; False when it was not here."""
        if not self._heard.discard(session):
            return False
        for address in session.addresses:
            self.sessions.remove(address, 8 * len(address))
        for network, length in self._routes.pop(session, ()):
            self.sessions.remove(network, length)
        self.limits.forget(session)
        return True

    def add_route(self, network: bytes, length: int, session: Session) -> None:
        """Deliver packets for a whole network to *session*; adding it again changes nothing.

        Raises:
            Misuse: the session is not here, the network is another session's or is none.
        """
        if session not in self._heard:
            raise Misuse(f"a route to {session}, which is not in the router")
        self._refuse_foreign(network, length, session)
        self.sessions.add(network, length, session)
        self._routes.setdefault(session, set()).add((network, length))

    def remove_route(self, network: bytes, length: int) -> bool:
        """Take back :meth:`add_route`; False when there is no such route.

        An address of the session itself stays deliverable also when a route said the same.
        """
        session = self.sessions.exact(network, length)
        routes = None if session is None else self._routes.get(session)
        if session is None or routes is None or (network, length) not in routes:
            return False
        routes.remove((network, length))
        if length < 8 * len(network) or network not in session.addresses:
            self.sessions.remove(network, length)
        return True

    def routes_of(self, session: Session) -> set[tuple[bytes, int]]:
        """Return the networks that :meth:`add_route` gave to *session*."""
        return self._routes.get(session, set())

    # -- packets

    def packets_from_tun(self, packets: list[bytes], now: float) -> None:
        """Give each packet to the session that has its destination.

        *now* is the time of the batch, as in :meth:`packets_from_session`.
        """
        lookup = self.sessions.lookup
        batches: dict[Session, list[bytes]] = {}
        nowhere: list[bytes] = []
        before: bytes | None = None
        head, length = b"", -1
        batch: list[bytes] = []
        for packet in packets:
            if packet[16:20] == before and len(packet) == length and packet[:4] == head:
                batch.append(packet)  # to where the one before went, and as whole as that
                continue
            ends = endpoints_of(packet)
            if ends is None:
                self.counters.drop(Drop.MALFORMED)
                continue
            destination = ends[1]
            head, length = packet[:4], len(packet) if len(destination) == 4 else -1
            if destination == before:  # as nearly always; and that one was delivered
                batch.append(packet)
                continue
            # Before the table: a default route to a session holds these addresses too.
            if not self._one_link and _stays_on_link(destination):
                self.counters.drop(Drop.MULTICAST)
                continue
            session = lookup(destination)
            if session is None:
                self.counters.drop(Drop.NO_ROUTE)
                nowhere.append(packet)
            else:
                batch = batches.setdefault(session, [])
                batch.append(packet)
                before = destination
        nowhere += self._deliver(batches, now)
        if nowhere:
            self._answer_unreachable(nowhere, now)

    def frames_from_tun(self, frames: list[bytes], now: float) -> None:
        """Do :meth:`packets_from_tun` with what the TUN hands out behind virtio headers.

        To a session whose carrier takes them uncut they go so; others get the packets.
        """
        uncut: dict[Session, list[bytes]] = {}
        packets: list[bytes] = []
        before: bytes | None = None
        into: list[bytes] | None = None
        for frame in frames:
            ends = ends_of(frame, len(frame))
            destination = None if ends is None else ends[1]
            if destination is None or destination != before:
                before, into = destination, None
                if destination is not None and (self._one_link or not _stays_on_link(destination)):
                    session = self.sessions.lookup(destination)
                    if session is not None and session.takes_frames(now):
                        into = uncut.setdefault(session, [])
            if into is not None:
                into.append(frame)
                continue
            made = cut(frame)
            if made:
                packets += made
            else:
                self.counters.drop(Drop.MALFORMED)
        for session, some in uncut.items():
            sent = session.send_frames(some, now)
            if sent.refused and session.carrier is not None:
                self._refuse(session, session.carrier.refusal, sent.refused)
            if sent.unknown:
                self._refuse(session, Drop.MALFORMED, sent.unknown)
        if packets:
            self.packets_from_tun(packets, now)

    def slab_from_tun(self, slab: Slab, now: float) -> None:
        """Do :meth:`frames_from_tun` with one super-packet, where it lies if that can be."""
        ends = slab.ends
        if ends is not None and (self._one_link or not _stays_on_link(ends[1])):
            session = self.sessions.lookup(ends[1])
            if session is not None and session.send_slab(slab, now):
                return
        self.frames_from_tun([slab.frame()], now)

    def packets_from_session(self, session: Session, packets: list[bytes], now: float) -> None:
        """Pass on what a session may send, to the TUN or to another session.

        The caller has made sure that *packets* came by a carrier of the session's
        (:meth:`~pyvpn.tunnel.session.Session.owns`).  Refused packets, too, show that
        the peer lives.
        """
        session.heard = max(session.heard, now)
        if session.limit_in is not None:
            if b"" in packets:  # which costs a limit nothing, and could wait without end
                self._refuse(session, Drop.MALFORMED, packets.count(b""))
                packets = [packet for packet in packets if packet]
            packets = self.limits.within(session, session.limit_in, packets, now)
        self._from_session(session, packets, now)

    def _from_session(self, session: Session, packets: list[bytes], now: float) -> None:
        """Judge each packet, and pass on those that may pass."""
        to_tun: list[bytes] = []
        batches: dict[Session, list[bytes]] = {}
        passed = number = 0
        before: tuple[bytes, bytes] | None = None
        head, between, length = b"", b"", -1
        into: list[bytes] | Drop = Drop.MALFORMED
        for packet in packets:
            # Nearly always all that is looked at is as in the packet before: the ends and, of
            # IPv4, what makes it one packet, too.
            if packet[12:20] != between or len(packet) != length or packet[:4] != head:
                ends = endpoints_of(packet)
                if ends != before:
                    before = ends
                    into = self._judge(session, ends, to_tun, batches)
                length = -1
                if ends is not None and len(ends[0]) == 4:
                    head, between, length = packet[:4], packet[12:20], len(packet)
            if isinstance(into, list):
                into.append(packet)
                number += 1
                passed += len(packet)
            else:
                self._refuse(session, into)
        session.packets_in += number
        session.bytes_in += passed
        if to_tun:
            self._tun.send_packets(to_tun)
        if batches:
            self._deliver(batches, now, session)

    def super_packets_from_session(
        self, session: Session, packets: list[SuperPacket], now: float
    ) -> None:
        """Do :meth:`packets_from_session` with super-packets: one check each, for its headers.

        Another session gets what it stands for, and a limit counts that.
        """
        if session.limit_in is not None:
            whole = [each for packet in packets for each in packet.cut()]
            self.packets_from_session(session, whole, now)
            return
        session.heard = max(session.heard, now)
        to_tun: list[SuperPacket] = []
        here: list[bytes] = []
        batches: dict[Session, list[bytes]] = {}
        before: tuple[bytes, bytes] | None = None
        into: list[bytes] | Drop = Drop.MALFORMED
        for packet in packets:
            if packet.ends != before:
                before = packet.ends
                into = self._judge(session, before, here, batches)
            if isinstance(into, Drop):
                self._refuse(session, into, packet.segments)
                continue
            session.packets_in += packet.segments
            session.bytes_in += packet.size
            if into is here:
                to_tun.append(packet)
            else:
                into += packet.cut()
        if to_tun:
            self._tun.send_super_packets(to_tun)
        if batches:
            self._deliver(batches, now, session)

    # -- time

    def tick(self, now: float) -> list[Session]:
        """Return the sessions that have been silent for ``expiry_seconds``, longest first.

        They stay in the router: the caller removes them, or waits for them to come back.  One
        that is neither removed nor heard from is reported again after another
        ``expiry_seconds``.  Costs what is due, not how many sessions there are.
        """
        silent: list[Session] = []
        limit = now - self.expiry_seconds
        while (oldest := self._heard.oldest()) is not None and oldest[0] <= limit:
            since, session = oldest
            if session.last_heard > since:
                self._heard.set(session, session.last_heard)
            else:
                self._heard.discard(session)
                silent.append(session)
        for session in silent:
            self._heard.set(session, now)
        return silent

    # -- inside

    def _judge(
        self,
        session: Session,
        ends: tuple[bytes, bytes] | None,
        to_tun: list[bytes],
        batches: dict[Session, list[bytes]],
    ) -> list[bytes] | Drop:
        """Return where packets of *session* between these *ends* go, or why nowhere."""
        if ends is None:
            return Drop.MALFORMED
        source, destination = ends
        if source not in session.sources:
            return Drop.SOURCE
        if self._one_link:
            return to_tun
        if _stays_on_link(destination):
            return Drop.MULTICAST
        other = self.sessions.lookup(destination)
        if other is not None and other is not session:
            # Who has no user is no user's device, and no part of their network: the first
            # generation's clients, whom nobody asked for a password.
            if self.client_to_client and session.user and other.user:
                return batches.setdefault(other, [])
            return Drop.DESTINATION
        return to_tun if destination in session.reachable else Drop.DESTINATION

    def _deliver(
        self, batches: dict[Session, list[bytes]], now: float, origin: Session | None = None
    ) -> list[bytes]:
        """Give each session as many as its limit lets pass; else as :meth:`_send`."""
        for session, packets in batches.items():
            if session.limit_out is not None:
                batches[session] = self.limits.within(session, session.limit_out, packets, now)
        return self._send(batches, now, origin)

    def _send(
        self, batches: dict[Session, list[bytes]], now: float, origin: Session | None = None
    ) -> list[bytes]:
        """Give each session its packets; return those for sessions of which nobody knows where.

        They come from *origin*, or from the TUN.
        """
        lost: list[bytes] = []
        for session, packets in batches.items():
            if not packets:
                continue
            carrier = session.carrier
            if session.path_mtu and carrier is not None and carrier is session.peer:
                packets = self._fit(session, packets, origin, now)
            taken = session.send_packets(packets, now)
            if taken < len(packets):
                reason = Drop.NO_CARRIER if carrier is None else carrier.refusal
                self._refuse(session, reason, len(packets) - taken)
                # Without a carrier it is about to come back: what asks again will be heard.
                if reason == Drop.NO_ENDPOINT:
                    lost += packets[taken:]
        return lost

    def _fit(
        self, session: Session, packets: list[bytes], origin: Session | None, now: float
    ) -> list[bytes]:
        """Return what the way to *session*, narrower than the TUN, takes; see to the others."""
        fitting, minimal, large = fitted(packets, session.path_mtu)
        link = session.ridden
        if minimal and link is not None:
            taken = link.send_packets(minimal, now)
            session.packets_out += taken
            session.bytes_out += sum(map(len, minimal[:taken]))
            if taken < len(minimal):
                self._refuse(session, link.refusal, len(minimal) - taken)
        else:
            fitting += minimal  # a datagram that is fragmented may yet come through
        if large:
            self._refuse(session, Drop.TOO_BIG, len(large))
            answers: list[bytes] = []
            for packet in large:
                if not self._errors.take(now):
                    break
                version6 = packet[0] >> 4 == 6
                mtu = max(LEAST_MTU6, session.path_mtu) if version6 else session.path_mtu
                answer = too_big(packet, mtu)
                if answer is not None:
                    answers.append(answer)
            if origin is not None:
                origin.send_packets(answers, now)
            elif answers:
                self._tun.send_packets(answers)
        return fitting

    def _send_late(self, session: Session, packets: list[bytes], now: float) -> None:
        """Give *session* what has waited for its limit, from the TUN and from other sessions."""
        origins: dict[Session | None, list[bytes]] = {}
        for packet in packets:
            ends = endpoints_of(packet)
            origin = self.sessions.lookup(ends[0]) if ends and not self._one_link else None
            origins.setdefault(origin, []).append(packet)
        for origin, some in origins.items():
            nowhere = self._send({session: some}, now, origin)
            if nowhere and origin is None:
                self._answer_unreachable(nowhere, now)

    def _answer_unreachable(self, packets: list[bytes], now: float) -> None:
        answers: list[bytes] = []
        for packet in packets:
            if not self._errors.take(now):
                break
            answer = unreachable(packet)
            if answer is not None:
                answers.append(answer)
        if answers:
            self._tun.send_packets(answers)

    def _refuse(self, session: Session, reason: str, n: int = 1) -> None:
        session.drops.drop(reason, n)
        self.counters.drop(reason, n)

    def _refuse_foreign(self, network: bytes, length: int, session: Session) -> None:
        holder = self.sessions.exact(network, length)
        if holder is not None and holder is not session:
            raise Misuse(f"{network.hex()}/{length} of {session} belongs to {holder}")


class OwnRoutes:
    """The addresses whose packets the router gives to one session: WireGuard's allowed IPs.

    As a session's ``sources`` they are also the only ones that it may send from.
    """

    __slots__ = ("_session", "_table")

    def __init__(self, router: Router, session: Session) -> None:
        self._table = router.sessions
        self._session = session

    def __contains__(self, address: object) -> bool:
        """Whether the longest network that holds the packed *address* is the session's."""
        return isinstance(address, bytes) and self._table.lookup(address) is self._session


def _stays_on_link(address: bytes) -> bool:
    """Whether no router forwards packets to *address* (4 or 16 bytes).

    Multicast, broadcast and class E, link-local, loopback and "this host" (RFC 6890); for IPv6
    ``::/64`` holds loopback, the unspecified and the IPv4-mapped addresses.
    """
    first = address[0]
    if len(address) == 4:
        return first >= 224 or first in (0, 127) or (first == 169 and address[1] == 254)
    return (
        first == 0xFF
        or (first == 0xFE and address[1] & 0xC0 == 0x80)
        or (first == 0 and address.startswith(_UNROUTED6))
    )
