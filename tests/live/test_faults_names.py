"""The server's name moves to another address, and meanwhile nobody answers for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from pyvpn.testing.lag import read_lags, write_watch
from pyvpn.testing.namespace import ip, stop, wait_for_line
from tests.live.figures import below
from tests.live.office import SOAKING, Office, tell

NAME = "vpn.example.org"
RESOLVER = "192.168.50.1"
ELSEWHERE = "198.18.2.99"
BACK_SECONDS = 30.0
LAG_SECONDS = 0.05


@contextmanager
def names(lab: Lab) -> Iterator[Path]:
    """A name server at home, and everybody asks it; yields the file with the address."""
    file = lab.folder / "address"
    file.write_text(SERVER_ADDRESS)
    log = lab.folder / "names.log"
    server = lab.start("router", ["python", "-m", "tests.live.names", RESOLVER, str(file)], log)
    wait_for_line(log, "ready", process=server)
    resolv = lab.write("resolv.conf", f"nameserver {RESOLVER}\n")
    resolv.chmod(0o644)
    # For the whole sandbox, which has mounts of its own; hosts of the lab share them.
    there = os.path.realpath("/etc/resolv.conf")
    lab.run("router", ["mount", "--bind", str(resolv), there])
    try:
        yield file
    finally:
        lab.run("router", ["umount", there])
        stop(server)


@pytest.mark.parametrize("transport", ["auto", "udp", "tcp"][: 3 if SOAKING else 1])
def test_name_moves(
    office: Office, lab: Lab, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A7: the server gets another address, and its name, a while later: back within 30 s of that.

    Until then the name server is silent; our client's reactor is never held up for 50 ms.
    """
    silent = 20 if SOAKING else 5
    lags = tmp_path / "lags"
    write_watch(tmp_path, lags)
    with names(lab) as file:
        office.open(endpoint=NAME)
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", str(tmp_path))
            office.join(more=f"transport = {transport}\n")
        office.wait_for_ping()
        lease = office.lease()
        lags.write_text("")
        with office.steady_ping() as ping:
            move(lab, SERVER_ADDRESS, ELSEWHERE)
            try:
                file.write_text("")
                time.sleep(silent)
                file.write_text(ELSEWHERE)
                told = time.time()
                while not (back := [when for when, _ in ping.replies if when > told]):
                    below(time.time() - told, BACK_SECONDS + 5)
                    time.sleep(0.1)
                time.sleep(1)
                most = read_lags(lags)[-1]
                assert office.lease() == lease
            finally:
                move(lab, ELSEWHERE, SERVER_ADDRESS)
                file.write_text(SERVER_ADDRESS)
        tell(
            f"transport = {transport}: name moved, back after {back[0] - told:.1f} s; "
            f"longest lag {1000 * most:.0f} ms"
        )
        below(back[0] - told, BACK_SECONDS)
        below(most, LAG_SECONDS)


def move(lab: Lab, old: str, new: str) -> None:
    """Give the server another address."""
    lines = f"address del {old}/24 dev wan\naddress add {new}/24 dev wan\n"
    ip("-n", "server", script=lines + "route add default via 198.18.2.1\n")
