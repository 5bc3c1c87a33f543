"""The host's settings in a real kernel: made, differences only, and gone without a trace."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import pyvpn
from pyvpn.net import netlink, nft
from pyvpn.net.host import Firewall, Host
from pyvpn.net.sysctl import SysctlTree
from pyvpn.testing.namespace import Namespace
from tests.live.host_place import a_place, lines

POOL4 = ip_network("10.73.0.0/24")
POOL6 = ip_network("fd70:7976:706e::/64")
FIREWALL = Firewall(device="pyvpnt0", networks=(POOL4, POOL6))


@pytest.fixture
def place(tun: None, namespace: Namespace) -> Iterator[Namespace]:
    """A host with a LAN, where we are."""
    with a_place(namespace) as made:
        yield made


@pytest.fixture
def host(place: Namespace, tmp_path: Path) -> Host:
    """Its settings."""
    return Host(str(tmp_path / "state"), "test")


def everything(host: Host) -> None:
    """Make every lasting change that a host knows."""
    host.guard([POOL4, POOL6])
    host.add_rule(51820, 51820)
    host.forwarding(v4=True, v6=True)
    host.firewall(FIREWALL)


def difference(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Show only what differs, with the counting-down lifetimes left out."""
    found = {}
    for key in before.keys() | after.keys():
        was, now = (re.sub(r"expires \d+sec", "", s.get(key, "")) for s in (before, after))
        if was != now:
            found[key] = (was, now)
    return found


def test_without_a_trace(place: Namespace, host: Host) -> None:
    """After a clean stop the host is what it was, and can be made and undone again."""
    before = place.state()
    for _ in range(2):
        everything(host)
        assert len(difference(before, place.state())) > 6

        assert host.undo() == []
        assert difference(before, place.state()) == {}


def test_everything_twice(place: Namespace, host: Host) -> None:
    """Doing all of it again changes nothing, and all of it is undone at once."""
    before = place.state()
    everything(host)
    once = place.state()
    everything(host)
    assert difference(once, place.state()) == {}

    host.undo()
    assert difference(before, place.state()) == {}


def crash_points(monkeypatch: pytest.MonkeyPatch, pass_by: Callable[[], None]) -> None:
    """Have *pass_by* called before and after each change to the journal and to the kernel."""

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            pass_by()
            result = real(*args, **kwargs)
            pass_by()
            return result

        monkeypatch.setattr(owner, name, wrapped)

    around(os, "replace")
    around(os, "unlink")
    around(netlink, "_change_rule")
    around(netlink, "_change_unreachable")
    around(SysctlTree, "write")
    around(nft, "run_nft")


def in_child(work: Callable[[], object]) -> int:
    """Do *work* in a forked process; return its exit status, -9 if it was killed."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking beside threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("end", ["crash while making", "crash while undoing"])
def test_killed_at_each_step(
    place: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Killed at any point, in making as in undoing, the next start puts everything back."""
    before = place.state()
    state_dir = str(tmp_path / "state")
    points = 0

    def pass_by() -> None:
        nonlocal points
        points -= 1
        if points == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        host = Host(state_dir, "test")
        if end == "crash while making":
            crash_points(monkeypatch, pass_by)
            everything(host)
        else:
            everything(host)
            crash_points(monkeypatch, pass_by)
            host.undo()

    for survived in count():
        points = survived + 1
        status = in_child(run)
        assert status in (0, -signal.SIGKILL)
        assert Host(state_dir, "test").reconcile() == []
        assert difference(before, place.state()) == {}
        assert os.listdir(state_dir) in ([], ["host.json.new"])
        if status == 0:
            break
    assert survived > 20


def test_crashes_in_a_row(place: Namespace, tmp_path: Path) -> None:
    """However many runs die, tidied up or not, the first one's findings are what returns."""
    before = place.state()
    state_dir = str(tmp_path / "state")
    for _ in range(3):
        assert in_child(lambda: everything(Host(state_dir, "test"))) == 0
    assert len(lines(place, "nft list tables")) == 1
    assert len([x for x in lines(place, "ip rule") if "51820" in x]) == 1

    Host(state_dir, "test").undo()
    assert difference(before, place.state()) == {}


def test_killed_and_restarted(place: Namespace, tmp_path: Path) -> None:
    """After a crash the next run keeps all that both want, and forwarding above all."""
    before = place.state()
    state_dir = str(tmp_path / "state")
    assert in_child(lambda: everything(Host(state_dir, "test"))) == 0
    whole = place.state()
    host = Host(state_dir, "test")
    everything(host)
    assert host.settle() == []
    assert difference(whole, place.state()) == {}

    assert host.undo() == []
    assert difference(before, place.state()) == {}


def test_restarted_with_less(place: Namespace, tmp_path: Path) -> None:
    """After a crash, what the next run wants no more goes, and only that."""
    state_dir = str(tmp_path / "state")
    assert in_child(lambda: everything(Host(state_dir, "test"))) == 0
    host = Host(state_dir, "test")
    host.forwarding(v4=True, v6=False)
    assert host.settle() == []

    assert lines(place, "sysctl -n net.ipv4.ip_forward") == ["1"]
    assert lines(place, "sysctl -n net.ipv6.conf.all.forwarding") == ["0"]
    assert lines(place, "nft list tables") == []


def test_undone_by_others(place: Namespace, host: Host) -> None:
    """What somebody else has removed, or set to a third value, is no trouble at the end."""
    everything(host)
    for command in (
        "nft flush ruleset",
        "ip rule delete priority 32000",
        "ip -6 route flush proto 200",
        "sysctl -qw net.ipv6.conf.lan.accept_ra=0",
    ):
        place.run(command.split())

    assert host.undo() == []
    assert lines(place, "sysctl -n net.ipv6.conf.lan.accept_ra") == ["0"]


def test_put_back(place: Namespace, host: Host) -> None:
    """What others took away returns when it is asked for again."""
    everything(host)
    whole = place.state()
    assert host.firewall_stands("pyvpnt0")
    for command in (
        "nft flush ruleset",
        "ip rule delete priority 32000",
        "ip route flush proto 200",
    ):
        place.run(command.split())
    assert not host.firewall_stands("pyvpnt0")

    everything(host)
    assert difference(whole, place.state()) == {}


def test_advertisements(place: Namespace, host: Host) -> None:
    """A server that lives by router advertisements keeps its default route when it forwards."""
    host.forwarding(v4=False, v6=True)

    assert lines(place, "sysctl -n net.ipv6.conf.all.forwarding") == ["1"]
    assert lines(place, "sysctl -n net.ipv6.conf.lan.accept_ra") == ["2"]
    assert lines(place, "sysctl -n net.ipv6.conf.far.accept_ra") == ["0"]
    assert lines(place, "sysctl -n net.ipv4.ip_forward") == ["0"]
    assert any("via fe80::254" in x for x in lines(place, "ip -6 route show default"))


def test_without_rights(place: Namespace, tmp_path: Path) -> None:
    """Without CAP_NET_ADMIN each change is refused in words that say what is missing."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(pyvpn.__file__).parent.parent)!r})\n"
        "from ipaddress import ip_network\n"
        "from pyvpn.errors import HostError\n"
        "from pyvpn.net.host import Firewall, Host\n"
        f"host = Host({str(tmp_path / 'state')!r}, 'test')\n"
        "for change in (\n"
        "    lambda: host.link_up('lan', 1400, []),\n"
        "    lambda: host.guard([ip_network('10.73.0.0/24')]),\n"
        "    lambda: host.add_rule(5, 77),\n"
        "    lambda: host.firewall(Firewall(device='pyvpnt0', networks=())),\n"
        "):\n"
        "    try:\n"
        "        change()\n"
        "    except HostError as error:\n"
        "        print(error)\n"
    )
    before = place.state()
    said = place.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c", program]
    ).stdout.splitlines()

    assert len(said) == 4
    assert all("CAP_NET_ADMIN" in line for line in said)
    assert Host(str(tmp_path / "state"), "test").reconcile() == []
    assert difference(before, place.state()) == {}
