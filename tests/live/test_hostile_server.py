"""A client whose server means no good: it believes nothing that its policy forbids, and lives."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.hostile_server import LEASE, Act, HostileServer, Visit, make_certificate
from tests.live.native import ANSWER, LOG_IN, NOTICE, PACKET, REGISTER, SETTINGS, encode_frame
from tests.live.test_plain import udp

PORT = 443
QUICK = "[tunnel]\nmax_backoff = 1s\n"


class Stage:
    """Starts hostile servers at the office and clients at home, and ends them."""

    def __init__(self, lab: Lab, certificate: Path, pin: str) -> None:
        self.lab = lab
        self.certificate = certificate
        self.pin = pin
        self.client: vpn.Program | None = None

    @contextmanager
    def server(self, acts: Sequence[Act]) -> Iterator[HostileServer]:
        with self.lab.hosts["server"].inside():
            sock = socket.create_server((SERVER_ADDRESS, PORT))
        with HostileServer(sock, self.certificate, acts) as server:
            yield server
        assert server.trouble == []

    @contextmanager
    def play(
        self, *acts: Act, pin: str | None = None, more: str = QUICK
    ) -> Iterator[tuple[HostileServer, vpn.Program]]:
        """A server with these acts and a client of it; the client must end well."""
        query = f"?pin={self.pin if pin is None else pin}" if pin != "" else ""
        with self.server(acts) as server:
            link = f"pyvpn://anna@{SERVER_ADDRESS}:{PORT}{query}"
            client = vpn.start_client(self.lab, link, "anna", more=more)
            try:
                yield server, client
            finally:
                status = stop(client.process)
        text = client.log.read_text()
        assert status == 0, text
        assert "Traceback" not in text
        assert "Unhandled" not in text


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """A place with a hostile server's certificate."""
    return Stage(lab, *make_certificate(lab.folder))


def routed(lab: Lab) -> set[str]:
    """What the client has routed into the tunnel."""
    lines = lab.run("laptop", ["ip", "route", "show", "table", "51820"], check=False).stdout
    lines += lab.run("laptop", ["ip", "-6", "route", "show", "table", "51820"], check=False).stdout
    return {line.split()[0] for line in lines.splitlines()}


def good(visit: Visit) -> None:
    """A server as it should be."""
    visit.take_in(LEASE)
    visit.stay(60)


# -- who it is


@pytest.mark.parametrize("pin", ["sha256:" + "A" * 43, ""])
def test_not_our_server(stage: Stage, pin: str) -> None:
    """A server with another key, or no trusted name, hears not one byte inside TLS."""
    heard: list[bytes] = []

    def listen(visit: Visit) -> None:
        while piece := visit.sock.recv(1000):
            heard.append(piece)

    with stage.play(listen, pin=pin) as (server, client):
        words = "does not verify" if pin == "" else r"key is not the one .*nothing was sent"
        said = client.says(rf".*error.*{words}.*next try in (\S+) s")
        assert float(said[1]) >= 300
        server.wait_for_visits(1)
        assert vpn.PASSWORD not in client.log.read_text()
    assert heard == []
    assert len(server.visits) == 1


# -- what it pushes

ABSURD = [
    "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "2000::/3",
    "198.18.2.2/32", "198.18.2.0/24",
    "192.168.50.0/24", "192.168.50.1/32", "192.168.0.0/16",
    "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4",
    "10.1.0.0/33", "10.1.2.3/8", "nonsense", "", "fe80::1%eth0/64",
    "10.2.0.0/16\n2026-01-01T00:00:00+0000 [forged#info] all is well", "\x1b[2J\x1b[31mred",
    "10.3.0.0/16; reboot", "9" * 5000,
]  # fmt: skip


def test_absurd_routes(stage: Stage) -> None:
    """Each bad route is refused by itself, and the good ones between them are taken."""
    mixed = [LEASE["routes"][0], *ABSURD, "10.77.0.0/16"]

    def push(visit: Visit) -> None:
        visit.take_in({**LEASE, "routes": mixed})
        visit.stay(60)

    with stage.play(push) as (_, client):
        client.says("routes into the tunnel")
        time.sleep(0.5)
        assert routed(stage.lab) == {"10.99.0.0/24", "192.168.77.0/24", "10.77.0.0/16"}
        text = client.log.read_text()
        assert re.search(r"not taken from the server: 0.0.0.0/0 is a default route", text)
        assert re.search(r"^20\d\d.*not taken from the server: 198.18.2.2/32 covers", text, re.M)
        assert not re.search(r"^2026-01-01", text, re.M)
        assert "\x1b" not in text
        assert len(text.splitlines()) < 40


def test_absurd_numbers(stage: Stage) -> None:
    """An MTU of 1, a heartbeat of thirty years and name servers that are none are left out."""
    offer = {
        **LEASE,
        "mtu": 1,
        "heartbeat": 1e9,
        "expiry": 1e300,
        "dns": ["192.168.77.53", "no", "0.0.0.0"],  # noqa: S104 - not listened on
        "capabilities": ["fly", "swim"],
        "root_password": None,
    }

    def push(visit: Visit) -> None:
        visit.take_in(offer)
        visit.stay(60)

    with stage.play(push) as (_, client):
        client.says("routes into the tunnel")
        for refused in ("mtu 1 is", r"heartbeat 1e\+09 is", "'no' is", "0.0.0.0 cannot"):
            client.says(f"not taken from the server: {refused}")
        assert "offered (recorded, not applied yet): 192.168.77.53\n" in client.log.read_text()
        link = stage.lab.run("laptop", ["ip", "link", "show", "pyvpnc0"]).stdout
        assert "mtu 1280" in link


def test_many_routes(stage: Stage) -> None:
    """Of very many routes 256 are taken, and the log does not tell of each of the others."""
    some = [f"10.{n}.{m}.0/26" for n in range(2) for m in range(256)]

    def push(visit: Visit) -> None:
        visit.take_in({**LEASE, "routes": [f"nonsense {n}" for n in range(100)] + some})
        visit.stay(60)

    with stage.play(push) as (_, client):
        client.says(r"\.\.\. and 93 more")
        assert 100 < len(routed(stage.lab)) <= 257
        assert len(client.log.read_text().splitlines()) < 40


WRONG: list[bytes | dict[str, Any]] = [
    {**LEASE, "routes": [f"10.{n // 256}.{n % 256}.0/24" for n in range(10_000)]},
    {**LEASE, "routes": "192.168.77.0/24"},
    {**LEASE, "routes": [1, 2]},
    {**LEASE, "routes": {"a": "b"}},
    {**LEASE, "mtu": "1400"},
    {**LEASE, "mtu": 2**70},
    {**LEASE, "mtu": True},
    {**LEASE, "heartbeat": -1},
    {**LEASE, "address4": 7},
    {**LEASE, "address4": "0.0.0.0/0"},
    {**LEASE, "address4": "127.0.0.1/8"},
    {**LEASE, "address4": "fd00::1/64"},
    {**LEASE, "address4": ""},
    {**LEASE, "success": "yes"},
    {"success": True},
    {"success": False, "code": "bad-request\nforged"},
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"success":true,"success":true,"code":"ok"}',
    b'{"heartbeat":NaN,"success":true,"code":"ok"}',
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b'{"mtu":' + b"9" * 5000 + b"}",
]


def test_wrong_answers(stage: Stage) -> None:
    """An answer that is none costs the connection; the next one that is right is taken."""

    def wrongly(lease: bytes | dict[str, Any]) -> Act:
        def act(visit: Visit) -> None:
            visit.take_in(lease)
            visit.stay(5)

        return act

    acts = [wrongly(lease) for lease in WRONG]
    with stage.play(*acts, good) as (server, client):
        server.wait_for_visits(len(WRONG) + 1, 90)
        client.says("routes into the tunnel: .*192.168.77.0/24")
        assert "10.99.0.0/24" in routed(stage.lab)


# -- how it behaves


def close_after(step: int) -> Act:
    """Do the first *step* things that a good server does, then close."""

    def act(visit: Visit) -> None:
        def log_in_answered() -> None:
            visit.answer(visit.expect(LOG_IN)[0], {"success": True, "code": "ok"})

        things: list[Callable[[], object]] = [
            lambda: None,
            lambda: visit.read(3),
            visit.agree,
            lambda: visit.read(5),
            lambda: visit.read_frame,
            lambda: visit.sock.sendall(struct.pack(">i", 100) + b"half"),
        ]
        if step < len(things):
            things[step]()
            return
        visit.agree()
        log_in_answered()
        if step > len(things):
            transaction, _ = visit.expect(REGISTER)
            whole = encode_frame(ANSWER, transaction, json.dumps(LEASE).encode())
            visit.sock.sendall(whole[: [4, 12, 30, len(whole) - 1, len(whole)][step - 7]])

    return act


def test_closing_at_every_step(stage: Stage) -> None:
    """Wherever the server hangs up, the client comes back, and is up when it is let."""
    with stage.play(*map(close_after, range(12)), good) as (server, client):
        server.wait_for_visits(13, 60)
        deadline = time.monotonic() + 10
        while "10.99.0.0/24" not in routed(stage.lab):
            assert time.monotonic() < deadline, client.log.read_text()
            time.sleep(0.1)


def test_backing_off(stage: Stage) -> None:
    """A server that hangs up again and again is asked ever less often."""
    with stage.play(close_after(0), more="") as (server, client):
        server.wait_for_visits(4, 30)
    gaps = [
        after - before for before, after in zip(server.visits, server.visits[1:], strict=False)
    ]
    assert all(gap > 0.45 for gap in gaps), gaps
    assert gaps[2] > 1.2, gaps
    assert "next try in" in client.log.read_text()


def test_flapping(stage: Stage) -> None:
    """One that takes the client in and throws it out at once is not hammered at either."""

    def flap(visit: Visit) -> None:
        visit.take_in(LEASE)
        time.sleep(0.1)

    with stage.play(flap, more="") as (server, _):
        server.wait_for_visits(1)
        time.sleep(8)
    assert 2 <= len(server.visits) <= 8, server.visits


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda visit: visit.agree(b"\x02"), "does not speak version 2.0"),
        (lambda visit: visit.agree(b"\x00"), "does not speak version 2.0"),
        (lambda visit: visit.agree(b"\x07"), "does not speak version 2.0"),
    ],
)
def test_other_version(stage: Stage, act: Act, words: str) -> None:
    """A server of another version is left alone for minutes; there is no falling back to 1.0."""
    with stage.play(act) as (server, client):
        said = client.says(rf"{words}.*next try in (\S+) s")
        assert float(said[1]) >= 300
        time.sleep(1)
        assert len(server.visits) == 1


NOISE = [
    bytes(4),
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    encode_frame(ANSWER, 12345, b"{}") * 100,
    encode_frame(99, 0, b"x") * 100,
    encode_frame(99, 5, b"x") * 20,
    encode_frame(LOG_IN, 6, b"{}"),
    encode_frame(NOTICE, 0, b"not json"),
    encode_frame(SETTINGS, 7, b"not json"),
    encode_frame(SETTINGS, 8, b'{"routes":["0.0.0.0/0"],"mtu":-5}'),
    encode_frame(PACKET, 0, b""),
    encode_frame(PACKET, 0, b"\x45" + bytes(10)),
    bytes(range(256)) * 1000,
]


def test_noise(stage: Stage) -> None:
    """Frames that are none, unasked answers, the other side's commands: nothing breaks."""

    def noisy(noise: bytes) -> Act:
        def act(visit: Visit) -> None:
            visit.take_in(LEASE)
            visit.sock.sendall(noise)
            time.sleep(0.3)

        return act

    with stage.play(*map(noisy, NOISE), good) as (server, client):
        server.wait_for_visits(len(NOISE) + 1, 60)
        assert len(client.log.read_text().splitlines()) < 40 + 6 * len(NOISE)


def test_settings_without_end(stage: Stage) -> None:
    """Settings pushed as fast as the line takes them fill neither log nor memory."""
    sent = []

    def push(visit: Visit) -> None:
        visit.take_in(LEASE)
        time.sleep(0.5)
        visit.sock.settimeout(0.2)
        until = time.monotonic() + 4
        for number in range(1, 100_000):
            routes = [f"198.18.2.{n}/32" for n in range(200)] + [f"10.{number % 200}.0.0/16"]
            try:
                visit.sock.sendall(
                    encode_frame(SETTINGS, number, json.dumps({"routes": routes}).encode())
                )
                visit.sock.recv(65536)
            except TimeoutError:
                pass
            sent.append(number)
            if time.monotonic() > until:
                return

    with stage.play(push, good) as (server, client):
        server.wait_for_visits(2, 30)
        client.says("routes into the tunnel")
        assert len(sent) > 10
        assert client.log.stat().st_size < 200_000, client.log.stat().st_size


def test_forged_packets(stage: Stage) -> None:
    """From the tunnel only what comes from behind the server, and only for the client itself."""
    lab = stage.lab
    ours, behind, port = "10.99.0.2", "192.168.77.9", 4002

    def send(visit: Visit) -> None:
        visit.take_in(LEASE)
        time.sleep(0.5)
        for source, target in (
            ("203.0.113.9", ours),  # not behind the server
            ("192.168.50.1", ours),  # the client's own router
            (behind, "192.168.50.10"),  # the client's address outside
            (behind, "192.168.50.1"),
            ("127.0.0.1", ours),
        ):
            visit.sock.sendall(encode_frame(PACKET, 0, udp(source, target, port, b"forged")))
        visit.sock.sendall(encode_frame(PACKET, 0, udp(behind, ours, port, b"good")))
        visit.stay(30)

    with lab.hosts["laptop"].inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ExitStack() as stack:
        stack.enter_context(receiver)
        receiver.bind(("", port))
        receiver.settimeout(10)
        _, client = stack.enter_context(stage.play(send))
        assert receiver.recvfrom(100) == (b"good", (behind, 4000))
        client.process.send_signal(signal.SIGUSR2)
        assert wait_for_line(client.log, r"dropped (\d+) packets: source-not-own")[1] == "3"
        assert wait_for_line(client.log, r"dropped (\d+) packets: destination-not")[1] == "2"
