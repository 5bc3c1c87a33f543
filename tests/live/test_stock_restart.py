"""The server is killed, stopped, cut off or loses its clock; stock apps hardly notice.

A stock app alone takes fifteen seconds to find out that its server has forgotten it.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pyvpn.net.process import boottime
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.namespace import ip
from tests.live.core import Core
from tests.live.figures import below
from tests.live.office import KILLS, SOAKING, Office, SteadyPing, Web, tell, wait_until
from tests.live.stock import (
    INITIATION,
    PORT,
    RESPONSE,
    App,
    Wire,
    add_device,
    app,
    drops,
    each_go,
    server_peers,
)

DOWNLOAD_MIB = 200 if SOAKING else 40
SERVER, HOME = "198.18.2.2", "198.18.1.2"
BACK_SECONDS = 3.0
"""Promised is one; the machine that this runs on is shared."""


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Web]:
    """The office's web server."""
    with closing(Web(lab)) as server:
        yield server


@contextmanager
def download(office: Office, name: str) -> Iterator[Callable[[], str]]:
    """Fetch *name* in the background; waits for its end and gives its SHA-256."""
    target = office.lab.folder / f"{office.name}-download"
    curl = ["curl", "-sSf", "--max-time", "90", "-o", str(target)]
    url = f"http://{OFFICE_ADDRESS}/{name}"
    process = office.lab.start("laptop", [*curl, url], office.lab.folder / "curl.log")

    def whole() -> str:
        assert process.wait(90) == 0
        return office.lab.run("laptop", ["sha256sum", str(target)]).stdout.split()[0]

    wait_until(lambda: target.exists() and target.stat().st_size > DOWNLOAD_MIB * 2**20 * 0.2)
    try:
        yield whole
    finally:
        process.kill()
        process.wait()
        target.unlink(missing_ok=True)


def restart(office: Office) -> float:
    """Start the server again; when it was up (unix time)."""
    office.start_server().says("stock WireGuard apps come")
    return time.time()


def back_after(ping: SteadyPing, up: float, died: float) -> float:
    """How many seconds after *up* the first answer came that came after *died*."""
    wait_until(lambda: ping.replies[-1][0] > died + 0.2, 30, "traffic again")
    return next(when for when, _ in ping.replies if when > died + 0.2) - up


@each_go
def test_killed_during_a_download(office: Office, web: Web, go: str) -> None:
    """kill -9 in the middle of a download: it goes on a moment after the server is up again."""
    digest = web.put("download", DOWNLOAD_MIB)
    office.open()
    with app(office, go=go) as phone:
        assert office.pings("laptop", OFFICE_ADDRESS) == 1
        time.sleep(1.5)  # where it is is written down once a second
        with office.steady_ping(seconds=0.02) as ping, download(office, "download") as whole:
            office.kill(office.server)
            died = time.time()
            time.sleep(0.5)
            up = restart(office)
            back = back_after(ping, up, died)
            assert whole() == digest
        tell(f"kill -9: back {back:.2f} s after the server was up, longest gap {ping.gap:.2f} s")

        below(back, BACK_SECONDS)
        assert phone.said("Received handshake initiation") >= 1


def test_stopped_and_killed_again_and_again(office: Office, lab: Lab) -> None:
    """By SIGTERM or SIGKILL: each time the app is back at once.

    Its addresses are the same, and a connection that was open before is open after it.
    """
    office.open()
    with app(office) as phone, lab.hosts["office"].inside():
        listening = socket.create_server(("", 7007))
        with lab.hosts["laptop"].inside():
            talking = socket.create_connection((OFFICE_ADDRESS, 7007), 5)
        answering, _ = listening.accept()
        with listening, talking, answering, office.steady_ping(seconds=0.02) as ping:
            time.sleep(1.5)
            for number in range(KILLS if SOAKING else 2):
                died = time.time()
                if number % 2:
                    office.end(office.server)
                else:
                    office.kill(office.server)
                up = restart(office)
                tell(f"{('SIGKILL', 'SIGTERM')[number % 2]}: {back_after(ping, up, died):.2f} s")
                below(back_after(ping, up, died), BACK_SECONDS)
                talking.sendall(b"still here")
                assert answering.recv(100) == b"still here"
                time.sleep(1.2)
        assert office.pings("office", phone.addresses[0], 3) == 3


def test_another_port(office: Office, lab: Lab) -> None:
    """An app behind a NAT uses the second of three ports: after a crash it is called from there.

    From the first nothing would get through to it.
    """
    office.open("listen = 198.18.2.2:51820, 198.18.2.2:443, [2001:db8:2::2]:51820\n")
    file = add_device(office).but(Endpoint="198.18.2.2:443")
    with App(lab, "laptop", file) as phone:
        assert office.pings("laptop", OFFICE_ADDRESS, 3) == 3
        assert office.pings("office", phone.addresses[0], 3) == 3
        time.sleep(1.5)
        office.kill(office.server)
        up = restart(office)
        office.wait_for_ping()
        tell(f"second port: back {time.time() - up:.2f} s after the server was up")
        below(time.time() - up, BACK_SECONDS)
        assert phone.peer.endpoint == "198.18.2.2:443"


def test_replays(office: Office, lab: Lab) -> None:
    """Everything that was said is said again, by others: nothing is delivered, nothing moves.

    While the session lives, and after the server was killed: it remembers enough.
    """
    office.open("[firewall]\nmasquerade = no\n")
    elsewhere = lab.add_laptop(at_home=False)
    with lab.hosts["office"].inside():
        delivered = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with (
        delivered,
        Wire(lab) as first,
        app(office) as phone,
        Core(lab, elsewhere, phone.file) as other,
    ):
        assert office.pings("laptop", OFFICE_ADDRESS, 20) == 20
        said = [each.payload for each in first.look() if each.source[1] != PORT]
        assert said[0][0] == INITIATION
        place = server_peers(lab)[0].endpoint
        delivered.settimeout(0.3)
        assert len(everything(delivered)) >= 20

        for round_, reason in enumerate(("packet-replayed", "unknown-receiver-index")):
            with Wire(lab) as wire:
                for datagram in said * 3:
                    other.send_datagram(datagram)
                wait_until(lambda: drops(office)[reason] >= 3 * (len(said) - 1))  # noqa: B023
                assert drops(office)["handshake-replayed"] == 3
                assert {who for who, _ in wire.kinds()} == {"app"}
            assert everything(delivered) == []
            assert server_peers(lab)[0].endpoint == place
            if round_ == 0:
                time.sleep(1.2)
                office.kill(office.server)
                restart(office)
                tell(f"back after {office.wait_for_ping():.2f} s")
                everything(delivered)
        assert office.pings("laptop", OFFICE_ADDRESS, 20) == 20
        assert server_peers(lab)[0].endpoint == place


def everything(sock: socket.socket) -> list[bytes]:
    """What arrives, until nothing does."""
    came = []
    while True:
        try:
            came.append(sock.recv(2048))
        except TimeoutError:
            return came


def test_handshake_that_was_taken_away(office: Office, lab: Lab) -> None:
    """Somebody plays a handshake of the app that never arrived: no tunnel, and no place.

    It is newer than anything the server knows, so it is answered; what follows needs the key.
    """
    office.open()
    elsewhere = lab.add_laptop(at_home=False)
    with app(office) as phone, Core(lab, elsewhere, phone.file) as thief:
        assert office.pings("laptop", OFFICE_ADDRESS) == 1
        place = server_peers(lab)[0].endpoint
        with Core(lab, "laptop", phone.file.but(Endpoint="198.18.1.1:9")) as unheard:
            unheard.peer.send_keepalive(boottime())
        with office.steady_ping(seconds=0.02) as ping, Wire(lab) as wire:
            thief.send_datagram(unheard.sent[0])
            thief.run(2)
            to_it = [each.kind for each in wire.look() if each.target[0] not in (SERVER, HOME)]
        assert to_it == [RESPONSE]
        assert len(thief.heard) == 1
        assert server_peers(lab)[0].endpoint == place
        assert ping.lost == 0


def test_clock_an_hour_back(
    office: Office, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts with its clock an hour back calls its apps all the same.

    Its handshakes are later than all it has sent: it has kept how far it had got.
    """
    office.open()
    with app(office) as phone, office.steady_ping(seconds=0.02) as ping:
        time.sleep(1.5)
        office.kill(office.server)
        died = time.time()
        shifted = "import time\n_right = time.time\ntime.time = lambda: _right() - 3600\n"
        (tmp_path / "sitecustomize.py").write_text(shifted)
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", str(tmp_path))
            up = restart(office)
        back = back_after(ping, up, died)
        tell(f"an hour back: {back:.2f} s after the server was up")
        below(back, BACK_SECONDS)
        assert phone.said("Received handshake initiation") >= 1


def test_cut_off_and_frozen(office: Office, lab: Lab) -> None:
    """The server's cable is out, then the process stands still: on it goes when that is over."""

    def pull() -> None:
        ip("-n", "server", "link", "set", "wan", "down")

    def plug_in() -> None:
        ip("-n", "server", "link", "set", "wan", "up")
        ways = "address add 2001:db8:2::2/64 dev wan\nroute add default via 198.18.2.1\n"
        ip("-n", "server", script=ways + "route add default via 2001:db8:2::1\n")

    pull()  # once before all, for that puts the host's routes into another order
    plug_in()
    office.open()
    with app(office) as phone, office.steady_ping(seconds=0.02) as ping:
        for _ in range(2 if SOAKING else 1):
            pull()
            office.pings("office", phone.addresses[0], 5, 0.1)
            plug_in()
            up = time.time()
            wait_until(lambda: ping.replies[-1][0] > up, 5)  # noqa: B023
            tell(f"cable in: {ping.replies[-1][0] - up:.2f} s")
        office.server.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        office.server.process.send_signal(signal.SIGCONT)
        up = time.time()
        wait_until(lambda: ping.replies[-1][0] > up, 5)
        tell(f"thawed: {ping.replies[-1][0] - up:.2f} s")
