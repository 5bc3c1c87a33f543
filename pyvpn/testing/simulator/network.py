"""Hosts and what lies between them: each datagram and segment passes here.

::

    network = Network(seed=1)
    server = network.host("server", packed("192.0.2.1"))
    client = network.host("client", packed("10.0.0.5"), nat=network.nat(packed("198.51.100.7")))
    network.both(client, server, loss=0.2)
    network.clock.run(network.clock.seconds() + 60)

There is one link from each host to each other, and one back.  One seed gives one history, byte
for byte, if whoever uses the network takes all randomness from :meth:`Network.randbytes` and all
time from :attr:`Network.clock`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.clock import SimCall, SimClock
from pyvpn.testing.simulator.link import Conditions, Link
from pyvpn.testing.simulator.nat import Nat
from pyvpn.testing.simulator.tcp import ListeningPort, Tcp, TcpSettings
from pyvpn.testing.simulator.trace import Event, Packet, Place, Trace
from pyvpn.testing.simulator.udp import UDP, UdpPort
from pyvpn.wire.datagram import Run

EPHEMERAL = range(32_768, 61_000)


class Host:
    """One machine.  Made by :meth:`Network.host`."""

    def __init__(
        self, network: Network, name: str, addresses: tuple[bytes, ...], nat: Nat | None
    ) -> None:
        self.network = network
        self.name = name
        self.addresses: tuple[bytes, ...] = ()
        """Its own, packed; those behind a NAT are seen by nobody else."""
        self.nat: Nat | None = None
        self.interface = 0
        """The number of its interface: another one after each move."""
        self.is_up = True
        self.is_stopped = False
        """Whether its process stands still, while the kernel goes on."""
        self.process: object = None
        """Whose timers stand still when it sleeps, beside those of its streams."""
        self.tcp = Tcp(self)
        self._udp: dict[int, UdpPort] = {}
        self._slept_at = 0.0
        self._held: list[SimCall] = []
        self.move(*addresses, nat=nat)

    # -- sockets

    def udp(self, port: int, receiver: Callable[[list[Run]], None]) -> UdpPort:
        """Open a UDP port (0: any) at all addresses, also those to come.

        Args:
            receiver: takes the runs that arrive, as from :class:`pyvpn.net.udp.UdpPort`.

        Raises:
            Misuse: the port is taken.
        """
        number = port or self.free_port(self._udp)
        if number in self._udp:
            raise Misuse(f"UDP port {number} of {self.name} is taken")
        opened = self._udp[number] = UdpPort(self, number, receiver)
        return opened

    def udp_port(self, port: int) -> UdpPort:
        """Return the UDP port of that number, which is open."""
        return self._udp[port]

    def listen(self, port: int, factory: IProtocolFactory) -> ListeningPort:
        """Accept connections at *port* (0: any) at all addresses; Misuse: it is taken."""
        return self.tcp.listen(port, factory)

    def connect(
        self, address: bytes, port: int, factory: IProtocolFactory, timeout: float = 30.0
    ) -> Deferred[IProtocol]:
        """Connect to the packed *address*; the protocol, or an error as Twisted's endpoints."""
        return self.tcp.connect(Place(address, port), factory, timeout)

    # -- mishaps

    def move(self, *addresses: bytes, nat: Nat | None = None) -> None:
        """Be somewhere else: have these *addresses*, behind *nat* or not, and no others."""
        self.network.release(self, self.addresses)
        self.addresses, self.nat = addresses, nat
        self.interface += 1
        hidden = () if nat is None else nat.external
        self.network.claim(self, tuple(each for each in addresses if len(each) not in hidden))

    def crash(self) -> None:
        """Lose power: nobody is told anything, and all sockets are gone."""
        self.is_up = False
        self._udp.clear()
        self.tcp.crash()

    def boot(self) -> None:
        """Be there again, with no sockets."""
        self.is_up = True

    def sleep(self) -> None:
        """Stand still until :meth:`wake`: what is sent here is lost, and no timer rings."""
        self.is_up = False
        self._slept_at = self.network.clock.seconds()
        self._held = self.network.clock.hold(self._is_ours)

    def wake(self) -> None:
        """Go on; all timers ring as much later as this took, as the kernel's do."""
        self.is_up = True
        slept = self.network.clock.seconds() - self._slept_at
        self.tcp.slept(slept)
        held, self._held = self._held, []
        self.network.clock.release(held, slept)

    def stop_process(self) -> None:
        """Have the process stand still until :meth:`continue_process`, as SIGSTOP does.

        Datagrams wait in its sockets, as many as these hold.  Not for hosts with streams.
        """
        self.is_stopped = True
        self._held = self.network.clock.hold(lambda call: _owner(call) is self.process)

    def continue_process(self) -> None:
        """Go on: first with what waits in the sockets, then with the timers, which are late."""
        self.is_stopped = False
        for port in self._udp.values():
            port.go_on()
        held, self._held = self._held, []
        self.network.clock.release(held, 0.0)

    def _is_ours(self, call: SimCall) -> bool:
        if call.process is not None:
            return call.process is self.process
        owner = _owner(call)
        return owner is not None and (owner is self.process or self.tcp.owns(owner))

    def end_process(self) -> None:
        """Have the kernel clean up behind a process that was killed: it ends the connections."""
        self._udp.clear()
        self.tcp.end_process()

    # -- what sockets and the network ask

    def source(self, target: bytes, wanted: bytes = b"") -> bytes | None:
        """Return our address to reach *target* from: *wanted* if it is ours still, or another.

        None: we have none in that family.
        """
        if wanted and wanted in self.addresses:
            return wanted
        for address in self.addresses:
            if len(address) == len(target):
                return address
        return None

    def free_port(self, taken: Any) -> int:
        """Return an ephemeral port that is not in *taken*."""
        while True:
            port = self.network.random.choice(EPHEMERAL)
            if port not in taken:
                return port

    def close_udp(self, port: UdpPort) -> None:
        """Give back a UDP port; for the port."""
        if self._udp.get(port.port) is port:
            del self._udp[port.port]

    def is_open(self, port: UdpPort) -> bool:
        """Whether *port* is one of ours still."""
        return self._udp.get(port.port) is port

    def received(self, packet: Packet) -> Event:
        """Take a packet that has arrived; return what became of it."""
        if packet.target.host not in self.addresses:
            return Event.NO_ROUTE
        if packet.protocol != UDP:
            return self.tcp.received(packet)
        port = self._udp.get(packet.target.port)
        if port is None:
            return Event.NO_PORT
        port.received(packet)
        return Event.DELIVERED

    def __repr__(self) -> str:
        """Its name."""
        return f"<Host {self.name}>"


def _owner(call: SimCall) -> object:
    return getattr(call.function, "__self__", None)


class Network:
    """All hosts, all links, the clock, and the dice.

    Args:
        seed: decides everything that is left to chance.
        conditions: of a link of which nothing else was said.
        keep: keep the whole trace, not only its digest.
        tcp: how streams behave.
    """

    def __init__(
        self,
        seed: int,
        conditions: Conditions | None = None,
        *,
        keep: bool = False,
        tcp: TcpSettings | None = None,
    ) -> None:
        self.clock = SimClock()
        self.random = Random(seed)  # noqa: S311 - the same again for the same seed, on purpose
        self.trace = Trace(keep)
        self.tcp = tcp or TcpSettings()
        self.hosts: list[Host] = []
        self.links: dict[tuple[Host, Host], Link] = {}
        """By sender and receiver; those that were asked for or used."""
        self.conditions = conditions or Conditions()
        """Of a link of which nothing else was said."""
        self._owners: dict[bytes, Host | Nat] = {}
        self._arrives = self._arrive  # made once and not for each packet

    # -- building

    def host(self, name: str, *addresses: bytes, nat: Nat | None = None) -> Host:
        """Return a new host with these packed *addresses*."""
        host = Host(self, name, addresses, nat)
        self.hosts.append(host)
        return host

    def nat(self, *external: bytes, **seconds: float) -> Nat:
        """Return a new NAT with these addresses; *seconds* as :class:`Nat` takes them."""
        return Nat(self, external, self.random, **seconds)

    def link(self, source: Host, target: Host) -> Link:
        """Return the link from *source* to *target*."""
        found = self.links.get((source, target))
        if found is None:
            found = self.links[source, target] = Link(self.conditions, self.random)
        return found

    def both(self, one: Host, other: Host, **changes: Any) -> None:
        """Change the conditions between two hosts, in both directions."""
        self.link(one, other).change(**changes)
        self.link(other, one).change(**changes)

    def heal(self, **changes: Any) -> None:
        """Give all links the conditions of the beginning, but for these *changes*."""
        conditions = replace(self.conditions, **changes)
        for link in self.links.values():
            link.conditions = conditions

    def randbytes(self) -> Callable[[int], bytes]:
        """Return a source of random bytes of its own, that follows from the seed."""
        return Random(self.random.getrandbits(64)).randbytes  # noqa: S311 - as above

    def claim(self, owner: Host | Nat, addresses: tuple[bytes, ...]) -> None:
        """Let *addresses* lead to *owner*; Misuse: one leads to another."""
        for address in addresses:
            if self._owners.setdefault(address, owner) is not owner:
                raise Misuse(f"{Place(address, 0)} is the address of two")

    def release(self, owner: Host | Nat, addresses: tuple[bytes, ...]) -> None:
        """Let *addresses* lead to *owner* no more."""
        for address in addresses:
            if self._owners.get(address) is owner:
                del self._owners[address]

    # -- packets

    def send(self, host: Host, packet: Packet) -> None:
        """Carry what *host* sends; never raises, nobody is told what becomes of it."""
        now = self.clock.seconds()
        note = self.trace.note
        note(now, Event.SENT, packet)
        if not host.is_up:
            note(now, Event.DOWN, packet)
            return
        if packet.source.host not in host.addresses:
            note(now, Event.NO_SOURCE, packet)
            return
        if host.nat is not None:
            packet = host.nat.outward(host, packet, now)
        owner = self._owners.get(packet.target.host)
        if isinstance(owner, Nat):
            found = owner.inward(packet, now, used=False)
            if found is None:
                note(now, Event.NO_MAPPING, packet)
                return
            owner = found[0]
        if owner is None:
            note(now, Event.NO_ROUTE, packet)
            return
        link = self.links.get((host, owner)) or self.link(host, owner)
        carried = link.carry(packet, now)
        if isinstance(carried, Event):
            note(now, carried, packet)
            return
        for at, arriving in carried:
            self.clock.schedule(at, self._arrives, arriving)
        if len(carried) > 1:
            note(now, Event.DUPLICATED, packet)

    def _arrive(self, packet: Packet) -> None:
        now = self.clock.seconds()
        owner = self._owners.get(packet.target.host)
        if isinstance(owner, Nat):
            nat, found = owner, owner.inward(packet, now)
            if found is None:
                self.trace.note(now, Event.NO_MAPPING, packet)
                return
            owner, inside = found
            if owner.nat is not nat:
                owner = None
            packet = packet._replace(target=inside)
        if owner is None:
            self.trace.note(now, Event.NO_ROUTE, packet)
        elif not owner.is_up:
            self.trace.note(now, Event.DOWN, packet)
        else:
            self.trace.note(now, owner.received(packet), packet)
