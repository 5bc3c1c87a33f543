"""Stock WireGuard apps: sessions from what is on file, and what survives a crash."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, ip_network

from twisted.logger import LogEvent, globalLogPublisher

from pyvpn.server.recall import AHEAD_SECONDS, FRESH_SECONDS, RESERVE_SECONDS, Recall
from pyvpn.server.stock import StockDevices
from pyvpn.server.terms import Terms
from pyvpn.store.records import Device, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.leases import Granted, Lease, Leases
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE, Path
from tests.net.at_once import AtOnce
from tests.store.cases import NOON, StoreCase
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.wires import EPOCH, End, Net

TERMS = Terms(
    interfaces=(IPv4Interface("10.73.0.1/24"),),
    routes=(ip_network("192.168.77.0/24"),),
    dns=(),
    mtu=1400,
    heartbeat=10.0,
    expiry=60.0,
)
OFFICE = "192.168.77.20"


class Server:
    """The parts of a server that stock devices meet, on a network in memory."""

    def __init__(self, net: Net, store: Store, key: bytes) -> None:
        self.net = net
        self.end: End = net.end("198.51.100.1")
        self.end.wg.set_private_key(key)
        assert self.end.wg.static is not None
        self.end.public = self.end.wg.static.public
        self.tun = KeepingSink()
        self.storage = AtOnce()
        self.store = store
        self.router = Router(self.tun, self.end.counters)
        self.leases = Leases(AddressPool(ip_network("10.73.0.0/24"), []), None)
        self.stock = StockDevices(
            self.end.wg, self.router, self.leases.get, TERMS, lambda: net.now
        )
        self.end.deliver = self.deliver  # type: ignore[method-assign]
        self.recall = Recall(
            self.end.wg, self.stock, self.end.stamps, store, self.storage, self.unix
        )

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        session = peer.owner
        if isinstance(session, Session):
            self.router.packets_from_session(session, packets, now)

    def unix(self) -> float:
        return EPOCH + self.net.now

    def look(self) -> None:
        """Follow what is on file, as Core does."""
        users = {user.id: user for user in self.store.users()}
        self.recall.note(self.net.now)
        self.leases.pin(self.store.pinned_leases(), self.unix())
        self.stock.take_over(self.store.devices(), users)
        self.recall.take_over(self.store.peers(), self.net.now)

    def from_office(self, to: str) -> None:
        self.router.packets_from_tun([packet(OFFICE, to, b"from the office")], self.net.now)
        self.net.settle()


class StockCase(StoreCase):
    """anna, her phone at 10.73.0.9, and a server."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", "hash", NOON)
        self.net = Net()
        self.phone = self.net.end("203.0.113.7")
        self.device = self.put_on_file("phone", self.phone.public, "10.73.0.9")
        self.server = self.start()

    def put_on_file(self, name: str, key: bytes, address: str, user: User | None = None) -> Device:
        def grant(number: int) -> Granted:
            return Granted(Lease(number, 0, packed(address), None, None, True), [])

        owner = self.anna if user is None else user
        device, _ = self.store.add_stock_device(owner.id, name, key, None, NOON, grant)
        return device

    def start(self) -> Server:
        """A server that follows the store, and that the phone knows."""
        server = Server(self.net, self.store, b"K" * 32)
        server.look()
        server.recall.begin(self.net.now)
        peer = self.phone.wg.add_peer(server.end.public)
        assert peer is not None
        peer.endpoint = server.end.place
        self.way = peer
        return server

    def crash(self) -> Server:
        """The server's process is gone, and the next one there."""
        self.net.ends.remove(self.server.end)
        self.server = self.start()
        return self.server

    def from_phone(self, *packets: bytes) -> None:
        self.way.send_packets(list(packets), self.net.now)
        self.net.settle()

    def knock(self) -> None:
        self.from_phone(packet("10.73.0.9", OFFICE, b"hello"))

    @property
    def peer(self) -> Peer:
        return self.server.stock.peer(self.device.id)


class StockDevicesTests(StockCase):
    """A peer and a session for each device on file."""

    def test_bothWays(self) -> None:
        """Its packets reach the office, and the office's reach it; both are counted."""
        sent = packet("10.73.0.9", OFFICE, b"hello")
        self.from_phone(sent)
        self.server.from_office("10.73.0.9")
        self.assertEqual([sent], self.server.tun.packets)
        self.assertEqual([packet(OFFICE, "10.73.0.9", b"from the office")], self.phone.received)
        session = self.server.stock.sessions[self.device.id]
        self.assertEqual((1, 1), (session.packets_in, session.packets_out))
        self.assertEqual((len(sent), "anna/phone"), (session.bytes_in, session.name))

    def test_onlyItsAddress(self) -> None:
        """Somebody else's source is a counted drop, also as the second packet of a run."""
        good = packet("10.73.0.9", OFFICE, b"1")
        self.from_phone(good, packet("10.73.0.10", OFFICE, b"2"), packet("10.73.0.9", OFFICE))
        self.assertEqual([good, packet("10.73.0.9", OFFICE)], self.server.tun.packets)
        self.assertEqual(1, self.server.end.dropped("source-not-own"))
        self.assertEqual(1, self.server.stock.sessions[self.device.id].drops.total())

    def test_onlyWhatIsPushed(self) -> None:
        """A destination that no route names is refused."""
        self.from_phone(packet("10.73.0.9", "203.0.113.99"))
        self.assertEqual([], self.server.tun.packets)
        self.assertEqual(1, self.server.end.dropped("destination-not-permitted"))

    def test_keyOfOneOfOurs(self) -> None:
        """A key that one of ours had is a stock device's from then on: nothing of ours to it."""
        tablet = self.net.end("203.0.113.8")
        peer = self.server.end.wg.add_peer(tablet.public)
        assert peer is not None
        peer.is_native = peer.offload = True
        peer.agree_on_aes(True)
        self.put_on_file("tablet", tablet.public, "10.73.0.10")
        self.server.look()
        self.assertEqual(
            (False, False, False, peer),
            (peer.is_native, peer.offload, peer.aes, self.server.end.wg.peers[tablet.public]),
        )

    def test_newTerms(self) -> None:
        """A changed configuration holds at once for who is here."""
        self.knock()
        self.server.stock.offer(replace(TERMS, routes=(ip_network("203.0.113.0/24"),), mtu=1300))
        self.from_phone(packet("10.73.0.9", OFFICE), packet("10.73.0.9", "203.0.113.99"))
        self.assertEqual(2, len(self.server.tun.packets))
        self.assertEqual(1300, self.peer.mtu)

    def test_disabled(self) -> None:
        """Of a locked-out user nothing is heard and nothing answered, until let in again."""
        self.knock()
        self.store.set_disabled("anna", True)
        self.server.look()
        self.net.now += 6
        self.server.end.sent.clear()
        self.knock()
        self.net.run(30)
        self.assertEqual(1, len(self.server.tun.packets))
        self.assertEqual([], self.server.end.sent)
        self.assertEqual({}, self.server.end.wg.peers)

        self.store.set_disabled("anna", False)
        self.server.look()
        self.net.run(20)
        self.knock()
        self.assertGreater(len(self.server.tun.packets), 1)

    def test_removed(self) -> None:
        """A removed device's address belongs to nobody, and its key to a stranger."""
        self.knock()
        self.store.remove_user("anna")
        self.server.look()
        self.server.from_office("10.73.0.9")
        self.assertEqual(1, self.server.end.dropped("no-session-for-destination"))
        self.assertEqual([], self.server.router.tick(self.net.now + 10_000))

    def test_otherKey(self) -> None:
        """A device whose key was exchanged is known by the new one only."""
        self.knock()
        tablet = self.net.end("203.0.113.8")
        self.server.stock.take_over(
            [replace(self.device, public_key=tablet.public)], {self.anna.id: self.anna}
        )
        self.assertEqual([tablet.public], list(self.server.end.wg.peers))

    def test_ourOwnKey(self) -> None:
        """A device with the server's key is left out, and the others come."""
        self.put_on_file("odd", self.server.end.public, "10.73.0.20")
        self.server.look()
        self.assertEqual([self.device.id], list(self.server.stock.sessions))

    def test_silenceEndsNothing(self) -> None:
        """A session of an app lasts; it is only no longer counted as online."""
        self.knock()
        self.assertEqual(1, self.server.stock.online(self.net.now))
        self.assertEqual(0, self.server.stock.online(self.net.now + 180))
        self.assertEqual([], self.server.router.tick(self.net.now + 100_000))


class RecallTests(StockCase):
    """What is known after a crash."""

    def test_callsBack(self) -> None:
        """After a crash the server begins the handshake, and traffic flows with its answer."""
        self.knock()
        self.server.recall.save(self.net.now)
        server = self.crash()
        self.net.now += 0.5
        server.recall.call_back(self.net.now)
        self.net.settle()
        self.assertEqual(1, len(server.end.of_kind(INITIATION)))
        self.knock()
        self.assertEqual(1, len(server.tun.packets))

    def test_threeTries(self) -> None:
        """Who does not answer is asked three times, and then left alone."""
        self.knock()
        self.server.recall.save(self.net.now)
        self.net.ends.remove(self.phone)
        server = self.crash()
        self.net.now += 0.5
        server.recall.call_back(self.net.now)
        self.net.run(120)
        self.assertEqual(3, len(server.end.of_kind(INITIATION)))

    def test_notTheOld(self) -> None:
        """Who was not heard for three minutes is not called, but is found when it is needed."""
        self.knock()
        self.server.recall.save(self.net.now)
        self.net.now += FRESH_SECONDS + 1
        server = self.crash()
        self.net.now += 0.5
        server.recall.call_back(self.net.now)
        self.assertEqual([], server.end.sent)
        server.from_office("10.73.0.9")
        self.assertEqual(1, len(server.end.of_kind(INITIATION)))
        self.assertEqual(1, len(self.phone.received))

    def test_newestFirstAndPaced(self) -> None:
        """Of many the one heard last is called first, and no more than 500 a second."""
        for number in range(120):
            self.put_on_file(f"d{number}", bytes((number + 1,)) * 32, f"10.73.0.{100 + number}")
        self.server.look()
        for number, session in enumerate(self.server.stock.sessions.values()):
            peer = self.server.stock.peer(session.device)
            peer.endpoint = Path(packed("203.0.113.200"), 1000 + number)
            peer.heard = self.net.now - number
            self.server.end.wg.take_changed()
        self.server.recall.save(self.net.now)
        server = self.crash()
        self.net.now += 0.125
        server.recall.call_back(self.net.now)
        ports = [sent.path.port for sent in server.end.sent]
        self.assertEqual(list(range(1000, 1062)), ports)

    def test_replayAfterCrash(self) -> None:
        """An initiation recorded before the crash is refused after it."""
        self.knock()
        recorded = self.phone.of_kind(INITIATION)[0].datagram
        self.server.recall.save(self.net.now)
        server = self.crash()
        self.net.now += 60
        server.end.wg.received([recorded], self.phone.place, 0, self.net.now)
        server.end.wg.work(self.net.now)
        self.assertEqual(1, server.end.dropped("handshake-replayed"))
        self.assertEqual([], server.end.of_kind(RESPONSE))

    def test_notSavedIsAccepted(self) -> None:
        """The negative twin: without the record the same initiation would be answered."""
        self.knock()
        recorded = self.phone.of_kind(INITIATION)[0].datagram
        server = self.crash()
        server.end.wg.received([recorded], self.phone.place, 0, self.net.now)
        server.end.wg.work(self.net.now)
        self.assertEqual(1, len(server.end.of_kind(RESPONSE)))
        self.assertIsNone(self.peer.endpoint)

    def test_reset(self) -> None:
        """Forgetting the timestamp lets a device in whose clock was ahead once."""
        self.knock()
        self.server.recall.save(self.net.now)
        self.peer.newest_stamp = b"\x7f" + bytes(11)
        self.assertTrue(self.store.reset_peer(self.device.id))
        self.server.look()
        self.assertEqual(bytes(12), self.peer.newest_stamp)
        self.server.recall.save(self.net.now + 40)
        [row] = self.store.peers()
        self.assertEqual((1, None), (row.resets, row.received))

    def test_lockedOutAtOnce(self) -> None:
        """Who is locked out before the next save is remembered all the same."""
        self.knock()
        self.store.set_disabled("anna", True)
        self.server.look()
        self.server.recall.save(self.net.now)
        [row] = self.store.peers()
        self.assertEqual(self.phone.place, row.endpoint)
        self.assertIsNotNone(row.received)

    def test_toldOnce(self) -> None:
        """A device that cannot come is spoken of once, whatever else changes on file."""
        said: list[LogEvent] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        self.put_on_file("odd", self.server.end.public, "10.73.0.20")
        for _ in range(3):
            self.server.look()
        told = [event for event in said if "cannot come" in str(event.get("log_format"))]
        self.assertEqual(1, len(told))

    def test_ownStampsGrow(self) -> None:
        """After a crash our timestamps go on above all sent, though the clock was set back."""
        self.knock()
        self.server.recall.save(self.net.now)
        self.net.now += 10
        self.server.from_office("10.73.0.9")
        sent = self.server.end.stamps.next()
        self.server.recall.save(self.net.now)
        floor = self.store.sent_stamp()
        assert floor is not None
        self.assertGreater(floor, sent)
        self.assertGreaterEqual(RESERVE_SECONDS, AHEAD_SECONDS)

    def test_writesLittle(self) -> None:
        """Nothing new, nothing written; an active device is written every half minute."""
        self.knock()
        self.server.recall.save(self.net.now)
        before = len(self.server.storage.made)
        for _ in range(10):
            self.net.now += 1
            self.knock()
            self.server.recall.save(self.net.now)
        self.assertEqual(before, len(self.server.storage.made))
        self.net.now += 21
        self.knock()
        self.server.recall.save(self.net.now)
        self.assertEqual(before + 1, len(self.server.storage.made))

    def test_diskFull(self) -> None:
        """What could not be written is written as soon as it can be."""
        self.server.storage.failing = "_write"
        self.knock()
        self.server.recall.save(self.net.now)
        self.assertEqual([], self.store.peers())
        self.server.storage.failing = ""
        self.net.now += 1
        self.server.recall.save(self.net.now)
        self.assertEqual(self.phone.place, self.store.peers()[0].endpoint)
        self.assertTrue(self.phone.of_kind(DATA))


class LimitTests(StockCase):
    """``pyvpn user limit``, for apps."""

    def limits(self, server: Server) -> tuple[int, int] | None:
        """Those of the phone's session."""
        session = server.stock.sessions[self.device.id]
        if session.limit_in is None or session.limit_out is None:
            return None
        return session.limit_in.bits, session.limit_out.bits

    def test_live(self) -> None:
        """Limits hold from the moment they are seen, for the same session, and end likewise."""
        session = self.server.stock.sessions[self.device.id]
        self.assertIsNone(self.limits(self.server))
        for wanted in ((64_000, 128_000), (1_000_000, 5)):
            self.store.set_limits("anna", *wanted)
            self.server.look()
            self.assertEqual(wanted, self.limits(self.server))
        self.store.set_limits("anna", None, None)
        self.server.look()
        self.assertIsNone(self.limits(self.server))
        self.assertIs(session, self.server.stock.sessions[self.device.id])

    def test_restart(self) -> None:
        """They hold from the start of the server on."""
        self.store.set_limits("anna", 64_000, 128_000)
        self.assertEqual((64_000, 128_000), self.limits(self.start()))
