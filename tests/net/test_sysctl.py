"""Switching forwarding on, and everything the kernel changes with it."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.journal import Sysctl
from pyvpn.net.sysctl import SysctlTree


class SysctlTreeTests(SynchronousTestCase):
    """Plans for a tree of values, here in an ordinary folder."""

    def setUp(self) -> None:
        self.root = self.mktemp()
        self.tree = SysctlTree(self.root)
        self.put("net/ipv4/ip_forward", "0")
        self.put("net/ipv6/conf/all/forwarding", "0")
        for version in "ipv4", "ipv6":
            for name in "all", "default", "eth0", "eth1":
                self.put(f"net/{version}/conf/{name}/forwarding", "0")
                self.put(f"net/{version}/conf/{name}/accept_redirects", "1")
                self.put(f"net/{version}/conf/{name}/accept_ra", "1")

    def put(self, path: str, value: str) -> None:
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(value + "\n")

    def test_plain_host(self) -> None:
        """On an ordinary host the switch is all there is to turn."""
        self.assertEqual([Sysctl("net/ipv4/ip_forward", "0", "1")], list(self.tree.forwarding4()))
        self.assertEqual(
            [Sysctl("net/ipv6/conf/all/forwarding", "0", "1")], list(self.tree.forwarding6([]))
        )

    def test_on_already(self) -> None:
        """A host that forwards is left as it is."""
        self.put("net/ipv4/ip_forward", "1")
        self.put("net/ipv6/conf/all/forwarding", "1")

        self.assertEqual([], list(self.tree.forwarding4()))
        self.assertEqual([], list(self.tree.forwarding6(["eth0"])))

    def test_no_ipv6(self) -> None:
        """A kernel without IPv6 has nothing to switch."""
        self.assertEqual([], list(SysctlTree(self.mktemp()).forwarding6(["eth0"])))

    def test_advertisements(self) -> None:
        """Interfaces that live by router advertisements go on listening, before the switch."""
        self.put("net/ipv6/conf/eth1/accept_ra", "0")

        self.assertEqual(
            [
                Sysctl("net/ipv6/conf/eth0/accept_ra", "1", "2"),
                Sysctl("net/ipv6/conf/all/forwarding", "0", "1"),
            ],
            list(self.tree.forwarding6(["eth0", "eth1"])),
        )

    def test_set_along(self) -> None:
        """Values that the switch takes with it are noted before it, to be put back after it."""
        self.put("net/ipv4/conf/eth1/forwarding", "1")
        self.put("net/ipv4/conf/all/accept_redirects", "0")
        self.put("net/ipv6/conf/default/forwarding", "1")

        self.assertEqual(
            [
                Sysctl("net/ipv4/conf/all/accept_redirects", "0", None),
                Sysctl("net/ipv4/conf/eth1/forwarding", "1", None),
                Sysctl("net/ipv4/ip_forward", "0", "1"),
            ],
            list(self.tree.forwarding4()),
        )
        self.assertEqual(
            [
                Sysctl("net/ipv6/conf/default/forwarding", "1", None),
                Sysctl("net/ipv6/conf/all/forwarding", "0", "1"),
            ],
            list(self.tree.forwarding6([])),
        )

    def undone(self, step: Sysctl, found: str) -> str | None:
        self.put(step.path, found)
        self.tree.undo(step)
        return self.tree.read(step.path)

    def test_undo(self) -> None:
        """Our value gives way to the old one; somebody else's newer value stays."""
        step = Sysctl("net/ipv6/conf/eth0/accept_ra", "1", "2")

        self.assertEqual("1", self.undone(step, "2"))
        self.assertEqual("1", self.undone(step, "1"))
        self.assertEqual("0", self.undone(step, "0"))

    def test_undo_set_along(self) -> None:
        """A value that the kernel changed is put back whatever it is now."""
        self.assertEqual("1", self.undone(Sysctl("net/ipv4/conf/eth0/forwarding", "1", None), "0"))

    def test_undo_gone(self) -> None:
        """The values of an interface that has vanished are no trouble, and not made anew."""
        self.tree.undo(Sysctl("net/ipv6/conf/wlan0/accept_ra", "1", "2"))

        self.assertFalse(os.path.exists(os.path.join(self.root, "net/ipv6/conf/wlan0")))

    def test_refused(self) -> None:
        """A value that cannot be set is named with the ways out."""
        error = self.assertRaises(HostError, self.tree.write, "net/ipv4/none", "1")

        self.assertEqual(
            "cannot set net.ipv4.none = 1: No such file or directory. Set it on the host (in a "
            "container:  --sysctl net.ipv4.none=1),  or write  [firewall] manage = no",
            str(error),
        )
