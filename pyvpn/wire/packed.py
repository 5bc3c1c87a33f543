"""Datagrams that came as one, in buffers that are used again.

The kernel hands out up to 64 KiB of datagrams of one size at a time.  One by one each costs slices
before it is opened, and a header of its own to be looked at behind that.  Here they stay where
they are: everything that lies in the same place in each is one strided slice, and the views by
which the cipher finds its input and output are made once for each size.

What the kernel hands out next is put behind it, if it goes on in the same way.  A super-packet
of a TUN is 47 datagrams and a system call takes 45: by themselves they would become two of its
packets again, each with its own way through the TUN, TCP and an acknowledgement back.

Rules of this file: nothing raises because of what is in a datagram; nothing is kept of one batch
in the next but buffers and views.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Literal

from pyvpn.wire.datagram import DATA_OVERHEAD

LEAST = 8
"""Datagrams of a batch that is worth it: for fewer the way one by one is as fast."""
LEAST_SIZE = 128
"""Bytes of each."""
PIECE = 65_536
"""Bytes that the kernel hands out at a time, at most."""
ROOM = 3 * PIECE
"""Bytes of a batch, at most."""
MOST_STRETCHES = 8
"""Of a batch that is treated where it lies; where flows take turns, others sort them."""
MOST_LAYOUTS = 8
"""Sizes of datagrams whose views are kept.  A stranger chooses sizes, too."""

_HEAD = 8  # bytes of type, reserved zeros and index
_NUMBER = slice(8, 16)  # the counter
_INDEX = range(4, 8)


class Packed:
    """A batch of datagrams of one size, of which the last may be shorter.

    What :meth:`take` has begun is good until the next :meth:`take`; so is all that was made of
    it and is not a copy.
    """

    __slots__ = ("_count", "_layout", "_layouts", "_total", "buffer", "full", "plain", "size")

    def __init__(self) -> None:
        self.buffer = bytearray(ROOM)
        """Where datagrams are to be received, back to back."""
        self.plain = bytearray()
        """What was in them, if :meth:`open` opened them: payloads of :attr:`stride` bytes."""
        self.size = 0
        self.full = 0
        """How many have that size."""
        self._count = 0
        self._total = 0
        self._layouts: dict[int, _Layout] = {}
        self._layout: _Layout | None = None

    def take(self, total: int, size: int) -> None:
        """There are *total* bytes in the buffer, *size* for each datagram."""
        self._total, self.size = total, size
        self.full, rest = divmod(total, size)
        self._count = self.full + (rest > 0)
        self._layout = None

    @property
    def total(self) -> int:
        """Bytes of all datagrams together; behind them more may be received, if there is room."""
        return self._total

    @property
    def has_room(self) -> bool:
        """Whether what the kernel hands out at a time has room behind what there is."""
        return self._total + PIECE <= ROOM

    def add(self, total: int, size: int) -> bool:
        """Take in *total* bytes more, received behind the others, *size* for each datagram.

        False, and nothing has changed, if it were then no batch of one size any more, or none
        larger than it was, or if the first of them has another type or index than the others.
        """
        shorter = 0 < total == size < self.size  # a single one
        behind, buffer = self._total, self.buffer
        if behind % self.size or not (size == self.size or shorter):
            return False
        if buffer[behind : behind + _HEAD] != buffer[:_HEAD]:
            return False  # all would have to go the way one by one
        self.take(self._total + total, self.size)
        return True

    def begin_with(self, at: int, total: int) -> None:
        """Move the *total* bytes received from byte *at* on to the beginning of the buffer."""
        self.buffer[:total] = self.buffer[at : at + total]

    @property
    def is_worth_it(self) -> bool:
        """Whether all together are quicker than one by one."""
        return self.full >= LEAST and self.size >= LEAST_SIZE

    def __len__(self) -> int:
        """How many datagrams."""
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """Each datagram, to keep."""
        data, size = bytes(memoryview(self.buffer)[: self._total]), self.size
        return iter([data[at : at + size] for at in range(0, len(data), size)])

    @property
    def stride(self) -> int:
        """Bytes of the payload of each but, perhaps, the last."""
        return self.size - DATA_OVERHEAD

    @property
    def rest(self) -> int:
        """Bytes of the payload of the last, if it is shorter; else 0."""
        return max(0, self._total - self.full * self.size - DATA_OVERHEAD)

    @property
    def opened(self) -> int:
        """Bytes of all payloads together."""
        return self._total - self._count * DATA_OVERHEAD

    def head(self) -> bytes:
        """Return type and index; nothing unless they are the same in all, and room for a tag."""
        buffer, total, size = self.buffer, self._total, self.size
        if total - (self._count - 1) * size < DATA_OVERHEAD:
            return b""
        for at in range(_HEAD):
            column = buffer[at:total:size]
            if column.count(column[0]) != self._count:
                return b""
        return bytes(buffer[:_HEAD])

    def counters(self) -> list[int]:
        """Return the counter of each."""
        end = self.full * self.size
        numbers = self._made().numbers
        found = [number for (number,) in numbers.iter_unpack(memoryview(self.buffer)[:end])]
        if self.full < self._count:
            last = self.buffer[end + _NUMBER.start : end + _NUMBER.stop]
            found.append(int.from_bytes(last, "little"))
        return found

    def open(
        self,
        into: Callable[..., object],
        additional: bytes | None,
        order: Literal["little", "big"] = "little",
    ) -> None:
        """Have *into* (a cipher's ``decrypt_into``) open all; what it raises passes.

        *order* is that of the counter's bytes in the cipher's nonce.  The head of the datagrams
        is as before then, whatever happens.
        """
        buffer, total, size, full = self.buffer, self._total, self.size, self.full
        layout = self._made()
        heads = [buffer[at] for at in _INDEX]
        zeros = bytes(self._count)
        for at in _INDEX:
            buffer[at:total:size] = zeros  # with the counter behind it, that is the nonce
        if order == "big":
            self._turn_counters()
        try:
            deque(
                map(
                    into, layout.nonces[:full], layout.sealed, repeat(additional), layout.payloads
                ),
                maxlen=0,
            )
            if full < self._count:
                view, start, at = memoryview(buffer), full * size, full * self.stride
                out = memoryview(self.plain)[at : at + self.rest]
                into(view[start + 4 : start + 16], view[start + 16 : total], additional, out)
        finally:
            for at, byte in zip(_INDEX, heads, strict=True):
                buffer[at:total:size] = bytes((byte,)) * self._count
            if order == "big":
                self._turn_counters()

    def _turn_counters(self) -> None:
        """Have the bytes of each counter in the other order."""
        buffer, total, size = self.buffer, self._total, self.size
        for at in range(_NUMBER.start, _NUMBER.start + 4):
            other = _NUMBER.start + _NUMBER.stop - 1 - at
            here = buffer[at:total:size]
            buffer[at:total:size] = buffer[other:total:size]
            buffer[other:total:size] = here

    def payload(self, number: int) -> bytes:
        """Return that payload, to keep."""
        at = number * self.stride
        return bytes(self.plain[at : at + (self.stride if number < self.full else self.rest)])

    def payloads(self) -> list[bytes]:
        """Return all payloads, to keep."""
        data, stride = bytes(memoryview(self.plain)[: self.opened]), self.stride
        if not stride:
            return [b""] * self._count
        found = [data[at : at + stride] for at in range(0, len(data), stride)]
        return found if len(found) == self._count else [*found, b""]

    def views(self, first: int, end: int, after: int = 0) -> list[memoryview]:
        """Return views of full payloads, from their byte *after* on."""
        return self._made().behind(after)[first:end]

    def heads(self, first: int, end: int, size: int) -> list[memoryview]:
        """Return views of the first *size* bytes of full payloads."""
        return self._made().before(size)[first:end]

    def _made(self) -> _Layout:
        layout = self._layout
        if layout is None:
            if not self.plain:
                self.plain = bytearray(ROOM)
            layout = self._layouts.get(self.size)
            if layout is None:
                if len(self._layouts) >= MOST_LAYOUTS:
                    self._layouts.clear()
                layout = self._layouts[self.size] = _Layout(self.buffer, self.plain, self.size)
            layout.grow(self.full)
            self._layout = layout
        return layout


class _Layout:
    """The views into both buffers for datagrams of one size, of as many as ever came."""

    __slots__ = (
        "_input",
        "_output",
        "_pieces",
        "_size",
        "nonces",
        "numbers",
        "payloads",
        "sealed",
    )

    def __init__(self, buffer: bytearray, plain: bytearray, size: int) -> None:
        self._input, self._output, self._size = memoryview(buffer), memoryview(plain), size
        self.numbers = struct.Struct(f"<8xQ{size - 16}x")
        self.nonces: list[memoryview] = []
        self.sealed: list[memoryview] = []
        self.payloads: list[memoryview] = []
        self._pieces: dict[tuple[Any, Any], list[memoryview]] = {}

    def grow(self, count: int) -> None:
        """Have at least *count* of each."""
        view, plain, size = self._input, self._output, self._size
        stride = size - DATA_OVERHEAD
        for number in range(len(self.nonces), count):
            start, at = number * size, number * stride
            self.nonces.append(view[start + 4 : start + 16])
            self.sealed.append(view[start + 16 : start + size])
            self.payloads.append(plain[at : at + stride])

    def behind(self, after: int) -> list[memoryview]:
        """Return views of each payload from its byte *after* on."""
        return self._cut(slice(after, None)) if after else self.payloads

    def before(self, size: int) -> list[memoryview]:
        """Return views of the first *size* bytes of each payload."""
        return self._cut(slice(size))

    def _cut(self, piece: slice) -> list[memoryview]:
        key = piece.start, piece.stop
        found = self._pieces.get(key)
        if found is None:
            if len(self._pieces) >= MOST_LAYOUTS:
                self._pieces.clear()
            found = self._pieces[key] = []
        found += [view[piece] for view in self.payloads[len(found) :]]
        return found
