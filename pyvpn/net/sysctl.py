"""Forwarding, and the values that the kernel turns along with it.

Functions of /proc/sys that only look, or say what would be changed; the writing down and the
writing are :mod:`pyvpn.net.host`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from pyvpn.errors import HostError
from pyvpn.net.journal import Sysctl

V4 = "net/ipv4/ip_forward"
V6 = "net/ipv6/conf/all/forwarding"


class SysctlTree:
    """The files below *root* (/proc/sys, unless a test has others)."""

    def __init__(self, root: str = "/proc/sys") -> None:
        self._root = root

    def read(self, path: str) -> str | None:
        """Return the value; None if there is no such file (here, or any more)."""
        try:
            with open(os.path.join(self._root, path), encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return None

    def write(self, path: str, value: str) -> None:
        """Set the value.

        Raises:
            HostError: it cannot be set, and what to do about that.
        """
        try:
            # Never made: in /proc nothing can be, and a test's folder should be as strict.
            fd = os.open(os.path.join(self._root, path), os.O_WRONLY | os.O_CLOEXEC)
            with open(fd, "w", encoding="ascii") as file:
                file.write(value)
        except OSError as error:
            name = path.replace("/", ".")
            raise HostError(
                f"cannot set {name} = {value}: {error.strerror}. Set it on the host (in a "
                f"container:  --sysctl {name}={value}),  or write  [firewall] manage = no"
            ) from error

    def forwarding4(self) -> Iterator[Sysctl]:
        """What switching IPv4 forwarding on takes, the switch last; nothing if it is on."""
        if self.read(V4) != "0":
            return
        # The switch sets every interface's own value, both ways, and redirects with it: who
        # had another one gets it back when the switch has been turned back.
        redirects = "net/ipv4/conf/all/accept_redirects"
        if self.read(redirects) == "0":
            yield Sysctl(redirects, "0", None)
        yield from self._interfaces_that_forward("net/ipv4/conf")
        yield Sysctl(V4, "0", "1")

    def forwarding6(self, fed_by_advertisements: Iterable[str]) -> Iterator[Sysctl]:
        """What switching IPv6 forwarding on takes, the switch last; nothing if it is on.

        A host that forwards ignores router advertisements and at once drops the default route
        it has from them, unless ``accept_ra`` is 2: so that comes first, on the interfaces
        *fed_by_advertisements*.
        """
        if self.read(V6) != "0":
            return
        for name in fed_by_advertisements:
            path = f"net/ipv6/conf/{name}/accept_ra"
            if self.read(path) == "1":
                yield Sysctl(path, "1", "2")
        yield from self._interfaces_that_forward("net/ipv6/conf")
        yield Sysctl(V6, "0", "1")

    def _interfaces_that_forward(self, folder: str) -> Iterator[Sysctl]:
        for name in sorted(os.listdir(os.path.join(self._root, folder))):
            path = f"{folder}/{name}/forwarding"
            if name != "all" and self.read(path) == "1":
                yield Sysctl(path, "1", None)

    def loose_reverse_path(self) -> Iterator[Sysctl]:
        """What it takes that no interface filters strictly: its own value or *all*'s counts."""
        path = "net/ipv4/conf/all/rp_filter"
        found = self.read(path)
        if found is not None and found != "2":
            yield Sysctl(path, found, "2")

    def undo(self, step: Sysctl) -> None:
        """Put the old value back, unless somebody else has changed ours since.

        Raises:
            HostError: it cannot be set.
        """
        found = self.read(step.path)
        if found is None or found == step.old:
            return
        if step.new is None or found == step.new:
            self.write(step.path, step.old)
