"""``make demo-faults``: a download goes on while one thing after the other happens to the network.

Each step tells the longest time without an answer to a ping that is sent every 10 ms.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from pyvpn.errors import HostError
from pyvpn.testing import faults, vpn
from pyvpn.testing.demo import Demonstration, Stage, Steps, main
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, SERVER_ADDRESS6, Lab
from pyvpn.testing.namespace import wait_for_line

RATE = 2
"""Mebibytes a second of the download: slow enough to last."""
MEBIBYTES = 56
_REPLY = re.compile(r"^\[([\d.]+)\] \d+ bytes from", re.MULTILINE)


class Faults(Demonstration):
    """The second act."""

    def __init__(self, lab: Lab, stage: Stage) -> None:
        super().__init__(lab, stage)
        self.endpoint = f"{SERVER_ADDRESS}, [{SERVER_ADDRESS6}]"
        self._pinging: subprocess.Popen[bytes]
        self._ping_log = Path()
        self._loading: subprocess.Popen[bytes]
        self._digest = ""

    def open_the_office(self) -> None:
        faults.add_second_network(self._lab)
        super().open_the_office()

    def begin(self) -> None:
        """Start the download and the ping."""
        stage, lab = self._stage, self._lab
        stage.step(f"She fetches {MEBIBYTES} MiB from the office, slowly, and pings it")
        data = os.urandom(MEBIBYTES * 2**20)
        self._digest = hashlib.sha256(data).hexdigest()
        (lab.folder / "www" / "large").write_bytes(data)
        self._target = lab.folder / "large"
        curl = ["curl", "-sSf", "--limit-rate", f"{RATE}M", "-o", str(self._target)]
        curl.append(f"http://{OFFICE_ADDRESS}/large")
        stage.command("laptop", " ".join(curl[:5]) + f" {curl[-1]}")
        self._loading = lab.start("laptop", curl, lab.folder / "curl.log")
        self._ping_log = lab.folder / "ping.log"
        ping = ["ping", "-n", "-D", "-i", "0.01", "-W", "1", OFFICE_ADDRESS]
        self._pinging = lab.start("laptop", ping, self._ping_log)
        wait_for_line(self._ping_log, _REPLY.pattern, process=self._pinging)
        time.sleep(1)

    def block_udp(self) -> None:
        """A network that lets no UDP through, and then does again."""

        def happen() -> None:
            with faults.blocked(self._lab):
                self._client.says("packets go by TCP", 15)
                self._stage.good("UDP is blocked: packets go along the TLS connection")
                time.sleep(1)
            self._client.says("it answers again", 60)
            self._stage.good("UDP is back: packets go by UDP")

        self._happens("Somebody blocks UDP, and unblocks it", happen, 10)

    def move(self) -> None:
        """Another network, and home again; then an IPv6 one."""

        def happen() -> None:
            for version in 4, 6:
                faults.move(self._lab, version=version)
                time.sleep(1.5)
                faults.move_back(self._lab)
                time.sleep(1.5)

        self._happens(
            "She takes her laptop to another network, to an IPv6 one, and back", happen, 3
        )

    def rebind(self) -> None:
        """The home's public address changes, and its NAT forgets everything."""

        def happen() -> None:
            faults.renumber_home(self._lab, 7)
            time.sleep(2)

        self._happens("Her provider gives her home another public address", happen, 10)

    def kill_the_server(self) -> None:
        """kill -9, and a new start."""

        def happen() -> None:
            self._stage.command("server", f"kill -9 {self._server.process.pid}")
            self._server.process.kill()
            self._server.process.wait()
            self._server = vpn.start_server(self._lab, endpoint=self.endpoint)
            self._client.says("packets go by UDP.*: it answers$", 15)
            time.sleep(1)

        self._happens("The server is killed, and started again", happen, 10)

    def let_an_app_in(self) -> None:
        """A stock WireGuard app beside the client."""
        stage, lab = self._stage, self._lab
        stage.step("A phone with a stock WireGuard app comes, too")
        stage.command("server", "pyvpn device add anna phone --wireguard")
        pyvpn = ["python", "-c", "from pyvpn.cli import main; main()"]
        add = [*pyvpn, "device", "add", "anna", "phone", "--wireguard"]
        made = lab.run("server", [*add, "--config", str(self._server.config)])
        if not lab.has("wg-quick") or not lab.has("wireguard-go"):
            stage.plain("    not shown: wg-quick and wireguard-go are not installed here")
            return
        phone = lab.add_laptop()
        conf = lab.write("phone0.conf", made.stdout)
        stage.command(phone, "wg-quick up phone0.conf")
        go = ["env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go"]
        lab.run(phone, [*go, "wg-quick", "up", str(conf)])
        # The server looks for new devices once a second, and an app asks every five.
        began = time.monotonic()
        while not self._pings(phone, OFFICE_ADDRESS, patience=0.5):
            if time.monotonic() - began > 12:
                raise HostError("no answer from the office within 12 s")
        self._show_ping(phone, OFFICE_ADDRESS)
        lab.run(phone, ["wg-quick", "down", str(conf)])

    def end(self) -> None:
        """The download must be whole."""
        stage = self._stage
        stage.step("The download")
        if self._loading.wait(60) != 0:
            raise HostError(f"curl ended with {self._loading.returncode}")
        digest = hashlib.sha256(self._target.read_bytes()).hexdigest()
        if digest != self._digest:
            raise HostError("what arrived is not what was sent")
        stage.good(f"{MEBIBYTES} MiB, SHA-256 as it should be: {digest[:16]}...")
        self._pinging.send_signal(signal.SIGINT)
        self._pinging.wait(5)

    def _happens(self, what: str, happen: Callable[[], None], most: float) -> None:
        """Let it happen; tell the longest silence meanwhile, which may be *most* seconds."""
        self._stage.step(what)
        began = time.time()
        happen()
        if self._loading.poll() not in (None, 0):
            raise HostError("the download broke")
        answers = [float(each) for each in _REPLY.findall(self._ping_log.read_text())]
        since = [began, *(each for each in answers if each > began), time.time()]
        gap = max(after - before for before, after in pairwise(since))
        if gap > most:
            raise HostError(f"no answer for {gap:.1f} s, at most {most:g} s were promised")
        self._stage.good(f"the longest silence: {gap:.2f} s; the download goes on")


def second_act(lab: Lab, stage: Stage) -> Steps:
    """All of it."""
    story = Faults(lab, stage)
    return [
        story.open_the_office,
        story.join,
        story.begin,
        story.block_udp,
        story.move,
        story.rebind,
        story.kill_the_server,
        story.let_an_app_in,
        story.end,
        story.close_the_office,
    ]


if __name__ == "__main__":
    sys.exit(main(second_act))
