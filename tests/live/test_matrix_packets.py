"""Packets of all kinds through the fast path: jumbo and tiny ones, fragments, with options, with
ECN, with a wrong checksum; and what is under way while keys and carriers change.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvpn.testing import faults
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip
from tests.live.cells import Cell, checksum_errors
from tests.live.exchange import UDP_SEGMENT
from tests.live.far import ADDRESSES, Far, exchange
from tests.live.office import CLIENT_TUN, SOAKING, Office, tell, wait_until
from tests.live.test_matrix import tunnel
from tests.live.test_traffic import udp_packet

MEGABYTES = 64 if SOAKING else 8
SIZE = MEGABYTES * 10**6
CABLES = (
    *(("laptop", "eth0"), ("router", "port1"), ("router", "lan"), ("router", "wan")),
    *(("internet", "home"), ("internet", "office"), ("server", "wan")),
    *(("server", "lan"), ("office", "eth0")),
)
JUMBO = 8900
HEADERS = {4: 28, 6: 48}
PATIENCE = 5.0
IPV6_DSTOPTS, IPV6_TCLASS = 59, 67


def cell_of(carrier: str) -> Cell:
    """The best that there is, by that carrier."""
    return Cell(
        version=4, protocol="udp", tun="offload", gro="gro", carrier=carrier, loss=0
    )


@contextmanager
def cables_of(lab: Lab, mtu: int) -> Iterator[None]:
    """All cables from the laptop to the office carry packets of that size."""
    def have(size: int) -> None:
        for host, interface in CABLES:
            ip("-n", host, "link", "set", interface, "mtu", str(size))

    have(mtu)
    try:
        yield
    finally:
        have(1500)


def exchange_all(lab: Lab, mtu: int) -> None:
    """TCP and datagrams, of either version, in packets of up to *mtu* bytes: all arrives."""
    for version, headers in HEADERS.items():
        exchange(lab, version, "tcp", SIZE)
        assert exchange(lab, version, "udp", SIZE // 2, mtu - headers).lost == 0


@pytest.mark.parametrize("carrier", ["udp", "stock", "tls"])
def test_jumbo(
    office: Office, lab: Lab, far: Far, carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of 9000 bytes: packets of 8900 in the tunnel."""
    before = checksum_errors(lab)
    with (
        cables_of(lab, 9000),
        tunnel(office, cell_of(carrier), tmp_path, monkeypatch, f"[tunnel]\nmtu = {JUMBO}\n") as made,
    ):
        exchange_all(lab, JUMBO)
        made.check({"queue-full"})
    assert not checksum_errors(lab) - before


@pytest.mark.parametrize("carrier", ["udp", "stock", "tls"])
def test_tiny(
    office: Office, lab: Lab, far: Far, carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest tunnel that IPv6 allows, of 1280 bytes."""
    before = checksum_errors(lab)
    with tunnel(office, cell_of(carrier), tmp_path, monkeypatch, "[tunnel]\nmtu = 1280\n") as made:
        exchange_all(lab, 1280)
        made.check({"queue-full"})
    assert not checksum_errors(lab) - before


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("carrier", ["udp", "tls"])
def test_fragments(
    office: Office,
    lab: Lab,
    far: Far,
    carrier: str,
    version: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Datagrams larger than the tunnel cross in fragments, and are whole again at the other end."""
    with tunnel(office, cell_of(carrier), tmp_path, monkeypatch) as made:
        if version == 6:  # its senders learn what fits from what is lost
            exchange(lab, 6, "udp", 100_000, 4000)
        found = exchange(lab, version, "udp", SIZE // 4, 4000)
        made.check({"larger-than-mtu"})
    assert found.lost == 0


class Ears:
    """Sees the UDP packets to port 7007 that arrive at an interface, from the IP header on."""

    def __init__(self, lab: Lab, host: str, interface: str) -> None:
        with lab.hosts[host].inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            self._socket.bind((interface, 3))
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def hear(self, wanted: Callable[[bytes], bool]) -> bytes:
        """Return the next packet that is *wanted*."""
        while True:
            packet, (_, _, direction, *_) = self._socket.recvfrom(65_536)
            if direction != socket.PACKET_OUTGOING and wanted(packet):
                return packet
