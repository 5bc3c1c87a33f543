"""TLS: the server's identity on disk, and what both ends demand of a connection.

TLS 1.3 only, no resumption.  The server *asks* for a client certificate and lets OpenSSL verify
it against its own authority: none is fine (a device's first log-in), a foreign one is not.  The
client either holds the server's pin, and then neither name, date nor issuer matter, or verifies
the server by name as browsers do.

Who a device is depends on no verification callback, so that the TLS engine can be exchanged.
"""

from __future__ import annotations

import hmac
import os
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.types import (
    PrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress, isIPv6Address

from pyvpn.crypto.certificates import (
    fingerprint_of,
    make_authority,
    make_key,
    make_server_certificate,
    pin_of,
)
from pyvpn.errors import ConfigError, HostError, PeerError
from pyvpn.net.private_files import make_private_directory, read_private, write_private
from pyvpn.net.tls_transport import TlsTransport

# openssl/x509_vfy.h: X509_V_FLAG_NO_CHECK_TIME, since OpenSSL 1.1.0; Python has no name for it.
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


def server_options(identity: ServerIdentity) -> TlsTerms:
    """Return what a listening port needs to speak TLS as *identity*.

    Raises:
        ConfigError: OpenSSL does not take its key or certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _show(context, identity.key_pem, identity.chain)
    # Asked for, not required, and verified by OpenSSL alone: our authority is the one root there
    # is, and lets nobody below it sign (its path length is 0).
    context.verify_mode = ssl.CERT_OPTIONAL
    authority = x509.load_pem_x509_certificate(identity.authority_certificate)
    context.load_verify_locations(cadata=authority.public_bytes(Encoding.DER))
    # Whether a device is still welcome is in our records and not in its certificate's dates: a
    # server whose clock starts in 1970 must not turn everybody away until it has met a time
    # server, perhaps one that is only reached through this VPN.
    context.verify_flags |= _NO_CHECK_TIME
    # Resumption would bring a session back without showing the certificate again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return TlsTerms(context, server=True)


def client_options(
    host: str,
    pin: str | None,
    ca_file: str | Path | None,
    key_pem: bytes | None,
    cert_pem: bytes | None,
) -> TlsTerms:
    """Return what a client needs to connect to *host* by TLS.

    With a *pin* the handshake accepts any certificate whose key the server really holds, and the
    caller **must** then ask :func:`check_pin`, in ``handshakeCompleted`` and before it writes a
    byte.  Without, the server is verified by name, from the roots in *ca_file* or the system's; if
    that fails there is no ``handshakeCompleted``, but a ``connectionLost`` with ServerNotVerified.

    *key_pem* and *cert_pem* (both or neither) are shown to a server that asks for them.

    Raises:
        ConfigError: *ca_file* is no file of certificates, or key and certificate do not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # by the pin, or by service_identity
    if key_pem is not None and cert_pem is not None:
        _check_pair("the device's key", key_pem, "the device's certificate", cert_pem)
        _show(context, key_pem, (cert_pem,))
    try:
        if pin is not None:
            context.verify_mode = ssl.CERT_NONE
            return _ByPin(context, host)
        if ca_file is None:
            context.load_default_certs()
        else:
            roots = (each.public_bytes(Encoding.DER) for each in _certificates_in(Path(ca_file)))
            context.load_verify_locations(cadata=b"".join(roots))
        return _ByName(context, host)
    except ssl.SSLError as error:
        raise ConfigError(f"OpenSSL does not take {ca_file}: {error.reason or error}") from None
    except UnicodeError:
        raise ConfigError(f"{host!r} is not a host name") from None


def check_pin(transport: TlsTransport, pin: str) -> bool:
    """Whether the key that the server of *transport* proved to hold is the one of *pin*.

    To be asked when the handshake has completed; before that the answer is no.
    """
    der = transport.peer_certificate()
    if der is None:
        return False
    try:
        found = pin_of(der)
    except PeerError:  # OpenSSL could read it and `cryptography` cannot: not one we ever made
        return False
    # Not a secret, but compared as if it were: nobody need ask whether it is one.
    return hmac.compare_digest(found.encode(), pin.encode())


def peer_fingerprint(transport: TlsTransport) -> str | None:
    """Return the fingerprint of the certificate the peer proved to hold; None if it has none.

    To be asked when the handshake has completed.
    """
    der = transport.peer_certificate()
    return None if der is None else fingerprint_of(der)


class TlsTerms:
    """What one end demands: :class:`pyvpn.net.tls_transport.Terms`, with nothing added.

    Args:
        host: told to the server, so that relays can choose by it; None: nothing is.
    """

    def __init__(
        self, context: ssl.SSLContext, *, server: bool = False, host: str | None = None
    ) -> None:
        self.context = context
        self.server = server
        self._host = host

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.context.wrap_bio(incoming, outgoing, self.server, self._host)

    def judge(self, tls: ssl.SSLObject) -> None:
        """Nothing more than OpenSSL did."""

    def meaning_of(self, error: ssl.SSLError) -> Exception:
        return error


class _ByPin(TlsTerms):
    """Connects without verifying; the pin is compared afterwards.

    TLS 1.3 itself proves that the server holds the key of the certificate it showed, whoever
    signed it, so comparing the key is the whole of the verification.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._name = host
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._ascii = host if self._is_address else host.encode("idna").decode()
        # RFC 6066 section 3 has no addresses there.
        super().__init__(context, host=None if self._is_address else self._ascii)


class _ByName(_ByPin):
    """Lets OpenSSL verify the chain in the handshake, and service_identity the name after it.

    After it for us, that is: our last flight, in which a certificate of ours would be, leaves
    only when both have said yes.
    """

    def judge(self, tls: ssl.SSLObject) -> None:
        der = tls.getpeercert(binary_form=True)
        try:
            certificate = x509.load_der_x509_certificate(der or b"")
            if self._is_address:
                verify_certificate_ip_address(certificate, self._name)
            else:
                verify_certificate_hostname(certificate, self._ascii)
        except Exception:  # noqa: BLE001 - a certificate can be wrong in any way; a no is a no
            raise ServerNotVerified(f"the server's certificate is not for {self._name}") from None

    def meaning_of(self, error: ssl.SSLError) -> Exception:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ServerNotVerified(
                f"the certificate of {self._name} does not verify: it is expired or not signed by"
                f" a trusted authority (OpenSSL error {error.verify_code})"
            )
        return error


def _show(context: ssl.SSLContext, key_pem: bytes, chain: Sequence[bytes]) -> None:
    """Have *context* show *chain*, of whose first certificate this is the key."""
    # Written anew: in the operator's file there may be certificates, too.
    key = load_pem_private_key(key_pem, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    # Python's ssl takes both from a file only: from one that lives in memory, and has no name.
    place = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(place, "wb", closefd=False) as file:
            file.write(b"\n".join((*chain, key)))
        context.load_cert_chain(f"/proc/self/fd/{place}")
    except ssl.SSLError as error:
        raise ConfigError(
            f"OpenSSL does not take the key and its certificate: {error.reason or error}"
        ) from None
    except FileNotFoundError:
        raise HostError("/proc is not mounted, and is needed to load keys: mount it") from None
    finally:
        os.close(place)


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
