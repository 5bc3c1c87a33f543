"""The original programs in the lab, for the tests that set them against ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import stop, wait_for_line

PORT = 51005
ADDRESS = "182.1.1.101"
ORIGINAL = [sys.executable, str(Path(__file__).with_name("original.py"))]

UDP_PORT = 2003
UDP_PASSWORD = "4fb88ca224e"
ORIGINAL_UDP = [sys.executable, str(Path(__file__).with_name("original_udp.py"))]


@contextmanager
def original(lab: Lab, host: str, *arguments: str, ready: str) -> Iterator[Path]:
    """The original TCP program on *host* until the end of the block; gives its log."""
    with running(lab, host, [*ORIGINAL, *arguments], ready) as (_, log):
        yield log


@contextmanager
def running(
    lab: Lab, host: str, program: list[str], ready: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A program on *host* until the end of the block, and its log."""
    log = lab.folder / f"original-{host}.log"
    log.unlink(missing_ok=True)
    process = lab.start(host, program, log)
    try:
        wait_for_line(log, ready, process=process)
        yield process, log
    finally:
        stop(process)


def serve_a_page(lab: Lab) -> None:
    """Have the office host offer 200 KB at ``/page``."""
    page = lab.folder / "web" / "page"
    page.parent.mkdir()
    page.write_bytes(bytes(range(256)) * 800)
    serve = [sys.executable, "-m", "http.server", "-d", str(page.parent), "80"]
    log = lab.folder / "web.log"
    wait_for_line(log, "Serving", process=lab.start("office", serve, log))


def fetches_the_page(lab: Lab, host: str, address: str) -> bool:
    """Whether *host* gets it from *address*, whole."""
    fetched = lab.folder / f"fetched-{host}"
    lab.run(host, ["curl", "-sS", "-m", "20", "-o", str(fetched), f"http://{address}/page"])
    return fetched.read_bytes() == (lab.folder / "web" / "page").read_bytes()


def pings(lab: Lab, host: str, address: str, *options: str) -> bool:
    """Whether *address* answers *host* within a second."""
    ping = ["ping", "-n", "-c", "1", "-W", "1", *options, address]
    return lab.run(host, ping, check=False).returncode == 0
