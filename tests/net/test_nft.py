"""The nft table that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net import nft
from pyvpn.net.nft import Firewall, removal, ruleset, run_nft, table_name, table_stands
from tests.net.own_namespace import enter_own_namespace

POOL4 = IPv4Network("10.73.0.0/20")
POOL6 = IPv6Network("fd70:7976:706e::/64")
PLAIN = IPv4Network("182.1.1.0/24")
BYPASS = IPv4Network("192.168.77.0/24")

ORDINARY = Firewall(device="pyvpn0", networks=(POOL4, POOL6))
CONFINED = Firewall(
    device="pyvpn0", networks=(POOL4,), plain_networks=(PLAIN,), plain_bypass=BYPASS
)


def rules(firewall: Firewall, chain: str) -> list[list[dict[str, Any]]]:
    """Return the expressions of each rule in one chain of what is asked for."""
    return [
        entry["add"]["rule"]["expr"]
        for entry in ruleset(firewall)["nftables"]
        if "rule" in entry.get("add", {}) and entry["add"]["rule"]["chain"] == chain
    ]


class RulesetTests(SynchronousTestCase):
    """The transaction as a value."""

    def test_replaced_as_a_whole(self) -> None:
        """The old table goes and the new one comes in one transaction, on a first run too."""
        table = {"table": {"family": "inet", "name": "pyvpn_pyvpn0"}}

        self.assertEqual(
            [{"add": table}, {"delete": table}, {"add": table}],
            ruleset(ORDINARY)["nftables"][:3],
        )

    def test_only_our_table(self) -> None:
        """Nothing outside our own table is mentioned."""
        for entry in ruleset(CONFINED)["nftables"][3:]:
            (inner,) = entry["add"].values()
            self.assertEqual(("inet", "pyvpn_pyvpn0"), (inner["family"], inner["table"]))

    def test_nothing_is_dropped_by_default(self) -> None:
        """Our chains let pass what they do not speak of: the host is not ours to close."""
        policies = [
            entry["add"]["chain"]["policy"]
            for entry in ruleset(CONFINED)["nftables"]
            if "chain" in entry.get("add", {})
        ]

        self.assertEqual({"accept"}, set(policies))

    def test_masquerade(self) -> None:
        """Each pool is masqueraded with ports that cannot be guessed, except into the tunnel."""
        first, second = rules(ORDINARY, "nat_postrouting")

        self.assertEqual(
            [
                {
                    "match": {
                        "op": "==",
                        "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                        "right": {"prefix": {"addr": "10.73.0.0", "len": 20}},
                    }
                },
                {
                    "match": {
                        "op": "!=",
                        "left": {"meta": {"key": "oifname"}},
                        "right": "pyvpn0",
                    }
                },
                {"masquerade": {"flags": "fully-random"}},
            ],
            first,
        )
        self.assertEqual("ip6", second[0]["match"]["left"]["payload"]["protocol"])

    def test_no_masquerade(self) -> None:
        """Where it is not wanted, addresses are left alone."""
        off = Firewall(device="pyvpn0", networks=(POOL4,), masquerade=False)

        self.assertEqual([], rules(off, "nat_postrouting"))

    def test_clients_apart(self) -> None:
        """Clients do not reach each other unless that is asked for."""
        together = Firewall(device="pyvpn0", networks=(POOL4,), client_to_client=True)

        self.assertEqual(1, len(rules(ORDINARY, "filter_forward")))
        self.assertEqual({"drop": None}, rules(ORDINARY, "filter_forward")[0][-1])
        self.assertEqual([], rules(together, "filter_forward"))

    def test_first_generation(self) -> None:
        """The first generation's network gets rules of its own only where there is one."""
        self.assertEqual([], rules(ORDINARY, "filter_input"))
        self.assertEqual(1, len(rules(CONFINED, "filter_input")))
        self.assertEqual(3, len(rules(CONFINED, "filter_forward")))

    def test_first_generation_twice(self) -> None:
        """Two such networks are kept within the bypass, and so from each other."""
        both = Firewall(
            device="pyvpn0",
            networks=(POOL4,),
            plain_networks=(PLAIN, IPv4Network("10.0.0.0/24")),
            plain_bypass=BYPASS,
        )

        self.assertEqual(2, len(rules(both, "filter_input")))
        self.assertEqual(5, len(rules(both, "filter_forward")))
        self.assertEqual(3, len(rules(both, "nat_postrouting")))
        for own, rule in zip(("182.1.1.0", "10.0.0.0"), rules(both, "filter_input"), strict=True):
            addresses = [
                (each["match"]["op"], each["match"]["right"]["prefix"]["addr"])
                for each in rule[1:-2]
            ]
            self.assertEqual([("==", own), ("!=", own), ("!=", "192.168.77.0")], addresses)

    def test_names(self) -> None:
        """A device's name becomes a word that nft can print and read again."""
        self.assertEqual("pyvpn_pyvpn0", table_name("pyvpn0"))
        self.assertEqual("pyvpn_vpn_office_7", table_name("vpn-office.7"))
        self.assertEqual("pyvpn_b_ro", table_name("büro"))


class RunNftTests(SynchronousTestCase):
    """Running nft, or what stands in for it."""

    def stand_in(self, script: str) -> None:
        """Make nft be *script*."""
        folder = self.mktemp()
        os.mkdir(folder)
        path = os.path.join(folder, "nft")
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o700)
        self.patch(os, "environ", {"PATH": os.path.abspath(folder) + ":/usr/bin:/bin"})

    def test_missing(self) -> None:
        """A host without nft gets to know the package, and the option to do without."""
        self.patch(os, "environ", {"PATH": self.mktemp()})
        self.patch(nft, "_FOLDERS", ())

        error = self.assertRaises(HostError, run_nft, removal("pyvpn_x"))

        self.assertEqual(
            "nft is missing: install the package nftables, or write  [firewall] manage = no  "
            "and do what it does by other means",
            str(error),
        )

    def test_input(self) -> None:
        """The transaction goes in by the standard input, never by the command line."""
        self.stand_in('cd "$(dirname "$0")"; echo "$@" > arguments; cat > input\n')

        run_nft(removal("pyvpn_x"))

        folder = os.environ["PATH"].split(":")[0]
        with open(os.path.join(folder, "arguments")) as file:
            self.assertEqual("-j -f -\n", file.read())
        with open(os.path.join(folder, "input")) as file:
            self.assertEqual(removal("pyvpn_x"), json.load(file))

    def test_refused(self) -> None:
        """When nft refuses, its first line is passed on."""
        self.stand_in("echo 'Error: Operation not permitted' >&2; echo more >&2; exit 1\n")

        error = self.assertRaises(HostError, run_nft, removal("pyvpn_x"))

        self.assertIn("nft refused: Error: Operation not permitted. ", str(error))

    def test_refused_in_silence(self) -> None:
        """When nft fails without a word, its status is told."""
        self.stand_in("exit 3\n")

        error = self.assertRaises(HostError, run_nft, removal("pyvpn_x"))

        self.assertIn("nft refused: status 3. ", str(error))

    def test_hangs(self) -> None:
        """An nft that does not end is given up."""
        self.stand_in("exec sleep 60\n")
        self.patch(nft, "_SECONDS", 0.05)

        error = self.assertRaises(HostError, run_nft, removal("pyvpn_x"))

        self.assertIn("nft did not end within 0.05 s", str(error))

    def test_cannot_be_run(self) -> None:
        """An nft that is no program is named."""
        self.stand_in("")
        with open(os.path.join(os.environ["PATH"].split(":")[0], "nft"), "w") as file:
            file.write("\0")

        error = self.assertRaises(HostError, run_nft, removal("pyvpn_x"))

        self.assertIn("nft cannot be run: Exec format error", str(error))

    def test_table_stands(self) -> None:
        """Our table is found among others, and missed when it is not there."""
        tables = [{"metainfo": {}}, {"table": {"family": "inet", "name": "pyvpn_x"}}]
        self.stand_in(f"echo '{json.dumps({'nftables': tables})}'\n")

        self.assertTrue(table_stands("pyvpn_x"))
        self.assertFalse(table_stands("pyvpn_y"))


class KernelNftTests(SynchronousTestCase):
    """The real nft and the real kernel."""

    def setUp(self) -> None:
        enter_own_namespace(self.addCleanup)
        try:
            run_nft(removal("pyvpn_pyvpn0"))
        except HostError as error:
            raise SkipTest(f"needs nft: {error}") from error

    def listing(self) -> str:
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return subprocess.run(
            ["nft", "-s", "list", "ruleset"],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": path},
        ).stdout

    def test_accepted(self) -> None:
        """The kernel reads our table as we meant it."""
        run_nft(ruleset(CONFINED))

        self.assertEqual(
            """\
table inet pyvpn_pyvpn0 {
	chain nat_postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.73.0.0/20 oifname != "pyvpn0" masquerade fully-random
		ip saddr 182.1.1.0/24 oifname != "pyvpn0" masquerade fully-random
	}

	chain clamp_forward {
		type filter hook forward priority mangle; policy accept;
		iifname "pyvpn0" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		oifname "pyvpn0" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
	}

	chain filter_forward {
		type filter hook forward priority filter; policy accept;
		iifname "pyvpn0" ip saddr 182.1.1.0/24 ip daddr != 192.168.77.0/24 counter drop
		oifname "pyvpn0" ip daddr 182.1.1.0/24 ip saddr != 192.168.77.0/24 counter drop
		iifname "pyvpn0" oifname "pyvpn0" counter drop
	}

	chain filter_input {
		type filter hook input priority filter; policy accept;
		iifname "pyvpn0" ip saddr 182.1.1.0/24 ip daddr != 182.1.1.0/24 ip daddr != """
            """192.168.77.0/24 counter drop
	}
}
""",
            self.listing(),
        )

    def test_again(self) -> None:
        """A table that stands is replaced, not added to."""
        run_nft(ruleset(CONFINED))
        run_nft(ruleset(ORDINARY))
        run_nft(ruleset(ORDINARY))

        self.assertNotIn("182.1.1.0", self.listing())
        self.assertEqual(2, self.listing().count("masquerade fully-random"))
        self.assertTrue(table_stands("pyvpn_pyvpn0"))

    def test_removed(self) -> None:
        """A removed table leaves nothing, and may be removed again."""
        run_nft(ruleset(ORDINARY))
        run_nft(removal("pyvpn_pyvpn0"))
        run_nft(removal("pyvpn_pyvpn0"))

        self.assertEqual("", self.listing())
        self.assertFalse(table_stands("pyvpn_pyvpn0"))
