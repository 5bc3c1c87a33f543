"""What travels through a tunnel of a simulation: connections with hashes, and a pulse.

The programs of a client's host and those of the office behind the server talk as programs do, by
TCP (the simulator's own) whose segments are packets of the tunnel.  Each packet is the only one of
its kind, so that it is known of each that comes out whether it went in, and how often it came.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from pyvpn.testing.simulator.ends import MemoryTun, load_of, packet_between
from pyvpn.testing.simulator.network import Host, Network
from pyvpn.testing.simulator.tcp import TCP, TcpSettings
from pyvpn.testing.simulator.trace import Packet, Place
from pyvpn.testing.simulator.udp import UDP

INSIDE_TCP = TcpSettings(segment=1200, connect_give_up=900.0, most_timeout=10.0)
"""As outside, but patient; and what is lost is sent again after 10 s at the latest, not after 120,
so that a story need not go on for minutes after its last fault."""
PULSE_SECONDS = 0.5
LATE = 2.0
_JOIN_SECONDS = 30.0

_HEAD = struct.Struct("!QBHH")
_PULSE = 0


class Inside(Network):
    """All hosts that reach each other through the tunnels of *outside*."""

    def __init__(self, outside: Network) -> None:
        super().__init__(outside.random.getrandbits(64), tcp=INSIDE_TCP)
        self.clock = outside.clock
        self.faults: list[str] = []
        """What came out of a tunnel and should not have."""
        self.delivered = 0
        self._serials = count(1)
        self._sent: dict[int, bytes | None] = {}  # None: it has arrived
        # Fragments that wait for others: since when, and by their offsets.
        self._pieces: dict[bytes, tuple[float, dict[int, bytes]]] = {}

    def member(self, name: str, address: bytes, enter: Callable[[bytes], None]) -> Member:
        """Return a host whose packets go into a tunnel by *enter*."""
        member = Member(self, name, address, enter)
        self.hosts.append(member)
        return member

    def send(self, host: Host, packet: Packet) -> None:
        assert isinstance(host, Member)
        serial = next(self._serials)
        protocol, (source, source_port), (target, target_port), payload, _ = packet
        head = _HEAD.pack(serial, protocol, source_port, target_port)
        sealed = packet_between(source, target, head + payload)
        # Of another identification than others, so that its fragments are known.
        sealed = sealed[:4] + (serial & 0xFFFF).to_bytes(2, "big") + sealed[6:]
        self._sent[serial] = blake2b(sealed, digest_size=8).digest()
        host.enter(sealed)

    def arrived(self, member: Member, packets: list[bytes]) -> None:
        """Take what came out of the tunnel at *member*."""
        for piece in packets:
            if piece[9] != UDP:
                continue  # the router's word that there is nobody
            packet = self._joined(piece)
            if not packet:
                continue
            load = load_of(packet)
            serial, protocol, source_port, target_port = _HEAD.unpack_from(load)
            sent = self._sent.get(serial, b"")
            if sent is None:
                self.faults.append(f"packet {serial} came twice")
            elif sent != blake2b(packet, digest_size=8).digest():
                self.faults.append(f"{member.name} was given a packet that was not sent")
            elif packet[16:20] not in member.addresses:
                self.faults.append(f"{member.name} was given a packet for somebody else")
            else:
                self.delivered += 1
                self._sent[serial] = None
                source, target = (
                    Place(packet[12:16], source_port),
                    Place(packet[16:20], target_port),
                )
                whole = Packet(protocol, source, target, load[_HEAD.size :])
                # Not now: the tunnel is in the middle of something, and would be given an answer.
                self.clock.soon(member.take, whole)

    def _joined(self, piece: bytes) -> bytes:
        """Return the packet that *piece* is, or completes; nothing while others are missing."""
        field = piece[6] << 8 | piece[7]
        if not field:
            return piece
        of, now = piece[4:6] + piece[12:20], self.clock.seconds()
        since, pieces = self._pieces.get(of, (now, {}))
        if now - since > _JOIN_SECONDS:
            since, pieces = now, {}
        self._pieces[of] = since, pieces
        pieces[field & 0x1FFF] = piece
        load = b""
        while (next_one := pieces.get(len(load) // 8)) is not None:
            load += next_one[20:]
            if not next_one[6] & 0x20:
                del self._pieces[of]
                length = (20 + len(load)).to_bytes(2, "big")
                return (
                    piece[:2]
                    + length
                    + piece[4:6]
                    + b"\0\0"
                    + piece[8:10]
                    + b"\0\0"
                    + (piece[12:20] + load)
                )
        return b""


class Member(Host):
    """One host inside.  Made by :meth:`Inside.member`."""

    def __init__(
        self, inside: Inside, name: str, address: bytes, enter: Callable[[bytes], None]
    ) -> None:
        super().__init__(inside, name, (address,), None)
        self.inside = inside
        self.enter = enter
        self.pulses: dict[bytes, float] = {}
        """When the latest pulse came, by the address it came from."""
        self.heard_pulse: Callable[[Member, Member, int], None] = lambda source, target, number: (
            None
        )

    def listen_at(self, tun: MemoryTun) -> None:
        """Take what comes out at *tun* from now on."""
        tun.taker = lambda packets: self.inside.arrived(self, packets)

    def pulse(self, other: Member, number: int) -> None:
        """Send *other* a packet that wants nothing but to be there."""
        own, target = Place(self.addresses[0], 0), Place(other.addresses[0], 0)
        self.inside.send(self, Packet(_PULSE, own, target, number.to_bytes(8, "big")))

    def take(self, packet: Packet) -> None:
        """Take a packet that has arrived; for the network."""
        if packet.protocol == TCP:
            self.received(packet)
        else:
            for member in self.inside.hosts:
                assert isinstance(member, Member)
                if packet.source.host in member.addresses:
                    self.heard_pulse(member, self, int.from_bytes(packet.payload, "big"))


class Pulse:
    """Packets both ways between the office and a client, and how long none came through.

    Args:
        office: where they go; it must not have had another pulse with *client*.
    """

    def __init__(self, office: Member, client: Member) -> None:
        self._ends = office, client
        self._clock = client.network.clock
        self._number = 0
        self.sent = 0
        self.arrived = 0
        self.gap = 0.0
        """The longest time for which nothing came one way, in seconds."""
        self._last = [self._clock.seconds()] * 2
        self._mark = 0
        self._back_at: list[float | None] = [None, None]
        self._running = True
        self._beat()

    def heard(self, source: Member, target: Member, number: int) -> None:
        """Take one that came through."""
        if {source, target} != set(self._ends):
            return
        way, now = int(target is self._ends[1]), self._clock.seconds()
        self.arrived += 1
        self.gap = max(self.gap, now - self._last[way])
        self._last[way] = now
        if number > self._mark and self._back_at[way] is None:
            self._back_at[way] = now

    def watch(self) -> None:
        """Note when something that is sent from now on has come through."""
        self._mark = self._number
        self._back_at = [None, None]

    @property
    def back_at(self) -> float:
        """When something had come through each way since :meth:`watch`; infinity: not yet."""
        return max(float("inf") if at is None else at for at in self._back_at)

    def stop(self) -> None:
        """Send no more."""
        self._running = False

    def _beat(self) -> None:
        if not self._running:
            return
        self._number += 1
        self.sent += 2
        office, client = self._ends
        office.pulse(client, self._number)
        client.pulse(office, self._number)
        self._clock.callLater(PULSE_SECONDS, self._beat)


class _Party(Protocol):
    """One end of a connection: sends what it has, and hashes what comes."""

    transport: Any  # a stream, of which Twisted's annotation knows less

    def __init__(self, story: Transfer, load: bytes, expected: int) -> None:
        self.story = story
        self.load = load
        self.expected = expected
        self.count = 0
        self.digest = blake2b(digest_size=16)

    def connectionMade(self) -> None:
        self.transport.write(self.load)

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.digest.update(data)
        self.story.look()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.story.lost()


class Transfer:
    """One connection, by which each end sends the other some bytes.

    Args:
        done: called with it when all is there, or when the connection broke.
    """

    def __init__(
        self,
        client: Member,
        office: Member,
        up: bytes,
        down: bytes,
        done: Callable[[Transfer], None],
    ) -> None:
        self.wanted = [blake2b(each, digest_size=16).digest() for each in (up, down)]
        self.size = len(up) + len(down)
        self.is_broken = False
        self.is_over = False
        self._done = done
        self._at_office = _Party(self, down, len(up))
        self._at_client = _Party(self, up, len(down))
        self._port = office.listen(0, Factory.forProtocol(lambda: self._at_office))
        asked: Deferred[Any] = client.connect(
            office.addresses[0],
            self._port.port,
            Factory.forProtocol(lambda: self._at_client),
            INSIDE_TCP.connect_give_up,
        )
        asked.addErrback(lambda _: self.lost())

    @property
    def progress(self) -> int:
        """How many bytes have arrived."""
        return self._at_office.count + self._at_client.count

    @property
    def hashes(self) -> list[bytes]:
        """Of what arrived at the office and at the client."""
        return [each.digest.digest() for each in (self._at_office, self._at_client)]

    @property
    def is_right(self) -> bool:
        """Whether what arrived is what was sent."""
        return not self.is_broken and self.hashes == self.wanted

    def look(self) -> None:
        """See whether all has arrived; for its ends."""
        ends = self._at_office, self._at_client
        if not self.is_over and all(each.count >= each.expected for each in ends):
            self._end()
            for each in ends:
                each.transport.loseConnection()

    def lost(self) -> None:
        """See whether that was the end that was meant; for its ends."""
        if not self.is_over:
            self.is_broken = True
            self._end()

    def _end(self) -> None:
        self.is_over = True
        self._port.stopListening()
        self._done(self)


class Transfers:
    """One transfer after the other between a client and the office.

    Args:
        random: decides sizes, contents and pauses.
        most: bytes each way of one transfer at most.
    """

    def __init__(self, client: Member, office: Member, random: Random, most: int) -> None:
        self._ends = client, office
        self._random = random
        self._most = most
        self._clock = client.network.clock
        self._running = True
        self.current: Transfer | None = None
        self.right = 0
        self.wrong = 0
        self.broken = 0
        self.bytes = 0
        self._digest = blake2b(digest_size=16)
        self._begin()

    @property
    def digest(self) -> str:
        """Of all the hashes of what has arrived."""
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Begin no more; the one that is under way goes on."""
        self._running = False

    @property
    def is_idle(self) -> bool:
        """Whether none is under way."""
        return self.current is None

    def _begin(self) -> None:
        if self._running:
            random = self._random
            loads = [random.randbytes(random.randrange(1, self._most)) for _ in range(2)]
            self.current = Transfer(*self._ends, loads[0], loads[1], self._over)

    def _over(self, transfer: Transfer) -> None:
        self.current = None
        self.bytes += transfer.progress
        if transfer.is_broken:
            self.broken += 1
        elif transfer.is_right:
            self.right += 1
        else:
            self.wrong += 1
        for each in transfer.hashes:
            self._digest.update(each)
        self._clock.callLater(self._random.uniform(0.2, 4.0), self._begin)
