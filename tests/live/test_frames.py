"""Super-packets on the TLS connection: between real kernels, both ways, and what arrives is right.

::

    laptop (vpnclient, transport = tcp) ---- router ---- internet ---- server ---- office
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyvpn.testing.lab import Lab
from tests.live.office import OFFICE_ADDRESSES, SOAKING, Office, Web, fetch, in_url, tell

MEBIBYTES = 256 if SOAKING else 16
SEGMENT = 1420 - 52
"""TCP payload of an inner packet."""
_CONNECTION = ["ss", "-Htin", "state", "established", "dport", "=", "51820"]


@pytest.fixture(scope="module")
def webs(lab: Lab) -> Iterator[dict[str, Web]]:
    """A web server at each end."""
    with closing(Web(lab)) as office, closing(Web(lab, "laptop", 8080)) as laptop:
        yield {"office": office, "laptop": laptop}


def carried(lab: Lab) -> dict[str, int]:
    """Bytes that the client's connection has received and sent so far, TLS and all."""
    said = lab.run("laptop", _CONNECTION).stdout
    return {
        way: int(re.findall(rf"\b{word}:(\d+)", said)[0])
        for way, word in (("in", "bytes_received"), ("out", "bytes_acked"))
    }


def test_both_ways(office: Office, lab: Lab, webs: dict[str, Web]) -> None:
    """Files cross right, and as super-packets: a packet each would be three times the headers."""
    digests = {host: web.put("frames", MEBIBYTES) for host, web in webs.items()}
    office.open()
    office.join(more="transport = tcp\n")
    leases = office.lease()
    for address in OFFICE_ADDRESSES:  # the first bytes show both ends that the line is quick
        assert fetch(lab, "laptop", f"http://{in_url(address)}/frames") == digests["office"]
    for version, (there, here) in enumerate(zip(OFFICE_ADDRESSES, leases, strict=True)):
        for host, way, url, at in (
            ("laptop", "in", f"http://{in_url(there)}/frames", "office"),
            ("office", "out", f"http://{in_url(here)}:8080/frames", "laptop"),
        ):
            before = carried(lab)[way]
            assert fetch(lab, host, url) == digests[at]
            share = (carried(lab)[way] - before) / (MEBIBYTES * 2**20) - 1
            tell(f"IPv{(4, 6)[version]} {way}: {100 * share:.2f} % beside the payload")
            # A header of our own and TCP's and IP's to every packet, and nothing for TLS.
            least_if_cut = (12 + (52, 72)[version]) / SEGMENT
            assert 0 < share < least_if_cut / 2
    status = office.status()
    assert "malformed" not in status
