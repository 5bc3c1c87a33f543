"""Control links to test with: somebody who keeps what a link tells, and a line to write on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure

from pyvpn.net.control import ControlLink
from pyvpn.wire.command import Command, Frame, decode_body, encode_frame, encode_version

ACCEPTED = b"\x01"
V2 = encode_version(2.0)


class KeepingOwner:
    """A LinkOwner that keeps everything it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.answer: Callable[[int, bytes], bytes | Deferred[bytes] | None] = lambda _, data: data
        self.hear: Callable[[int, bytes], None] = lambda _command, _data: None

    def connected(self, link: ControlLink) -> None:
        self.told.append(("connected",))

    def ready(self, link: ControlLink) -> None:
        self.told.append(("ready",))

    def heard(self, link: ControlLink) -> None:
        self.told.append(("heard",))

    def question(
        self, link: ControlLink, command: int, data: bytes
    ) -> bytes | Deferred[bytes] | None:
        self.told.append(("question", command, data))
        return self.answer(command, data)

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        self.told.append(("statement", command, data))
        self.hear(command, data)

    def packets(self, link: ControlLink, packets: list[bytes]) -> None:
        self.told.append(("packets", *packets))

    def lost(self, link: ControlLink, reason: Exception) -> None:
        self.told.append(("lost", reason))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        """What was told of one *kind*."""
        return [each for each in self.told if each[0] == kind]

    def reason(self) -> Exception:
        """Why the link was lost."""
        [(_, reason)] = self.of("lost")
        assert isinstance(reason, Exception)
        return reason


class Line(StringTransport):
    """A TCP connection of which one end is the test."""

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True
        super().abortConnection()

    def is_ended(self) -> bool:
        """Whether the link has closed or aborted it."""
        return bool(self.disconnecting or self.aborting)

    def take(self) -> bytes:
        """What was written since the last time."""
        written: bytes = self.value()
        self.clear()
        return written

    def frames(self) -> list[Frame]:
        """The same, which must be whole frames."""
        return frames_in(self.take())


def frames_in(data: bytes) -> list[Frame]:
    """Cut *data* into frames."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + length, data
        found.append(decode_body(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def question(transaction: int, command: int = Command.HEARTBEAT, data: bytes = b"") -> bytes:
    """A frame that wants an answer."""
    return encode_frame(command, transaction, data)


def answer(transaction: int, data: bytes = b"") -> bytes:
    """The answer to a question."""
    return encode_frame(Command.ANSWER, transaction, data)


class Bench:
    """One link without TLS, its owner, its line and a clock."""

    def __init__(
        self,
        *,
        initiator: bool = False,
        line: Any = None,
        up: bool = True,
        version: float = 2.0,
    ) -> None:
        self.clock = Clock()
        self.owner = KeepingOwner()
        self.line = Line() if line is None else line
        self.link = ControlLink(
            self.owner, self.clock, version=version, initiator=initiator, tls=False
        )
        self.link.makeConnection(self.line)
        if up:
            self.receive(ACCEPTED if initiator else encode_version(version))
            if line is None:
                self.line.take()
            self.owner.told.clear()

    def receive(self, *pieces: bytes) -> None:
        """Let bytes arrive, each piece by itself."""
        for piece in pieces:
            self.link.dataReceived(piece)

    def hang_up(self) -> None:
        """Let the connection end, as the reactor reports it."""
        self.link.connectionLost(Failure(ConnectionDone()))

    def ended(self) -> Exception:
        """The reason, if the link ended the connection by itself."""
        assert self.line.is_ended(), "the connection stands"
        self.hang_up()
        return self.owner.reason()


class StubbornLine(FileDescriptor):
    """Twisted's own write buffer, above a kernel that takes only *room* bytes."""

    def __init__(self) -> None:
        super().__init__(MemoryReactor())
        self.connected = 1
        self.room = 0
        self.sent = b""
        self.aborted = False

    def writeSomeData(self, data: bytes) -> int:
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def waiting(self) -> int:
        """Bytes that wait for the kernel."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def drain(self, room: int = 10**9) -> None:
        """Let the kernel take *room* bytes."""
        self.room = room
        for _ in range(1000):
            if self.room and self.waiting():
                self.doWrite()
        self.room = 0

    def abortConnection(self) -> None:
        self.aborted = True

    def is_ended(self) -> bool:
        """Whether the link has closed or aborted it."""
        return bool(self.disconnecting or self.aborted)
