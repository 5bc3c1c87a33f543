"""pyvpn's server on a simulated network: everything of it but the host, the disk and the threads.

Log-in is by name alone: no password is hashed and no certificate signed.  Streams carry no TLS.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Interface, ip_network
from pathlib import Path as File
from typing import Any, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed

from pyvpn.config import Endpoint
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import Misuse
from pyvpn.net.clockwork import Clockwork
from pyvpn.net.control import ControlLink
from pyvpn.net.threads import DaemonThreads
from pyvpn.server.clients import Clients
from pyvpn.server.listen import LinkFactory, Relays
from pyvpn.server.login import LogIns
from pyvpn.server.pacing import Pacing
from pyvpn.server.terms import Terms
from pyvpn.server.visit import Statistics, Visit
from pyvpn.server.wireguard import Ports, WireGuardServer
from pyvpn.store.schema import SCHEMA
from pyvpn.store.sqlite import Store
from pyvpn.testing.simulator.clock import ProcessClock
from pyvpn.testing.simulator.ends import EPOCH, MTU, PORT, MemoryTun, PeerSetting, WireGuardEnd
from pyvpn.testing.simulator.network import Host
from pyvpn.testing.simulator.trace import Place
from pyvpn.testing.simulator.udp import UdpPort
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.lease import Granted
from pyvpn.tunnel.leases import Leases
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import VERSION
from pyvpn.wire.datagram import Path
from pyvpn.wire.messages import Code, LogIn, LogInAnswer

P = ParamSpec("P")
T = TypeVar("T")

TICK_SECONDS, CALL_SECONDS, SAVE_SECONDS = 1.0, 0.1, 1.0
"""As the server's service has them."""

TERMS = Terms(
    interfaces=(IPv4Interface("10.73.0.1/16"),),
    routes=(ip_network("10.9.0.0/24"),),
    dns=(),
    mtu=MTU,
    heartbeat=10.0,
    expiry=60.0,
)


class NativeServer:
    """One server, with its process and its disk.

    It runs from the beginning, and lets in whoever names himself.
    """

    def __init__(self, host: Host, port: int = PORT, terms: Terms = TERMS) -> None:
        self.host = host
        self.clock = host.network.clock
        self.tun = MemoryTun()
        self.counters = Counters()
        """Of all its lives."""
        self.lives = 0
        """How often it was started."""
        self.wall_error = 0.0
        """Seconds by which its wall clock is fast."""
        self.port = port
        self.suites: tuple[Suite, ...] = (CHACHA, AES_GCM)
        """What its processor can do, as its next start finds it."""
        self.terms = terms
        self.random = host.network.randbytes()
        self.static = StaticKey(self.random(32))
        self.store = MemoryStore()
        self._process: _Process | None = None
        self.start()

    def start(self) -> None:
        """Run, with what is on the disk; Misuse: it does."""
        if self._process is not None:
            raise Misuse(f"{self} runs")
        self.lives += 1
        self._process = _Process(self)

    def kill(self) -> None:
        """End at once, with no farewell; what is not on the disk is gone."""
        if self._process is not None:
            self._process.clock.kill()
            self._process = None
            self.host.end_process()

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def sessions(self) -> list[Session]:
        """Of all clients of ours, by device; none while there is no process."""
        if self._process is None:
            return []
        return [session for _, session in sorted(self._process.clients.sessions.items())]

    def session(self, name: str) -> Session | None:
        """Return the session of the client that calls itself so."""
        found = [each for each in self.sessions if each.name == f"{name}/{name}"]
        assert len(found) < 2, "two sessions of one device"
        return found[0] if found else None

    def send(self, *packets: bytes) -> None:
        """Have the network behind it send *packets* into the tunnel; without process, nowhere."""
        process = self._process
        if process is not None:
            process.router.packets_from_tun(list(packets), self.clock.seconds())
            process.wireguard.clockwork.arm()

    def add_stock(self, client: WireGuardEnd, name: str, keepalive: int = 25) -> bytes:
        """Put a stock client on file, tell it of us, and return its packed address."""
        unix = self.unix()
        user = self.store.add_user(name, "", unix)

        def grant(device: int) -> Granted:
            return leases_of(self.terms, self.store, unix, running=True).take(
                device, user.id, unix
            )

        _, lease = self.store.add_stock_device(user.id, name, client.public, None, unix, grant)
        assert lease.address4 is not None
        place = Path(self.host.addresses[0], self.port)
        client.add_peer(
            PeerSetting(self.static.public, ((bytes(4), 0),), place, keepalive=keepalive)
        )
        if self._process is not None:
            self._process.take_over()
        return lease.address4

    def look(self) -> None:
        """See what was changed in the store from outside."""
        if self._process is not None:
            self._process.take_over()

    def forget_lease(self, name: str) -> None:
        """End the lease of the client that calls itself so, which has no session."""
        device = self.store.device(name)
        assert device is not None
        self.store.delete_leases([device.id])
        if self._process is not None:
            self._process.leases.forget(device.id, self.unix())

    def move(self, *addresses: bytes) -> None:
        """Be at other addresses, and say so to whoever registers; clients must find it there."""
        self.host.move(*addresses)
        if self._process is not None:
            self._process.wireguard.offer(self.terms, self.places())

    def places(self) -> tuple[Endpoint, ...]:
        """Where it is, as its operator would write it."""
        return tuple(
            Endpoint(Place(address, 0).name, self.port) for address in self.host.addresses
        )

    def sizes(self) -> dict[str, int]:
        """How many there are of what must not grow; nothing while there is no process."""
        process = self._process
        if process is None:
            return {}
        return {
            "sessions": len(process.clients.sessions),
            "connections": process.clients.connections,
            "WireGuard peers": len(process.wireguard.wireguard.peers),
            "claimed keys": len(process.wireguard.natives.claims),
        }

    def unix(self) -> float:
        """The wall clock."""
        return EPOCH + self.clock.seconds() + self.wall_error

    def __repr__(self) -> str:
        """Where it runs."""
        return f"<NativeServer at {self.host.name}>"


class _Process:
    """What a start makes: the parts, as ``Core`` and ``ServerService`` put them together."""

    def __init__(self, end: NativeServer) -> None:
        store, terms, unix = end.store, end.terms, end.unix
        self.end = end
        self.clock = clock = ProcessClock(end.clock)
        storage = cast(DaemonThreads, AtOnce())
        self.leases = leases_of(terms, store, unix())
        self.router = Router(end.tun, end.counters, expiry_seconds=terms.expiry)
        relays, statistics = Relays(), Statistics()
        self.clients = Clients(
            now=clock.seconds,
            unix=unix,
            source_of=relays.source_of,
            log_ins=cast(LogIns, _ByName(store, unix)),
            statistics=statistics,
            store=store,
            storage=storage,
            leases=self.leases,
            router=self.router,
            terms=terms,
            admission=Admission(),
            counters=end.counters,
        )
        self.wireguard = WireGuardServer(
            clock,
            end.static,
            store,
            storage,
            self.router,
            end.counters,
            trusted=relays.exempts,
            lease=self.leases.get,
            terms=terms,
            now=clock.seconds,
            unix=unix,
            random=end.random,
            ports=_SimPorts(end.host, end.counters),
        )
        self.wireguard.wireguard.suites = end.suites
        self.clients.natives = self.wireguard.natives
        Pacing(clock, self.router, clock.seconds, self.wireguard.clockwork.arm)
        self.wireguard.let_return(
            lambda user, device: "user disabled" if user.disabled else "", self.clients.resume
        )
        self.wireguard.offer(terms, end.places())
        end.host.listen(end.port, LinkFactory(self.clients, clock, version=VERSION, tls=False))
        self.wireguard.open([Endpoint("", end.port)])
        self.wireguard.begin(store.devices(), {user.id: user for user in store.users()})
        self._every(TICK_SECONDS, self._tick)
        self._every(CALL_SECONDS, self.wireguard.call_back)
        self._every(SAVE_SECONDS, self.wireguard.save)

    def take_over(self) -> None:
        """See what was put on file."""
        store = self.end.store
        self.leases.pin(store.pinned_leases(), self.end.unix())
        users = {user.id: user for user in store.users()}
        self.clients.users_changed(users)
        self.wireguard.take_over(store.devices(), users, store.peers())
        self.wireguard.clockwork.arm()

    def _tick(self) -> None:
        self.clients.expire(self.router.tick(self.clock.seconds()))

    def _every(self, seconds: float, function: Callable[[], object]) -> None:
        """Call it now and every so many *seconds*: an hour of ``Loops`` costs a second here."""
        function()
        self.clock.callLater(seconds, self._every, seconds, function)


def leases_of(terms: Terms, store: Store, unix: float, *, running: bool = False) -> Leases:
    """Return the leases that are on file, over the pools of *terms*."""
    [interface] = terms.interfaces
    leases = Leases(AddressPool(interface.network, [interface.ip]), None)
    dropped = leases.restore(store.leases(), unix, running=running)
    assert not dropped, "the pools never change here"
    return leases


class MemoryStore(Store):
    """A store that is as fast as memory, and survives every process."""

    def __init__(self) -> None:
        self._path = File("the store in memory")
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        weakref.finalize(self, self._db.close)  # a simulation ends when nobody looks any more
        self._db.executescript(SCHEMA)
        self._open()


class AtOnce:
    """Stands for DaemonThreads: does everything when it is asked for."""

    def run(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        try:
            return succeed(f(*args, **kwargs))
        except Exception:  # noqa: BLE001 - it belongs to who asked
            return fail()

    def call(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return f(*args, **kwargs)


class _ByName:
    """Stands for LogIns: a user and a device of the name that is given, and no proof."""

    def __init__(self, store: Store, unix: Callable[[], float]) -> None:
        self._store = store
        self._unix = unix

    async def log_in(self, link: ControlLink, visit: Visit, data: bytes) -> LogInAnswer:
        name, unix, store = LogIn.from_bytes(data).user, self._unix(), self._store
        user = store.user(name) or store.add_user(name, "", unix)
        device = store.device(name) or store.add_device(user.id, name, name, unix)
        visit.user, visit.device = user, device
        return LogInAnswer(success=True, code=Code.OK)


class _SimPorts(Ports):
    """One port of a simulated host."""

    def __init__(self, host: Host, counters: Counters) -> None:
        super().__init__(counters)
        self._host = host
        self._opened: UdpPort | None = None

    def open(self, reactor: Any, endpoints: Iterable[Endpoint], clockwork: Clockwork) -> None:
        [endpoint] = endpoints
        self._opened = self._host.udp(endpoint.port, clockwork.runs_received)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def numbers(self) -> list[int]:
        return [] if self._opened is None else [self._opened.port]

    @property
    def number(self) -> int:
        return sum(self.numbers)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        return 0 if self._opened is None else self._opened.send_datagrams(datagrams, path, tos)

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self._opened is not None and self._opened.send_whole(datagram, path)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        if self._opened is not None:
            self._opened.send_replies(replies)
