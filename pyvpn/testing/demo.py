"""``make demo``: somebody at home reaches the office, shown from the first ping to the goodbye.

Everything is real (kernel, programs, configuration files, TLS) but the cables. ``--stay``, which
is ``make lab``, stops once the VPN is up and leaves it to be played with.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyvpn.errors import HostError, PyvpnError
from pyvpn.testing import sandbox, vpn
from pyvpn.testing.lab import (
    OFFICE_ADDRESS,
    OFFICE_ADDRESS6,
    OFFICE_NETWORK,
    OFFICE_NETWORK6,
    SERVER_ADDRESS,
    Lab,
)
from pyvpn.testing.namespace import last_lines, stop, wait_for_line

TUN = "pyvpnc0"  # the client's default
PICTURE = """
   laptop -------- router ------- internet ---- server ------- office
   192.168.50.10   198.18.1.2                   198.18.2.2     192.168.77.20
   anna, at home   NAT                          192.168.77.1   a web server
"""
PAGE = """\
<!doctype html>
<title>Office</title>
<h1>The office's own web server</h1>
<p>If you read this, you are in.</p>
"""


class Stage:
    """Where the story is told: numbered steps, the commands, and what came of them."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._start = time.monotonic()
        self._steps = 0

    def seconds(self) -> float:
        """Seconds since the curtain rose."""
        return time.monotonic() - self._start

    def title(self, text: str) -> None:
        """Print the headline."""
        print(f"\n{self._paint('1', text)}", flush=True)

    def step(self, text: str) -> None:
        """Begin a step."""
        self._steps += 1
        print(f"\n{self._paint('1', f'{self._steps:2}  {text}')}", flush=True)

    def command(self, host: str, text: str) -> None:
        """Show a command and where it runs."""
        print(f"    {self._paint('2', f'{host}$ {text}')}", flush=True)

    def good(self, text: str) -> None:
        """Tell what worked."""
        print(f"    {self._paint('32', 'ok')}  {text}", flush=True)

    def bad(self, text: str) -> None:
        """Tell what did not."""
        first, *more = text.splitlines()
        print(f"    {self._paint('31', '!!')}  {first}", flush=True)
        for line in more:
            print(f"        {line}", flush=True)

    def plain(self, text: str) -> None:
        """Say something in between."""
        print(text, flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


class Demonstration:
    """The story, a method for each step; the first that raises HostError ends it."""

    def __init__(self, lab: Lab, stage: Stage) -> None:
        self._lab = lab
        self._stage = stage
        self.endpoint = SERVER_ADDRESS
        """Where the server says that it is."""

    def open_the_office(self) -> None:
        """Start the office's web server and the VPN server, and make an account."""
        stage, lab = self._stage, self._lab
        stage.step("The office opens: a web server inside, the VPN server at the door")
        folder = lab.folder / "www"
        folder.mkdir()
        self._www = lab.folder / "www.log"
        (folder / "index.html").write_text(PAGE)
        web = ["python", "-m", "http.server", "--bind", OFFICE_ADDRESS, "-d", str(folder), "80"]
        process = lab.start("office", web, self._www)
        self._before = {host: lab.hosts[host].state() for host in ("laptop", "server")}
        stage.command("server", "twistd -n vpnserver --config server.ini")
        began = time.monotonic()
        self._server = vpn.start_server(lab, endpoint=self.endpoint)
        self._link = vpn.link(self._server)
        stage.good(f"ready after {time.monotonic() - began:.1f} s; it says what a client needs:")
        stage.plain(f"        {self._link}")
        wait_for_line(self._www, "Serving", process=process)
        stage.command("server", "pyvpn user add anna --config server.ini")
        vpn.add_user(lab, self._server, "anna")
        stage.good("anna has an account; her password is asked for, or piped in")

    def try_without(self) -> None:
        """Show that there is no way in without the VPN."""
        self._stage.step("From home, without the VPN")
        self._stage.command("laptop", f"ping -c 1 {OFFICE_ADDRESS}")
        if self._pings("laptop", OFFICE_ADDRESS, patience=0.5):
            raise HostError("the office answered: the lab leaks, so nothing below would count")
        self._stage.good("no answer, as it should be")

    def join(self) -> None:
        """Start the client and show what it was given."""
        stage = self._stage
        stage.step("anna starts her client, for the first time")
        stage.command("laptop", "twistd -n vpnclient --config client.ini")
        seconds = self._start_client(vpn.PASSWORD)
        stage.good(f"the office answers {seconds:.1f} s after the start of the client")
        lease = self._lab.run("laptop", ["ip", "-br", "address", "show", TUN]).stdout.split()[2:]
        if not lease:
            raise HostError(f"{TUN} has no address")
        stage.good(f"lease: {', '.join(lease)}")
        stage.good(self._client.says(r"(packets go by UDP to \S+):", 5)[1])
        self._lease = lease[0].partition("/")[0]
        routes = [
            line.split()[0]
            for family in ("-4", "-6")
            for line in self._lab.run(
                "laptop", f"ip {family} route show table all dev {TUN}".split()
            ).stdout.splitlines()
            if "proto kernel" not in line
        ]
        if not {OFFICE_NETWORK, OFFICE_NETWORK6} <= set(routes):
            raise HostError(f"no route to the office, only {routes}")
        stage.good("the server pushed these routes:")
        stage.plain(f"        {', '.join(routes)}")

    def look_around(self) -> None:
        """Ping, fetch a page, and be pinged from inside."""
        stage = self._stage
        stage.step("She works as if she sat in the office")
        for address in (OFFICE_ADDRESS, OFFICE_ADDRESS6):
            self._show_ping("laptop", address)
        stage.command("laptop", f"curl http://{OFFICE_ADDRESS}/")
        curl = ["curl", "-sS", "--max-time", "5", f"http://{OFFICE_ADDRESS}/"]
        page = self._lab.run("laptop", curl).stdout
        if page != PAGE:
            raise HostError(f"that is not the office's page: {page!r}")
        stage.good(re.sub(r"<.*?>", "", page.partition("<h1>")[2]).strip().replace("\n", ". "))
        seen = wait_for_line(self._www, r'^(\S+) - - .*"GET / ', 2)[1]
        whose = "her lease" if seen == self._lease else "the server masquerades"
        stage.good(f"the web server saw her come from {seen} ({whose})")
        self._show_ping("office", self._lease)

    def measure(self) -> None:
        """Measure throughput both ways."""
        self._stage.step("How fast is it? TCP through the tunnel, all hosts on this one machine")
        python = ["python", "-m", "pyvpn.testing.traffic"]
        log = self._lab.folder / "traffic.log"
        process = self._lab.start("office", [*python, "serve", OFFICE_ADDRESS, "5001"], log)
        wait_for_line(log, "ready", process=process)
        for direction, way in (("down", "office to laptop"), ("up", "laptop to office")):
            words = [*python, "measure", OFFICE_ADDRESS, "5001", direction, "2"]
            rate = float(self._lab.run("laptop", words).stdout)
            if rate <= 0:
                raise HostError(f"nothing arrived, {way}")
            self._stage.good(f"{way}: {rate:.0f} Mbit/s over 2 s")
        stop(process)

    def leave_and_return(self) -> None:
        """Leave without a trace, come back without a password."""
        stage = self._stage
        stage.step("She leaves, and comes back")
        self._stop("laptop", self._client)
        stage.command("laptop", "twistd -n vpnclient --config client.ini    # no password in it")
        seconds = self._start_client(None)
        stage.good(f"known by its certificate; the office answers after {seconds:.1f} s")

    def close_the_office(self) -> None:
        """End both programs; nothing of them may stay behind."""
        self._stage.step("Everybody goes home")
        self._stop("laptop", self._client)
        self._stop("server", self._server)

    def _start_client(self, password: str | None) -> float:
        """Start anna's client; return the seconds until the office answered its first ping."""
        began = time.monotonic()
        self._client = vpn.start_client(self._lab, self._link, "anna", password=password)
        while not self._pings("laptop", OFFICE_ADDRESS, patience=0.1):
            if self._client.process.poll() is not None:
                raise HostError("the client ended")
            if time.monotonic() - began > 10:
                raise HostError("no answer from the office within 10 s")
        return time.monotonic() - began

    def _stop(self, host: str, program: vpn.Program) -> None:
        """End *program* as an operator would, and compare the host with what it was before."""
        began = time.monotonic()
        self._stage.command(host, f"kill -TERM {program.process.pid}")
        status = stop(program.process)
        seconds = time.monotonic() - began
        if status != 0:
            raise HostError(f"it ended with {status}, not 0, after {seconds:.1f} s")
        after = self._lab.hosts[host].state()
        if left := [what for what, was in self._before[host].items() if after.get(what) != was]:
            raise HostError(f"it left {host} changed: {', '.join(left)}")
        self._stage.good(
            f"gone in {seconds:.1f} s; links, routes, rules, nft and sysctls are what they were"
        )

    def _pings(self, host: str, address: str, patience: float) -> bool:
        """Tell whether *address* answers one ping of *host* within *patience* seconds."""
        ping = ["ping", "-n", "-c", "1", "-W", f"{patience:g}", address]
        return self._lab.run(host, ping, check=False).returncode == 0

    def _show_ping(self, host: str, address: str) -> None:
        self._stage.command(host, f"ping -c 3 {address}")
        ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", address]
        said = self._lab.run(host, ping).stdout
        average = re.search(r"= [\d.]+/([\d.]+)/", said)
        if " 3 received" not in said or average is None:
            raise HostError(f"not every ping was answered:\n{said.strip()}")
        self._stage.good(f"3 of 3 answered, {float(average[1]):.1f} ms on average")


def tell(steps: Sequence[Callable[[], None]], lab: Lab, stage: Stage) -> bool:
    """Go through *steps*; at the first that fails, say why, show the logs, and return False."""
    for step in steps:
        try:
            step()
        except PyvpnError as error:
            stage.bad(str(error))
            for log in sorted(lab.folder.glob("*.log")):
                if str(log) not in str(error) and (said := last_lines(log)):
                    stage.plain(f"\n--- the end of {log.name}\n{said}")
            return False
    return True


def stay(lab: Lab, stage: Stage, rootless: bool) -> None:
    """Leave the lab running until Ctrl-C, with one shell hint for each host."""
    stage.title("The lab is up. For a shell on one of its hosts, in another terminal:")
    stage.plain("")
    become = "nsenter --user --preserve-credentials" if rootless else "nsenter"
    if "SUDO_USER" in os.environ:
        become = f"sudo {become}"
    for name in lab.hosts:
        # A process that sits there, under the host's name, so that the prompt says where one is.
        named = ["unshare", "--uts", "sh", "-c", f"hostname {name}; exec sleep infinity"]
        sitting = lab.start(name, named, Path("/dev/null"))
        stage.plain(f"    {name:9} {become} --mount --uts --net -t {sitting.pid} bash -l")
    stage.plain(f"\nConfiguration, state and logs are in {lab.folder}, seen from those shells;")
    stage.plain(f"pyvpn and twistd are in {Path(sys.executable).parent}.")
    stage.plain(f"Try, on the laptop: curl http://{OFFICE_ADDRESS}/   Ctrl-C here ends it all.")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        stage.title("Cleaning up.")


Steps = list[Callable[[], None]]


def first_act(lab: Lab, stage: Stage) -> Steps:
    """The whole story, from the first ping to the goodbye."""
    story = Demonstration(lab, stage)
    steps = [story.open_the_office, story.try_without, story.join]
    return [
        *steps,
        story.look_around,
        story.measure,
        story.leave_and_return,
        story.close_the_office,
    ]


def until_she_is_in(lab: Lab, stage: Stage) -> Steps:
    """The beginning of it."""
    story = Demonstration(lab, stage)
    return [story.open_the_office, story.try_without, story.join]


def perform(
    act: Callable[[Lab, Stage], Steps], lab: Lab, stage: Stage, *, staying: bool, rootless: bool
) -> int:
    """Build the lab and tell the story in it; return the exit status."""
    stage.title("pyvpn: reach your office from home. In namespaces, on this machine alone.")
    stage.plain(PICTURE.rstrip())
    if not tell([lab.build, *act(lab, stage)], lab, stage):
        stage.title(f"That did not work, after {stage.seconds():.1f} s.")
        return 1
    if staying:
        stay(lab, stage, rootless)
        return 0
    stage.title(f"Everything worked, in {stage.seconds():.1f} s. 'make lab' leaves it running.")
    return 0


def interrupt(number: int, frame: object) -> None:
    """End by SIGTERM and SIGHUP as by Ctrl-C."""
    raise KeyboardInterrupt


def main(act: Callable[[Lab, Stage], Steps] = first_act, staying: bool = False) -> int:
    """Show *act*, or build it and stay; return the exit status."""
    stage = Stage()
    try:
        sandbox.check_tools()
        if problem := sandbox.tun_problem():
            raise HostError(problem)
        rootless = sandbox.enter()
    except PyvpnError as error:
        stage.bad(str(error))
        return 1
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        signal.signal(signal.SIGHUP, interrupt)
    lab = Lab()
    try:
        return perform(act, lab, stage, staying=staying, rootless=rootless)
    except KeyboardInterrupt:
        stage.title("Interrupted: cleaning up.")
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # nothing is left behind half removed
        lab.close()


if __name__ == "__main__":
    stays = "--stay" in sys.argv[1:]
    sys.exit(main(until_she_is_in if stays else first_act, stays))
