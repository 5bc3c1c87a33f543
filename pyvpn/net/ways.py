"""By which socket and from which address of ours a datagram leaves: sticky, but not too sticky.

Who talks to a host of several addresses expects its answers from the address it talks to, and
often has a NAT in between that lets nothing else in.  So an answer leaves from where the question
came to.  Not so if that address is gone, or if the routes begin to lead out by another interface:
then the kernel chooses the address, as it does for a host that speaks first, and the peer follows.
Routes that have always led out by another interface than the questions come in by (two uplinks, an
address on ``lo``) are the operator's wish and change nothing.

Kernel WireGuard looks at the route with every packet; wireguard-go, and we, when the kernel says
that addresses, routes or rules have changed.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from pyvpn.net.ancillary import Ancillary, is_link_local, source_ancillary
from pyvpn.net.rtnetlink import NewsReactor, Questions
from pyvpn.net.udp_sockets import FamilySockets, IUdpSystem
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path

SOURCE_LOST = "udp-source-lost"
"""Counted among the drops, though nothing is dropped: how often a path turned out to lead out no
more from the local address that it names."""

SOURCE_ERRORS = frozenset(
    {errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
)
"""What the kernel may answer to a source address that is not ours; it depends on its version."""

MOST_WAYS = 16_384
"""About 10 MB of them.  Replies to a flood have a path each, so there has to be an end."""


class Way:
    """All that it takes to send along one path."""

    __slots__ = ("address", "as_one", "checked", "leaves_by", "sock", "source", "version")

    def __init__(self, sock: socket.socket, version: int, path: Path, checked: int) -> None:
        self.sock = sock
        self.version = version
        if version == 4:
            self.address: tuple[str | int, ...] = (socket.inet_ntoa(path.host), path.port)
        else:
            host = socket.inet_ntop(socket.AF_INET6, path.host)
            self.address = (host, path.port, 0, path.scope)
        self.source: Ancillary = source_ancillary(path)
        """What pins the source address; empty: the kernel chooses."""
        self.as_one = True
        """Whether datagrams of equal size leave as one; not where the kernel has refused that."""
        self.checked = checked
        """As of which change of the routes `source` is right."""
        self.leaves_by: int | None = None if _depends_on_routes(path) else 0
        """The interface it leaves by, as of then; None: nobody has asked yet."""


class Ways:
    """Finds the way for a path, and remembers it.

    Args:
        counters: where :data:`SOURCE_LOST` goes.
    """

    def __init__(self, reactor: NewsReactor, counters: Counters, system: IUdpSystem) -> None:
        self._counters = counters
        self._system = system
        self._news = system.news(reactor, self.doubt)
        self._questions: Questions | None = None
        self._families: dict[int, FamilySockets] = {}
        self._mark = 0
        self._ways: dict[Path, Way] = {}
        self._changes = 0

    def open(self) -> None:
        """Begin to listen for changes of the routes.

        Without them, where the kernel refuses them to us, a lost address is still noticed when
        something is sent from it.
        """
        with suppress(OSError):
            self._news.open()
            self._questions = self._system.questions()

    def use(self, families: dict[int, FamilySockets], mark: int) -> None:
        """Send by these sockets, with this mark, from now on."""
        self._families = families
        self._mark = mark
        self._ways.clear()

    def close(self) -> None:
        """Forget everything, and listen no more; may be opened again."""
        self._families = {}
        self._ways.clear()
        self._news.close()
        if self._questions is not None:
            self._questions.close()
            self._questions = None

    def doubt(self) -> None:
        """Addresses or routes have changed: look at each way again when it is next used."""
        self._changes += 1

    def find(self, path: Path) -> Way | None:
        """Return the way; None when there is no socket for it."""
        way = self._ways.get(path)
        if way is None:
            family = socket.AF_INET if len(path.host) == 4 else socket.AF_INET6
            sockets = self._families.get(family)
            if sockets is None:
                return None
            if len(self._ways) >= MOST_WAYS:
                self._ways.clear()
            version = 4 if family == socket.AF_INET else 6
            # Nothing is asked yet: most ways of a flood are used once.
            way = self._ways[path] = Way(sockets.data, version, path, self._changes)
        elif way.checked != self._changes:
            self._check(way, path)
        elif way.leaves_by is None:
            way.leaves_by = self._interface_for(path)
        return way

    def lose_source(self, way: Way) -> None:
        """Use *way* without its source address, until addresses or routes change."""
        if way.source:
            way.source = []
            self._counters.drop(SOURCE_LOST)

    def _check(self, way: Way, path: Path) -> None:
        way.checked = self._changes
        if _depends_on_routes(path) and self._questions is not None:
            leaves_by = self._interface_for(path)
            if leaves_by not in (way.leaves_by or path.interface, path.interface):
                self.lose_source(way)
                return
            way.leaves_by = leaves_by
        way.source = source_ancillary(path)

    def _interface_for(self, path: Path) -> int:
        if self._questions is None:
            return 0
        try:
            return self._questions.interface_for(path.host, path.local, self._mark)
        except OSError:  # no route, or none from that address
            return 0


def _depends_on_routes(path: Path) -> bool:
    return bool(path.local and path.interface) and not is_link_local(path.local)
