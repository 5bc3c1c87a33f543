"""Datagrams that mean no good, at any rate and from 65,000 addresses: a program beside the server.

``python -m tests.live.wg_flood KIND HOST PORT KEY PER_SECOND SECONDS`` with the server's key in
hexadecimal; 0 per second: as many as there can be.  It writes IP headers of its own, so it needs
a raw socket, and a network that does not ask where its datagrams come from; to count what comes
back, this host must own :data:`~tests.live.handshakes.SOURCES`.  At its end it prints a line of
JSON: datagrams and bytes (of UDP payload) sent and received.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from hashlib import blake2s

from pyvpn.crypto.cookie import mac1_key
from pyvpn.wire.datagram import COOKIE_REPLY, DATA, INITIATION, RESPONSE
from tests.live.handshakes import source, tell

PORTS = tuple(range(7000, 7008))
KEPT = 2048
"""Different datagrams; addresses and ports are new for each that is sent."""
TURN = 0.002
"""Seconds between two bursts."""

_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")


def _head(kind: int) -> bytes:
    return kind.to_bytes(4, "little")


def initiation(key: bytes) -> bytes:
    """What anybody can make who knows the server's public key: only mac1 is right."""
    return with_mac1(_head(INITIATION) + os.urandom(112), key)


def response(key: bytes) -> bytes:
    """A response to nothing."""
    return with_mac1(_head(RESPONSE) + os.urandom(56), key)


def with_mac1(message: bytes, key: bytes) -> bytes:
    return message + blake2s(message, key=mac1_key(key), digest_size=16).digest() + bytes(16)


def with_mac2(key: bytes) -> bytes:
    """An initiation that brings a cookie which nobody gave it."""
    return initiation(key)[:-16] + os.urandom(16)


def bad_mac1(key: bytes) -> bytes:
    """An initiation of somebody who does not know the server."""
    return _head(INITIATION) + os.urandom(128) + bytes(16)


def random_bytes(key: bytes) -> bytes:
    return os.urandom(random.randint(0, 1400))


def wrong_type(key: bytes) -> bytes:
    """A length that there is, and a type or reserved bytes that there are not."""
    size = random.choice((148, 92, 64, 96, 1328))
    first = random.choice((0, 5, 255, 1 << 8 | INITIATION, 1 << 31 | DATA, random.getrandbits(32)))
    return first.to_bytes(4, "little") + os.urandom(size - 4)


def wrong_length(key: bytes) -> bytes:
    """A type that there is, and a length that it does not have."""
    kind, size = random.choice(((INITIATION, 148), (RESPONSE, 92), (COOKIE_REPLY, 64)))
    return _head(kind) + os.urandom(size - 4 + random.choice((-60, -1, 1, 16, 1000)))


def nobodys_data(key: bytes) -> bytes:
    """A data message for a session that there is not."""
    return _head(DATA) + os.urandom(random.choice((28, 92, 1324)))


def nobodys_cookie(key: bytes) -> bytes:
    return _head(COOKIE_REPLY) + os.urandom(60)


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "initiations": initiation,
    "forged cookies": with_mac2,
    "responses": response,
    "bad mac1": bad_mac1,
    "random bytes": random_bytes,
    "wrong types": wrong_type,
    "wrong lengths": wrong_length,
    "data": nobodys_data,
    "cookies": nobodys_cookie,
}


class Flood:
    """Sends datagrams of one kind to one server."""

    def __init__(self, kind: str, host: str, port: int, key: bytes) -> None:
        self._payloads = [KINDS[kind](key) for _ in range(KEPT)]
        self._there = socket.inet_aton(host)
        self._address = (host, 0)
        self._port = port
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._replies = [self._listen(port) for port in PORTS]
        self.sent = self.sent_bytes = 0
        self.received = self.received_bytes = self.largest = 0

    @staticmethod
    def _listen(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind(("", port))
        return made

    def run(self, per_second: float, seconds: float) -> float:
        """Send; return how many seconds that took."""
        gc.freeze()
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            owed = int(per_second * passed) - self.sent if per_second else 256
            for _ in range(min(owed, 4096)):
                self._send()
            self.count_replies()
            if per_second:
                time.sleep(TURN)
        return passed

    def _send(self) -> None:
        payload = self._payloads[self.sent % KEPT]
        size = 8 + len(payload)
        sender = source(random.randrange(65_000))
        ip = _IP.pack(0x45, 0, 20 + size, 0, 0, 64, 17, 0, sender, self._there)
        udp = _UDP.pack(random.choice(PORTS), self._port, size, 0)
        try:
            self._raw.sendto(ip + udp + payload, self._address)
        except OSError:  # the queue is full: that is one way to find its limit
            return
        self.sent += 1
        self.sent_bytes += len(payload)

    def count_replies(self) -> None:
        """Take what has come back."""
        for sock in self._replies:
            while True:
                try:
                    size = len(sock.recv(2048))
                except BlockingIOError:
                    break
                self.received += 1
                self.received_bytes += size
                self.largest = max(self.largest, size)


def main() -> None:
    kind, host, port, key, per_second, seconds = sys.argv[1:]
    flood = Flood(kind, host, int(port), bytes.fromhex(key))
    tell(begun=kind)
    used = time.process_time()
    passed = flood.run(float(per_second), float(seconds))
    used = time.process_time() - used
    time.sleep(0.2)  # the last replies are on their way
    flood.count_replies()
    tell(
        sent=flood.sent,
        sent_bytes=flood.sent_bytes,
        received=flood.received,
        received_bytes=flood.received_bytes,
        largest=flood.largest,
        per_second=round(flood.sent / passed),
        own_cpu=round(used / passed, 2),
    )


if __name__ == "__main__":
    main()
