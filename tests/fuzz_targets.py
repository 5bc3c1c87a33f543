"""What is fuzzed, and what must hold whatever comes: see :mod:`tests.fuzz`.

Each target breaks its own promise with an AssertionError; any other exception breaks the promise
of all of them, that no bytes raise.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Protocol

from pyvpn.crypto.cookie import CookieJar
from pyvpn.crypto.suite import AES_GCM, CHACHA
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.plain_udp import Place, PlainUdpClients
from pyvpn.tunnel.router import OwnRoutes, Router
from pyvpn.tunnel.session import Session
from pyvpn.wire import plain_udp
from pyvpn.wire.command import LIMIT, packets_in
from pyvpn.wire.datagram import INITIATION, RESPONSE, Path, kind_of
from pyvpn.wire.framed import MARK, framed, super_packet_of
from pyvpn.wire.icmp import unreachable
from pyvpn.wire.ip import decapsulated, ecn_of, endpoints_of, trimmed
from pyvpn.wire.native import (
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    Token,
    TokenTaken,
    Way,
    parse,
)
from pyvpn.wire.offload import LARGEST, Run, ends_of, outgoing
from pyvpn.wire.rebuild import rebuild
from pyvpn.wire.segments import VNET_SIZE, cut, join
from tests.tunnel.packets import packed, packet
from tests.tunnel.stories import Story
from tests.tunnel.wires import End, Pair, Sent, hello
from tests.wg.devices import Host, Net

ELSEWHERE = Path(packed("203.0.113.9"), 9)


class Target(Protocol):
    """Something that reads bytes of strangers."""

    corpus: list[bytes]
    """What it is used to: what is tried is made of these."""
    tokens: list[bytes]
    """Pieces that mean something to it."""

    def run(self, data: bytes, number: int) -> None:
        """Try *data*; *number* tells the tries apart, for a choice of ways to do it.

        Raises:
            AssertionError: a promise is broken.
        """


def _history(pair: Pair) -> list[bytes]:
    """Let a pair live for a while; return one of everything that was sent."""
    pair.right.wg._load._seen = float("inf")
    pair.from_left()
    pair.net.run(6.0)
    pair.right.wg._load._seen = 0.0
    pair.meet()
    pair.net.run(30.0)
    pair.from_left(bytes(100), bytes(1380))
    by_shape: dict[tuple[int, int], bytes] = {}
    for end in pair.net.ends:
        for sent in end.sent:
            by_shape[sent.kind, len(sent.datagram)] = sent.datagram
    return list(by_shape.values())


class Datagrams:
    """Datagrams of strangers, for ends in different situations.

    What is tried is a changed recording, so nothing of it may ever be taken.
    """

    def __init__(self) -> None:
        met = self.pair()
        self.corpus = _history(met)
        other = self.pair(psk=b"\7" * 32)  # the same keys: its answers do not fit
        other.net.now += 10_000.0
        kept: list[Sent] = []

        def keep(end: End, sent: Sent) -> bool:
            kept.append(sent)
            return end is other.right

        other.net.lose = keep
        other.from_left()
        self.corpus += [sent.datagram for sent in kept]
        waiting = self.pair()
        waiting.net.lose = lambda end, sent: True
        waiting.from_left()
        loaded = self.pair()
        loaded.meet()
        loaded.right.wg._load._seen = float("inf")
        self.ends = [met.right, waiting.left, loaded.right, met.left]
        for pair in (met, loaded):  # nothing later than that is in the corpus
            pair.to_left.newest_stamp = pair.to_right.newest_stamp = other.to_left.newest_stamp
        self.jars = [CookieJar(end.public) for end in self.ends]
        self.before = [self.seen(end) for end in self.ends]
        indices = [index for end in self.ends for index in end.wg._world.indices]
        self.tokens = [index.to_bytes(4, "little") for index in indices]
        self.tokens += [bytes(n) for n in (1, 4, 8, 16, 32)] + [b"\xff" * 8]
        self.tokens += [bytes((kind, 0, 0, 0)) for kind in range(6)]

    def pair(self, psk: bytes = bytes(32)) -> Pair:
        """Two ends that do not know each other yet."""
        return Pair(psk)

    @staticmethod
    def seen(end: End) -> tuple[object, ...]:
        (peer,) = end.wg.peers.values()
        keypairs = peer.previous, peer.current, peer.next
        windows = [None if one is None else one.window.highest for one in keypairs]
        rest = peer.endpoint, peer.initiation, peer.heard, peer.rx_bytes, peer.newest_stamp
        return keypairs, windows, rest, len(end.received), len(end.wg._world.indices)

    def run(self, data: bytes, number: int) -> None:
        place = number & 3
        end = self.ends[place]
        kind = kind_of(data)
        if kind in (INITIATION, RESPONSE) and number & 12 == 0:
            data = self.jars[place].add_macs(data[:-32], 0.0)  # what anybody can do
        sent = len(end.sent)
        if end is not self.ends[2]:  # so many refusals would be load, too
            end.wg._load._seen = float("-inf")
        end.wg.received([data], ELSEWHERE, number >> 4 & 3, end.net.now)
        end.wg.work(end.net.now)
        if end is self.ends[2]:  # under load: cookies, and nothing else
            answers = end.sent[sent:]
            assert all(len(one.datagram) == 64 for one in answers), "an answer"
            assert len(answers) <= (kind in (INITIATION, RESPONSE)), "more than one answer"
            del end.sent[sent:]
            end.net.flying.clear()
        assert len(end.sent) == sent, "an answer"
        assert self.seen(end) == self.before[place], "a change"


class AesDatagrams(Datagrams):
    """The same for two ends of ours that take AES-GCM and begin with it."""

    def pair(self, psk: bytes = bytes(32)) -> Pair:
        pair = Pair(psk)
        pair.left.wg.suites = pair.right.wg.suites = (CHACHA, AES_GCM)
        for peer in (pair.to_left, pair.to_right):
            peer.is_native = True
            peer.agree_on_aes(True)
        return pair

    def __init__(self) -> None:
        super().__init__()
        peers = [peer for end in self.ends for peer in end.wg.peers.values()]
        used = [peer.cipher for peer in peers if peer.current is not None]
        assert set(used) == {AES_GCM.name}, used
        self.corpus += Datagrams().corpus  # what is meant for the other suite


class Inner:
    """Packets inside a valid session: the peer itself is hostile."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.meet()
        self.router = Router(self, Counters(), one_link=True)
        self.session = Session(0, 0, "hostile", (), frozenset(), heard=0.0)
        self.session.sources = OwnRoutes(self.router, self.session)
        self.router.add(self.session)
        other = Session(0, 0, "other", (), frozenset(), heard=0.0)
        self.router.add(other)
        for network, length, session in (
            ("10.0.0.0", 24, self.session),
            ("fd00::", 64, self.session),
            ("10.0.0.7", 32, other),
            ("10.9.0.0", 16, other),
        ):
            self.router.add_route(packed(network), length, session)
        self.pair.right.deliver = self.deliver  # type: ignore[method-assign]
        self.good = hello(b"good")
        self.corpus = [hello(bytes(size)) for size in (0, 1, 100, 1400)]
        self.corpus += [packet("fd00::1", "fd00::2", bytes(size)) for size in (0, 100, 1380)]
        self.corpus += [b"", bytes(16), bytes(1420)]
        self.tokens = [packed(a) for a in ("10.0.0.7", "10.9.0.1", "127.0.0.1", "fd00::1", "::")]
        self.tokens += [b"\x45\0", b"\x60\0\0\0", b"\0\x14", b"\xff\xff"]
        self.written = 0

    def send_packets(self, packets: list[bytes]) -> int:
        """The TUN."""
        for one in packets:
            ends = endpoints_of(one)
            assert ends is not None, "no packet"
            source = ends[0]
            assert source.startswith((b"\x0a\0\0", packed("fd00::")[:8])), "a forged source"
            assert source != packed("10.0.0.7"), "another's source"
        self.written += len(packets)
        return len(packets)

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        self.router.packets_from_session(self.session, packets, now)

    def run(self, data: bytes, number: int) -> None:
        keypair, before = self.pair.to_right.current, self.written
        assert keypair is not None
        # Unpadded, padded, and as the second packet of a run.
        run = [data] if number & 3 else [self.good, data]
        sealed = [keypair.seal([one], number >> 2 & 1)[0] for one in run]
        right = self.pair.right
        right.wg.received(sealed, self.pair.left.place, number >> 3 & 3, right.net.now)
        good = len(run) - 1 if number >> 3 & 3 != 3 else 0  # marked, what is not capable is lost
        assert good <= self.written - before <= good + 1, "too few or too many"
        assert right.counters.dropped["packet-forged"] == 0


class Ip:
    """The few functions that read packets."""

    def __init__(self) -> None:
        self.corpus = [packet("10.0.0.1", "10.0.0.2", bytes(size)) for size in (0, 8, 600)]
        self.corpus += [packet("fd00::1", "fd00::2", bytes(size)) for size in (0, 8, 1300)]
        self.tokens = [b"\x45\0\0\x14", b"\x4f", b"\x60\0\0\0\0\x08", b"\x3a", b"\x2c", b"\x01"]

    def run(self, data: bytes, number: int) -> None:
        ends = endpoints_of(data)
        whole = trimmed(data)
        answer = unreachable(data)
        if ends is not None:
            assert whole is data
        else:
            assert answer is None
        if answer is not None:
            assert endpoints_of(answer) == (ends or b"")[::-1]
            assert unreachable(answer) is None
        if whole is not None:
            assert data.startswith(whole)
            marked = decapsulated(whole, number & 3)
            if marked is None:
                assert (ecn_of(whole), number & 3) == (0, 3)
            else:
                assert endpoints_of(marked) == endpoints_of(whole)
                assert len(marked) == len(whole)


class Uapi:
    """Requests of the configuration protocol, to a device that is up."""

    RUNS = 200
    """After so many a new device: they all leave peers behind."""

    def __init__(self) -> None:
        key, other = b"11" * 32, b"22" * 32
        self.corpus = [
            b"get=1\n\n",
            b"set=1\nprivate_key="
            + key
            + b"\nlisten_port=51820\nfwmark=7\nreplace_peers=true\n\n",
            b"set=1\npublic_key=" + other + b"\nendpoint=192.0.2.1:51820\nallowed_ip=10.0.0.0/8\n"
            b"persistent_keepalive_interval=25\nprotocol_version=1\n\nget=1\n\n",
            b"set=1\npublic_key=" + other + b"\nupdate_only=true\nremove=true\n\n",
            b"set=1\npublic_key=" + key + b"\nreplace_allowed_ips=true\nallowed_ip=fd00::/8\n"
            b"allowed_ip=-fd00::/8\nendpoint=[fe80::1%eth0]:1\npreshared_key=" + other + b"\n\n",
            b"set=1\n\nget=1\n\nset=1\nfwmark=0\n\n",
        ]
        self.tokens = [b"\n", b"\n\n", b"=", b"get=1\n\n", b"set=1\n", b"0x", b"65536", b"-", b"/"]
        self.tokens += [b"public_key=", b"allowed_ip=", b"endpoint=", b"true", b"%", b"[", b"]:"]
        self.tokens += [key, other, b"\0", b"\xff", b"A" * 4097]
        self.fresh()

    def fresh(self) -> None:
        self.host = Host(Net(), "192.0.2.1", 1)
        self.host.up()

    def run(self, data: bytes, number: int) -> None:
        if number % self.RUNS == 0:
            self.fresh()
        answers = self.host.ask(data.decode("latin-1"))
        assert not answers or answers.endswith("\n\n")
        for answer in answers.split("\n\n")[:-1]:
            assert answer.rpartition("\n")[2].startswith("errno="), answer
        device = self.host.device
        assert not device.wireguard.peers.get(device.own_public)
        for peer in device.wireguard.peers.values():
            assert 0 <= peer.keepalive < 65536
            assert len(peer.preshared_key) == 32


class PlainUdp:
    """Datagrams of the first generation's UDP program, from clients and from strangers."""

    PASSWORD = b"correct horse"

    def __init__(self) -> None:
        self.router = Router(self, Counters())
        self.sent: list[tuple[bytes, Place]] = []
        self.clients = PlainUdpClients(
            network=IPv4Network("10.7.0.0/24"),
            bypass=IPv4Network("192.168.77.0/24"),
            password=self.PASSWORD,
            router=self.router,
            send=self.send,
            arrived=lambda session: None,
            left=lambda session, why: None,
        )
        self.now = 1000.0
        inner = packet("10.7.0.2", "192.168.77.1", b"load")
        self.corpus = [self.PASSWORD, b"\0", b"e", b"r", b"10.7.0.2;10.7.0.1"]
        self.corpus += [
            plain_udp.with_header(inner),
            b"\0\0\x86\xdd" + packet("fd00::1", "fd00::2"),
        ]
        self.tokens = [b"\0\0\x08\0", b";", b"255.255.255.255", b"0", self.PASSWORD, inner]

    def send_packets(self, packets: list[bytes]) -> int:
        """The TUN."""
        leased = {session.addresses[0] for session in self.clients.sessions}
        for one in packets:
            ends = endpoints_of(one)
            assert ends is not None
            assert ends[0] in leased, "a forged source"
        return len(packets)

    def send(self, datagram: bytes, place: Place) -> bool:
        self.sent.append((datagram, place))
        return True

    def run(self, data: bytes, number: int) -> None:
        inner = plain_udp.packet_in(data)
        if inner is not None:
            assert plain_udp.with_header(inner) == data
        addresses = plain_udp.addresses_in(data)
        if addresses is not None:
            client, server = addresses
            assert plain_udp.encode_answer(client.packed, server.packed) == data
        place = f"192.0.2.{number & 7}", 1000 + (number >> 3 & 3)
        self.sent.clear()
        self.now += 0.01
        known = len(self.clients.sessions)
        self.clients.received(data, place, self.now)
        self.clients.tick(self.now)
        assert len(self.sent) <= 1, "more than one answer"
        if len(self.clients.sessions) > known:
            assert data == self.PASSWORD, "let in without the password"


class Native:
    """What a client of ours, and whoever has its keys, says inside its tunnel."""

    def __init__(self) -> None:
        self.story = Story()
        self.story.register()
        self.story.run(0.2)
        peer = self.story.session.peer
        assert isinstance(peer, Peer)
        self.peer = peer
        token = self.story.claims.claim(self.story.session, self.peer.public, 1420)
        said = (
            Echo(7),
            Echo(7, 600),
            EchoReply(7, 12),
            Carrier(0, Way.UDP),
            CarrierSet(1, Way.UDP),
        )
        self.corpus = [each.to_bytes() for each in (*said, Token(token), TokenTaken(bytes(16)))]
        self.tokens = [bytes((kind, 0)) for kind in range(16)] + [b"\0\x0c", b"\xff" * 8]

    def run(self, data: bytes, number: int) -> None:
        story, now = self.story, self.story.net.now
        session, server = story.session, story.server
        epoch, owner = session.epoch, self.peer.owner
        before = len(server.sent)
        answered = 1 - story.claims.received(self.peer, [data], now)
        answers = server.sent[before:]
        assert len(answers) == answered, "answers"
        assert all(len(one.datagram) <= len(data) + 48 for one in answers), "a larger answer"
        assert session.epoch >= epoch, "back to an old epoch"
        assert session.carrier in (session.peer, session.link), "no carrier of its own"
        assert self.peer.owner is owner, "another owner"
        if number & 1:
            by_udp = story.choice.by_udp
            story.choice.received(parse(data), now)
            assert story.choice.by_udp == by_udp, "moved by what nobody asked"
        del server.sent[before:]
        story.client.sent.clear()
        story.net.flying.clear()


class Segments:
    """Packets that enter the TUN together, and what a TUN hands out."""

    def __init__(self) -> None:
        self.corpus = [packet("10.0.0.1", "10.0.0.2", bytes(size)) for size in (0, 20, 600)]
        tcp = bytes.fromhex("0050c350000000010000000250100200 00000000")
        for source, destination in ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2"):
            one = packet(source, destination, tcp + bytes(100))
            self.corpus.append(one[:9] + b"\x06" + one[10:] if one[0] >> 4 == 4 else one)
            self.corpus.append(bytes((1, 1, 0, 0, 50, 0, 20, 0, 16, 0)) + self.corpus[-1])
        self.tokens = [b"\x45\0", b"\x60\0\0\0", b"\x06", b"\x11", b"\0" * 10, b"\xff\xff"]

    def run(self, data: bytes, number: int) -> None:
        for one in cut(data):
            assert len(one) <= len(data) - VNET_SIZE, "more than there was"
        other = self.corpus[number % len(self.corpus)]
        packets = [other, data, data, other]
        inside: list[bytes] = []
        for pieces, joined in join(packets, datagrams=number & 1 == 0):
            assert pieces, "nothing to write"
            inside += joined
        assert sorted(inside) == sorted(packets), "lost, or twice"


class Offload:
    """What one end of ours sends another instead of packets, and what its own TUN hands it."""

    def __init__(self) -> None:
        tcp = bytes.fromhex("0050c350000000010000000250100200 00000000")
        udp = bytes.fromhex("0050c35000000000")
        frames: list[bytes] = []
        for number, transport, field, kind in (6, tcp, 16, 1), (17, udp, 6, 5):
            for one in (
                packet("10.0.0.1", "10.0.0.2", transport + bytes(200)),
                packet("fd00::1", "fd00::2", transport + bytes(200)),
            ):
                at, place = (20, 9) if one[0] >> 4 == 4 else (40, 6)
                whole = one[:place] + bytes((number,)) + one[place + 1 :]
                if number == 17:
                    whole = whole[: at + 4] + b"\0\xd0" + whole[at + 6 :]
                sort = 4 if kind == 1 and at == 40 else kind
                frames.append(bytes((1, sort, 0, 0, 60, 0, at, 0, field, 0)) + whole)
                frames.append(bytes((1, 0, 0, 0, 0, 0, at, 0, field, 0)) + whole)
        self.corpus = list(frames)
        self.good = b""
        for each in frames:
            for item in outgoing([each], 0).items:
                if isinstance(item, Run):
                    self.corpus += item.plaintexts(100)
                    self.good = item.plaintexts(200)[0]
        assert len(self.corpus) == 8 + 4 * 4, "no runs"
        self.tokens = [
            b"\x45\0",
            b"\x60\0\0\0",
            b"\x06",
            b"\x11",
            b"\0\x3c",
            b"\0\x64",
            b"\xff\xff",
        ]

    def run(self, data: bytes, number: int) -> None:
        counter = 100 + (number & 3)
        payloads = [data, self.good, data, data]
        made = rebuild([counter, 200, counter + 1, counter + 2], payloads, number >> 2 & 3)
        held = made.refused + made.congested + sum(each.segments for each in made.packets)
        assert held == len(payloads), "lost, or more than came"
        for each in made.packets:
            whole = b"".join(each.pieces)
            assert len(whole) <= VNET_SIZE + LARGEST, "too large"
            packets = each.cut()
            assert len(packets) == each.segments, "another number"
            assert sum(map(len, packets)) == each.size, "another size"
            assert {endpoints_of(one) for one in packets} == {each.ends}, "other ends"
        items, unknown = outgoing([data, self.corpus[0], data], 1420)
        several = sum(len(item.payloads if isinstance(item, Run) else item) for item in items)
        assert several >= 1 + 2 * (unknown == 0), "lost"
        for item in items:
            for text in item.plaintexts(0) if isinstance(item, Run) else item:
                assert len(text) <= max(len(data), len(self.corpus[0])), "larger"


class Framed:
    """What one end of ours sends another on the control channel, and what its TUN hands it."""

    def __init__(self) -> None:
        offload = Offload()
        self.frames = [each for each in offload.corpus if each[0] == 1]
        self.corpus = list(self.frames)
        for each in self.frames:
            found, _ = packets_in(framed([each], 1 << 20).data, LIMIT)
            self.corpus += found
        assert any(each.startswith(MARK) for each in self.corpus), "no super-packets"
        self.tokens = [*offload.tokens, bytes(2), b"\0\0\0\x3c", b"\0\0\0\1"]

    def run(self, data: bytes, number: int) -> None:
        made = super_packet_of(data)
        if made is not None:
            assert data.startswith(MARK), "two meanings"
            whole = b"".join(made.pieces)
            assert len(whole) - VNET_SIZE == len(data) - 4, "more or less than came"
            packets = made.cut()
            assert len(packets) == made.segments > 1, "another number"
            assert sum(map(len, packets)) == made.size, "another size"
            assert {endpoints_of(one) for one in packets} == {made.ends}, "other ends"
        other = self.frames[number % len(self.frames)]
        room = number & 0x3FF
        # The router hands on what has ends, and nothing else.
        sent = framed(
            [each for each in (data, other, data) if ends_of(each, len(each)) is not None], room
        )
        found, taken = packets_in(sent.data, LIMIT)
        assert taken == len(sent.data), "no frames"
        first = 2 * len(data) + len(other)  # datagrams of one flow may be one
        assert len(sent.data) <= max(room, first) + 16 * len(found), "room"
        held = 0
        for one in found:
            again = super_packet_of(one) if one.startswith(MARK) else None
            held += 1 if again is None else again.segments
        assert held == sent.packets, "lost, or twice"


TARGETS: dict[str, Callable[[], Target]] = {
    "datagrams": Datagrams,
    "aes": AesDatagrams,
    "inner": Inner,
    "ip": Ip,
    "uapi": Uapi,
    "plain_udp": PlainUdp,
    "native": Native,
    "segments": Segments,
    "offload": Offload,
    "framed": Framed,
}
