"""Stories of native and stock clients side by side, for Hypothesis to tell."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pyvpn.testing.simulator.ends import PORT
from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.native_client import NativeClient
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import Path
from tests.simulator.lab import packed
from tests.simulator.native_lab import Lab

NATIVES, STOCKS = 2, 1
CLIENTS = NATIVES + STOCKS

probabilities = st.sampled_from([0.0, 0.0, 0.1, 0.4])
conditions = st.builds(
    Conditions,
    loss=probabilities,
    duplicate=probabilities,
    reorder=probabilities,
    reorder_seconds=st.floats(0, 1),
    delay=st.floats(0, 0.3),
    jitter=st.floats(0, 0.25),
    rate=st.sampled_from([0.0, 0.0, 4000.0, 100_000.0]),
    queue=st.sampled_from([4000, 16_000]),
    corrupt=st.sampled_from([0.0, 0.0, 0.2]),
    max_size=st.sampled_from([0, 0, 1280, 600]),
    cut=st.sampled_from([False, False, False, True]),
    no_udp=st.sampled_from([False, False, True]),
    no_tcp=st.sampled_from([False, False, True]),
)
clients = st.integers(0, CLIENTS - 1)
waits = st.sampled_from([0.0, 0.1, 1.0, 7.0, 30.0, 70.0])
happenings = st.one_of(
    st.tuples(st.just("weather"), clients, conditions, conditions),
    st.tuples(st.just("udp"), clients, st.booleans(), st.booleans()),
    st.tuples(st.just("heal")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("start")),
    st.tuples(st.just("kill client"), clients),
    st.tuples(st.just("leave"), clients),
    st.tuples(st.just("move"), clients, st.sampled_from([4, 6]), st.booleans()),
    st.tuples(st.just("rebind"), clients, st.booleans()),
)
stories = st.lists(st.tuples(happenings, waits), min_size=3, max_size=14)


class Story(Lab):
    """A server with native and stock clients behind a NAT each, to which things happen."""

    def __init__(self, seed: int) -> None:
        super().__init__(NATIVES, STOCKS, seed, natted=True, most_backoff=20.0)
        self.epochs: dict[Session, int] = {}

    def tell(self, story: list[Any]) -> None:
        """Let all of *story* happen, people talking before, meanwhile and after."""
        self.pass_time(1.0)
        for happening, wait in story:
            self.everybody_talks()
            self.happen(*happening)
            self.everybody_talks()
            self.pass_time(wait)

    def everybody_talks(self) -> None:
        for number in range(CLIENTS):
            if self.address(number):
                self.say(number)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; people say something each second, and what must hold is looked at."""
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            self.clock.run(min(until, self.clock.seconds() + 1.0))
            self.everybody_talks()
            self.look()

    def look(self) -> None:
        """Epochs only grow; a device has one session, and an address one device."""
        sessions = self.server.sessions
        for session in sessions:
            assert session.epoch >= self.epochs.get(session, 0), "an epoch went back"
            self.epochs[session] = session.epoch
            assert session.carrier in (None, session.link, session.peer)
        names = [session.name for session in sessions]
        assert len(names) == len(set(names)), "two sessions of one device"
        addresses = [session.addresses for session in sessions]
        assert len(addresses) == len(set(addresses)), "two devices with one address"
        for client in self.natives:
            if client.is_running:
                data, session = client.data, client.session
                assert session.carrier in (None, session.link, session.peer)
                assert data.choice.by_udp == (client.carrier == "udp")

    def happen(self, what: str, *details: Any) -> None:
        """Let one thing of a story happen."""
        if what == "heal":
            self.network.heal()
        elif what == "kill":
            self.server.kill()
        elif what == "start" and not self.server.is_running:
            self.server.start()
        elif what == "weather":
            number, there, back = details
            self.up(number)
            self.down(number)
            ends = self.clients[number].host, self.server.host
            self.network.link(*ends).conditions = there
            self.network.link(*reversed(ends)).conditions = back
        elif what == "udp":
            number, up, down = details
            self.up(number, no_udp=up)
            self.down(number, no_udp=down)
        elif what == "kill client":
            self.clients[details[0]].kill()
            self.clients[details[0]].start()
        elif what == "leave":
            client = self.clients[details[0]]
            if isinstance(client, NativeClient):
                client.leave()
                client.start()
        elif what == "move":
            self.move(*details)
        elif what == "rebind":
            number, elsewhere = details
            self.nats[number].rebind(*([self.new_address()] if elsewhere else []))

    def move(self, number: int, version: int, told: bool) -> None:
        """Move a client to a network of one version; its program may be told."""
        client = self.clients[number]
        if version == 6:
            client.host.move(self.new_address(6))
        else:
            client.host.move(bytes((192, 168, 1, number)), nat=self.nats[number])
        if isinstance(client, NativeClient):
            if told:
                client.network_changed()
        else:
            place = Path(packed("2001:db8::1" if version == 6 else "192.0.2.1"), PORT)
            client.set_endpoint(self.server.static.public, place)

    def end(self) -> None:
        """Let everything work again."""
        self.network.heal()
        if not self.server.is_running:
            self.server.start()
