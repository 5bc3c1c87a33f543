"""Registration: who gets which address, and when it is said."""

from __future__ import annotations

from ipaddress import ip_address

from twisted.internet.defer import Deferred

from pyvpn.errors import HostError
from pyvpn.store.passwords import hash_password
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code, RegisterAnswer
from tests.server.office import PASSWORD, Caller, OfficeCase, own_address


class AddressTests(OfficeCase):
    """Which address."""

    def test_sticky(self) -> None:
        """A device finds its addresses again, other devices get others."""
        anna = self.call()
        mine = anna.join()
        anna.hang_up()
        other = self.call().join(device="desktop")

        self.assertNotEqual(own_address(mine), own_address(other))
        self.assertNotEqual(own_address(mine, 6), own_address(other, 6))
        again = anna.again()
        again.answer(Command.LOG_IN, b"{}")
        self.assertEqual(mine, again.register())

    def test_sticky_after_expiry(self) -> None:
        """Also when its session has expired meanwhile."""
        anna = self.call()
        mine = anna.join()
        anna.hang_up()
        self.office.advance(61)
        self.assertEqual({}, self.office.clients.sessions)
        self.call().join(device="desktop")
        again = anna.again()
        again.answer(Command.LOG_IN, b"{}")

        self.assertEqual(mine, again.register())

    def test_wanted(self) -> None:
        """A wish is granted if the address is free and one that is given out."""
        anna = self.call()
        anna.log_in()

        answer = anna.register("10.73.0.77", "fd70::77")

        self.assertEqual(("10.73.0.77/24", "fd70::77/64"), (answer.address4, answer.address6))

    def test_wanted_by_two(self) -> None:
        """A wish for somebody else's address, the server's or none at all gives another one."""
        first = self.call()
        first.log_in()
        first.register("10.73.0.77")
        for number, wish in enumerate(
            ("10.73.0.77", "10.73.0.1", "10.73.0.0", "10.73.0.255", "10.99.0.1", "x", "fd70::5")
        ):
            caller = self.call()
            caller.log_in(device=f"device {number}")
            answer = caller.register(wish, wish)

            self.assertTrue(answer.success)
            self.assertNotEqual(wish, own_address(answer))
            self.assertIn(ip_address(own_address(answer)), _POOL)

    def test_fixed(self) -> None:
        """A user's fixed address goes to that user's device and to nobody else."""
        self.add_bob()
        packed = ip_address("10.73.0.50").packed
        self.store.set_fixed("anna", packed, None)
        self.office.leases.reserve_fixed(self.anna.id, packed, None)
        bob = self.call()
        bob.log_in("bob")
        self.assertNotEqual("10.73.0.50", own_address(bob.register("10.73.0.50")))

        self.assertEqual("10.73.0.50", own_address(self.call().join()))

    def test_pool_empty(self) -> None:
        """When all addresses are in use one is told so; whoever leaves makes room."""
        self.fresh(pool4="10.73.0.0/30")
        first = self.call()
        first.join()
        second = self.call()
        second.log_in(device="second")
        self.assertRefused(Code.POOL_EMPTY, second.register())
        self.assertFalse(second.is_ended())
        self.assertEqual({"pool-empty": 1}, self.office.statistics.refused)

        first.tell(Command.GOODBYE)

        self.assertEqual("10.73.0.2", own_address(second.register()))
        self.assertEqual([2], [lease.device for lease in self.store.leases()])

    def test_again_on_one_connection(self) -> None:
        """A second registration is answered like the first, and changes nothing."""
        anna = self.call()
        first = anna.join()
        session = self.office.session()

        self.assertEqual(first, anna.register("10.73.0.99"))
        self.assertIs(session, self.office.session())
        self.assertEqual([], anna.notices())
        self.assertFalse(anna.is_ended())

    def test_malformed(self) -> None:
        """A registration that breaks the rules is told so, and does no harm."""
        anna = self.call()
        anna.log_in()
        for data in (b"", b'{"address4": 7}'):
            answer = RegisterAnswer.from_bytes(anna.answer(Command.REGISTER, data))
            self.assertRefused(Code.BAD_REQUEST, answer)
        self.assertTrue(anna.register().success)
        anna.answer(Command.REGISTER, b"[]")

        self.assertTrue(anna.is_ended())
        self.assertEqual(1, len(self.office.clients.sessions))


class CommitTests(OfficeCase):
    """Nothing is said before it is on disk."""

    def setUp(self) -> None:
        super().setUp()
        self.caller = self.call()
        self.caller.log_in()

    def start(self) -> Deferred[bytes]:
        """Register, up to where the lease is about to be written."""
        self.office.storage.held = True
        asked = self.caller.ask(Command.REGISTER, b"{}")
        while self.office.storage._waiting and self.office.storage.made[-1] != "owner":
            self.office.storage.go_on(1)
        self.office.settle()
        self.assertNoResult(asked)
        return asked

    def finish(self) -> None:
        """Let the disk do its work."""
        self.office.storage.held = False
        self.office.storage.go_on()
        self.office.settle()

    def test_committed_first(self) -> None:
        """The answer comes after the commit; until then no packet passes."""
        asked = self.start()
        self.assertEqual([], self.store.leases())
        self.assertEqual({}, self.office.clients.sessions)

        self.office.storage.go_on(1)
        self.assertEqual(1, len(self.store.leases()))
        self.finish()

        answer = RegisterAnswer.from_bytes(self.successResultOf(asked))
        self.assertEqual(ip_address(own_address(answer)).packed, self.store.leases()[0].address4)

    def test_disk_fails(self) -> None:
        """If it cannot be written, nothing is leased, and one may try again."""
        self.office.storage.failing = "save_lease"
        self.office.storage.failure = HostError("disk full")
        self.assertRefused(Code.SERVER_ERROR, self.caller.register())
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)
        self.assertIsNone(self.office.leases.get(1))
        self.assertFalse(self.caller.is_ended())
        self.office.storage.failing = ""

        self.assertTrue(self.caller.register().success)

    def test_disk_fails_for_one_who_was_here(self) -> None:
        """A device whose lease cannot be renewed keeps it for the next time."""
        mine = self.caller.register()
        self.caller.tell(Command.GOODBYE)
        self.office.storage.failing = "save_lease"
        self.office.storage.failure = HostError("disk full")
        again = self.caller.again()
        again.answer(Command.LOG_IN, b"{}")
        self.assertRefused(Code.SERVER_ERROR, again.register())
        self.assertEqual(0, self.office.leases.in_use)
        self.office.storage.failing = ""

        self.assertEqual(mine, again.register())

    def test_disk_fails_with_an_eviction(self) -> None:
        """Also when somebody's sticky lease had to end for it, which the disk still has."""
        self.fresh(pool4="10.73.0.0/30")
        first = self.call()
        first.join()
        first.tell(Command.GOODBYE)
        second = self.call()
        second.log_in(device="second")
        self.office.storage.failing = "save_lease"
        self.office.storage.failure = HostError("disk full")
        self.assertRefused(Code.SERVER_ERROR, second.register())
        self.office.storage.failing = ""

        self.assertTrue(second.register().success)
        second.tell(Command.GOODBYE)
        first.rejoin()

        [lease] = self.store.leases()
        self.assertEqual(ip_address("10.73.0.2").packed, lease.address4)

    def test_disk_fails_at_the_end_of_a_lease(self) -> None:
        """An ended lease that the disk still has is in nobody's way once the disk works again."""
        self.fresh(pool4="10.73.0.0/30")
        first = self.call()
        first.join()
        first.tell(Command.GOODBYE)
        self.office.storage.failing = "delete_leases"
        self.office.storage.failure = HostError("disk full")
        self.office.clock.advance(self.office.leases.sticky_seconds + 1)
        forgetting = self.office.clients.expire_leases()
        assert forgetting is not None
        self.failureResultOf(forgetting, HostError)
        self.office.storage.failing = ""

        self.assertEqual("10.73.0.2", own_address(self.call().join(device="second")))
        self.assertEqual([3], [lease.device for lease in self.store.leases()])
        self.assertIsNone(self.office.clients.expire_leases())

    def test_end_of_a_lease(self) -> None:
        """A lease ends 30 days after its device was here, on disk as well."""
        self.caller.register()
        self.caller.tell(Command.GOODBYE)
        self.assertIsNone(self.office.clients.expire_leases())
        self.office.clock.advance(30 * 86400)
        self.office.clients.expire_leases()

        self.assertEqual([], self.store.leases())

    def test_gone_meanwhile(self) -> None:
        """A client that goes before the commit leaves no session, and its lease free."""
        self.start()
        self.caller.hang_up()
        self.finish()

        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)
        self.assertIsNotNone(self.store.leases()[0].released)
        self.assertEqual(0, len(self.office.router.sessions))

    def test_back_meanwhile(self) -> None:
        """The same when it came back by another connection before that: the session is kept."""
        self.start()
        self.caller.hang_up()
        again = self.caller.again()
        again.ask(Command.LOG_IN, b"{}")
        self.finish()
        self.assertTrue(again.register().success)

        self.assertEqual(1, self.office.leases.in_use)
        self.assertIsNone(self.store.leases()[0].released)

    def test_two_devices_at_once(self) -> None:
        """Two that ask at once get two addresses, the second after the first is on disk."""
        other = self.call()
        other.log_in(device="desktop")
        first = self.start()
        second = other.ask(Command.REGISTER, b"{}")
        self.finish()

        answers = [
            own_address(RegisterAnswer.from_bytes(self.successResultOf(each)))
            for each in (first, second)
        ]
        self.assertEqual(["10.73.0.2", "10.73.0.3"], answers)


class AccountChangedTests(OfficeCase):
    """The account changes between log-in and registration."""

    def refused(self, caller: Caller) -> None:
        """The registration is refused, with an answer, and the connection ends."""
        self.assertRefused(Code.NOT_LOGGED_IN, caller.register())
        self.assertTrue(caller.is_ended())
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)

    def test_disabled(self) -> None:
        """Disabled."""
        caller = self.call()
        caller.log_in()
        self.store.set_disabled("anna", True)
        self.refused(caller)

    def test_removed(self) -> None:
        """Removed."""
        caller = self.call()
        caller.log_in()
        self.store.remove_user("anna")
        self.refused(caller)

    def test_password(self) -> None:
        """Another password."""
        caller = self.call()
        caller.log_in()
        self.store.set_password("anna", hash_password(PASSWORD), self.office.unix() + 1)
        self.refused(caller)

    def test_during_the_commit(self) -> None:
        """Disabled while the lease is written: seen before the session begins."""
        caller = self.call()
        caller.log_in()
        self.office.storage.held = True
        asked = caller.ask(Command.REGISTER, b"{}")
        self.office.storage.go_on(1)
        self.store.set_disabled("anna", True)
        self.office.look()
        self.office.storage.held = False
        self.office.storage.go_on()
        self.office.settle()

        answer = RegisterAnswer.from_bytes(self.successResultOf(asked))
        self.assertRefused(Code.NOT_LOGGED_IN, answer)
        self.assertTrue(caller.is_ended())
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)

    def test_removed_during_the_commit(self) -> None:
        """The same when the user is removed, and the device with it."""
        caller = self.call()
        caller.log_in()
        self.office.storage.held = True
        asked = caller.ask(Command.REGISTER, b"{}")
        self.office.storage.go_on(1)
        self.store.remove_user("anna")
        self.office.storage.held = False
        self.office.storage.go_on()
        self.office.settle()

        answer = RegisterAnswer.from_bytes(self.successResultOf(asked))
        self.assertRefused(Code.NOT_LOGGED_IN, answer)
        self.assertTrue(caller.is_ended())
        self.assertEqual(0, self.office.leases.in_use)

    def test_unchanged(self) -> None:
        """Nothing has changed: let in."""
        caller = self.call()
        caller.log_in()
        self.office.look()

        self.assertTrue(caller.register().success)


_POOL = frozenset(ip_address(f"10.73.0.{number}") for number in range(2, 255))
