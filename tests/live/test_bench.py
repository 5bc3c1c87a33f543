"""The bench measures what it says: the cables, and one short round from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.offloads import switch_off
from bench.pair import SERVER, Pair
from pyvpn.errors import HostError
from tests.live.office import wait_until

pytestmark = pytest.mark.usefixtures("tun")


def size_on_the_cable(pair: Pair) -> float:
    """Bytes a packet that reaches the server, while a megabyte or more is sent over TCP."""

    def received() -> tuple[int, int]:
        show = ["ip", "-j", "-s", "link", "show", "dev", "wan"]
        rx = json.loads(pair.run(pair.server, show).stdout)[0]["stats64"]["rx"]
        return int(rx["bytes"]), int(rx["packets"])

    log = pair.folder / "iperf3.log"
    pair.start(pair.server, ["iperf3", "-s", "-1"], log)
    wait_until(lambda: ":5201" in pair.run(pair.server, ["ss", "-Hltn"]).stdout)
    before = received()
    pair.run(pair.client, ["iperf3", "-c", SERVER, "-n", "20M"])
    after = received()
    return (after[0] - before[0]) / (after[1] - before[1])


def test_cables() -> None:
    """As veth is, large packets cross as one; @wire none is larger than Ethernet's."""
    with Pair(1, wire=False) as pair:
        assert size_on_the_cable(pair) > 5000
    with Pair(2, wire=True) as pair:
        assert 1000 < size_on_the_cable(pair) <= 1514


def test_offloads_unknown() -> None:
    """What the kernel does not know is said, not passed over."""
    with Pair(3, wire=False) as pair, pair.hosts[pair.server].inside():
        with pytest.raises(HostError, match="the kernel knows no tx-magic"):
            switch_off("wan", ("tx-udp-segmentation", "tx-magic"))
        with pytest.raises(HostError, match="nowhere0: offloads stay as they are: No such device"):
            switch_off("nowhere0")


def test_a_round(tmp_path: Path) -> None:
    """Two contenders, two figures: a report, a picture and the values; who is absent is named."""
    words = ["--quick", "--no-wire", "--only", "no VPN", "--only", "pyvpn"]
    ran = CliRunner().invoke(
        main,
        [*words, "--test", "tcp", "--test", "idle", "--into", str(tmp_path)],
        env={"WIREGUARD_GO": "/nowhere"},
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    report, values, picture = (
        next(tmp_path.glob(f"*.{ending}")).read_text() for ending in ("rst", "json", "svg")
    )
    measured = json.loads(values)
    assert measured["missing"] == []
    assert set(measured["values"]) == {"no VPN", "pyvpn"}
    assert {"tcp", "cpu", "rss", "ping", "ping99", "connect"} == set(measured["values"]["pyvpn"])
    assert measured["values"]["no VPN"]["tcp"]["0"] > measured["values"]["pyvpn"]["tcp"]["0"]
    assert 5 < measured["values"]["pyvpn"]["rss"]["0"] < 500
    assert "TCP 1 stream, Gbit/s" in report
    assert "<svg" in picture


def test_nobody_is_here(tmp_path: Path) -> None:
    """A contender without its program is named in the report, and the rest goes on."""
    words = ["--quick", "--no-wire", "--only", "no VPN", "--only", "wireguard-go"]
    ran = CliRunner().invoke(
        main,
        [*words, "--test", "idle", "--into", str(tmp_path)],
        env={"WIREGUARD_GO": "/nowhere"},
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    assert "* wireguard-go: there is no wireguard-go" in ran.output
