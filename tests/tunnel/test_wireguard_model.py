"""WireGuard under everything a network and its operators can do, in any order."""

from __future__ import annotations

import random
from itertools import permutations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.peer import MOST_STAGED, Peer
from pyvpn.wire.datagram import (
    DATA,
    INITIATION,
    RESPONSE,
    counter_of,
    receiver_of,
    sender_of,
)
from tests.tunnel.wires import End, Net, Sent, hello, in_use

SETTLING = 40.0
"""Seconds in which a network that works brings everybody together: 15 s to notice that the other
end is gone, and two tries."""

places = st.integers(0, 2)
pieces = st.integers(0, 10**6)


class WireGuardModelTests(SynchronousTestCase):
    """Ends that must hold together."""

    def test_any_order_of_events(self) -> None:
        """No loss, delay, replay, move, restart or change of keys breaks a rule of sessions."""
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=40, stateful_step_count=60, deadline=None)
        )


class Machine(RuleBasedStateMachine):
    """Two or three ends, each a peer of the others, on a network that the rules move by hand."""

    @initialize(number=st.integers(2, 3), met=st.booleans())
    def begin(self, number: int, met: bool) -> None:
        self.net = Net()
        self.ends = [self.net.end(f"192.0.2.{n + 1}") for n in range(number)]
        self.meant: dict[bytes, tuple[End, End]] = {}  # packet to: from whom, to whom
        self.arrived: set[bytes] = set()
        self.nonces: set[tuple[int, int, int]] = set()
        self.firsts: set[bytes] = set()
        self.looked_at = [0 for _ in self.ends]
        self.past: list[tuple[End, Sent]] = []
        self.serial = 0
        self.dice = random.Random(9)
        self.preshared = bytes(32)
        self.thief = Net().end("203.0.113.1")
        for end, other in permutations(self.ends, 2):
            self.introduce(end, other)
        if met:
            for pair in range(6):
                self.talk(pair, 1)

    def introduce(self, end: End, other: End) -> None:
        peer = end.wg.add_peer(other.public)
        assert peer is not None
        peer.endpoint = other.place
        peer.preshared_key = self.preshared
        peer.mtu = 1420

    def end(self, number: int) -> End:
        return self.ends[number % len(self.ends)]

    def two(self, number: int) -> tuple[End, End]:
        choices = list(permutations(self.ends, 2))
        return choices[number % len(choices)]

    def peer(self, number: int) -> Peer:
        end, other = self.two(number)
        return end.wg.peers[other.public]

    def collect(self) -> None:
        """Look at everything that was sent and received since the last time."""
        for number, end in enumerate(self.ends):
            for sent in end.sent[self.looked_at[number] :]:
                self.look_at(number, sent)
            self.looked_at[number] = len(end.sent)
            for peer, packets in end.batches:
                for packet in packets:
                    sender, addressee = self.meant[packet]  # unaltered, or it is not there
                    assert addressee is end, "somebody else's packet"
                    assert end.wg.peers.get(peer.public) is peer
                    assert sender.public == peer.public or sender not in self.ends
                    assert packet not in self.arrived, "twice"
                    self.arrived.add(packet)
            end.batches.clear()
        self.past += self.net.flying[-3:]

    def look_at(self, number: int, sent: Sent) -> None:
        datagram = sent.datagram
        if sent.kind == DATA:
            nonce = number, receiver_of(datagram), counter_of(datagram)
            assert nonce not in self.nonces, "a nonce used twice"
            self.nonces.add(nonce)
        elif sent.kind in (INITIATION, RESPONSE):
            start = 8 if sent.kind == INITIATION else 12
            ephemeral = datagram[start : start + 32]
            assert ephemeral not in self.firsts, "an ephemeral key used twice"
            self.firsts.add(ephemeral)
            assert sender_of(datagram) in self.net.ends[number].wg._world.indices

    # -- what people do

    @rule(pair=pieces, number=st.integers(1, 5))
    def send(self, pair: int, number: int) -> None:
        end, other = self.two(pair)
        packets = []
        for _ in range(number):
            self.serial += 1
            packet = hello(b"packet %d" % self.serial, tos=self.serial % 4)
            self.meant[packet] = end, other
            packets.append(packet)
        end.wg.peers[other.public].send_packets(packets, self.net.now)
        self.collect()

    @rule(pair=pieces)
    def send_very_many(self, pair: int) -> None:
        for _ in range(30):
            self.send(pair, 5)

    @rule(pair=pieces, number=st.integers(1, 5))
    def talk(self, pair: int, number: int) -> None:
        self.send(pair, number)
        self.settle()

    @rule(first=pieces, second=pieces, seed=pieces)
    def talk_at_once(self, first: int, second: int, seed: int) -> None:
        """Both have something to say, and the weather is bad."""
        self.send(first, 2)
        self.send(second, 2)
        self.storm(seed)

    @rule(pair=pieces)
    def initiate(self, pair: int) -> None:
        self.peer(pair).initiate(self.net.now)
        self.collect()

    @rule(pair=pieces, seconds=st.sampled_from((0, 1, 25)))
    def set_keepalive(self, pair: int, seconds: int) -> None:
        self.peer(pair).set_keepalive(seconds, self.net.now)
        self.collect()

    @rule(pair=pieces)
    def down_and_up(self, pair: int) -> None:
        self.peer(pair).down()
        self.collect()
        self.peer(pair).up(self.net.now)
        self.collect()

    @rule(pair=pieces)
    def forget_and_add(self, pair: int) -> None:
        """Its memory of timestamps goes, too: recorded initiations are answered again."""
        end, other = self.two(pair)
        end.wg.remove_peer(other.public)
        self.introduce(end, other)

    @rule(psk=st.sampled_from((bytes(32), b"\1" * 32)))
    def set_preshared_key(self, psk: bytes) -> None:
        self.preshared = psk
        for end, other in permutations(self.ends, 2):
            end.wg.peers[other.public].preshared_key = psk

    @rule(number=places)
    def change_private_key(self, number: int) -> None:
        end = self.end(number)
        for other in self.ends:
            if other is not end:
                other.wg.remove_peer(end.public)
        end.wg.set_private_key(self.dice.randbytes(32))
        assert end.wg.static is not None
        end.public = end.wg.static.public
        for other in self.ends:
            if other is not end:
                self.introduce(other, end)
        self.collect()

    @rule(number=places)
    def restart(self, number: int) -> None:
        self.end(number).restart()

    @rule(number=places, port=st.integers(1000, 1003))
    def roam(self, number: int, port: int) -> None:
        self.end(number).port = port

    @rule(number=places)
    def under_load(self, number: int) -> None:
        self.end(number).wg._load._seen = self.net.now + 3.0

    # -- what the network does

    @rule(
        seconds=st.sampled_from(
            (0.001, 0.03, 0.5, 3.0, 5.4, 11.0, 16.0, 61.0, 121.0, 181.0, 600.0)
        )
    )
    def wait(self, seconds: float) -> None:
        """Time passes, and what is under way stays under way."""
        end = self.net.now + seconds
        while self.net.now < end:
            due = min(each.wg.next_due for each in self.ends)
            self.net.now = min(end, max(due, self.net.now + 1e-6))
            for each in self.ends:
                each.wg.tick(self.net.now)
                assert each.wg.next_due > self.net.now
            self.collect()

    @rule(seconds=st.sampled_from((1.0, 200.0, 4000.0)))
    def sleep(self, seconds: float) -> None:
        """Everything falls due at once."""
        self.net.now += seconds
        for each in self.ends:
            each.wg.tick(self.net.now)
        self.collect()

    def flying(self, piece: int) -> tuple[End, Sent]:
        return self.net.flying.pop(piece % len(self.net.flying))

    def arrive(self, sender: End, sent: Sent) -> None:
        self.net.arrive(sender, sent)
        for end in self.ends:
            while end.wg.work(self.net.now):
                pass
        self.collect()

    @rule()
    def settle(self) -> None:
        """Everything arrives in order, and all that follows from it."""
        self.net.settle()
        self.collect()

    @rule(seed=pieces)
    def storm(self, seed: int) -> None:
        """Much is lost, doubled or late, and nothing comes in order."""
        dice = random.Random(seed)
        for _ in range(6):
            self.net.now += dice.choice((0.0, 0.01, 0.3))
            flying, self.net.flying = self.net.flying, []
            dice.shuffle(flying)
            for sender, sent in flying:
                fate = dice.random()
                if fate < 0.2:
                    self.net.flying.append((sender, sent))
                elif fate > 0.3:
                    self.arrive(sender, sent)
                    if fate > 0.8:
                        self.net.flying.append((sender, sent))

    @precondition(lambda self: self.net.flying)
    @rule(piece=pieces)
    def arrive_sometime(self, piece: int) -> None:
        self.arrive(*self.flying(piece))

    @precondition(lambda self: self.net.flying)
    @rule(piece=pieces)
    def arrive_twice(self, piece: int) -> None:
        sender, sent = self.flying(piece)
        self.arrive(sender, sent)
        self.arrive(sender, sent)

    @precondition(lambda self: self.net.flying)
    @rule(piece=pieces)
    def lose(self, piece: int) -> None:
        self.flying(piece)

    @precondition(lambda self: self.net.flying)
    @rule(piece=pieces, bit=pieces)
    def damage(self, piece: int, bit: int) -> None:
        sender, sent = self.flying(piece)
        data = bytearray(sent.datagram)
        data[bit // 8 % len(data)] ^= 1 << bit % 8
        self.arrive(sender, sent._replace(datagram=bytes(data)))

    @precondition(lambda self: self.past)
    @rule(piece=pieces, number=places, port=st.integers(1000, 1003))
    def replay(self, piece: int, number: int, port: int) -> None:
        """Something of the past comes to anybody, from anywhere."""
        sender, sent = self.past[piece % len(self.past)]
        end = self.end(number)
        path = sent.path._replace(host=end.address, port=end.port)
        self.thief.port = port
        self.arrive(self.dice.choice((sender, self.thief)), sent._replace(path=path))

    # -- what always holds

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "ends"):
            return
        for end in self.ends:
            held = in_use(end)
            assert held == set(end.wg._world.indices), "an index without an owner"
            for peer in end.wg.peers.values():
                assert peer.keypairs <= 3
                assert peer.staged <= MOST_STAGED
                slots = (peer.previous, peer.current, peer.next)
                held_keys = [keypair for keypair in slots if keypair is not None]
                assert len(set(map(id, held_keys))) == len(held_keys)
                timers = [getattr(peer, name) for name in Peer.__slots__ if name.endswith("_at")]
                assert len(timers) == 6
                assert peer._deadline <= min(timers), "a timer that nobody waits for"
                assert peer._deadline == float("inf") or peer in end.wg._world.deadlines

    def teardown(self) -> None:
        """On a network that works again everybody talks with everybody."""
        if not hasattr(self, "ends"):
            return
        self.net.flying.clear()
        for end, other in permutations(self.ends, 2):
            peer = end.wg.peers[other.public]
            peer.endpoint = other.place
            end.wg._load._seen = 0.0
        until = self.net.now + SETTLING
        while self.net.now < until:
            for number in range(len(list(permutations(self.ends, 2)))):
                self.send(number, 1)
            self.net.run(0.5)
            self.collect()
        last = self.serial
        for number in range(len(list(permutations(self.ends, 2)))):
            self.send(number, 1)
        self.net.run(0.1)
        self.collect()
        late = [packet for packet in self.meant if packet.endswith(b"packet %d" % last)]
        assert late
        for packet in list(self.meant)[last:]:
            assert packet in self.arrived, "they do not talk"
