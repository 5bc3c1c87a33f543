"""A story in which everything goes wrong, in an order that a seed decides, and a verdict on it.

A client of ours and a stock WireGuard app, behind a NAT each, move data both ways through one
server, with hashes, while mishaps befall them (:mod:`pyvpn.testing.simulator.mishaps`), several at
a time.  Then all is well again, and it must look like that soon.  ``python -m
pyvpn.testing.simulator --help`` is how to tell oneself one.

(A long file: what happens and what must hold afterwards go by the same state; what may happen is
in ``mishaps``, what travels in ``inside``.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_address
from random import Random
from typing import Any, cast

from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher

from pyvpn.testing.simulator.ends import PORT, WireGuardEnd
from pyvpn.testing.simulator.inside import Inside, Member, Pulse, Transfers
from pyvpn.testing.simulator.mishaps import OF_SERVER, Kind, Mishap, draw
from pyvpn.testing.simulator.nat import Nat
from pyvpn.testing.simulator.native_client import NativeClient
from pyvpn.testing.simulator.native_server import NativeServer
from pyvpn.testing.simulator.network import Host, Network
from pyvpn.testing.simulator.tcp import TcpSettings
from pyvpn.testing.simulator.trace import Place
from pyvpn.wire.datagram import Path

OFFICE = bytes((10, 9, 0, 1))
"""Somebody behind the server."""
MOST_BYTES = 120_000
"""Of one transfer, each way."""

HEARD = {"native": 60.0, "stock": 20.0}
"""Seconds after the last mishap within which packets pass both ways again.

A client of ours may be in the longest pause between two tries to connect (``max_backoff``).  A
stock one needs up to 15 s and a third without an answer until it begins a handshake.
"""
UDP_AGAIN = 60.0
"""Seconds after the last mishap within which a client of ours uses UDP again."""
FINISHED = 120.0
"""... and whatever was being transferred is there."""
CALM = 70.0
"""How long it is looked at afterwards at least: longer than a session lasts in silence."""
MOST_TIMERS = 60
"""Calls to come of everybody together: some three for each connection, handshake and loop."""

NAMES = ["native", "stock"]


@dataclass
class Verdict:
    """What became of a story."""

    seed: int
    mishaps: list[Mishap]
    problems: list[str] = field(default_factory=list)
    """What should not have been, for people; none: all is well."""
    figures: dict[str, str] = field(default_factory=dict)
    """What was measured, by the name of the client and what it is."""
    digest: str = ""
    """Of all that passed through the network: equal for equal histories, to the byte."""
    seconds: float = 0.0
    """Of network time."""

    @property
    def is_good(self) -> bool:
        """Whether everything was as it should be."""
        return not self.problems

    @property
    def kinds(self) -> int:
        """How many different mishaps there were."""
        return len({each.kind for each in self.mishaps})


class Chaos:
    """One story, to be told once by :meth:`tell`.

    Args:
        seed: decides everything.
        minutes: how long things go wrong.
        mishaps: what shall befall them, instead of what the seed says.
        most_bytes: of one transfer, each way.
    """

    def __init__(
        self,
        seed: int,
        minutes: float = 5.0,
        mishaps: list[Mishap] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._most_bytes = most_bytes
        self.network = network = Network(seed, tcp=TcpSettings(give_up=30))
        self.clock = network.clock
        random = Random(network.random.getrandbits(64))  # noqa: S311 - on purpose the same again
        drawn = draw(random, 60.0 * minutes, len(NAMES))
        self.mishaps = drawn if mishaps is None else mishaps
        self.verdict = Verdict(seed, self.mishaps)
        self._addresses = 0
        self._server_addresses = 0
        self.server = NativeServer(network.host("server", *self._new_server_addresses()))
        self.nats: list[Nat] = []
        self.native = NativeClient(self._make_host(NAMES[0]), self._places())
        self.stock = WireGuardEnd(self._make_host(NAMES[1]), 0)
        self._stock_address = self.server.add_stock(self.stock, NAMES[1])
        self._hosts = [self.native.host, self.stock.host]
        self._began = self.clock.seconds()
        self._lasting: Counter[tuple[int, Kind]] = Counter()
        self._strengths: dict[tuple[int, Kind], float] = {}
        self._failures: list[str] = []
        self._random = random

    # -- the whole of it

    def tell(self) -> Verdict:
        """Let everything happen; return what became of it."""
        observer = cast(ILogObserver, self._logged)
        globalLogPublisher.addObserver(observer)
        try:
            self._tell()
        finally:
            globalLogPublisher.removeObserver(observer)
        verdict = self.verdict
        verdict.problems += self._failures
        verdict.digest = blake2b(
            f"{self.network.trace.digest} {self._inside_digest()}".encode(), digest_size=16
        ).hexdigest()
        verdict.seconds = self.clock.seconds() - self._began
        return verdict

    def _tell(self) -> None:
        if not self.clock.run_while(lambda: self.native.carrier != "udp", 30.0):
            self._problem("the client has not come to use UDP in 30 s of a good network")
            return
        self.leases = [self.native.address, self._stock_address]
        self._connect_inside()
        self.clock.advance(2.0)
        self._began = began = self.clock.seconds()
        for mishap in self.mishaps:
            self.clock.call_at(began + mishap.at, self._begin, mishap)
            if mishap.seconds:
                self.clock.call_at(began + mishap.end, self._end, mishap)
        self.clock.run(began + max((each.end for each in self.mishaps), default=0.0))
        self._calm()

    def _connect_inside(self) -> None:
        self.inside = inside = Inside(self.network)
        self.office = inside.member("the office", OFFICE, self.server.send)
        self.office.listen_at(self.server.tun)
        self.members: list[Member] = []
        for victim, (host, address) in enumerate(zip(self._hosts, self.leases, strict=True)):
            end = self._end_of(victim)
            self.members.append(inside.member(host.name, address, _entrance(host, end)))
            self.members[-1].listen_at(end.tun)
        self.pulses = [Pulse(self.office, each) for each in self.members]
        self.transfers = [
            Transfers(each, self.office, Random(self._random.getrandbits(64)), self._most_bytes)  # noqa: S311 - as above
            for each in self.members
        ]
        for member in (self.office, *self.members):
            member.heard_pulse = self._heard_pulse

    def _heard_pulse(self, source: Member, target: Member, number: int) -> None:
        for pulse in self.pulses:
            pulse.heard(source, target, number)

    # -- mishaps

    def _begin(self, mishap: Mishap) -> None:
        kind, victim = mishap.kind, mishap.victim
        host = self._hosts[victim]
        if kind in OF_SERVER:
            self._befall_server(mishap)
        elif kind in _WEATHER:
            self._lasting[victim, kind] += 1
            self._strengths[victim, kind] = mishap.strength
            self._weather(victim)
        elif kind is Kind.CLIENT_CLOCK:
            self._end_of(victim).wall_error += mishap.strength
        elif kind is Kind.REBINDING:
            self.nats[victim].rebind()
        elif kind is Kind.NEW_NAT:
            self.nats[victim].rebind(self._new_address(4))
        elif kind is Kind.MOVE:
            self._move(victim, 4 if len(host.addresses[0]) == 4 else 6, told=True)
        elif kind is Kind.MOVE_UNTOLD:
            self._move(victim, 4 if len(host.addresses[0]) == 4 else 6, told=False)
        elif kind is Kind.OTHER_FAMILY:
            self._move(victim, 6 if len(host.addresses[0]) == 4 else 4, told=True)
        else:
            self._stop_client(mishap)

    def _end(self, mishap: Mishap) -> None:
        kind, victim = mishap.kind, mishap.victim
        if kind in _WEATHER:
            self._lasting[victim, kind] -= 1
            self._weather(victim)
        elif kind is Kind.SERVER_RESTART:
            self._lasting[-1, kind] -= 1
            if not self._lasting[-1, kind]:
                self.server.start()
        elif kind is Kind.SERVER_MOVE:
            self._find_server()
        elif kind is Kind.SLEEP:
            self._wake(victim)
        elif kind in _STOPS:
            self._lasting[victim, Kind.CLIENT_RESTART] -= 1
            self._start_client(victim)

    def _befall_server(self, mishap: Mishap) -> None:
        if mishap.kind is Kind.SERVER_CLOCK:
            self.server.wall_error += mishap.strength
        elif mishap.kind is Kind.SERVER_MOVE:
            self.server.move(*self._new_server_addresses())
        else:
            self._lasting[-1, mishap.kind] += 1
            self.server.kill()

    def _weather(self, victim: int) -> None:
        """Give the lines of *victim* what lasts at the moment, and no more."""
        changes: list[dict[str, Any]] = [{}, {}]  # up, down
        for (whose, kind), times in self._lasting.items():
            if whose == victim and times and kind in _WEATHER:
                ways, make = _WEATHER[kind]
                for way in ways:
                    changes[way] |= make(self._strengths[whose, kind])
        ends = self._hosts[victim], self.server.host
        for there, change in zip((ends, ends[::-1]), changes, strict=True):
            link = self.network.link(*there)
            link.conditions = self.network.conditions
            link.change(**change)

    def _move(self, victim: int, version: int, told: bool) -> None:
        host = self._hosts[victim]
        if version == 6:
            host.move(self._new_address(6))
        else:
            self.nats[victim] = self.network.nat(self._new_address(4))
            host.move(self._inner_address(), nat=self.nats[victim])
        if victim:
            self._point_stock()  # an app asks for the server's name again in another network
        elif told and host.is_up:
            self.native.network_changed()

    def _stop_client(self, mishap: Mishap) -> None:
        victim = mishap.victim
        host, end = self._hosts[victim], self._end_of(victim)
        self._lasting[victim, mishap.kind] += mishap.kind is Kind.SLEEP
        if mishap.kind is Kind.SLEEP:
            if host.is_up:
                host.sleep()
            return
        self._lasting[victim, Kind.CLIENT_RESTART] += 1
        if not host.is_up:
            return  # nobody kills what sleeps
        if mishap.kind is Kind.CLIENT_LEAVES and isinstance(end, NativeClient):
            end.leave()
        else:
            end.kill()

    def _start_client(self, victim: int) -> None:
        end = self._end_of(victim)
        if (
            self._hosts[victim].is_up
            and not self._lasting[victim, Kind.CLIENT_RESTART]
            and not end.is_running
        ):
            end.start()

    def _wake(self, victim: int) -> None:
        self._lasting[victim, Kind.SLEEP] -= 1
        host = self._hosts[victim]
        if host.is_up or self._lasting[victim, Kind.SLEEP]:
            return
        host.wake()
        self._start_client(victim)
        if not victim:
            # The kernel is asked once a second whether it has slept.
            self.clock.callLater(1.0, self._slept)

    def _slept(self) -> None:
        if self.native.host.is_up:
            self.native.network_changed()

    def _find_server(self) -> None:
        """Let names lead to where the server is, and people with an app start it anew."""
        self.native.places[:] = self._places()
        self._point_stock()

    def _point_stock(self) -> None:
        for place in self._places():
            if len(place.host) == len(self.stock.host.addresses[0]):
                self.stock.set_endpoint(self.server.static.public, Path(*place))

    def _end_of(self, victim: int) -> NativeClient | WireGuardEnd:
        return self.stock if victim else self.native

    # -- the end

    def _calm(self) -> None:
        began = self.clock.seconds()
        gaps = [pulse.gap for pulse in self.pulses]
        for pulse in self.pulses:
            pulse.watch()
        never = float("inf")
        self.clock.run_while(
            lambda: any(pulse.back_at == never for pulse in self.pulses), max(HEARD.values())
        )
        for name, pulse in zip(NAMES, self.pulses, strict=True):
            took = pulse.back_at - began
            self._figure(name, "back after", f"{took:.1f} s")
            if took > HEARD[name]:
                self._problem(f"{name}: {HEARD[name]:.0f} s after the last mishap nothing passes")
        promised = began + UDP_AGAIN - self.clock.seconds()
        if not self.clock.run_while(lambda: self.native.carrier != "udp", max(0.0, promised)):
            self._problem(f"native: no UDP {UDP_AGAIN:.0f} s after the last mishap")
        self._figure("native", "UDP after", f"{self.clock.seconds() - began:.1f} s")
        for transfers in self.transfers:
            transfers.stop()
        self.clock.run_while(
            lambda: not all(each.is_idle for each in self.transfers),
            began + FINISHED - self.clock.seconds(),
        )
        self.clock.run(max(began + CALM, self.clock.seconds() + 5.0))
        for name, transfers, pulse, gap in zip(
            NAMES, self.transfers, self.pulses, gaps, strict=True
        ):
            pulse.stop()
            self._judge_transfers(name, transfers)
            self._figure(name, "longest silence", f"{gap:.1f} s")
            self._figure(name, "pulses", f"{pulse.arrived} of {pulse.sent}")
        self.clock.advance(5.0)
        self._judge_state()

    def _judge_transfers(self, name: str, transfers: Transfers) -> None:
        count = transfers.right
        self._figure(name, "transfers", f"{count}, {transfers.bytes / 1e6:.2f} MB")
        self._figure(name, "hash", transfers.digest)
        if transfers.wrong:
            self._problem(f"{name}: {transfers.wrong} transfers with a wrong hash")
        if transfers.broken:
            self._problem(f"{name}: {transfers.broken} connections inside the tunnel broke")
        if transfers.current is not None:
            self._problem(f"{name}: a transfer hangs {FINISHED:.0f} s after the last mishap")
        elif not count:
            self._problem(f"{name}: nothing was transferred")

    def _judge_state(self) -> None:
        for fault in self.inside.faults:
            self._problem(fault)
        if self.native.address != self.leases[0]:
            had, has = (ip_address(each) for each in (self.leases[0], self.native.address))
            self._problem(f"native: its address was {had} and is {has}")
        for what, most in (
            ("sessions", 1),
            ("connections", 1),
            ("WireGuard peers", 2),
            ("claimed keys", 1),
        ):
            count = self.server.sizes().get(what, 0)
            if count != most:
                self._problem(f"the server has {count} {what}, not {most}")
        session = self.server.session(NAMES[0])
        if session is None or session.carrier is None or session.carrier is not session.peer:
            self._problem("the server and the client do not agree on the carrier")
        for end in (self.server, self.native, self.stock):
            for what, count in sorted(end.counters.dropped.items()):
                self._figure(end.host.name, f"dropped, {what}", str(count))
        timers = len(self.clock.getDelayedCalls())
        if timers > MOST_TIMERS:
            self._problem(f"{timers} timers run, more than {MOST_TIMERS}")
        streams = sum(len(host.tcp.streams) for host in self.network.hosts)
        if streams > 4:
            self._problem(f"{streams} ends of connections are open, for one connection")

    # -- small things

    def _logged(self, event: Any) -> None:
        if event.get("log_level") is LogLevel.critical or "log_failure" in event:
            failure = event.get("log_failure")
            trace = "" if failure is None else f": {failure.getTraceback()}"
            self._failures.append(f"logged: {formatEvent(event)}{trace}")

    def _inside_digest(self) -> str:
        return " ".join(each.digest for each in getattr(self, "transfers", []))

    def _problem(self, what: str) -> None:
        self.verdict.problems.append(what)

    def _figure(self, name: str, what: str, value: str) -> None:
        self.verdict.figures[f"{name}, {what}"] = value

    def _make_host(self, name: str) -> Host:
        self.nats.append(self.network.nat(self._new_address(4)))
        return self.network.host(name, self._inner_address(), nat=self.nats[-1])

    def _inner_address(self) -> bytes:
        return bytes((192, 168, *self._addresses.to_bytes(2, "big")))

    def _new_address(self, version: int) -> bytes:
        """An outer address that nobody has had."""
        self._addresses += 1
        last = self._addresses.to_bytes(2, "big")
        if version == 4:
            return bytes((203, 0, *last))
        return ip_address("2001:db8:9::").packed[:-2] + last

    def _new_server_addresses(self) -> tuple[bytes, bytes]:
        self._server_addresses += 1
        last = self._server_addresses
        return bytes((192, 0, 2, last)), ip_address("2001:db8::").packed[:-1] + bytes((last,))

    def _places(self) -> list[Place]:
        return [Place(each, PORT) for each in self.server.host.addresses]


def _entrance(host: Host, end: NativeClient | WireGuardEnd) -> Any:
    """Where packets of the programs of *host* go: nowhere while it sleeps."""

    def enter(packet: bytes) -> None:
        if host.is_up:
            end.send(packet)

    return enter


_WEATHER: dict[Kind, tuple[tuple[int, ...], Any]] = {
    Kind.LOSS: ((0, 1), lambda much: {"loss": much}),
    Kind.REPETITION: ((0, 1), lambda much: {"duplicate": much}),
    Kind.DISORDER: ((0, 1), lambda much: {"reorder": much, "reorder_seconds": 0.5}),
    Kind.DELAY: ((0, 1), lambda much: {"delay": much / 2, "jitter": much / 2}),
    Kind.SLOW: ((0, 1), lambda much: {"rate": much, "queue": max(4000, int(much / 2))}),
    Kind.CORRUPTION: ((0, 1), lambda much: {"corrupt": much}),
    Kind.LARGE_ONES: ((0, 1), lambda much: {"max_size": int(much)}),
    Kind.NO_UDP: ((0, 1), lambda much: {"no_udp": True}),
    Kind.NO_UDP_UP: ((0,), lambda much: {"no_udp": True}),
    Kind.NO_UDP_DOWN: ((1,), lambda much: {"no_udp": True}),
    Kind.NO_TCP: ((0, 1), lambda much: {"no_tcp": True}),
    Kind.NOTHING: ((0, 1), lambda much: {"cut": True}),
}
"""Which ways (0 up, 1 down) and what becomes of the link's conditions, from the strength."""

_STOPS = (Kind.CLIENT_RESTART, Kind.CLIENT_LEAVES)
