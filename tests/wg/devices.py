"""WireGuard devices on a network in memory, configured in text as ``wg`` does it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from twisted.internet.task import Clock

from pyvpn.crypto.x25519 import clamp, public_of
from pyvpn.errors import HostError
from pyvpn.tunnel.counters import Counters
from pyvpn.wg.device import Device
from pyvpn.wire.datagram import Path
from pyvpn.wire.uapi import Event, Requests, answer_to_get, answer_with
from pyvpn.wire.uapi_operations import Errno, Refusal
from tests.tunnel.packets import KeepingSink, packed

UNIX = 1_700_000_000.0


class Net:
    """Carries datagrams between ports, by address and port number."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.ports: list[MemoryPort] = []
        self.flying: list[tuple[MemoryPort, Path, bytes]] = []

    def settle(self) -> None:
        """Let everything that flies arrive, and what is sent in answer too."""
        for _ in range(100):
            self.clock.advance(0)
            flying, self.flying = self.flying, []
            for sender, path, datagram in flying:
                source = Path(sender.address, sender.port)
                for port in self.ports:
                    if (port.address, port.port) == (path.host, path.port):
                        port.device.clockwork.runs_received([([datagram], source, 0)])
            self.clock.advance(0)
            if not self.flying:
                return
        raise AssertionError("they talk for ever")

    def run(self, seconds: float) -> None:
        """Let time pass, and everything happen that it brings about."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.settle()


class MemoryPort:
    """A UDP port without a kernel; *taken* are ports that somebody else has."""

    device: Device

    def __init__(self, net: Net, address: str) -> None:
        self.address = packed(address)
        self.port = 0
        self.mark = 0
        self.taken: set[int] = set()
        self.may_mark = True
        self.sent: list[tuple[bytes, Path, int]] = []
        self._net = net
        self._next = 40_000
        net.ports.append(self)

    def open(self, port: int) -> int:
        assert self.port == 0
        return self._have(port)

    def rebind(self, port: int) -> int:
        assert self.port != 0
        return self._have(port)

    def _have(self, port: int) -> int:
        if port in self.taken:
            raise HostError(f"port {port} is taken")
        if port == 0:
            self._next += 1
        self.port = port or self._next
        return self.port

    def close(self) -> None:
        self.port = 0

    def set_mark(self, mark: int) -> None:
        if not self.may_mark:
            raise HostError("may not mark")
        self.mark = mark

    def send_whole(self, datagram: bytes, path: Path) -> bool:
        return self.send_datagrams([datagram], path, 0) > 0

    def send_replies(self, replies: list[tuple[bytes, Path]]) -> None:
        for reply, path in replies:
            self.send_datagrams([reply], path, 0)

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        assert self.port, "sent while closed"
        for datagram in datagrams:
            self.sent.append((bytes(datagram), path, tos))
            self._net.flying.append((self, path, bytes(datagram)))
        return len(datagrams)


class Host:
    """One device, its TUN a list."""

    def __init__(self, net: Net, address: str, seed: int) -> None:
        self.net = net
        self.tun = KeepingSink()
        self.port = MemoryPort(net, address)
        self.counters = Counters()
        self.private = clamp(random.Random(seed).randbytes(32))
        self.public = public_of(self.private)
        self.device = self.port.device = Device(
            net.clock,
            self.tun,
            self.port,
            self.counters,
            boottime=net.clock.seconds,
            unix=lambda: UNIX + net.clock.seconds(),
            random=random.Random(seed + 1000).randbytes,
        )

    def ask(self, text: str) -> str:
        """Return the answers to the requests in *text*, after which nothing is sent."""
        return ask(self.device, text.encode("latin-1")).decode("latin-1")

    def set(self, *lines: str) -> int:
        """Configure by *lines*; return the error number."""
        answer = self.ask("\n".join(("set=1", *lines, "", "")))
        assert answer.startswith("errno=")
        return int(answer.removeprefix("errno="))

    def get(self) -> list[str]:
        """Return the lines that tell of the configuration."""
        lines = self.ask("get=1\n\n").split("\n")
        assert lines[-3:] == ["errno=0", "", ""]
        return lines[:-3]

    def told(self, key: str) -> list[str]:
        """Return every value of *key* that :meth:`get` has."""
        return [line.removeprefix(f"{key}=") for line in self.get() if line.startswith(f"{key}=")]

    def up(self, mtu: int = 1420) -> None:
        self.device.set_link(up=True, mtu=mtu)

    def down(self) -> None:
        self.device.set_link(up=False, mtu=self.device.mtu)


def ask(device: Device, data: bytes) -> bytes:
    """Do what the configuration socket does with *data* and the end of a connection."""
    requests, answers, setting = Requests(), list[bytes](), None
    requests.feed(data)
    requests.end()
    while True:
        try:
            event = requests.take()
            assert event is not None
            if event is Event.HANG_UP:
                return b"".join(answers)
            if event is Event.SET:
                setting = device.begin_setting()
            elif event is Event.GET:
                answers += answer_to_get(device.describe())
            elif event is Event.DONE:
                assert setting is not None
                setting.finish()
                answers.append(answer_with(Errno.OK))
            else:
                assert setting is not None
                try:
                    setting.apply(event)  # type: ignore[arg-type]  # nothing else is left
                except Refusal:
                    requests.skip()
                    raise
        except Refusal as refusal:
            if setting is not None:
                setting.finish()
            answers.append(answer_with(refusal.errno))


class Two:
    """Two hosts that know each other, and are up."""

    def __init__(self) -> None:
        self.net = Net()
        self.left = Host(self.net, "192.0.2.1", 1)
        self.right = Host(self.net, "192.0.2.2", 2)
        for one, other, network, address in (
            (self.left, self.right, "10.0.0.2/32", "192.0.2.2"),
            (self.right, self.left, "10.0.0.1/32", "192.0.2.1"),
        ):
            assert (
                one.set(
                    f"private_key={one.private.hex()}",
                    "listen_port=51820",
                    f"public_key={other.public.hex()}",
                    f"allowed_ip={network}",
                    f"endpoint={address}:51820",
                )
                == 0
            )
            one.up()
