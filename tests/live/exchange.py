"""So many bytes each way at once, over TCP or in datagrams, and what came of them.

``python -m tests.live.exchange serve ADDRESS PORT`` on one host and, on another, ``python -m
tests.live.exchange tcp|udp ADDRESS PORT SEED BYTES LARGEST``, which writes what each end has
received as one line of JSON, ``{"up": ..., "down": ...}``. All that is sent follows from the seed.

Over TCP there are two connections, one each way: number and SHA-256 of the bytes that came.

Datagrams have *largest* bytes of payload at most and come in bursts of equal ones, some of which
the kernel gets as one (UDP_SEGMENT). Each has a number, and a content that follows from it. Few
are under way at a time: the sender goes on when the receiver says what it has, or has been silent
for a while. So none is lost for want of room, however busy the machine, and a line that loses some
stops nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import IO, NamedTuple, NoReturn

BLOCK = 1 << 20
WINDOW, WINDOW_BYTES = 32, 44_000
"""Datagrams and bytes that are under way at most: less than any queue on the way holds."""
SILENCE = 0.03
"""Seconds after which those under way count as lost."""
QUIET = 0.5
"""Seconds in which none came, after the last was sent: none will."""
PATIENCE = 120.0
SHOWN = 5
"""Number and size of so many that did not come are told."""

SO_RCVBUFFORCE = 33
UDP_SEGMENT = 103
_NUMBER = struct.Struct("!I")
_PATTERN = Random(0).randbytes(1 << 17)


def digest(seed: int, size: int) -> str:
    """The SHA-256 of the bytes that are sent over TCP."""
    found = hashlib.sha256()
    for block in _blocks(seed, size):
        found.update(block)
    return found.hexdigest()


def _blocks(seed: int, size: int) -> Iterator[bytes]:
    chance = Random(seed)
    while size > 0:
        yield chance.randbytes(min(size, BLOCK))
        size -= BLOCK


class Burst(NamedTuple):
    """Equal datagrams that are sent at once."""

    size: int
    """Bytes of payload of each but the last."""
    last: int
    """Of the last."""
    number: int
    as_one: bool
    """Whether the kernel gets them as one, and cuts them."""

    @property
    def sizes(self) -> list[int]:
        return [self.size] * (self.number - 1) + [self.last]


def bursts(seed: int, total: int, largest: int) -> list[Burst]:
    """Return what is sent in datagrams: *total* bytes or a little more."""
    chance = Random(seed)
    made = []
    while total > 0:
        size = chance.choice((largest, largest, largest, largest - 1, 1000, 200, 4))
        count = chance.randrange(1, window(largest) // 2 + 1)
        last = chance.choice((size, chance.randrange(4, size + 1)))
        made.append(Burst(size, last, count, chance.random() < 0.5))
        total -= sum(made[-1].sizes)
    return made


def window(largest: int) -> int:
    """How many datagrams of that size may be under way."""
    return max(2, min(WINDOW, WINDOW_BYTES // largest))


def content(number: int, size: int) -> bytes:
    """The datagram with that number."""
    at = number * 7919 % 65536
    return _NUMBER.pack(number) + _PATTERN[at : at + size - _NUMBER.size]


class Datagrams:
    """One end of an exchange: sends its own and takes the other's, in threads."""

    def __init__(self, sock: socket.socket, control: IO[str], plan: dict[str, int]) -> None:
        self._socket = sock
        self._control = control
        self._size, self._largest = plan["size"], plan["largest"]
        self._window = window(plan["largest"])
        self._mine, self._other = plan["mine"], plan["other"]
        self._seen = 0
        """Up to which number of ours the other end says it has come."""
        self._news = threading.Condition()
        self._lock = threading.Lock()  # of what is written to control
        self._over = threading.Event()
        """The other end has sent its last one."""
        self._others: dict[str, object] = {}

    def exchange(self) -> tuple[dict[str, object], dict[str, object]]:
        """Return what arrived of what the other end sends, and, as it says, of ours."""
        found: dict[str, object] = {}
        taker = threading.Thread(target=lambda: found.update(self._take()))
        listener = threading.Thread(target=self._listen)
        for each in taker, listener:
            each.start()
        self._send()
        self._say("over", 0)
        taker.join()
        self._say("found", found)
        listener.join()
        return found, self._others

    def _say(self, word: str, what: object) -> None:
        with self._lock:
            self._control.write(f"{word} {json.dumps(what)}\n")
            self._control.flush()

    def _listen(self) -> None:
        for line in self._control:
            word, _, what = line.partition(" ")
            if word == "found":
                self._others = json.loads(what)
                return
            if word == "over":
                self._over.set()
            else:
                with self._news:
                    self._seen = max(self._seen, int(what))
                    self._news.notify()

    def _send(self) -> None:
        number = 0
        for size, last, count, as_one in bursts(self._mine, self._size, self._largest):
            self._wait_for_room(number + count)
            sizes = [size] * (count - 1) + [last]
            made = [content(number + n, each) for n, each in enumerate(sizes)]
            if not (as_one and self._send_as_one(made)):
                for each in made:
                    self._send_one(each)
            number += count

    def _send_one(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._socket.send(datagram)  # that was news of an earlier one; now it is cut

    def _send_as_one(self, datagrams: list[bytes]) -> bool:
        """Leave it to the kernel to cut them; False: they are too large for that."""
        size = struct.pack("=H", len(datagrams[0]))
        try:
            self._socket.sendmsg(datagrams, [(socket.IPPROTO_UDP, UDP_SEGMENT, size)])
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EMSGSIZE):
                raise
            return False
        return True

    def _wait_for_room(self, number: int) -> None:
        """Wait until *number* datagrams may have been sent."""
        with self._news:
            if not self._news.wait_for(lambda: number - self._seen <= self._window, SILENCE):
                self._seen = number - self._window

    def _take(self) -> dict[str, object]:
        sizes = [
            each
            for burst in bursts(self._other, self._size, self._largest)
            for each in burst.sizes
        ]
        times = bytearray(len(sizes))
        counts = dict.fromkeys(("sent", "arrived", "repeated", "wrong", "bytes"), 0)
        counts["sent"] = len(sizes)
        told = 0
        self._socket.settimeout(QUIET)
        deadline = time.monotonic() + PATIENCE
        while counts["arrived"] < len(sizes) and time.monotonic() < deadline:
            try:
                got = self._socket.recv(65_536)
            except TimeoutError:
                if self._over.is_set():
                    break
                continue
            except OSError as error:
                if error.errno != errno.EMSGSIZE:  # of what we have sent
                    raise
                continue
            if not got:  # it only said where it is
                continue
            number = _NUMBER.unpack_from(got)[0] if len(got) >= _NUMBER.size else len(sizes)
            if number >= len(sizes) or got != content(number, sizes[number]):
                counts["wrong"] += 1
                continue
            if times[number]:
                counts["repeated"] += 1
                continue
            times[number] = 1
            counts["arrived"] += 1
            counts["bytes"] += len(got)
            if number >= told + self._window // 4:
                told = number + 1
                self._say("seen", told)
        # Whatever comes twice may come late.
        self._socket.settimeout(QUIET / 2)
        with suppress(TimeoutError):
            while True:
                self._socket.recv(65_536)
                counts["repeated"] += 1
        self._say("seen", len(sizes))
        missing = [number for number, came in enumerate(times) if not came][:SHOWN]
        return {**counts, "missing": [(number, sizes[number]) for number in missing]}


def _at_once_sent(connection: socket.socket) -> None:
    """Have small words leave at once, or each would wait for what was sent before to arrive."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _udp_socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    for option in SO_RCVBUFFORCE, socket.SO_RCVBUF:  # the first wants root
        with suppress(PermissionError):
            made.setsockopt(socket.SOL_SOCKET, option, 1 << 22)
            break
    return made


def _serve_one(connection: socket.socket) -> None:
    with connection:
        _at_once_sent(connection)
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1)
        plan = json.loads(line)
        if plan["verb"] == "take":
            connection.sendall(json.dumps(_received(connection)).encode() + b"\n")
        elif plan["verb"] == "send":
            for block in _blocks(plan["seed"], plan["size"]):
                connection.sendall(block)
        else:
            with connection.makefile("rw") as control, _udp_socket(connection.family) as sock:
                sock.bind((connection.getsockname()[0], 0))
                control.write(f"{sock.getsockname()[1]}\n")
                control.flush()
                _, address = sock.recvfrom(100)  # it says where it is
                sock.connect(address[:2])
                control.write("go\n")
                control.flush()
                Datagrams(sock, control, plan).exchange()


def serve(address: str, port: int) -> NoReturn:
    """Do for everybody who comes what they ask for."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        print("ready", flush=True)  # noqa: T201 - waited for
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _received(connection: socket.socket) -> dict[str, int | str]:
    """Take all that comes."""
    found, count = hashlib.sha256(), 0
    while data := connection.recv(BLOCK):
        found.update(data)
        count += len(data)
    return {"bytes": count, "sha256": found.hexdigest()}


def _asked(address: str, port: int, plan: dict[str, object]) -> socket.socket:
    connection = socket.create_connection((address, port), PATIENCE)
    _at_once_sent(connection)
    connection.sendall(json.dumps(plan).encode() + b"\n")
    return connection


def tcp(address: str, port: int, seed: int, size: int) -> dict[str, object]:
    """Send and receive at once; return what came, ``up`` as the other end says it."""
    said: dict[str, object] = {}

    def up() -> None:
        with _asked(address, port, {"verb": "take"}) as connection:
            for block in _blocks(seed, size):
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            said["up"] = json.loads(connection.makefile().readline())

    def down() -> None:
        with _asked(address, port, {"verb": "send", "seed": seed + 1, "size": size}) as connection:
            said["down"] = _received(connection)

    _at_once(up, down)
    return said


def udp(address: str, port: int, seed: int, size: int, largest: int) -> dict[str, object]:
    """The same in datagrams."""
    sizes = {"size": size, "largest": largest}
    plan: dict[str, object] = {"verb": "udp", **sizes, "mine": seed + 1, "other": seed}
    with (
        _asked(address, port, plan) as connection,
        connection.makefile("rw") as control,
        _udp_socket(connection.family) as sock,
    ):
        sock.connect((address, int(control.readline())))
        ready = threading.Event()

        def knock() -> None:
            while not ready.is_set():
                sock.send(b"")
                ready.wait(SILENCE)

        knocking = threading.Thread(target=knock)
        knocking.start()
        assert control.readline() == "go\n"
        ready.set()
        knocking.join()
        down, up = Datagrams(sock, control, {**sizes, "mine": seed, "other": seed + 1}).exchange()
        return {"up": up, "down": down}


def _at_once(*what: Callable[[], None]) -> None:
    threads = [threading.Thread(target=each) for each in what]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def main() -> None:
    """Do what the command line says."""
    sys.setswitchinterval(0.0005)  # else one thread of ours may hold up the other for 5 ms
    verb, address, port, *rest = sys.argv[1:]
    if verb == "serve":
        serve(address, int(port))
    seed, size, largest = map(int, rest)
    began = time.monotonic()
    if verb == "tcp":
        said = tcp(address, int(port), seed, size)
    else:
        said = udp(address, int(port), seed, size, largest)
    print(json.dumps({**said, "seconds": time.monotonic() - began}))  # noqa: T201


if __name__ == "__main__":
    main()
