"""Passwords are kept as argon2id hashes: 19 MiB of memory, two passes, one lane.

One verification takes 30 to 60 ms of a core and the memory named, so callers bound how many run
at once and throttle *before* they come here.  The C code releases the interpreter lock.

A password comes here as :func:`pyvpn.wire.messages.clean_password` returned it, so that the same
one typed on another keyboard is the same bytes.
"""

from __future__ import annotations

import base64

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MEMORY = 19 * 1024  # KiB; with two passes: the OWASP minimum, so that a small server can serve
PASSES = 2
LANES = 1

_hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY, parallelism=LANES)


def _encoded(length: int) -> str:
    return base64.b64encode(bytes(length)).decode("ascii").rstrip("=")


# Stands in where there is no account.  Written out of the same numbers as a real one, so that it
# costs the same, and without a password behind it: nobody knows one whose hash is all zeros.
_NOBODY = (
    f"$argon2id$v=19$m={MEMORY},t={PASSES},p={LANES}"
    f"${_encoded(_hasher.salt_len)}${_encoded(_hasher.hash_len)}"
)


def hash_password(password: str) -> str:
    """A new salted hash of *password*, with its parameters inside."""
    return _hasher.hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether *password* is the one behind *password_hash*.

    None, for an account that does not exist, is answered False after the same work, and so is a
    hash that cannot be read: how long an answer takes tells nobody which names exist.
    """
    try:
        return _hasher.verify(password_hash or _NOBODY, password) and bool(password_hash)
    except VerificationError:
        return False
    except InvalidHashError:  # raised before any work was done
        return verify_password(None, password)


def needs_rehash(password_hash: str) -> bool:
    """Whether *password_hash* was made with other parameters than today's."""
    try:
        return _hasher.check_needs_rehash(password_hash)
    except InvalidHashError:
        return True
