"""Pools to their last address, with real clients and with a swarm of them."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

from pyvpn.testing import vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from tests.live.figures import below
from tests.live.office import Office, add_accounts, tell, wait_until
from tests.live.swarm import HEARTBEAT, Swarm, SwarmClient

SMALL = "[tunnel]\nnetwork4 = 10.99.0.0/29\nnetwork6 = none\n[leases]\nquarantine = 1s\n"


def swarming(
    office: Office, lab: Lab, story: Callable[[Swarm], Coroutine[Any, Any, None]]
) -> None:
    """Tell *story* with a swarm that sits on the laptop."""

    async def tell() -> None:
        pin = office.link.partition("pin=")[2]
        async with Swarm(SERVER_ADDRESS, 51820, pin, vpn.PASSWORD) as swarm:
            await story(swarm)

    with lab.hosts["laptop"].inside():
        asyncio.run(tell())


def test_small_pool(office: Office, lab: Lab) -> None:
    """Real clients: all five addresses of a /29 are given, the sixth client is told why not.

    It does not hammer, and gets in once somebody has left.
    """
    office.open(SMALL)
    hosts = ["laptop", *(lab.add_laptop() for _ in range(5))]
    clients = [office.join(host) for host in hosts[:5]]
    leases = [office.lease(host) for host in hosts[:5]]

    # Neither the network, nor the broadcast, nor the server's own.
    assert {f"10.99.0.{last}" for last in range(2, 7)} == {lease[0] for lease in leases}
    late = office.start_client(hosts[5])
    late.says(r"none of the 5 addresses is free \(pool-empty\); next try in [34]\d\.\d s")
    assert office.lease(hosts[5]) == []
    assert "refused 1 times: pool-empty" in office.status()

    office.end(clients[2])
    office.end(late)  # rather than wait for half a minute
    office.join(hosts[5])

    assert office.lease(hosts[5]) == leases[2]
    assert office.pings(hosts[5], OFFICE_ADDRESS, 3) == 3
    assert office.leases_in_use() == 5
    # A device that is here keeps its address, also from one that had it before.
    office.start_client(hosts[2], password=None).says(r"\(pool-empty\)")


def test_full_network(office: Office, lab: Lab) -> None:
    """A /24 holds 253 devices; the 254th is refused clearly; one leaves, and the next gets in."""
    office.open("[tunnel]\nnetwork4 = 10.99.0.0/24\nnetwork6 = none\n", users=())
    users = add_accounts(office, 256)

    async def story(swarm: Swarm) -> None:
        began = time.monotonic()
        await swarm.join_all(users[:253])
        tell(f"253 log-ins by password: {time.monotonic() - began:.1f} s")
        assert swarm.refusals == []
        given = {ip_address(client.lease["address4"].split("/")[0]) for client in swarm.clients}
        first = int(ip_address("10.99.0.2"))
        assert given == {ip_address(first + number) for number in range(253)}
        assert await swarm.join(users[253]) is None
        assert [(refusal["code"], refusal["message"]) for refusal in swarm.refusals] == [
            ("pool-empty", "none of the 253 addresses is free")
        ]

        gone = swarm.clients[100]
        await swarm.leave(gone)
        began = time.monotonic()
        successor = await swarm.join(users[254])
        below(time.monotonic() - began, 5)
        assert successor is not None
        assert successor.lease["address4"] == gone.lease["address4"]
        assert await swarm.join(users[255]) is None
        # And the packets of the last to come are carried, to the right one of 253.
        successor.send_packet(echo_request(successor.lease["address4"].split("/")[0]))
        await wait_for(lambda: bool(successor.packets))
        assert successor.packets[0][12:20] == ip_address("10.99.0.1").packed + packed(successor)
        assert all(not one.packets for one in swarm.clients if one is not successor)

    swarming(office, lab, story)
    wait_until(lambda: "0 connections" in office.status())


def test_forged_by_a_hostile_client(office: Office, lab: Lab) -> None:
    """The server itself judges each packet: one that comes through TLS is trusted no more."""
    office.open("[tunnel]\nnetwork6 = none\n", users=("anna", "bert"))

    async def story(swarm: Swarm) -> None:
        anna, bert = await swarm.join("anna"), await swarm.join("bert")
        assert anna is not None
        assert bert is not None
        mine, its = (ip_address(packed(one)) for one in (anna, bert))
        honest = echo_request(str(mine))
        for forged in (
            echo_request(str(its)),  # in the name of another client
            echo_request("192.168.77.20"),  # of the office
            echo_request(str(mine), str(its)),  # to another client
            echo_request(str(mine), "198.18.2.1"),  # to the world
            echo_request(str(mine), "224.0.0.1"),
            honest[:-1],  # shorter than it says
            honest + b"\0",  # or longer
            b"",
            b"\x60" + bytes(39),  # from ::, in a tunnel without IPv6
        ):
            anna.send_packet(forged)
        anna.send_packet(honest)
        await wait_for(lambda: bool(anna.packets))
        await anna.ask(HEARTBEAT)

        assert [packet[12:20] for packet in anna.packets] == [
            ip_address("10.73.0.1").packed + mine.packed
        ]
        assert bert.packets == []

    swarming(office, lab, story)
    found = {
        reason: int(number)
        for number, reason in re.findall(r"dropped (\d+) packets: (\S+)", office.status())
    }
    assert found == {
        "source-not-own": 3,
        "destination-not-permitted": 2,
        "malformed": 3,
        "multicast-or-link-local": 1,
    }


async def wait_for(done: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


def packed(client: SwarmClient) -> bytes:
    """The IPv4 lease of *client*."""
    return ip_address(client.lease["address4"].split("/")[0]).packed


def echo_request(source: str, destination: str = "") -> bytes:
    """An IPv4 ping; to the server of *source*'s /24, if not elsewhere."""
    ends = [ip_address(source).packed, b""]
    ends[1] = ip_address(destination).packed if destination else ends[0][:3] + b"\x01"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 1, 0) + b"".join(ends)
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return with_checksum(header, 10) + with_checksum(echo, 2)


def with_checksum(data: bytes, place: int) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:place] + struct.pack("!H", ~total & 0xFFFF) + data[place + 2 :]
