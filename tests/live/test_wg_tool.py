"""``wg`` and ``wg-quick`` drive a device of ours."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvpn.testing import sandbox
from pyvpn.testing.namespace import Namespace
from tests.live.wgnet import GO, SCRIPT, Interface, key_pair, run_wg, wait_until


@pytest.fixture
def device(tun: None, namespace: Namespace, tmp_path: Path) -> Iterator[Interface]:
    """One interface of ours, down and not configured."""
    with Interface(tmp_path, namespace, "wgtool") as interface:
        yield interface


def setconf(device: Interface, lines: list[str], command: str = "setconf") -> None:
    """Give *lines* to ``wg setconf``."""
    device.wg(command, device.name, device.file("conf", "\n".join(lines)))


def test_130560_networks(device: Interface) -> None:
    """A peer with 130,560 networks is configured, and shown, within seconds."""
    _, public = key_pair()
    lines = ["[Interface]", f"PrivateKey={device.private}", "[Peer]", f"PublicKey={public}"]
    lines += [f"AllowedIPs={a}.{b}.0.0/16,{a}::{b}/128" for a in range(1, 256) for b in range(256)]
    began = time.monotonic()
    setconf(device, lines)
    took = time.monotonic() - began
    ((_, *networks),) = device.show("allowed-ips")
    assert len(set(networks)) == 255 * 256 * 2
    # About four seconds on a quiet machine.
    assert took < 20
    device.set("peer", public, "remove")
    assert device.show("peers") == []


def test_40_peers_with_52_networks(device: Interface) -> None:
    """Many peers with many networks keep them apart."""
    lines = ["[Interface]", f"PrivateKey={device.private}"]
    for a in range(1, 41):
        lines += ["[Peer]", f"PublicKey={key_pair()[1]}"]
        lines += [f"AllowedIPs={a}.{b}.0.0/16" for b in range(1, 53)]
    setconf(device, lines)
    shown = device.show("allowed-ips")
    assert [len(networks) for _, *networks in shown] == [52] * 40
    assert all(len({network.split(".")[0] for network in networks}) == 1 for _, *networks in shown)


def test_showconf_and_syncconf(device: Interface) -> None:
    """What showconf writes can be read again and changes nothing; syncconf keeps sessions."""
    peers = [key_pair()[1] for _ in range(30)]
    lines = ["[Interface]", f"PrivateKey={device.private}", "ListenPort=7000", "FwMark=0x2a"]
    for peer in peers:
        lines += ["[Peer]", f"PublicKey={peer}"]
    lines += ["AllowedIPs=255.2.3.4/32,abcd::255/128", "Endpoint=192.0.2.1:1"]
    lines += ["PersistentKeepalive=25", f"PresharedKey={run_wg('genpsk').strip()}"]
    setconf(device, lines)
    written = device.wg("showconf", device.name)
    assert "FwMark = 0x2a" in written
    assert written.count("[Peer]") == 30
    setconf(device, written.splitlines())
    assert device.wg("showconf", device.name) == written
    setconf(device, [*written.splitlines()[:5], "[Peer]", f"PublicKey={peers[0]}"], "syncconf")
    assert device.show("peers") == [[peers[0]]]
    assert device.show("listen-port") == [["7000"]]
    setconf(device, ["[Peer]", f"PublicKey={peers[1]}", "AllowedIPs=::/0"], "addconf")
    assert {peer for (peer,) in device.show("peers")} == set(peers[:2])


def test_networks_move_and_go(device: Interface) -> None:
    """Networks move between peers; nested ones are replaced at once."""
    (_, first), (_, second) = key_pair(), key_pair()
    networks = ",".join(f"abcd::{number}" for number in range(1, 198))
    device.set("peer", first)
    device.set("peer", second, "allowed-ips", networks)
    shown = {peer: found for peer, *found in device.show("allowed-ips")}
    assert (shown[first], len(shown[second])) == (["(none)"], 197)
    device.set("peer", first, "allowed-ips", "abcd::7")
    shown = {peer: found for peer, *found in device.show("allowed-ips")}
    assert (shown[first], len(shown[second])) == (["abcd::7/128"], 196)
    for networks, left in (
        ("0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16", "0.0.0.0/0"),
        ("::/0,1700::/111,5000::/4,e000::/37,9000::/75", "::/0"),
    ):
        device.set("peer", first, "allowed-ips", networks)
        device.set("peer", first, "allowed-ips", left)
        shown = {peer: found for peer, *found in device.show("allowed-ips")}
        assert shown[first] == [left]


def test_keys(device: Interface) -> None:
    """Keys are set, shown, cleared; a peer with our own key vanishes and cannot be made."""
    (_, other), psk = key_pair(), run_wg("genpsk").strip()
    device.set_key(device.private)
    device.set("peer", other, "preshared-key", device.file("psk", psk))
    assert device.show("private-key") == [[device.private]]
    assert device.show("preshared-keys") == [[other, psk]]
    device.set("private-key", "/dev/null", "peer", other, "preshared-key", "/dev/null")
    assert device.show("private-key") == [["(none)"]]
    assert device.show("preshared-keys") == [[other, "(none)"]]
    device.set("peer", device.public)
    device.set_key(device.private)
    assert device.show("public-key") == [[device.public]]
    assert device.show("peers") == [[other]]
    device.set("peer", device.public)
    assert device.show("peers") == [[other]]
    device.set_key("/" + device.private[1:])
    assert device.show("private-key") == [["+" + device.private[1:]]] or device.private[0] != "+"


def test_refused(device: Interface, namespace: Namespace) -> None:
    """``wg`` explains what was refused, and nothing else has changed."""
    device.set("listen-port", "7000", "fwmark", "7")
    device.up()
    with namespace.inside():
        taken = socket.socket(type=socket.SOCK_DGRAM)
    taken.bind(("", 7001))
    ended = subprocess.run(
        ["wg", "set", device.name, "listen-port", "7001"],
        capture_output=True,
        text=True,
        check=False,
        env=sandbox.environment(),
    )
    taken.close()
    assert (ended.returncode, "Address already in use" in ended.stderr) == (1, True)
    assert device.show("listen-port") == [["7000"]]
    assert device.wg("show", "doesnotexist", check=False) == ""


def test_all_interfaces(device: Interface) -> None:
    """``wg show`` finds our devices among others."""
    assert device.name in device.wg("show", "interfaces").split()
    assert f"interface: {device.name}" in device.wg("show")
    assert f"{device.name}\t" in device.wg("show", "all", "dump")


CONFIG = """[Interface]
PrivateKey = {private}
Address = 10.77.0.{number}/24, fd77::{number}/64
ListenPort = 51820
Table = {table}
PostUp = echo up
[Peer]
PublicKey = {public}
Endpoint = 192.0.2.{other}:51820
AllowedIPs = {networks}
"""


@pytest.mark.parametrize("networks", ["10.77.0.2/32, fd77::2/128", "0.0.0.0/0, ::/0"])
def test_wg_quick(
    tun: None, make_namespace: Callable[[], Namespace], tmp_path: Path, networks: str
) -> None:
    """wg-quick brings a tunnel of ours up and down again, also with all traffic in it."""
    here, there = make_namespace(), make_namespace()
    join(here, there)
    wait_until(lambda: "state UP" in here.run(["ip", "link", "show", "cable"]).stdout)
    before = here.state()
    private, public = key_pair()
    with Interface(tmp_path, there, "wgthere", GO) as other:
        other.address("10.77.0.2/24", "fd77::2/64")
        other.set_key(other.private)
        other.set(
            "listen-port", "51820", "peer", public, "allowed-ips", "10.77.0.1/32,fd77::1/128"
        )
        other.up()
        config = tmp_path / "wgquick.conf"
        config.touch(mode=0o600)
        config.write_text(
            CONFIG.format(
                private=private,
                number=1,
                other=2,
                public=other.public,
                networks=networks,
                table="auto",
            )
        )
        script = tmp_path / "pyvpn-wg"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(SCRIPT)} "$@"\n')
        script.chmod(0o700)
        quick = ["env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={script}", "wg-quick"]
        for _ in range(2):
            here.run([*quick, "up", str(config)])
            for address in "10.77.0.2", "fd77::2":
                here.run(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", address])
            if networks.startswith("0"):
                assert "mtu 1420" in here.run(["ip", "link", "show", "wgquick"]).stdout
                # Everything else goes in, too; what the tunnel itself sends does not.
                route = here.run(["ip", "route", "get", "203.0.113.7"]).stdout
                assert "dev wgquick" in route
            assert "wgquick" in run_wg("show", "interfaces")
            here.run([*quick, "down", str(config)])
            wait_until(lambda: not here.processes())
            assert "wgquick" not in run_wg("show", "interfaces")
    src_valid_mark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"
    after = here.state()
    before[src_valid_mark] = after[src_valid_mark]  # which wg-quick leaves as it set it
    assert after == before


def join(here: Namespace, there: Namespace) -> None:
    """Lay a cable between two namespaces: 192.0.2.1 and 192.0.2.2."""
    link = ["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns"]
    here.run([*link, there.name])
    for number, namespace in (1, here), (2, there):
        namespace.run(["ip", "address", "add", f"192.0.2.{number}/24", "dev", "cable"])
        # An address of the link alone would come later than the look at what there is.
        namespace.run(["ip", "link", "set", "cable", "addrgenmode", "none", "up"])
