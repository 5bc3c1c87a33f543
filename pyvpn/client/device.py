"""What makes this machine the device it is: a key, and for each server a certificate."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.logger import Logger

from pyvpn.config import ClientConfig
from pyvpn.crypto.certificates import make_key, make_request
from pyvpn.errors import ConfigError, PeerError
from pyvpn.net.private_files import make_private_directory, read_private, write_private

_log = Logger()


def server_name(config: ClientConfig) -> str:
    """What tells *config*'s server from others: its pin, or its name where there is no pin."""
    return config.pin or config.server.endpoints[0].host


def certificate_file(state_dir: Path, server: str) -> Path:
    """Where the certificate for *server* (from :func:`server_name`) is, if there is one."""
    digest = hashlib.sha256(server.encode()).hexdigest()[:16]
    return state_dir / f"device-{digest}.crt"


class Device:
    """Key and certificate in the state directory.

    A certificate that is broken, or not one of our key, is as good as none: the password brings
    another.

    Args:
        state_dir: made (0700) if need be.
        server: from :func:`server_name`, so that one machine may be a device of several.

    Raises:
        ConfigError: a file that others may read, or a key that is none.
        HostError: the directory cannot be used.
    """

    def __init__(self, state_dir: Path, server: str) -> None:
        make_private_directory(state_dir)
        self._key_file = state_dir / "device.key"
        self._certificate_file = certificate_file(state_dir, server)
        self._wanted_file = self._certificate_file.with_suffix(".password-wanted")
        key = read_private(self._key_file)
        if key is None:
            key = make_key()
            write_private(self._key_file, key)
        self.key = key
        self._public = self._read_key().public_key()
        self.certificate = read_private(self._certificate_file)
        if self.certificate is not None and not self._is_ours(self.certificate):
            _log.warn("{file} is not a certificate of our key", file=str(self._certificate_file))
            self.certificate = None

    def _read_key(self) -> EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if isinstance(key, EllipticCurvePrivateKey):
            return key
        raise ConfigError(
            f"{self._key_file} does not hold the key that was put there: restore it, or remove "
            "it (then the password is needed once more)"
        )

    def _is_ours(self, certificate: bytes) -> bool:
        try:
            return x509.load_pem_x509_certificate(certificate).public_key() == self._public
        except (ValueError, UnsupportedAlgorithm):
            return False

    def request(self) -> str:
        """A certificate request for our key, PEM; the name in it is the server's to choose."""
        return make_request(self.key, "device").decode()

    def keep(self, certificate: str) -> None:
        """Be the device of *certificate* from now on.

        Raises:
            PeerError: it is none, or one of another key.
            HostError: it cannot be written; until the process ends it is used all the same.
        """
        data = certificate.encode()
        if not self._is_ours(data):
            raise PeerError("the server sent a certificate that is not one of this device's key")
        self.certificate = data
        write_private(self._certificate_file, data)

    @property
    def password_wanted(self) -> bool:
        """Whether the server asked for the password although there is a certificate.

        Kept on disk: whoever starts the client at a terminal next is asked for it.
        """
        return self._wanted_file.exists()

    @password_wanted.setter
    def password_wanted(self, wanted: bool) -> None:
        with suppress(OSError):  # it is a convenience only
            if wanted:
                self._wanted_file.touch(0o600)
            else:
                self._wanted_file.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Do without the certificate until another one comes, or this process ends.

        The file stays: that a server refused it once is no reason to need a password for ever.
        """
        self.certificate = None
