"""Devices put on file and removed by hand, while the server gives addresses to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyvpn.tunnel.leases import Granted, Lease
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code
from tests.server.office import own_address
from tests.server.test_core import CoreCase
from tests.store.cases import NOON
from tests.tunnel.packets import packed


class StockCase(CoreCase):
    """A server, and the command line beside it."""

    def setUp(self) -> None:
        super().setUp()
        self.command = self.open()

    def add_stock(self, address: str, *evicted: int, number: int = 1) -> int:
        """What the command line does: a stock device of anna's gets *address*."""

        def grant(device: int) -> Granted:
            lease = Lease(device, self.anna.id, packed(address), None, None, pinned=True)
            return Granted(lease, list(evicted))

        name, key = f"phone{number}", bytes([number]) * 32
        device, _ = self.command.add_stock_device(self.anna.id, name, key, None, NOON, grant)
        return device.id

    def before_saving(self, meanwhile: Callable[[], object]) -> None:
        """Do *meanwhile* when a lease is decided, and not yet on disk."""
        save = self.store.save_lease

        def save_lease(*words: Any) -> None:
            self.patch(self.store, "save_lease", save)
            meanwhile()
            save(*words)

        self.patch(self.store, "save_lease", save_lease)


class RemovedTests(StockCase):
    """``pyvpn device remove``"""

    def test_connected(self) -> None:
        """A native device that is removed is turned out; others of its user stay."""
        self.begin()
        laptop, phone = self.call(), self.call()
        laptop.join()
        phone.join(device="phone")
        self.look()
        self.command.remove_device(1)
        self.look()

        self.assertEqual(([Code.KICKED], []), (laptop.codes(), phone.codes()))
        self.assertEqual([2], list(self.office.clients.sessions))
        self.assertIsNone(self.office.leases.get(1))
        again = laptop.again()
        self.assertEqual(Code.BAD_CREDENTIALS, again.log_in("anna", "").code)
        self.assertTrue(laptop.again().join().success)

    def test_between_log_in_and_registration(self) -> None:
        """One that is removed in the middle of coming does not come."""
        self.begin()
        laptop = self.call()
        laptop.log_in()
        self.command.remove_device(1)

        self.assertRefused(Code.NOT_LOGGED_IN, laptop.register())
        self.assertEqual({}, self.office.clients.sessions)

    def test_while_its_lease_is_written(self) -> None:
        """Neither does one that is removed after that, before it is answered."""
        self.begin()
        laptop = self.call()
        laptop.log_in()
        save = self.store.save_lease

        def save_lease(*words: Any) -> None:
            save(*words)
            self.command.remove_device(1)

        self.patch(self.store, "save_lease", save_lease)

        self.assertRefused(Code.NOT_LOGGED_IN, laptop.register())
        self.assertEqual(({}, 0), (self.office.clients.sessions, self.office.leases.in_use))

    def test_stock(self) -> None:
        """A stock device's address is anybody's again."""
        self.begin("[leases]\nquarantine = 0s\n")
        phone = self.add_stock("10.73.0.2")
        self.look()
        self.assertEqual("10.73.0.3", own_address(self.call().join(device="one")))
        self.command.remove_device(phone)
        self.look()

        caller = self.call()
        caller.log_in(device="two")
        self.assertEqual("10.73.0.2", own_address(caller.register("10.73.0.2")))


class AddedTests(StockCase):
    """``pyvpn device add``"""

    def test_followed(self) -> None:
        """Its address is nobody else's from then on, whoever asks for it, also after a crash."""
        self.begin()
        phone = self.add_stock("10.73.0.2")
        for _ in range(2):
            self.look()
            caller = self.call()
            caller.log_in()
            self.assertEqual("10.73.0.3", own_address(caller.register("10.73.0.2")))
            self.assertEqual((1, 1), (self.office.leases.pinned, self.office.leases.in_use))
            caller.tell(Command.GOODBYE)
            self.store.remove_device(self.store.devices(self.anna.id)[-1].id)
            self.begin("[leases]\nsticky = 0s\nquarantine = 0s\n")
            self.office.clients.expire_leases()
        self.assertEqual([phone], [lease.device for lease in self.store.leases()])

    def test_pools_changed(self) -> None:
        """A server with other pools leaves its row alone: the operator may change them back."""
        self.add_stock("10.73.0.2")
        before = self.store.leases()
        self.begin("[tunnel]\nnetwork4 = 10.9.0.0/24\n")
        self.office.clients.expire_leases()

        self.assertEqual(0, self.office.leases.pinned)
        self.assertEqual(before, self.store.leases())

    def test_not_noticed_yet(self) -> None:
        """Until the server has looked, the disk refuses the address and another is found."""
        self.begin()
        self.add_stock("10.73.0.2")
        answer = self.call().join()

        self.assertEqual("10.73.0.3", own_address(answer))
        self.assertEqual([packed("10.73.0.2"), packed("10.73.0.3")], self.addresses())
        self.look()
        self.assertEqual(1, len(self.office.clients.sessions))

    def addresses(self) -> list[bytes | None]:
        return [lease.address4 for lease in self.store.leases()]

    def test_at_that_moment(self) -> None:
        """The same when it happens between the server's decision and its writing."""
        self.begin()
        caller = self.call()
        caller.log_in()
        self.before_saving(lambda: self.add_stock("10.73.0.2"))

        self.assertEqual("10.73.0.3", own_address(caller.register()))
        self.assertEqual([packed("10.73.0.2"), packed("10.73.0.3")], sorted(self.addresses()))

    def test_its_own_sticky_address(self) -> None:
        """A device whose address was given away while it was gone comes back with another."""
        self.begin()
        laptop = self.call()
        laptop.join()
        laptop.tell(Command.GOODBYE)
        laptop = laptop.again()
        laptop.answer(Command.LOG_IN, b"{}")
        self.add_stock("10.73.0.2", 1)

        self.assertEqual("10.73.0.3", own_address(laptop.register()))
        self.look()
        self.assertFalse(laptop.is_ended())

    def test_again_and_again(self) -> None:
        """Somebody who loses every address to the command line is told to come again."""
        self.begin()
        caller = self.call()
        caller.log_in()
        save, number = self.store.save_lease, 1

        def save_lease(lease: Lease, evicted: object) -> None:
            nonlocal number
            number += 1
            self.add_stock(f"10.73.0.{number}", number=number)
            save(lease, ())

        self.patch(self.store, "save_lease", save_lease)
        self.assertRefused(Code.POOL_EMPTY, caller.register())
        self.assertEqual((0, 5), (self.office.leases.in_use, self.office.leases.pinned))
        self.patch(self.store, "save_lease", save)

        self.assertEqual("10.73.0.7", own_address(caller.register()))

    def test_connected(self) -> None:
        """Who still has a session with that address is told to log in again, and gets another.

        (Its device was removed and came again, and the address was given away, all within the
        half second between two looks.)
        """
        self.begin()
        self.look()
        laptop = self.call()
        laptop.join()
        self.command.delete_leases([1])
        self.add_stock("10.73.0.2")
        self.look()

        self.assertEqual([Code.LOG_IN_AGAIN], laptop.codes())
        laptop.rejoin()
        self.assertEqual([packed("10.73.0.2"), packed("10.73.0.3")], sorted(self.addresses()))
