"""A host to try our settings on: a namespace with a LAN, and a TUN in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvpn.net.tun import KernelTunSystem
from pyvpn.testing.namespace import Namespace


@contextmanager
def a_place(namespace: Namespace) -> Iterator[Namespace]:
    """Be on a host with a LAN that lives by router advertisements, and nothing of ours.

    It has some settings that switching forwarding on would lose.
    """
    with namespace.inside():
        for command in (
            "sysctl -qw net.ipv6.conf.default.accept_dad=0",  # else routes still come later
            "ip link add lan type veth peer name far",
            "ip link set lan up",
            "ip link set far up",
            "ip address add 192.168.77.1/24 dev lan",
            "ip address add 198.18.2.2/30 dev lan",
            "ip -6 address add fd77::1/64 dev lan nodad",
            "ip -6 address add 2001:db8:7::5/64 dev lan nodad valid_lft 3600 preferred_lft 3600",
            "ip route add default via 192.168.77.254",
            "ip -6 route add default via fe80::254 dev lan proto ra",
            "sysctl -qw net.ipv4.conf.far.forwarding=1",
            "sysctl -qw net.ipv4.conf.all.accept_redirects=0",
            "sysctl -qw net.ipv6.conf.far.forwarding=1",
            "sysctl -qw net.ipv6.conf.far.accept_ra=0",
        ):
            namespace.run(command.split())
        yield namespace


@contextmanager
def a_device() -> Iterator[Callable[[], None]]:
    """Hold a TUN pyvpnt0 open; called, what this gives closes it."""
    system = KernelTunSystem()
    fd = system.open()
    system.attach(fd, "pyvpnt0")
    open_ones = [fd]

    def close() -> None:
        while open_ones:
            system.close(open_ones.pop())

    yield close
    close()


def lines(place: Namespace, command: str) -> list[str]:
    return [line.strip() for line in place.run(command.split()).stdout.splitlines()]
