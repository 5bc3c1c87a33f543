"""Many WireGuard clients of one server: how fast they get in, what they cost, and how they return.

They live in one process (:mod:`tests.live.handshakes`) on a host that stands straight on the
internet, each at an address of its own.  PYVPN_KILLS makes them as many as are promised.
"""

from __future__ import annotations

import time

import pytest

from pyvpn.testing.lab import Lab
from tests.live.figures import below
from tests.live.office import SOAKING, Office, tell
from tests.live.wg_stage import (
    SERVERS_CORE,
    TUNNEL,
    add_crowds_host,
    cpu_seconds,
    crowd,
    handshakes,
    memory,
    pin,
    put_on_file,
    wait_for_devices,
)

MEMBERS = 2000 if SOAKING else 150
ROUNDS = 20 if SOAKING else 8
IN_FLIGHT = 64
SESSIONS = 10_000 if SOAKING else 300
KEEPALIVE = 25.0 if SOAKING else 5.0
CALLED = 1000 if SOAKING else 200


@pytest.fixture(scope="module")
def crowds_host(lab: Lab) -> str:
    return add_crowds_host(lab)


def test_handshakes(office: Office, crowds_host: str) -> None:
    """Initiation, response, first packet: over and over, with as many keys, and none fails."""
    server = office.open(TUNNEL)
    put_on_file(office, MEMBERS)
    wait_for_devices(office, MEMBERS)
    pin(server.process.pid, SERVERS_CORE)
    with crowd(office, crowds_host, "rush", range(MEMBERS), ROUNDS, IN_FLIGHT) as program:
        program.says("ready", 120)
        used = cpu_seconds(office)
        figures = program.says("completed", 120)
        used = cpu_seconds(office) - used
    total = MEMBERS * ROUNDS
    tell(f"{figures}; {used / total * 1e6:.0f} us of the server's core each")

    assert (figures["completed"], figures["failed"]) == (total, 0)
    assert (figures["cookies"], figures["junk"]) == (0, 0)
    assert handshakes(office) == total
    assert figures["per_second"] > (500 if SOAKING else 100)


def test_sessions(office: Office, crowds_host: str) -> None:
    """They all stay, each shows now and then that it lives, and one more is in at once."""
    server = office.open(TUNNEL)
    empty = memory(office)
    put_on_file(office, SESSIONS + 1)
    wait_for_devices(office, SESSIONS + 1)
    on_file = memory(office)
    pin(server.process.pid, SERVERS_CORE)
    per_second = SESSIONS / KEEPALIVE / 2
    with crowd(office, crowds_host, "hold", range(SESSIONS), per_second, KEEPALIVE) as program:
        program.says("begun", 120)
        while (figures := program.says("joined"))["joined"] < SESSIONS:
            below(figures["seconds"], 2 * SESSIONS / per_second)
        time.sleep(KEEPALIVE)  # all have sent one
        used, began = cpu_seconds(office), time.monotonic()
        time.sleep(KEEPALIVE if SOAKING else 2 * KEEPALIVE)
        idle = (cpu_seconds(office) - used) / (time.monotonic() - began)
        full = memory(office)
        with crowd(office, crowds_host, "rush", range(SESSIONS, SESSIONS + 1), 1, 1) as another:
            newcomer = another.says("completed")
        figures = program.says("joined")
    each = (full - empty) * 1024 / SESSIONS
    tell(
        f"{SESSIONS} sessions: {full:.0f} MiB RSS ({empty:.0f} without, {on_file:.0f} on file; "
        f"{each:.1f} KiB each); {SESSIONS / KEEPALIVE:.0f} keepalives/s take {idle:.1%} of a "
        f"core; one more was in after {newcomer['median_ms']:.0f} ms"
    )

    assert (figures["cookies"], figures["junk"]) == (0, 0)
    assert f"{SESSIONS + 1} of {SESSIONS + 1} devices heard" in office.status()
    assert full < 1024
    assert each < 64
    assert idle < (0.1 if SOAKING else 0.3)
    assert newcomer["failed"] == 0
    assert newcomer["median_ms"] < 500


def test_called_back(office: Office, crowds_host: str) -> None:
    """After a crash the server calls all who were here: at a pace, and the latest first."""
    office.open(TUNNEL)
    put_on_file(office, CALLED)
    wait_for_devices(office, CALLED)
    with crowd(office, crowds_host, "answer", range(CALLED), CALLED / 4) as program:
        while (figures := program.says("joined"))["joined"] < CALLED:
            assert figures["seconds"] < 30, figures
        time.sleep(2.5)  # what is known is written once a second
        office.kill(office.server)
        program.says("joined")
        server = office.start_server()
        server.says("server = ")
        up = time.monotonic()
        called: list[tuple[float, int]] = []
        while len(called) < CALLED:
            called += program.says("called")["called"]
            assert time.monotonic() - up < 30, f"{len(called)} of {CALLED}"
        assert handshakes(office) == CALLED
    called.sort()
    times = [when - up for when, _ in called]
    members = [member for _, member in called]
    most = max(sum(when <= other < when + 0.5 for other in times) for when in times[::20])
    tell(f"{CALLED} called back: {times[0]:.2f} to {times[-1]:.2f} s after it was up, "
         f"at most {2 * most}/s")  # fmt: skip

    assert sorted(members) == list(range(CALLED))
    assert times[-1] < (5 if SOAKING else 8)
    assert 2 * most < 700
    early = members[: CALLED // 4]
    assert min(early) > CALLED // 2, "the latest are not the first"
