"""A server of the first generation's UDP protocol, for the tests of its clients."""

from __future__ import annotations

from ipaddress import IPv4Network

from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.plain_udp import Place, PlainUdpClients
from pyvpn.tunnel.router import Router
from pyvpn.wire.plain_udp import with_header
from tests.tunnel.packets import KeepingSink, packet

PASSWORD = b"4fb88ca224e"
ANNA, BOB, EVE = ("192.0.2.7", 40001), ("192.0.2.8", 40002), ("192.0.2.9", 40003)
OFFICE, BEYOND = "192.168.77.20", "192.168.88.1"
FIRST, SECOND, OWN = "10.0.0.2", "10.0.0.3", "10.0.0.1"


class Lab:
    """A server of the first generation, its TUN and what it sends, kept."""

    def __init__(self, network: str = "10.0.0.0/24", client_to_client: bool = False) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.tun = KeepingSink()
        self.router = Router(self.tun, self.counters, client_to_client=client_to_client)
        self.sent: list[tuple[Place, bytes]] = []
        self.broken = False
        self.events: list[str] = []
        self.clients = PlainUdpClients(
            network=IPv4Network(network),
            bypass=IPv4Network("192.168.77.0/24"),
            password=PASSWORD,
            router=self.router,
            send=self._send,
            arrived=lambda session: self.events.append(f"{session.name} arrived"),
            left=lambda session, why: self.events.append(f"{session.name} left: {why}"),
        )

    def _send(self, datagram: bytes, place: Place) -> bool:
        if not self.broken:
            self.sent.append((place, datagram))
        return not self.broken

    def put(self, place: Place, *datagrams: bytes) -> list[bytes]:
        """These arrive; what is sent to *place* upon it."""
        before = len(self.sent)
        for datagram in datagrams:
            self.clients.received(datagram, place, self.now)
        return [datagram for target, datagram in self.sent[before:] if target == place]

    def log_in(self, place: Place) -> str:
        """Log in; the address."""
        [answer] = self.put(place, PASSWORD)
        client, _, server = answer.decode().partition(";")
        assert server.endswith(".1"), answer
        return client

    def advance(self, seconds: float) -> None:
        """Let time pass, second by second, as the server's heartbeat does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.clients.tick(self.now)

    def from_office(self, inner: bytes) -> list[tuple[Place, bytes]]:
        """A packet from the kernel; what is sent upon it, and where."""
        before = len(self.sent)
        self.router.packets_from_tun([inner], self.now)
        return self.sent[before:]


def ping(source: str, destination: str = OFFICE) -> bytes:
    """A packet as a client sends it."""
    return with_header(packet(source, destination, b"ping"))
