"""A server inside the LAN, without a public address, reached through somebody's relay.

The first program's own deployment::

    laptop ---- router ---- internet ---- server ---------- office
                                          the relay         the VPN server, at 192.168.77.20
                                          198.18.2.2        (and a web server at 192.168.77.1)

All clients then share one source, the relay's.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from pyvpn.testing import sandbox, vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, OFFICE_NETWORK, SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.figures import below
from tests.live.office import Office, Web, fetch, wait_until
from tests.live.swarm import Swarm, SwarmClient

RELAY_PORT = 8443  # not the server's: the link has to say so
IN_THE_LAN = "192.168.77.1"
PUBLIC = f"{SERVER_ADDRESS}:{RELAY_PORT}"


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """A web server that only the LAN reaches."""
    with closing(Web(lab, "server")) as server:
        yield server


@pytest.fixture
def relay(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Open a relay of one kind on the host with the public address."""
    with ExitStack() as running:

        def open_relay(kind: str) -> None:
            log = lab.folder / f"relay-{time.monotonic_ns()}.log"
            program = ["python", "-m", "tests.live.relay"]
            words = [*program, str(RELAY_PORT), OFFICE_ADDRESS, "51820", kind]
            if kind == "socat":
                listen = f"TCP6-LISTEN:{RELAY_PORT},fork,reuseaddr,ipv6only=0"
                words = ["socat", listen, f"TCP:{OFFICE_ADDRESS}:51820"]
            process = lab.start("server", words, log)
            running.callback(stop, process)
            if kind == "socat":
                listening = ["ss", "-Hltn", "sport", "=", str(RELAY_PORT)]
                wait_until(lambda: bool(lab.run("server", listening).stdout))
            else:
                wait_for_line(log, "ready", process=process)

        yield open_relay


def attempts(lab: Lab, office: Office, passwords: list[str], host: str = "laptop") -> list[str]:
    """Try *passwords* for anna, a connection each; return the codes of the answers."""

    async def attempt(password: str) -> str:
        client = await SwarmClient().connect(SERVER_ADDRESS, RELAY_PORT, pin(office))
        answer = await client.log_in("anna", password)
        client.drop()
        return str(answer["code"])

    async def all_of_them() -> list[str]:
        return [await attempt(password) for password in passwords]

    with lab.hosts[host].inside():
        return asyncio.run(all_of_them())


def pin(office: Office) -> str:
    return office.link.partition("pin=")[2]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "socat",
            marks=pytest.mark.skipif(
                shutil.which("socat", path=sandbox.environment()["PATH"]) is None,
                reason="socat is missing: sudo apt-get install socat",
            ),
        ),
        "none",
    ],
)
def test_through_a_relay(
    office: Office, lab: Lab, web: Web, relay: Callable[[str], None], kind: str
) -> None:
    """The LAN is reached through a relay that says nothing of its clients, and so is the link."""
    digest = web.put(f"relay-{kind}", 3)
    relay(kind)
    office.open(f"trusted_relays = {IN_THE_LAN}\n", host="office", endpoint=PUBLIC)
    assert office.link.startswith(f"pyvpn://{PUBLIC}?pin=sha256:")
    office.join()

    office.server.says(r"anna/\S+ is here from relay 192\.168\.77\.1: 10\.73\.0\.2")
    assert OFFICE_NETWORK in office.routes()
    assert office.pings("laptop", IN_THE_LAN, 5) == 5
    assert office.pings("laptop", OFFICE_ADDRESS, 5) == 5  # the server itself, in its LAN
    assert office.pings("office", office.lease()[0], 5) == 5
    assert fetch(lab, "laptop", f"http://{IN_THE_LAN}/relay-{kind}") == digest
    assert web.visitor(f"relay-{kind}") == OFFICE_ADDRESS


def test_relay_restarted(office: Office, lab: Lab, relay: Callable[[str], None]) -> None:
    """A relay that goes away and comes back costs the connection, not the address."""
    with ExitStack() as first:
        log = lab.folder / "relay-first.log"
        words = ["python", "-m", "tests.live.relay", str(RELAY_PORT), OFFICE_ADDRESS, "51820"]
        process = lab.start("server", words, log)
        first.callback(stop, process)
        wait_for_line(log, "ready", process=process)
        office.open(f"trusted_relays = {IN_THE_LAN}\n", host="office", endpoint=PUBLIC)
        office.join()
        mine = office.lease()
    office.server.says("connection lost")
    relay("none")

    below(office.wait_for_ping(address=IN_THE_LAN), 5)
    assert office.lease() == mine
    assert office.leases_in_use() == 1


@pytest.mark.parametrize("endpoint", [PUBLIC, f"[{SERVER_ADDRESS6}]:{RELAY_PORT}"])
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_proxy_protocol(
    office: Office, lab: Lab, relay: Callable[[str], None], kind: str, endpoint: str
) -> None:
    """From a relay that says for whom it speaks, the log has the client's own address."""
    relay(kind)
    office.open(f"proxy_protocol_relays = {IN_THE_LAN}\n", host="office", endpoint=endpoint)
    office.join()

    # The home router's for IPv4, which it translates; the laptop's own for IPv6.
    source = "198.18.1.2" if endpoint == PUBLIC else "2001:db8:50::10"
    place = office.server.says(r"anna/\S+ is here from (.*?): 10\.73")[1]
    assert place == source
    assert office.pings("laptop", IN_THE_LAN, 5) == 5


def test_header_only_from_its_relay(office: Office, lab: Lab) -> None:
    """A PROXY header from anybody else is garbage, and a relay that owes one gets nowhere."""
    office.open(f"proxy_protocol_relays = {IN_THE_LAN}\n", host="office")
    honest = b"PROXY TCP4 203.0.113.9 198.18.2.2 5555 51820\r\n"
    with lab.hosts["office"].inside():  # from its own address, which is no relay's
        forger = socket.create_connection((OFFICE_ADDRESS, 51820), 5)
    with lab.hosts["server"].inside():
        silent = socket.create_connection((OFFICE_ADDRESS, 51820), 5)
    with forger, silent:
        forger.sendall(honest)
        assert forger.recv(100)[:1] in (b"", b"\x15")  # closed, after TLS's alert at most
        silent.sendall(b"\x16\x03\x01 no header at all, but something like TLS\r\n")
        assert silent.recv(100) == b""
    assert "203.0.113.9" not in office.server.log.read_text()


@pytest.mark.parametrize("trusted", [True, False])
def test_bad_guesses_of_another(
    office: Office, lab: Lab, relay: Callable[[str], None], trusted: bool
) -> None:
    """Behind a trusted relay, one who guesses does not lock the others out of their accounts.

    The twin: without it, all are one source, and pay for each other's mistakes.
    """
    relay("none")
    more = f"trusted_relays = {IN_THE_LAN}\n" if trusted else ""
    office.open(more, host="office", endpoint=PUBLIC)
    codes = attempts(lab, office, ["wrong"] * 5 + [vpn.PASSWORD])

    if trusted:
        assert codes == ["bad-credentials"] * 5 + ["ok"]
    else:
        # Three are free, then a pause that begins with each further failure.
        assert codes == ["bad-credentials"] * 3 + ["slow-down"] * 3


def test_guesses_count_by_the_address_in_the_header(
    office: Office, lab: Lab, relay: Callable[[str], None]
) -> None:
    """With the PROXY protocol the one who guesses waits, and somebody elsewhere does not."""
    relay("v2")
    elsewhere = lab.add_laptop(at_home=False)
    office.open(f"proxy_protocol_relays = {IN_THE_LAN}\n", host="office", endpoint=PUBLIC)

    assert attempts(lab, office, ["wrong"] * 4)[3] == "slow-down"
    assert attempts(lab, office, [vpn.PASSWORD], elsewhere) == ["ok"]


@pytest.mark.parametrize("trusted", [True, False])
def test_silent_connections(
    office: Office, lab: Lab, relay: Callable[[str], None], trusted: bool
) -> None:
    """Silent connections through a trusted relay do not use up a share that all have in common."""
    relay("none")
    more = f"trusted_relays = {IN_THE_LAN}\n" if trusted else ""
    office.open(more + "unauthenticated_per_source = 4\n", host="office", endpoint=PUBLIC)
    with ExitStack() as silent:
        with lab.hosts["laptop"].inside():
            for _ in range(20):
                one = socket.create_connection((SERVER_ADDRESS, RELAY_PORT), 5)
                silent.enter_context(one)
        count = 20 if trusted else 4
        wait_until(lambda: f"0 sessions, {count} connections" in office.status())

        async def log_in() -> bool:
            async with Swarm(SERVER_ADDRESS, RELAY_PORT, pin(office), vpn.PASSWORD) as swarm:
                return await swarm.join("anna") is not None

        with lab.hosts["laptop"].inside():
            if trusted:
                assert asyncio.run(log_in())
            else:
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    asyncio.run(log_in())
