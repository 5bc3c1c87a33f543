"""WireGuard's cross-platform configuration protocol, as ``wg`` speaks it to a program.

A request is ``set=1`` or ``get=1`` and lines ``key=value`` up to an empty one; the answer ends
with ``errno=...`` and an empty line.  Any number of requests may follow each other.

Source: https://www.wireguard.com/xplatform/, and, where that page is silent (verdicts, error
numbers, their sign, half requests), wireguard-go.  On purpose it is otherwise here that

* a line is at most 4 KiB (there 64 KiB); the answer to a longer one is the same, errno=-5;
* requests that are sent before the answer to the last one came are answered, not lost;
* after an error the rest of the request is skipped, also if it arrives later.

Rules of this file: no line is quoted in an error, for it may hold a key; and what came before an
error stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from pyvpn.wire.uapi_operations import (
    AllowedIp,
    Errno,
    Operation,
    Refusal,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SelectPeer,
    SetEndpoint,
    SetFwmark,
    SetKeepalive,
    SetListenPort,
    SetPresharedKey,
    SetPrivateKey,
    UpdateOnly,
)
from pyvpn.wire.uapi_values import (
    parse_endpoint,
    parse_key,
    parse_number,
    parse_prefix,
    prefix_text,
)

LINE_LIMIT = 4096
"""Bytes of one line, without its end; the longest honest one has 78."""

_CHUNK = 1000  # networks in one piece of an answer: 40 KB, 3 ms


# -- who is configured


class Setting(Protocol):
    """One ``set`` request under way."""

    def apply(self, operation: Operation) -> None:
        """Do what one line says.

        Raises:
            Refusal: it cannot be done; the request ends with this.
        """

    def finish(self) -> None:
        """The request is over, well or not: let the peer that was spoken of last begin."""


class Configured(Protocol):
    """Whose configuration it is: a device of ``pyvpn wg``, or a server, which only tells."""

    def begin_setting(self) -> Setting:
        """Begin a ``set`` request.

        Raises:
            Refusal: nobody may change anything here.
        """

    def describe(self) -> DeviceView:
        """Say how things stand, for a ``get`` request."""


class PeerView(NamedTuple):
    """One peer as ``get`` tells of it.

    *last_handshake* is in Unix seconds, 0 for never; *endpoint* as text, "" for none;
    *allowed_ips* pairs of packed network and length.
    """

    public: bytes
    preshared_key: bytes
    endpoint: str
    last_handshake: float
    tx_bytes: int
    rx_bytes: int
    keepalive: int
    allowed_ips: Iterable[tuple[bytes, int]]


class DeviceView(NamedTuple):
    """A device as ``get`` tells of it; *private_key* empty, port and mark 0 if there is none.

    *peers* is gone through step by step, while other things happen.
    """

    private_key: bytes
    listen_port: int
    fwmark: int
    peers: Iterable[PeerView]


def answer_to_get(device: DeviceView) -> Iterator[bytes]:
    """Write the whole answer, in pieces none of which takes long."""
    lines = [f"private_key={device.private_key.hex()}"] if device.private_key else []
    if device.listen_port:
        lines.append(f"listen_port={device.listen_port}")
    if device.fwmark:
        lines.append(f"fwmark={device.fwmark}")
    for peer in device.peers:
        lines += [
            f"public_key={peer.public.hex()}",
            f"preshared_key={peer.preshared_key.hex()}",
            "protocol_version=1",
        ]
        if peer.endpoint:
            lines.append(f"endpoint={peer.endpoint}")
        seconds, fraction = divmod(peer.last_handshake, 1.0)
        lines += [
            f"last_handshake_time_sec={int(seconds)}",
            f"last_handshake_time_nsec={int(fraction * 1e9)}",
            f"tx_bytes={peer.tx_bytes}",
            f"rx_bytes={peer.rx_bytes}",
            f"persistent_keepalive_interval={peer.keepalive}",
        ]
        for network, length in peer.allowed_ips:
            lines.append(f"allowed_ip={prefix_text(network, length)}")
            if len(lines) >= _CHUNK:
                yield _joined(lines)
                lines = []
        if len(lines) >= _CHUNK:
            yield _joined(lines)
            lines = []
    yield _joined(lines) + answer_with(Errno.OK)


def answer_with(errno: Errno) -> bytes:
    """Write the end of an answer, which of ``set`` is all of it."""
    return b"errno=%d\n\n" % errno


def _joined(lines: list[str]) -> bytes:
    # Latin-1: a zone goes out with the bytes with which it came in.
    return "".join(f"{line}\n" for line in lines).encode("latin-1")


# -- cutting and reading requests


class Event(Enum):
    """What :meth:`Requests.take` finds besides the operations of a ``set``."""

    SET = "set"
    """A ``set`` begins: its operations follow."""
    DONE = "done"
    """That ``set`` is complete, and is to be answered."""
    GET = "get"
    """A ``get``, which is to be answered."""
    HANG_UP = "hang up"
    """Nothing that follows can be understood: close, without an answer."""


class _State(Enum):
    REQUEST = 1  # the next line begins one
    GET = 2
    SET = 3
    SKIP = 4  # the rest of a "set" that was refused
    BROKEN = 5  # what follows cannot be understood
    OVER = 6


class Requests:
    """Turns the bytes that one client sends into what it asks for.

    `feed` takes bytes as they come, `end` says that no more will; after each of them `take` is
    called until it has nothing more.  Memory: what was fed and not taken, and one line.
    """

    def __init__(self) -> None:
        self._state = _State.REQUEST
        self._lines: list[bytes] = []  # whole ones; the next one is the last
        self._rest = b""
        self._ended = False
        self._of_peer = False

    @property
    def within(self) -> bool:
        """Whether a request has begun and is not complete."""
        return self._state in (_State.GET, _State.SET) or bool(self._lines or self._rest)

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        if self._state is _State.OVER:
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        lines.reverse()
        self._lines = lines + self._lines if self._lines else lines

    def end(self) -> None:
        """No more will arrive: a ``set`` that lacks its empty line is complete all the same."""
        self._ended = True

    def skip(self) -> None:
        """Ignore the rest of this ``set``: it has been refused."""
        self._state = _State.SKIP

    def take(self) -> Operation | Event | None:
        """Return what is asked next, None if that has not arrived yet.

        Raises:
            Refusal: the request ends with this answer; `take` may go on.
        """
        while True:
            if self._state is _State.BROKEN or self._state is _State.OVER:
                return self._hang_up()
            if self._state is _State.GET:
                return self._take_end_of_get()
            if self._lines:
                line = self._lines.pop()
            elif len(self._rest) > LINE_LIMIT:
                line = self._rest
            elif not self._ended:
                return None
            elif self._state is _State.SET:
                line, self._rest = self._rest, b""
            else:
                return self._hang_up()
            event = self._take_line(line)
            if event is not None:
                return event

    def _take_line(self, line: bytes) -> Operation | Event | None:
        if len(line) > LINE_LIMIT:
            if self._state is not _State.SET:
                return self._hang_up()
            self._state = _State.BROKEN
            raise Refusal(Errno.IO, f"a line of more than {LINE_LIMIT} bytes")
        if self._state is _State.SET:
            if line.endswith(b"\r"):  # one is forgiven
                line = line[:-1]
            if line:
                return self._take_operation(line.decode("latin-1"))
            self._state = _State.REQUEST
            return Event.DONE
        if line == b"set=1":
            self._state, self._of_peer = _State.SET, False
            return Event.SET
        if line == b"get=1":
            self._state = _State.GET
            return self._take_end_of_get()
        if self._state is _State.REQUEST:
            return self._hang_up()
        # Of a refused "set", in which no line looks like the two above.
        if line in (b"", b"\r"):
            self._state = _State.REQUEST
        return None

    def _take_end_of_get(self) -> Event | None:
        if self._lines:
            line = self._lines.pop()
            self._state = _State.REQUEST
            if not line:
                return Event.GET
            self._lines.append(line[1:])
        elif self._rest:
            self._state = _State.REQUEST
            self._rest = self._rest[1:]
        else:
            return self._hang_up() if self._ended else None
        raise Refusal(Errno.INVALID, "something between get=1 and its empty line")

    def _take_operation(self, line: str) -> Operation | None:
        key, equals, value = line.partition("=")
        if not equals:
            self._state = _State.SKIP
            raise Refusal(Errno.PROTOCOL, "a line without =")
        if key == "public_key":
            self._of_peer = True
        read = (_PEER_LINES if self._of_peer else _DEVICE_LINES).get(key)
        try:
            if read is None:
                raise ValueError("unknown, or not in its place")
            return read(value)
        except ValueError as error:
            self._state = _State.SKIP
            known = key in _PEER_LINES or key in _DEVICE_LINES
            raise Refusal(Errno.INVALID, f"{key if known else 'a key'}: {error}") from error

    def _hang_up(self) -> Event:
        self._state = _State.OVER
        self._lines, self._rest = [], b""
        return Event.HANG_UP


def _true(operation: Operation) -> Callable[[str], Operation]:
    def read(value: str) -> Operation:
        if value != "true":
            raise ValueError("only true may follow")
        return operation

    return read


def _protocol_version(value: str) -> None:
    if value != "1":
        raise ValueError("only 1 is known")


def _allowed_ip(value: str) -> AllowedIp:
    remove = value[:1] == "-"
    network, length = parse_prefix(value[1:] if remove else value)
    return AllowedIp(network, length, remove)


_Readers = Mapping[str, Callable[[str], Operation | None]]

_DEVICE_LINES: _Readers = {
    "private_key": lambda value: SetPrivateKey(parse_key(value)),
    "listen_port": lambda value: SetListenPort(parse_number(value, 16)),
    "fwmark": lambda value: SetFwmark(parse_number(value, 32)),
    "replace_peers": _true(ReplacePeers()),
}

_PEER_LINES: _Readers = {
    "public_key": lambda value: SelectPeer(parse_key(value)),
    "update_only": _true(UpdateOnly()),
    "remove": _true(RemovePeer()),
    "preshared_key": lambda value: SetPresharedKey(parse_key(value)),
    "endpoint": lambda value: SetEndpoint(parse_endpoint(value)),
    "persistent_keepalive_interval": lambda value: SetKeepalive(parse_number(value, 16)),
    "replace_allowed_ips": _true(ReplaceAllowedIps()),
    "allowed_ip": _allowed_ip,
    "protocol_version": _protocol_version,
}
