"""The WireGuard protocol for one static key and any number of peers.

Datagrams come in as runs: consecutive ones from one path.  Data is opened at once.  Handshake
messages are checked as far as that is cheap, answered with a cookie when too many wait, and
else queued: the owner calls :meth:`WireGuard.work` between other things, so that nobody's
handshake delays anybody's packets.

Nothing here raises because of a datagram.  What is refused is counted with its reason.

(A long file: data and handshakes share the indices, and what may be done before a check is seen
only where all checks are.)

Sources: the WireGuard paper; the Linux kernel's ``receive.c``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pyvpn.crypto.cookie import CookieChecker
from pyvpn.crypto.keypair import REJECT_AFTER_TIME, Keypair, Refused
from pyvpn.crypto.noise import open_static
from pyvpn.crypto.suite import CHACHA, Suite
from pyvpn.crypto.tai64n import Stamps
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.flood import (
    COOKIES,
    COOKIES_BURST,
    LONGEST_WAIT,
    MOST_WAITING,
    Bucket,
    Load,
    SourceRates,
)
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.surroundings import DatagramSink, Surroundings
from pyvpn.wire.datagram import (
    COOKIE_REPLY,
    DATA,
    DATA_OVERHEAD,
    INITIATION,
    OFFLOAD,
    CookieReply,
    Initiation,
    Path,
    Response,
    Run,
    kind_of,
)
from pyvpn.wire.ip import NOT_ECT, decapsulated, trimmed
from pyvpn.wire.native import is_native
from pyvpn.wire.packed import Packed
from pyvpn.wire.packed_join import joined
from pyvpn.wire.rebuild import SuperPacket, rebuild, rebuild_packed

HANDSHAKES_AT_ONCE = 8
"""Worked off in one go: some four milliseconds."""
PEERS_AT_ONCE = 64
"""Whose timers are looked at in one go: ten milliseconds if each begins a handshake.  After a
machine has slept, those of all peers are due at once.
"""
INITIATION_INTERVAL = 0.02
"""Seconds between two initiations that one peer may begin."""

_NO_MAC = bytes(16)
_DATA = DATA.to_bytes(4, "little")  # how such a message begins
_SEALED = _DATA, OFFLOAD.to_bytes(4, "little")
_REASONS = {Refused.TAG: Drop.BAD_TAG, Refused.REPLAY: Drop.REPLAYED}


class WireGuard:
    """One side of any number of tunnels.

    Args:
        deliver: takes the inner packets that a peer sent, whole and trimmed; their addresses are
            not checked yet.
        trusted: whether a packed address stands for many clients and has no limit of its own.
        deliver_super: takes the super-packets that a peer of ours sent
            (:mod:`pyvpn.wire.offload`); their ends are not checked yet.
        native: takes what a peer of ours sent that is no IP packet (:mod:`pyvpn.wire.native`),
            after the packets that came with it.
        expected: gives the peer of a public key that is not among the peers, made at that
            moment, if it may come all the same; None: it may not.
        others: as :class:`~pyvpn.tunnel.surroundings.Surroundings` takes them.
    """

    def __init__(
        self,
        outside: DatagramSink,
        deliver: Callable[[Peer, list[bytes], float], None],
        *,
        random: Callable[[int], bytes],
        stamps: Stamps,
        unix: Callable[[], float],
        counters: Counters,
        trusted: Callable[[bytes], bool] = lambda address: False,
        deliver_super: Callable[[Peer, list[SuperPacket], float], None] | None = None,
        native: Callable[[Peer, list[bytes], float], None] = lambda peer, messages, now: None,
        doubted: Callable[[Peer, float], None] = lambda peer, now: None,
        expected: Callable[[bytes], Peer | None] = lambda public: None,
    ) -> None:
        self._world = Surroundings(outside, random, stamps, unix, counters, doubted)
        self._native = native
        self._expected = expected
        self._outside = outside
        self._deliver = deliver
        self._deliver_super = deliver_super
        self._trusted = trusted
        self.counters = counters
        self.peers: dict[bytes, Peer] = {}
        """By public key; to be changed by the methods below only."""
        self.handshakes = 0
        """Completed, in either role."""
        self._checker: CookieChecker | None = None
        self._waiting: deque[tuple[bytes, Path, float]] = deque()  # ... and when it came
        self._answers: set[int] = set()  # which of our initiations those answer that wait
        self._load = Load()
        self._sources = SourceRates()
        self._cookies = Bucket(COOKIES, COOKIES_BURST)
        self._replies: list[tuple[bytes, Path]] = []

    # -- what the owner sets

    @property
    def static(self) -> StaticKey | None:
        """Our own key."""
        return self._world.static

    @property
    def suites(self) -> tuple[Suite, ...]:
        """What a handshake may be of, WireGuard's own first; another one with ours only.

        May be set at any time, for the handshakes after that.
        """
        return self._world.suites

    @suites.setter
    def suites(self, suites: tuple[Suite, ...]) -> None:
        self._world.suites = suites

    def set_private_key(self, private: bytes | None) -> None:
        """Be whoever has this key (32 bytes) from now on; None: nobody.

        A peer with the same public key is removed.  Sessions agreed with the old key end: each
        peer makes a new handshake with its next packet.  The key that is there already changes
        nothing: ``wg syncconf`` sets it each time, and promises to disturb no session.
        """
        static = None if private is None else StaticKey(private)
        before = self._world.static
        if static is not None and before is not None and static.private == before.private:
            return
        self._world.static = static
        self._waiting.clear()
        self._answers.clear()
        if static is None:
            self._checker = None
        else:
            self._checker = CookieChecker(static.public, self._world.random)
            self.remove_peer(static.public)
        for peer in self.peers.values():
            peer.renew_identity(None if static is None else static.shared(peer.public))

    def add_peer(self, public: bytes) -> Peer | None:
        """Return the peer with that public key (32 bytes), made if it is new; None: it is ours."""
        static = self._world.static
        if static is not None and public == static.public:
            return None
        peer = self.peers.get(public)
        if peer is None:
            shared = None if static is None else static.shared(public)
            peer = self.peers[public] = Peer(public, shared, self._world)
        return peer

    def remove_peer(self, public: bytes) -> bool:
        """Forget that peer with all its keys; False when there is none."""
        peer = self.peers.pop(public, None)
        if peer is None:
            return False
        peer.down()
        self._world.changed.discard(peer)
        return True

    def take_changed(self) -> set[Peer]:
        """Return the peers whose endpoint or newest timestamp has changed, once each."""
        changed, self._world.changed = self._world.changed, set()
        return changed

    # -- time

    @property
    def next_due(self) -> float:
        """No timer is due before this."""
        oldest = self._world.deadlines.oldest()
        return float("inf") if oldest is None else oldest[0]

    @property
    def waiting(self) -> int:
        """How many handshake messages wait for :meth:`work`."""
        return len(self._waiting)

    def tick(self, now: float) -> None:
        """Do what is due, for :data:`PEERS_AT_ONCE` at most; costs that, not how many there are.

        What is left then is still due: :attr:`next_due` says so.
        """
        deadlines = self._world.deadlines
        for _ in range(PEERS_AT_ONCE):
            oldest = deadlines.oldest()
            if oldest is None or oldest[0] > now:
                return
            deadlines.discard(oldest[1])
            oldest[1].fire(now)

    # -- datagrams

    def runs_received(self, runs: list[Run], now: float) -> None:
        """Take runs of datagrams, and only then send the replies to them.

        In a flood that is faster by a third than one after the other: what the kernel does with
        each reply leaves nothing of ours in the processor's caches.
        """
        for datagrams, path, ecn in runs:
            self._run_received(datagrams, path, ecn, now)
        if self._replies:
            replies, self._replies = self._replies, []
            self.counters.drop(Drop.COOKIE_DEMANDED, len(replies))
            self._outside.send_replies(replies)

    def received(self, datagrams: list[bytes], path: Path, ecn: int, now: float) -> None:
        """Take one run: *datagrams* came along *path*, all with the outer ECN field *ecn*."""
        self.runs_received([(datagrams, path, ecn)], now)

    def _run_received(
        self, datagrams: list[bytes] | Packed, path: Path, ecn: int, now: float
    ) -> None:
        if isinstance(datagrams, Packed):
            if self._packed(datagrams, path, ecn, now):
                return
            datagrams = list(datagrams)
        heads = {datagram[:8] for datagram in datagrams}
        if len(heads) == 1 and min(map(len, datagrams)) >= DATA_OVERHEAD:
            head = heads.pop()
            if head.startswith(_SEALED):  # nearly always: all of it is data for one keypair
                self._data_for(head, datagrams, path, ecn, now)
                return
        data: list[bytes] | None = None
        junk = 0
        for datagram in datagrams:
            kind = kind_of(datagram)
            if kind in (DATA, OFFLOAD):
                if data is None:
                    data = [datagram]
                else:
                    data.append(datagram)
            elif kind == 0:
                junk += 1
            elif kind == COOKIE_REPLY:
                self._cookie(CookieReply.parse(datagram), now)
            else:
                self._handshake(kind, datagram, path, now)
        if junk:
            self.counters.drop(Drop.JUNK, junk)
        if data is not None:
            self._data(data, path, ecn, now)

    def work(self, now: float) -> bool:
        """Work on some of the handshakes that wait; True while more do."""
        waiting, left = self._waiting, HANDSHAKES_AT_ONCE
        while waiting and left:
            message, path, came = waiting.popleft()
            if message[0] != INITIATION:
                self._answers.discard(_receiver(message))
            if now - came > LONGEST_WAIT:
                self.counters.drop(Drop.QUEUED_TOO_LONG)
                continue
            left -= 1
            if message[0] == INITIATION:
                self._initiation(message, path, now)
            else:
                self._response(message, path, now)
        return bool(waiting)

    # -- data

    def _data(self, datagrams: list[bytes], path: Path, ecn: int, now: float) -> None:
        first, count = 0, len(datagrams)
        while first < count:
            head = datagrams[first][:8]  # type and index
            after = first + 1
            while after < count and datagrams[after].startswith(head):
                after += 1
            run = datagrams if after - first == count else datagrams[first:after]
            first = after
            self._data_for(head, run, path, ecn, now)

    def _data_for(self, head: bytes, run: list[bytes], path: Path, ecn: int, now: float) -> None:
        number = int.from_bytes(head[4:], "little")
        peer, keypair = self._world.indices.get(number, (None, None))
        if peer is None or keypair is None:
            self.counters.drop(Drop.UNKNOWN_INDEX, len(run))
        elif now - keypair.created >= REJECT_AFTER_TIME:
            self.counters.drop(Drop.EXPIRED_KEY, len(run))
        elif head.startswith(_DATA):
            self._run(peer, keypair, run, path, ecn, now)
        elif self._may_offload(peer):
            self._offload_run(peer, keypair, run, path, ecn, now)
        else:
            self.counters.drop(Drop.JUNK, len(run))

    @staticmethod
    def _may_offload(peer: Peer) -> bool:
        # To send it takes the other end's word.  But that may be older than our own memory of
        # it, at either end, and whoever has it said means it.
        return peer.offload or (peer.is_native and peer.owner is not None)

    def _packed(self, packed: Packed, path: Path, ecn: int, now: float) -> bool:
        """Take a batch where it lies, if it is what nearly all are; False: nothing was done.

        That is: data for one keypair, every one of it new, in order, and rightly sealed.
        """
        head = packed.head()
        if not head.startswith(_SEALED):
            return False
        number = int.from_bytes(head[4:], "little")
        peer, keypair = self._world.indices.get(number, (None, None))
        if peer is None or keypair is None or now - keypair.created >= REJECT_AFTER_TIME:
            return False
        kind = head[0]
        if kind == OFFLOAD and not self._may_offload(peer):
            return False
        newest = keypair.window.highest
        counters = keypair.receive_packed(packed, kind)
        if not counters:
            return False
        if kind == OFFLOAD:
            made = rebuild_packed(packed, counters[0], ecn)
        elif (
            self._deliver_super is not None
            and peer.owner is not None
            and getattr(peer.owner, "limit_in", None) is None  # which counts packets
        ):
            made = joined(packed, ecn)
        else:
            made = None
        if made is not None and self._deliver_super is not None:
            size = packed.opened + DATA_OVERHEAD * len(packed)
            self._arrived(peer, keypair, newest, path, True, size, now)
            self._deliver_super(peer, made, now)
        elif kind == OFFLOAD:
            self._rebuilt(peer, keypair, newest, counters, packed.payloads(), path, ecn, now)
        else:
            self._opened(peer, keypair, newest, packed.payloads(), path, ecn, now)
        return True

    def _run(
        self, peer: Peer, keypair: Keypair, run: list[bytes], path: Path, ecn: int, now: float
    ) -> None:
        """Open a run of data messages for one keypair."""
        newest = keypair.window.highest
        self._opened(peer, keypair, newest, keypair.receive_all(run), path, ecn, now)

    def _opened(
        self,
        peer: Peer,
        keypair: Keypair,
        newest: int,
        payloads: Sequence[bytes | Refused],
        path: Path,
        ecn: int,
        now: float,
    ) -> None:
        """Take what was in a run of data messages; *newest* was the highest counter before it."""
        packets: list[bytes] = []
        messages: list[bytes] = []
        size = authentic = data = length = 0
        head = b""
        whole: bytes | None
        for packet in payloads:
            if isinstance(packet, Refused):
                self.counters.drop(_REASONS[packet])
                continue
            authentic += 1
            size += len(packet) + DATA_OVERHEAD
            if not packet:
                continue
            data += 1
            if packet[:4] == head and len(packet) == length:
                whole = packet  # version and stated length as before
            else:
                whole = trimmed(packet)
                if whole is None:
                    if peer.is_native and is_native(packet):
                        messages.append(packet)
                    else:
                        self.counters.drop(Drop.MALFORMED)
                    continue
                if whole is packet and packet[0] >> 4 == 4:
                    head, length = packet[:4], len(packet)
            if ecn != NOT_ECT:
                whole = decapsulated(whole, ecn)
                if whole is None:
                    self.counters.drop(Drop.CONGESTED)
                    continue
            packets.append(whole)
        if not authentic:
            return
        self._arrived(peer, keypair, newest, path, data > 0, size, now)
        if packets:
            self._deliver(peer, packets, now)
        if messages:
            self._native(peer, messages, now)

    def _offload_run(
        self, peer: Peer, keypair: Keypair, run: list[bytes], path: Path, ecn: int, now: float
    ) -> None:
        """Open a run of offload payloads for one keypair."""
        newest = keypair.window.highest
        counters, payloads, refused = keypair.receive_run(run)
        for reason in refused:
            self.counters.drop(_REASONS[reason])
        if payloads:
            self._rebuilt(peer, keypair, newest, counters, payloads, path, ecn, now)

    def _rebuilt(
        self,
        peer: Peer,
        keypair: Keypair,
        newest: int,
        counters: list[int],
        payloads: list[bytes],
        path: Path,
        ecn: int,
        now: float,
    ) -> None:
        """Take what was in a run of offload payloads."""
        size = sum(map(len, payloads)) + DATA_OVERHEAD * len(payloads)
        self._arrived(peer, keypair, newest, path, True, size, now)
        rebuilt = rebuild(counters, payloads, ecn)
        if rebuilt.refused:
            self.counters.drop(Drop.MALFORMED, rebuilt.refused)
        if rebuilt.congested:
            self.counters.drop(Drop.CONGESTED, rebuilt.congested)
        if rebuilt.packets and self._deliver_super is not None:
            self._deliver_super(peer, rebuilt.packets, now)

    def _arrived(
        self,
        peer: Peer,
        keypair: Keypair,
        newest: int,
        path: Path,
        some: bool,
        size: int,
        now: float,
    ) -> None:
        """Note a run that opened; *newest* was the highest counter before it."""
        if keypair is peer.next:
            self.handshakes += 1
            # First the move: what waits for the key goes to where it has been proved.
            peer.received_data(path, some, size, now)
            peer.confirmed(keypair, now)
        else:
            # A straggler does not move the endpoint back.
            newer = keypair.window.highest > newest and not peer.is_superseded(keypair)
            peer.received_data(path if newer else None, some, size, now)

    # -- handshakes

    def _handshake(self, kind: int, message: bytes, path: Path, now: float) -> None:
        """Check what is cheap to check, and keep the message for :meth:`work`."""
        checker = self._checker
        if checker is None or not checker.mac1_valid(message):
            self.counters.drop(Drop.NOT_OURS)
            return
        # Those of what we gave up cost next to nothing, and are no reason to ask for a cookie.
        if kind != INITIATION and self._hear_answer(_receiver(message), now) is None:
            self.counters.drop(Drop.UNKNOWN_INDEX)
            return
        waiting = len(self._waiting)
        # A thousand peers that were called back answer at once.  That an answer names the number
        # that we drew says more than a cookie; but one at a time, for on the way it can be read.
        answered = 0 if kind == INITIATION else _receiver(message)
        is_first = answered != 0 and answered not in self._answers
        if self._load.under(waiting, now) and not is_first:
            # Zeros are what everybody sends who has no cookie: not worth a hash.
            if message[-16:] == _NO_MAC or not checker.mac2_valid(message, path.key, now):
                self._load.refused(now)  # as long as they come like this it stays so
                if self._cookies.take(now):
                    self._replies.append((checker.reply(message, path.key, now), path))
                else:
                    self.counters.drop(Drop.COOKIE_LIMIT)
                return
            if not self._trusted(path.host) and not self._sources.take(path.host, now):
                self.counters.drop(Drop.SOURCE_LIMIT)
                return
        if waiting >= MOST_WAITING:
            self.counters.drop(Drop.QUEUED_TOO_MANY)
            return
        if is_first:
            self._answers.add(answered)
        self._waiting.append((message, path, now))

    def _hear_answer(self, index: int, now: float) -> Peer | None:
        """Tell whose initiation has that *index* that it is answered; None: of no use."""
        peer, keypair = self._world.indices.get(index, (None, None))
        if peer is None or keypair is not None or not peer.hear_answer(index, now):
            return None
        return peer

    def _initiation(self, data: bytes, path: Path, now: float) -> None:
        static = self._world.static
        if static is None:
            return
        message = Initiation.parse(data)
        half = open_static(message, static, self._world.suites)
        if half is None:
            self._refuse(Drop.BAD_HANDSHAKE, now)
            return
        peer = self.peers.get(half.peer_public) or self._expected(half.peer_public)
        if peer is None or peer.shared is None or not peer.is_up:
            self._refuse(Drop.UNKNOWN_PEER, now)
            return
        # A stock peer has one suite; a handshake of another, with its key, is not one of its own.
        stamp = None
        if half.suite is CHACHA or peer.is_native:
            stamp = half.open_timestamp(peer.shared)
        if stamp is None:
            self._refuse(Drop.BAD_HANDSHAKE, now)
            return
        if stamp <= peer.newest_stamp:
            self._refuse(Drop.OLD_TIMESTAMP, now)
            return
        if now - peer.initiated < INITIATION_INTERVAL:
            self._refuse(Drop.TOO_SOON, now)
            return
        index = self._world.new_index(peer)
        answer = half.respond(peer.public, peer.preshared_key, index, self._world.random(32))
        if answer is None:
            del self._world.indices[index]
            self._refuse(Drop.BAD_HANDSHAKE, now)
            return
        peer.newest_stamp, peer.initiated = stamp, now
        self._world.changed.add(peer)
        peer.authenticated(len(data), now)
        peer.respond(answer[0], index, answer[1], path, now)

    def _response(self, data: bytes, path: Path, now: float) -> None:
        message = Response.parse(data)
        peer = self._hear_answer(message.receiver, now)
        static = self._world.static
        if peer is None or peer.initiation is None or static is None:
            self.counters.drop(Drop.UNKNOWN_INDEX)  # answered meanwhile, or begun anew
            return
        keys = peer.initiation.finish(message, static, peer.preshared_key)
        if keys is None:
            self._refuse(Drop.BAD_HANDSHAKE, now)
            return
        self.handshakes += 1
        peer.authenticated(len(data), now)
        peer.finish(keys, path, now)

    def _refuse(self, reason: Drop, now: float) -> None:
        """Count a handshake that came to nothing, though it cost us an exchange."""
        self.counters.drop(reason)
        self._load.refused(now)

    def _cookie(self, reply: CookieReply, now: float) -> None:
        peer, _ = self._world.indices.get(reply.receiver, (None, None))
        if peer is None or peer.has_given_up(reply.receiver):
            self.counters.drop(Drop.UNKNOWN_INDEX)
        elif not peer.take_cookie(reply, now):
            self.counters.drop(Drop.BAD_COOKIE)


def _receiver(response: bytes) -> int:
    """The number of the initiation that a response answers."""
    return int.from_bytes(response[8:12], "little")
