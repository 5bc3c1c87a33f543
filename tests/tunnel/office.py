"""A server's router with two clients, for the router's tests."""

from __future__ import annotations

from ipaddress import ip_network

from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from tests.tunnel.packets import KeepingSink, packed

ANNA4, ANNA6, BOB4 = "10.73.0.2", "fd70::2", "10.73.0.3"
OFFICE4, OFFICE6 = "192.168.77.20", "fd77::20"
PUSHED = ("192.168.77.0/24", "fd77::/64", "10.73.0.1/32")


def networks(*spelled: str) -> Prefixes[bool]:
    return Prefixes.from_networks(map(ip_network, spelled), True)


class Server:
    """A server's router with two sessions, anna's and bob's, and sinks that keep everything."""

    def __init__(
        self, client_to_client: bool = False, reachable: tuple[str, ...] = PUSHED
    ) -> None:
        self.tun = KeepingSink()
        self.counters = Counters()
        self.router = Router(self.tun, self.counters, client_to_client=client_to_client)
        self.anna = self.session(1, "anna/laptop", ANNA4, ANNA6, reachable=reachable)
        self.bob = self.session(2, "bob/desktop", BOB4, reachable=reachable)
        self.to_anna, self.to_bob = KeepingSink(), KeepingSink()
        self.anna.attach(self.to_anna, 0.0)
        self.bob.attach(self.to_bob, 0.0)

    def session(self, device: int, name: str, *own: str, reachable: tuple[str, ...]) -> Session:
        addresses = tuple(map(packed, own))
        session = Session(device, device, name, addresses, networks(*reachable), heard=0.0)
        self.router.add(session)
        return session

    def from_anna(self, *packets: bytes) -> None:
        self.router.packets_from_session(self.anna, list(packets), 1.0)
