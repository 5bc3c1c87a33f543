"""One WireGuard peer: three keypairs, the timers that renew them, and what waits for a key.

The handshakes that we begin and those that the other end begins have separate states, so that
two which cross both complete.  Timers are fields with the time at which they are due; one heap
for all peers knows a lower bound of the earliest, so that a packet which puts a timer off
costs an assignment.

(A long file: every message touches keypairs, timers and what waits together, and the rules of one
cannot be read without the others.)

Sources: the WireGuard paper, sections 5.1, 5.4 and 6; the Linux kernel's ``timers.c`` and
``noise.c``.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.keypair import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    Keypair,
)
from pyvpn.crypto.noise import InitiatorHandshake, TransportKeys
from pyvpn.crypto.suite import AES_GCM, CHACHA
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.session import Sent
from pyvpn.tunnel.surroundings import Surroundings
from pyvpn.wire.datagram import CookieReply, Path
from pyvpn.wire.ip import ecn_of
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.segments import VNET_SIZE
from pyvpn.wire.slab import Slab

NEVER = float("inf")
LONG_AGO = float("-inf")

REKEY_TIMEOUT = 5.0
"""Seconds, as all times here, between two tries of a handshake."""
REKEY_ATTEMPT_TIME = 90.0
KEEPALIVE_TIMEOUT = 10.0
"""After data came and nothing was sent for so long, a keepalive says that it did."""

DOUBT_AFTER = 3.0
"""After a packet, or an initiation, was sent to one of ours and nothing came for so long, its
owner is told.  Not after our own messages: those have their own answers, and would never end."""

AES_TRIES = 3
"""So many initiations of AES-GCM without an answer, and WireGuard's own suite is tried: the other
end may have been restarted with another configuration, or on another machine."""

MOST_STAGED = 128
"""Packets that wait for a key; the oldest make room."""
MOST_RETRIES = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT)
ANEW_AFTER = 0.1
"""Between an answer that comes too late and the handshake begun for it: more such may come, and
for 20 ms after it has taken one, a stock peer refuses the next initiation."""
ERASE_AFTER = 3 * REJECT_AFTER_TIME
LAST_MINUTE = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""Age of a keypair at which its initiator renews it although it only receives."""
HANDSHAKE_TOS = 0x88
"""DSCP AF41: handshakes before bulk."""


class Peer:
    """Whoever has the private half of *public*.  A carrier: see :class:`ICarrier`.

    Made by :meth:`pyvpn.tunnel.wireguard.WireGuard.add_peer`.  Compared by identity.
    """

    __slots__ = (
        "_aes_tries",
        "_anew",
        "_attempts",
        "_crossed",
        "_deadline",
        "_doubt_at",
        "_erase_at",
        "_given_up",
        "_initiation",
        "_keepalive_at",
        "_last_minute_done",
        "_need_another_keepalive",
        "_new_handshake_at",
        "_persistent_at",
        "_retransmit_at",
        "_sent_handshake",
        "_spends_cookie",
        "_staged",
        "_world",
        "aes",
        "cookies",
        "current",
        "endpoint",
        "heard",
        "initiated",
        "is_native",
        "is_up",
        "keepalive",
        "last_handshake",
        "mtu",
        "newest_stamp",
        "next",
        "offload",
        "owner",
        "preshared_key",
        "previous",
        "public",
        "rx_bytes",
        "shared",
        "tx_bytes",
    )

    refusal = Drop.NO_ENDPOINT
    """Why packets are not taken."""

    def __init__(self, public: bytes, shared: bytes | None, world: Surroundings) -> None:
        self.public = public
        self.shared = shared
        """Diffie-Hellman of both static keys; None with a key of low order: nothing is sent."""
        self._world = world
        self.preshared_key = bytes(32)
        self.endpoint: Path | None = None
        self.keepalive = 0
        """Seconds of silence either way after which a keepalive is sent; 0 never."""
        self.mtu = 0
        """Packets are not padded beyond this; 0: unknown."""
        self.owner: object = None
        """Whose packets these are; for the owner of this object."""
        self.is_native = False
        """Whether it is one of ours, which understands :mod:`pyvpn.wire.native`."""
        self.offload = False
        """Whether both ends announced :data:`pyvpn.wire.offload.CAPABILITY`."""
        self.aes = False
        """Whether both ends announced :data:`pyvpn.crypto.suite.AES_CAPABILITY`; see
        :meth:`agree_on_aes`."""
        self.is_up = True
        self.cookies = CookieJar(public)
        self.newest_stamp = bytes(12)
        """TAI64N of the newest initiation that we answered; survives restarts if told to."""
        self.initiated = LONG_AGO
        """When that was."""
        self.heard = LONG_AGO
        """When anything authenticated last came."""
        self.last_handshake = 0.0
        """Unix time; 0 never."""
        self.tx_bytes = 0
        self.rx_bytes = 0
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self._initiation: tuple[int, InitiatorHandshake] | None = None
        # The first ones since a handshake was completed last: of what waits for a process that
        # stands still, its socket keeps the oldest.
        self._given_up: tuple[int, ...] = ()
        self._anew = LONG_AGO  # when a handshake was, or will be, begun for a late answer
        self._spends_cookie = False  # ... and at once for a cookie that comes instead of the next
        self._crossed = False
        self._staged: deque[bytes] = deque()
        self._sent_handshake = LONG_AGO
        self._attempts = 0
        self._aes_tries = 0  # since a handshake was completed last
        self._last_minute_done = False
        self._need_another_keepalive = False
        self._deadline = NEVER
        self._retransmit_at = NEVER
        self._keepalive_at = NEVER
        self._new_handshake_at = NEVER
        self._doubt_at = NEVER
        self._persistent_at = NEVER
        self._erase_at = NEVER

    # -- what the owner does

    def send_packets(self, packets: list[bytes], now: float) -> int:
        """Seal and send *packets*, or keep the newest until there is a key.

        None is taken while there is no endpoint to send to.
        """
        if self.endpoint is None or not self.is_up:
            return 0
        if self._staged or not self._usable(now):
            self._stage(packets)
            self.send_staged(now)
        else:
            sent = self._transmit(packets, now)
            if sent < len(packets):  # the keypair is used up
                self._stage(packets[sent:])
                self.initiate(now)
        return len(packets)

    def send_whole(self, packet: bytes, now: float) -> None:
        """Send *packet* in a datagram that nobody may fragment; without a key, not at all."""
        if self.endpoint is None or not self.is_up or self._staged or not self._usable(now):
            return
        assert self.current is not None
        for datagram in self.current.seal([packet], self.mtu):
            self.tx_bytes += len(datagram)
            self._world.outside.send_whole(datagram, self.endpoint)
        self._sent(now)

    def takes_frames(self, now: float) -> bool:
        """Whether :meth:`send_frames` can send at once what it is given."""
        return (
            self.offload
            and self.is_up
            and self.endpoint is not None
            and not self._staged
            and self._usable(now)
        )

    def send_frames(self, frames: list[bytes], now: float) -> Sent:
        """Send what a TUN handed out behind virtio headers, uncut; if :meth:`takes_frames`."""
        keypair, path = self.current, self.endpoint
        assert keypair is not None
        assert path is not None
        items, unknown = outgoing(frames, self.mtu)
        if unknown:
            self._world.counters.drop(Drop.MALFORMED, unknown)
        count = size = tos = 0
        # Of a super-packet as large as they are two or three datagrams are more than one system
        # call takes: they go with the first of the next, not by themselves.
        datagrams: list[bytes] = []
        for item in items:
            wanted = ecn_of(item.head) if isinstance(item, Run) else -1
            if datagrams and wanted != tos:
                self._send_runs(datagrams, path, tos, now)
                datagrams = []
            if isinstance(item, Run):
                sealed = keypair.seal_run(item)
                if not sealed:  # the keypair is used up
                    self._world.counters.drop(Drop.EXPIRED_KEY, len(item.payloads))
                    self.initiate(now)
                    continue
                datagrams += sealed
                tos = wanted
                count += len(sealed)
                size += item.size
            else:
                taken = self.send_packets(item, now)
                count += taken
                size += sum(map(len, item[:taken]))
        if datagrams:
            self._send_runs(datagrams, path, tos, now)
        return Sent(count, size)

    def send_slab(self, slab: Slab, now: float) -> Sent | None:
        """Do :meth:`send_frames` with the super-packet in *slab*; None: it takes that to do it."""
        keypair, path = self.current, self.endpoint
        assert keypair is not None
        assert path is not None
        shape = slab.shape(self.mtu)
        if shape is None:
            return None
        sealed = keypair.seal_slab(slab, shape)
        if sealed is None:
            return None
        self._world.outside.send_datagrams(sealed, path, ecn_of(slab.start[VNET_SIZE:]))
        self._transmitted(len(sealed.data), True, True, now)
        count = shape.packets(len(slab))
        return Sent(count, len(slab) - VNET_SIZE + (count - 1) * shape.after)

    def _send_runs(self, datagrams: list[bytes], path: Path, tos: int, now: float) -> None:
        self._world.outside.send_datagrams(datagrams, path, tos)
        self._transmitted(sum(map(len, datagrams)), True, True, now)

    def set_keepalive(self, seconds: int, now: float) -> None:
        """Keep the path open with a packet after so many *seconds* of silence; 0: do not."""
        switched_on = seconds and not self.keepalive
        self.keepalive = seconds
        if not seconds:
            self._persistent_at = NEVER
        elif switched_on:
            self.send_keepalive(now)

    def agree_on_aes(self, agreed: bool) -> None:
        """Begin handshakes of :data:`AES_GCM` from now on, or of WireGuard's suite only.

        To answer those of a peer of ours it takes no agreement: whoever begins one means it, and
        one of the ends may have been restarted, and know of none.
        """
        self.aes = agreed
        self._aes_tries = 0

    @property
    def cipher(self) -> str:
        """What packets to it are sealed with, for people; empty: nothing yet."""
        return "" if self.current is None else self.current.suite.name

    def up(self, now: float) -> None:
        """Take part again."""
        if not self.is_up:
            self.is_up = True
            self._sent_handshake = LONG_AGO
            if self.keepalive:
                self.send_keepalive(now)

    def down(self) -> None:
        """Forget every key and everything that waits; nothing is sent from here on."""
        self.is_up = False
        self._staged.clear()
        self.forget_keys()
        self._deadline = self._retransmit_at = self._keepalive_at = NEVER
        self._new_handshake_at = self._doubt_at = NEVER
        self._persistent_at = self._erase_at = NEVER
        self._world.deadlines.discard(self)

    def forget_keys(self) -> None:
        """Erase all keypairs and the open handshake.

        As far as Python can: the objects are let go, their memory is not overwritten.
        """
        self._erase()
        self._forget_given_up()

    def renew_identity(self, shared: bytes | None) -> None:
        """Our own key was replaced: what was agreed with the old one is only good to receive."""
        self.shared = shared
        self._drop_initiation()
        self._forget_given_up()
        self._retire(self.next)
        self.next = None
        if self.current is not None:
            self._retire(self.previous)
            self.previous, self.current = self.current, None
        self._sent_handshake = LONG_AGO

    @property
    def staged(self) -> int:
        """How many packets wait for a key."""
        return len(self._staged)

    @property
    def keypairs(self) -> int:
        """How many keypairs it has, at most three."""
        return sum(one is not None for one in (self.previous, self.current, self.next))

    def hurry(self, now: float) -> None:
        """Try again at once, if there is no key to send with: the network is another one."""
        if not self._usable(now):
            self._sent_handshake = LONG_AGO
            self.initiate(now)

    def call_back(self, now: float, first: bytes = b"") -> None:
        """Begin a handshake with no need for one: three tries, where a need gets eighteen.

        Args:
            first: what is said before anything else when it is done; empty: nothing.
        """
        if first:
            self._staged.appendleft(first)
        self._attempts = MOST_RETRIES - 1
        self.initiate(now, again=True)

    # -- sending

    def send_keepalive(self, now: float) -> None:
        """Send what waits, or an empty packet; without a key, begin a handshake for it."""
        if self.endpoint is None or not self.is_up:
            return
        if not self._staged:
            self._staged.append(b"")
        self.send_staged(now)

    def send_staged(self, now: float) -> None:
        """Send what waits, if there is a key; else see to it that there will be one."""
        if not self._staged:
            return
        if not self._usable(now):
            self.initiate(now)
            return
        packets = list(self._staged)
        self._staged.clear()
        sent = self._transmit(packets, now)
        if sent < len(packets):
            self._staged.extend(packets[sent:])
            self.initiate(now)

    def initiate(self, now: float, again: bool = False) -> None:
        """Begin a handshake, but none within 5 s of the last one, ours or answered.

        *again*: as another try for the same need; those are counted, and end after 90 s.
        """
        world = self._world
        if not again:
            self._attempts = 0
        if world.static is None or self.shared is None or self.endpoint is None or not self.is_up:
            return
        if now - self._sent_handshake < REKEY_TIMEOUT:
            if self._staged and self._retransmit_at == NEVER:
                # Nothing else would bring us back here before the next packet.
                self._retransmit_at = self._sent_handshake + REKEY_TIMEOUT + world.jitter()
                self._schedule()
            return
        self._sent_handshake = now
        if self.is_native and self._doubt_at == NEVER:
            self._doubt_at = now + DOUBT_AFTER
        self._drop_initiation()
        index = world.new_index(self)
        # Not by the attempts, which every packet that waits begins anew.  A stranger on the way
        # can eat these tries, and gains nothing: the other suite is as strong.
        takes_aes = self.aes and AES_GCM in world.suites and self._aes_tries < AES_TRIES
        begun = InitiatorHandshake.begin(
            world.static,
            self.public,
            self.shared,
            index,
            world.random(32),
            world.stamps.next(),
            AES_GCM if takes_aes else CHACHA,
        )
        if begun is None:
            del world.indices[index]
            return
        state, message = begun
        self._aes_tries += takes_aes
        self._initiation = index, state
        self._retransmit_at = now + REKEY_TIMEOUT + world.jitter()
        self._send_handshake(self.cookies.add_macs(message, now), self.endpoint, now)

    def respond(
        self, keys: TransportKeys, index: int, message: bytes, path: Path, now: float
    ) -> None:
        """Answer an initiation that came along *path*: to there, whatever our endpoint is.

        A replayed or forwarded initiation is authentic, and only what follows shows who sent it:
        so the endpoint moves with the first packet under the new keys.
        """
        self._retire(self.previous)
        self._retire(self.next)
        self.previous = None
        self.next = self._adopt(Keypair(index, keys, False, now))
        self._crossed = False
        self._sent_handshake = now
        self._erase_at = now + ERASE_AFTER
        self._send_handshake(self.cookies.add_macs(message, now), path, now)

    def finish(self, keys: TransportKeys, path: Path, now: float) -> None:
        """Use the *keys* that the answer to our initiation, come along *path*, has given us."""
        assert self._initiation is not None
        index, _ = self._initiation
        self._initiation = None
        self._retire(self.previous)
        self.previous, self.current = self.current, self._adopt(Keypair(index, keys, True, now))
        # Both ends initiated?  Then `next` stays where it is: the other may use it already.
        self._crossed = self.next is not None
        self._erase_at = now + ERASE_AFTER
        self._move(path)
        self._completed()
        self.send_keepalive(now)  # the other end waits for a packet before it sends any

    @property
    def initiation(self) -> InitiatorHandshake | None:
        """The handshake that we have begun and that is not answered yet."""
        return None if self._initiation is None else self._initiation[1]

    def has_given_up(self, index: int) -> bool:
        """Whether that is the index of an initiation of ours for which we wait no more."""
        return index in self._given_up

    def hear_answer(self, index: int, now: float) -> bool:
        """Note that our initiation of that *index* is answered; False: that is of no use.

        If that one was given up, the other end is there again, it seems: a process that stood
        still answers the oldest that waited for it, and for 5 s begins none itself.  That is not
        proved, so it gains one more try of ours, and each index one at most.
        """
        if self._initiation is not None and self._initiation[0] == index:
            return True
        if index in self._given_up:
            self._given_up = tuple(each for each in self._given_up if each != index)
            del self._world.indices[index]
            if not self._anew <= now < self._anew + REKEY_TIMEOUT:
                self._anew = now + ANEW_AFTER
                self._spends_cookie = True
                self._sent_handshake = self._anew - REKEY_TIMEOUT
                self._attempts = min(self._attempts, MOST_RETRIES)
                self._retransmit_at = self._anew
                self._schedule()
        return False

    def take_cookie(self, reply: CookieReply, now: float) -> bool:
        """Bring the cookie in *reply* along with the next initiation; False: it is none for us."""
        if not self.cookies.consume(reply, now):
            return False
        # Whoever has just gone on is under load from what had waited.
        if self._spends_cookie and self._initiation is not None and now >= self._anew:
            self._spends_cookie = False
            self._sent_handshake = LONG_AGO
            self.initiate(now, again=True)
        return True

    # -- receiving

    def authenticated(self, size: int, now: float) -> None:
        """Note that an authentic message of *size* bytes came."""
        self.rx_bytes += size
        self.heard = now
        self._new_handshake_at = self._doubt_at = NEVER
        if self.keepalive:
            self._persistent_at = now + self.keepalive
            self._schedule()

    def confirmed(self, keypair: Keypair, now: float) -> None:
        """The first packet came on our answer's *keypair*: now we may send on it too.

        If both ends initiated there are two new keypairs, and both ends settle on that of the
        smaller public key.  With one each, both would initiate at every renewal, cross again,
        and lose what is on its way on the keypairs in ``previous``.
        """
        static = self._world.static
        self._retire(self.previous)
        if self._crossed and static is not None and static.public < self.public:
            self.previous, self.next = keypair, None
            return
        self.previous, self.current, self.next = self.current, keypair, None
        self._drop_initiation()  # a late answer would put us on a keypair that nobody uses
        self._completed()
        self.send_staged(now)

    def is_superseded(self, keypair: Keypair) -> bool:
        """Whether the other end has gone over from *keypair* to a newer one."""
        current = self.current
        return keypair is self.previous and current is not None and current.window.highest >= 0

    def received_data(self, path: Path | None, some: bool, size: int, now: float) -> None:
        """Note a run of *size* bytes of packets that opened.

        Args:
            path: where they came along; None when they were older than others before.
            some: one of them at least was no keepalive.
        """
        if path is not None:
            self._move(path)
        self.authenticated(size, now)
        if some:
            if self._keepalive_at == NEVER:
                self._keepalive_at = now + KEEPALIVE_TIMEOUT
                self._schedule()
            else:
                self._need_another_keepalive = True
        current = self.current
        if (
            current is not None
            and current.initiator
            and not self._last_minute_done
            and now - current.created >= LAST_MINUTE
        ):
            self._last_minute_done = True
            self.initiate(now)

    # -- time

    def fire(self, now: float) -> None:
        """Do what is due; then wait for the next."""
        self._deadline = NEVER
        if self._erase_at <= now:  # first, or it would take what the others begin
            self._erase_at = NEVER
            self._erase()
        if self._retransmit_at <= now:
            if self._retransmit_at == self._anew:
                # Also if we have answered it meanwhile: a stock one that has begun a handshake,
                # and then answers one of ours, takes no answer any more.
                self._sent_handshake = LONG_AGO
            self._retransmit_at = NEVER
            self._try_again(now)
        if self._keepalive_at <= now:
            self._keepalive_at = NEVER
            self.send_keepalive(now)
            if self._need_another_keepalive:
                self._need_another_keepalive = False
                self._keepalive_at = now + KEEPALIVE_TIMEOUT
        if self._doubt_at <= now:
            self._doubt_at = NEVER
            self._world.doubted(self, now)
        if self._new_handshake_at <= now:
            self._new_handshake_at = NEVER
            self._forget_source()
            self.initiate(now)
        if self._persistent_at <= now:
            self._persistent_at = now + self.keepalive if self.keepalive else NEVER
            self.send_keepalive(now)
        self._schedule()

    # -- inside

    def _usable(self, now: float) -> bool:
        keypair = self.current
        return (
            keypair is not None
            and now - keypair.created < REJECT_AFTER_TIME
            and keypair.counter < REJECT_AFTER_MESSAGES
        )

    def _stage(self, packets: list[bytes]) -> None:
        staged = self._staged
        staged.extend(packets)
        surplus = len(staged) - MOST_STAGED
        if surplus > 0:
            self._world.counters.drop(Drop.STAGED_FULL, surplus)
            for _ in range(surplus):
                staged.popleft()

    def _transmit(self, packets: list[bytes], now: float) -> int:
        keypair, path = self.current, self.endpoint
        assert keypair is not None
        assert path is not None
        datagrams = keypair.seal(packets, self.mtu)
        send = self._world.outside.send_datagrams
        # All that is to be known of ECN is in two bytes, nearly always the same.
        heads = [packet[:2] for packet in packets[: len(datagrams)]]
        marks = {head: ecn_of(head) if head else 0 for head in set(heads)}
        if not any(marks.values()):
            send(datagrams, path, 0)
        else:
            first = 0
            for mark, run in groupby(heads, marks.__getitem__):
                after = first + len(list(run))
                send(datagrams[first:after], path, mark)
                first = after
        some = self._new_handshake_at == NEVER and any(packets)
        doubtful = self.is_native and self._doubt_at == NEVER and any(map(_is_packet, packets))
        self._transmitted(sum(map(len, datagrams)), some, doubtful, now)
        return len(datagrams)

    def _transmitted(self, size: int, some: bool, packet: bool, now: float) -> None:
        """Note that *size* bytes were sent: *some* of it no keepalive, one of it a *packet*."""
        keypair = self.current
        assert keypair is not None
        self.tx_bytes += size
        self._sent(now)
        if some and self._new_handshake_at == NEVER:
            self._new_handshake_at = now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self._world.jitter()
            self._schedule()
        if packet and self.is_native and self._doubt_at == NEVER:
            self._doubt_at = now + DOUBT_AFTER
            self._schedule()
        if keypair.counter > REKEY_AFTER_MESSAGES or (
            keypair.initiator and now - keypair.created >= REKEY_AFTER_TIME
        ):
            self.initiate(now)

    def _send_handshake(self, message: bytes, path: Path, now: float) -> None:
        self.tx_bytes += len(message)
        self._sent(now)
        self._schedule()
        self._world.outside.send_datagrams([message], path, HANDSHAKE_TOS)

    def _sent(self, now: float) -> None:
        self._keepalive_at = NEVER
        if self.keepalive:
            self._persistent_at = now + self.keepalive
            self._schedule()

    def _try_again(self, now: float) -> None:
        if self._attempts > MOST_RETRIES:
            self._keepalive_at = NEVER
            if self._staged:
                self._world.counters.drop(Drop.NO_ANSWER, len(self._staged))
                self._staged.clear()
            if self._erase_at == NEVER:
                self._erase_at = now + ERASE_AFTER
            return
        self._attempts += 1
        self._forget_source()
        self.initiate(now, again=True)

    def _completed(self) -> None:
        self._retransmit_at = NEVER
        self._attempts = self._aes_tries = 0
        self._spends_cookie = False
        self._forget_given_up()
        self._last_minute_done = False
        self.last_handshake = self._world.unix()
        self._world.changed.add(self)

    def _move(self, path: Path) -> None:
        if path != self.endpoint:
            self.endpoint = path
            self._world.changed.add(self)

    def _forget_source(self) -> None:
        """Our own address may be what is wrong: let the kernel choose again."""
        if self.endpoint is not None:
            self.endpoint = self.endpoint._replace(local=b"", interface=0)

    def _adopt(self, keypair: Keypair) -> Keypair:
        self._world.indices[keypair.local_index] = (self, keypair)
        return keypair

    def _retire(self, keypair: Keypair | None) -> None:
        if keypair is not None:
            self._world.indices.pop(keypair.local_index, None)

    def _erase(self) -> None:
        for keypair in (self.previous, self.current, self.next):
            self._retire(keypair)
        self.previous = self.current = self.next = None
        self._drop_initiation()

    def _drop_initiation(self) -> None:
        """Let go what it takes to complete it; of the first ones, keep the index."""
        if self._initiation is not None:
            index, _ = self._initiation
            self._initiation = None
            if len(self._given_up) < MOST_RETRIES:
                self._given_up += (index,)
            else:
                del self._world.indices[index]

    def _forget_given_up(self) -> None:
        for index in self._given_up:
            del self._world.indices[index]
        self._given_up = ()

    def _schedule(self) -> None:
        """Be woken for the earliest timer; to be called when one was set."""
        due = min(
            self._retransmit_at,
            self._keepalive_at,
            self._new_handshake_at,
            self._doubt_at,
            self._persistent_at,
            self._erase_at,
        )
        if due < self._deadline:
            self._deadline = due
            self._world.deadlines.set(self, due)

    def __repr__(self) -> str:
        """The beginning of its public key, and where it is."""
        return f"<Peer {self.public[:4].hex()} at {self.endpoint}>"


def _is_packet(payload: bytes) -> bool:
    """Whether it is an IP packet, and neither a keepalive nor a message of ours."""
    return len(payload) > 0 and payload[0] >= 0x10
