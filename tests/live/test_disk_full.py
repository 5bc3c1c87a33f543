"""A disk that fills while the server runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import stop


@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Path]:
    """A disk of one megabyte for the state of a server called "small"."""
    place = lab.folder / "small"
    place.mkdir(mode=0o700)
    lab.run("server", ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place)])
    yield place
    lab.run("server", ["umount", "--lazy", str(place)])


def fill(place: Path) -> Path:
    """Write until nothing fits any more."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue
    return ballast


def test_disk_fills(lab: Lab, small_disk: Path) -> None:
    """Who is connected goes on; who comes is told of the server's trouble and gets in later."""
    laptop2 = lab.add_laptop()
    server = vpn.start_server(lab, name="small")
    link = vpn.link(server)
    vpn.add_user(lab, server, "anna")
    vpn.add_user(lab, server, "boris")
    anna = vpn.start_client(lab, link, "anna", name="anna-small")
    anna.says(r"routes into the tunnel")

    ballast = fill(small_disk)
    boris = vpn.start_client(lab, link, "boris", host=laptop2, name="boris-small")
    boris.says(r"server-error")
    ping = lab.run("laptop", ["ping", "-c", "5", "-i", "0.2", OFFICE_ADDRESS])
    said = server.log.read_text()

    assert " 5 received" in ping.stdout
    assert "cannot answer" in said
    assert "Traceback" not in said
    assert server.process.poll() is None

    ballast.unlink()
    boris.says(r"routes into the tunnel", 30)
    assert lab.run(laptop2, ["ping", "-c", "1", "-W", "2", OFFICE_ADDRESS]).returncode == 0
    for program in (boris, anna, server):
        stop(program.process)
        assert program.process.returncode == 0
