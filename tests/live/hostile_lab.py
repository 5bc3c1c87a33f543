"""What the tests with hostile peers share: a log-in by hand, and what it all costs a process."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvpn.testing import vpn
from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from tests.live.native import Talk

PORT = 51820


def dial(lab: Lab, host: str = "laptop", source: str = "") -> Talk:
    """A connection from *host* to our server, past TLS and version."""
    origin = (source, 0) if source else None
    with lab.hosts[host].inside():
        return Talk(socket.create_connection((SERVER_ADDRESS, PORT), 10, origin))


def log_in(lab: Lab, user: str = "anna") -> float:
    """Log in and register as *user* from the laptop; the seconds it took."""
    began = time.monotonic()
    with dial(lab) as talk:
        answer = talk.log_in(user, vpn.PASSWORD)
        assert answer["code"] == "ok", answer
        assert talk.register()["address4"].startswith("10.73.0.")
        return time.monotonic() - began


class Costs:
    """What a process uses, watched in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.fds = self.count_fds()
        self.rss = self.rss_mb()
        self.most_fds = self.fds
        self.most_rss = self.rss
        self.hashing = threading.Lock()
        """Held by who logs in: a password's hash takes 19 MB of its own for a moment."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def count_fds(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    def rss_mb(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+) kB", (self._proc / "status").read_text())
        assert found
        return int(found[1]) / 1024

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.most_fds = max(self.most_fds, self.count_fds())
            if self.hashing.acquire(blocking=False):
                self.most_rss = max(self.most_rss, self.rss_mb())
                self.hashing.release()
