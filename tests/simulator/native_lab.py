"""A server of ours with native and stock clients on a simulated network, who talk all the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pyvpn.crypto.x25519 import StaticKey
from pyvpn.testing.simulator.ends import PORT, MemoryTun, WireGuardEnd, packet_between
from pyvpn.testing.simulator.link import Conditions
from pyvpn.testing.simulator.nat import Nat
from pyvpn.testing.simulator.native_client import MOST_BACKOFF, NativeClient
from pyvpn.testing.simulator.native_server import NativeServer
from pyvpn.testing.simulator.network import Host, Network
from pyvpn.testing.simulator.tcp import TcpSettings
from pyvpn.testing.simulator.trace import Place
from pyvpn.testing.simulator.udp import UDP
from pyvpn.tunnel.choice import Transport
from tests.simulator.lab import OFFICE, packed

EVERY = 0.1
"""Seconds between two packets of one who talks."""
LATE = 2.0
"""What is not there after so many seconds is lost."""


class Talk:
    """What was said between the office and one client, and how it arrived."""

    def __init__(self) -> None:
        self.gap = 0.0
        """The longest time without a packet arriving, of the direction with the longer one."""
        self.sent = [0, 0]
        self.arrived = [0, 0]

    @property
    def lost(self) -> int:
        """Packets that never arrived."""
        return sum(self.sent) - sum(self.arrived)


class Lab:
    """The server, and clients at an address of their own, or behind a NAT each.

    Args:
        transport: of the native ones.
        natted: whether they are behind a NAT; then ``nats`` has one for each.
        static: whether all native ones have the same WireGuard key.
        most_backoff: the longest pause between two of their tries to connect.
    """

    def __init__(
        self,
        natives: int = 1,
        stocks: int = 0,
        seed: int = 1,
        *,
        conditions: Conditions | None = None,
        transport: Transport = Transport.AUTO,
        natted: bool = False,
        static: bool = False,
        most_backoff: float = MOST_BACKOFF,
    ) -> None:
        self.network = Network(seed, conditions, tcp=TcpSettings(give_up=30))
        self.clock = self.network.clock
        addresses = packed("192.0.2.1"), packed("2001:db8::1")
        self.server = NativeServer(self.network.host("server", *addresses))
        places = [Place(each, PORT) for each in addresses]
        self.natted = natted
        self.nats: list[Nat] = []
        self._addresses = 0
        self._serial = 0
        key = StaticKey(self.server.random(32)) if static else None
        self.natives = [
            NativeClient(
                self.make_host(f"native{number}"),
                places,
                transport,
                static=key,
                most_backoff=most_backoff,
            )
            for number in range(natives)
        ]
        self.stocks = [
            WireGuardEnd(self.make_host(f"stock{number}"), 0) for number in range(stocks)
        ]
        self.inner = [self.server.add_stock(each, each.host.name) for each in self.stocks]
        self.clients: list[NativeClient | WireGuardEnd] = [*self.natives, *self.stocks]
        self.sent: set[bytes] = set()

    def make_host(self, name: str) -> Host:
        if not self.natted:
            return self.network.host(name, self.new_address())
        self.nats.append(self.network.nat(self.new_address()))
        inside = bytes((192, 168, *len(self.nats).to_bytes(2, "big")))
        return self.network.host(name, inside, nat=self.nats[-1])

    def new_address(self, version: int = 4) -> bytes:
        """An outer address that nobody has had."""
        self._addresses += 1
        last = self._addresses.to_bytes(2, "big")
        return bytes((203, 0, *last)) if version == 4 else packed("2001:db8:9::")[:-2] + last

    # -- mishaps

    @property
    def client(self) -> NativeClient:
        return self.natives[0]

    def both(self, number: int = 0, **changes: Any) -> None:
        """Change what lies between a client and the server, in both directions."""
        self.network.both(self.clients[number].host, self.server.host, **changes)

    def up(self, number: int = 0, **changes: Any) -> None:
        """... from the client to the server."""
        self.network.link(self.clients[number].host, self.server.host).change(**changes)

    def down(self, number: int = 0, **changes: Any) -> None:
        """... from the server to the client."""
        self.network.link(self.server.host, self.clients[number].host).change(**changes)

    def restart(self, seconds: float = 1.0) -> None:
        """Kill the server, and start it again."""
        self.server.kill()
        self.clock.advance(seconds)
        self.server.start()

    # -- packets

    def address(self, number: int) -> bytes:
        """The address in the tunnel; empty as long as there is none."""
        client = self.clients[number]
        if isinstance(client, NativeClient):
            return client.address
        return self.inner[number - len(self.natives)]

    def say(self, number: int = 0, size: int = 8) -> tuple[bytes, bytes]:
        """Let a client and the office send each other a packet; return both."""
        inner = self.address(number)
        self._serial += 1
        load = self._serial.to_bytes(size, "big")
        there, back = packet_between(inner, OFFICE, load), packet_between(OFFICE, inner, load)
        self.clients[number].send(there)
        self.server.send(back)
        self.sent |= {there, back}
        return there, back

    def meet(self, seconds: float = 30.0) -> None:
        """Wait until everybody has an address and UDP, and was answered."""
        ready = self.clock.run_while(
            lambda: any(not each.address or each.carrier != "udp" for each in self.natives),
            seconds,
        )
        assert ready, "not all of them came"
        self.clock.advance(1)
        self.talk(1.0)

    def talk(self, seconds: float, size: int = 8, among: list[int] | None = None) -> list[Talk]:
        """Let everybody talk, a packet each way every 0.1 s; then wait for what is late."""
        who = range(len(self.clients)) if among is None else among
        flows = [_Flow(self, number) for number in who]
        for _ in range(round(seconds / EVERY)):
            for flow in flows:
                flow.say(size)
            self.clock.advance(EVERY)
            for flow in flows:
                flow.look(self.clock.seconds())
        self.clock.advance(LATE)
        for flow in flows:
            flow.end()
        return [flow.talk for flow in flows]

    def gap(self, seconds: float) -> float:
        """Let everybody talk; return the longest silence of any."""
        return max(each.gap for each in self.talk(seconds))

    def until_carrier(self, carrier: str, seconds: float) -> float:
        """Talk until the first client's packets travel so; return how long it took."""
        began = self.clock.seconds()
        while self.client.carrier != carrier:
            self.say()
            self.clock.advance(EVERY)
            if self.clock.seconds() - began > seconds:
                return float("inf")
        return self.clock.seconds() - began

    def until_heard(self, number: int = 0, seconds: float = 60.0) -> float:
        """Talk until a packet of each direction has arrived; return how long it took."""
        began = self.clock.seconds()
        flow = _Flow(self, number)
        while not all(flow.talk.arrived):
            flow.say(8)
            self.clock.advance(EVERY)
            flow.look(self.clock.seconds())
            if self.clock.seconds() - began > seconds:
                return float("inf")
        return self.clock.seconds() - began

    def say_one(self, up: bool) -> None:
        """Let the first client say something to the office, or be told something."""
        inner = self.address(0)
        self._serial += 1
        load = self._serial.to_bytes(8, "big")
        if up:
            self.client.send(packet_between(inner, OFFICE, load))
        else:
            self.server.send(packet_between(OFFICE, inner, load))

    def until_all_heard(self, seconds: float) -> float:
        """Talk until a packet of each direction has arrived for everybody, as until_heard."""
        began = self.clock.seconds()
        flows = [_Flow(self, number) for number in range(len(self.clients))]
        while flows:
            for flow in flows:
                flow.say(8)
            self.clock.advance(EVERY)
            for flow in flows:
                flow.look(self.clock.seconds())
            flows = [flow for flow in flows if not all(flow.talk.arrived)]
            if self.clock.seconds() - began > seconds:
                return float("inf")
        return self.clock.seconds() - began

    # -- what must hold at the end

    def tuns(self) -> Iterator[MemoryTun]:
        yield self.server.tun
        for each in self.clients:
            yield each.tun

    def repeated(self) -> list[bytes]:
        """What came out of a tunnel twice."""
        return [
            packet
            for tun in self.tuns()
            for packet, times in Counter(_said(tun.packets)).items()
            if times > 1
        ]

    def disagreements(self) -> list[str]:
        """Clients of ours whose packets travel otherwise one way than the other."""
        found = []
        for client in self.natives:
            session = self.server.session(client.name)
            assert session is not None, f"{client} has no session"
            by_udp = session.carrier is not None and session.carrier is session.peer
            if session.carrier is None or by_udp != (client.carrier == "udp"):
                found.append(f"{client}: {client.carrier}, the server: {session.carrier}")
        return found

    def invented(self) -> set[bytes]:
        """What came out of a tunnel and never went in."""
        return {packet for tun in self.tuns() for packet in _said(tun.packets)} - self.sent


def _said(packets: list[bytes]) -> list[bytes]:
    """Without the router's words that there is nobody."""
    return [packet for packet in packets if packet[9] == UDP]


class _Flow:
    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = number
        self.talk = Talk()
        self.tuns = lab.server.tun, lab.clients[number].tun
        self.seen = [len(tun.packets) for tun in self.tuns]
        self.last = [lab.clock.seconds()] * 2
        self.waiting: tuple[set[bytes], set[bytes]] = set(), set()

    def say(self, size: int) -> None:
        if not self.lab.address(self.number):
            return
        for way, packet in enumerate(self.lab.say(self.number, size)):
            self.waiting[way].add(packet)
            self.talk.sent[way] += 1

    def look(self, now: float) -> None:
        for way, tun in enumerate(self.tuns):
            fresh = self.waiting[way].intersection(tun.packets[self.seen[way] :])
            self.seen[way] = len(tun.packets)
            if fresh:
                self.last[way] = now
                self.talk.arrived[way] += len(fresh)
                self.waiting[way].difference_update(fresh)
            self.talk.gap = max(self.talk.gap, now - self.last[way])

    def end(self) -> None:
        """Take what was late, without calling it a gap."""
        gap = self.talk.gap
        self.look(self.lab.clock.seconds())
        self.talk.gap = gap
