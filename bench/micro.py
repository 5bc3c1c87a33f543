"""What each step of the packet path costs, alone: ``make bench-micro``.  Needs no root.

Each case is one batch, as the path meets it: 45 full packets, which is what a super-packet holds.
So "OPS" are batches a second.  Compare two commits on one machine::

    make bench-micro BENCH='--benchmark-autosave'
    make bench-micro BENCH='--benchmark-compare --benchmark-compare-fail=median:15%'
"""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pyvpn.crypto.certificates import make_authority, make_key, make_server_certificate, pin_of
from pyvpn.crypto.keypair import Keypair
from pyvpn.crypto.noise import TransportKeys
from pyvpn.crypto.replay import ReplayWindow
from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite
from pyvpn.net.control import ControlLink
from pyvpn.net.link_owner import LinkOwner
from pyvpn.net.tls import ServerIdentity, TlsTerms, client_options, server_options
from pyvpn.net.tls_transport import TlsFactory
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.limit import Limit
from pyvpn.tunnel.prefixes import Prefixes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import VERSION, encode_packets, encode_version
from pyvpn.wire.datagram import DATA, OFFLOAD
from pyvpn.wire.framed import framed
from pyvpn.wire.offload import Run, outgoing
from pyvpn.wire.packed import Packed
from pyvpn.wire.packed_join import joined
from pyvpn.wire.rebuild import SuperPacket, rebuild_packed
from pyvpn.wire.segments import PLAIN, cut, join, residue
from pyvpn.wire.slab import Sealed, Slab

BATCH = 45
PAYLOAD = 1368
"""TCP's share of a packet of 1420 bytes: 52 are headers, with timestamps."""
OFFICE, LAPTOP = ip_address("192.168.77.20").packed, ip_address("10.73.0.2").packed
UNIX = 1_700_000_000.0
SMALL = 36
"""Bytes in a small datagram: 64 with its headers."""


class Forgetful:
    """A sink, and a carrier, that takes everything and keeps nothing."""

    refusal = Drop.QUEUE_FULL

    def send_packets(self, packets: list[bytes], now: float = 0.0) -> int:
        return len(packets)

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        return sum(packet.segments for packet in packets)


class Owner:
    """Of a control connection: counts packets."""

    received = 0

    def packets(self, link: ControlLink, packets: list[bytes]) -> None:
        self.received += len(packets)

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def super_packet(packets: int = BATCH) -> bytes:
    """What the TUN hands out while a file is sent: one read, checksums undone."""
    length = 52 + PAYLOAD * packets
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 7, 0x4000, 64, 6, 0) + LAPTOP + OFFICE
    pseudo = residue(LAPTOP + OFFICE, 6 + length - 20)
    head += struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 0x80, 0x10, 501, pseudo, 0)
    head += b"\x01\x01\x08\x0a" + bytes(8)
    virtio = struct.pack("=BBHHHH", 1, 1, 52, PAYLOAD, 20, 16)
    return virtio + head + bytes(range(228)) * (PAYLOAD * packets // 228)


def datagrams(size: int, source: bytes = LAPTOP, destination: bytes = OFFICE) -> list[bytes]:
    """A batch of UDP packets of one flow, without checksums."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 64, 17, 0) + source + destination
    return [head + struct.pack("!HHHH", 7, 7, 8 + size, 0) + bytes(size)] * BATCH


def keypairs(suite: Suite = CHACHA) -> tuple[Keypair, Keypair]:
    """Both ends of a tunnel."""
    one, other = bytes(range(32)), bytes(range(32, 64))
    return (
        Keypair(1, TransportKeys(one, other, 2, suite), True, 0.0),
        Keypair(2, TransportKeys(other, one, 1, suite), False, 0.0),
    )


def server(sessions: int = 1) -> tuple[Router, Session]:
    """A server's router with so many sessions, and the last of them."""
    router = Router(Forgetful(), Counters())
    reachable = Prefixes.from_networks([ip_network("192.168.77.0/24")], True)
    for number in range(sessions):
        address = LAPTOP if number == sessions - 1 else struct.pack("!I", 0x0A800000 + number)
        session = Session(number + 1, 1, "anna/laptop", (address,), reachable, 0.0)
        router.add(session)
        session.attach(Forgetful(), 0.0)
    return router, session


class TlsEnd:
    """One end of a control connection with TLS, and what it has written."""

    def __init__(self, terms: TlsTerms, initiator: bool) -> None:
        self.owner, self.line = Owner(), StringTransport()
        self.link = ControlLink(
            cast(LinkOwner, self.owner), Clock(), version=VERSION, initiator=initiator
        )
        factory = TlsFactory(terms, Factory.forProtocol(lambda: self.link))
        self.tls = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 51820))

    def hand_over(self, other: TlsEnd) -> None:
        """Let arrive what was written."""
        written = self.line.value()
        self.line.clear()
        if written:
            other.tls.dataReceived(written)


def tls_links() -> tuple[TlsEnd, TlsEnd]:
    """A client's control link and a server's, both up."""
    authority, key = make_key(), make_key()
    issuer = make_authority(authority, UNIX)
    certificate = make_server_certificate(key, authority, issuer, ["vpn.example"], UNIX)
    identity = ServerIdentity(key, (certificate,), authority, issuer, pin_of(certificate))
    near = TlsEnd(client_options("vpn.example", identity.pin, None, None, None), True)
    far = TlsEnd(server_options(identity), False)
    far.tls.makeConnection(far.line)
    near.tls.makeConnection(near.line)
    for _ in range(10):
        near.hand_over(far)
        far.hand_over(near)
    assert near.link.is_up
    assert far.link.is_up
    near.link.raise_limit()
    far.link.raise_limit()
    return near, far


suites = pytest.mark.parametrize("suite", [CHACHA, AES_GCM], ids=lambda suite: suite.name)


@suites
@pytest.mark.parametrize("size", [1392, SMALL])
def test_seal(benchmark: BenchmarkFixture, size: int, suite: Suite) -> None:
    """Packets become data messages."""
    ours, _ = keypairs(suite)
    assert len(benchmark(ours.seal, datagrams(size), 1420)) == BATCH


@suites
@pytest.mark.parametrize("size", [1392, SMALL])
def test_open(benchmark: BenchmarkFixture, size: int, suite: Suite) -> None:
    """Data messages become packets, each once."""
    ours, theirs = keypairs(suite)
    packets = datagrams(size)

    def fresh() -> tuple[tuple[list[bytes]], dict[str, object]]:
        return (ours.seal(packets, 1420),), {}

    opened = benchmark.pedantic(theirs.receive_all, setup=fresh, rounds=2000, warmup_rounds=50)
    assert all(isinstance(each, bytes) for each in opened)


@suites
def test_seal_run(benchmark: BenchmarkFixture, suite: Suite) -> None:
    """A super-packet becomes messages, uncut."""
    ours, _ = keypairs(suite)
    [run] = outgoing([super_packet()], 1420).items
    assert isinstance(run, Run)
    assert len(benchmark(ours.seal_run, run)) == BATCH


@suites
def test_seal_slab(benchmark: BenchmarkFixture, suite: Suite) -> None:
    """The same where the TUN put it, from its headers on."""
    ours, _ = keypairs(suite)
    whole, slab = super_packet(), Slab()

    def seal() -> Sealed | None:
        slab.buffer[: len(whole)] = whole
        slab.take(len(whole))
        shape = slab.shape(1420)
        assert shape is not None
        return ours.seal_slab(slab, shape)

    sealed = benchmark(seal)
    assert sealed is not None
    assert len(sealed) == BATCH


@suites
def test_open_run(benchmark: BenchmarkFixture, suite: Suite) -> None:
    """And these are opened."""
    ours, theirs = keypairs(suite)
    [run] = outgoing([super_packet()], 1420).items
    assert isinstance(run, Run)

    def fresh() -> tuple[tuple[list[bytes]], dict[str, object]]:
        return (ours.seal_run(run),), {}

    _, payloads, _ = benchmark.pedantic(
        theirs.receive_run, setup=fresh, rounds=2000, warmup_rounds=50
    )
    assert len(payloads) == BATCH


def batch_of(sealed: list[bytes], kept: Packed) -> None:
    """Have *kept* hold it, as if received."""
    whole = b"".join(sealed)
    kept.buffer[: len(whole)] = whole
    kept.take(len(whole), len(sealed[0]))


@suites
def test_packed_join(benchmark: BenchmarkFixture, suite: Suite) -> None:
    """Data messages that came as one become a super-packet: opening and joining."""
    ours, theirs = keypairs(suite)
    packets, kept = cut(super_packet()), Packed()

    def open_and_join() -> int:
        assert kept.head()
        assert theirs.receive_packed(kept, DATA)
        return len(joined(kept) or ())

    made = benchmark.pedantic(
        open_and_join,
        setup=lambda: batch_of(ours.seal(packets, 1420), kept),
        rounds=2000,
        warmup_rounds=50,
    )
    assert made == 1


@suites
def test_packed_rebuild(benchmark: BenchmarkFixture, suite: Suite) -> None:
    """And offload payloads."""
    ours, theirs = keypairs(suite)
    [run] = outgoing([super_packet()], 1420).items
    assert isinstance(run, Run)
    kept = Packed()

    def open_and_rebuild() -> int:
        assert kept.head()
        counters = theirs.receive_packed(kept, OFFLOAD)
        return len(rebuild_packed(kept, counters[0]) or ())

    made = benchmark.pedantic(
        open_and_rebuild,
        setup=lambda: batch_of(ours.seal_run(run), kept),
        rounds=2000,
        warmup_rounds=50,
    )
    assert made == 1


def test_cut(benchmark: BenchmarkFixture) -> None:
    """A super-packet becomes packets, with every checksum right."""
    assert len(benchmark(cut, super_packet())) == BATCH


def test_join(benchmark: BenchmarkFixture) -> None:
    """And packets a super-packet."""
    packets = cut(super_packet())
    assert len(benchmark(join, packets)) == 1


def test_join_nothing(benchmark: BenchmarkFixture) -> None:
    """Packets that do not fit together: datagrams, where the kernel takes no super-packets."""
    assert len(benchmark(join, datagrams(SMALL))) == BATCH


def test_cut_nothing(benchmark: BenchmarkFixture) -> None:
    """A read that holds one packet."""
    [packet, *_] = datagrams(SMALL)
    assert benchmark(cut, PLAIN + packet) == [packet]


@pytest.mark.parametrize("sessions", [1, 10_000])
def test_route_out(benchmark: BenchmarkFixture, sessions: int) -> None:
    """From the TUN to a session: the cost must not depend on how many there are."""
    router, session = server(sessions)
    benchmark(router.packets_from_tun, datagrams(1392, OFFICE, LAPTOP), 1.0)
    assert session.packets_out > 0
    assert router.counters.total() == 0


@pytest.mark.parametrize("sessions", [1, 10_000])
def test_route_in(benchmark: BenchmarkFixture, sessions: int) -> None:
    """From a session to the TUN, with its source and destination looked at."""
    router, session = server(sessions)
    benchmark(router.packets_from_session, session, datagrams(1392), 1.0)
    assert session.packets_in > 0
    assert router.counters.total() == 0


def test_route_out_limited(benchmark: BenchmarkFixture) -> None:
    """To a session with a limit that is far away: what the limit itself costs."""
    router, session = server()
    session.limit_out = Limit(100_000_000_000, 0.0)
    times = iter(range(1, 10**9))
    packets = datagrams(1392, OFFICE, LAPTOP)
    benchmark(lambda: router.packets_from_tun(packets, float(next(times))))
    assert router.counters.total() == 0


def test_replay(benchmark: BenchmarkFixture) -> None:
    """The counters of a batch in order, which is how they come."""
    window = ReplayWindow()

    def next_batch() -> tuple[tuple[list[int]], dict[str, object]]:
        first = window.highest + 1
        return (list(range(first, first + BATCH)),), {}

    accepted = benchmark.pedantic(
        window.accept_all, setup=next_batch, rounds=5000, warmup_rounds=100
    )
    assert accepted == [True] * BATCH


def test_replay_disordered(benchmark: BenchmarkFixture) -> None:
    """And with every other pair exchanged."""
    window = ReplayWindow()

    def next_batch() -> tuple[tuple[list[int]], dict[str, object]]:
        first = window.highest + 1
        swapped = [first + (number ^ 1) for number in range(BATCH - 1)]
        return ([*swapped, first + BATCH - 1],), {}

    accepted = benchmark.pedantic(
        window.accept_all, setup=next_batch, rounds=5000, warmup_rounds=100
    )
    assert accepted == [True] * BATCH


def test_frames_in(benchmark: BenchmarkFixture) -> None:
    """A piece of a TLS stream, cut into frames and handed on."""
    owner, transport = Owner(), StringTransport()
    link = ControlLink(
        cast(LinkOwner, owner), Clock(), version=VERSION, initiator=False, tls=False
    )
    link.makeConnection(transport)
    link.dataReceived(encode_version(VERSION))
    link.raise_limit()
    benchmark(link.dataReceived, encode_packets(datagrams(1392)))
    assert owner.received > 0
    assert owner.received % BATCH == 0


def test_frames_out(benchmark: BenchmarkFixture) -> None:
    """And a batch made one."""
    assert len(benchmark(encode_packets, datagrams(1392))) == BATCH * (1420 + 12)


def test_super_frames_in(benchmark: BenchmarkFixture) -> None:
    """The same of what both ends agreed to send uncut: one frame, one super-packet."""
    owner, transport = Owner(), StringTransport()
    link = ControlLink(
        cast(LinkOwner, owner), Clock(), version=VERSION, initiator=False, tls=False
    )
    link.makeConnection(transport)
    link.dataReceived(encode_version(VERSION))
    link.raise_limit()
    came: list[int] = []
    link.carry_super_packets(lambda _, packets: came.append(sum(p.segments for p in packets)))
    benchmark(link.dataReceived, framed([super_packet()], 1 << 20).data)
    assert set(came) == {BATCH}


def test_super_frames_out(benchmark: BenchmarkFixture) -> None:
    """And a super-packet made one frame."""
    assert benchmark(framed, [super_packet()], 1 << 20).packets == BATCH


@pytest.mark.parametrize("uncut", [False, True])
def test_tls(benchmark: BenchmarkFixture, uncut: bool) -> None:
    """A batch from one control link to another, through TLS; as packets, and as one frame."""
    near, far = tls_links()
    packets, frames = datagrams(1392), [super_packet()]
    came: list[int] = []
    far.link.carry_super_packets(lambda _, packets: came.append(sum(p.segments for p in packets)))
    near.link.carry_super_packets(lambda _, packets: None)

    def cross() -> None:
        if uncut:
            near.link.send_frames(frames, 0.0)
        else:
            near.link.send_packets(packets, 0.0)
        near.hand_over(far)

    benchmark(cross)
    assert far.owner.received % BATCH == 0
    assert set(came) <= {BATCH}
    assert uncut == bool(came)
    assert uncut != bool(far.owner.received)
