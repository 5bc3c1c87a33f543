"""The server is killed with many clients on its connections: how soon all are back."""

from __future__ import annotations

import asyncio
import re
import time

from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from tests.live.figures import below
from tests.live.office import SOAKING, Office, add_accounts, tell
from tests.live.swarm import HEARTBEAT, LOG_IN, Swarm, SwarmClient
from tests.live.test_pool import swarming
from tests.live.test_restart import cpu_seconds

CLIENTS = 1000 if SOAKING else 100
BACK = 5.0
AT_ONCE = 64
"""Connections that the one process of all these clients begins at a time."""
RETRY_SECONDS = 0.25
MORE = f"""unauthenticated_connections = {2 * CLIENTS}
unauthenticated_per_source = {2 * CLIENTS}
[tunnel]
network4 = 10.99.0.0/20
network6 = fd99::/64
"""


def test_killed(office: Office, lab: Lab) -> None:
    """All are back within 5 s of the process being up, and not one password is hashed."""
    server = office.open(MORE, users=())
    users = add_accounts(office, CLIENTS)

    async def story(swarm: Swarm) -> None:
        await swarm.join_all(users)
        assert len(swarm.clients) == CLIENTS
        before = swarm.clients
        swarm.clients = []
        devices = [each.again() for each in before]
        office.kill(server)
        for each in before:
            each.drop()
        gate = asyncio.Semaphore(AT_ONCE)
        coming = [asyncio.create_task(come_back(device, office, gate)) for device in devices]
        await asyncio.sleep(1)
        started = office.start_server()  # not in a thread: the process would end with it
        await asyncio.to_thread(started.says, "server = ")
        up = time.monotonic()
        swarm.clients = await asyncio.gather(*coming)
        took = time.monotonic() - up
        used = cpu_seconds(started)
        tell(
            f"{CLIENTS} clients by TLS: all back {took:.2f} s after the server was up, which has "
            f"used {used:.2f} s of CPU since its start"
        )
        assert [each.lease["address4"] for each in before] == [
            each.lease["address4"] for each in swarm.clients
        ]
        below(took, BACK)
        status = await asyncio.to_thread(office.status)
        assert f"{CLIENTS} sessions" in status
        assert re.search(r"passwords compared with their hash: (\d+)", status)[1] == "0"

    swarming(office, lab, story)


async def come_back(device: SwarmClient, office: Office, gate: asyncio.Semaphore) -> SwarmClient:
    """Try until the server takes the device in and answers its heartbeat."""
    pin = office.link.partition("pin=")[2]
    while True:
        async with gate:
            try:
                await device.connect(SERVER_ADDRESS, 51820, pin)
                assert (await device.ask(LOG_IN, {}))["success"]
                assert (await device.register())["success"]
                await device.ask(HEARTBEAT)
            except OSError:
                pass
            else:
                return device
        await asyncio.sleep(RETRY_SECONDS)
