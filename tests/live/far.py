"""The office's end of what is exchanged with it, and what came of an exchange."""

from __future__ import annotations

import json
import random
from typing import NamedTuple

from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.cells import checksums_for_real
from tests.live.exchange import digest
from tests.live.office import tell

ADDRESSES = {4: OFFICE_ADDRESS, 6: OFFICE_ADDRESS6}
LARGEST = {4: 1392, 6: 1372}
"""Bytes of payload of the largest datagram that crosses in one packet, of 1420 bytes."""
PATIENCE = 240.0
PORT = 7300


class Far:
    """The office's end, for both families, over a cable on which checksums are for real."""

    def __init__(self, lab: Lab) -> None:
        checksums_for_real(lab)
        self._logs = {
            each: lab.folder / f"far-{version}.log" for version, each in ADDRESSES.items()
        }
        self._serving = []
        for address, log in self._logs.items():
            serve = ["python", "-m", "tests.live.exchange", "serve", address, str(PORT)]
            self._serving.append(lab.start("office", serve, log))
            wait_for_line(log, "ready", process=self._serving[-1])

    def close(self) -> None:
        """End it; fail if it had a bug."""
        for each in self._serving:
            stop(each)
        for log in self._logs.values():
            assert "Traceback" not in log.read_text(), log.read_text()


class Exchanged(NamedTuple):
    """What came of an exchange; the right bytes did, and none twice."""

    seconds: float
    sent: int
    """Datagrams, both ways."""
    lost: int


def exchange(lab: Lab, version: int, protocol: str, size: int, largest: int = 0) -> Exchanged:
    """So many bytes each way at once; fails unless what arrives is what was sent."""
    seed = random.getrandbits(32)
    words = [ADDRESSES[version], PORT, seed, size, largest or LARGEST[version]]
    program = ["python", "-m", "tests.live.exchange", protocol, *map(str, words)]
    ended = lab.run("laptop", program, timeout=PATIENCE)
    assert ended.stderr == ""
    said = json.loads(ended.stdout)
    if protocol == "tcp":
        for way, one in ("up", seed), ("down", seed + 1):
            assert said[way] == {"bytes": size, "sha256": digest(one, size)}
        return Exchanged(said["seconds"], 0, 0)
    for way in "up", "down":
        assert (said[way]["wrong"], said[way]["repeated"]) == (0, 0), said
    sent, arrived = (said["up"][what] + said["down"][what] for what in ("sent", "arrived"))
    if sent != arrived:
        tell(f"  first of the missing: {said}")
    return Exchanged(said["seconds"], sent, sent - arrived)
