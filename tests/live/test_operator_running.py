"""What an operator does to running programs: starts a second one, Ctrl-C, daemonises, looks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvpn.testing import sandbox, vpn
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from tests.live.figures import below
from tests.live.native import LOG_IN, Talk, encode_frame

STOP_SECONDS = 2.0
PIN = "sha256:" + "A" * 43
SILENT_RESOLVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("198.18.1.1", 53))
print("ready", flush=True)
while True:
    print("asked for", s.recv(512)[13:16], flush=True)
"""
MARKERS = {
    "typed": "marker-typed-7c1f",
    "ini": "marker-ini-99ab",
    "file": "marker-file-04d2",
    "environment": "marker-environment-b61e",
}
NFT_SPY = """#!/bin/sh
{ tr '\\\\0' ' ' < /proc/$$/environ; tr '\\\\0' ' ' < /proc/$$/cmdline; echo; } >> %s
exec %s "$@"
"""


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[vpn.Program]:
    """A server with one user."""
    program = vpn.start_server(lab)
    vpn.link(program)
    vpn.add_user(lab, program, "anna")
    yield program
    assert stop(program.process) == 0
    assert "Traceback" not in program.log.read_text()


@pytest.fixture(scope="module")
def client(lab: Lab, server: vpn.Program) -> Iterator[vpn.Program]:
    """Her client, up."""
    program = vpn.start_client(lab, vpn.link(server), "anna")
    program.says("routes into the tunnel")
    yield program
    assert stop(program.process) == 0


@contextmanager
def nothing_lost(lab: Lab) -> Iterator[None]:
    """Ping the office through the tunnel meanwhile: every packet must be answered."""
    log = lab.folder / "ping.log"
    log.unlink(missing_ok=True)
    ping = lab.start("laptop", ["ping", "-n", "-i", "0.05", OFFICE_ADDRESS], log)
    wait_for_line(log, "icmp_seq=5 ", process=ping)
    yield
    ping.send_signal(signal.SIGINT)
    ping.wait(5)
    counted = wait_for_line(log, r"(\d+) packets transmitted, (\d+) received")
    assert int(counted[1]) > 10
    assert int(counted[1]) - int(counted[2]) <= 1  # one may be under way at the end


# -- a second one


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("state_dir = {folder}/server\nlisten = 5000", r"by another pyvpn process \(pid {pid}\)"),
        ("state_dir = {folder}/second", "TCP .* port 51820: Address already in use: is another"),
        ("state_dir = {folder}/second\nlisten = 5000", "pyvpn0: another process holds it: stop"),
        (
            "state_dir = {folder}/second\nlisten = 5000\n[tunnel]\ndevice = pyvpn9",
            r"network4 = 10.73.0.0/24: a network .* not in itself \(its interface pyvpn0",
        ),
    ],
    ids=["state directory", "port", "device", "network"],
)  # fmt: skip
def test_second_server(
    lab: Lab, server: vpn.Program, client: vpn.Program, own: str, words: str
) -> None:
    """A second server that wants what the first has says so in a line, and disturbs nothing."""
    config = lab.write("second.ini", f"[server]\n{own.format(folder=lab.folder)}\n")
    if "network" not in words:
        text = config.read_text()
        config.write_text(text + ("[tunnel]\nnetwork4 = 10.74.0.0/24\nnetwork6 = none\n"))
    before = lab.hosts["server"].state()
    with nothing_lost(lab):
        program = ["twistd", "-n", "vpnserver", "--config", str(config)]
        ended = lab.run("server", program, check=False)
    assert ended.returncode == 1, ended
    said = [line for line in ended.stdout.splitlines() if "pyvpn: " in line]
    assert len(said) == 1, ended
    assert re.search(words.format(pid=server.process.pid), said[0]), said
    assert "Traceback" not in ended.stdout + ended.stderr
    assert lab.hosts["server"].state() == before


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("anna-laptop", r"in use by another pyvpn process \(pid {pid}\); stop that one first"),
        ("second-client", "pyvpnc0: another process holds it: stop that one, or choose another"),
    ],
)
def test_second_client(
    lab: Lab, server: vpn.Program, client: vpn.Program, state: str, words: str
) -> None:
    """A second client on the same state directory, or with the same device, likewise."""
    text = f"[client]\nserver = {vpn.link(server)}\nuser = anna\npassword = {vpn.PASSWORD}\n"
    config = lab.write("second.ini", f"{text}state_dir = {lab.folder / state}\n")
    before = lab.hosts["laptop"].state()
    with nothing_lost(lab):
        program = ["twistd", "-n", "vpnclient", "--config", str(config)]
        ended = lab.run("laptop", program, check=False)
    assert ended.returncode == 1, ended
    said = [line for line in ended.stdout.splitlines() if "pyvpn: " in line]
    assert len(said) == 1, ended
    assert re.search(words.format(pid=client.process.pid), said[0]), said
    assert lab.hosts["laptop"].state() == before


# -- Ctrl-C


def interrupt(program: vpn.Program) -> float:
    """Press Ctrl-C; the seconds until it has ended, which must be with status 0."""
    began = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(10) == 0, program.log.read_text()
    took = time.monotonic() - began
    assert "Traceback" not in program.log.read_text()
    return took


def test_interrupted_while_hashing(lab: Lab) -> None:
    """Ctrl-C in the middle of log-ins being hashed: the server ends at once, status 0."""
    before = lab.hosts["server"].state()
    program = vpn.start_server(lab, name="hashing", more="listen = 51821\n" + APART)
    vpn.link(program)
    vpn.add_user(lab, program, "anna")

    def connect(_: int) -> Talk:
        with lab.hosts["internet"].inside():
            return Talk(socket.create_connection((SERVER_ADDRESS, 51821), 5))

    with ThreadPoolExecutor(8) as pool:
        talks = list(pool.map(connect, range(14)))
    for number, talk in enumerate(talks):
        question = b'{"user":"user%d","password":"wrong"}' % number
        talk.sock.sendall(encode_frame(LOG_IN, 1, question))
    time.sleep(0.03)  # the first two are being hashed, the others wait
    took = interrupt(program)
    for talk in talks:
        talk.close()
    refused = program.log.read_text().count("refused: unknown user")
    assert refused < len(talks)
    assert took < STOP_SECONDS
    assert lab.hosts["server"].state() == before


APART = "[tunnel]\ndevice = pyvpn8\nnetwork4 = 10.78.0.0/24\nnetwork6 = none\n"


@pytest.fixture
def silent_resolver(lab: Lab) -> Iterator[Path]:
    """The hosts' name server is one that takes questions and never answers."""
    log = lab.folder / "resolver.log"
    process = lab.start("internet", [sys.executable, "-c", SILENT_RESOLVER], log)
    wait_for_line(log, "ready", process=process)
    resolv = Path("/etc/resolv.conf")  # the sandbox's own
    before = resolv.read_text()
    resolv.write_text("nameserver 198.18.1.1\n")
    yield log
    resolv.write_text(before)
    stop(process)


def test_interrupted_while_resolving(lab: Lab, silent_resolver: Path) -> None:
    """Ctrl-C in the middle of a name look-up that hangs: the client ends at once, status 0."""
    laptop = lab.add_laptop()
    before = lab.hosts[laptop].state()
    link = f"pyvpn://anna@vpn.example.org:51820?pin={PIN}"
    program = vpn.start_client(lab, link, "anna", host=laptop)
    wait_for_line(silent_resolver, "asked for b'vpn'", process=program.process)
    below(interrupt(program), STOP_SECONDS)
    assert lab.hosts[laptop].state() == before


def test_interrupted_while_connecting(lab: Lab) -> None:
    """Ctrl-C while a server that does not answer is being connected to, and while waiting."""
    laptop = lab.add_laptop()
    link = f"pyvpn://anna@198.18.2.77:51820?pin={PIN}"
    program = vpn.start_client(lab, link, "anna", host=laptop, name="connecting")
    program.says("reactor class")
    time.sleep(1)
    below(interrupt(program), STOP_SECONDS)
    link = f"pyvpn://anna@{SERVER_ADDRESS}:5?pin={PIN}"
    program = vpn.start_client(lab, link, "anna", host=laptop, name="refused")
    program.says(r"cannot reach .*:5: .*refused.*next try in")
    below(interrupt(program), STOP_SECONDS)


def test_interrupted_at_every_moment(lab: Lab) -> None:
    """Ctrl-C at any time of a start leaves nothing; from our first line on it is status 0.

    Before that it is Python's own Ctrl-C. (Of which Twisted swallows a few, while it loads its
    plug-ins: then a person presses again.)
    """
    before = lab.hosts["server"].state()
    for tenths in range(2, 16, 2):
        program = vpn.start_server(lab, name="early", more="listen = 51821\n" + APART)
        time.sleep(tenths / 10)
        said = program.log.read_text()
        status = None
        for _ in range(3):
            program.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                status = program.process.wait(STOP_SECONDS)
                break
        assert status in ((0,) if "starting up" in said else (0, 1, -signal.SIGINT)), said
        assert lab.hosts["server"].state() == before


# -- as a daemon


def daemon_pid(path: Path) -> int:
    deadline = time.monotonic() + 10
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
    return int(path.read_text())


def is_running(pid: int) -> bool:
    """Whether the process still does anything; one that nobody waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_daemon(lab: Lab) -> None:
    """``twistd vpnserver`` returns once the server runs; kill -TERM of its pid file ends it."""
    before = lab.hosts["server"].state()
    pidfile, log = lab.folder / "daemon.pid", lab.folder / "daemon.log"
    config = lab.write(
        "daemon.ini", f"[server]\nstate_dir = {lab.folder / 'daemon'}\nlisten = 51822\n{APART}"
    )
    program = ["twistd", "--pidfile", str(pidfile), "--logfile", str(log)]
    program += ["vpnserver", "--config", str(config)]
    started = lab.run("server", program)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    pid = daemon_pid(pidfile)
    wait_for_line(log, "server = pyvpn://")
    with lab.hosts["laptop"].inside():
        Talk(socket.create_connection((SERVER_ADDRESS, 51822), 5)).close()
    again = lab.run("server", program, check=False)
    assert again.returncode == 1
    assert "Another twistd server is running" in again.stdout + again.stderr
    lab.run("server", ["kill", "-HUP", str(pid)])
    wait_for_line(log, "configuration applied")
    began = time.monotonic()
    lab.run("server", ["kill", "-TERM", str(pid)])
    while is_running(pid):
        assert time.monotonic() < began + STOP_SECONDS, log.read_text()
        time.sleep(0.02)
    assert not pidfile.exists()
    assert "Traceback" not in log.read_text()
    assert lab.hosts["server"].state() == before


def test_daemon_that_cannot_start(lab: Lab, server: vpn.Program) -> None:
    """A daemon that cannot start says why to the shell, with status 1, and to its log."""
    pidfile, log = lab.folder / "failed.pid", lab.folder / "failed.log"
    text = f"[server]\nstate_dir = {lab.folder / 'failed'}\n{APART}"
    config = lab.write("failed.ini", text)
    program = ["twistd", "--pidfile", str(pidfile), "--logfile", str(log)]
    program += ["vpnserver", "--config", str(config)]
    ended = lab.run("server", program, check=False)
    assert ended.returncode == 1
    said = (ended.stdout + ended.stderr).splitlines()
    line = (
        "cannot listen on TCP * port 51820: Address already in use: is another server running?  "
        "listen = ... names another port"
    )
    assert said[0] == f"pyvpn: {line}"
    assert len(said) == 3, said  # the others are twistd's own: where its log is
    assert line in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not pidfile.exists()


# -- secrets


def test_secrets(lab: Lab, server: vpn.Program, tmp_path: Path) -> None:
    """Passwords are in no argument, no child's environment, no log and no state file."""
    spied = tmp_path / "spied"
    real = subprocess.run(
        ["which", "nft"], capture_output=True, text=True, check=True, env=sandbox.environment()
    ).stdout.strip()
    spy = tmp_path / "bin" / "nft"
    spy.parent.mkdir()
    spy.write_text(NFT_SPY % (spied, real))
    spy.chmod(0o755)
    path = f"PATH={spy.parent}:{sandbox.environment()['PATH']}"
    config = tmp_path / "server.ini"
    state = tmp_path / "server"
    config.write_text(f"[server]\nstate_dir = {state}\nlisten = 51823\n{APART}")
    log = tmp_path / "server.log"
    run = ["env", path, "twistd", "-n", "vpnserver", "--config", str(config)]
    process = lab.start("server", run, log)
    link = wait_for_line(log, r"server = (pyvpn://\S+)", process=process)[1]
    clients = []
    for kind, secret in MARKERS.items():
        vpn.add_user(lab, vpn.Program(process, config, log), f"user-{kind}", secret)
        vpn.add_user(lab, vpn.Program(process, config, log), f"wrong-{kind}", secret + "x")
    for kind, secret in MARKERS.items():
        if kind == "typed":
            continue
        for user in (f"user-{kind}", f"wrong-{kind}"):  # the second is refused
            host = lab.add_laptop()
            ini = tmp_path / f"{user}.ini"
            (tmp_path / "secret").write_text(f"{secret}\n")
            (tmp_path / "secret").chmod(0o600)
            how = {
                "ini": f"password = {secret}",
                "file": f"password_file = {tmp_path / 'secret'}",
                "environment": "password_env = PYVPN_TEST_PASSWORD",
            }[kind]
            text = f"[client]\nserver = {link}\nuser = {user}\n{how}\n"
            ini.touch(mode=0o600)
            ini.write_text(f"{text}state_dir = {tmp_path / user}\n")
            run = ["twistd", "-n", "vpnclient", "--config", str(ini)]
            os.environ["PYVPN_TEST_PASSWORD"] = MARKERS["environment"]
            try:
                client = lab.start(host, run, tmp_path / f"{user}.log")
            finally:
                del os.environ["PYVPN_TEST_PASSWORD"]
            good = user.startswith("user-")
            says = "routes into the tunnel" if good else "bad-credentials"
            wait_for_line(tmp_path / f"{user}.log", says, process=client)
            clients.append(client)
    process.send_signal(signal.SIGUSR2)
    wait_for_line(log, "3 sessions")
    ours = {process.pid, *(client.pid for client in clients)}
    hits = [str(pid) for pid in ours if leaks(Path(f"/proc/{pid}/cmdline"))]
    for client in clients:
        client.send_signal(signal.SIGUSR2)
        for task in Path(f"/proc/{client.pid}/task").iterdir():
            children = (task / "children").read_text().split()
            hits += [child for child in children if leaks(Path(f"/proc/{child}/environ"))]
    for each in [*clients, process]:
        assert stop(each) == 0
    assert "-j" in spied.read_text()  # the spy was there
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    mine = {"secret", "user-ini.ini", "wrong-ini.ini"}
    assert len(kept) > 20
    assert {"users.sqlite", "device.key", "spied"} <= {p.name for p in kept}
    hits += [str(p) for p in kept if p.name not in mine and leaks(p)]
    assert hits == []
    assert all(leaks(tmp_path / name) for name in ("secret", "user-ini.ini"))  # it would be found
    keys = [p for p in kept if b"PRIVATE KEY" in p.read_bytes()]
    assert all(p.stat().st_mode & 0o077 == 0 for p in keys)
    assert {p.name for p in keys} == {"authority.key", "server.key", "device.key"}


def leaks(path: Path) -> bool:
    """Whether a password stands in the file."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return any(secret.encode() in content for secret in MARKERS.values())
