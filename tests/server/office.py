"""A whole server in memory, without sockets and threads, and people who call it through TLS."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect

from pyvpn.auth import make_portal
from pyvpn.crypto.certificates import fingerprint_of, make_key, make_request
from pyvpn.net.control import ControlLink
from pyvpn.net.tls import client_options, server_options
from pyvpn.net.tls_transport import TlsFactory
from pyvpn.server.clients import Clients
from pyvpn.server.listen import Door, LinkFactory, Relays
from pyvpn.server.login import LogIns
from pyvpn.server.terms import Terms
from pyvpn.server.visit import Statistics
from pyvpn.store.passwords import hash_password
from pyvpn.store.records import User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.addresses import AddressPool
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters
from pyvpn.tunnel.leases import Leases
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.tunnel.throttle import Throttle
from pyvpn.wire.command import VERSION, Command, encode_packets
from pyvpn.wire.messages import (
    Code,
    LogIn,
    LogInAnswer,
    Notice,
    Register,
    RegisterAnswer,
)
from tests.net.at_once import AtOnce
from tests.net.links import KeepingOwner
from tests.net.test_tls import HOST, IDENTITY
from tests.store.cases import NOON, StoreCase
from tests.tunnel.packets import KeepingSink

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
HOME = "192.0.2.2"
OFFICE_HOST = "192.168.77.20"
SERVER4, SERVER6 = "10.73.0.1", "fd70::1"

TERMS = Terms(
    interfaces=(IPv4Interface("10.73.0.1/24"), IPv6Interface("fd70::1/64")),
    routes=(ip_network("192.168.77.0/24"), ip_network("fd77::/64")),
    dns=(ip_address("192.168.77.53"),),
    mtu=1420,
    heartbeat=10.0,
    expiry=60.0,
)


class Office:
    """The server's parts, as ServerService puts them together, with lists where the world is."""

    def __init__(
        self,
        store: Store,
        *,
        pool4: str = "10.73.0.0/24",
        client_to_client: bool = False,
        reauth_after: float | None = None,
        admission: Admission | None = None,
        relays: Relays | None = None,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = store
        self.storage, self.hashing = AtOnce(), AtOnce()
        self.counters, self.statistics = Counters(), Statistics()
        self.tun = KeepingSink()
        self.router = Router(self.tun, self.counters, client_to_client=client_to_client)
        self.relays = relays or Relays()
        self.leases = Leases(
            AddressPool(ip_network(pool4), [ip_address(SERVER4)]),
            AddressPool(ip_network("fd70::/64"), [ip_address(SERVER6)]),
        )
        store.delete_leases(
            lease.device for lease in self.leases.restore(store.leases(), self.unix())
        )
        self.throttle = Throttle()
        self.clients = self._make_clients(
            reauth_after, Admission() if admission is None else admission
        )
        links = LinkFactory(self.clients, self.clock, version=VERSION, tls=True)
        self.door = Door(links, server_options(IDENTITY), self.relays)
        self.pumps: list[IOPump] = []

    def _make_clients(self, reauth_after: float | None, admission: Admission) -> Clients:
        log_ins = LogIns(
            portal=make_portal(
                self.store, self.storage.run, self.hashing.run, self.unix, reauth_after
            ),
            identity=lambda: IDENTITY,
            store=self.store,
            storage=self.storage,  # type: ignore[arg-type]  # see tests/net/at_once.py
            throttle=self.throttle,
            now=self.clock.seconds,
            unix=self.unix,
            statistics=self.statistics,
        )
        return Clients(
            now=self.clock.seconds,
            unix=self.unix,
            source_of=self.relays.source_of,
            log_ins=log_ins,
            statistics=self.statistics,
            store=self.store,
            storage=self.storage,  # type: ignore[arg-type]  # likewise
            leases=self.leases,
            router=self.router,
            terms=TERMS,
            admission=admission,
            counters=self.counters,
        )

    def unix(self) -> float:
        """The wall clock."""
        return NOON + self.clock.seconds()

    def settle(self) -> None:
        """Let everything arrive that was sent."""
        moved = True
        while moved:
            moved = sum(pump.flush() for pump in self.pumps) > 0

    def advance(self, seconds: float) -> None:
        """Let time pass, with the server's tick every second."""
        while seconds > 0:
            step = min(1.0, seconds)
            seconds -= step
            self.clock.advance(step)
            self.clients.expire(self.router.tick(self.clock.seconds()))
            self.settle()

    def look(self) -> None:
        """Do what the server does once it sees that the database has changed."""
        self.clients.users_changed({user.id: user for user in self.store.users()})
        self.settle()

    def verified(self) -> int:
        """How many passwords were hashed so far."""
        return self.hashing.made.count("verify_password")

    def session(self, number: int = 0) -> Session:
        """One of the sessions there are."""
        return list(self.clients.sessions.values())[number]


class Caller:
    """Somebody at the other end of a connection, who may send anything.

    Args:
        certificate: shown in TLS, with *key*.
        header: sent before TLS begins.
        verify: as for ControlLink.
        options: TLS options, instead of those by the right pin.
    """

    def __init__(
        self,
        office: Office,
        place: str = HOME,
        *,
        key: bytes | None = None,
        certificate: bytes | None = None,
        header: bytes = b"",
        settle: bool = True,
        verify: Callable[[ControlLink], None] | None = None,
        options: Any = None,
    ) -> None:
        self.office = office
        self.key = key or make_key()
        self.certificate = certificate
        self.owner = KeepingOwner()
        self.link = ControlLink(
            self.owner, office.clock, version=VERSION, initiator=True, verify=verify
        )
        options = options or client_options(
            HOST, IDENTITY.pin, None, certificate and self.key, certificate
        )
        below = TlsFactory(options, Factory.forProtocol(lambda: self.link)).buildProtocol(
            IPv4Address("TCP", "203.0.113.1", 51820)
        )
        kind = IPv6Address if ":" in place else IPv4Address
        peer = kind("TCP", place, 40000)
        far = office.door.buildProtocol(peer)
        self.io = FakeTransport(below, isServer=False)
        self.far_io = FakeTransport(far, isServer=True, peerAddress=peer)
        if header:
            self.io.write(header)
        office.pumps.append(
            connect(far, self.far_io, below, self.io, greet=False, clock=office.clock)
        )
        if settle:
            office.settle()

    # -- what it says

    def ask(self, command: int, data: bytes = b"") -> Deferred[bytes]:
        """Put a question, and let it arrive."""
        asked = self.link.ask(command, data)  # type: ignore[arg-type]  # any number may be tried
        asked.addErrback(lambda failure: failure.value)  # kept for who looks
        self.office.settle()
        return asked

    def answer(self, command: int, data: bytes = b"") -> bytes:
        """The answer to a question, which must come at once."""
        asked = self.ask(command, data)
        result: list[Any] = []
        asked.addCallback(result.append)
        assert result, "no answer"
        assert isinstance(result[0], bytes), result[0]
        return result[0]

    def tell(self, command: Command, data: bytes = b"") -> None:
        self.link.tell(command, data)
        self.office.settle()

    def send(self, *packets: bytes) -> None:
        """Send inner packets."""
        self.link.transport.write(encode_packets(packets))
        self.office.settle()

    def request(
        self, user: str = "anna", password: str = PASSWORD, device: str = "laptop"
    ) -> LogIn:
        """A log-in by password, with a certificate request."""
        text = make_request(self.key, "laptop").decode()
        return LogIn(user=user, password=password, device=device, certificate_request=text)

    def log_in(
        self, user: str = "anna", password: str = PASSWORD, device: str = "laptop"
    ) -> LogInAnswer:
        data = self.answer(Command.LOG_IN, self.request(user, password, device).to_bytes())
        answer = LogInAnswer.from_bytes(data)
        if answer.certificate:
            self.certificate = answer.certificate.encode()
        return answer

    def register(self, address4: str = "", address6: str = "") -> RegisterAnswer:
        data = Register(address4=address4, address6=address6).to_bytes()
        return RegisterAnswer.from_bytes(self.answer(Command.REGISTER, data))

    def join(self, *args: str, **kwargs: str) -> RegisterAnswer:
        """Log in and register; both must succeed."""
        answer = self.log_in(*args, **kwargs)
        assert answer.success, answer
        registered = self.register()
        assert registered.success, registered
        return registered

    def again(self, place: str = HOME) -> Caller:
        """The same device, by another connection, known by its certificate."""
        return Caller(self.office, place, key=self.key, certificate=self.certificate)

    def rejoin(self, place: str = HOME) -> Caller:
        """The same, logged in and registered."""
        caller = self.again(place)
        answer = LogInAnswer.from_bytes(caller.answer(Command.LOG_IN, b"{}"))
        assert answer.success, answer
        assert caller.register().success
        return caller

    def hang_up(self) -> None:
        """End the connection without a word."""
        self.io.disconnecting = True
        self.office.settle()

    # -- what it heard

    def is_ended(self) -> bool:
        """Whether the connection is over."""
        return bool(self.owner.of("lost"))

    def notices(self) -> list[Notice]:
        """The notices that came."""
        return [
            Notice.from_bytes(data)
            for _, command, data in self.owner.of("statement")
            if command == Command.NOTICE
        ]

    def codes(self) -> list[str]:
        """Their codes."""
        return [notice.code for notice in self.notices()]

    def packets(self) -> list[bytes]:
        """The inner packets that came."""
        return [packet for told in self.owner.of("packets") for packet in told[1:]]


def fingerprint(certificate: bytes) -> str:
    """As the server keeps it."""
    return fingerprint_of(x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER))


def own_address(answer: RegisterAnswer, version: int = 4) -> str:
    """The leased address, without its prefix length."""
    return (answer.address4 if version == 4 else answer.address6).partition("/")[0]


class OfficeCase(StoreCase):
    """A server with one user, anna."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", HASH, NOON)
        self.office = Office(self.store)

    def add_bob(self) -> User:
        """Another user."""
        return self.store.add_user("bob", HASH, NOON)

    def fresh(self, **options: Any) -> Office:
        """Take another server, with these options, over the same store."""
        self.office = Office(self.store, **options)
        return self.office

    def call(self, place: str = HOME, **options: Any) -> Caller:
        """Connect."""
        return Caller(self.office, place, **options)

    def assertRefused(self, code: Code, answer: LogInAnswer | RegisterAnswer) -> None:
        """It was refused with *code*, and a text for people."""
        assert not answer.success
        assert answer.message
        self.assertEqual(code, answer.code)
