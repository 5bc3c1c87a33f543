"""Users, devices and leases on file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pyvpn.errors import Misuse
from pyvpn.store import AddressTaken, Device, Gone, NameTaken, TooManyDevices, User
from pyvpn.store.sqlite import DEVICES_PER_USER
from pyvpn.tunnel.leases import Lease
from tests.store.cases import NOON, StoreCase

FOUR = b"\x0a\x49\x00\x32"  # 10.73.0.50
OTHER = b"\x0a\x49\x00\x33"
SIX = bytes.fromhex("fd70 7976 706e 0000 0000 0000 0000 0050")


class UserTests(StoreCase):
    """Accounts."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", "hash", NOON)

    def test_add(self) -> None:
        """A new user is enabled, has no fixed address, and is found by name and number."""
        expected = User(self.anna.id, "anna", "hash", False, None, None, NOON, NOON)
        self.assertEqual(expected, self.anna)
        self.assertEqual(expected, self.store.user("anna"))
        self.assertEqual(expected, self.store.user_by_id(self.anna.id))

    def test_kept(self) -> None:
        """What was answered is there after the process."""
        self.store.close()
        self.assertEqual([self.anna], self.open().users())

    def test_unknown(self) -> None:
        """Nobody else is found, however odd the name."""
        for name in ("bert", "", "ANNA", "anna ", "anna\0", "\ud800", "änna", "' OR 1 --"):
            self.assertIsNone(self.store.user(name), repr(name))
        self.assertIsNone(self.store.user_by_id(self.anna.id + 1))
        self.assertIsNone(self.store.holder("nobody's"))
        self.assertIsNone(self.store.owner(1))

    def test_nameTaken(self) -> None:
        """A name belongs to one user, who is not changed by the attempt."""
        self.assertRaises(NameTaken, self.store.add_user, "anna", "other", NOON + 1)
        self.assertEqual([self.anna], self.store.users())

    def test_sorted(self) -> None:
        """Users are listed by name."""
        for name in ("zoe", "bert"):
            self.store.add_user(name, "hash", NOON)
        self.assertEqual(["anna", "bert", "zoe"], [user.name for user in self.store.users()])

    def test_remove(self) -> None:
        """With a user go the devices and leases, and nobody else's."""
        bert = self.store.add_user("bert", "hash", NOON)
        for number, user in enumerate((self.anna, bert)):
            device = self.add_device(self.store, user, number)
            address = FOUR if user is self.anna else OTHER
            self.store.save_lease(Lease(device.id, user.id, address, None, None))
        self.assertTrue(self.store.remove_user("anna"))
        self.assertEqual([bert], self.store.users())
        self.assertEqual([bert.id], [device.user for device in self.store.devices()])
        self.assertEqual([OTHER], [lease.address4 for lease in self.store.leases()])
        self.assertFalse(self.store.remove_user("anna"))

    def test_numbersOnce(self) -> None:
        """A user of a removed one's name is somebody else, and so are the devices."""
        device = self.add_device(self.store, self.anna, 1)
        self.store.remove_user("anna")
        again = self.store.add_user("anna", "hash", NOON)
        self.assertNotEqual(self.anna.id, again.id)
        self.assertNotEqual(device.id, self.add_device(self.store, again, 1).id)

    def test_setPassword(self) -> None:
        """A new password is dated, which is what makes devices ask for it."""
        self.assertTrue(self.store.set_password("anna", "new", NOON + 5))
        found = self.store.user("anna")
        assert found is not None
        self.assertEqual(("new", NOON + 5), (found.password_hash, found.password_changed))
        self.assertEqual(NOON, found.created)

    def test_replaceHash(self) -> None:
        """A better hash of the same password is no new password."""
        self.assertTrue(self.store.replace_hash(self.anna.id, "hash", "better"))
        found = self.store.user("anna")
        assert found is not None
        self.assertEqual(("better", NOON), (found.password_hash, found.password_changed))

    def test_replaceHashLate(self) -> None:
        """It never undoes a password that was set meanwhile."""
        self.store.set_password("anna", "new", NOON + 5)
        self.assertFalse(self.store.replace_hash(self.anna.id, "hash", "better"))
        found = self.store.user("anna")
        assert found is not None
        self.assertEqual("new", found.password_hash)

    def test_setDisabled(self) -> None:
        """A user can be locked out and let in again."""
        for disabled in (True, False):
            self.assertTrue(self.store.set_disabled("anna", disabled))
            found = self.store.user("anna")
            assert found is not None
            self.assertIs(disabled, found.disabled)

    def test_setLimits(self) -> None:
        """How fast each device may be is kept, per direction; nobody else is touched."""
        other = self.store.add_user("bert", "hash", NOON)
        for up, down in ((5, 7), (None, 100_000_000_000), (None, None)):
            self.assertTrue(self.store.set_limits("anna", up, down))
            found = self.store.user("anna")
            assert found is not None
            self.assertEqual((up, down), (found.limit_up, found.limit_down))
        self.assertEqual(other, self.store.user("bert"))
        self.assertFalse(self.store.set_limits("nobody", 5, 5))

    def test_setFixed(self) -> None:
        """Addresses are kept for a user, and given up again."""
        for four, six in ((FOUR, None), (FOUR, SIX), (None, SIX), (None, None)):
            self.assertTrue(self.store.set_fixed("anna", four, six))
            found = self.store.user("anna")
            assert found is not None
            self.assertEqual((four, six), (found.fixed4, found.fixed6))

    def test_fixedForOne(self) -> None:
        """An address is kept for one user only; the error says for whom."""
        self.store.add_user("bert", "hash", NOON)
        self.store.set_fixed("anna", FOUR, SIX)
        for four, six in ((FOUR, None), (None, SIX), (OTHER, SIX)):
            error = self.assertRaises(AddressTaken, self.store.set_fixed, "bert", four, six)
            self.assertIn("'anna'", str(error))
        self.assertTrue(self.store.set_fixed("anna", FOUR, SIX))
        self.assertTrue(self.store.set_fixed("bert", OTHER, None))

    def test_changesNobody(self) -> None:
        """Changing a user who is not there changes nothing and says so."""
        for change in (
            lambda: self.store.set_password("bert", "new", NOON),
            lambda: self.store.set_disabled("bert", True),
            lambda: self.store.set_fixed("bert", FOUR, None),
            lambda: self.store.replace_hash(99, "hash", "better"),
        ):
            self.assertFalse(change())
        self.assertEqual([self.anna], self.store.users())

    def test_noHashInText(self) -> None:
        """The text of a user, as it may stand in a log, has no hash in it."""
        self.assertNotIn("hash", repr(self.anna).replace("password_hash", ""))


class DeviceTests(StoreCase):
    """The machines of a user."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", "hash", NOON)

    def test_add(self) -> None:
        """A device is known by its certificate's fingerprint."""
        device = self.add_device(self.store, self.anna, 7)
        expected = Device(device.id, self.anna.id, f"{7:064x}", "laptop 7", NOON, NOON)
        self.assertEqual(expected, device)
        self.assertEqual(expected, self.store.device(f"{7:064x}"))
        self.assertIsNone(self.store.device(f"{8:064x}"))
        self.assertEqual((self.anna, expected), self.store.holder(f"{7:064x}"))
        self.assertEqual(self.anna, self.store.owner(device.id))

    def test_gone(self) -> None:
        """Of a device that is gone nobody is the owner, nor of one whose user is."""
        one, two = (self.add_device(self.store, self.anna, number) for number in (1, 2))
        self.store.remove_device(one.id)
        self.assertIsNone(self.store.owner(one.id))
        self.assertIsNone(self.store.holder(f"{1:064x}"))
        self.store.remove_user("anna")
        self.assertIsNone(self.store.owner(two.id))
        self.assertIsNone(self.store.holder(f"{2:064x}"))

    def test_ofOneUser(self) -> None:
        """Devices are listed for one user or for all."""
        bert = self.store.add_user("bert", "hash", NOON)
        one, two = self.add_device(self.store, self.anna, 1), self.add_device(self.store, bert, 2)
        self.assertEqual([one, two], self.store.devices())
        self.assertEqual([two], self.store.devices(bert.id))
        self.assertEqual([], self.store.devices(99))

    def test_authenticated(self) -> None:
        """When the password was proved is kept."""
        device = self.add_device(self.store, self.anna, 1)
        self.assertTrue(self.store.set_authenticated(device.id, NOON + 9))
        found = self.store.device(device.fingerprint)
        assert found is not None
        self.assertEqual((NOON, NOON + 9), (found.created, found.authenticated))
        self.assertFalse(self.store.set_authenticated(device.id + 1, NOON))

    def test_userRemoved(self) -> None:
        """A device cannot join a user who was removed while it logged in."""
        self.store.remove_user("anna")
        self.assertRaises(Gone, self.add_device, self.store, self.anna, 1)
        self.assertEqual([], self.store.devices())

    def test_sameCertificate(self) -> None:
        """Two devices with one certificate cannot be: our own bug."""
        self.add_device(self.store, self.anna, 1)
        self.assertRaises(Misuse, self.add_device, self.store, self.anna, 1)

    def fill(self) -> list[Device]:
        """As many devices as one may have; the first proved its password last."""
        return [
            self.add_device(self.store, self.anna, number, NOON - number)
            for number in range(DEVICES_PER_USER)
        ]

    def test_oneTooMany(self) -> None:
        """The device that was not here for longest makes room, with its lease."""
        first, unused, *others = self.fill()
        for number, device in enumerate((first, unused, *others)):
            left = NOON - 1000 if device == unused else NOON + number
            address = FOUR[:3] + bytes([number])
            self.store.save_lease(Lease(device.id, self.anna.id, address, None, left))
        newest = self.add_device(self.store, self.anna, 99)
        self.assertEqual([first, *others, newest], self.store.devices())
        self.assertEqual(DEVICES_PER_USER - 1, len(self.store.leases()))

    def test_neverUsed(self) -> None:
        """Before it goes what was never used, the one whose password was proved longest ago."""
        *others, second, oldest = self.fill()
        self.store.save_lease(Lease(oldest.id, self.anna.id, FOUR, None, NOON - 1000))
        newest = self.store.add_device(self.anna.id, "99", oldest.name, NOON)
        self.assertEqual([*others, oldest, newest], self.store.devices())
        self.assertIsNone(self.store.device(second.fingerprint))

    def test_forgetful(self) -> None:
        """A machine that is a new device at every start pushes out itself, and no laptop."""
        for registers in (False, True):
            with self.subTest(registers=registers):
                user = self.store.add_user(f"user{registers}", "hash", NOON)
                laptop = self.add_device(self.store, user, 1000 + registers)
                own = FOUR[:2] + bytes([registers])
                self.store.save_lease(Lease(laptop.id, user.id, own + b"\x01", None, NOON))
                for number in range(2 * DEVICES_PER_USER):
                    left = NOON + number
                    job = self.store.add_device(user.id, f"{registers}-{number}", "ci", left)
                    if registers:
                        address = own + bytes([100 + number])
                        self.store.save_lease(Lease(job.id, user.id, address, None, left))

                self.assertEqual(laptop, self.store.device(laptop.fingerprint))
                self.assertEqual(DEVICES_PER_USER, len(self.store.devices(user.id)))

    def test_connectedStay(self) -> None:
        """A device that is connected does not make room for another."""
        *others, second, oldest = self.fill()
        self.store.save_lease(Lease(oldest.id, self.anna.id, FOUR, None, None))
        newest = self.add_device(self.store, self.anna, 99)
        self.assertEqual([*others, oldest, newest], self.store.devices())
        self.assertIsNone(self.store.device(second.fingerprint))

    def test_allConnected(self) -> None:
        """When all of them are, the newcomer is refused."""
        devices = self.fill()
        for number, device in enumerate(devices):
            address = FOUR[:3] + bytes([number])
            self.store.save_lease(Lease(device.id, self.anna.id, address, None, None))
        self.assertRaises(TooManyDevices, self.add_device, self.store, self.anna, 99)
        self.assertEqual(devices, self.store.devices())

    def test_ownOnly(self) -> None:
        """One user's many devices cost another user nothing."""
        self.fill()
        bert = self.store.add_user("bert", "hash", NOON)
        self.add_device(self.store, bert, 99, NOON - 1000)
        self.add_device(self.store, self.anna, 100)
        self.assertEqual(1, len(self.store.devices(bert.id)))


class LeaseTests(StoreCase):
    """Which device has which address."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", "hash", NOON)
        self.one = self.add_device(self.store, self.anna, 1)
        self.two = self.add_device(self.store, self.anna, 2)

    def lease(self, device: Device, four: bytes | None, six: bytes | None = None) -> Lease:
        """A lease in use."""
        return Lease(device.id, self.anna.id, four, six, None)

    def test_save(self) -> None:
        """A lease comes back as it was, from another process too."""
        for four, six in ((FOUR, SIX), (FOUR, None), (None, SIX)):
            lease = self.lease(self.one, four, six)
            self.store.save_lease(lease)
            self.assertEqual([lease], self.store.leases())
            self.assertEqual([lease], self.open().leases())

    def test_release(self) -> None:
        """A device that leaves keeps its lease, with the time; coming back it is in use again."""
        lease = self.lease(self.one, FOUR)
        self.store.save_lease(lease)
        self.assertTrue(self.store.release_lease(self.one.id, NOON + 60))
        self.assertEqual([lease._replace(released=NOON + 60)], self.store.leases())
        self.store.save_lease(lease)
        self.assertEqual([lease], self.store.leases())
        self.assertFalse(self.store.release_lease(self.two.id, NOON))

    def test_evict(self) -> None:
        """An address changes hands in one step."""
        self.store.save_lease(self.lease(self.one, FOUR))
        taken = self.lease(self.two, FOUR)
        self.store.save_lease(taken, [self.one.id])
        self.assertEqual([taken], self.store.leases())

    def test_neverTwice(self) -> None:
        """Two devices never have one address on file; the one that has it keeps it."""
        mine = self.lease(self.one, FOUR, SIX)
        self.store.save_lease(mine)
        for four, six in ((FOUR, None), (None, SIX)):
            self.assertRaises(Misuse, self.store.save_lease, self.lease(self.two, four, six))
        self.assertEqual([mine], self.store.leases())

    def test_bothOrNeither(self) -> None:
        """When a lease cannot be kept, nobody is evicted for it."""
        mine = self.lease(self.one, FOUR)
        self.store.save_lease(mine)
        gone = Lease(99, self.anna.id, FOUR, None, None)
        self.assertRaises(Gone, self.store.save_lease, gone, [self.one.id])
        wrong = self.lease(self.two, FOUR + b"!")
        self.assertRaises(Misuse, self.store.save_lease, wrong, [self.one.id])
        self.assertEqual([mine], self.store.leases())

    def test_delete(self) -> None:
        """Leases whose time is over are forgotten; the devices stay."""
        self.store.save_lease(self.lease(self.one, FOUR))
        kept = self.lease(self.two, OTHER)
        self.store.save_lease(kept)
        self.store.delete_leases([self.one.id, 99])
        self.assertEqual([kept], self.store.leases())
        self.assertEqual([self.one, self.two], self.store.devices())


class TwoProcessesTests(StoreCase):
    """The command line and the server work on one file."""

    def test_dataVersion(self) -> None:
        """The server notices what the command line changed, and not its own changes."""
        server, command = self.open(), self.open()
        before = server.data_version()
        server.add_user("anna", "hash", NOON)
        self.assertEqual(before, server.data_version())
        for change in (
            lambda: command.add_user("bert", "hash", NOON),
            lambda: command.set_disabled("anna", True),
            lambda: command.remove_user("bert"),
        ):
            before = server.data_version()
            change()
            self.assertNotEqual(before, server.data_version())
            self.assertEqual(server.data_version(), server.data_version())

    def test_madeRoom(self) -> None:
        """The server notices as well that a device had to make room for another."""
        server = self.open()
        anna = server.add_user("anna", "hash", NOON)
        before = server.data_version()
        for number in range(DEVICES_PER_USER):
            self.add_device(server, anna, number)
        self.assertEqual(before, server.data_version())
        self.add_device(server, anna, DEVICES_PER_USER)
        self.assertNotEqual(before, server.data_version())

    def test_changesNothing(self) -> None:
        """A command that found nothing to change does not wake the server."""
        server, command = self.open(), self.open()
        before = server.data_version()
        command.remove_user("nobody")
        command.users()
        self.assertEqual(before, server.data_version())

    def test_writers(self) -> None:
        """Writers at the same moment wait for each other; nothing is lost."""

        def add(writer: int) -> None:
            store = self.open()
            for number in range(20):
                store.add_user(f"user{writer}-{number}", "hash", NOON)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(4)))
        self.assertEqual(80, len(self.open().users()))

    def test_oneNameTwice(self) -> None:
        """Of two who add one name at the same moment, one is told."""

        def add(writer: int) -> int:
            store = self.open()
            try:
                return store.add_user("anna", f"hash{writer}", NOON).id
            except NameTaken:
                return 0

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(add, range(8)))
        [anna] = self.open().users()
        self.assertEqual([anna.id], [each for each in answers if each])
