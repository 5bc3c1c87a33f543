"""Who may hold a connection without having logged in."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable

from pyvpn.errors import Misuse
from pyvpn.tunnel.sources import source_of


class Admission:
    """A bounded set of connections that have not logged in yet, all operations O(1).

    A source at its share is refused, so one machine cannot push others out.  When the whole is
    full the oldest connection gives way: a client that means to log in does it at once, one that
    only waits is the one to close.

    Both limits may change at any time and hold for the connections that come then.
    """

    def __init__(self, total: int = 512, per_source: int = 16) -> None:
        self.total = total
        self.per_source = per_source
        self._waiting: OrderedDict[Hashable, bytes | None] = OrderedDict()
        self._by_source: Counter[bytes] = Counter()

    def admit(self, connection: Hashable, source: bytes | None) -> Hashable | None:
        """Take in a new connection, and say which one must be closed for it.

        *source* is its packed address (IPv6 counts by its /64), or None behind a trusted relay,
        where everybody shares one: no share then, only the total.

        Returns:
            None: nothing to close.  *connection* itself: it is refused, and was not taken in.
            Another one: the oldest, which is forgotten already.

        Raises:
            Misuse: the connection is here already.
        """
        if connection in self._waiting:
            raise Misuse("a connection admitted twice")
        key = None if source is None else source_of(source)
        if key is not None and self._by_source[key] >= self.per_source:
            return connection
        closed = None
        if len(self._waiting) >= self.total:
            closed = next(iter(self._waiting), None)
            self.done(closed)
        self._waiting[connection] = key
        if key is not None:
            self._by_source[key] += 1
        return closed

    def done(self, connection: Hashable) -> bool:
        """Let go of a connection that logged in or closed; False when it is not here."""
        if connection not in self._waiting:
            return False
        key = self._waiting.pop(connection)
        if key is not None:
            self._by_source[key] -= 1
            if not self._by_source[key]:
                del self._by_source[key]  # or every source ever seen would stay
        return True

    def __len__(self) -> int:
        """How many connections are waiting."""
        return len(self._waiting)
