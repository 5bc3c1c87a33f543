"""Somebody on the way between one app and the server: delays, repeats, reorders and damages.

It takes the app's datagrams at an address of its own and passes them on from another, so both
ends see it in the place of each other, like a NAT of each.
"""

from __future__ import annotations

import heapq
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from tests.live.stock import PORT

ADDRESS = "198.18.1.1"
"""Where it takes an app's datagrams; the app's endpoint."""

TURN = 0.02  # seconds

Treatment = Callable[[str, bytes], list[tuple[float, bytes]]]
"""Told who sent a datagram, "app" or "server", says what arrives: after how many seconds, what."""


def untouched(who: str, datagram: bytes) -> list[tuple[float, bytes]]:
    """Pass it on at once."""
    return [(0.0, datagram)]


class Between(threading.Thread):
    """Between one app and the server, in a thread of its own; *treat* may change at any time.

    Args:
        address: one of the host ``internet``, if there are several such.
    """

    def __init__(self, lab: Lab, treat: Treatment = untouched, address: str = ADDRESS) -> None:
        super().__init__(daemon=True)
        self.treat = treat
        self.seen: list[tuple[float, str, bytes]] = []
        """All that came: when (monotonic), who sent it, and what."""
        with lab.hosts["internet"].inside():
            self._app = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._app.bind((address, PORT))
        self._server.connect((SERVER_ADDRESS, PORT))
        self._app_address: tuple[str, int] | None = None
        self._flying: list[tuple[float, int, str, bytes]] = []
        self._number = count()
        self._over = False

    def __enter__(self) -> Between:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True
        self.join()
        self._app.close()
        self._server.close()

    def kinds(self) -> list[tuple[str, int]]:
        """Who sent messages of what type so far."""
        return [(who, datagram[0]) for _, who, datagram in self.seen]

    def run(self) -> None:
        while not self._over:
            now = time.monotonic()
            while self._flying and self._flying[0][0] <= now:
                _, _, who, datagram = heapq.heappop(self._flying)
                self._pass_on(who, datagram)
            due = self._flying[0][0] - now if self._flying else 0.02
            ready, _, _ = select.select(
                [self._app, self._server], [], [], max(0.0, min(due, 0.02))
            )
            if self._app in ready:
                datagram, self._app_address = self._app.recvfrom(65536)
                self._take("app", datagram)
            if self._server in ready:
                with suppress(ConnectionRefusedError):  # it is dead at the moment
                    self._take("server", self._server.recv(65536))

    def _take(self, who: str, datagram: bytes) -> None:
        now = time.monotonic()
        self.seen.append((now, who, datagram))
        for delay, what in self.treat(who, datagram):
            heapq.heappush(self._flying, (now + delay, next(self._number), who, what))

    def _pass_on(self, who: str, datagram: bytes) -> None:
        with suppress(OSError):  # nobody there, or no way to it
            if who == "app":
                self._server.send(datagram)
            elif self._app_address is not None:
                self._app.sendto(datagram, self._app_address)
