"""The server's parts as the configuration makes them, and changes them while they run."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock

from pyvpn.config import ServerConfig, load_server
from pyvpn.errors import HostError
from pyvpn.net.tls import server_options
from pyvpn.server.core import Core
from pyvpn.server.listen import Door, LinkFactory
from pyvpn.store.sqlite import DEVICES_PER_USER, Store
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.leases import Lease
from pyvpn.wire.command import VERSION, Command
from pyvpn.wire.messages import Code, LogInAnswer
from tests.net.at_once import AtOnce
from tests.net.test_tls import IDENTITY
from tests.server.office import Caller, Office, OfficeCase
from tests.tunnel.packets import KeepingSink, packed

PLAIN = "[plain]\ntcp_listen = 51005\nbypass = 192.168.77.0/24\n"


class Whole(Office):
    """A server whose parts were put together by its own Core."""

    def __init__(self, store: Store, config: ServerConfig) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = store
        self.storage, self.hashing = AtOnce(), AtOnce()
        self.counters, self.tun = Counters(), KeepingSink()
        self.core = Core(
            config,
            store=store,
            storage=self.storage,  # type: ignore[arg-type]  # see tests/net/at_once.py
            hashing=self.hashing,  # type: ignore[arg-type]  # likewise
            tun=self.tun,
            own=(),
            identity=lambda: IDENTITY,
            counters=self.counters,
            now=self.clock.seconds,
            unix=self.unix,
        )
        self.clients, self.leases = self.core.clients, self.core.leases
        self.router = self.core.router
        links = LinkFactory(self.clients, self.clock, version=VERSION, tls=True)
        self.door = Door(links, server_options(IDENTITY), self.core.relays)
        self.pumps = []


class CoreCase(OfficeCase):
    """A server that follows a file."""

    whole: Whole

    def begin(self, text: str = "") -> None:
        """Start with a file that says *text*."""
        self.office = self.whole = Whole(self.store, self.config(text))

    def config(self, text: str) -> ServerConfig:
        path = Path(self.mktemp())
        path.write_text(text)
        path.chmod(0o600)
        return load_server(path)

    def reload(self, text: str) -> None:
        """The file says *text* now."""
        self.whole.core.apply(self.config(text), ())
        self.office.settle()

    def look(self) -> None:
        """Have the server look into its store."""
        self.successResultOf(self.whole.core.look_for_changes())
        self.office.settle()


class ReloadTests(CoreCase):
    """What SIGHUP changes holds from then on, for who is here and for who comes."""

    def by_certificate(self, caller: Caller) -> LogInAnswer:
        return LogInAnswer.from_bytes(caller.again().answer(Command.LOG_IN, b"{}"))

    def test_reauth_after(self) -> None:
        """The password must be shown again after the new time, and not any more without one."""
        self.begin()
        laptop = self.call()
        laptop.log_in()
        self.office.clock.advance(61)
        self.assertTrue(self.by_certificate(laptop).success)
        self.reload("[server]\nreauth_after = 60s\n")
        self.assertRefused(Code.PASSWORD_NEEDED, self.by_certificate(laptop))
        self.reload("")

        self.assertTrue(self.by_certificate(laptop).success)

    def test_unauthenticated_per_source(self) -> None:
        """So many strangers from one place, and no more."""
        self.begin()
        self.reload("[server]\nunauthenticated_per_source = 2\n")

        self.assertEqual([False, False, True], [self.call().is_ended() for _ in range(3)])

    def test_unauthenticated_connections(self) -> None:
        """So many strangers in all; then the oldest gives way."""
        self.begin()
        self.reload("[server]\nunauthenticated_connections = 16\n")
        callers = [self.call(f"192.0.2.{number}") for number in range(17)]

        self.assertEqual([True] + [False] * 16, [caller.is_ended() for caller in callers])

    def test_plain(self) -> None:
        """The same holds at the plain port."""
        self.begin(PLAIN)
        self.reload(
            "[server]\nunauthenticated_connections = 17\nunauthenticated_per_source = 3\n" + PLAIN
        )
        plain = self.whole.core.plain
        assert plain is not None

        self.assertEqual((17, 3), (plain.admission.total, plain.admission.per_source))

    def test_no_plain(self) -> None:
        """Without a port there are no plain clients."""
        self.begin()
        self.assertIsNone(self.whole.core.plain)

    def test_quarantine(self) -> None:
        """An address rests for the new time, in both families."""
        self.begin()
        four, six = packed("10.73.0.9"), packed("fd70:7976:706e::9")
        for seconds, expected in ((60, False), (0, True)):
            self.reload(f"[leases]\nquarantine = {seconds}s\n")
            now = self.office.unix()
            self.office.leases.take(1, 1, now, wanted4=four, wanted6=six)
            self.office.leases.forget(1, now)
            lease = self.office.leases.take(2, 1, now, wanted4=four, wanted6=six).lease
            self.office.leases.forget(2, now)
            self.office.clock.advance(61)

            self.assertEqual([expected] * 2, [lease.address4 == four, lease.address6 == six])

    def test_sticky(self) -> None:
        """A lease is kept for the new time."""
        self.begin()
        self.call().join()
        self.office.session()
        self.office.advance(61)
        self.office.clock.advance(7200)
        self.assertIsNone(self.office.clients.expire_leases())
        self.reload("[leases]\nsticky = 1h\n")
        self.office.clients.expire_leases()

        self.assertEqual([], self.store.leases())

    def test_tunnel(self) -> None:
        """Sessions stay; clients hear of new terms, and of the same ones nothing."""
        self.begin("[tunnel]\nroutes = 192.168.77.0/24\n")
        anna = self.call()
        anna.join()
        self.reload("[tunnel]\nroutes = 192.168.77.0/24\nclient_to_client = yes\n")
        self.assertEqual([], anna.owner.of("question"))
        self.reload("[tunnel]\nroutes = 10.9.0.0/16\nexpiry = 90s\n")

        self.assertEqual([Command.SETTINGS], [each[1] for each in anna.owner.of("question")])
        self.assertEqual((False, 90.0), self.of_router())
        self.assertEqual(1, len(self.office.clients.sessions))

    def of_router(self) -> tuple[bool, float]:
        return self.office.router.client_to_client, self.office.router.expiry_seconds


class AccountTests(CoreCase):
    """What the command line changes while the server runs."""

    def test_removed(self) -> None:
        """A user who is removed is turned out, and all that was leased is free again."""
        self.begin()
        self.add_bob()
        anna, away, bob = self.call(), self.call(), self.call()
        anna.join()
        away.join(device="phone")
        away.tell(Command.GOODBYE)
        bob.join("bob")
        self.look()
        self.open().remove_user("anna")
        self.look()

        self.assertEqual([Code.KICKED], anna.codes())
        self.assertFalse(bob.is_ended())
        kept = [self.office.leases.get(number) is not None for number in (1, 2, 3)]
        self.assertEqual([False, False, True], kept)

    def test_fixed(self) -> None:
        """A removed user's fixed address is anybody's again."""
        self.store.set_fixed("anna", packed("10.73.0.50"), None)
        self.begin()
        self.add_bob()
        self.open().remove_user("anna")
        self.look()
        bob = self.call()
        bob.log_in("bob")

        self.assertEqual("10.73.0.50/24", bob.register("10.73.0.50").address4)

    def test_evicted(self) -> None:
        """A device that had to make room for another keeps no address."""
        self.begin()
        anna = self.call()
        anna.join()
        anna.tell(Command.GOODBYE)
        self.look()
        for number in range(DEVICES_PER_USER):
            device = self.add_device(self.store, self.anna, number)
            self.office.leases.take(device.id, self.anna.id, self.office.unix())
            self.store.save_lease(lease := self.lease_of(device.id))
            self.assertIsNone(lease.released)
        self.look()

        self.assertIsNone(self.office.leases.get(1))
        self.assertEqual(DEVICES_PER_USER, self.office.leases.in_use)

    def lease_of(self, device: int) -> Lease:
        lease = self.office.leases.get(device)
        assert lease is not None
        return lease

    def test_nothing_new(self) -> None:
        """What the server writes itself gives nothing to look at."""
        self.begin()
        self.look()
        self.patch(self.store, "users", None)
        self.call().join()

        self.look()

    def test_disk(self) -> None:
        """What could not be read is read the next time."""
        self.begin()
        self.look()
        self.open().remove_user("anna")
        with_trouble = self.store.users

        def fail() -> None:
            raise HostError("disk on fire")

        self.patch(self.store, "users", fail)
        self.failureResultOf(self.whole.core.look_for_changes(), HostError)
        self.patch(self.store, "users", with_trouble)
        self.look()

        self.assertEqual({}, self.whole.core.users)
