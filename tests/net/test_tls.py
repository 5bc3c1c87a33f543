"""TLS between client and server, in memory: who is let in, and who is not."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IHandshakeListener,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pyvpn.client.dialogue import reason_of
from pyvpn.crypto.certificates import (
    fingerprint_of_pem,
    make_authority,
    make_key,
    make_request,
    make_server_certificate,
    pin_of,
    sign_request,
)
from pyvpn.errors import ConfigError, HostError
from pyvpn.net.tls import (
    ServerIdentity,
    ServerNotVerified,
    TlsTerms,
    check_pin,
    client_options,
    load_or_make_identity,
    peer_fingerprint,
    server_options,
)
from pyvpn.net.tls_transport import TlsFactory

UNIX = 1_700_000_000.0  # past, because OpenSSL compares with the real time
HOST = "vpn.example.org"

AUTHORITY_KEY = make_key()
AUTHORITY = make_authority(AUTHORITY_KEY, UNIX)
SERVER_KEY = make_key()
SERVER = make_server_certificate(SERVER_KEY, AUTHORITY_KEY, AUTHORITY, [HOST, "192.0.2.1"], UNIX)
IDENTITY = ServerIdentity(SERVER_KEY, (SERVER,), AUTHORITY_KEY, AUTHORITY, pin_of(SERVER))
DEVICE_KEY = make_key()


def device_certificate(
    authority_key: bytes = AUTHORITY_KEY, authority: bytes = AUTHORITY, unix: float = UNIX
) -> bytes:
    """Return a certificate for the device's key."""
    request = make_request(DEVICE_KEY, "laptop")
    return sign_request(request, authority_key, authority, "anna", unix)


@implementer(IHandshakeListener)
class End(Protocol):
    """One end of a connection: notes what happened to it."""

    def __init__(self) -> None:
        self.secure = False
        self.received = b""
        self.lost: Failure | None = None

    def handshakeCompleted(self) -> None:
        self.secure = True

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted has a default
        self.lost = reason


def factory_of(options: Any, client: bool, make: Callable[[], Protocol], clock: Clock) -> Any:
    """Put TLS below what *make* makes: ours, or Twisted's if *options* are of its kind."""
    above = Factory.forProtocol(make)
    if isinstance(options, TlsTerms):
        return TlsFactory(options, above)
    return TLSMemoryBIOFactory(options, client, above, clock)


class Pair:
    """A client and a server that have talked until neither has anything more to say."""

    def __init__(self, for_server: Any, for_client: Any) -> None:
        clock = Clock()
        self.server, self.client = End(), End()
        below_server = factory_of(for_server, False, lambda: self.server, clock).buildProtocol(
            IPv4Address("TCP", "192.0.2.2", 40000)
        )
        below_client = factory_of(for_client, True, lambda: self.client, clock).buildProtocol(
            IPv4Address("TCP", "192.0.2.1", 51820)
        )
        self._pump: IOPump = connect(
            below_server,
            FakeTransport(below_server, isServer=True),
            below_client,
            FakeTransport(below_client, isServer=False),
            clock=clock,
        )
        self._pump.flush()

    def talk(self) -> tuple[bytes, bytes]:
        """Say something in each direction; return what arrived at server and client."""
        for end, text in ((self.client, b"question"), (self.server, b"answer")):
            assert end.transport is not None
            end.transport.write(text)
            self._pump.flush()
        return self.server.received, self.client.received

    def both_secure(self) -> bool:
        """Whether both ends believe in the connection and it works."""
        return (
            self.client.secure and self.server.secure and self.talk() == (b"question", b"answer")
        )

    def refused_by_server(self) -> bool:
        """Whether the server ended it without ever having believed in it, or said a word.

        (In TLS 1.3 the client is done before the server has seen its certificate.)
        """
        return not self.server.secure and self.server.lost is not None and not self.talk()[0]

    def refused_by_client(self) -> bool:
        """Whether the client ended it without ever having believed in it."""
        return not self.client.secure and self.client.lost is not None

    def reason(self) -> Exception | None:
        """What the client was told about the end."""
        return None if self.client.lost is None else cast(Exception, self.client.lost.value)

    def version(self) -> str:
        """The TLS version in use."""
        return str(self.transport(self.client).getHandle().version())

    @staticmethod
    def transport(end: End) -> Any:
        """The TLS transport of *end*."""
        assert end.transport is not None
        return end.transport


class ServerByPinTests(SynchronousTestCase):
    """The client holds the server's pin."""

    def test_right_pin(self) -> None:
        """The server whose key has the pin is the one; nothing below TLS 1.3 is spoken."""
        pair = Pair(server_options(IDENTITY), client_options(HOST, IDENTITY.pin, None, None, None))

        self.assertTrue(pair.both_secure())
        self.assertTrue(check_pin(pair.transport(pair.client), IDENTITY.pin))
        self.assertEqual("TLSv1.3", pair.version())

    def test_wrong_pin(self) -> None:
        """Any other pin is not the server's: another key, an almost equal one, none, nonsense."""
        pair = Pair(server_options(IDENTITY), client_options(HOST, IDENTITY.pin, None, None, None))
        pin = IDENTITY.pin

        for wrong in (pin_of(AUTHORITY), pin[:-1], pin + "A", pin.swapcase(), "sha256:", "", "ü"):
            self.assertFalse(check_pin(pair.transport(pair.client), wrong))

    def test_another_server(self) -> None:
        """A server with another key is found out, though its authority and names be the same."""
        key = make_key()
        certificate = make_server_certificate(key, AUTHORITY_KEY, AUTHORITY, [HOST], UNIX)
        impostor = replace(IDENTITY, key_pem=key, chain=(certificate,))

        pair = Pair(server_options(impostor), client_options(HOST, IDENTITY.pin, None, None, None))

        self.assertTrue(pair.client.secure)
        self.assertFalse(check_pin(pair.transport(pair.client), IDENTITY.pin))

    def test_certificate_without_its_key(self) -> None:
        """To show the server's certificate without holding its key is not possible."""
        error = self.assertRaises(
            ConfigError, server_options, replace(IDENTITY, key_pem=make_key())
        )
        self.assertIn("KEY_VALUES_MISMATCH", str(error))

    def test_renewed_certificate(self) -> None:
        """A new certificate for the same key, with other names and dates, has the same pin."""
        renewed = make_server_certificate(SERVER_KEY, AUTHORITY_KEY, AUTHORITY, ["other"], 5.0)
        identity = replace(IDENTITY, chain=(renewed,))

        pair = Pair(server_options(identity), client_options(HOST, IDENTITY.pin, None, None, None))

        self.assertTrue(pair.both_secure())
        self.assertTrue(check_pin(pair.transport(pair.client), IDENTITY.pin))

    def test_before_the_handshake(self) -> None:
        """Asked too early, the answer is no."""
        options = client_options(HOST, IDENTITY.pin, None, None, None)
        factory = factory_of(options, True, End, Clock())
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 51820))
        protocol.makeConnection(StringTransport())

        self.assertFalse(check_pin(protocol, IDENTITY.pin))
        self.assertIsNone(peer_fingerprint(protocol))

    def test_name_for_relays(self) -> None:
        """A host name is told to relays that choose by it; an address is not."""
        for host, expected in ((HOST, HOST), ("192.0.2.1", None), ("2001:db8::1", None)):
            heard: list[str | None] = []
            options = server_options(IDENTITY)
            options.context.sni_callback = lambda _tls, name, _context: heard.append(name)  # noqa: B023 - called below
            Pair(options, client_options(host, IDENTITY.pin, None, None, None))

            self.assertEqual([expected], heard)


class ServerByNameTests(SynchronousTestCase):
    """The client verifies the server by name, from roots it trusts."""

    def setUp(self) -> None:
        """Begin with a file of roots."""
        self.roots = Path(self.mktemp())
        self.roots.write_bytes(AUTHORITY)

    def connect(self, host: str, identity: ServerIdentity = IDENTITY) -> Pair:
        """Connect to *host* and meet *identity* there."""
        return Pair(server_options(identity), client_options(host, None, self.roots, None, None))

    def test_right_name(self) -> None:
        """A host name or an address that the certificate names is accepted."""
        for host in (HOST, "192.0.2.1"):
            pair = self.connect(host)

            self.assertTrue(pair.both_secure())
            self.assertEqual("TLSv1.3", pair.version())

    def test_wrong_name(self) -> None:
        """Another name or address is refused, before the client says anything."""
        for host in ("other.example.org", "example.org", "192.0.2.9", "2001:db8::1"):
            pair = self.connect(host)

            self.assertTrue(pair.refused_by_client())
            self.assertIsInstance(pair.reason(), ServerNotVerified)
            self.assertEqual(f"the server's certificate is not for {host}", str(pair.reason()))

    def test_unknown_authority(self) -> None:
        """The right name signed by nobody we trust is refused."""
        self.roots.write_bytes(make_authority(make_key(), UNIX))

        pair = self.connect(HOST)

        self.assertTrue(pair.refused_by_client())
        self.assertIsInstance(pair.reason(), ServerNotVerified)
        self.assertIn("not signed by a trusted authority", str(pair.reason()))

    def test_several_roots(self) -> None:
        """Any of the certificates in the file is a root."""
        self.roots.write_bytes(make_authority(make_key(), UNIX) + AUTHORITY)

        self.assertTrue(self.connect(HOST).both_secure())

    def test_system_roots(self) -> None:
        """Without a file the system's roots count, and our own authority is not among them."""
        pair = Pair(server_options(IDENTITY), client_options(HOST, None, None, None, None))

        self.assertTrue(pair.refused_by_client())

    def test_expired(self) -> None:
        """A certificate whose time is over is refused."""
        old = make_server_certificate(
            SERVER_KEY, AUTHORITY_KEY, AUTHORITY, [HOST], UNIX - 5 * 365 * 86400, years=-1
        )

        self.assertTrue(self.connect(HOST, replace(IDENTITY, chain=(old,))).refused_by_client())

    def test_device_as_server(self) -> None:
        """A device's certificate is no server's, even if it had the right name."""
        device = x509.load_pem_x509_certificate(device_certificate())
        builder = x509.CertificateBuilder(
            device.issuer,
            device.subject,
            device.public_key(),
            device.serial_number,
            device.not_valid_before_utc,
            device.not_valid_after_utc,
            [
                *device.extensions,
                x509.Extension(
                    x509.SubjectAlternativeName.oid,
                    False,
                    x509.SubjectAlternativeName([x509.DNSName(HOST)]),
                ),
            ],
        )
        key = cast(EllipticCurvePrivateKey, load_pem_private_key(AUTHORITY_KEY, None))
        named = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

        pair = self.connect(HOST, replace(IDENTITY, key_pem=DEVICE_KEY, chain=(named,)))

        self.assertTrue(pair.refused_by_client())

    def test_nameless(self) -> None:
        """A certificate that names nobody is refused."""
        nameless = make_server_certificate(SERVER_KEY, AUTHORITY_KEY, AUTHORITY, [], UNIX)

        pair = self.connect(HOST, replace(IDENTITY, chain=(nameless,)))

        self.assertTrue(pair.refused_by_client())

    def test_broken_roots(self) -> None:
        """A file without certificates, or none at all, is named."""
        self.roots.write_bytes(b"nonsense")
        error = self.assertRaises(ConfigError, self.connect, HOST)
        self.assertEqual(f"{self.roots} holds no PEM certificate, or a broken one", str(error))

        self.roots.unlink()
        error = self.assertRaises(ConfigError, self.connect, HOST)
        self.assertEqual(f"{self.roots}: there is no such file", str(error))

    def test_impossible_name(self) -> None:
        """What cannot be a host name is said to be none, with a pin and without."""
        for pin in (None, IDENTITY.pin):
            self.assertRaises(
                ConfigError, client_options, "x" * 64 + ".org", pin, self.roots, None, None
            )


class ClientCertificateTests(SynchronousTestCase):
    """The server is shown a device's certificate, or none."""

    def connect(self, certificate: bytes | None, key: bytes | None = DEVICE_KEY) -> Pair:
        """Connect with *certificate*."""
        if certificate is None:
            key = None
        return Pair(
            server_options(IDENTITY),
            client_options(HOST, IDENTITY.pin, None, key, certificate),
        )

    def test_known(self) -> None:
        """A device of our authority is let in, and known by its fingerprint."""
        certificate = device_certificate()

        pair = self.connect(certificate)

        self.assertTrue(pair.both_secure())
        self.assertEqual(
            fingerprint_of_pem(certificate), peer_fingerprint(pair.transport(pair.server))
        )

    def test_none(self) -> None:
        """A device without a certificate is let in to log in, and is nobody yet."""
        pair = self.connect(None)

        self.assertTrue(pair.both_secure())
        self.assertIsNone(peer_fingerprint(pair.transport(pair.server)))

    def test_foreign_authority(self) -> None:
        """A device of another authority is turned away, though that one has our name."""
        key = make_key()
        authority = make_authority(key, UNIX)

        pair = self.connect(device_certificate(key, authority))

        self.assertTrue(pair.refused_by_server())
        told = pair.reason()
        assert isinstance(told, ssl.SSLError)
        self.assertEqual("tlsv1 alert unknown ca", reason_of(told))

    def test_signed_by_itself(self) -> None:
        """A certificate that signed itself is turned away."""
        own = make_authority(DEVICE_KEY, UNIX)

        self.assertTrue(self.connect(own).refused_by_server())

    def test_signed_by_a_device(self) -> None:
        """A device cannot make devices."""
        forged = sign_request(
            make_request(SERVER_KEY, "x"), DEVICE_KEY, device_certificate(), "root", UNIX
        )

        self.assertTrue(self.connect(forged, SERVER_KEY).refused_by_server())

    def test_server_as_device(self) -> None:
        """The server's own certificate is no device's."""
        self.assertTrue(self.connect(SERVER, SERVER_KEY).refused_by_server())

    def test_certificate_of_another_key(self) -> None:
        """A certificate without its key is refused where it would be used."""
        self.assertRaises(ConfigError, self.connect, device_certificate(), make_key())

    def test_clock_of_the_server(self) -> None:
        """A device is known whatever year the server believes it is: records decide, not dates."""
        for unix in (UNIX - 40 * 365 * 86400, UNIX + 40 * 365 * 86400):
            self.assertTrue(self.connect(device_certificate(unix=unix)).both_secure())


class VersionTests(SynchronousTestCase):
    """Nothing older than TLS 1.3, and nothing remembered."""

    def test_old_client(self) -> None:
        """A client that speaks TLS 1.2 at most is refused."""
        old = CertificateOptions(lowerMaximumSecurityTo=TLSVersion.TLSv1_2)

        pair = Pair(server_options(IDENTITY), old)

        self.assertFalse(pair.client.secure)
        self.assertTrue(pair.refused_by_server())

    def test_old_server(self) -> None:
        """A server that speaks TLS 1.2 at most is refused, whatever pin it has."""
        old = CertificateOptions(
            privateKey=load_pem_private_key(SERVER_KEY, None),  # type: ignore[arg-type]  # Twisted hands it to pyOpenSSL, which wants this kind
            certificate=x509.load_pem_x509_certificate(SERVER),  # type: ignore[arg-type]  # likewise
            lowerMaximumSecurityTo=TLSVersion.TLSv1_2,
        )

        pair = Pair(old, client_options(HOST, IDENTITY.pin, None, None, None))

        self.assertTrue(pair.refused_by_client())

    def test_no_resumption(self) -> None:
        """A session that a client kept is not resumed: the certificate is shown each time."""
        self.assertFalse(resumes(server_options(IDENTITY)))

    def test_resumption_would_be_seen(self) -> None:
        """The test above can fail: with Twisted's session options the session is resumed."""
        forgetful = CertificateOptions(
            privateKey=load_pem_private_key(SERVER_KEY, None),  # type: ignore[arg-type]  # as above
            certificate=x509.load_pem_x509_certificate(SERVER),  # type: ignore[arg-type]  # as above
            enableSessions=True,
            enableSessionTickets=True,
        )

        self.assertTrue(resumes(forgetful))


def resumes(for_server: Any) -> bool:
    """Whether a client (Python's own, which can tell) gets a kept session resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    kept: ssl.SSLSession | None = None
    for _ in range(2):
        factory = factory_of(for_server, False, End, Clock())
        server, transport = factory.buildProtocol(None), StringTransport()
        server.makeConnection(transport)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, session=kept)
        for step in (client.do_handshake, client.do_handshake, client.read):
            with contextlib.suppress(ssl.SSLWantReadError):
                step()
            if outgoing.pending:
                server.dataReceived(outgoing.read())
            incoming.write(transport.value())
            transport.clear()
        with contextlib.suppress(ssl.SSLWantReadError):
            client.read()
        kept = client.session
    return bool(client.session_reused)


class IdentityTests(SynchronousTestCase):
    """What the first start makes, and what later starts find."""

    def setUp(self) -> None:
        """Begin without a state directory."""
        self.place = Path(self.mktemp())

    def load(self, *names: str) -> ServerIdentity:
        """Start a server."""
        return load_or_make_identity(self.place, UNIX, names=names)

    def refused(self, *words: object) -> None:
        """Assert that the next start is refused with a text that has *words*."""
        error = self.assertRaises(ConfigError, self.load)
        for word in words:
            self.assertIn(str(word), str(error))

    def test_first_start(self) -> None:
        """Four files appear, for the owner alone, and they work."""
        identity = self.load(HOST)

        self.assertEqual(
            ["authority.crt", "authority.key", "server.crt", "server.key"],
            sorted(os.listdir(self.place)),
        )
        self.assertEqual(0o700, self.place.stat().st_mode & 0o777)
        for file in self.place.iterdir():
            self.assertEqual(0o600, file.stat().st_mode & 0o777)
        options = client_options(HOST, None, self.place / "authority.crt", None, None)
        self.assertTrue(Pair(server_options(identity), options).both_secure())

    def test_second_start(self) -> None:
        """Nothing changes, whatever the time."""
        self.assertEqual(
            self.load(HOST), load_or_make_identity(self.place, UNIX * 1.5, names=[HOST])
        )

    def test_new_names(self) -> None:
        """With other names the certificate changes; pin and authority do not."""
        before, after = self.load(HOST), self.load(HOST, "other.example.org")

        self.assertNotEqual(before.chain, after.chain)
        self.assertEqual(
            (before.pin, before.authority_certificate), (after.pin, after.authority_certificate)
        )

    def test_crash_at_the_first_start(self) -> None:
        """After a crash between any two files the next start completes them."""
        for missing in (("server.crt",), ("server.crt", "server.key"), ("authority.crt",)):
            before = self.load()
            for name in missing:
                (self.place / name).unlink()

            after = self.load()

            self.assertEqual(before.authority_key, after.authority_key)
            self.assertEqual(4, len(os.listdir(self.place)))

    def test_lost_authority_key(self) -> None:
        """A lost authority key is said, not silently replaced: every device hangs on it."""
        self.load()
        (self.place / "authority.key").unlink()

        self.refused("authority.key is gone", "backup")

    def test_open_to_others(self) -> None:
        """A key that others may read is refused with the cure."""
        self.load()
        for name in ("authority.key", "server.key"):
            path = self.place / name
            path.chmod(0o640)
            self.refused(f"chmod 600 {path}")
            path.chmod(0o600)

    def test_broken_files(self) -> None:
        """A file that is not what it should be is named, cut anywhere."""
        self.load()
        for path in sorted(self.place.iterdir()):
            whole = path.read_bytes()
            for length in (0, 1, 30, len(whole) // 2, len(whole) - 30):
                path.write_bytes(whole[:length])
                self.refused(path)
            path.write_bytes(whole)

    def test_exchanged_files(self) -> None:
        """A certificate that is of another key is refused, naming both."""
        self.load()
        (self.place / "authority.key").write_bytes(make_key())

        self.refused("authority.crt", "authority.key")

    def test_foreign_authority_key(self) -> None:
        """An authority key of another kind than we make is refused in one line."""
        self.load()
        other = rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        for name in ("authority.key", "server.key"):
            path = self.place / name
            whole = path.read_bytes()
            path.write_bytes(other)
            (self.place / name.replace("key", "crt")).rename(self.place / "aside")
            self.refused(path)
            (self.place / "aside").rename(self.place / name.replace("key", "crt"))
            path.write_bytes(whole)

    def test_no_state_directory(self) -> None:
        """A state directory that cannot be is the host's fault, in one line."""
        self.place.write_bytes(b"a file")

        self.assertRaises(HostError, self.load)


class OwnCertificateTests(SynchronousTestCase):
    """The operator brings a key and a certificate that somebody else signed."""

    def setUp(self) -> None:
        """Begin with both files."""
        place = Path(self.mktemp())
        place.mkdir()
        self.state = place / "state"
        self.certificate, self.key = place / "fullchain.pem", place / "privkey.pem"
        self.certificate.write_bytes(SERVER + AUTHORITY)
        self.write_key(SERVER_KEY)

    def write_key(self, data: bytes, mode: int = 0o600) -> None:
        """Put *data* into the key's file."""
        self.key.write_bytes(data)
        self.key.chmod(mode)

    def load(self) -> ServerIdentity:
        """Start a server."""
        return load_or_make_identity(self.state, UNIX, self.certificate, self.key)

    def test_used(self) -> None:
        """Clients see the operator's certificate with its chain; our authority signs devices."""
        identity = self.load()

        self.assertEqual((SERVER, AUTHORITY), identity.chain)
        self.assertEqual(pin_of(SERVER), identity.pin)
        self.assertNotEqual(AUTHORITY, identity.authority_certificate)
        certificate = device_certificate(identity.authority_key, identity.authority_certificate)
        pair = Pair(
            server_options(identity),
            client_options(HOST, None, self.certificate, DEVICE_KEY, certificate),
        )
        self.assertTrue(pair.both_secure())

    def test_key_and_chain_in_one_file(self) -> None:
        """What else is in the key's file is not shown to clients."""
        self.write_key(device_certificate() + SERVER_KEY)
        identity = self.load()
        pair = Pair(
            server_options(identity), client_options(HOST, pin_of(SERVER), None, None, None)
        )

        self.assertTrue(pair.both_secure())
        self.assertTrue(check_pin(pair.transport(pair.client), pin_of(SERVER)))

    def test_its_authority_makes_no_devices(self) -> None:
        """Who signed the server's certificate cannot thereby make devices."""
        pair = Pair(
            server_options(self.load()),
            client_options(HOST, pin_of(SERVER), None, DEVICE_KEY, device_certificate()),
        )

        self.assertTrue(pair.refused_by_server())

    def test_any_kind_of_key(self) -> None:
        """An RSA key is as good as ours."""
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self.write_key(pem)
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )
        self.certificate.write_bytes(sign_request(request, AUTHORITY_KEY, AUTHORITY, "x", UNIX))

        identity = self.load()

        pair = Pair(server_options(identity), client_options(HOST, identity.pin, None, None, None))
        self.assertTrue(pair.both_secure())

    def test_mode(self) -> None:
        """The key may be its group's (Debian's ssl-cert), but not everybody's."""
        self.key.chmod(0o640)
        self.load()
        self.key.chmod(0o644)

        error = self.assertRaises(ConfigError, self.load)

        self.assertIn(f"chmod 600 {self.key}", str(error))

    def test_wrong_files(self) -> None:
        """Missing, mixed up, broken, encrypted: each is said with the file's name."""
        encrypted = load_pem_private_key(SERVER_KEY, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        )
        for certificate, key, text in (
            (SERVER, make_key(), f"{self.certificate} is not a certificate of the key {self.key}"),
            (b"", SERVER_KEY, f"{self.certificate} holds no PEM certificate, or a broken one"),
            (SERVER[:-40], SERVER_KEY, f"{self.certificate} holds no PEM certificate"),
            (SERVER, SERVER[:99], f"{self.key} holds no PEM private key, or a broken one"),
            (SERVER, encrypted, f"{self.key} is encrypted: write it without a passphrase"),
        ):
            self.certificate.write_bytes(certificate)
            self.write_key(key)

            error = self.assertRaises(ConfigError, self.load)

            self.assertIn(text, str(error))
        for path in (self.certificate, self.key):
            path.unlink()
            error = self.assertRaises(ConfigError, self.load)
            self.assertEqual(f"{path}: there is no such file", str(error))
