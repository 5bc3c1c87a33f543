"""What is measured between the two hosts of a pair, and in which unit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders import Contender
from pyvpn.errors import HostError
from pyvpn.testing.namespace import stop

LOSS_FREE = 0.001
"""Share of datagrams that may be lost of a rate that still counts as loss-free."""
TICKS = os.sysconf("SC_CLK_TCK")
UDP_PAYLOAD, SMALL_PAYLOAD = 1372, 36
"""With 28 bytes of headers packets of 1400 and of 64 bytes."""
FIRST_RATE, MOST_DOUBLINGS, HALVINGS = 50e6, 8, 3
FIRST_SMALL_RATE = 4e6
_REPLY = re.compile(r"time=([\d.]+) ms")

Values = dict[str, float]
"""Measured figures by the names in :data:`FIGURES`."""


@dataclass(frozen=True)
class Figure:
    """One column."""

    title: str
    unit: str
    more_is_better: bool
    digits: int


FIGURES = {
    "tcp": Figure("TCP 1 stream", "Gbit/s", True, 2),
    "reverse": Figure("TCP reverse", "Gbit/s", True, 2),
    "four": Figure("TCP 4 streams", "Gbit/s", True, 2),
    "cpu": Figure("CPU per GB", "s", False, 1),
    "udp": Figure("UDP 1400 B loss-free", "Mbit/s", True, 0),
    "small": Figure("64 B loss-free", "kpps", True, 1),
    "ping": Figure("ping idle avg", "ms", False, 2),
    "ping99": Figure("ping idle p99", "ms", False, 2),
    "loaded": Figure("ping loaded avg", "ms", False, 1),
    "loaded99": Figure("ping loaded p99", "ms", False, 1),
    "rss": Figure("RSS server", "MB", False, 0),
    "connect": Figure("connect", "s", False, 2),
}


class Bench:
    """Measures one contender, one thing at a time.

    Args:
        seconds: how long each transfer is.
    """

    def __init__(self, contender: Contender, seconds: float) -> None:
        self.contender = contender
        self.seconds = seconds
        self._pair = contender.pair
        self._serving: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Have an iperf3 wait at the server."""
        log = self._pair.folder / "iperf3.log"
        self._serving = self._pair.start(self._pair.server, ["iperf3", "-s"], log)
        deadline = time.monotonic() + 5
        while ":5201" not in self._pair.run(self._pair.server, ["ss", "-Hltn"]).stdout:
            if time.monotonic() > deadline:
                raise HostError(f"{self.contender.title}: iperf3 -s does not listen")
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        if self._serving is not None:
            stop(self._serving)

    # -- the measurements

    def tcp(self) -> Values:
        """One stream to the server, with what it costs both ends' VPN processes."""
        before = self._cpu()
        received = self._iperf("-t", f"{self.seconds:g}")["sum_received"]
        values = {"tcp": received["bits_per_second"] / 1e9}
        if self.contender.servers:
            values["cpu"] = (self._cpu() - before) / (received["bytes"] / 1e9)
            values["rss"] = sum(map(_resident, self.contender.servers)) / 1e6
        return values

    def reverse(self) -> Values:
        """One stream from the server."""
        end = self._iperf("-t", f"{self.seconds:g}", "-R")
        return {"reverse": end["sum_received"]["bits_per_second"] / 1e9}

    def four(self) -> Values:
        """Four streams to the server, together."""
        end = self._iperf("-t", f"{self.seconds:g}", "-P", "4")
        return {"four": end["sum_received"]["bits_per_second"] / 1e9}

    def udp(self) -> Values:
        """The most in large datagrams that arrives whole."""
        return {"udp": self._loss_free(UDP_PAYLOAD, FIRST_RATE) / 1e6}

    def small(self) -> Values:
        """The most small datagrams a second that arrive whole."""
        rate = self._loss_free(SMALL_PAYLOAD, FIRST_SMALL_RATE)
        return {"small": rate / (8 * SMALL_PAYLOAD) / 1e3}

    def idle(self) -> Values:
        """Round trips while nothing else goes on."""
        average, slow = self._ping()
        return {"ping": average, "ping99": slow}

    def loaded(self) -> Values:
        """Round trips beside one stream to the server."""
        load = ["iperf3", "-c", self.contender.address, "-t", f"{self.seconds + 1.5:g}"]
        log = self._pair.folder / "load.log"
        loading = self._pair.start(self._pair.client, load, log)
        time.sleep(0.7)
        average, slow = self._ping()
        if loading.wait(self.seconds + 20) != 0:
            raise HostError(f"{self.contender.title}: iperf3 failed: {log.read_text()}")
        return {"loaded": average, "loaded99": slow}

    # -- inside

    def _iperf(self, *options: str) -> dict[str, Any]:
        command = ["iperf3", "-J", "-c", self.contender.address, *options]
        ended = self._pair.run(self._pair.client, command, check=False, timeout=self.seconds + 30)
        said = json.loads(ended.stdout or "{}")
        if "end" not in said or "error" in said:
            why = said.get("error") or ended.stderr.strip()
            raise HostError(f"{self.contender.title}: {' '.join(command)}: {why}")
        end: dict[str, Any] = said["end"]
        return end

    def _loss_free(self, size: int, first: float) -> float:
        rate = loss_free(self._flood(size), first)
        if not rate:
            raise HostError(f"{self.contender.title}: no rate was loss-free")
        return rate

    def _flood(self, size: int) -> Callable[[float], tuple[float, float]]:
        def send(rate: float) -> tuple[float, float]:
            words = ("-u", "-l", str(size), "-b", f"{rate:.0f}", "-t", "1")
            try:
                end = self._iperf(*words)
            except HostError:  # its own connection did not get through beside so many datagrams
                return 1.0, 0.0
            total = end.get("sum_received") or end["sum"]
            sent = end.get("sum_sent") or total
            lost = float(end["sum"]["lost_percent"]) / 100
            return lost, float(sent["bits_per_second"])

        return send

    def _ping(self) -> tuple[float, float]:
        """Average and 99th percentile, in ms."""
        count = max(50, int(self.seconds / 0.01))
        ping = ["ping", "-n", "-c", str(count), "-i", "0.01", "-W", "1", self.contender.address]
        said = self._pair.run(self._pair.client, ping, check=False, timeout=count * 0.1 + 10)
        times = sorted(map(float, _REPLY.findall(said.stdout)))
        if len(times) < count / 2:
            raise HostError(f"{self.contender.title}: {len(times)} of {count} pings answered")
        return sum(times) / len(times), times[int(len(times) * 0.99)]

    def _cpu(self) -> float:
        return sum(map(_cpu_seconds, (*self.contender.servers, *self.contender.clients)))


TESTS: dict[str, Callable[[Bench], Values]] = {
    "tcp": Bench.tcp,
    "reverse": Bench.reverse,
    "four": Bench.four,
    "udp": Bench.udp,
    "small": Bench.small,
    "idle": Bench.idle,
    "loaded": Bench.loaded,
}


def loss_free(send: Callable[[float], tuple[float, float]], first: float) -> float:
    """Search the highest rate at which (nearly) nothing is lost.

    Args:
        send: sends at a rate (bits a second of payload); what share was lost, and how fast it
            really went: no sender is as fast as one likes.
        first: where to begin.

    Returns:
        Bits a second that were sent when no more than :data:`LOSS_FREE` was lost; 0 if there was
        no such rate.
    """
    best, low, high = 0.0, 0.0, 0.0
    rate = first
    for _ in range(MOST_DOUBLINGS):
        lost, sent = send(rate)
        if lost > LOSS_FREE:
            high = rate
            break
        best, low = max(best, sent), rate
        if sent < 0.9 * rate:  # the sender's limit, not the VPN's
            return best
        rate *= 2
    if not high:
        return best
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        lost, sent = send(rate)
        if lost > LOSS_FREE:
            high = rate
        else:
            best, low = max(best, sent), rate
    return best


def _cpu_seconds(pid: int) -> float:
    """What the process has used until now, in user space and in the kernel for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _resident(pid: int) -> float:
    """Bytes of it in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024.0 if found else 0.0
