"""The client's tunnel interface: what is agreed becomes so, in the host and for packets."""

from __future__ import annotations

from errno import EAGAIN
from ipaddress import ip_address, ip_network
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.interface import MAIN_TABLE, Agreed, TunnelInterface, outer_address
from pyvpn.config import ClientConfig, load_client
from pyvpn.errors import HostError, PeerError
from pyvpn.net import netlink
from pyvpn.net.host import Host
from pyvpn.net.table_locks import TableLocks
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.wire.icmp import unreachable
from pyvpn.wire.messages import RegisterAnswer, Settings
from tests.configfile import PIN
from tests.net.at_once import AtOnce
from tests.net.tun_systems import FakeTunSystem
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.test_offload import TakesFrames, to
from tests.wire.plain_segments import TCP, frame, ip4, tcp

SERVER = ip_address("198.18.2.2")
OFFICE_HOST = "192.168.77.20"
OFFER = RegisterAnswer(
    success=True,
    code="ok",
    address4="10.73.0.2/24",
    address6="fd70::2/64",
    routes=("192.168.77.0/24", "fd77::/64"),
    dns=("192.168.77.53",),
    mtu=1420,
    heartbeat=10.0,
    expiry=60.0,
)


class InterfaceCase(SynchronousTestCase):
    """An interface whose kernel keeps what it is told."""

    def setUp(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.own = ["192.168.50.0/24"]
        self.elsewhere: list[object] = []

        def link_up(name: str, mtu: int, addresses: list[str]) -> int:
            self.told.append(("link", name, mtu, *addresses))
            self.system.set_up(name, mtu)
            return 7

        def routes(_index: int, networks: object, table: object, _proto: object) -> list[object]:
            self.told.append(("routes", table, *map(str, networks)))  # type: ignore[call-overload]
            return self.elsewhere

        def rule(version: int, mark: int, table: int) -> bool:
            self.told.append(("rule", version, mark, table))
            return True

        self.patch(netlink, "set_link_up", link_up)
        self.patch(netlink, "set_routes", routes)
        self.patch(netlink, "add_rule", rule)
        self.patch(netlink, "delete_rule", lambda *_: None)
        # The kernel's own; two of these tests may run on one host at a time.
        self.patch(TableLocks, "hold", lambda _locks, _table: None)
        self.patch(
            netlink, "local_networks", lambda _: [("eth0", ip_network(n)) for n in self.own]
        )
        self.system = FakeTunSystem()
        self.reactor = MemoryReactorClock()
        self.netlink = AtOnce()
        self.counters = Counters()
        self.lost: list[str] = []
        self.make()

    def make(self, tunnel: str = "", protocol: str = "pyvpn") -> None:
        """The interface of a client with these lines in [tunnel]."""
        host = Host(self.mktemp(), "client")
        self.addCleanup(host.undo)
        self.interface = TunnelInterface(
            self.reactor,
            self.config(tunnel, protocol),
            host,
            self.netlink,  # type: ignore[arg-type]  # see tests/net/at_once.py
            self.counters,
            self.lost.append,
            self.system,
        )
        self.addCleanup(self.interface.close)
        self.carrier = KeepingSink()
        self.interface.session.attach(self.carrier, 0.0)

    def config(self, tunnel: str = "", protocol: str = "pyvpn") -> ClientConfig:
        path = Path(self.mktemp())
        native = f"pyvpn://anna@vpn.example.org:1?pin={PIN}"
        server = native if protocol == "pyvpn" else "vpn.example.org"
        path.write_text(
            f"[client]\nserver = {server}\nprotocol = {protocol}\n[tunnel]\n{tunnel}\n"
        )
        path.chmod(0o600)
        return load_client(path)

    def agree(self, offer: RegisterAnswer = OFFER) -> Agreed:
        agreed: Agreed = self.successResultOf(self.agreeing(offer))
        return agreed

    def agreeing(self, offer: RegisterAnswer = OFFER) -> Deferred[Agreed]:
        return Deferred.fromCoroutine(self.interface.agree(offer, SERVER))

    def change(self, settings: Settings) -> Agreed:
        agreed: Agreed = self.successResultOf(
            Deferred.fromCoroutine(self.interface.change(settings, SERVER))
        )
        return agreed

    def take(self) -> list[tuple[object, ...]]:
        """What the kernel was told since the last time."""
        told, self.told = self.told, []
        return told

    def from_here(self, *packets: bytes) -> list[bytes]:
        """What is carried to the server of what programs here send."""
        before = len(self.carrier.packets)
        self.system.put("pyvpnc0", list(packets))
        self.interface.tun.doRead()
        return self.carrier.packets[before:]

    def from_server(self, *packets: bytes) -> list[bytes]:
        """What programs here get of what the server sends."""
        self.interface.router.packets_from_session(self.interface.session, list(packets), 1.0)
        return self.system.get("pyvpnc0")


class AgreeTests(InterfaceCase):
    """The first agreement."""

    def test_host(self) -> None:
        """Addresses alone, one route for each network, one rule for each family."""
        agreed = self.agree()

        self.assertEqual(
            [
                ("link", "pyvpnc0", 1420, "10.73.0.2/32", "fd70::2/128"),
                ("rule", 4, 51820, 51820),
                ("rule", 6, 51820, 51820),
                (
                    *("routes", 51820, "10.73.0.0/24", "fd70::/64"),
                    *("192.168.77.0/24", "fd77::/64"),
                ),
            ],
            self.take(),
        )
        self.assertEqual((), agreed.accepted.refused)
        self.assertIn(self.interface.tun, self.reactor.getReaders())

    def test_no_mark(self) -> None:
        """Without a mark there is no rule, and the routes stand in the main table."""
        self.make("fwmark = 0")
        self.agree()

        self.assertEqual(["link", "routes"], [each[0] for each in self.told])
        self.assertEqual(MAIN_TABLE, self.told[1][1])

    def test_no_lease(self) -> None:
        """Without an address nothing is touched."""
        self.failureResultOf(self.agreeing(RegisterAnswer(True, "ok")), PeerError)

        self.assertEqual(([], None), (self.told, self.interface.agreed))

    def test_hostile(self) -> None:
        """What is refused is not made so, the rest is; a network of one's own is told apart."""
        offer = RegisterAnswer(
            success=True,
            code="ok",
            address4="10.73.0.2/24",
            routes=("0.0.0.0/0", "192.168.50.0/24", "192.168.77.0/24", "198.18.2.2/32", "junk"),
            mtu=9,
        )
        agreed = self.agree(offer)

        self.assertEqual(("routes", 51820, "10.73.0.0/24", "192.168.77.0/24"), self.take()[-1])
        self.assertEqual(5, len(agreed.accepted.refused))
        self.assertEqual((ip_network("192.168.50.0/24"),), agreed.accepted.clashes)
        self.assertEqual(1280, self.interface.tun.mtu)

    def test_tunnel_network_is_at_home_too(self) -> None:
        """A lease out of the network here is refused: some neighbour has that address."""
        self.own = ["10.73.0.0/24"]
        self.failureResultOf(self.agreeing(), PeerError)
        self.assertEqual([], self.told)
        self.interface.close()

        self.make("accept_own_networks = yes")
        self.agree()
        self.assertEqual(1, len(self.from_server(packet("10.73.0.1", "10.73.0.2"))))

    def point_to_point(self, server: str, *listed: str) -> RegisterAnswer:
        """What a log-in by plain-udp amounts to."""
        routes = (f"{server}/32", *listed)
        return RegisterAnswer(True, "ok", address4="10.0.0.2/32", server4=server, routes=routes)

    def test_point_to_point(self) -> None:
        """A lease without a network: the other end is routed, and nobody beside it is let in."""
        self.make()
        self.agree(self.point_to_point("10.0.0.1"))

        self.assertEqual(("routes", 51820, "10.0.0.1/32"), self.take()[-1])
        self.assertEqual(1, len(self.from_here(packet("10.0.0.2", "10.0.0.1"))))
        self.assertEqual(1, len(self.from_server(packet("10.0.0.1", "10.0.0.2"))))
        self.assertEqual([], self.from_server(packet("10.0.0.3", "10.0.0.2")))

    def test_point_to_point_list(self) -> None:
        """Beside a list of networks the other end is routed if it is a private address."""
        for server, routed in (("10.0.0.1", True), ("203.0.113.9", False)):
            self.make("accept_routes = 192.168.77.0/24", protocol="plain-udp")
            self.agree(self.point_to_point(server, "192.168.77.0/24"))
            routes = self.take()[-1]
            self.assertEqual(routed, f"{server}/32" in routes, server)
            self.assertIn("192.168.77.0/24", routes)
            self.interface.close()

    def test_point_to_point_at_home(self) -> None:
        """An address of a network here, ours or the server's, is not taken."""
        self.own = ["10.0.0.0/24"]
        self.failureResultOf(self.agreeing(self.point_to_point("10.0.9.1")), PeerError)
        self.own = ["10.0.9.0/24"]
        agreed = self.agree(self.point_to_point("10.0.9.1"))

        self.assertEqual((ip_network("10.0.9.1/32"),), agreed.accepted.clashes)
        self.assertEqual((), agreed.accepted.routes)

    def test_kernel_refuses(self) -> None:
        """A kernel that refuses is the host's fault."""
        self.netlink.failing = "_make_so"
        self.netlink.failure = HostError("no")
        self.failureResultOf(self.agreeing(), HostError)

        self.assertIsNone(self.interface.agreed)

    def test_again(self) -> None:
        """Another lease after a reconnection replaces the first one."""
        self.agree()
        self.agree(RegisterAnswer(True, "ok", address4="10.99.0.5/24", routes=("10.9.0.0/16",)))

        lost = packet("10.99.0.5", OFFICE_HOST)
        self.assertEqual([], self.from_here(lost))
        self.assertEqual([unreachable(lost)], self.system.get("pyvpnc0"))
        self.assertEqual(1, len(self.from_here(packet("10.99.0.5", "10.9.1.1"))))
        self.assertEqual([], self.from_server(packet("10.9.1.1", "10.73.0.2")))
        self.assertEqual(1, len(self.from_server(packet("10.9.1.1", "10.99.0.5"))))

    def test_describe(self) -> None:
        """The agreement in words."""
        self.assertEqual(["no lease yet"], self.interface.describe())
        self.agree()
        said = "\n".join(self.interface.describe())
        for each in ("10.73.0.2", "fd70::2", "192.168.77.0/24", "192.168.77.53"):
            self.assertIn(each, said)


class PacketTests(InterfaceCase):
    """What passes, both ways."""

    def setUp(self) -> None:
        super().setUp()
        self.agree()

    def test_out(self) -> None:
        """Packets for pushed networks are carried, others never."""
        good = [packet("10.73.0.2", OFFICE_HOST), packet("fd70::2", "fd77::20")]
        bad = [packet("10.73.0.2", "8.8.8.8"), packet("10.73.0.2", "224.0.0.251"), b"junk"]

        self.assertEqual(good, self.from_here(*good, *bad))
        self.assertEqual(
            {Drop.NO_ROUTE: 1, Drop.MULTICAST: 1, Drop.MALFORMED: 1}, self.counters.dropped
        )

    def test_in(self) -> None:
        """From pushed networks and the server to our addresses; nothing else."""
        good = [
            packet(OFFICE_HOST, "10.73.0.2"),
            packet("10.73.0.1", "10.73.0.2"),
            packet("fd77::20", "fd70::2"),
        ]
        bad = [
            packet("8.8.8.8", "10.73.0.2"),
            packet("192.168.50.1", "10.73.0.2"),
            packet(OFFICE_HOST, "192.168.50.7"),
            packet(OFFICE_HOST, "10.73.0.3"),
            packet(OFFICE_HOST, "127.0.0.1"),
            b"junk",
        ]
        self.assertEqual(good, self.from_server(*good, *bad))
        self.assertEqual(6, self.counters.total())

    def test_no_connection(self) -> None:
        """Without a connection packets are dropped and counted; the interface stays."""
        self.interface.session.detach(self.carrier)
        self.assertEqual([], self.from_here(packet("10.73.0.2", OFFICE_HOST)))
        self.assertEqual({Drop.NO_CARRIER: 1}, self.counters.dropped)


class ChangeTests(InterfaceCase):
    """Settings pushed later."""

    def setUp(self) -> None:
        super().setUp()
        self.agree()
        self.take()

    def test_routes(self) -> None:
        """Other networks take the place of those before; the lease stays."""
        agreed = self.change(Settings(routes=("10.9.0.0/16",), mtu=1300, heartbeat=5.0))

        self.assertEqual(("link", "pyvpnc0", 1300, "10.73.0.2/32", "fd70::2/128"), self.told[0])
        self.assertEqual(
            ("routes", 51820, "10.73.0.0/24", "fd70::/64", "10.9.0.0/16"), self.told[-1]
        )
        self.assertEqual(5.0, agreed.accepted.heartbeat)
        self.assertEqual([], self.from_here(packet("10.73.0.2", OFFICE_HOST)))
        self.assertEqual(1, len(self.from_here(packet("10.73.0.2", "10.9.1.1"))))

    def test_unsaid(self) -> None:
        """A number that is not said stays as it was; an absent list is an empty one."""
        self.change(Settings(mtu=1300, heartbeat=5.0))
        agreed = self.change(Settings(routes=("10.9.0.0/16",)))

        self.assertEqual((1300, 5.0), (agreed.accepted.mtu, agreed.accepted.heartbeat))
        self.assertEqual((), agreed.accepted.refused)
        self.assertEqual(2, len(self.change(Settings()).networks))

    def test_own_policy(self) -> None:
        """Read again, the file's own limits hold from the next settings on."""
        self.interface.configure(self.config("accept_routes = no\nmtu = 1290"))
        agreed = self.change(Settings(routes=("10.9.0.0/16",)))

        self.assertEqual(((), 1290), (agreed.networks, agreed.accepted.mtu))


class DeviceTests(InterfaceCase):
    """The device itself."""

    def delete(self) -> None:
        """Somebody deletes it under us."""
        self.system.delete("pyvpnc0")
        self.interface.tun.doRead()
        self.reactor.advance(0)

    def test_deleted(self) -> None:
        """A deleted device is made anew, with everything that was agreed."""
        self.agree()
        before = self.take()
        self.delete()

        self.assertEqual(before, self.take())
        self.assertEqual(1, len(self.from_here(packet("10.73.0.2", OFFICE_HOST))))
        self.assertEqual([], self.lost)

    def test_deleted_before_any_agreement(self) -> None:
        """If nothing was agreed yet it is made when something is."""
        self.interface.open()
        self.interface.tun.start()
        self.delete()
        self.assertEqual([], self.told)
        self.agree()

        self.assertEqual(1, len(self.from_here(packet("10.73.0.2", OFFICE_HOST))))

    def test_not_to_be_had_again(self) -> None:
        """If it cannot be had again, that is said."""
        self.agree()
        self.system.refuse_open = 2
        self.delete()
        self.reactor.pump([0.25] * 10)

        self.assertEqual(1, len(self.lost))
        self.assertIn("/dev/net/tun", self.lost[0])

    def test_kernel_refuses_again(self) -> None:
        """The same if its addresses cannot be had again."""
        self.agree()
        self.netlink.failing = "_make_so"
        self.netlink.failure = HostError("no addresses")
        self.delete()
        self.reactor.pump([0.25] * 10)

        self.assertEqual(["no addresses"], self.lost)

    def test_closed(self) -> None:
        """Closed, it is gone; twice is no harm."""
        self.agree()
        self.interface.close()
        self.interface.close()

        self.assertEqual(0, self.system.open_descriptors())
        self.assertEqual([], self.reactor.getReaders())
        self.assertIsNone(self.interface.agreed)

    def test_opened_at_once(self) -> None:
        """Opening twice is no harm; a missing right is said at once."""
        self.interface.open()
        self.interface.open()
        self.interface.close()
        self.system.refuse_attach = 1
        self.make()
        error = self.assertRaises(HostError, self.interface.open)
        self.assertIn("CAP_NET_ADMIN", str(error))

    def test_outer_address(self) -> None:
        """The server's address as a socket shows it, or none."""
        self.assertEqual(SERVER, outer_address("198.18.2.2"))
        self.assertEqual(ip_address("fe80::1"), outer_address("fe80::1%eth0"))
        for nothing in (None, "", "vpn.example.org"):
            self.assertIsNone(outer_address(nothing))
        self.assertEqual(4, len(packed("198.18.2.2")))


class UncutTests(InterfaceCase):
    """Super-packets out of the kernel."""

    def test_where_they_lie(self) -> None:
        """A large one goes to the peer from where it was read, others as values."""
        self.agree()
        session, peer = self.interface.session, TakesFrames()
        session.peer = session.carrier = peer
        told: list[int] = []
        self.interface.sent = lambda: told.append(len(peer.slabs))
        tun = self.interface.tun
        tun.hand_out_frames(True)
        large, small = (
            to(OFFICE_HOST, frame(ip4(TCP, tcp(bytes(size))), 1000)) for size in (40_000, 5000)
        )
        waiting = [small, large]

        def read(_fd: int, _size: int) -> bytes:
            if not waiting:
                raise BlockingIOError(EAGAIN, "nothing")
            return waiting.pop()

        self.patch(self.system, "read", read)
        tun.doRead()
        # To show how bytes of that length differ would take minutes.
        self.assertTrue(peer.slabs == [large] and peer.frames == [[small]])
        self.assertEqual([1], told)
