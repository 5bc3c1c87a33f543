"""The address pool: nobody gets another's address, and nobody is turned away too early."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import Misuse
from pyvpn.tunnel.addresses import AddressPool
from tests.tunnel.packets import packed


def pool_of(network: str, *reserved: str, quarantine_seconds: float = 60.0) -> AddressPool:
    return AddressPool(ip_network(network), [packed(r) for r in reserved], quarantine_seconds)


def take_all(pool: AddressPool, now: float = 0.0) -> list[str]:
    taken = []
    while (address := pool.take(now)) is not None:
        taken.append(str(ip_address(address)))
    return taken


class AddressPoolTests(SynchronousTestCase):
    """Addresses of one network."""

    def test_usual_network(self) -> None:
        """A /24 has 253 addresses for clients: not the network's, broadcast or the server's."""
        pool = pool_of("10.73.0.0/24", "10.73.0.1")

        self.assertEqual(253, pool.usable)
        self.assertEqual([f"10.73.0.{n}" for n in range(2, 255)], take_all(pool))
        self.assertEqual(0, pool.free)

    def test_smallest_networks(self) -> None:
        """A /30 has one client, and so many has each small network."""
        self.assertEqual(["10.0.0.2"], take_all(pool_of("10.0.0.0/30", "10.0.0.1")))
        self.assertEqual(["fd00::2", "fd00::3"], take_all(pool_of("fd00::/126", "fd00::1")))
        for network in ("10.0.0.0/31", "10.0.0.0/32", "fd00::/127"):
            self.assertRaises(Misuse, pool_of, network)

    def test_version_6_without_anycast(self) -> None:
        """The first address of an IPv6 network belongs to its routers; the last is usual."""
        pool = pool_of("fd00::/125", "fd00::1")

        self.assertFalse(pool.permits(packed("fd00::")))
        self.assertEqual([f"fd00::{n}" for n in range(2, 8)], take_all(pool))

    def test_huge_network(self) -> None:
        """A /64 works like any other, and counts right."""
        pool = pool_of("fd70:7976:706e::/64", "fd70:7976:706e::1")

        self.assertEqual(2**64 - 2, pool.usable)
        self.assertEqual(packed("fd70:7976:706e::2"), pool.take(0.0))
        last = packed("fd70:7976:706e::ffff:ffff:ffff:ffff")
        self.assertEqual(last, pool.take(0.0, last))
        self.assertEqual(2**64 - 4, pool.free)

    def test_reserved_forms(self) -> None:
        """The reserved address may be bytes or an address; one outside takes nothing away."""
        network = IPv4Network("10.0.0.0/29")
        self.assertEqual(5, AddressPool(network, [ip_address("10.0.0.1")]).usable)
        self.assertEqual(6, AddressPool(network, [ip_address("10.0.0.0")]).usable)
        self.assertEqual(6, AddressPool(network, [ip_address("10.9.0.1")]).usable)
        self.assertRaises(Misuse, AddressPool, network, [ip_address("fd00::1")])

    def test_wanted(self) -> None:
        """A wanted address is given if it is free, and nothing else instead of it."""
        pool = pool_of("10.0.0.0/29", "10.0.0.1")
        wanted = packed("10.0.0.4")

        self.assertEqual(wanted, pool.take(0.0, wanted))
        self.assertIsNone(pool.take(0.0, wanted))
        for refused in ("10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "fd00::4"):
            self.assertIsNone(pool.take(0.0, packed(refused)))
        self.assertEqual(["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"], take_all(pool))

    def test_quarantine(self) -> None:
        """A released address is not had by name until its quarantine is over."""
        pool = pool_of("10.0.0.0/29", "10.0.0.1")
        wanted = packed("10.0.0.4")
        pool.take(0.0, wanted)
        pool.release(wanted, 100.0)

        self.assertIsNone(pool.take(159.0, wanted))
        self.assertEqual(wanted, pool.take(160.0, wanted))

    def test_quarantine_yields(self) -> None:
        """Rather than turn anybody away, the address that rested longest is given."""
        pool = pool_of("10.0.0.0/29", "10.0.0.1")
        taken = take_all(pool)
        for index, address in enumerate(("10.0.0.5", "10.0.0.3", "10.0.0.6")):
            pool.release(packed(address), 100.0 + index)

        self.assertEqual(5, len(taken))
        self.assertEqual(["10.0.0.5", "10.0.0.3", "10.0.0.6"], take_all(pool, 101.0))

    def test_set_aside(self) -> None:
        """What is set aside is given to its owner only, and to anybody once it is put back."""
        pool = pool_of("10.0.0.0/30", "10.0.0.1")
        fixed = packed("10.0.0.2")

        self.assertTrue(pool.set_aside(fixed))
        self.assertFalse(pool.set_aside(fixed))
        self.assertIsNone(pool.take(0.0))
        self.assertIsNone(pool.take(0.0, fixed))
        self.assertTrue(pool.claim(fixed))
        self.assertFalse(pool.claim(fixed))
        pool.release(fixed, 1.0)
        self.assertIsNone(pool.take(1000.0))
        self.assertTrue(pool.put_back(fixed))
        self.assertFalse(pool.put_back(fixed))
        self.assertEqual(fixed, pool.take(1000.0))

    def test_set_aside_what_the_pool_has_not(self) -> None:
        """The server's own address and foreign ones cannot be set aside or claimed."""
        pool = pool_of("10.0.0.0/29", "10.0.0.1")
        for address in ("10.0.0.1", "10.0.0.7", "192.0.2.1", "fd00::2"):
            self.assertFalse(pool.set_aside(packed(address)))
            self.assertFalse(pool.claim(packed(address)))
        self.assertEqual(5, pool.free)

    def test_released_by_nobody(self) -> None:
        """Releasing what nobody holds is our own mistake."""
        pool = pool_of("10.0.0.0/29", "10.0.0.1")
        self.assertRaises(Misuse, pool.release, packed("10.0.0.2"), 0.0)

    def test_same_as_the_obvious_model(self) -> None:
        """Any order of operations agrees with plain sets, in both families."""
        for machine in (PoolOf4, PoolOf6):
            run_state_machine_as_test(machine, settings=settings(max_examples=60, deadline=None))


class PoolMachine(RuleBasedStateMachine):
    """A pool beside plain sets of what it should know."""

    network: IPv4Network | IPv6Network

    def __init__(self) -> None:
        super().__init__()
        hosts = [self.network[n] for n in range(self.network.num_addresses)]
        broadcast = hosts[-1:] if self.network.version == 4 else []
        unleasable = {hosts[0], hosts[1], *broadcast}
        self.pool = AddressPool(self.network, [hosts[1]], quarantine_seconds=10.0)
        self.permitted = {h.packed for h in hosts if h not in unleasable}
        self.held: set[bytes] = set()
        self.aside: set[bytes] = set()
        self.touched: set[bytes] = set()  # ever held or set aside
        self.returned: set[bytes] = set()  # put back: may come before or after the others
        self.resting: dict[bytes, float] = {}  # in order of release
        self.now = 0.0

    def address(self, index: int) -> bytes:
        return self.network[index % self.network.num_addresses].packed

    def free(self) -> set[bytes]:
        return self.permitted - self.held - self.aside

    def now_held(self, address: bytes) -> None:
        self.held.add(address)
        self.touched.add(address)
        self.returned.discard(address)
        self.resting.pop(address, None)

    @rule(seconds=st.integers(0, 12))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        given, free = self.pool.take(self.now), self.free()
        if given is None:
            assert not free
            return
        assert given in free
        untouched = free - self.touched
        if given not in self.returned:
            if untouched:
                assert min(untouched) == given
            else:
                assert next(iter(self.resting)) == given
        self.now_held(given)

    @rule(index=st.integers(0, 15))
    def take_wanted(self, index: int) -> None:
        wanted = self.address(index)
        expected = wanted in self.free() and self.resting.get(wanted, 0.0) <= self.now
        assert expected == self.pool.offers(wanted, self.now)
        assert (wanted if expected else None) == self.pool.take(self.now, wanted)
        if expected:
            self.now_held(wanted)

    @rule(index=st.integers(0, 15))
    def claim(self, index: int) -> None:
        wanted = self.address(index)
        expected = wanted in self.permitted - self.held
        assert expected == self.pool.claim(wanted)
        if expected:
            self.now_held(wanted)

    @rule(index=st.integers(0, 15))
    def release(self, index: int) -> None:
        address = self.address(index)
        if address not in self.held:
            return
        self.pool.release(address, self.now)
        self.held.remove(address)
        if address not in self.aside:
            self.resting[address] = self.now + 10.0

    @rule(index=st.integers(0, 15))
    def set_aside(self, index: int) -> None:
        address = self.address(index)
        expected = address in self.permitted - self.aside
        assert expected == self.pool.set_aside(address)
        if expected:
            self.aside.add(address)
            self.touched.add(address)
            self.returned.discard(address)
            if address not in self.held:
                self.resting.pop(address, None)

    @rule(index=st.integers(0, 15))
    def put_back(self, index: int) -> None:
        address = self.address(index)
        expected = address in self.aside
        assert expected == self.pool.put_back(address)
        if expected:
            self.aside.remove(address)
            if address not in self.held:
                self.returned.add(address)

    @invariant()
    def counts(self) -> None:
        assert len(self.free()) == self.pool.free
        assert len(self.permitted) == self.pool.usable
        for index in range(self.network.num_addresses):
            address = self.address(index)
            assert (address in self.permitted) == self.pool.permits(address)
            assert (address in self.held) == self.pool.holds(address)


class PoolOf4(PoolMachine):
    network = IPv4Network("10.0.0.0/29")


class PoolOf6(PoolMachine):
    network = IPv6Network("fd00::/125")
