"""Whatever a network does to stock clients, it is over soon after it ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.nat import Nat
from pyvpn.testing.simulator.udp import UDP
from pyvpn.wire.datagram import Path
from tests.simulator.lab import Office, packed

SETTLING = 20.0
"""Seconds within which the first of a client's packets arrives: 15 s and a third without an
answer until it begins a handshake, what was late on its way, and what is sent once a second.
"""
LATE = 2.0
"""Seconds that anything takes at most on its way here."""

probabilities = st.sampled_from([0.0, 0.1, 0.3, 0.6])
conditions = st.builds(
    Conditions,
    loss=probabilities,
    duplicate=probabilities,
    reorder=probabilities,
    reorder_seconds=st.floats(0, 1),
    delay=st.floats(0, 0.5),
    jitter=st.floats(0, 0.25),
    rate=st.sampled_from([0.0, 0.0, 4000.0, 100_000.0]),
    queue=st.sampled_from([500, 1000]),  # bytes; a quarter of a second at the slowest
    corrupt=st.sampled_from([0.0, 0.0, 0.3]),
    max_size=st.sampled_from([0, 0, 100]),
    cut=st.sampled_from([False, False, False, True]),
)
clients = st.integers(0, 2)
waits = st.sampled_from([0.0, 0.1, 1.0, 7.0, 30.0, 130.0])
happenings = st.one_of(
    st.tuples(st.just("weather"), clients, conditions, conditions),
    st.tuples(st.just("heal")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("start")),
    st.tuples(st.just("kill client"), clients),
    st.tuples(st.just("move"), clients, st.booleans()),
    st.tuples(st.just("rebind"), clients, st.booleans()),
)
stories = st.lists(st.tuples(happenings, waits), min_size=3, max_size=20)


class Story:
    """An office with three clients behind a NAT each, to which things happen."""

    def __init__(self, seed: int, remembers: bool) -> None:
        self.office = office = Office(3, seed, remembers=remembers)
        self.clock = office.clock
        self.serial = 0
        self.sent: set[bytes] = set()
        self.nats: list[Nat] = []
        for number, client in enumerate(office.clients):
            self.nats.append(office.network.nat(self.address(4)))
            client.host.move(bytes((192, 168, 0, number)), nat=self.nats[-1])

    def address(self, version: int) -> bytes:
        """An outer address that nobody has had."""
        self.serial += 1
        last = self.serial.to_bytes(2, "big")
        return bytes((203, 0, *last)) if version == 4 else packed("2001:db8:9::")[:-2] + last

    def happen(self, what: str, *details: Any) -> None:
        """Let one thing of a story happen."""
        office = self.office
        if what == "heal":
            office.network.heal()
        elif what == "kill":
            office.server.kill()
        elif what == "start" and not office.server.is_running:
            office.server.start()
        elif what == "weather":
            number, there, back = details
            ends = office.clients[number].host, office.server.host
            office.network.link(*ends).conditions = there
            office.network.link(*reversed(ends)).conditions = back
        elif what == "kill client":
            office.clients[details[0]].kill()
            office.clients[details[0]].start()
        elif what == "move":
            self.move(*details)
        elif what == "rebind":
            number, elsewhere = details
            self.nats[number].rebind(*([self.address(4)] if elsewhere else []))

    def talk(self) -> None:
        """Let everybody say something, in both directions."""
        for number in range(3):
            self.sent |= {self.office.up(number), self.office.down(number)}

    def tell(self, story: list[Any]) -> None:
        """Let all of *story* happen, people talking before, meanwhile and after."""
        self.clock.advance(1)
        for happening, wait in story:
            self.talk()
            self.happen(*happening)
            self.talk()
            self.clock.advance(wait)
            self.talk()

    def move(self, number: int, six: bool) -> None:
        """Move a client to a network of one version; its program asks for the server there."""
        office, client = self.office, self.office.clients[number]
        if six:
            client.host.move(self.address(6))
        else:
            client.host.move(bytes((192, 168, 1, number)), nat=self.nats[number])
        place = Path(packed("2001:db8::1" if six else "192.0.2.1"), 51820)
        client.set_endpoint(office.server.public, place)

    def end(self) -> None:
        """Let everything work again."""
        self.office.network.heal()
        if not self.office.server.is_running:
            self.office.server.start()
        self.clock.advance(LATE)

    def waited(self, number: int) -> float:
        """Let a client send a packet a second; return when one has arrived."""
        began, mine = self.clock.seconds(), set()
        tun = self.office.server.tun
        while self.clock.seconds() < began + SETTLING:
            mine.add(self.office.up(number))
            self.sent |= mine
            before = len(tun.packets)
            until = self.clock.seconds() + 1
            while self.clock.step(until):
                if len(tun.packets) > before and not mine.isdisjoint(tun.packets[before:]):
                    return self.clock.seconds() - began
                before = len(tun.packets)
            self.clock.run(until)
        raise AssertionError(f"client {number} was not heard for {SETTLING} s")

    def repeated(self) -> list[bytes]:
        """Return what came out of a tunnel twice."""
        ends = [self.office.server, *self.office.clients]
        return [
            packet
            for end in ends
            for packet, times in Counter(end.tun.packets).items()
            if times > 1
        ]


class StoryTests(SynchronousTestCase):
    """Three stock clients and a server."""

    @settings(max_examples=100, deadline=None)
    @given(stories, st.integers(0, 2**32), st.booleans())
    def test_any(self, story: list[Any], seed: int, remembers: bool) -> None:
        """After the last fault every client is heard in 20 s, and answered; nothing came twice."""
        told = Story(seed, remembers)
        told.tell(story)
        told.end()
        for number in range(3):
            told.waited(number)
            answer = told.office.down(number)
            told.sent.add(answer)
            told.clock.advance(LATE)
            self.assertIn(answer, told.office.clients[number].tun.packets)

        self.assertEqual([], told.repeated())
        everything = {
            packet
            for end in (told.office.server, *told.office.clients)
            for packet in end.tun.packets
            if packet[9] == UDP  # and not the router's word that there is nobody
        }
        self.assertEqual(set(), everything - told.sent)

    @settings(max_examples=20, deadline=None)
    @given(stories, st.integers(0, 2**32))
    def test_again(self, story: list[Any], seed: int) -> None:
        """The same story with the same seed ends the same, to the byte."""
        digests = set()
        for _ in range(2):
            told = Story(seed, True)
            told.tell(story)
            digests.add(told.office.network.trace.digest)
        self.assertEqual(1, len(digests))
