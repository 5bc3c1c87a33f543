"""A NAT: hosts behind it share its addresses, one port for each of their flows.

As the most common one, Linux's conntrack, it lets in only what answers a flow that a host behind
it began, and keeps that flow for as long as it is used either way.  The port outside is random.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from pyvpn.errors import Misuse
from pyvpn.testing.simulator.trace import Packet, Place

if TYPE_CHECKING:
    from pyvpn.testing.simulator.network import Host, Network

UDP_SECONDS = 120.0
TCP_SECONDS = 432_000.0
_PORTS = range(1024, 65_536)

_Remote = tuple[int, Place, Place]
"""Protocol, place of ours outside, the other end."""
_Local = tuple[int, "Host", Place, Place]
"""Protocol, host, its own place, the other end."""


class _Flow:
    __slots__ = ("host", "inside", "outside", "used")

    def __init__(self, host: Host, inside: Place, outside: Place, used: float) -> None:
        self.host = host
        self.inside = inside
        self.outside = outside
        self.used = used


class Nat:
    """Made by :meth:`pyvpn.testing.simulator.network.Network.nat`.

    Args:
        external: its addresses, packed, one of a family at most.  Hosts have their own addresses
            in a family that it has none of.
        udp_seconds, tcp_seconds: how long a flow is remembered that nobody uses.
    """

    def __init__(
        self,
        network: Network,
        external: tuple[bytes, ...],
        random: Random,
        udp_seconds: float = UDP_SECONDS,
        tcp_seconds: float = TCP_SECONDS,
    ) -> None:
        self.external: dict[int, bytes] = {}
        """Its addresses, by their length."""
        self.udp_seconds = udp_seconds
        self.tcp_seconds = tcp_seconds
        self._network = network
        self._random = random
        self._out: dict[_Local, _Flow] = {}
        self._in: dict[_Remote, _Flow] = {}
        self._ports: set[tuple[int, int]] = set()  # protocol and port, used at any time
        self._take(external)

    def rebind(self, *external: bytes) -> None:
        """Forget all flows, as a restart does: each gets another port, none of which was used.

        Args:
            external: other addresses from now on; none said: the same.
        """
        self._out.clear()
        self._in.clear()
        if external:
            self._network.release(self, tuple(self.external.values()))
            self._take(external)

    def _take(self, external: tuple[bytes, ...]) -> None:
        self.external = {len(address): address for address in external}
        if len(self.external) != len(external):
            raise Misuse("a NAT has one address of a family at most")
        self._network.claim(self, external)

    # -- what the network asks

    def outward(self, host: Host, packet: Packet, now: float) -> Packet:
        """Return *packet*, sent by *host*, as it leaves the NAT."""
        protocol, inside, target, _, _ = packet
        external = self.external.get(len(inside.host))
        if external is None:
            return packet
        key = (protocol, host, inside, target)
        flow = self._out.get(key)
        if flow is None or self._is_over(flow, protocol, now):
            if flow is not None:
                del self._in[protocol, flow.outside, target]
            flow = _Flow(host, inside, Place(external, self._new_port(protocol)), now)
            self._out[key] = self._in[protocol, flow.outside, target] = flow
        flow.used = now
        return packet._replace(source=flow.outside)

    def inward(self, packet: Packet, now: float, used: bool = True) -> tuple[Host, Place] | None:
        """Return whom *packet* is for, and at which place of theirs; None: nobody.

        Args:
            used: it is there, so the flow is in use; else it is only on its way.
        """
        flow = self._in.get((packet.protocol, packet.target, packet.source))
        if flow is None or self._is_over(flow, packet.protocol, now):
            return None
        if used:
            flow.used = now
        return flow.host, flow.inside

    def _is_over(self, flow: _Flow, protocol: int, now: float) -> bool:
        return now - flow.used > (self.udp_seconds if protocol == 17 else self.tcp_seconds)

    def _new_port(self, protocol: int) -> int:
        if len(self._ports) > len(_PORTS) // 2:
            self._ports = {(flow[0], flow[1].port) for flow in self._in}
        while True:
            port = self._random.choice(_PORTS)
            if (protocol, port) not in self._ports:
                self._ports.add((protocol, port))
                return port
