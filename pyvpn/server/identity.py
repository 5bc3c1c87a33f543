"""The server's keys, and what of them is told to others."""

from __future__ import annotations

from pyvpn.config import ServerConfig
from pyvpn.net.process import StateLock
from pyvpn.net.tls import ServerIdentity, load_or_make_identity, read_pin


def load_identity(config: ServerConfig, unix: float) -> ServerIdentity:
    """Read the keys and certificates of *config*; make them if they are not there.

    Only for who holds the lock of the state directory.  *unix* is the time.

    Raises:
        ConfigError, HostError: as :func:`pyvpn.net.tls.load_or_make_identity`.
    """
    names = [endpoint.host for endpoint in config.public_endpoints]
    return load_or_make_identity(
        config.state_dir,
        unix,
        config.tls.certificate,
        config.tls.private_key,
        (*names, *config.tls.names),
    )


def find_pin(config: ServerConfig, unix: float) -> str:
    """Return the pin of the server of *config*, which may be running, or may never have run.

    Changes nothing, unless there are no keys yet.

    Raises:
        ConfigError: a key file is not what it should be.
        HostError: it cannot be read; or keys are missing while a server runs.
    """
    pin = read_pin(config.state_dir, config.tls.certificate, config.tls.private_key)
    if pin is not None:
        return pin
    lock = StateLock(str(config.state_dir))
    lock.take()
    try:
        return load_identity(config, unix).pin
    finally:
        lock.release()
