"""``python -m bench.growth``: what a packet costs a server with 1, 100, 1,000, 10,000 sessions.

The server's packet path with real handshakes and real cryptography, in this process and between
no sockets: datagrams in, checked packets out, and the other way.  So what is seen is what grows
with the sessions, and not hidden under what the kernel does for each packet whoever it is for.

CPU seconds of this process.  One batch (45 full packets, which is what a super-packet holds) of
each server in turns, in another order each time, so that the machine's drift meets all alike.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import struct
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path as FilePath

import click

from bench.report import spell, table
from pyvpn import __version__
from pyvpn.crypto.tai64n import Stamps
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.wireguard import WireGuard
from pyvpn.wire.datagram import Path

BATCH = 45
PAYLOAD = 1392
SIZES = (1, 100, 1_000, 10_000)
TARGET = 1.1
"""Times the cost at one session."""
RATE = 100_000_000_000
"""Bits a second: a limit that nothing meets, so that its own cost is seen."""
TICK = 250
"""Batches between two heartbeats of the server, each a millisecond."""
OFFICE = bytes((192, 168, 77, 20))
RESULTS = FilePath(__file__).with_name("results")


class Client:
    """The other end of one tunnel."""

    def __init__(self, server: Server, number: int) -> None:
        self.address = struct.pack("!I", 0x0A800002 + number)
        self.place = Path(struct.pack("!I", 0xCB000001 + number), 51820)
        self.out: list[bytes] = []
        self.wg = _wireguard(self, lambda peer, packets, now: None, number + 1)
        assert self.wg.static is not None
        peer = self.wg.add_peer(server.public)
        assert peer is not None
        peer.endpoint = Path(b"\xc6\x33\x64\x01", 51820)
        self.peer = peer

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        self.out += map(bytes, datagrams)
        return len(datagrams)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        """It is not in a flood."""

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0

    def sealed(self, packets: list[bytes], now: float) -> list[bytes]:
        """What leaves it when it sends *packets*."""
        self.peer.send_packets(packets, now)
        sent, self.out = self.out, []
        return sent


class Server:
    """A server with so many clients, all of them connected."""

    def __init__(self, sessions: int, limited: bool) -> None:
        self.now = 1000.0
        self.batches = 0
        self.delivered = 0
        self.sent = 0
        self.out: dict[Path, list[bytes]] = {}
        self.router = Router(self, Counters())
        self.wg = _wireguard(self, self._deliver, 0)
        assert self.wg.static is not None
        self.public = self.wg.static.public
        reachable = Prefixes.from_networks([ip_network("192.168.77.0/24")], True)
        self.clients = [Client(self, number) for number in range(sessions)]
        for number, client in enumerate(self.clients):
            assert client.wg.static is not None
            peer = self.wg.add_peer(client.wg.static.public)
            assert peer is not None
            session = Session(number, 1, "anna/laptop", (client.address,), reachable, self.now)
            self.router.add(session)
            peer.owner = session
            session.tie(peer)
            session.choose(1, True)
            if limited:
                self.router.limits.set(session, RATE, RATE, self.now)
            self._connect(client)
        assert self.delivered == sessions

    def send_packets(self, packets: list[bytes]) -> int:
        """The TUN."""
        self.delivered += len(packets)
        return len(packets)

    def send_super_packets(self, packets: object) -> int:
        raise AssertionError("nobody has announced these")

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """The UDP port."""
        if path in self.out:
            self.out[path] += map(bytes, datagrams)
        self.sent += len(datagrams)
        return len(datagrams)

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        """It is not in a flood."""

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0

    def _deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        session = peer.owner
        if isinstance(session, Session):
            self.router.packets_from_session(session, packets, now)

    def _connect(self, client: Client) -> None:
        """Make the handshake, with a first packet in both directions."""
        self.out[client.place] = []
        first = client.sealed(_packets(client.address, OFFICE)[:1], self.now)
        for _ in range(3):
            self.wg.received(first, client.place, 0, self.now)
            while self.wg.work(self.now):
                pass
            answers, self.out[client.place] = self.out[client.place], []
            if answers:
                client.wg.received(answers, client.peer.endpoint or client.place, 0, self.now)
                while client.wg.work(self.now):
                    pass
            first, client.out = client.out, []
        del self.out[client.place]
        self.now += 0.02  # of several in a moment each would be asked for a cookie first

    def receive(self, client: Client) -> float:
        """CPU seconds for a batch of *client*'s, to the TUN."""
        datagrams = client.sealed(_packets(client.address, OFFICE), self.now)
        return self._timed(lambda: self.wg.received(datagrams, client.place, 0, self.now))

    def send(self, client: Client) -> float:
        """CPU seconds for a batch from the TUN to *client*."""
        packets = _packets(OFFICE, client.address)
        return self._timed(lambda: self.router.packets_from_tun(packets, self.now))

    def _timed(self, step: Callable[[], object]) -> float:
        self.now += 0.001
        self.batches += 1
        begun = time.process_time()
        step()
        if self.batches % TICK == 0:
            self.wg.tick(self.now)
            self.router.tick(self.now)
        return time.process_time() - begun


def _wireguard(
    end: Client | Server, deliver: Callable[[Peer, list[bytes], float], None], seed: int
) -> WireGuard:
    chance = random.Random(seed).randbytes
    made = WireGuard(
        end,
        deliver,
        random=chance,
        stamps=Stamps(lambda: 1_700_000_000.0 + seed),
        unix=lambda: 1_700_000_000.0,
        counters=Counters(),
    )
    made.set_private_key(chance(32))
    return made


def _packets(source: bytes, destination: bytes) -> list[bytes]:
    """A batch of UDP packets of one flow, without checksums."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + PAYLOAD, 0, 0, 64, 17, 0) + source + destination
    return [head + struct.pack("!HHHH", 7, 7, 8 + PAYLOAD, 0) + bytes(PAYLOAD)] * BATCH


WAYS: dict[str, Callable[[Server, Client], float]] = {
    "in": Server.receive,
    "out": Server.send,
}
Values = dict[str, dict[str, list[float]]]
"""By server and kind of traffic: microseconds a packet, one value for each pair."""


def measure(servers: dict[str, Server], pairs: int, batches: int) -> Values:
    """Let each server have each kind of traffic, *pairs* times *batches* batches."""
    values: Values = {name: {} for name in servers}
    chance = random.Random(0)
    kinds = [(way, spread) for way in WAYS for spread in ("one", "all")]
    for _ in range(pairs):
        for way, spread in kinds:
            spent = dict.fromkeys(servers, 0.0)
            order = list(servers)
            for _ in range(batches):
                chance.shuffle(order)
                for name in order:
                    server = servers[name]
                    clients = server.clients
                    client = clients[-1] if spread == "one" else chance.choice(clients)
                    spent[name] += WAYS[way](server, client)
            for name, seconds in spent.items():
                found = values[name].setdefault(f"{way}, {spread}", [])
                found.append(seconds / batches / BATCH * 1e6)
    for name, server in servers.items():
        lost = server.wg.counters.total() + server.router.counters.total()
        assert not lost, f"{name}: {lost} dropped"
    return values


def to_rst(values: Values, about: dict[str, str], pairs: int) -> str:
    """Microseconds, and the ratio of each pair to the same with one session."""
    text = ["What a packet costs, by the number of sessions", "=" * 46, ""]
    text += [f"* {key}: {value}" for key, value in about.items()]
    text += [
        "",
        f"CPU microseconds a packet of 1420 bytes, medians of {pairs} interleaved pairs, and"
        " below them the ratio to one session, with its range.  *in*: from the socket to the TUN,"
        " *out*: from the TUN to the socket; *one*: one of the sessions has all the traffic,"
        f" *all*: each batch ({BATCH} packets) is another's.  Target: {TARGET:g} at 10,000.",
        "",
    ]
    kinds = list(next(iter(values.values())))
    rows = [["", *kinds]]
    for name, found in values.items():
        base = values["1" + name.removeprefix(name.split()[0])]
        rows.append([name, *(spell(found[kind], 2) for kind in kinds)])
        if base is found:
            continue
        shown = []
        for kind in kinds:
            ratios = [one / other for one, other in zip(found[kind], base[kind], strict=True)]
            shown.append("x " + spell(ratios, 2))
        rows.append(["", *shown])
    return "\n".join([*text, table(rows)]) + "\n"


@click.command()
@click.option(
    "--pairs",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="How often all is measured.",
)
@click.option(
    "--batches",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="In each of them, of each kind.",
)
@click.option(
    "--most",
    type=click.IntRange(1),
    default=SIZES[-1],
    show_default=True,
    help="Leave out what has more.",
)
@click.option("--into", type=click.Path(path_type=FilePath), default=RESULTS, help="Folder.")
def main(pairs: int, batches: int, most: int, into: FilePath) -> None:
    """Measure how the cost of a packet grows with the sessions, with and without limits."""
    about = {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "pyvpn": f"{__version__}, Python {platform.python_version()}",
        "load before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }
    servers: dict[str, Server] = {}
    for limited in (False, True):
        for size in SIZES:
            if size <= most:
                name = f"{size}{' limited' if limited else ''}"
                servers[name] = Server(size, limited)
                click.echo(f"{name} connected")
    gc.collect()
    gc.freeze()  # as the server does
    values = measure(servers, pairs, batches)
    text = to_rst(values, about, pairs)
    click.echo(text)
    into.mkdir(parents=True, exist_ok=True)
    stem = into / time.strftime("%Y-%m-%d-%H%M-growth")
    stem.with_suffix(".rst").write_text(text, encoding="utf-8")
    whole = json.dumps({"about": about, "microseconds": values}, indent=1) + "\n"
    stem.with_suffix(".json").write_text(whole, encoding="utf-8")
    click.echo(f"written: {stem}.rst, .json")


if __name__ == "__main__":
    sys.exit(main())
