"""Keys are renewed, lines are silent, handshakes cross and get lost: what takes its time.

::

    laptop, laptop2, laptop3 (apps) ---- router ---- internet ---- server ---- office
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_ADDRESS6, Lab
from tests.live.between import ADDRESS, Between, untouched
from tests.live.figures import above, below, between
from tests.live.office import SOAKING, Office, Web, fetch, tell, wait_until
from tests.live.stock import (
    DATA,
    GOS,
    INITIATION,
    PORT,
    RESPONSE,
    App,
    Peer,
    Wire,
    add_device,
    app,
    drops,
    losing,
    rules,
    server_peers,
)

RENEWAL_SECONDS = 120
CLIENTS = 100 if SOAKING else 6


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


def peer_of(lab: Lab, phone: App) -> Peer:
    """The app as the server sees it."""
    return next(
        peer for peer in server_peers(lab) if peer.allowed.startswith(f"{phone.addresses[0]}/")
    )


def test_two_minutes(office: Office, lab: Lab) -> None:
    """Keys are renewed under load without a packet lost, by whichever end began; silence is kept.

    One app has begun its handshake itself, another was called back by a server that had been
    killed: there it is the server that begins the next. A third has no keepalive and nobody
    wants anything of it: it and the server say nothing to each other at all.
    """
    office.open(users=("anna", "bert", "carl"))
    second, third = lab.add_laptop(), lab.add_laptop()
    with ExitStack() as stack:
        called = stack.enter_context(app(office, second, "bert"))
        assert office.pings(second, OFFICE_ADDRESS, 3) == 3
        time.sleep(1.5)
        office.kill(office.server)
        office.start_server().says("stock WireGuard apps come")
        office.wait_for_ping(second)
        calling = stack.enter_context(app(office, go=GOS[-1]))
        file = add_device(office, "carl").without("PersistentKeepalive")
        idle = stack.enter_context(App(lab, third, file))
        assert office.pings(third, OFFICE_ADDRESS, 3) == 3
        places = {phone: peer_of(lab, phone).endpoint for phone in (calling, called, idle)}
        dropped = drops(office)
        wire = stack.enter_context(Wire(lab))
        one = stack.enter_context(office.steady_ping())
        other = stack.enter_context(office.steady_ping(second, OFFICE_ADDRESS6))
        quiet_from = time.time() + 16  # the last keepalives of what there was
        deadline = time.monotonic() + (600 if SOAKING else RENEWAL_SECONDS + 30)
        handshakes: dict[App, list[tuple[float, str, int]]] = {calling: [], called: []}
        silence = []
        while time.monotonic() < deadline:
            for sight in wire.look():
                ends = {f"{address}:{port}" for address, port in (sight.source, sight.target)}
                who = "server" if sight.source[1] == PORT else "app"
                for phone, seen in handshakes.items():
                    if places[phone] in ends and sight.kind != DATA:
                        seen.append((sight.at, who, sight.kind))
                if places[idle] in ends and sight.at > quiet_from:
                    silence.append((who, sight.kind))
            wire.seen.clear()
            time.sleep(0.1)
            if all(len(seen) >= 2 for seen in handshakes.values()) and not SOAKING:
                deadline = min(deadline, time.monotonic() + 5)
    for phone, steady, began in (calling, one, "app"), (called, other, "server"):
        tell(
            f"renewed by the {began}: {len(steady.replies)} pings, {steady.lost} lost, "
            f"longest gap {steady.gap:.2f} s"
        )
        other_end = {"app": "server", "server": "app"}[began]
        assert [seen[1:] for seen in handshakes[phone][:2]] == [
            (began, INITIATION), (other_end, RESPONSE)
        ]  # fmt: skip
        above(len(steady.replies), 4000)
        assert steady.lost == 0
    assert silence == []
    assert drops(office) == dropped


def test_handshakes_cross(office: Office, lab: Lab) -> None:
    """Both ends begin in the same moment, each before it hears of the other: they agree."""
    office.open()
    slow = 0.25  # seconds each way

    def late(who: str, datagram: bytes) -> list[tuple[float, bytes]]:
        return [(slow, datagram)]

    file = add_device(office).but(Endpoint=f"{ADDRESS}:{PORT}").without("PersistentKeepalive")
    with Between(lab) as between:
        with App(lab, "laptop", file, GOS[-1]):
            assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3
            time.sleep(1.5)
            office.kill(office.server)
        between.treat = late
        with App(lab, "laptop", file, GOS[-1]) as phone:
            before = len(between.seen)
            office.start_server()
            wait_until(lambda: ("server", INITIATION) in between.kinds()[before:])
            with (
                office.steady_ping("laptop", OFFICE_ADDRESS, 0.05) as up,
                office.steady_ping("office", phone.addresses[1], 0.05) as down,
            ):
                time.sleep(4)
                between.treat = untouched
                time.sleep(0.5)
            begun = [
                (round(at, 2), who)
                for at, who, datagram in between.seen[before:]
                if datagram[0] == INITIATION
            ]
            tell(f"crossing: {begun}, lost {up.lost} and {down.lost}, gaps {up.gap:.2f}")
            assert {who for _, who in begun} == {"app", "server"}
            assert abs(begun[0][0] - begun[1][0]) < slow, "they did not cross"
            assert len(begun) <= 3
            # What was sent before there was a key has waited for it; nothing is lost later.
            below(up.lost, 4)
            below(down.lost, 4)
            assert office.pings("laptop", OFFICE_ADDRESS, 20) == 20
            assert office.pings("office", phone.addresses[0], 20) == 20


def test_one_in_five_is_lost(office: Office, lab: Lab, web: Web) -> None:
    """Of all datagrams, each way: every app gets its handshake within 90 s, and a file whole."""
    office.open()
    files = [add_device(office, "anna", f"app{number}") for number in range(CLIENTS)]
    digest = web.put("lossy", 0.1)
    phones: dict[App, float] = {}
    with ExitStack() as stack, rules(lab, "internet", *losing(20)):
        for file in files:  # one host for all: only the first of them is to be routed to
            alone = file.but(AllowedIPs=f"10.255.0.{len(phones)}/32") if phones else file
            phone = App(lab, "laptop", alone, GOS[len(phones) % len(GOS)])
            phones[stack.enter_context(phone)] = time.monotonic()
        took: dict[App, float] = {}

        def all_there() -> bool:
            for phone in phones.keys() - took.keys():
                if phone.said("Received handshake response"):
                    took[phone] = time.monotonic() - phones[phone]
            return len(took) == len(phones)

        wait_until(all_there, 90, "handshakes")
        seconds = sorted(took.values())
        tell(
            f"20 % lost each way: {len(seconds)} handshakes, median "
            f"{statistics.median(seconds):.1f} s, longest {seconds[-1]:.1f} s"
        )
        began = time.monotonic()
        assert fetch(lab, "laptop", f"http://{OFFICE_ADDRESS}/lossy", 60) == digest
        tell(f"100 KiB over it: {time.monotonic() - began:.1f} s")
        between(30, office.pings("laptop", OFFICE_ADDRESS, 100, 0.2), 90)  # 64 are to be expected


def test_order_repeats_and_damage(office: Office, lab: Lab, web: Web) -> None:
    """Datagrams come in any order, twice, and with a bit turned: inside all is as it was sent.

    Whatever is damaged is dropped and counted, and nothing is delivered twice.
    """
    office.open("[firewall]\nmasquerade = no\n")
    chance = random.Random(1)

    def shuffled(who: str, datagram: bytes) -> list[tuple[float, bytes]]:
        arrivals = [(chance.random() * 0.05, datagram)]
        if chance.random() < 0.3:
            arrivals.append((chance.random() * 0.05, datagram))
        if chance.random() < 0.3:
            place = chance.randrange(len(datagram))
            turned = datagram[place] ^ 1 << chance.randrange(8)
            arrivals.append(
                (
                    chance.random() * 0.05,
                    datagram[:place] + bytes([turned]) + datagram[place + 1 :],
                )
            )
        return arrivals

    file = add_device(office).but(Endpoint=f"{ADDRESS}:{PORT}")
    digest = web.put("shuffled", 0.5)
    with Between(lab, shuffled) as between, App(lab, "laptop", file) as phone:
        office.wait_for_ping()
        for host, address in ("laptop", OFFICE_ADDRESS), ("office", phone.addresses[1]):
            ping = ["ping", "-n", "-q", "-c", "200", "-i", "0.005", "-W", "2", address]
            said = lab.run(host, ping).stdout
            assert "200 received" in said, said
            assert "duplicates" not in said, said
        assert fetch(lab, "laptop", f"http://{OFFICE_ADDRESS}/shuffled", 60) == digest
        found = drops(office)
        tell(f"shuffled: {len(between.seen)} datagrams, {dict(found)}")
        assert found["packet-replayed"] > 50
        assert found["packet-forged"] > 50
        assert set(found) <= {
            "packet-replayed", "packet-forged", "unknown-receiver-index", "no-wireguard-message",
            "handshake-refused", "wireguard-key-not-ours", "handshake-replayed",
        }  # fmt: skip
