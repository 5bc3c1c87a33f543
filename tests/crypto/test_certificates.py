"""The authority: what it signs, what it refuses, and what the certificates say."""

from __future__ import annotations

import hashlib
from base64 import encodebytes, urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.certificates import (
    fingerprint_of,
    fingerprint_of_pem,
    make_authority,
    make_key,
    make_request,
    make_server_certificate,
    pin_of,
    sign_request,
)
from pyvpn.errors import Misuse, PeerError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
UNIX = NOW.timestamp()
DAY = timedelta(days=1)

AUTHORITY_KEY = make_key()
AUTHORITY = make_authority(AUTHORITY_KEY, UNIX)
KEY = make_key()


def parsed(pem: bytes) -> x509.Certificate:
    """Return the certificate in *pem*."""
    return x509.load_pem_x509_certificate(pem)


def sign(request: bytes, name: str = "anna") -> x509.Certificate:
    """Have the authority sign *request*."""
    return parsed(sign_request(request, AUTHORITY_KEY, AUTHORITY, name, UNIX))


def common_name(name: x509.Name) -> str:
    """Return the one common name in *name*, which must be all of it."""
    (attribute,) = name
    assert attribute.oid == NameOID.COMMON_NAME
    assert isinstance(attribute.value, str)
    return attribute.value


def request_by(key: CertificateIssuerPrivateKeyTypes, sha: SHA256 | None = None) -> bytes:
    """A request of any kind of *key*."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, sha)
        .public_bytes(Encoding.PEM)
    )


class KeyTests(SynchronousTestCase):
    """Private keys."""

    def test_kind(self) -> None:
        """A key is P-256, in PKCS #8 as every tool reads it, and never the same twice."""
        key = load_pem_private_key(KEY, password=None)

        self.assertIsInstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        self.assertTrue(KEY.startswith(b"-----BEGIN PRIVATE KEY-----"))
        self.assertNotEqual(KEY, AUTHORITY_KEY)

    def test_foreign_kind(self) -> None:
        """Our authority does not sign with another kind of key than it makes."""
        other = ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self.assertRaises(Misuse, make_authority, other, UNIX)


class AuthorityTests(SynchronousTestCase):
    """The authority's own certificate."""

    def test_extensions(self) -> None:
        """It may sign certificates of ends and nothing else, and no authorities below it."""
        found = parsed(AUTHORITY)
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = found.extensions.get_extension_for_class(x509.KeyUsage)

        self.assertEqual((True, 0), (constraints.value.ca, constraints.value.path_length))
        self.assertTrue(constraints.critical and usage.critical)
        self.assertTrue(usage.value.key_cert_sign)
        self.assertFalse(usage.value.digital_signature)
        self.assertEqual(x509.Version.v3, found.version)

    def test_signed_by_itself(self) -> None:
        """It is its own issuer, by name and by key."""
        found = parsed(AUTHORITY)

        found.verify_directly_issued_by(found)

    def test_dates(self) -> None:
        """It began yesterday, for clocks behind ours, and lives thirty years."""
        found = parsed(AUTHORITY)

        self.assertEqual(NOW - DAY, found.not_valid_before_utc)
        self.assertEqual(NOW + 30 * 365 * DAY, found.not_valid_after_utc)

    def test_clock_without_battery(self) -> None:
        """Made at a boot in 1970, it is valid then and still when the clock has been set."""
        found = parsed(make_authority(AUTHORITY_KEY, 5.0))

        self.assertLess(found.not_valid_before_utc, datetime(1970, 1, 1, tzinfo=UTC))
        self.assertGreater(found.not_valid_after_utc, NOW + 20 * 365 * DAY)


class ServerCertificateTests(SynchronousTestCase):
    """What the server shows its clients."""

    def make(self, *names: str) -> x509.Certificate:
        """Return a server certificate for *names*."""
        return parsed(make_server_certificate(KEY, AUTHORITY_KEY, AUTHORITY, names, UNIX))

    def test_extensions(self) -> None:
        """It is a server's, not an authority's and not a client's, signed by the authority."""
        found = self.make("vpn.example.org")
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

        self.assertFalse(constraints.ca)
        self.assertTrue(usage.digital_signature)
        self.assertFalse(usage.key_cert_sign)
        self.assertEqual([ExtendedKeyUsageOID.SERVER_AUTH], list(extended))
        found.verify_directly_issued_by(parsed(AUTHORITY))

    def test_names(self) -> None:
        """Host names and addresses of both families become names of their kinds."""
        found = self.make("vpn.example.org", "192.0.2.1", "2001:db8::1")
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

        self.assertEqual(["vpn.example.org"], names.get_values_for_type(x509.DNSName))
        self.assertEqual(
            [ip_address("192.0.2.1"), ip_address("2001:db8::1")],
            names.get_values_for_type(x509.IPAddress),
        )

    def test_without_names(self) -> None:
        """Without names there is no list of names, rather than an empty one."""
        self.assertRaises(
            x509.ExtensionNotFound,
            self.make().extensions.get_extension_for_class,
            x509.SubjectAlternativeName,
        )

    def test_impossible_name(self) -> None:
        """A name that no certificate can hold is refused."""
        self.assertRaises(ValueError, self.make, "bücher.example")


class SignRequestTests(SynchronousTestCase):
    """What a device gets for its request."""

    def test_extensions(self) -> None:
        """A device's certificate is for clients only, and no authority."""
        found = sign(make_request(KEY, "laptop"))
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

        self.assertFalse(constraints.ca)
        self.assertEqual([ExtendedKeyUsageOID.CLIENT_AUTH], list(extended))
        self.assertEqual(NOW + 10 * 365 * DAY, found.not_valid_after_utc)
        found.verify_directly_issued_by(parsed(AUTHORITY))

    def test_only_the_key_is_taken(self) -> None:
        """A request that wants to be an authority with a famous name gets its key signed, only."""
        key = ec.generate_private_key(ec.SECP256R1())
        greedy = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
            .add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName("vpn.example.org")]), critical=False
            )
            .sign(key, SHA256())
            .public_bytes(Encoding.PEM)
        )

        found = sign(greedy, "anna")

        self.assertEqual("anna", common_name(found.subject))
        self.assertEqual(key.public_key(), found.public_key())
        self.assertFalse(found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertRaises(
            x509.ExtensionNotFound,
            found.extensions.get_extension_for_class,
            x509.SubjectAlternativeName,
        )

    def test_accepted_keys(self) -> None:
        """P-256, Ed25519 and RSA from 2048 bits are accepted."""
        sign(request_by(ec.generate_private_key(ec.SECP256R1()), SHA256()))
        sign(request_by(ed25519.Ed25519PrivateKey.generate()))
        sign(request_by(rsa.generate_private_key(65537, 2048), SHA256()))

    def test_refused_keys(self) -> None:
        """Weaker, larger and stranger keys are refused."""
        for key in (
            rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP256K1()),
        ):
            self.assertRaises(PeerError, sign, request_by(key, SHA256()))

    def test_signature(self) -> None:
        """A request for a key that one does not hold is refused."""
        own = x509.load_pem_x509_csr(make_request(KEY, "x"))
        der = own.public_bytes(Encoding.DER)
        other = load_pem_private_key(make_key(), password=None).public_key()
        spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        forged = der.replace(own.public_key().public_bytes(*spki), other.public_bytes(*spki))
        self.assertNotEqual(der, forged)

        error = self.assertRaises(
            PeerError, sign, x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM)
        )

        self.assertIn("its own key did not sign", str(error))

    @given(st.binary(max_size=200))
    def test_junk(self, data: bytes) -> None:
        """What is no request is the peer's error."""
        self.assertRaises(PeerError, sign, data)

    @given(st.integers(0, 10_000), st.integers(0, 255))
    def test_damaged(self, place: int, byte: int) -> None:
        """A request with any byte exchanged is the same request or the peer's error."""
        der = bytearray(x509.load_pem_x509_csr(REQUEST).public_bytes(Encoding.DER))
        der[place % len(der)] = byte
        damaged = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n"
        try:
            found = sign(damaged % b64(bytes(der)))
        except PeerError:
            return
        self.assertEqual(x509.load_pem_x509_csr(REQUEST).public_key(), found.public_key())

    def test_other_pem(self) -> None:
        """A key or a certificate in place of a request is the peer's error."""
        for pem in (
            KEY,
            AUTHORITY,
            b"",
            AUTHORITY.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
        ):
            self.assertRaises(PeerError, sign, pem)


def b64(data: bytes) -> bytes:
    """PEM's body for *data*."""
    return encodebytes(data)


REQUEST = make_request(KEY, "laptop")


class PinTests(SynchronousTestCase):
    """How a client knows its server, and the server its devices."""

    def test_pin(self) -> None:
        """The pin is the hash of the public key, in base64url without padding."""
        info = (
            parsed(AUTHORITY)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        scheme, _, text = pin_of(AUTHORITY).partition(":")

        self.assertEqual("sha256", scheme)
        self.assertEqual(43, len(text))
        self.assertEqual(hashlib.sha256(info).digest(), urlsafe_b64decode(text + "="))

    def test_either_spelling(self) -> None:
        """PEM and DER of a certificate have one pin and one fingerprint."""
        der = parsed(AUTHORITY).public_bytes(Encoding.DER)

        self.assertEqual(pin_of(AUTHORITY), pin_of(der))
        self.assertEqual(fingerprint_of(der), fingerprint_of_pem(AUTHORITY))

    def test_outlives_the_certificate(self) -> None:
        """A new certificate of the same key has the same pin and another fingerprint."""
        again = make_authority(AUTHORITY_KEY, UNIX + 1)

        self.assertEqual(pin_of(AUTHORITY), pin_of(again))
        self.assertNotEqual(fingerprint_of_pem(AUTHORITY), fingerprint_of_pem(again))

    def test_another_key(self) -> None:
        """Another key has another pin, whatever its certificate says."""
        self.assertNotEqual(pin_of(AUTHORITY), pin_of(make_authority(make_key(), UNIX)))

    def test_fingerprint(self) -> None:
        """A fingerprint is what `openssl x509 -fingerprint -sha256` says, in small letters."""
        expected = parsed(AUTHORITY).fingerprint(SHA256()).hex()

        self.assertEqual(expected, fingerprint_of_pem(AUTHORITY))

    @given(st.binary(max_size=100))
    def test_junk(self, data: bytes) -> None:
        """What is no certificate has neither."""
        self.assertRaises(PeerError, pin_of, data)
        self.assertRaises(PeerError, fingerprint_of_pem, data)
