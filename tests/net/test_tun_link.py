"""The first settings of a TUN's interface, against the kernel."""

from __future__ import annotations

import os
from pathlib import Path

from pyroute2 import IPRoute
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.tun_link import prepare_link
from tests.net.tun_systems import KernelOutside

NAME = "pyvpnt0"


class PrepareLinkTests(SynchronousTestCase):
    """An interface that was just made."""

    def setUp(self) -> None:
        self.outside = KernelOutside(self.addCleanup)
        self.fd = self.outside.system.open()
        self.addCleanup(os.close, self.fd)
        self.outside.system.attach(self.fd, NAME)

    def test_mtu(self) -> None:
        """The interface has the MTU it was given."""
        prepare_link(NAME, 1333)

        with IPRoute() as netlink:
            (link,) = netlink.get_links(ifname=NAME)
            self.assertEqual(1333, link.get("IFLA_MTU"))

    def test_no_link_local_address(self) -> None:
        """No address appears when it is set up."""
        Path(f"/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6").write_text("0")
        prepare_link(NAME, 1420)
        self.outside.set_up(NAME)

        self.assertEqual("", Path("/proc/thread-self/net/if_inet6").read_text())

    def test_refused(self) -> None:
        """An MTU that cannot be, or an interface that is not there, is an error that says so."""
        for name, mtu, word in (NAME, 1, "Invalid"), ("nowhere", 1420, "No such device"):
            with self.assertRaises(HostError) as caught:
                prepare_link(name, mtu)
            self.assertIn(name, str(caught.exception))
            self.assertIn(word, str(caught.exception))
