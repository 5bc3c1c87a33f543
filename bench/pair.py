"""Two hosts and the cable between them: where one VPN runs.

::

    client ------------- server
    198.18.0.1      198.18.0.2

Every contender has a pair of its own, so all of them are up all the time, and whatever one
changes on its hosts concerns nobody else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.offloads import switch_off
from pyvpn.testing.lab import Lab

CLIENT, SERVER = "198.18.0.1", "198.18.0.2"


class Pair(Lab):
    """A lab of two hosts.

    Args:
        number: no other pair's.
        wire: every packet crosses the cable alone, as on a plain Ethernet, where it else takes
            up to 64 KiB at a time.
    """

    def __init__(self, number: int, wire: bool) -> None:
        super().__init__()
        self.client, self.server = f"client{number}", f"server{number}"
        self.number = number
        self.wire = wire

    def build(self) -> None:
        """Make the hosts and the cable; raises HostError."""
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/run"))
        for host in self.client, self.server:
            self._add_host(host)
        self.join_hosts(
            (self.client, "wan", (f"{CLIENT}/24",)), (self.server, "wan", (f"{SERVER}/24",))
        )
        if self.wire:
            for host in self.client, self.server:
                with self.hosts[host].inside():
                    switch_off("wan")
