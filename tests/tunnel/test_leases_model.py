"""Leases against a model that searches through everything, for any order of events."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import AddressHeld, Lease, Leases, PoolEmpty

STICKY_SECONDS = 100.0

devices = st.integers(1, 8)
stock_devices = st.integers(11, 13)  # whose leases are pinned
users = st.integers(1, 3)
indexes = st.none() | st.integers(0, 7)


def addresses_of(row: Lease) -> tuple[bytes | None, bytes | None]:
    return row.address4, row.address6


class LeasesModelTests(SynchronousTestCase):
    """The rules of a lease, all at once."""

    def test_same_as_the_obvious_model(self) -> None:
        """No order of log-ins, leaves, fixed and pinned addresses and restarts breaks a rule."""
        for machine in (OnBoth, OnFourOnly):
            run_state_machine_as_test(
                machine,
                settings=settings(max_examples=80, stateful_step_count=40, deadline=None),
            )


class LeasesMachine(RuleBasedStateMachine):
    """Leases beside a dict of rows and plain searches.  Device d belongs to user d % 3 + 1."""

    networks: tuple[IPv4Network | IPv6Network | None, IPv4Network | IPv6Network | None]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows: dict[int, Lease] = {}
        self.fixed: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})  # address to user
        self.quarantine: dict[bytes, float] = {}
        self.start()

    def start(self) -> None:
        pools = [
            None if network is None else AddressPool(network, [network[1]], 10.0)
            for network in self.networks
        ]
        self.leases = Leases(pools[0], pools[1], STICKY_SECONDS)
        self.permitted: list[set[bytes]] = [
            set() if network is None else {network[n].packed for n in range(2, 7)}
            for network in self.networks
        ]

    def address(self, family: int, index: int | None) -> bytes | None:
        network = self.networks[family]
        return None if network is None or index is None else network[index].packed

    # -- the obvious questions

    def held(self, family: int) -> dict[bytes, Lease]:
        rows = ((addresses_of(row)[family], row) for row in self.rows.values())
        return {address: row for address, row in rows if address is not None}

    def free(self, family: int) -> set[bytes]:
        return self.permitted[family] - self.held(family).keys() - self.fixed[family].keys()

    def evictable(self, family: int) -> list[Lease]:
        """Oldest first."""
        rows = [
            row
            for address, row in self.held(family).items()
            if row.released is not None and address not in self.fixed[family]
        ]
        return sorted(rows, key=lambda row: row.released or 0.0)

    def named(
        self, family: int, device: int, user: int, fixed: bytes | None, wanted: bytes | None
    ) -> bytes | None:
        owner = self.fixed[family]
        if (
            fixed is not None
            and fixed in self.permitted[family]
            and owner.get(fixed, user) == user
        ):
            holder = self.held(family).get(fixed)
            if holder is None or holder.released is not None:
                return fixed
        own = addresses_of(self.rows[device])[family] if device in self.rows else None
        if own is not None and owner.get(own, user) == user:
            return own
        if (
            wanted is not None
            and wanted in self.free(family)
            and self.quarantine.get(wanted, 0.0) <= self.now
        ):
            return wanted
        return None

    # -- what happens

    @rule(
        device=devices,
        fixed4=indexes,
        fixed6=indexes,
        wanted4=indexes,
        wanted6=indexes,
    )
    def take(
        self,
        device: int,
        fixed4: int | None,
        fixed6: int | None,
        wanted4: int | None,
        wanted6: int | None,
    ) -> None:
        self.now += 1
        user = device % 3 + 1
        fixed = (self.address(0, fixed4), self.address(1, fixed6))
        wanted = (self.address(0, wanted4), self.address(1, wanted6))
        used = [family for family in (0, 1) if self.networks[family] is not None]
        possible = all(
            self.named(f, device, user, fixed[f], wanted[f]) is not None
            or self.free(f)
            or self.evictable(f)
            for f in used
        )
        before = self.rows.get(device)
        in_use = before is not None and before.released is None
        try:
            granted = self.leases.take(device, user, self.now, *fixed, *wanted)
        except PoolEmpty:
            assert not possible
            assert not in_use
            return
        if in_use:
            assert (before, []) == granted
            return
        assert possible
        evicted = list(granted.evicted)
        for family in used:
            address = addresses_of(granted.lease)[family]
            assert address is not None
            expected = self.named(family, device, user, fixed[family], wanted[family])
            if expected is not None:
                assert expected == address
                holder = self.held(family).get(expected)
                if holder is not None and holder.device != device:
                    assert holder.device == evicted.pop(0)
                    self.end(holder.device)
            else:
                if not self.free(family):
                    oldest = self.evictable(family)[0].device
                    assert oldest == evicted.pop(0)
                    self.end(oldest)
                assert address in self.free(family)
            self.quarantine.pop(address, None)
            # The next family is judged with this one's address gone.
            four, six = (address, None) if family == 0 else (None, address)
            self.rows[-1 - family] = Lease(-1 - family, user, four, six, None)
        assert not evicted
        for family in used:
            del self.rows[-1 - family]
        if before is not None:
            self.end(device)
        for kept in addresses_of(granted.lease):
            if kept is not None:
                self.quarantine.pop(kept, None)
        self.rows[device] = granted.lease
        assert (device, user, None) == (granted.lease[0], granted.lease[1], granted.lease[4])

    def to_pin(
        self, family: int, user: int, fixed: bytes | None, wanted: bytes | None
    ) -> bytes | None:
        owner = self.fixed[family]
        if wanted is not None:
            holder = self.held(family).get(wanted)
            if (
                wanted not in self.permitted[family]
                or owner.get(wanted, user) != user
                or (holder is not None and holder.released is None)
            ):
                raise LookupError
            return wanted
        if (
            fixed in self.permitted[family] - self.held(family).keys()
            and owner.get(fixed, user) == user
        ):
            return fixed
        return None

    @rule(
        device=stock_devices,
        fixed4=indexes,
        fixed6=indexes,
        wanted4=indexes,
        wanted6=indexes,
    )
    def pin_new(
        self,
        device: int,
        fixed4: int | None,
        fixed6: int | None,
        wanted4: int | None,
        wanted6: int | None,
    ) -> None:
        """The command line puts a stock device on file, or removes it if it is there."""
        self.now += 1
        if device in self.rows:
            self.end(device)
            self.follow()
            return
        user = device % 3 + 1
        fixed = (self.address(0, fixed4), self.address(1, fixed6))
        wanted = (self.address(0, wanted4), self.address(1, wanted6))
        used = [family for family in (0, 1) if self.networks[family] is not None]
        try:
            named = {f: self.to_pin(f, user, fixed[f], wanted[f]) for f in used}
        except LookupError:
            named = {}
        room = all(name or self.free(f) or self.evictable(f) for f, name in named.items())
        try:
            granted = self.leases.pin_new(device, user, self.now, *fixed, *wanted)
        except AddressHeld:
            assert not named
            return
        except PoolEmpty:
            assert not named or not room
            return
        assert named
        assert room
        evicted = list(granted.evicted)
        for family in used:
            address = addresses_of(granted.lease)[family]
            # Again: who made room for the other family has perhaps left an address here too.
            expected = self.to_pin(family, user, fixed[family], wanted[family])
            if expected is not None:
                assert expected == address
                holder = self.held(family).get(expected)
                if holder is not None:
                    assert holder.device == evicted.pop(0)
                    self.end(holder.device)
            else:
                if not self.free(family):
                    oldest = self.evictable(family)[0].device
                    assert oldest == evicted.pop(0)
                    self.end(oldest)
                free = self.free(family)
                rested = {a for a in free if self.quarantine.get(a, 0.0) <= self.now}
                assert address in free
                assert not rested or address == max(rested)
            self.quarantine.pop(address, None)  # type: ignore[arg-type]  # it is no None
            four, six = (address, None) if family == 0 else (None, address)
            self.rows[-1 - family] = Lease(-1 - family, user, four, six, None)
        assert not evicted
        for family in used:
            del self.rows[-1 - family]
        self.rows[device] = granted.lease
        assert granted.lease._replace(address4=None, address6=None) == Lease(
            device, user, None, None, None, pinned=True
        )

    @rule(device=stock_devices, index4=indexes, index6=indexes)
    def pin(self, device: int, index4: int | None, index6: int | None) -> None:
        """The command line has put one on file without asking: whoever is in the way goes."""
        self.now += 1
        four, six = self.address(0, index4), self.address(1, index6)
        if device in self.rows:
            self.end(device)
        pinned = {a for row in self.rows.values() if row.pinned for a in addresses_of(row)}
        four = four if four in self.permitted[0] - pinned else None
        six = six if six in self.permitted[1] - pinned else None
        gone = []
        for family, address in ((0, four), (1, six)):
            holder = self.held(family).get(address) if address else None
            if holder is not None:
                gone.append(holder.device)
                self.end(holder.device)
            if address:
                self.quarantine.pop(address, None)
        if four or six:
            self.rows[device] = Lease(device, device % 3 + 1, four, six, None, True)
        assert gone == self.follow()

    def follow(self) -> list[int]:
        return self.leases.pin([row for row in self.rows.values() if row.pinned], self.now)

    def end(self, device: int) -> None:
        for address in addresses_of(self.rows.pop(device)):
            if address is not None:
                self.quarantine[address] = self.now + 10.0

    @rule(device=devices | stock_devices)
    def release(self, device: int) -> None:
        self.now += 1
        row = self.rows.get(device)
        expected = row is not None and row.released is None and not row.pinned
        assert expected == self.leases.release(device, self.now)
        if row is not None and expected:
            self.rows[device] = row._replace(released=self.now)

    @rule(device=devices)
    def forget(self, device: int) -> None:
        self.now += 1
        assert (device in self.rows) == self.leases.forget(device, self.now)
        if device in self.rows:
            self.end(device)

    @rule(seconds=st.integers(1, 40))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        ended = [
            row
            for row in self.rows.values()
            if row.released is not None and row.released + STICKY_SECONDS <= self.now
        ]
        ended.sort(key=lambda row: row.released or 0.0)
        assert [row.device for row in ended] == self.leases.expire(self.now)
        for row in ended:
            self.end(row.device)

    @rule(user=users, index4=indexes, index6=indexes)
    def reserve_fixed(self, user: int, index4: int | None, index6: int | None) -> None:
        addresses = (self.address(0, index4), self.address(1, index6))
        refused = self.leases.reserve_fixed(user, *addresses)
        for family, address in enumerate(addresses):
            for old in [a for a, owner in self.fixed[family].items() if owner == user]:
                if old != address:
                    del self.fixed[family][old]
                    self.quarantine.pop(old, None)
            if address in self.permitted[family]:
                self.fixed[family][address] = user
                self.quarantine.pop(address, None)
        expected = [
            a for f, a in enumerate(addresses) if a is not None and a not in self.permitted[f]
        ]
        assert expected == list(refused)

    @rule()
    def restart(self) -> None:
        """The server is killed with one device here: rows and fixed addresses are read back.

        (With several they would all count as released in one instant, in no order to compare.)
        """
        here = [row for row in self.rows.values() if row.released is None and not row.pinned]
        for row in here[1:]:
            self.release(row.device)
        self.now += 1
        self.start()
        assert self.leases.restore(list(self.rows.values()), self.now) == []
        assert self.follow() == []
        for row in here[:1]:
            self.rows[row.device] = row._replace(released=self.now)
        self.quarantine.clear()
        users = {user for family in self.fixed for user in family.values()}
        for user in sorted(users):
            mine = [
                next((a for a, owner in family.items() if owner == user), None)
                for family in self.fixed
            ]
            assert self.leases.reserve_fixed(user, mine[0], mine[1]) == ()

    @invariant()
    def same_rows(self) -> None:
        for device in range(1, 14):
            assert self.rows.get(device) == self.leases.get(device)
        pinned = [row for row in self.rows.values() if row.pinned]
        assert len(pinned) == self.leases.pinned
        in_use = [row for row in self.rows.values() if row.released is None]
        assert len(in_use) - len(pinned) == self.leases.in_use

    @invariant()
    def nothing_given_twice(self) -> None:
        given = [a for row in self.rows.values() for a in addresses_of(row) if a]
        assert len(set(given)) == len(given)
        assert set(given) <= self.permitted[0] | self.permitted[1]


class OnBoth(LeasesMachine):
    networks = (IPv4Network("10.0.0.0/29"), IPv6Network("fd00::/125"))

    def start(self) -> None:
        super().start()
        self.permitted[1].add(IPv6Network("fd00::/125")[7].packed)


class OnFourOnly(LeasesMachine):
    networks = (IPv4Network("10.0.0.0/29"), None)
