"""Requests of every wrong kind, put to two programs that ought to agree on them.

Each case sets both to the same state, sends both the same bytes, and compares what they answer and
what they then tell of themselves.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

SOCKETS = Path("/var/run/wireguard")
KEYS = [bytes([n]) * 32 for n in (0x11, 0x22, 0x33)]
OWN = bytes([0x48]) + bytes([0x44]) * 30 + bytes([0x44])
PATIENCE = 10.0

RESET = (
    b"set=1\nprivate_key=" + OWN.hex().encode() + b"\nlisten_port=51820\nfwmark=0\n"
    b"replace_peers=true\npublic_key=" + KEYS[0].hex().encode() + b"\nallowed_ip=10.0.0.0/8\n"
    b"allowed_ip=10.1.0.0/16\nallowed_ip=2001:db8::/32\nendpoint=192.0.2.1:1\n"
    b"public_key=" + KEYS[1].hex().encode() + b"\nallowed_ip=10.2.0.0/16\n\n"
)

NUMBERS = (
    b"0 1 25 65535 65536 4294967295 4294967296 -1 +1 00 007 0000000000000000000000000000051821 "
    b"0x10 1_0 1e3 1.5 true false off 18446744073709551616"
).split()
NUMBERS += [b"", b" ", b" 1", b"1 ", b"1\x00", b"\xb2", b"9" * 40]
WORDS = [
    b"true",
    b"false",
    b"",
    b"True",
    b"TRUE",
    b"1",
    b"0",
    b"yes",
    b" true",
    b"true ",
    b"truee",
]
HOSTS4 = (
    b"192.0.2.1 0.0.0.0 255.255.255.255 256.0.0.1 1.2.3 1.2.3.4.5 01.2.3.4 1.2.3.04 1..2.3 .1.2.3 "
    b"1.2.3. 0x1.2.3.4 1.2.3.+4 00.0.0.0 127.0.0.1 1.2.3.4a 1.2.3.-4 16909060 1.2.3.1000"
).split()
HOSTS4 += [b"1.2.3.4 "]
HOSTS6 = (
    b"2001:db8::1 :: ::1 1:: 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1:2:3:4:5:6:7:8:: "
    b"1:2:3:4:5:6:7:8:9 1:2:3:4:5:6:7 ::: 1:::2 1::2::3 12345:: 0001:: g:: :1 1: : "
    b"::ffff:1.2.3.4 ::1.2.3.4 1::1.2.3.4 1.2.3.4:: ::1.2.3 ::1.2.3.256 ::01.2.3.4 "
    b"::ffff:0102:0304 1:2:3:4:5:6:1.2.3.4 1:2:3:4:5:6:7:1.2.3.4 1:2:3:4:5:1.2.3.4 FE80::ABCD "
    b"1:0:0:2:0:0:0:3 1:0:2:3:4:5:6:7 0:0:0:0:0:0:0:0 2001:db8::/32 ::ffff:1.2.3.4.5 ::ffff:0:0 "
    b"64:ff9b::192.0.2.33 1:2:3:4:5:6:7:0 0:1:2:3:4:5:6:7 1:0:0:2:3:0:0:4 ::fffe:1.2.3.4 "
    b"0:0:0:0:0:ffff:1.2.3.4"
).split()
HOSTS6 += [b"fe80:: 1"]
ZONES = [b"eth0", b"lo", b"1", b"", b"a%b", b"%", b"x" * 40, b"\xff", b"a b", b"\x00", b"]", b":"]
LENGTHS = (
    b"0 1 8 31 32 33 64 95 96 120 127 128 129 -1 255.0.0.0 8/8 1000 99999999999999999999 1e1"
).split()
LENGTHS += [b"", b" 8", b"8 ", b"\xb2"]
PADDED_HOST = b"00001::"
PADDED_LENGTHS = [b"08", b"+8", b"00", b"032"]
PEER_KEYS = (
    b"allowed_ip allowed_ip allowed_ip allowed_ip endpoint endpoint endpoint endpoint "
    b"preshared_key update_only remove persistent_keepalive_interval replace_allowed_ips "
    b"protocol_version public_key fwmark last_handshake_time_sec tx_bytes"
).split()
BROKEN = [
    *(b"", b"\n", b"set=1", b"set=1\r\n", b"set=2\n\n", b"set=\n\n", b"set\n\n", b"set=1 \n\n"),
    *(b"\x00set=1\n\n", b"SET=1\n\n", b"x" * 5000, b"x" * 5000 + b"\n", b"get=1", b"get=1\n"),
    *(b"get=1\nx", b"get=1\n\n", b"get=1\n\nget=1\n\n", b"get=1\n\r\n", b"get=1\nxget=1\n\n"),
    *(b"get=1\r\n\r\n", b"get=1\n\nx", b"get=1\nset=1\n\n", b"get=1\n=\n\n"),
]
LONG = [b"fwmark=" + b"0" * 4000 + b"1", b"fwmark=" + b"1" * 70_000, b"y" * 70_000]
STRAY = [b"x", b"=", b"x=", b"=x", b" ", b"#", b"errno=0", b"set=2", b"\t"]
ODD_BYTES = b"\x00\r =-+:[]%/.,09afgxAFGX\x7f\xff\xc3"


class Program:
    """The program behind the configuration socket of one interface."""

    def __init__(self, interface: str) -> None:
        self._path = str(SOCKETS / f"{interface}.sock")

    def ask(self, data: bytes) -> bytes:
        """Say *data*, end our side, and return all that is answered."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(self._path)
            answer = b""
            try:
                asking.sendall(data)
                asking.shutdown(socket.SHUT_WR)
                while piece := asking.recv(65536):
                    answer += piece
            except (BrokenPipeError, ConnectionResetError):
                pass  # hung up on what it had not read yet
            return answer


class Requests:
    """Makes requests, the same for the same *seed*.

    *modern*: with what wireguard-go of 2022 does not know, networks that are taken with a minus
    and zones, and without what it forgave.
    """

    def __init__(self, seed: int, modern: bool) -> None:
        self._random = random.Random(seed)
        self._modern = modern
        self._hosts6 = [*HOSTS6, PADDED_HOST] if modern else HOSTS6

    def make(self, count: int) -> Iterator[bytes]:
        """Make so many."""
        for _ in range(count):
            yield self._request()

    def _request(self) -> bytes:
        if self._random.random() < 0.03:
            return self._random.choice(BROKEN)
        lines = list(self._lines())
        for _ in range(self._random.choice((0, 0, 0, 1, 1, 2)) if lines else 0):
            index = self._random.randrange(len(lines))
            lines[index] = self._mutated(lines[index])
        end = self._random.choice((b"\n\n",) * 8 + (b"\r\n\r\n", b"\n", b"", b"\r\n", b"\r"))
        return b"set=1\n" + b"\n".join(lines) + end

    def _lines(self) -> Iterator[bytes]:
        choice = self._random.choice
        for _ in range(choice((0, 0, 1, 1, 2))):
            yield self._device_line()
        for _ in range(choice((0, 1, 1, 1, 2))):
            yield b"public_key=" + self._key(choice(KEYS))
            for _ in range(choice((0, 1, 1, 2, 3, 5))):
                yield self._peer_line()
        if self._random.random() < 0.05:
            yield choice(STRAY)
        if self._random.random() < 0.02:
            yield choice(LONG)

    def _device_line(self) -> bytes:
        choice = self._random.choice
        key = choice((b"private_key", b"listen_port", b"fwmark", b"replace_peers", b""))
        if not key:
            return self._peer_line()
        if key == b"private_key":
            return key + b"=" + self._key(choice([*KEYS, OWN, bytes(32), b"\xff" * 32]))
        return key + b"=" + choice(WORDS if key == b"replace_peers" else NUMBERS)

    def _peer_line(self) -> bytes:
        choice = self._random.choice
        key = choice(PEER_KEYS)
        if key == b"allowed_ip":
            value = self._network()
        elif key == b"endpoint":
            value = self._endpoint()
        elif key in (b"preshared_key", b"public_key"):
            value = self._key(choice([*KEYS, bytes(32)]))
        elif key in (b"update_only", b"remove", b"replace_allowed_ips"):
            value = choice([b"true"] * 5 + WORDS)
        elif key == b"protocol_version":
            value = choice((b"1", b"1", b"0", b"2", b"01", b"", b"1 "))
        else:
            value = choice(NUMBERS)
        return key + b"=" + value

    def _key(self, key: bytes) -> bytes:
        text = key.hex().encode()
        if self._random.random() < 0.85:
            return text
        shorter = (b"", text[:-1], text[:-2], b"(none)", b"ESIzRA=" * 6)
        longer = (text + b"0", text + b"00", b" " + text, text + b" ")
        others = (text.upper(), b"0x" + text[2:], text[:-1] + b"g", text[:-2] + b"\xb2a")
        inside = tuple(text[:10] + odd + text[11:] for odd in (b" ", b"\x00", b"=", b":"))
        return self._random.choice(shorter + longer + others + inside)

    def _network(self) -> bytes:
        choice, chance = self._random.choice, self._random.random
        if chance() < 0.4:
            value = b"%d.%d.0.0/%d" % (
                choice((10, 11)),
                choice((0, 1, 2)),
                choice((8, 15, 16, 32)),
            )
        else:
            host = choice(HOSTS4 + self._hosts6)
            if chance() < 0.05:
                host = b"[" + host + b"]"
            if chance() < 0.05:
                host += b"%" + choice(ZONES)
            lengths = LENGTHS + PADDED_LENGTHS if self._modern else LENGTHS
            value = host + (b"/" + choice(lengths) if chance() < 0.95 else b"")
        if self._modern and chance() < 0.25:
            value = choice((b"-", b"-", b"-", b"--", b"+", b"- ")) + value
        return value

    def _endpoint(self) -> bytes:
        choice, chance = self._random.choice, self._random.random
        if chance() < 0.5:
            host = choice(HOSTS4)
            if chance() < 0.1:
                host = b"[" + host + b"]"
        else:
            host = choice(self._hosts6)
            if self._modern and chance() < 0.3:
                host += b"%" + choice(ZONES)
            if chance() < 0.9:
                host = b"[" + host + b"]"
        if chance() < 0.05:
            host = choice(
                (b"", b"[", b"]", b"[]", b"localhost", b"example.org", b"[[::1]]", b"[::1")
            )
        port = choice(NUMBERS) if chance() < 0.4 else b"51820"
        return host + (b":" + port if chance() < 0.95 else choice((b"", b"::1", b" :1", b":1:1")))

    def _mutated(self, line: bytes) -> bytes:
        if len(line) > 2000:  # between 4 KiB and 64 KiB we differ on purpose
            return line
        kind, where = self._random.randrange(7), self._random.randrange(len(line) + 1)
        odd = bytes([self._random.choice(ODD_BYTES)])
        if not self._modern and odd in b"%-+0":
            odd = b"x"
        if kind == 0:
            return line[:where] + odd + line[where:]
        if kind == 1:
            return line[:where] + odd + line[where + 1 :]
        if kind == 2:
            return line[:where] + line[where + 1 :]
        if kind == 3:
            return line[:where]
        if kind == 4:
            return line.upper()
        if kind == 5:
            return line + line
        return line.replace(b"=", self._random.choice((b"", b"==", b" = ", b":")), 1)


def is_modern(program: Program) -> bool:
    """Whether *program* is as new as 2023: it takes networks away with a minus."""
    answer = program.ask(
        b"set=1\npublic_key=" + KEYS[2].hex().encode() + b"\nallowed_ip=-::/0\n\n"
    )
    return answer == b"errno=0\n\n"


def difference(one: Program, other: Program, request: bytes) -> str | None:
    """Return in words how two programs differ on *request*; None if they agree."""
    outcomes = []
    for program in one, other:
        assert program.ask(RESET) == b"errno=0\n\n"
        answer = _comparable(program.ask(request), request)
        outcomes.append((answer, _comparable(program.ask(b"get=1\n\n"), request)))
    if outcomes[0] == outcomes[1]:
        return None
    shown = request if len(request) < 2000 else request[:2000] + b"..."
    return f"{shown!r}\n  one:   {outcomes[0]}\n  other: {outcomes[1]}"


def _comparable(answers: bytes, request: bytes) -> list[list[list[bytes]]]:
    """Return *answers* without what differs between any two runs, peers and their lines sorted."""
    volatile: tuple[bytes, ...] = (b"tx_bytes=", b"rx_bytes=")  # handshakes into the void
    if _chooses_port(request):
        volatile += (b"listen_port=",)
    found = []
    for answer in re.split(rb"(?<=\n\n)", answers):
        parts: list[list[bytes]] = [[]]
        for line in answer.split(b"\n"):
            if not line or line.startswith(b"errno="):
                parts[0].append(line)
            elif line.startswith(b"public_key="):
                parts.append([line])
            elif not line.startswith(volatile):
                parts[-1].append(line)
        found.append(sorted(sorted(part) for part in parts))
    return found


def _chooses_port(request: bytes) -> bool:
    return any(
        line.startswith(b"listen_port=") and not line[12:].rstrip(b"\r").strip(b"0")
        for line in request.split(b"\n")
    )
