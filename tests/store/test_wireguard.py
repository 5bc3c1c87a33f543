"""Stock WireGuard devices on file, and what is remembered of peers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from pyvpn.errors import ConfigError, Misuse
from pyvpn.store import (
    AddressTaken,
    Device,
    Gone,
    KeyTaken,
    NameTaken,
    Remembered,
    TooManyDevices,
    User,
)
from pyvpn.store.sqlite import DEVICES_PER_USER, Store
from pyvpn.tunnel.leases import Granted, Lease
from pyvpn.wire.datagram import Path
from tests.store.cases import NOON, StoreCase

FOUR = b"\x0a\x49\x00\xfe"  # 10.73.0.254
OTHER = b"\x0a\x49\x00\xfd"
SIX = bytes.fromhex("fd70 7976 706e 0000 0000 0000 0000 ffff")
KEY, SECRET = b"k" * 32, b"s" * 32
EARLIER, LATER = b"\x40" + bytes(11), b"\x40" + bytes(10) + b"\1"


def grant(
    four: bytes | None, six: bytes | None = None, evicted: tuple[int, ...] = ()
) -> Callable[[int], Granted]:
    """A decision for these addresses."""
    return lambda device: Granted(Lease(device, 0, four, six, None, True), list(evicted))


class StockCase(StoreCase):
    """A store with anna in it."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", "hash", NOON)

    def add_stock(
        self,
        name: str = "phone",
        key: bytes = KEY,
        user: User | None = None,
        address: bytes = FOUR,
        store: Store | None = None,
    ) -> Device:
        """A stock device."""
        device, _ = (store or self.store).add_stock_device(
            (user or self.anna).id, name, key, None, NOON, grant(address)
        )
        return device


class AddTests(StockCase):
    """Putting one on file."""

    def test_add(self) -> None:
        """Key, secret and addresses are there, and no certificate."""
        device, lease = self.store.add_stock_device(
            self.anna.id, "phone", KEY, SECRET, NOON, grant(FOUR, SIX)
        )
        expected = Device(device.id, self.anna.id, None, "phone", NOON, NOON, KEY, SECRET)
        self.assertEqual([expected], self.open().devices())
        self.assertEqual((expected, True), (device, device.is_stock))
        row = Lease(device.id, self.anna.id, FOUR, SIX, None, pinned=True)
        self.assertEqual(([row], [row]), (self.store.leases(), self.store.pinned_leases()))
        self.assertEqual((FOUR, SIX), lease[2:4])
        self.assertFalse(self.add_device(self.store, self.anna, 1).is_stock)

    def test_noSecretInText(self) -> None:
        """The text of a device, as it may stand in a log, has no secret in it."""
        device = Device(1, 1, None, "phone", NOON, NOON, KEY, SECRET)
        self.assertNotIn(repr(SECRET), repr(device))

    def test_taken(self) -> None:
        """A name of the user's, or anybody's key, is not put on file twice; it says whose."""
        bert = self.store.add_user("bert", "hash", NOON)
        phone = self.add_stock()
        laptop = self.add_device(self.store, self.anna, 1)
        before = self.store.devices()
        for name in (phone.name, laptop.name):
            error = self.assertRaises(NameTaken, self.add_stock, name, b"x" * 32)
            self.assertIn(repr(name), str(error))
        error = self.assertRaises(KeyTaken, self.add_stock, "tab", KEY, bert)
        self.assertIn("anna's device 'phone'", str(error))
        self.assertEqual(before, self.store.devices())
        self.add_stock("phone", b"x" * 32, bert, OTHER)

    def test_userRemoved(self) -> None:
        """A user who was removed meanwhile gets no device."""
        self.store.remove_user("anna")
        self.assertRaises(Gone, self.add_stock)

    def test_refusedAddress(self) -> None:
        """When there is no address for it nothing is put on file; its number is not used."""

        def refuse(device: int) -> Granted:
            raise ConfigError("no")

        self.assertRaises(
            ConfigError, self.store.add_stock_device, self.anna.id, "x", KEY, None, NOON, refuse
        )
        self.assertEqual([], self.store.devices())
        self.assertEqual(1, self.add_stock().id)

    def test_doubleAddress(self) -> None:
        """A decision for an address that somebody has is our own bug, and changes nothing."""
        self.add_stock()
        self.assertRaises(Misuse, self.add_stock, "tab", b"x" * 32)
        self.assertEqual(1, len(self.store.devices()))

    def test_evicted(self) -> None:
        """Whose lease ended for it loses that in the same step."""
        away = self.add_device(self.store, self.anna, 1)
        self.store.save_lease(Lease(away.id, self.anna.id, FOUR, None, NOON))
        device, _ = self.store.add_stock_device(
            self.anna.id, "phone", KEY, None, NOON, grant(FOUR, None, (away.id,))
        )
        self.assertEqual([device.id], [lease.device for lease in self.store.leases()])

    def test_readsInside(self) -> None:
        """What the decision reads is what counts: nobody writes before it has been taken."""
        other = self.open()
        pool = ThreadPoolExecutor(1)
        self.addCleanup(pool.shutdown)
        waiting: list[Future[bool]] = []

        def look(device: int) -> Granted:
            waiting.append(pool.submit(other.set_disabled, "anna", True))
            with self.assertRaises(TimeoutError):
                waiting[0].result(0.1)
            self.assertEqual(([], False), (self.store.leases(), self.store.users()[0].disabled))
            return Granted(Lease(device, 0, FOUR, None, None, True), [])

        self.store.add_stock_device(self.anna.id, "x", KEY, None, NOON, look)
        self.assertTrue(waiting[0].result())
        self.assertTrue(self.store.users()[0].disabled)

    def test_atOnce(self) -> None:
        """Of many with one key at the same moment, one is put on file."""

        def add(number: int) -> int:
            store = self.open()
            try:
                address = FOUR[:3] + bytes([number])
                return self.add_stock(f"phone{number}", address=address, store=store).id
            except KeyTaken:
                return 0

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(add, range(8)))
        [device] = self.store.devices()
        self.assertEqual([device.id], [each for each in answers if each])


class ForGoodTests(StockCase):
    """Nothing that the server does by itself touches a stock device."""

    def test_noRoomMade(self) -> None:
        """However many native devices a user has: no stock device counts, and none goes."""
        stock = [
            self.add_stock(f"phone{n}", bytes([n]) * 32, address=FOUR[:3] + bytes([n]))
            for n in range(DEVICES_PER_USER + 1)
        ]
        natives = [self.add_device(self.store, self.anna, n) for n in range(DEVICES_PER_USER)]
        newest = self.add_device(self.store, self.anna, 99)
        self.assertEqual([*stock, *natives[1:], newest], self.store.devices())

    def test_allConnected(self) -> None:
        """When every native device is connected, the newcomer is refused."""
        self.add_stock()
        for number in range(DEVICES_PER_USER):
            device = self.add_device(self.store, self.anna, number)
            self.store.save_lease(
                Lease(device.id, self.anna.id, FOUR[:3] + bytes([number]), None, None)
            )
        self.assertRaises(TooManyDevices, self.add_device, self.store, self.anna, 99)

    def test_leaseStays(self) -> None:
        """Its lease is neither released nor deleted nor evicted."""
        phone = self.add_stock()
        before = self.store.leases()
        self.assertFalse(self.store.release_lease(phone.id, NOON))
        self.store.delete_leases([phone.id])
        native = self.add_device(self.store, self.anna, 1)
        lease = Lease(native.id, self.anna.id, OTHER, None, None)
        self.store.save_lease(lease, [phone.id])
        self.assertEqual([*before, lease], self.store.leases())

    def test_addressTaken(self) -> None:
        """A lease of its address is refused with a word of its own: that is no bug."""
        self.store.add_stock_device(self.anna.id, "phone", KEY, None, NOON, grant(FOUR, SIX))
        native = self.add_device(self.store, self.anna, 1)
        for four, six in ((FOUR, None), (OTHER, SIX)):
            lease = Lease(native.id, self.anna.id, four, six, None)
            self.assertRaises(AddressTaken, self.store.save_lease, lease)
        self.assertEqual([True], [lease.pinned for lease in self.store.leases()])

    def test_notKeptForOthers(self) -> None:
        """Its address cannot be kept for another user; for its own it can."""
        self.store.add_user("bert", "hash", NOON)
        self.add_stock()
        error = self.assertRaises(AddressTaken, self.store.set_fixed, "bert", FOUR, None)
        self.assertIn("anna's device 'phone'", str(error))
        self.assertTrue(self.store.set_fixed("anna", FOUR, None))

    def test_remove(self) -> None:
        """Until somebody removes it: then the address and the key are anybody's."""
        phone = self.add_stock()
        self.store.save_peers([Remembered(phone.id, None, NOON, LATER)])
        self.assertTrue(self.store.remove_device(phone.id))
        self.assertFalse(self.store.remove_device(phone.id))
        self.assertFalse(self.store.has_device(phone.id))
        self.assertEqual(([], []), (self.store.leases(), self.store.peers()))
        self.assertTrue(self.store.has_device(self.add_stock().id))

    def test_userRemoved(self) -> None:
        """With a user go the stock devices too."""
        self.add_stock()
        self.store.remove_user("anna")
        self.assertEqual(([], []), (self.store.devices(), self.store.leases()))


class PeerTests(StockCase):
    """What outlives the server of a peer."""

    def setUp(self) -> None:
        super().setUp()
        self.phone = self.add_stock()

    @given(
        st.none()
        | st.builds(
            Path,
            st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
            st.integers(0, 65535),
            st.integers(0, 2**32 - 1),
            st.just(b""),
            st.just(0),
        ),
        st.none() | st.floats(0, 1e11),
        st.none() | st.binary(min_size=12, max_size=12),
    )
    def test_roundTrip(
        self, path: Path | None, heard: float | None, received: bytes | None
    ) -> None:
        """What was saved comes back, whatever was there before."""
        saved = Remembered(self.phone.id, path, heard, received)
        self.store.save_peers([saved])
        self.assertEqual([saved], self.store.peers())

    def test_notKept(self) -> None:
        """Our own address and interface are not kept: both may be others by then."""
        path = Path(FOUR, 51820, 0, OTHER, 7)
        self.store.save_peers([Remembered(self.phone.id, path, NOON, LATER)])
        self.assertEqual(Path(FOUR, 51820), self.store.peers()[0].endpoint)

    def test_batch(self) -> None:
        """Many are saved in one step; who was removed meanwhile does not spoil it."""
        native = self.add_device(self.store, self.anna, 1)
        rows = [Remembered(n, None, NOON, LATER) for n in (self.phone.id, native.id, 99)]
        self.store.save_peers(rows)
        self.assertEqual(rows[:2], self.store.peers())
        wrong = Remembered(native.id, None, NOON, b"short")
        first = rows[0]._replace(heard=NOON + 1)
        self.assertRaises(Misuse, self.store.save_peers, [first, wrong])
        self.assertEqual(rows[:2], self.store.peers())

    def test_reset(self) -> None:
        """A timestamp is forgotten, where the device was is not; the server can tell."""
        path = Path(FOUR, 51820)
        server, command = self.store, self.open()
        server.save_peers([Remembered(self.phone.id, path, NOON, LATER)])
        before = server.data_version()
        self.assertTrue(command.reset_peer(self.phone.id))
        self.assertNotEqual(before, server.data_version())
        self.assertEqual([Remembered(self.phone.id, path, NOON, None, 1)], server.peers())

    def test_resetStays(self) -> None:
        """What the server still had in mind does not undo a reset; what it learns after does."""
        self.store.save_peers([Remembered(self.phone.id, None, NOON, LATER)])
        self.store.reset_peer(self.phone.id)
        self.store.save_peers([Remembered(self.phone.id, None, NOON + 1, LATER, 0)])
        self.assertEqual([Remembered(self.phone.id, None, NOON + 1, None, 1)], self.store.peers())
        after = Remembered(self.phone.id, None, NOON + 2, EARLIER, 1)
        self.store.save_peers([after])
        self.assertEqual([after], self.store.peers())

    def test_resetBefore(self) -> None:
        """A device that was never heard can be reset as well, more than once."""
        self.assertTrue(self.store.reset_peer(self.phone.id))
        self.assertTrue(self.store.reset_peer(self.phone.id))
        self.assertEqual([Remembered(self.phone.id, None, None, None, 2)], self.store.peers())

    def test_nothingToReset(self) -> None:
        """Without a WireGuard key there is nothing to reset, nor without a device."""
        native = self.add_device(self.store, self.anna, 1)
        self.assertFalse(self.store.reset_peer(native.id))
        self.assertFalse(self.store.reset_peer(99))
        self.assertEqual([], self.store.peers())

    def test_sentStamp(self) -> None:
        """Our own timestamp only ever grows."""
        self.assertIsNone(self.store.sent_stamp())
        for stamp, expected in ((EARLIER, EARLIER), (LATER, LATER), (EARLIER, LATER)):
            self.store.save_sent_stamp(stamp)
            self.assertEqual(expected, self.open().sent_stamp())
        self.assertRaises(Misuse, self.store.save_sent_stamp, b"\xff" * 13)
        self.assertEqual(LATER, self.store.sent_stamp())
