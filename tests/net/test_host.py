"""What a host's settings are to us, as far as no kernel is needed to tell."""

from __future__ import annotations

import os
import stat
from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net import netlink, nft
from pyvpn.net.host import Host, private_networks
from pyvpn.net.journal import Guard, Journal, NftTable, Rule, Step, Sysctl
from pyvpn.net.nft import Firewall
from pyvpn.net.table_locks import TableLocks

MISSING = Sysctl("net/pyvpn-test/none", "0", "1")  # undone by doing nothing: there is no such file


class PrivateNetworksTests(SynchronousTestCase):
    """Which of a host's networks are fit to be told to others."""

    def kept(self, *texts: str) -> list[str]:
        found = private_networks([("eth0", ip_network(text)) for text in texts])
        self.assertEqual({"eth0"} if found else set(), {name for name, _ in found})
        return [str(network) for _, network in found]

    def test_private(self) -> None:
        """RFC 1918's networks and unique local ones are kept, in their order."""
        texts = ["192.168.77.0/24", "10.0.0.0/8", "172.31.0.0/16", "fd77::/64", "fc00::/7"]

        self.assertEqual(texts, self.kept(*texts))

    def test_others(self) -> None:
        """Public, shared, link-local and documentation networks, and larger ones, are not."""
        self.assertEqual(
            [],
            self.kept(
                *("198.18.2.0/24", "100.64.0.0/10", "169.254.0.0/16", "172.32.0.0/16"),
                *("0.0.0.0/0", "10.0.0.0/7", "2001:db8::/64", "fe80::/64", "::/0"),
            ),
        )


class HostTests(SynchronousTestCase):
    """The journal's part in what a host goes through."""

    def setUp(self) -> None:
        self.state_dir = self.mktemp()
        self.path = os.path.join(self.state_dir, "host.json")
        self.host = Host(self.state_dir, "test")
        # The kernel's own; a run that died holds nothing.
        self.patch(TableLocks, "hold", lambda _locks, _table: None)
        self.patch(TableLocks, "try_hold", lambda _locks, _table: True)

    def left_behind(self, *steps: Step) -> Host:
        """Return the next run's host, after one that died with *steps* in its journal."""
        journal = Journal(self.path)
        for step in steps:
            journal.write(step)
        return Host(self.state_dir, "test")

    def kept(self) -> tuple[Step, ...]:
        return Journal(self.path).steps

    def test_state_directory(self) -> None:
        """The state directory is made for us alone."""
        self.assertEqual(0o700, stat.S_IMODE(os.stat(self.state_dir).st_mode))

    def test_no_state_directory(self) -> None:
        """A state directory that cannot be made is an answer in one line."""
        with open(self.path, "w"):
            error = self.assertRaises(HostError, Host, self.path, "test")

        self.assertIn("host.json: cannot be used as state directory: File exists", str(error))

    def test_nothing_left(self) -> None:
        """After a good end there is nothing to tidy up, however often one asks."""
        self.assertEqual([], self.host.reconcile())
        self.assertEqual([], self.host.undo())
        self.assertEqual([], self.host.undo())

    def test_last_first(self) -> None:
        """Changes are undone in the opposite order, and then forgotten."""
        undone: list[tuple[object, ...]] = []
        self.patch(netlink, "delete_rule", lambda *which: undone.append(which))
        self.patch(netlink, "delete_unreachable", lambda *which: undone.append(which))
        self.patch(nft, "run_nft", lambda *which: undone.append(which))
        host = self.left_behind(
            Rule(4, 7, 8), Guard("10.73.0.0/24"), NftTable("pyvpn_x"), Rule(6, 7, 8)
        )

        self.assertEqual([], host.reconcile())

        self.assertEqual(
            [(6, 7, 8), (nft.removal("pyvpn_x"),), (ip_network("10.73.0.0/24"),), (4, 7, 8)],
            undone,
        )
        self.assertEqual((), self.kept())

    def test_one_step_fails(self) -> None:
        """What cannot be undone is told and kept for the next time; the others are undone."""

        def fail(_transaction: object) -> None:
            raise HostError("nft is missing")

        self.patch(nft, "run_nft", fail)
        host = self.left_behind(MISSING, NftTable("pyvpn_x"))

        self.assertEqual(["nft is missing"], host.undo())

        self.assertEqual((NftTable("pyvpn_x"),), self.kept())

    def test_bug_in_one_step(self) -> None:
        """Not even a bug in one step keeps the others from being undone."""
        self.patch(nft, "run_nft", lambda: None)
        host = self.left_behind(MISSING, NftTable("pyvpn_x"))

        self.assertEqual(1, len(host.undo()))

        self.assertEqual((NftTable("pyvpn_x"),), self.kept())

    def test_journal_lost_its_place(self) -> None:
        """Undoing goes through to its end where the journal itself cannot be written."""
        host = self.left_behind(MISSING)
        os.rename(self.state_dir, self.state_dir + "-away")

        (problem,) = host.undo()

        self.assertIn("cannot write down what is changed on this host", problem)

    def test_written_before(self) -> None:
        """Each change is in the journal by the time it is made."""
        seen: list[tuple[Step, ...]] = []
        self.patch(netlink, "add_rule", lambda *_: not seen.append(self.kept()))
        self.patch(netlink, "add_unreachable", lambda *_: seen.append(self.kept()))
        self.patch(nft, "run_nft", lambda *_: seen.append(self.kept()))

        self.host.add_rule(7, 8)
        self.host.guard([ip_network("10.73.0.0/24")])
        self.host.firewall(Firewall(device="tun-7", networks=()))

        steps = (Rule(4, 7, 8), Rule(6, 7, 8), Guard("10.73.0.0/24"), NftTable("pyvpn_tun_7"))
        self.assertEqual([steps[:n] for n in range(1, 5)], seen)

    def test_not_made_unless_written(self) -> None:
        """Where the journal cannot be written, nothing is changed."""
        made: list[object] = []
        self.patch(netlink, "add_rule", lambda *which: made.append(which))
        os.rename(self.state_dir, self.state_dir + "-away")

        self.assertRaises(HostError, self.host.add_rule, 7, 8)

        self.assertEqual([], made)

    def test_no_ipv6(self) -> None:
        """The rule for an IP version that the kernel does not know is forgotten again."""
        self.patch(netlink, "add_rule", lambda version, *_: version == 4)

        self.host.add_rule(7, 8)

        self.assertEqual((Rule(4, 7, 8),), self.kept())

    def test_settle(self) -> None:
        """Of what a dead run left, only that goes which this run has not made again."""
        undone: list[object] = []
        self.patch(netlink, "add_rule", lambda *_: True)
        self.patch(netlink, "delete_rule", lambda *which: undone.append(which))
        self.patch(nft, "run_nft", undone.append)
        host = self.left_behind(Rule(4, 7, 8), Rule(6, 7, 8), Rule(4, 1, 2), NftTable("pyvpn_x"))
        host.add_rule(7, 8)

        self.assertEqual([], host.settle())
        self.assertEqual([], host.settle())

        self.assertEqual([nft.removal("pyvpn_x"), (4, 1, 2)], undone)
        self.assertEqual((Rule(4, 7, 8), Rule(6, 7, 8)), self.kept())

    def test_settle_after_a_good_end(self) -> None:
        """Where nothing was left, what this run made is not touched."""
        self.patch(netlink, "add_rule", lambda *_: True)
        self.host.add_rule(7, 8)

        self.assertEqual([], self.host.settle())

        self.assertEqual((Rule(4, 7, 8), Rule(6, 7, 8)), self.kept())

    def test_leave_firewall(self) -> None:
        """An operator who takes the firewall over gets table and sysctls back, no more."""
        undone: list[object] = []
        self.patch(nft, "run_nft", undone.append)
        host = self.left_behind(MISSING, Guard("10.73.0.0/24"), NftTable("pyvpn_x"))

        host.leave_firewall()

        self.assertEqual([nft.removal("pyvpn_x")], undone)
        self.assertEqual((Guard("10.73.0.0/24"),), self.kept())

    def test_guards_change(self) -> None:
        """A pool that is no more loses its guard, one that stays keeps it."""
        removed: list[object] = []
        self.patch(netlink, "add_unreachable", lambda _: None)
        self.patch(netlink, "delete_unreachable", removed.append)
        self.host.guard([ip_network("10.73.0.0/24"), ip_network("fd70::/64")])

        self.host.guard([ip_network("fd70::/64"), ip_network("10.74.0.0/24")])

        self.assertEqual([ip_network("10.73.0.0/24")], removed)
        self.assertEqual((Guard("fd70::/64"), Guard("10.74.0.0/24")), self.kept())
