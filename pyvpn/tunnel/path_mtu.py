"""How large packets may be on the way by UDP, found by echoes that nobody may cut in pieces.

A *path MTU* here is the size of inner packets, in bytes.  A path narrower than the tunnel's MTU
either cuts datagrams in pieces, which is slow, or swallows them without a word, which hangs
whatever sends large packets while everything small goes on.  So, while packets pass, an echo as
large as they may be goes to the other end now and then, in a datagram that must not be fragmented,
and comes back as large.  When two in a row are lost, two volleys of echoes of all usual sizes say
what does come through.

Source of the idea: RFC 8899, which searches by and by what the volley finds at once.
"""

from __future__ import annotations

from collections.abc import Sequence

USUAL = (
    *(9000, 4352, 1500, 1492, 1480, 1460, 1440, 1420, 1400),
    *(1380, 1360, 1340, 1320, 1300, 1280, 1006, 576),
)
"""Sizes of outer packets that paths are known to take, largest first: jumbo frames, Ethernet,
PPPoE, tunnels and tunnels in tunnels, the least of IPv6 and of IPv4 (RFC 1191 section 7, and
practice)."""

OVERHEAD4 = 60
"""Bytes around an inner packet: IPv4, UDP, and 32 of WireGuard."""
OVERHEAD6 = 80
PADDING = 16
"""Packets are padded to a multiple of this, so a path MTU is one."""

LEAST = (576 - OVERHEAD4) // PADDING * PADDING
"""What takes less is no way for packets."""

SURE_AFTER = 2
"""Questions in a row that are lost before there are volleys."""
VOLLEYS = 2
WIDER_SECONDS = 60.0
"""How often a narrow path is asked whether it has become wider, while packets pass."""


def usual_sizes(most: int, version: int) -> tuple[int, ...]:
    """Return the sizes worth asking, largest first.

    Args:
        most: the tunnel's MTU, which is asked as it is.
        version: of IP, outside.
    """
    overhead = OVERHEAD4 if version == 4 else OVERHEAD6
    sizes = {(outer - overhead) // PADDING * PADDING for outer in USUAL}
    return most, *sorted((size for size in sizes if LEAST <= size < most), reverse=True)


class PathMtu:
    """What is known of one path.  Where rounds are a second apart a change costs five of them."""

    __slots__ = ("_best", "_rounds", "_wider_at", "size")

    def __init__(self) -> None:
        self.size = 0
        """Packets of so many bytes came through and back; 0: nothing is known."""
        self._rounds = 0  # since packets of that size were seen to come through
        self._best = 0  # of what came back since
        self._wider_at = float("-inf")

    def begin(self) -> None:
        """Know nothing of the path."""
        self.size = self._best = self._rounds = 0
        self._wider_at = float("-inf")

    def look_again(self) -> None:
        """Forget which questions were lost of late."""
        self._best = self._rounds = 0

    def look_wider(self) -> None:
        """Ask with the next question whether larger packets come through, too."""
        self._wider_at = float("-inf")

    def question(self, sizes: Sequence[int], now: float) -> list[int]:
        """Return those of *sizes*, which are all worth asking, to ask in a new round; or twice."""
        self._rounds += 1
        if not self.size:
            return list(sizes if self._rounds > 1 else sizes[:1])
        if self._rounds > 1:
            # Twice what should come through: that all of these are lost by chance is rare then.
            volley = sizes if self._rounds > SURE_AFTER else (self.size,)
            return [self.size, *volley]
        if self.size >= sizes[0] or now < self._wider_at:
            return [self.size]
        self._wider_at = now + WIDER_SECONDS
        return [*(size for size in sizes if size > self.size), self.size]

    def answered(self, size: int) -> bool:
        """Note what came back; True if that is as much as is known, or more than was."""
        self._best = max(self._best, size)
        if size < self.size:
            return False
        self.size = size
        self._best = self._rounds = 0
        return True

    @property
    def is_narrower(self) -> bool:
        """Whether enough was asked to say that packets of this size are lost."""
        return self._rounds >= SURE_AFTER + VOLLEYS

    def narrow(self) -> bool:
        """Go by the largest that came back of late; False if there was none."""
        self.size, self._best, self._rounds = self._best, 0, 0
        self._wider_at = float("-inf")
        return self.size > 0
