"""TLS: the server's identity on disk, and what both ends demand of a connection.

TLS 1.3 only, no resumption.  The server *asks* for a client certificate and lets OpenSSL verify
it against its own authority: none is fine (a device's first log-in), a foreign one is not.  The
client either holds the server's pin, and then neither name, date nor issuer matter, or verifies
the server by name as browsers do.

Who a device is depends on no verification callback, so that the TLS engine can be exchanged.
"""

from __future__ import annotations

import hmac
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.types import (
    PrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate
from OpenSSL.SSL import VERIFY_FAIL_IF_NO_PEER_CERT, VERIFY_PEER, Connection
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLContextFactory,
    ISSLTransport,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.crypto.certificates import (
    fingerprint_of,
    make_authority,
    make_key,
    make_server_certificate,
    pin_of,
)
from pyvpn.errors import ConfigError, PeerError
from pyvpn.net.private_files import make_private_directory, read_private, write_private

# openssl/x509_vfy.h: X509_V_FLAG_NO_CHECK_TIME, since OpenSSL 1.1.0; pyOpenSSL has no name for it.
_NO_CHECK_TIME = 0x200000


class ServerNotVerified(PeerError):
    """The server's certificate is not for its name, or not from an authority that we trust."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the server proves itself with, and what it signs devices with; all PEM."""

    key_pem: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    """The certificate of *key_pem* first, then those between it and its root."""
    authority_key: bytes = field(repr=False)
    authority_certificate: bytes = field(repr=False)
    pin: str
    """What clients are told to expect: ``sha256:...`` of the first certificate's key."""


def load_or_make_identity(
    state_dir: str | Path,
    unix: float,
    certificate_file: str | Path | None = None,
    key_file: str | Path | None = None,
    names: Sequence[str] = (),
) -> ServerIdentity:
    """Read the server's keys and certificates; at the first start make them.

    Made in *state_dir*: ``authority.key``, ``authority.crt``, ``server.key``, ``server.crt``.
    The last is made anew when it does not fit *names* or its key any more; the pin, which is of
    the key, stays.  With *certificate_file* and *key_file* (a chain signed by somebody clients
    trust) those are shown to clients instead, and our authority only signs devices.

    Args:
        unix: the time, for the dates in what is made.
        names: host names and IP addresses for ``server.crt``.

    Raises:
        ConfigError: a file is open to others, is not what it should be or does not belong to
            its neighbour; the text names it.
        HostError: a file cannot be read or written.
    """
    place = Path(state_dir)
    make_private_directory(place)
    authority_key = _load_or_make_key(place / "authority.key", place / "authority.crt")
    authority_cert = read_private(place / "authority.crt")
    if authority_cert is None:
        authority_cert = make_authority(authority_key, unix)
        write_private(place / "authority.crt", authority_cert)
    _check_pair(place / "authority.key", authority_key, place / "authority.crt", authority_cert)
    if certificate_file is not None and key_file is not None:
        key_pem, chain = _read_pair(Path(certificate_file), Path(key_file))
    else:
        key_pem = _load_or_make_key(place / "server.key")
        chain = (_server_certificate(place, key_pem, authority_key, authority_cert, names, unix),)
    return ServerIdentity(key_pem, chain, authority_key, authority_cert, pin_of(chain[0]))


def read_pin(place: Path, certificate_file: Path | None, key_file: Path | None) -> str | None:
    """Return the pin that :func:`load_or_make_identity` would find; None if it had to write.

    Raises as that does.
    """
    if certificate_file is not None and key_file is not None:
        return pin_of(_read_pair(certificate_file, key_file)[1][0])
    key_pem, certificate = read_private(place / "server.key"), read_private(place / "server.crt")
    if key_pem is None or certificate is None:
        return None
    own = _parse_key(place / "server.key", key_pem).public_key()
    shown = _parse_certificate(place / "server.crt", certificate).public_key()
    return pin_of(certificate) if _bytes_of(own) == _bytes_of(shown) else None


def server_options(identity: ServerIdentity) -> IOpenSSLContextFactory:
    """Return what a listening port needs to speak TLS as *identity*."""
    authority = x509.load_pem_x509_certificate(identity.authority_certificate)
    options = CertificateOptions(
        **_shown(identity.key_pem, identity.chain),
        raiseMinimumTo=TLSVersion.TLSv1_3,
        # Asked for, not required, and verified by OpenSSL alone:
        verify=True,
        requireCertificate=False,
        caCerts=[X509.from_cryptography(authority)],
        verifyDepth=1,
        # Resumption would bring a session back without showing the certificate again.
        enableSessions=False,
        enableSessionTickets=False,
    )
    # Whether a device is still welcome is in our records and not in its certificate's dates: a
    # server whose clock starts in 1970 must not turn everybody away until it has met a time
    # server, perhaps one that is only reached through this VPN.
    trusted = options.getContext().get_cert_store()
    assert trusted is not None
    trusted.set_flags(_NO_CHECK_TIME)
    return options


def client_options(
    host: str,
    pin: str | None,
    ca_file: str | Path | None,
    key_pem: bytes | None,
    cert_pem: bytes | None,
) -> IOpenSSLClientConnectionCreator:
    """Return what a client needs to connect to *host* by TLS.

    With a *pin* the handshake accepts any certificate whose key the server really holds, and the
    caller **must** then ask :func:`check_pin`, in ``handshakeCompleted`` and before it writes a
    byte.  Without, the server is verified by name, from the roots in *ca_file* or the system's; if
    that fails there is no ``handshakeCompleted``, but a ``connectionLost`` with ServerNotVerified.

    *key_pem* and *cert_pem* (both or neither) are shown to a server that asks for them.

    Raises:
        ConfigError: *ca_file* is no file of certificates, or key and certificate do not fit.
    """
    wanted: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_3}
    if key_pem is not None and cert_pem is not None:
        _check_pair("the device's key", key_pem, "the device's certificate", cert_pem)
        wanted |= _shown(key_pem, (cert_pem,))
    try:
        if pin is not None:
            return _ByPin(host, CertificateOptions(**wanted))
        wanted["trustRoot"] = platformTrust() if ca_file is None else _roots(Path(ca_file))
        return _ByName(host, CertificateOptions(**wanted))
    except UnicodeError:
        raise ConfigError(f"{host!r} is not a host name") from None


def check_pin(transport: ISSLTransport, pin: str) -> bool:
    """Whether the key that the server of *transport* proved to hold is the one of *pin*.

    To be asked when the handshake has completed; before that the answer is no.
    """
    der = _peer_certificate(transport)
    if der is None:
        return False
    try:
        found = pin_of(der)
    except PeerError:  # OpenSSL could read it and `cryptography` cannot: not one we ever made
        return False
    # Not a secret, but compared as if it were: nobody need ask whether it is one.
    return hmac.compare_digest(found.encode(), pin.encode())


def peer_fingerprint(transport: ISSLTransport) -> str | None:
    """Return the fingerprint of the certificate the peer proved to hold; None if it has none.

    To be asked when the handshake has completed.
    """
    der = _peer_certificate(transport)
    return None if der is None else fingerprint_of(der)


def _peer_certificate(transport: ISSLTransport) -> bytes | None:
    certificate = cast(X509 | None, transport.getPeerCertificate())
    return None if certificate is None else dump_certificate(FILETYPE_ASN1, certificate)


@implementer(IOpenSSLClientConnectionCreator)
class _ByPin:
    """Connects without verifying; the pin is compared afterwards.

    TLS 1.3 itself proves that the server holds the key of the certificate it showed, whoever
    signed it, so comparing the key is the whole of the verification.
    """

    def __init__(self, host: str, options: CertificateOptions) -> None:
        self._host = host
        self._options = options
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._ascii = host if self._is_address else host.encode("idna").decode()

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        connection = self._options.clientConnectionForTLS(tlsProtocol)
        if not self._is_address:  # RFC 6066 section 3 has no addresses there
            connection.set_tlsext_host_name(self._ascii.encode())
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _ByName(_ByPin):
    """Lets OpenSSL verify the chain and service_identity the name, in the handshake.

    Twisted's ``optionsForClientTLS`` does the same, but (26.10) lets a server pass whose trusted
    certificate has no names at all: service_identity then raises an error that Twisted logs and
    forgets.  Here anything but a yes is a no.
    """

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        connection = super().clientConnectionForTLS(tlsProtocol)

        def verify(_: Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
            try:
                if not ok:
                    raise ServerNotVerified(
                        f"the certificate of {self._host} does not verify: it is expired or not"
                        f" signed by a trusted authority (OpenSSL error {error})"
                    )
                if depth == 0:
                    self._verify_name(certificate.to_cryptography())
            except BaseException:  # noqa: BLE001 - an exception would vanish in OpenSSL, unheard
                tlsProtocol.failVerification(Failure())
                return False
            return True

        connection.set_verify(VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _verify_name(self, certificate: x509.Certificate) -> None:
        try:
            if self._is_address:
                verify_certificate_ip_address(certificate, self._host)
            else:
                verify_certificate_hostname(certificate, self._ascii)
        except (VerificationError, CertificateError):
            raise ServerNotVerified(f"the server's certificate is not for {self._host}") from None


def _load_or_make_key(path: Path, certificate: Path | None = None) -> bytes:
    """Read the key at *path*, or make it, unless the *certificate* shows that it was there."""
    key_pem = read_private(path)
    if key_pem is not None:
        if not isinstance(_parse_key(path, key_pem), EllipticCurvePrivateKey):
            raise ConfigError(f"{path} is not an elliptic-curve key, which this server makes")
        return key_pem
    if certificate is not None and certificate.exists():
        raise ConfigError(
            f"{path} is gone, but {certificate} is there: restore it from a backup, or remove"
            f" {certificate} too (then every device must log in by password again)"
        )
    key_pem = make_key()
    write_private(path, key_pem)
    return key_pem


def _server_certificate(
    place: Path,
    key_pem: bytes,
    authority_key: bytes,
    authority_cert: bytes,
    names: Sequence[str],
    unix: float,
) -> bytes:
    path = place / "server.crt"
    present = read_private(path)
    fresh = make_server_certificate(key_pem, authority_key, authority_cert, names, unix)
    if present is not None:
        certificate = _parse_certificate(path, present)
        if _said_by(certificate) == _said_by(x509.load_pem_x509_certificate(fresh)):
            return present
    write_private(path, fresh)
    return fresh


def _said_by(certificate: x509.Certificate) -> tuple[object, ...]:
    """What a certificate of ours says, apart from its dates, its number and its signature."""
    return (
        certificate.subject,
        certificate.issuer,
        _bytes_of(certificate.public_key()),
        list(certificate.extensions),  # names, and by its key identifier the authority
    )


def _read_pair(certificate_file: Path, key_file: Path) -> tuple[bytes, tuple[bytes, ...]]:
    """Read the operator's own key and chain."""
    # Debian keeps such keys 0640 for the group ssl-cert: the group is the operator's choice.
    key_pem = read_private(key_file, stat.S_IRWXO)
    if key_pem is None:
        raise ConfigError(f"{key_file}: there is no such file")
    chain = tuple(each.public_bytes(Encoding.PEM) for each in _certificates_in(certificate_file))
    _check_pair(key_file, key_pem, certificate_file, chain[0])
    return key_pem, chain


def _certificates_in(path: Path) -> list[x509.Certificate]:
    data = read_private(path, 0)  # certificates are public
    if data is None:
        raise ConfigError(f"{path}: there is no such file")
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{path} holds no PEM certificate, or a broken one") from None


def _roots(ca_file: Path) -> Any:
    return trustRootFromCertificates(
        [Certificate(X509.from_cryptography(each)) for each in _certificates_in(ca_file)]
    )


def _shown(key_pem: bytes, chain: Sequence[bytes]) -> dict[str, Any]:
    """What CertificateOptions is told to show the peer.

    These are objects of `cryptography`, which pyOpenSSL wants today; Twisted hands them on, though
    its annotations still name pyOpenSSL's own (hence Any).
    """
    key = load_pem_private_key(key_pem, password=None)
    certificate, *others = map(x509.load_pem_x509_certificate, chain)
    return {"privateKey": key, "certificate": certificate, "extraCertChain": others}


def _parse_key(name: str | Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(f"{name} is encrypted: write it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{name} holds no PEM private key, or a broken one") from None


def _parse_certificate(name: str | Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{name} holds no PEM certificate, or a broken one") from None


def _check_pair(
    key_name: str | Path, key_pem: bytes, certificate_name: str | Path, certificate_pem: bytes
) -> None:
    """Raise ConfigError unless the certificate is of this key."""
    own = _parse_key(key_name, key_pem).public_key()
    certificate = _parse_certificate(certificate_name, certificate_pem)
    if _bytes_of(own) != _bytes_of(certificate.public_key()):
        raise ConfigError(f"{certificate_name} is not a certificate of the key {key_name}")


def _bytes_of(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
