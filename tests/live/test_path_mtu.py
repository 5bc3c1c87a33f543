"""Networks that are narrower than the tunnel: with and without a word of it, from the first packet
and in the middle of a download; PPPoE, tunnels in tunnels, 1280 bytes.

Nothing may hang: what is inside arrives whole, and its senders are told how large packets may be.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyvpn.testing import faults
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, SERVER_ADDRESS6, Lab
from pyvpn.testing.vpn import Program
from tests.live.figures import below
from tests.live.office import SOAKING, Office, Web, fetch, tell, wait_until
from tests.live.stock import app
from tests.live.test_stock_roaming import transfer

FOUND = 10.0
WIDER = 70.0
MEBIBYTES = 100 if SOAKING else 10


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


def largest(office: Office, client: Program) -> int:
    """How large the client says packets may be by UDP; 0: as large as they are."""
    said = re.search(
        r"packets go by UDP.*?(?:none larger than (\d+) bytes)?$", _way(office, client)
    )
    assert said is not None
    return int(said[1] or 0)


def _way(office: Office, client: Program) -> str:
    return next(line for line in office.status(client).splitlines() if "packets go by" in line)


def told_mtu(lab: Lab, host: str, address: str, size: int = 1372) -> int:
    """Send a ping that may not be cut until somebody says how large it may be."""
    lab.run(host, ["ip", "route", "flush", "cache"])  # of other tests, which had other paths
    family = "-6" if ":" in address else "-4"
    ping = ["ping", family, "-n", "-M", "do", "-c", "3", "-i", "0.3", "-W", "1", "-s", str(size)]
    said = lab.run(host, [*ping, address], check=False)
    found = re.search(r"mtu ?= ?(\d+)", said.stdout + said.stderr)
    assert found is not None, said.stdout + said.stderr
    return int(found[1])


def download(office: Office, web: Web, address: str = OFFICE_ADDRESS) -> None:
    """A file arrives whole."""
    digest = web.put("whole", MEBIBYTES)
    host = f"[{address}]" if ":" in address else address
    began = time.monotonic()
    assert fetch(office.lab, "laptop", f"http://{host}/whole") == digest
    tell(f"{MEBIBYTES} MiB in {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize(
    ("mtu", "inner"), [(1492, 0), (1420, 1360), (1280, 1216)], ids=["PPPoE", "tunnel", "least"]
)
@pytest.mark.parametrize("silently", [False, True], ids=["told", "black hole"])
def test_narrow_from_the_beginning(
    office: Office, lab: Lab, web: Web, mtu: int, inner: int, silently: bool
) -> None:
    """UDP is used all the same; both ends keep to what comes through."""
    office.open()
    with faults.narrow(lab, mtu, silently=silently):
        client = office.join()
        client.says("packets go by UDP" + (f".*none larger than {inner} bytes" if inner else ""))
        download(office, web)
        assert largest(office, client) == inner
        if inner:
            assert told_mtu(lab, "laptop", OFFICE_ADDRESS) == inner
            tunnel4 = office.lease()[0]
            assert told_mtu(lab, "office", tunnel4) == inner


@pytest.mark.parametrize("silently", [False, True], ids=["told", "black hole"])
def test_narrow_in_the_middle(office: Office, lab: Lab, web: Web, silently: bool) -> None:
    """A download and a ping are under way; the one goes on, the other is not disturbed at all.

    Wide again: found after a minute at most (waited for only in a soak), or when somebody moves.
    """
    office.open()
    client = office.join()
    client.says(r"packets go by UDP")
    with office.steady_ping() as ping, transfer(office, web, "laptop", 36 if SOAKING else 12):
        time.sleep(1)
        with faults.narrow(lab, 1280, silently=silently):
            client.says("none larger than 1216 bytes", FOUND)
            time.sleep(3)
        if SOAKING:
            wait_until(lambda: largest(office, client) == 0, WIDER, "wide again")
    tell(f"{'black hole' if silently else 'told'}: gap of the ping {ping.gap:.2f} s")
    below(ping.gap, 1.0)


def test_six(office: Office, lab: Lab, web: Web) -> None:
    """IPv6 outside and inside: 1280 bytes inside are more than fit, and pass all the same."""
    office.open(endpoint=f"[{SERVER_ADDRESS6}]")
    with faults.narrow(lab, 1280, silently=True):
        client = office.join()
        client.says("packets go by UDP.*none larger than 1200 bytes", 15)
        assert told_mtu(lab, "laptop", OFFICE_ADDRESS6) == 1280
        assert told_mtu(lab, "laptop", OFFICE_ADDRESS) == 1200
        download(office, web, OFFICE_ADDRESS6)
        download(office, web, OFFICE_ADDRESS)


def test_app_and_client(office: Office, lab: Lab, web: Web) -> None:
    """A stock app beside our client on a line of 1280 bytes: datagrams are fragmented for it."""
    host = lab.add_laptop()
    office.open()
    client = office.join()
    client.says(r"packets go by UDP")
    with app(office, host), faults.narrow(lab, 1280):
        digest = web.put("whole", MEBIBYTES)
        for where in "laptop", host:
            assert fetch(lab, where, f"http://{OFFICE_ADDRESS}/whole") == digest
        client.says("none larger than 1216 bytes", FOUND)
