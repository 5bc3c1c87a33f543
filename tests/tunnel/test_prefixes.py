"""Longest-prefix match: the most precise network wins, whatever else is in the table."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.tunnel.prefixes import Prefixes
from tests.tunnel.packets import packed

Network = IPv4Network | IPv6Network


def near(bits: int) -> st.SearchStrategy[int]:
    """Numbers of *bits* bits, many of them close together so that networks nest and touch."""
    top = (1 << bits) - 1
    return st.integers(0, 7) | st.integers(top - 7, top) | st.integers(0, top)


addresses = st.builds(lambda n: n.to_bytes(4), near(32)) | st.builds(
    lambda n: n.to_bytes(16), near(128)
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    address = draw(addresses)
    length = draw(
        st.integers(0, 8 * len(address)) | st.integers(8 * len(address) - 3, 8 * len(address))
    )
    return ip_network((address, length), strict=False)


def put(prefixes: Prefixes[str], network: str, value: str) -> None:
    parsed = ip_network(network)
    prefixes.add(parsed.network_address.packed, parsed.prefixlen, value)


class PrefixesTests(SynchronousTestCase):
    """The table of destinations."""

    def test_longest_wins(self) -> None:
        """A host beats its network, a network the default route."""
        prefixes: Prefixes[str] = Prefixes()
        for network in ("0.0.0.0/0", "10.0.0.0/8", "10.73.0.0/24", "10.73.0.2/32", "fd70::/64"):
            put(prefixes, network, network)

        self.assertEqual("10.73.0.2/32", prefixes.lookup(packed("10.73.0.2")))
        self.assertEqual("10.73.0.0/24", prefixes.lookup(packed("10.73.0.3")))
        self.assertEqual("10.0.0.0/8", prefixes.lookup(packed("10.74.0.3")))
        self.assertEqual("0.0.0.0/0", prefixes.lookup(packed("192.0.2.1")))
        self.assertEqual("fd70::/64", prefixes.lookup(packed("fd70::1")))
        self.assertIsNone(prefixes.lookup(packed("fd71::1")))
        self.assertEqual(5, len(prefixes))

    def test_families_do_not_mix(self) -> None:
        """The IPv4 default route holds no IPv6 address, nor the other way round."""
        prefixes: Prefixes[str] = Prefixes()
        put(prefixes, "0.0.0.0/0", "four")

        self.assertIsNone(prefixes.lookup(packed("::")))
        put(prefixes, "::/0", "six")
        self.assertEqual("six", prefixes.lookup(packed("::")))
        self.assertEqual("four", prefixes.lookup(bytes(4)))

    def test_bytes_that_are_no_address(self) -> None:
        """What is not 4 or 16 bytes long lies in no network, not even the default."""
        prefixes = Prefixes.from_networks([ip_network("0.0.0.0/0"), ip_network("::/0")], True)
        for length in (0, 1, 3, 5, 15, 17):
            self.assertIsNone(prefixes.lookup(bytes(length)))
            self.assertNotIn(bytes(length), prefixes)
        self.assertNotIn("10.0.0.1", prefixes)

    def test_equal_network_replaced(self) -> None:
        """The same network again has the new value, once."""
        prefixes: Prefixes[str] = Prefixes()
        put(prefixes, "10.0.0.0/8", "old")
        put(prefixes, "10.0.0.0/8", "new")

        self.assertEqual("new", prefixes.lookup(packed("10.1.1.1")))
        self.assertEqual(1, len(prefixes))

    def test_remove(self) -> None:
        """Removing a network lets the next shorter one show again; twice is no error."""
        prefixes: Prefixes[str] = Prefixes()
        put(prefixes, "10.0.0.0/8", "wide")
        put(prefixes, "10.73.0.0/24", "narrow")

        self.assertTrue(prefixes.remove(packed("10.73.0.0"), 24))
        self.assertFalse(prefixes.remove(packed("10.73.0.0"), 24))
        self.assertFalse(prefixes.remove(packed("10.73.0.0"), 32))
        self.assertEqual("wide", prefixes.lookup(packed("10.73.0.1")))
        self.assertIsNone(prefixes.exact(packed("10.73.0.0"), 24))
        self.assertEqual("wide", prefixes.exact(packed("10.0.0.0"), 8))

    def test_wrong_networks(self) -> None:
        """A network that cannot be is our own mistake, and told as such."""
        prefixes: Prefixes[str] = Prefixes()
        for network, length in (
            (packed("10.0.0.1"), 8),
            (packed("10.0.0.0"), 33),
            (packed("10.0.0.0"), -1),
            (packed("fd70::1"), 64),
            (b"12345", 8),
        ):
            self.assertRaises(Misuse, prefixes.add, network, length, "x")
        self.assertEqual(0, len(prefixes))

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), networks(), st.integers()), max_size=30),
        st.lists(addresses, max_size=10),
    )
    def test_same_as_the_obvious_model(
        self, changes: list[tuple[bool, Network, int]], asked: list[bytes]
    ) -> None:
        """The table agrees with a search through all networks, after any changes."""
        prefixes: Prefixes[int] = Prefixes()
        model: dict[Network, int] = {}
        for adding, network, value in changes:
            key = (network.network_address.packed, network.prefixlen)
            if adding:
                model[network] = value
                prefixes.add(*key, value)
            else:
                self.assertEqual(model.pop(network, None) is not None, prefixes.remove(*key))

        self.assertEqual(len(model), len(prefixes))
        corners = [n.network_address.packed for _, n, _ in changes]
        corners += [n.broadcast_address.packed for _, n, _ in changes]
        for address in asked + corners:
            holding = [n for n in model if ip_address(address) in n]
            best = max(holding, key=lambda n: n.prefixlen, default=None)
            expected = None if best is None else model[best]
            self.assertEqual(expected, prefixes.lookup(address))
            self.assertEqual(best is not None, address in prefixes)
