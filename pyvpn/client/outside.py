"""What a data channel has of its machine: a port, a key, clocks, and what outlives it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Protocol

from twisted.logger import Logger

from pyvpn.config import ClientConfig
from pyvpn.crypto.suite import CHACHA, Suite
from pyvpn.crypto.tai64n import Stamps, reserve, tai64n
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.errors import HostError, PyvpnError
from pyvpn.net.clockwork import Clockwork
from pyvpn.net.private_files import read_private, write_private
from pyvpn.net.process import boottime
from pyvpn.net.processor import suites
from pyvpn.net.udp import UdpPort
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.tunnel.counters import Counters
from pyvpn.wire.datagram import Path

_log = Logger()

RESERVE_SECONDS = 600.0
"""How far ahead of the clock our timestamps are reserved: so often at most that is written."""

STAMP_FILE = "wireguard.stamp"


class Port(Protocol):
    """What we use of :class:`pyvpn.net.udp.UdpPort`."""

    @property
    def port(self) -> int:
        """Its number; 0 while it is closed."""

    def open(self, port: int) -> int:
        """Receive from now on, 0: at any port; return which."""

    def close(self) -> None:
        """Receive no more; repeatable."""

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Send *datagrams* along *path*; return how many were taken."""

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        """Send *datagram* so that nobody may fragment it; return whether it was taken."""

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        """Send each of *replies* along its path."""


@dataclass(frozen=True, slots=True)
class Outside:
    """One machine."""

    static: StaticKey
    """Our WireGuard key."""
    stamps: Stamps
    """The times of our initiations."""
    reserve: Callable[[], None]
    """Writes down a timestamp that we have not reached; called before we may reach it."""
    make_port: Callable[[Clockwork, Counters], Port]
    now: Callable[[], float] = boottime
    unix: Callable[[], float] = time.time
    random: Callable[[int], bytes] = os.urandom
    suites: tuple[Suite, ...] = (CHACHA,)
    """What our tunnel may be sealed with."""


def this_machine(reactor: Any, config: ClientConfig) -> Outside:
    """Return the one that we run on.

    Args:
        config: names the state directory, and the mark that keeps datagrams out of the tunnel.

    Raises:
        ConfigError: the key in the state directory is none, or is open to others.
        HostError: it cannot be read or written.
    """
    static = load_or_make_wireguard_key(config.state_dir)
    stamp_file = config.state_dir / STAMP_FILE
    stamps = Stamps(time.time, _stamp_on_file(stamp_file))

    def make_port(clockwork: Clockwork, counters: Counters) -> Port:
        return UdpPort(reactor, clockwork, counters, mark=config.tunnel.fwmark)

    return Outside(
        static,
        stamps,
        _Reserve(stamps, stamp_file),
        make_port,
        suites=suites(config.tunnel.cipher),
    )


class _Reserve:
    """Writes down a timestamp that we have not reached, before we reach it."""

    def __init__(self, stamps: Stamps, file: File) -> None:
        self._stamps = stamps
        self._file = file
        self._reserved = b""

    def __call__(self) -> None:
        wanted = max(tai64n(time.time()), self._stamps.last)
        if reserve(wanted, RESERVE_SECONDS / 2) > self._reserved:
            self._reserved = reserve(wanted, RESERVE_SECONDS)
            try:
                write_private(self._file, self._reserved.hex().encode() + b"\n")
            except HostError as error:
                _log.warn("{error}", error=str(error))


def _stamp_on_file(path: File) -> bytes:
    """The timestamp that an earlier process may have reached; empty if there was none.

    One that is no timestamp counts as none: what the clock says then is later, as a rule.
    """
    data = read_private(path)
    if data is None:
        return b""
    try:
        stamp = bytes.fromhex(data.decode("ascii"))
        Stamps(time.time, stamp)
    except (ValueError, PyvpnError):
        _log.warn("{file} holds no timestamp: begun anew", file=str(path))
        return b""
    return stamp
