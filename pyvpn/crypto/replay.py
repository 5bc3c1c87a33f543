"""Which counters have been here already.

Source: RFC 6479, the ring of blocks that is not shifted; sizes as in the kernel.
"""

from __future__ import annotations

WINDOW = 8128
"""How far behind the highest counter a datagram may be."""
LIMIT = 2**64 - 2**13 - 1
"""No counter from here on is ever used: there must be no way around to zero."""

# Eight counters a byte.  The ring has more than a window and a byte: clearing the byte that the
# newest counter is the first to enter never forgets one that is still inside the window.
_BYTES = 1024
_MASK = _BYTES - 1


class ReplayWindow:
    """The counters accepted lately: 1 KiB, and the same work for each, however far it jumps."""

    __slots__ = ("_ring", "highest")

    def __init__(self) -> None:
        self.highest = -1
        """The highest counter accepted; -1 before the first."""
        self._ring = bytearray(_BYTES)

    def accept(self, counter: int) -> bool:
        """Mark *counter* (64 bits); False when it was marked, or is too far behind to tell.

        False, too, from :data:`LIMIT` on.

        Only for the counter of a datagram that has been opened, or a forger could move the
        window past everything that is to come.
        """
        if counter >= LIMIT:
            return False
        ring = self._ring
        block = counter >> 3
        place = block & _MASK
        bit = 1 << (counter & 7)
        ahead = counter - self.highest
        if ahead > 0:
            blocks = block - (self.highest >> 3)
            self.highest = counter
            if blocks == 0:
                ring[place] |= bit
            elif blocks == 1:
                ring[place] = bit
            else:
                self._clear(place, blocks)
                ring[place] = bit
            return True
        if ahead < -WINDOW or ring[place] & bit:
            return False
        ring[place] |= bit
        return True

    def accept_all(self, counters: list[int]) -> list[bool]:
        """Do :meth:`accept` for each of *counters*, at once if they are consecutive."""
        count = len(counters)
        first = counters[0] if counters else 0
        after = first + count
        if (
            not 8 <= count <= WINDOW
            or first <= self.highest
            or after > LIMIT
            or counters != list(range(first, after))
        ):
            return [self.accept(counter) for counter in counters]
        # All are new: accept the last, which clears what has to be; then mark the others.
        self.accept(after - 1)
        ring = self._ring
        start = (first + 7) & ~7  # of the bytes that are ours from their first bit on
        for counter in range(first, min(start, after)):
            ring[counter >> 3 & _MASK] |= 1 << (counter & 7)
        for block in range(start >> 3, after >> 3):
            ring[block & _MASK] = 0xFF
        for counter in range(max(start, after & ~7), after):
            ring[counter >> 3 & _MASK] |= 1 << (counter & 7)
        return [True] * count

    def is_ahead(self, first: int, count: int) -> bool:
        """Whether *count* counters from *first* on are all beyond any that was accepted."""
        return self.highest < first and first + count <= LIMIT and count <= WINDOW

    def _clear(self, place: int, blocks: int) -> None:
        """Clear *blocks* bytes up to *place*, around the end of the ring."""
        ring = self._ring
        first = (place - blocks + 1) & _MASK
        if blocks >= _BYTES:
            ring[:] = bytes(_BYTES)
        elif first <= place:
            ring[first : place + 1] = bytes(blocks)
        else:
            ring[first:] = bytes(_BYTES - first)
            ring[: place + 1] = bytes(place + 1)
