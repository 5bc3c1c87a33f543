"""The server's small certificate authority: keys, certificates, pins.

The server signs itself a server certificate, and each device one at its first log-in.  What a
certificate proves is only "this is the same key as then"; whether that device is still welcome is
in the server's records.  Hence the long lives: nobody should lose a VPN because a date passed.

Keys and certificates travel as PEM.  The time is an argument (unix seconds).

Source: RFC 5280; the pin is that of RFC 7469 section 2.4 with another spelling of base64.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pyvpn.errors import Misuse, PeerError

AUTHORITY_NAME = "pyvpn authority"

_DAY = timedelta(days=1)
_YEAR = timedelta(days=365)

# This code did not exist before: an earlier clock (a board without battery says 1970) is wrong,
# and a certificate that ends ten years after 1970 would be dead as soon as the clock is set.
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)

# All that `cryptography` says about bytes that are not what they should be.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion)

_SMALLEST_RSA = 2048
_LARGEST_RSA = 8192  # verifying costs bits squared, and a stranger chose the size


def make_key() -> bytes:
    """Make a private key, P-256, and return it as PEM (PKCS #8, not encrypted)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def make_authority(key_pem: bytes, unix: float, years: int = 30) -> bytes:
    """Return the certificate of the authority that holds the key *key_pem*, signed by itself."""
    key = _own_key(key_pem)
    name = _name(AUTHORITY_NAME)
    return _sign(
        _builder(name, key.public_key(), unix, years)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True),
        name,
        key,
        key.public_key(),
    )


def make_server_certificate(
    key_pem: bytes,
    authority_key: bytes,
    authority_cert: bytes,
    names: Sequence[str],
    unix: float,
    years: int = 30,
) -> bytes:
    """Return a server certificate for *key_pem*, valid for *names* (host names, IP addresses).

    Raises:
        ValueError: a name that no certificate can hold, such as one that is not ASCII.
    """
    builder = _leaf("pyvpn server", _own_key(key_pem).public_key(), unix, years)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    if names:  # RFC 5280 section 4.2.1.6: an empty list is no extension
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    return _sign_as_authority(builder, authority_key, authority_cert)


def make_request(key_pem: bytes, common_name: str) -> bytes:
    """Return a certificate request (PKCS #10, PEM) that proves possession of *key_pem*."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(common_name))
        .sign(_own_key(key_pem), SHA256())
        .public_bytes(Encoding.PEM)
    )


def sign_request(
    request_pem: bytes,
    authority_key: bytes,
    authority_cert: bytes,
    common_name: str,
    unix: float,
    years: int = 10,
) -> bytes:
    """Return a client certificate for the public key in *request_pem*, and nothing else of it.

    The subject is *common_name*, chosen by us: whatever the request says about names, uses or
    authority is ignored.

    Raises:
        PeerError: no request, not signed by its own key, or not a kind of key we accept
            (P-256, Ed25519, RSA from 2048 to 8192 bits).
    """
    builder = _leaf(common_name, _key_of_request(request_pem), unix, years).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    return _sign_as_authority(builder, authority_key, authority_cert)


def pin_of(certificate: bytes) -> str:
    """Return the pin of a certificate, PEM or DER: ``sha256:`` and 43 characters of base64url.

    It is the hash of the public key with its algorithm (SubjectPublicKeyInfo), so it outlives
    the certificate as long as the key is kept.

    Raises:
        PeerError: not a certificate.
    """
    try:
        public = _parse(certificate).public_key()
    except _UNREADABLE as error:
        raise PeerError(f"not a certificate: {error}") from None
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + urlsafe_b64encode(hashlib.sha256(info).digest()).rstrip(b"=").decode()


def fingerprint_of(der: bytes) -> str:
    """Return the SHA-256 of a certificate in DER, in hex: by it the server knows a device."""
    return hashlib.sha256(der).hexdigest()


def fingerprint_of_pem(pem: bytes) -> str:
    """Return the :func:`fingerprint_of` the (first) certificate in *pem*.

    Raises:
        PeerError: not a certificate.
    """
    try:
        return fingerprint_of(_parse(pem).public_bytes(Encoding.DER))
    except _UNREADABLE as error:
        raise PeerError(f"not a certificate: {error}") from None


def _parse(certificate: bytes) -> x509.Certificate:
    if certificate.lstrip().startswith(b"-----"):
        return x509.load_pem_x509_certificate(certificate)
    return x509.load_der_x509_certificate(certificate)


_PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def _key_of_request(request_pem: bytes) -> _PublicKey:
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        # The kind before the signature: checking one of 16384-bit RSA is work for a stranger.
        match key:
            case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()) | ed25519.Ed25519PublicKey():
                pass
            case rsa.RSAPublicKey(key_size=bits) if _SMALLEST_RSA <= bits <= _LARGEST_RSA:
                pass
            case _:
                raise PeerError("a device key is P-256, Ed25519 or RSA of 2048 to 8192 bits")
        valid = request.is_signature_valid
    except _UNREADABLE as error:
        raise PeerError(f"not a certificate request: {error}") from None
    if not valid:
        raise PeerError("a certificate request that its own key did not sign")
    return key


def _own_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misuse("our own keys are elliptic")
    return key


def _name(common_name: str) -> x509.Name:
    # X.520's upper bound of a common name; longer ones are refused by other libraries.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,  # TLS 1.3 signs and never enciphers with this key
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, key: _PublicKey, unix: float, years: int
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(unix, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # the other side's clock may be behind ours
        .not_valid_after(max(now, _FIRST_DAY) + years * _YEAR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _leaf(common_name: str, key: _PublicKey, unix: float, years: int) -> x509.CertificateBuilder:
    return (
        _builder(_name(common_name), key, unix, years)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
    )


def _sign_as_authority(
    builder: x509.CertificateBuilder, authority_key: bytes, authority_cert: bytes
) -> bytes:
    authority = x509.load_pem_x509_certificate(authority_cert)
    key = _own_key(authority_key)
    return _sign(builder, authority.subject, key, key.public_key())


def _sign(
    builder: x509.CertificateBuilder,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
) -> bytes:
    return (
        builder.issuer_name(issuer)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
