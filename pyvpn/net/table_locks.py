"""Which routing tables on this host are some client's, as long as that client lives."""

from __future__ import annotations

import errno
import socket

from pyvpn.errors import HostError


class TableLocks:
    """The tables that this process has for itself.

    A name in the abstract namespace of Unix sockets is the lock: it belongs to the network
    namespace, as the tables do, and vanishes with the process, however that ends.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def try_hold(self, table: int) -> bool:
        """Take *table* unless another process has it; True if it is ours now."""
        if table in self._held:
            return True
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0pyvpn-table-{table}")
        except OSError as error:
            lock.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        self._held[table] = lock
        return True

    def hold(self, table: int) -> None:
        """Take *table*.

        Raises:
            HostError: another client on this host has it.
        """
        if not self.try_hold(table):
            raise HostError(
                f"another pyvpn client on this host uses routing table {table}: give this one "
                "its own  table = ...  and  fwmark = ...  in [tunnel]"
            )

    def release(self) -> None:
        """Give all tables back."""
        for lock in self._held.values():
            lock.close()
        self._held.clear()

    def __del__(self) -> None:
        # Whoever held them is gone; a socket that is left to the collector would complain.
        self.release()
