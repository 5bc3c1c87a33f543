"""A client and a server of ours in memory: UDP between them, a control connection, a clock.

The UDP side is :mod:`tests.tunnel.wires`; the control connection carries packets and words at
once, or as late as a test wants.
"""

from __future__ import annotations

from base64 import b64encode

from pyvpn.tunnel.choice import CarrierChoice, Transport
from pyvpn.tunnel.claims import Claims
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.native import Way, parse
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.wires import End, Net, Sent

CLIENT, OFFICE = "10.73.0.2", "192.168.77.20"


class Line:
    """One direction of a control connection."""

    refusal = Drop.QUEUE_FULL

    def __init__(self, story: Story, towards_server: bool) -> None:
        self.story = story
        self.towards_server = towards_server
        self.held: list[list[bytes]] = []
        """Packets that are still in a socket's buffer."""
        self.holding = False
        self.asked = 0

    def send_packets(self, packets: list[bytes], now: float) -> int:
        self.held.append(packets)
        if not self.holding:
            self.let_go()
        return len(packets)

    def let_go(self) -> None:
        """Let what is in the buffer arrive."""
        held, self.held = self.held, []
        for packets in held:
            self.story.arrived(self, packets)


class Story:
    """One client, one server, and what can happen to them."""

    def __init__(self, transport: Transport = Transport.AUTO) -> None:
        self.net = Net()
        self.client, self.server = self.net.end("198.51.100.1"), self.net.end("203.0.113.1")
        self.client.deliver = self.client_delivers  # type: ignore[method-assign]
        self.client.native = self.client_native  # type: ignore[method-assign]
        self.client.doubted = self.client_doubts  # type: ignore[method-assign]
        self.client_tun, self.server_tun = KeepingSink(), KeepingSink()
        self.client_session = Session(0, 0, "server", (), frozenset((packed(CLIENT),)), 0.0)
        table: Prefixes[bool] = Prefixes()
        table.add(packed("192.168.77.0"), 24, True)
        self.client_session.sources = table
        self.client_router = Router(self.client_tun, self.client.counters)
        self.client_router.add(self.client_session)
        self.client_router.add_route(packed("192.168.77.0"), 24, self.client_session)
        self.choice = CarrierChoice(self.client_session, transport, self.tell)
        self.epochs: list[tuple[int, Way]] = []
        self.up: Line | None = None
        self.down: Line | None = None
        self.begin_server()

    # -- the server

    def begin_server(self) -> None:
        """A server that knows nothing but its keys."""
        self.server.native = self.server_native  # type: ignore[method-assign]
        self.server.deliver = self.server_delivers  # type: ignore[method-assign]
        self.server.doubted = self.server_doubts  # type: ignore[method-assign]
        self.claims = Claims(self.server.wg, self.server._random)
        self.server_router = Router(self.server_tun, self.server.counters)
        self.session = self.make_session()

    def make_session(self, device: int = 7, address: str = CLIENT) -> Session:
        reachable: Prefixes[bool] = Prefixes()
        reachable.add(packed("192.168.77.0"), 24, True)
        session = Session(device, 3, "anna/laptop", (packed(address),), reachable, self.net.now)
        self.server_router.add(session)
        return session

    def kill_server(self) -> None:
        """What was not on its disk is gone; the connection with it."""
        self.lose_link()
        before = self.server
        self.server.restart()
        for peer in list(before.wg.peers):
            before.wg.remove_peer(peer)
        self.begin_server()

    def server_native(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        self.claims.received(peer, payloads, now)

    def server_delivers(self, peer: Peer, packets: list[bytes], now: float) -> None:
        if isinstance(peer.owner, Session):
            self.server_router.packets_from_session(peer.owner, packets, now)

    def server_doubts(self, peer: Peer, now: float) -> None:
        if self.session.link is not None:
            self.choice.doubted(now)

    # -- the client

    def client_delivers(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.client_router.packets_from_session(self.client_session, packets, now)

    def client_native(self, peer: Peer, payloads: list[bytes], now: float) -> None:
        for payload in payloads:
            self.choice.received(parse(payload), now)

    def client_doubts(self, peer: Peer, now: float) -> None:
        self.choice.doubted(now)

    def tell(self, epoch: int, way: Way, mtu: int) -> None:
        self.epochs.append((epoch, way))
        if self.up is not None:
            self.session.choose(epoch, way == Way.UDP, mtu)

    # -- the control connection

    def register(self, udp: bool = True, carried: bool | None = None) -> None:
        """Connect and register; an old connection of the client is replaced.

        Args:
            carried: whether the request says that packets go by UDP, when that was something else
                than what they do now that the server reads it.
        """
        now = self.net.now
        self.up, self.down = Line(self, True), Line(self, False)
        said = self.choice.by_udp if carried is None else carried
        peer = self.server.wg.peers.get(self.client.public)
        agreement = b64encode(self.claims.agreement(self.session)).decode()
        same = self.choice.agreement in ("", agreement)
        keep = said and same and peer is not None and self.session.peer is peer
        self.session.join(self.down, now, keep=keep)
        token = self.claims.claim(self.session, self.client.public, 1420) if udp else b""
        server = self.client.wg.add_peer(self.server.public) if udp else None
        if server is not None:
            server.is_native = True
            server.owner = self.client_session
            server.mtu = 1420
        place = [self.server.place] if udp else []
        epoch = self.session.epoch
        self.choice.registered(self.up, server, place, agreement, token, epoch, now)
        self.net.settle()

    def lose_link(self) -> None:
        """The connection breaks; both ends know."""
        if self.up is not None and self.down is not None:
            self.session.detach(self.down)
            up, self.up, self.down = self.up, None, None
            self.choice.link_lost(up, self.net.now)

    def arrived(self, line: Line, packets: list[bytes]) -> None:
        now = self.net.now
        if line.towards_server and self.session.owns(self.down or line):
            self.server_router.packets_from_session(self.session, packets, now)
        elif not line.towards_server and self.client_session.owns(self.up or line):
            self.client_router.packets_from_session(self.client_session, packets, now)

    # -- packets and time

    def up_packet(self, load: bytes) -> bool:
        """Send a packet to the office; whether it arrives at once."""
        made = packet(CLIENT, OFFICE, load)
        self.client_router.packets_from_tun([made], self.net.now)
        self.net.settle()
        return made in self.server_tun.packets

    def down_packet(self, load: bytes) -> bool:
        """Send a packet to the client; whether it arrives at once."""
        made = packet(OFFICE, CLIENT, load)
        self.server_router.packets_from_tun([made], self.net.now)
        self.net.settle()
        return made in self.client_tun.packets

    def run(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass."""
        end = self.net.now + seconds
        while self.net.now < end - 1e-9:
            self.net.run(min(step, end - self.net.now), step)
            self.choice.used(self.net.now)
            self.choice.tick(self.net.now)
            self.net.settle()

    def talk(self, seconds: float, up: bool = True, down: bool = True) -> float:
        """Send a packet each way every 0.1 s; return the longest time without one arriving."""
        gap = 0.0
        last = {"up": self.net.now, "down": self.net.now}
        end = self.net.now + seconds
        count = 0
        while self.net.now < end - 1e-9:
            self.run(0.1)
            count += 1
            load = b"%d at %d" % (count, int(self.net.now * 1000))
            if up and self.up_packet(load):
                last["up"] = self.net.now
            if down and self.down_packet(load):
                last["down"] = self.net.now
            for way, wanted in ("up", up), ("down", down):
                if wanted:
                    gap = max(gap, self.net.now - last[way])
        return gap

    def block(self, up: bool = True, down: bool = True) -> None:
        """Lose all datagrams of a direction, or of both."""

        def lost(end: End, sent: Sent) -> bool:
            return up if end is self.client else down

        self.net.lose = lost

    def unblock(self) -> None:
        self.net.lose = lambda end, sent: False
