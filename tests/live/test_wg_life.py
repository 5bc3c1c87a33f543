"""The life of ``pyvpn wg``: start, end, and what others do to its interface and its socket."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvpn.net.uapi_socket import DIRECTORY
from pyvpn.testing import sandbox
from pyvpn.testing.namespace import Namespace, last_lines
from tests.live.figures import below
from tests.live.wgnet import COMMAND, GO, OURS, Interface, run_wg, wait_until


@pytest.fixture
def made(tun: None, namespace: Namespace, tmp_path: Path) -> Iterator[Interface]:
    """One interface of ours, down; whoever ends it says so."""
    with Interface(tmp_path, namespace, "wglife") as interface:
        yield interface


def test_private(made: Interface) -> None:
    """Only root gets at the socket; the interface has wireguard-go's MTU and no address."""
    assert stat.S_IMODE(made.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(DIRECTORY.stat().st_mode) == 0o700
    assert "mtu 1420" in made.ip("link", "show", made.name)
    made.up()
    assert made.ip("-br", "address", "show", "dev", made.name).split()[2:] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(made: Interface, number: signal.Signals) -> None:
    """Each of these signals ends it in order: status 0, no interface, no socket."""
    made.up()
    made.process.send_signal(number)
    made.check_gone()


def test_deleted(made: Interface) -> None:
    """Deleting the interface ends the program, as wg-quick relies on."""
    made.up()
    made.ip("link", "delete", made.name)
    made.check_gone()


def test_deleted_while_down(made: Interface) -> None:
    """So it does when the interface was never up."""
    made.ip("link", "delete", made.name)
    made.check_gone()


def test_socket_removed(made: Interface) -> None:
    """Removing the socket ends the program, which leaves alone what took its place."""
    made.socket.rename(made.socket.with_suffix(".away"))
    made.check_gone()
    made.socket.with_suffix(".away").unlink()


def test_socket_exchanged(made: Interface) -> None:
    """The file of somebody else is not removed."""
    made.socket.unlink()
    made.socket.write_text("somebody else's")
    wait_until(lambda: made.process.poll() is not None)
    assert made.socket.read_text() == "somebody else's"
    made.socket.unlink()
    made.check_gone()


@pytest.mark.parametrize("program", [OURS, GO])
def test_second_copy(made: Interface, namespace: Namespace, program: tuple[str, ...]) -> None:
    """A second copy of the same name says one line and ends with 1; the first does not notice."""
    ended = namespace.run([*program, made.name], check=False)
    assert ended.returncode == 1
    if program is OURS:
        assert ended.stdout == ""
        assert (
            ended.stderr
            == f"Error: {made.socket} is in use: another program is the device wglife\n"
        )
    made.up()


def test_second_copy_beside_wireguard_go(tun: None, namespace: Namespace, tmp_path: Path) -> None:
    """wireguard-go's socket is respected just so."""
    with Interface(tmp_path, namespace, "wglife", GO):
        ended = namespace.run([*OURS, "wglife"], check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert "in use" in ended.stderr


def test_after_a_kill(tun: None, namespace: Namespace, tmp_path: Path) -> None:
    """What a killed one left is in nobody's way: the kernel took the interface, we the socket."""
    killed = Interface(tmp_path, namespace, "wglife")
    killed.process.kill()
    killed.process.wait()
    assert killed.socket.exists()
    namespace.run([*COMMAND, "wglife"])
    assert run_wg("show", "wglife", "listen-port") == "0\n"
    namespace.run(["ip", "link", "delete", "wglife"])
    wait_until(lambda: not killed.socket.exists())


def test_name_of_another_kind_of_interface(tun: None, namespace: Namespace) -> None:
    """An interface of another kind is not touched, and the socket is gone again."""
    namespace.run(["ip", "link", "add", "wgbridge", "type", "bridge"])
    ended = namespace.run([*OURS, "wgbridge"], check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "wgbridge" in ended.stderr
    assert not (DIRECTORY / "wgbridge.sock").exists()
    assert "wgbridge" in namespace.run(["ip", "-br", "link"]).stdout


@pytest.mark.parametrize("name", ["", "a/b", "sixteen-letters-", "a b", "..", "wg:0"])
def test_no_name(in_sandbox: None, namespace: Namespace, name: str) -> None:
    """What can be no interface's name is one line and a status that is not 0."""
    ended = namespace.run([*OURS, name], check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


def test_daemon(tun: None, namespace: Namespace) -> None:
    """Without -f the command returns when the socket answers; the daemon holds nothing of ours."""
    reading, writing = os.pipe()
    began = time.monotonic()
    ended = subprocess.run(
        namespace.argv([*COMMAND, "wgdaemon"]),
        check=False,
        timeout=20,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
        pass_fds=[writing],
        env={**sandbox.environment(), "LOG_LEVEL": ""},
    )
    took = time.monotonic() - began
    os.close(writing)
    assert run_wg("show", "wgdaemon", "listen-port") == "0\n"
    assert ended.returncode == 0
    below(took, 5)  # half a second on a quiet machine
    with os.fdopen(reading, "rb") as output:  # which ends although the daemon lives
        assert output.read() == b""
    (daemon,) = namespace.processes()
    assert os.getsid(daemon) == daemon
    assert os.readlink(f"/proc/{daemon}/cwd") == "/"
    for descriptor in "012":
        assert os.readlink(f"/proc/{daemon}/fd/{descriptor}") == "/dev/null"
    again = namespace.run([*COMMAND, "wgdaemon"], check=False)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (1, "", 1)
    assert "in use" in again.stderr
    os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: not namespace.processes())
    assert not (DIRECTORY / "wgdaemon.sock").exists()


def test_foreground_by_environment(tun: None, namespace: Namespace, tmp_path: Path) -> None:
    """WG_PROCESS_FOREGROUND=1 keeps it in the foreground, as wireguard-go."""
    program = ("env", "WG_PROCESS_FOREGROUND=1", *COMMAND)
    with Interface(tmp_path, namespace, "wgfore", program) as interface:
        interface.up()


@pytest.mark.parametrize(
    ("level", "said"), [("verbose", True), ("error", False), ("silent", False), ("", False)]
)
def test_log_level(
    tun: None, namespace: Namespace, tmp_path: Path, level: str, said: bool
) -> None:
    """LOG_LEVEL says how much is written to standard error."""
    log = tmp_path / "log"
    process = namespace.start(["env", f"LOG_LEVEL={level}", *OURS, "wglog"], log)
    wait_until((DIRECTORY / "wglog.sock").exists)
    run_wg("set", "wglog", "fwmark", "1")
    namespace.run(["ip", "link", "set", "wglog", "up"])
    namespace.run(["ip", "link", "delete", "wglog"])
    assert process.wait(10) == 0
    assert ("wglog" in log.read_text()) == said, last_lines(log)
    assert "Traceback" not in log.read_text()


def test_renamed(made: Interface, namespace: Namespace) -> None:
    """A renamed interface is followed; its socket keeps the name, as wireguard-go's."""
    made.up()
    made.ip("link", "set", made.name, "down")
    made.ip("link", "set", made.name, "name", "wgrenamed")
    made.ip("link", "set", "wgrenamed", "up", "mtu", "1300")
    wait_until(lambda: ports(namespace) == 2)
    made.ip("link", "set", "wgrenamed", "down")
    wait_until(lambda: ports(namespace) == 0)
    made.ip("link", "delete", "wgrenamed")
    made.check_gone()


def test_down(made: Interface, namespace: Namespace) -> None:
    """Down, there is no UDP socket; up again it has the same port."""
    made.set("listen-port", "7000")
    assert ports(namespace) == 0
    for _ in range(3):
        made.up()
        wait_until(lambda: ports(namespace) == 2)
        assert made.show("listen-port") == [["7000"]]
        made.ip("link", "set", made.name, "down")
        wait_until(lambda: ports(namespace) == 0)


def ports(namespace: Namespace) -> int:
    """Count the UDP ports that are open in *namespace*: one for each address family."""
    lines = namespace.run(["ss", "-Hulpn"]).stdout.splitlines()
    return len({re.sub("%[^:]*", "", line.split()[3]) for line in lines})


def test_hostile_clients(made: Interface) -> None:
    """Clients that say nothing, half a line or junk keep nobody from configuring."""
    clients = []
    for number in range(100):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(made.socket))
        client.send((b"", b"set=1\nfwm", b"\xff" * 5000, b"get=1\n")[number % 4])
        clients.append(client)
        made.set("fwmark", str(number + 1))
    for client in clients:
        client.close()
    assert made.show("fwmark") == [["0x64"]]
