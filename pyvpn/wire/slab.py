"""A super-packet on its way out, in buffers that are used again; the way in is wire/packed.py.

As a value a super-packet costs five copies before the network has it: out of the TUN, into
payloads, behind headers, into the cipher, behind the headers of datagrams.  Here it stays where
the TUN put it, and the cipher puts each datagram where it leaves from.  The headers that each
payload needs before it are written over the one before, which is sealed by then.  The views by
which the cipher finds its input and output are made once for each length of headers and segments.
And one super-packet with its datagrams fits into a processor's own cache, which several do not.

Rules of this file: nothing raises because of what is in a packet; nothing is kept of one
super-packet in the next but buffers and views.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from operator import setitem
from struct import Struct
from typing import Literal, overload

from pyvpn.wire.datagram import DATA_OVERHEAD, OFFLOAD
from pyvpn.wire.offload import LARGEST, PADDING, Shape, ends_of, shape_of
from pyvpn.wire.segments import VNET_SIZE

LEAST = 16_384
"""Bytes of a super-packet that is worth it."""
MOST = 128
"""Datagrams of one, at most."""
ROOM = LARGEST + VNET_SIZE
"""Bytes that may be read into the buffer."""
MOST_LAYOUTS = 8
"""Lengths of headers and segments whose views are kept."""

_START = 110  # bytes in which all headers are, behind the TUN's own
_HEAD = 16  # bytes of type, reserved zeros, index and counter
_NONCE = 12
_LOW = bytes(range(256))


class Sealed(Sequence[bytes]):
    """Datagrams back to back in a buffer, all of one size but the last, which may be shorter.

    Good until the buffer is used again; as a sequence, copies to keep.
    """

    __slots__ = ("data", "size")

    def __init__(self, data: memoryview, size: int) -> None:
        self.data = data
        self.size = size
        """Bytes of each but the last."""

    def pieces(self, size: int, count: int) -> list[Sealed]:
        """Return it in pieces of at most *size* bytes and *count* datagrams."""
        data, each = self.data, self.size
        most = max(1, min(size // each, count)) * each
        if len(data) <= most:
            return [self]
        return [Sealed(data[at : at + most], each) for at in range(0, len(data), most)]

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return list(self)[index]

    def __iter__(self) -> Iterator[bytes]:
        data, size = self.data, self.size
        return (bytes(data[at : at + size]) for at in range(0, len(data), size))


class Slab:
    """One super-packet as a TUN hands it out, behind its virtio header.

    What :meth:`take` has begun is good until the next; sealing it uses it up.
    """

    __slots__ = ("_input", "_layouts", "_size", "_start", "buffer")

    def __init__(self) -> None:
        # Behind it, room for the zeros that fill up the last payload.
        self.buffer = bytearray(ROOM + PADDING)
        """Where the TUN is to put it."""
        self._input = memoryview(self.buffer)
        self._size = 0
        self._start = b""
        self._layouts: dict[tuple[int, int], _Layout] = {}

    def take(self, size: int) -> None:
        """There are *size* bytes in the buffer."""
        self._size = size
        self._start = bytes(self._input[: min(size, _START)])

    @property
    def start(self) -> bytes:
        """Its first bytes, with all headers."""
        return self._start

    def __len__(self) -> int:
        """Bytes of the virtio header and what is behind it."""
        return self._size

    def frame(self) -> bytes:
        """Return all of it, to keep."""
        return bytes(self._input[: self._size])

    @property
    def ends(self) -> tuple[bytes, bytes] | None:
        """What :func:`pyvpn.wire.offload.ends_of` says of it."""
        return ends_of(self._start, self._size)

    def shape(self, mtu: int) -> Shape | None:
        """Return what it stands for; None: it cannot be sealed here, or not to this *mtu*."""
        shape = shape_of(self._start, self._size, mtu)
        if shape is None:
            return None
        return shape if shape.packets(self._size) <= MOST else None

    def seal(
        self,
        shape: Shape,
        into: Callable[..., object],
        index: int,
        first: int,
        additional: bytes,
        order: Literal["little", "big"],
    ) -> Sealed:
        """Have *into* (a cipher's ``encrypt_into``) make datagrams of it.

        Args:
            shape: what :meth:`shape` says of it.
            index: the other end's, for the datagrams.
            first: the counter of the first.
            additional: what the cipher authenticates besides.
            order: of the counter's bytes in the cipher's nonce.
        """
        buffer, end = self.buffer, self._size
        after, segment = shape.after, shape.segment
        count = shape.packets(end)
        head, mark = shape.head(self._start), shape.mark_at
        head = head[:mark] + (first & 0xFFFF).to_bytes(2, "big") + head[mark + 2 :]
        last = end - VNET_SIZE - after - (count - 1) * segment
        padding = min(-(after + last) % PADDING, segment - last)
        buffer[end : end + padding] = bytes(padding)
        last += padding
        full = count if last == segment else count - 1
        layout = self._layout(after, segment, full)
        layout.number(count, index, first, order)
        # A slice of the buffer and a call of the cipher in turn: the headers of each payload
        # stand where the one before was.
        deque(
            zip(
                map(setitem, repeat(buffer), layout.places[:full], repeat(head)),
                map(into, layout.nonces, layout.plain, repeat(additional), layout.sealed),
                strict=False,
            ),
            maxlen=0,
        )
        total = full * layout.size
        if full < count:
            at = VNET_SIZE + full * segment
            buffer[at : at + after] = head
            sealed = total + _HEAD
            total += after + last + DATA_OVERHEAD
            into(
                layout.nonces[full],
                self._input[at : at + after + last],
                additional,
                layout.view[sealed:total],
            )
        return Sealed(layout.view[:total], layout.size)

    def _layout(self, after: int, segment: int, full: int) -> _Layout:
        layout = self._layouts.get((after, segment))
        if layout is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[after, segment] = _Layout(self._input, after, segment)
        layout.grow(full)
        return layout


class _Layout:
    """The buffer for datagrams of one size, and the views into it and into the input."""

    __slots__ = (
        "_after",
        "_input",
        "_nonces",
        "_numbered",
        "_output",
        "_segment",
        "_written",
        "nonces",
        "places",
        "plain",
        "sealed",
        "size",
        "view",
    )

    def __init__(self, buffer: memoryview, after: int, segment: int) -> None:
        self._input, self._after, self._segment = buffer, after, segment
        self.size = size = after + segment + DATA_OVERHEAD
        """Bytes of a datagram."""
        self._output = bytearray(ROOM + MOST * (_START + DATA_OVERHEAD))
        self._output[::size] = bytes((OFFLOAD,)) * -(-len(self._output) // size)
        self.view = memoryview(self._output)
        self.places: list[slice] = []
        """Of the headers before each payload, in the input."""
        self.plain: list[memoryview] = []
        """Of those with the payload."""
        self.sealed: list[memoryview] = []
        self._nonces = bytearray(_NONCE * MOST)
        view = memoryview(self._nonces)
        self.nonces = [view[at : at + _NONCE] for at in range(0, _NONCE * MOST, _NONCE)]
        self._written = -1, -1  # index, and all of the counter but its lowest byte,
        self._numbered = 0  # in so many datagrams

    def grow(self, full: int) -> None:
        """Have views for so many datagrams of full size, at least."""
        after, size = self._after, self.size
        whole = after + self._segment
        for number in range(len(self.places), full):
            at, out = VNET_SIZE + number * self._segment, number * size
            self.places.append(slice(at, at + after))
            self.plain.append(self._input[at : at + whole])
            self.sealed.append(self.view[out + _HEAD : out + size])

    def number(self, count: int, index: int, first: int, order: Literal["little", "big"]) -> None:
        """Write index and counter into *count* datagrams, and into the nonces."""
        output, size = self._output, self.size
        counters = range(first, first + count)
        _nonces(order, count).pack_into(self._nonces, 0, *counters)
        end = (count - 1) * size + _HEAD
        upper = first >> 8
        is_one = counters[-1] >> 8 == upper
        if is_one and (index, upper) == self._written and count <= self._numbered:
            low = first & 0xFF
            output[8:end:size] = _LOW[low : low + count]
            return
        for place, byte in enumerate(index.to_bytes(4, "little"), 4):
            output[place:end:size] = bytes((byte,)) * count
        numbers = _numbers(count).pack(*counters)
        for place in range(8):
            output[8 + place : end : size] = numbers[place::8]
        self._written = (index, upper) if is_one else (-1, -1)
        self._numbered = count


@lru_cache(maxsize=2 * MOST)
def _nonces(order: Literal["little", "big"], count: int) -> Struct:
    return Struct(("<" if order == "little" else ">") + "4xQ" * count)


@lru_cache(maxsize=MOST)
def _numbers(count: int) -> Struct:
    return Struct(f"<{count}Q")
