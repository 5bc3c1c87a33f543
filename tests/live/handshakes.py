"""Many WireGuard clients in one process, beside the server: as many handshakes as it can take.

``python -m tests.live.handshakes rush|hold|answer HOST PORT KEY FIRST MEMBERS ...`` with the
server's key in hexadecimal.  Member *n* has the private key and the address that *n* gives it
(:func:`private_key`, :func:`source`), so nothing but a number needs to be known of it.  This host
must own :data:`SOURCES` (``ip route add local 198.19.0.0/16 dev lo``), and the others must send
there what is for it.  Each command prints a line of JSON when it has something to tell.

``rush ... ROUNDS IN_FLIGHT``: every member makes so many handshakes: initiation, response, first
data packet.  What can be is computed before; the clock runs for the rest.

``hold ... PER_SECOND KEEPALIVE``: every member makes one, then keeps its session: a keepalive
every so many seconds, a new handshake every two minutes; until it is killed.

``answer ... PER_SECOND``: as before without keepalives; then it tells who was called by whom when.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from hashlib import blake2s
from heapq import heappop, heappush
from ipaddress import ip_address

from pyvpn.crypto.cookie import CookieChecker, CookieJar
from pyvpn.crypto.keypair import REKEY_AFTER_TIME, Keypair
from pyvpn.crypto.noise import NO_PSK, InitiatorHandshake, TransportKeys, open_static
from pyvpn.crypto.tai64n import tai64n
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.wire.datagram import (
    COOKIE_REPLY,
    DATA,
    INITIATION,
    RESPONSE,
    CookieReply,
    Initiation,
    Response,
    kind_of,
    receiver_of,
)

SOURCES = "198.19.0.0/16"
PORTS = 8
PATIENCE = 5.0
"""Seconds without an answer after which a handshake has failed, as WireGuard has it."""
TICK = 0.02
"""Seconds between the timestamps of one member's handshakes: a server takes 50 a second."""

_IP_PKTINFO = 8  # Python 3.11 has no name for it


def private_key(member: int) -> bytes:
    """The private key of a member, 32 bytes."""
    return blake2s(b"member of the crowd", key=member.to_bytes(4, "big")).digest()


def source(member: int) -> bytes:
    """The address of a member, packed."""
    first = int(ip_address(SOURCES.partition("/")[0]))
    return ip_address(first + 2 + member).packed


def tell(**figures: object) -> None:
    print(json.dumps(figures), flush=True)  # noqa: T201 - a program: the tests read it


class Member:
    """One client: where it is, what it has begun, and what it has agreed on."""

    __slots__ = ("begun", "handshake", "index", "jar", "keypair", "source", "static")

    def __init__(self, number: int, server_key: bytes) -> None:
        self.index = number
        self.static = StaticKey(private_key(number))
        self.jar = CookieJar(server_key)
        self.keypair: Keypair | None = None
        self.handshake: InitiatorHandshake | None = None
        self.begun = 0.0
        self.source = [
            (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, source(number), bytes(4)))
        ]


class Crowd:
    """Clients of one server; a member's index in all messages is its number."""

    def __init__(self, host: str, port: int, server_key: bytes, numbers: range) -> None:
        self.members = {number: Member(number, server_key) for number in numbers}
        self._server = (host, port)
        self._server_key = server_key
        self._sockets = [self._socket() for _ in range(PORTS)]
        self.cookies = 0
        """Replies that demanded a cookie: a server that is not under load sends none."""
        self.junk = 0
        """Datagrams that no member could make anything of."""

    @staticmethod
    def _socket() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        made.bind(("", 0))
        return made

    # -- handshakes that we begin

    def begin(self, member: Member, stamp: bytes) -> bytes:
        """Return an initiation of *member*, which waits for its response from now on."""
        shared = member.static.shared(self._server_key)
        assert shared is not None
        begun = InitiatorHandshake.begin(
            member.static, self._server_key, shared, member.index, os.urandom(32), stamp
        )
        assert begun is not None
        member.handshake, message = begun
        return member.jar.add_macs(message, time.monotonic())

    def send(self, member: Member, datagram: bytes) -> None:
        sock = self._sockets[member.index % PORTS]
        sock.sendmsg([datagram], member.source, 0, self._server)

    def keep_alive(self, member: Member) -> None:
        """Send an empty packet; a server needs one to believe in a handshake."""
        assert member.keypair is not None
        [datagram] = member.keypair.seal([b""], 0)
        self.send(member, datagram)

    # -- what comes

    def receive(self, seconds: float) -> Iterator[tuple[int, Member, bytes]]:
        """Wait for datagrams, at most so long; yield kind, member and datagram."""
        readable, _, _ = select.select(self._sockets, [], [], max(0.0, seconds))
        for sock in readable:
            for _ in range(64):
                try:
                    datagram, ancillary, _, _ = sock.recvmsg(2048, 64)
                except BlockingIOError:
                    break
                kind = kind_of(datagram)
                number = int.from_bytes(datagram[8:12], "little")
                if kind in (COOKIE_REPLY, DATA):
                    number = receiver_of(datagram)
                if kind == INITIATION:  # names nobody yet: it is for who has the address
                    number = self._called(ancillary)
                if kind and number in self.members:
                    yield kind, self.members[number], datagram
                else:
                    self.junk += 1

    @staticmethod
    def _called(ancillary: list[tuple[int, int, bytes]]) -> int:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return int.from_bytes(value[8:12], "big") - int.from_bytes(source(0), "big")
        return -1

    def finish(self, member: Member, datagram: bytes) -> bool:
        """Take a response, and confirm it with a first packet."""
        keys = None
        if member.handshake is not None:
            keys = member.handshake.finish(Response.parse(datagram), member.static, NO_PSK)
        if keys is None:
            self.junk += 1
            return False
        self._agree(member, keys, True)
        self.keep_alive(member)
        return True

    def answer(self, member: Member, datagram: bytes) -> bool:
        """Answer an initiation of the server's."""
        shared = member.static.shared(self._server_key)
        if not CookieChecker(member.static.public, os.urandom).mac1_valid(datagram):
            return False
        half = open_static(Initiation.parse(datagram), member.static)
        if half is None or half.peer_public != self._server_key or shared is None:
            return False
        if half.open_timestamp(shared) is None:
            return False
        answered = half.respond(self._server_key, NO_PSK, member.index, os.urandom(32))
        assert answered is not None
        self._agree(member, answered[0], False)
        self.send(member, member.jar.add_macs(answered[1], time.monotonic()))
        return True

    def take_cookie(self, member: Member, datagram: bytes) -> None:
        self.cookies += member.jar.consume(CookieReply.parse(datagram), time.monotonic())

    @staticmethod
    def _agree(member: Member, keys: TransportKeys, initiator: bool) -> None:
        member.keypair = Keypair(member.index, keys, initiator, time.monotonic())
        member.handshake = None

    @staticmethod
    def opens(member: Member, datagram: bytes) -> bool:
        return member.keypair is not None and member.keypair.open(datagram) is not None

    # -- what the commands do

    def rush(self, rounds: int, in_flight: int) -> None:
        """Have every member make *rounds* handshakes, so many at the same time."""
        unix = time.time()
        prepared: deque[tuple[Member, InitiatorHandshake | None, bytes]] = deque()
        for number in range(rounds):
            for member in self.members.values():
                message = self.begin(member, tai64n(unix + number * TICK))
                prepared.append((member, member.handshake, message))
        for member in self.members.values():
            member.handshake = None
        gc.freeze()  # else its walks over all this are what is measured
        total, flying = len(prepared), 0
        delays: list[float] = []
        lost = 0
        tell(ready=total)
        started, used = time.monotonic(), time.process_time()
        waiting: deque[Member] = deque()
        while len(delays) + lost < total:
            while prepared and flying < in_flight and prepared[0][0].handshake is None:
                member, member.handshake, message = prepared.popleft()
                member.begun = time.monotonic()
                self.send(member, message)
                waiting.append(member)
                flying += 1
            for kind, member, datagram in self.receive(0.1):
                if kind == COOKIE_REPLY:
                    self.take_cookie(member, datagram)
                elif kind == RESPONSE and self.finish(member, datagram):
                    delays.append(time.monotonic() - member.begun)
                    flying -= 1
            limit = time.monotonic() - PATIENCE
            while waiting and (waiting[0].handshake is None or waiting[0].begun < limit):
                member = waiting.popleft()
                if member.handshake is not None:
                    member.handshake = None
                    lost += 1
                    flying -= 1
        seconds = time.monotonic() - started
        delays.sort()
        tell(
            completed=len(delays),
            failed=lost,
            cookies=self.cookies,
            junk=self.junk,
            seconds=round(seconds, 3),
            per_second=round(len(delays) / seconds),
            median_ms=round(delays[len(delays) // 2] * 1000, 1),
            p99_ms=round(delays[len(delays) * 99 // 100] * 1000, 1),
            own_cpu=round((time.process_time() - used) / seconds, 2),
        )

    def hold(self, per_second: float, keepalive: float) -> None:
        """Join at that rate, then keep all sessions; a *keepalive* of 0 means to stay silent."""
        started = time.monotonic()
        due: list[tuple[float, int]] = [
            (started + place / per_second, number) for place, number in enumerate(self.members)
        ]
        joined = 0
        told = started
        called: list[tuple[float, int]] = []
        tell(begun=len(self.members))
        while True:
            now = time.monotonic()
            while due and due[0][0] <= now:
                member = self.members[heappop(due)[1]]
                if member.keypair is None or keepalive:
                    self._keep(member, now)
                    patience = PATIENCE if member.handshake else keepalive
                    heappush(due, (now + patience, member.index))
            for kind, member, datagram in self.receive(min(0.05, due[0][0] - now if due else 1)):
                if kind == COOKIE_REPLY:
                    self.take_cookie(member, datagram)
                elif kind == RESPONSE:
                    new = member.keypair is None
                    joined += self.finish(member, datagram) and new
                elif kind == INITIATION and self.answer(member, datagram):
                    called.append((time.monotonic(), member.index))
                elif kind == DATA and not self.opens(member, datagram):
                    self.junk += 1
            if now - told > 0.5:
                told = now
                tell(
                    joined=joined,
                    seconds=round(now - started, 2),
                    cookies=self.cookies,
                    junk=self.junk,
                    called=called,
                )
                called = []

    def _keep(self, member: Member, now: float) -> None:
        """Do what is due for a member: begin, begin again, or show that it lives."""
        keypair = member.keypair
        if keypair is None or (keypair.initiator and now - keypair.created >= REKEY_AFTER_TIME):
            self.send(member, self.begin(member, tai64n(time.time())))
        else:
            self.keep_alive(member)


def main() -> None:
    command, host, port, key, first, members, *rest = sys.argv[1:]
    numbers = range(int(first), int(first) + int(members))
    crowd = Crowd(host, int(port), bytes.fromhex(key), numbers)
    if command == "rush":
        rounds, in_flight = rest
        crowd.rush(int(rounds), int(in_flight))
    else:
        per_second, *keepalive = rest
        crowd.hold(float(per_second), float(keepalive[0]) if keepalive else 0.0)


if __name__ == "__main__":
    main()
