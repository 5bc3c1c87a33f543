"""Correctness at speed: what is sent arrives as it was, in every combination of what there may be.

By default in few combinations, in which every two values meet; in a soak in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip
from pyvpn.testing.vpn import Program
from pyvpn.wire.datagram import DATA, OFFLOAD
from tests.live.cells import (
    DIMENSIONS,
    Cell,
    Sample,
    checksum_errors,
    dropped,
    zero_checksums,
)
from tests.live.far import Far, exchange
from tests.live.office import CLIENT_TUN, SERVER_TUN, SOAKING, Office, tell
from tests.live.stock import GOS, App, add_device, server_peers
from tests.pairwise import every, pairwise

SIZE = 64 * 10**6
"""Bytes each way."""
LOSSY_SIZE = SIZE if SOAKING else SIZE // 4
"""The same on a line that loses some, where it takes longer: to lose hundreds it is enough."""
CELLS = [Cell(**each) for each in (every if SOAKING else pairwise)(DIMENSIONS)]  # type: ignore[arg-type]  # by name
ONE_PACKET = 1500
AT_THE_OFFICE = "office Udp6InCsumErrors Udp6InCsumErrors"


class Tunnel:
    """Somebody in the tunnel, as a cell says, who stays the same all the while."""

    def __init__(self, office: Office, cell: Cell, client: Program | App) -> None:
        self._office, self._cell, self._client = office, cell, client
        self._dropped = self._drops()
        self._before = self._known()  # last: a status is in the log, too

    def _known(self) -> object:
        """What a new session would change."""
        if isinstance(self._client, App):
            peer = server_peers(self._office.lab)[0]
            return peer.public, peer.endpoint
        begun = self._office.server.log.read_text().count(" is here from ")
        joined = self._client.log.read_text().count("] routes into the tunnel:")
        return self._office.lease(), begun, joined

    def _drops(self) -> Counter[str]:
        found = dropped(self._office.status())
        if isinstance(self._client, Program):
            found += dropped(self._office.status(self._client))
        return found

    def check(self, allowed: set[str]) -> None:
        """It is the same session, and nothing was dropped but for reasons that are allowed."""
        assert self._known() == self._before
        drops = self._drops() - self._dropped
        assert set(drops) <= allowed, drops


@contextmanager
def tunnel(
    office: Office, cell: Cell, folder: Path, patched: pytest.MonkeyPatch, more: str = ""
) -> Iterator[Tunnel]:
    """The two ends of a cell, at work."""
    with cell.around("server", folder, patched):
        office.open(more)
    with ExitStack() as stack:
        client: Program | App
        if cell.carrier == "stock":
            go = GOS[0] if cell.tun == "mixed" else GOS[-1]
            client = stack.enter_context(App(office.lab, "laptop", add_device(office), go))
            interface = client.name
        else:
            transport = {"udp": "udp", "tls": "tcp"}[cell.carrier]
            with cell.around("client", folder, patched):
                client = office.join(more=f"transport = {transport}\n")
            interface = CLIENT_TUN
            if transport == "udp":
                client.says("packets go by UDP")
        office.wait_for_ping()
        for host, name in ("laptop", interface), ("server", SERVER_TUN):
            # The kernel's own queue: a machine that is busy is no reason to lose a packet.
            ip("-n", host, "link", "set", name, "txqueuelen", "10000")
        yield Tunnel(office, cell, client)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(
    office: Office,
    lab: Lab,
    far: Far,
    cell: Cell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TCP's bytes are what was sent, and so is each datagram, which comes once; no wrong checksum.

    On a line that loses nothing all datagrams come; else those do that the line did not lose.
    """
    size = LOSSY_SIZE if cell.loss else SIZE
    before = checksum_errors(lab)
    with (
        tunnel(office, cell, tmp_path, monkeypatch) as made,
        cell.line(lab),
        zero_checksums(lab, SERVER_TUN) as zeros,
    ):
        samples = Sample(lab, "laptop", "eth0"), Sample(lab, "server", "wan")
        found = exchange(lab, cell.version, cell.protocol, size)
        for each in samples:
            each.look()
        rate = 2 * size * 8 / 1e6 / found.seconds
        tell(f"{cell}: {rate:.0f} Mbit/s both ways, {found.lost} of {found.sent} datagrams lost")
        # What a queue cannot hold TCP sends again; datagrams are never so many.
        made.check({"queue-full", "tun-full"} if cell.protocol == "tcp" or cell.loss else set())
    wrong = checksum_errors(lab) - before
    if cell.carrier == "stock":
        tell(f"  checksums of 0: {zeros}, wrong ones at the office: {wrong[AT_THE_OFFICE]}")
        assert wrong.pop(AT_THE_OFFICE, 0) == sum(zeros)
    else:
        assert zeros == [0]
    assert not wrong
    assert found.lost <= allowed(cell, found.sent) + sum(zeros)
    for sample, runs in zip(samples, reversed(cell.runs), strict=True):
        assert (sample.kinds[OFFLOAD] > 0) == runs
        if cell.carrier != "tls":
            assert sample.kinds[DATA] + sample.kinds[OFFLOAD] > 0
        # Not every wireguard-go makes bundles, and TCP's are not always made.
        if cell.gro == "none" or cell.carrier == "udp":
            assert (sample.largest > ONE_PACKET) == (cell.gro == "gro")


def allowed(cell: Cell, sent: int) -> float:
    """How many datagrams may be lost: one for each that the line loses, but by TLS.

    There what TCP waits for costs all that come meanwhile.
    """
    if not cell.loss:
        return 0
    if cell.carrier == "tls":
        return sent / 2
    expected = sent * cell.loss / 100
    return float(expected + 6 * expected**0.5)
