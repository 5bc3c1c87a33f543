"""What a client takes from a server, and what it refuses, piece by piece."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import PeerError
from pyvpn.tunnel.acceptance import (
    LEAST_MTU,
    MOST_ROUTES,
    Accepted,
    InterfaceAddress,
    Policy,
    accept_addresses,
    accept_settings,
)
from pyvpn.wire.messages import RegisterAnswer, Settings

LEASE = (ip_interface("10.73.0.2/24"), ip_interface("fd70::2/64"))
OWN = tuple(map(ip_network, ("192.168.50.0/24", "fd50::/64", "198.18.1.0/24")))
SERVERS = (ip_address("198.18.2.2"), ip_address("2001:db8:2::2"))
GOOD = ("192.168.77.0/24", "fd77::/64", "10.0.0.0/8", "192.168.78.5", "172.16.0.0/12")

# Each pushed alone between good ones: what is pushed, and a part of the reason.
HOSTILE_ROUTES = {
    "0.0.0.0/0": "default route",
    "::/0": "default route",
    "0.0.0.0/1": "large part",
    "128.0.0.0/1": "large part",
    "64.0.0.0/2": "large part",
    "8000::/1": "large part",
    "2000::/3": "large part",
    "2000::/15": "large part",
    "192.168.50.0/24": "own networks",
    "192.168.50.7/32": "own networks",
    "192.168.0.0/16": "covers this host's own network 192.168.50.0/24",
    "fd50::/64": "own networks",
    "fd50::/48": "covers this host's own network",
    "127.0.0.0/8": "loopback",
    "127.0.0.1": "loopback",
    "::1": "loopback",
    "169.254.0.0/16": "link-local",
    "168.0.0.0/8": "",  # good: the one that follows shows the difference
    "169.0.0.0/8": "covers loopback, multicast or link-local",
    "224.0.0.0/8": "multicast",
    "239.1.2.3": "multicast",
    "ff02::/16": "multicast",
    "fe80::/64": "link-local",
    "198.18.2.2": "server's own address",
    "198.18.2.0/24": "server's own address",
    "2001:db8::/32": "server's own address",
    "10.0.0.1/24": "not a network",
    "10.0.0.0/33": "not a network",
    "10.0.0.0/-1": "not a network",
    "10.0.0": "not a network",
    "": "not a network",
    "x" * 64: "not a network",
    "10.0.0.0/24 dev eth0": "not a network",
    "2001:db8:5::%eth0/64": "not a network",
    "\\x1b[2J": "not a network",
    "1": "not a network",
}
HOSTILE_DNS = {
    "": "not the address",
    "ns.example.org": "not the address",
    "192.168.77.53/24": "not the address",
    "fe80::1%eth0": "not the address",
    "0.0.0.0": "cannot be",  # noqa: S104 - nobody binds here
    "::": "cannot be",
    "127.0.0.1": "cannot be",
    "224.0.0.251": "cannot be",
    "ff02::fb": "cannot be",
}


def judge(
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    routes: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    mtu: int = 1420,
    heartbeat: float = 10.0,
) -> Accepted:
    """What is taken of such an offer."""
    offer = Settings(routes=routes, dns=dns, mtu=mtu, heartbeat=heartbeat, expiry=60.0)
    return accept_settings(offer, policy, OWN, SERVERS, LEASE)


def spelled(values: tuple[object, ...]) -> list[str]:
    return [str(value) for value in values]


class RouteTests(SynchronousTestCase):
    """Pushed routes."""

    def test_good(self) -> None:
        """Ordinary networks are taken, all of them, in their order."""
        accepted = judge(routes=GOOD)
        self.assertEqual(
            ["192.168.77.0/24", "fd77::/64", "10.0.0.0/8", "192.168.78.5/32", "172.16.0.0/12"],
            spelled(accepted.routes),
        )
        self.assertEqual(((), ()), (accepted.refused, accepted.clashes))

    def test_hostile(self) -> None:
        """Each bad one is refused with its reason, and costs the others nothing."""
        for hostile, reason in HOSTILE_ROUTES.items():
            accepted = judge(routes=(GOOD[0], hostile, *GOOD[1:]))
            if not reason:
                self.assertIn(hostile, spelled(accepted.routes))
                continue
            self.assertEqual(len(GOOD), len(accepted.routes), hostile)
            [(_, why)] = accepted.refused
            self.assertIn(reason, why, hostile)

    def test_all_at_once(self) -> None:
        """The same, all together."""
        accepted = judge(routes=(*HOSTILE_ROUTES, *GOOD[:2]))
        self.assertEqual(["168.0.0.0/8", "192.168.77.0/24", "fd77::/64"], spelled(accepted.routes))
        self.assertEqual(len(HOSTILE_ROUTES) - 1, len(accepted.refused))
        for value, _ in accepted.refused:
            self.assertTrue(value.isprintable())

    def test_default_route_in_pieces(self) -> None:
        """A default route does not come in small pieces either, in neither family."""
        pieces4 = tuple(f"{number}.0.0.0/8" for number in range(1, 224) if number != 127)
        pieces6 = tuple(f"{0x2000 + number:x}::/16" for number in range(0x1000))[:250]
        accepted = judge(routes=pieces4)
        covered = sum(network.num_addresses for network in accepted.routes)
        self.assertLessEqual(covered, 2**29)
        self.assertTrue(any("adds up" in why for _, why in accepted.refused))
        accepted = judge(routes=pieces6)
        self.assertLessEqual(sum(n.num_addresses for n in accepted.routes), 2**125)

    def test_default_route_accepted(self) -> None:
        """With accept_default_route it comes, whole or in halves; other bad ones still do not."""
        policy = Policy(accept_default_route=True)
        wanted = ("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1")
        accepted = judge(policy, routes=(*wanted, "127.0.0.0/8", "224.0.0.0/4", "192.168.50.0/24"))

        self.assertEqual(list(wanted), spelled(accepted.routes))
        self.assertEqual(3, len(accepted.refused))

    def test_own_networks(self) -> None:
        """One's own networks are told apart, and come only with accept_own_networks."""
        routes = ("192.168.50.0/24", "192.168.50.128/25", "192.168.0.0/16", "192.168.77.0/24")
        accepted = judge(routes=routes)
        self.assertEqual(["192.168.50.0/24", "192.168.50.128/25"], spelled(accepted.clashes))
        self.assertEqual(["192.168.77.0/24"], spelled(accepted.routes))

        accepted = judge(Policy(accept_own_networks=True), routes=routes)
        self.assertEqual(list(routes), spelled(accepted.routes))
        self.assertEqual((), accepted.clashes)

    def test_only_inside(self) -> None:
        """A list in accept_routes takes what lies inside it."""
        policy = Policy(accept_routes=(ip_network("10.0.0.0/16"), ip_network("fd77::/48")))
        accepted = judge(policy, routes=("10.0.5.0/24", "10.0.0.0/8", "fd77::/64", "fd78::/64"))

        self.assertEqual(["10.0.5.0/24", "fd77::/64"], spelled(accepted.routes))
        self.assertEqual(2, len(accepted.refused))
        self.assertEqual((), judge(Policy(accept_routes=()), routes=GOOD).routes)

    def test_family(self) -> None:
        """Only families of the lease."""
        offer = Settings(routes=GOOD)
        for lease, version in ((LEASE[:1], 4), (LEASE[1:], 6)):
            accepted = accept_settings(offer, Policy(), OWN, SERVERS, lease)
            self.assertEqual({version}, {network.version for network in accepted.routes})
            self.assertEqual(len(GOOD), len(accepted.routes) + len(accepted.refused))

    def test_too_many(self) -> None:
        """At most 256; the rest is refused in one line."""
        many = tuple(f"10.{n // 256}.{n % 256}.0/24" for n in range(4096))
        accepted = judge(routes=many)

        self.assertEqual(MOST_ROUTES, len(accepted.routes))
        self.assertEqual((("3840 more routes", "at most 256 are accepted"),), accepted.refused)

    def test_twice(self) -> None:
        """The same one twice is one."""
        self.assertEqual(1, len(judge(routes=("10.0.0.0/8",) * 200).routes))


class OtherTests(SynchronousTestCase):
    """Name servers, MTU, heartbeat."""

    def test_dns(self) -> None:
        """Bad ones are refused with their reason, good ones taken."""
        good = ("192.168.77.53", "fd77::53", "8.8.8.8")
        accepted = judge(dns=(*HOSTILE_DNS, *good))
        self.assertEqual(list(good), spelled(accepted.dns))
        for (_, why), reason in zip(accepted.refused, HOSTILE_DNS.values(), strict=True):
            self.assertIn(reason, why)
        self.assertEqual((), judge(Policy(accept_dns=False), dns=good).dns)

    def test_too_many_dns(self) -> None:
        """Eight are enough."""
        accepted = judge(dns=tuple(f"10.0.0.{n}" for n in range(1, 100)))
        self.assertEqual((8, 1), (len(accepted.dns), len(accepted.refused)))

    def test_mtu(self) -> None:
        """Within its bounds, and never above one's own limit; 0 is unsaid."""
        for offered, own, expected, refused in (
            (1420, None, 1420, 0),
            (9000, None, 9000, 0),
            (1420, 1300, 1300, 0),
            (1300, 1420, 1300, 0),
            (0, None, LEAST_MTU, 0),
            (1279, None, LEAST_MTU, 1),
            (9001, None, LEAST_MTU, 1),
            (65_535, 1400, LEAST_MTU, 1),
        ):
            accepted = judge(Policy(mtu=own), mtu=offered)
            self.assertEqual((expected, refused), (accepted.mtu, len(accepted.refused)), offered)

    def test_heartbeat(self) -> None:
        """Neither a storm nor none at all; 0 is unsaid."""
        for offered, expected, refused in (
            (1.0, 1.0, 0),
            (300.0, 300.0, 0),
            (0.0, 10.0, 0),
            (0.001, 10.0, 1),
            (1e300, 10.0, 1),
        ):
            accepted = judge(heartbeat=offered)
            self.assertEqual((expected, refused), (accepted.heartbeat, len(accepted.refused)))

    @given(
        st.lists(st.text(max_size=64), max_size=20),
        st.lists(st.text(max_size=64), max_size=20),
        st.integers(0, 65535),
        st.floats(0, 1e308),
    )
    def test_anything(self, routes: list[str], dns: list[str], mtu: int, heartbeat: float) -> None:
        """Whatever is pushed, each piece is used or refused, and nothing is raised."""
        accepted = judge(routes=tuple(routes), dns=tuple(dns), mtu=mtu, heartbeat=heartbeat)

        self.assertLessEqual(len(accepted.routes), len(routes))
        for value, why in accepted.refused:
            self.assertTrue((value + why).isprintable())


class NamedNetworksTests(SynchronousTestCase):
    """accept_routes as a list: what it holds is meant."""

    def test_server_inside(self) -> None:
        """A network around the server is routed if it was named, since our packets are marked."""
        named = Policy(accept_routes=(ip_network("198.18.0.0/16"),))
        self.assertEqual(
            (ip_network("198.18.2.0/24"),), judge(named, routes=("198.18.2.0/24",)).routes
        )

    def test_without_mark(self) -> None:
        """Without the mark our own connection would run into the tunnel: refused all the same."""
        named = Policy(accept_routes=(ip_network("198.18.0.0/16"),), marked=False)
        self.assertEqual((), judge(named, routes=("198.18.2.0/24",)).routes)


class LeaseTests(SynchronousTestCase):
    """The addresses that are given."""

    def accept(
        self,
        address4: str = "",
        address6: str = "",
        policy: Policy = Policy(),  # noqa: B008 - frozen
    ) -> tuple[InterfaceAddress, ...]:
        """What is taken of such a lease."""
        answer = RegisterAnswer(success=True, code="ok", address4=address4, address6=address6)
        return accept_addresses(answer, policy, OWN, SERVERS)

    def test_own_address(self) -> None:
        """One that would make this host answer for its gateway or for the server is refused."""
        for text, why in (
            ("198.18.2.2/32", "server's own outer address"),
            ("192.168.50.1/32", "own network 192.168.50.0/24"),
            ("192.168.50.77/24", "own network 192.168.50.0/24"),
        ):
            error = self.assertRaises(PeerError, self.accept, text)
            self.assertIn(why, str(error))

    def test_good(self) -> None:
        """One or both."""
        self.assertEqual(LEASE, self.accept("10.73.0.2/24", "fd70::2/64"))
        self.assertEqual(LEASE[1:], self.accept("", "fd70::2/64"))
        self.assertEqual((ip_interface("100.64.0.9/32"),), self.accept("100.64.0.9"))

    def test_hostile(self) -> None:
        """Any that no host may have ends the attempt, and is shown safely."""
        for text in (
            *("127.0.0.1/8", "0.0.0.0/8", "0.1.2.3/24", "224.0.0.1/24", "169.254.1.1/16"),
            *("255.255.255.255/32", "240.0.0.1/24", "10.0.0.2/0", "10.0.0.2/7"),
            *("10.0.0.2/33", "10.0.0", "x", "10.0.0.2/24\n", "fd70::2/64", "\x1b[2J"),
        ):
            error = self.assertRaises(PeerError, self.accept, text)
            self.assertTrue(str(error).isprintable())
        for text in (
            *("::1/64", "::/64", "ff02::1/64", "fe80::1/64", "::ffff:10.0.0.2/120", "::5/64"),
            *("fd70::2%eth0/64", "10.73.0.2/24", "fd70::2/0", "fd70::g/64"),
        ):
            self.assertRaises(PeerError, self.accept, "10.73.0.2/24", text)

    def test_none(self) -> None:
        """No address at all is no lease."""
        self.assertRaises(PeerError, self.accept)

    @given(st.text(max_size=64), st.text(max_size=64))
    def test_anything(self, address4: str, address6: str) -> None:
        """Whatever it is, it is a lease or a PeerError."""
        try:
            lease = self.accept(address4, address6)
        except PeerError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertTrue(lease)

    def test_somebody_elses(self) -> None:
        """An address here that is the server's, the gateway's or a neighbour's is refused."""
        policy = Policy(accept_own_networks=True)
        for address4, address6 in (
            ("192.168.50.1/24", ""),
            ("192.168.50.77/32", ""),
            ("", "fd50::1/64"),
        ):
            self.assertRaises(PeerError, self.accept, address4, address6)
            self.assertEqual(1, len(self.accept(address4, address6, policy)))
        for address4, address6 in (("198.18.2.2/24", ""), ("", "2001:db8:2::2/64")):
            self.assertRaises(PeerError, self.accept, address4, address6)
            self.assertRaises(PeerError, self.accept, address4, address6, policy)

    def test_policy_is_a_value(self) -> None:
        """A policy can be changed in one point."""
        self.assertEqual(Policy(mtu=1300), replace(Policy(), mtu=1300))
