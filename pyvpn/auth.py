"""Who may log in: a twisted.cred realm, its portal, and the two checkers we bring.

An avatar's id is the user's name, as the id of most cred checkers is, with ``/`` and the
device's fingerprint behind it when the device was known by its certificate (no name has a
slash).  So a checker of somebody else's, for LDAP or RADIUS say, only has to take
:class:`IPasswordLogIn` and give a name that is on file.

Every refusal is an ``UnauthorizedLogin``.  Towards the peer all of them are one answer, made with
the same work; the cause is for the server's log alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ParamSpec, Protocol, TypeVar

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from pyvpn.errors import PyvpnError
from pyvpn.store import Device, User
from pyvpn.store.passwords import hash_password, needs_rehash, verify_password
from pyvpn.store.sqlite import Store

P = ParamSpec("P")
T = TypeVar("T")


class Call(Protocol):
    """Runs a function elsewhere, so that the reactor does not wait for a disk or a hash."""

    def __call__(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Fire with what *f* returns or raises."""


class Refused(UnauthorizedLogin):
    """Nobody was let in, and the peer learns no more than that."""

    def __init__(self, cause: str) -> None:
        super().__init__("bad credentials")
        self.cause = cause
        """What was wrong, for the server's log only."""


class PasswordNeeded(UnauthorizedLogin):
    """The certificate is good, but the user must prove the password on that device again.

    Only a device that TLS has proved meets this, so it may be told.
    """

    def __init__(self, cause: str) -> None:
        super().__init__("password needed")
        self.cause = cause
        """Why, for the server's log."""


class IPasswordLogIn(ICredentials):
    """A name and a password, as somebody typed them."""

    user: str = Attribute("The name.")
    password: str = Attribute("The password.")


class IDeviceCertificate(ICredentials):
    """A certificate of our authority whose key TLS has proved."""

    fingerprint: str = Attribute("Hexadecimal SHA-256 of the certificate.")


@implementer(IPasswordLogIn)
@dataclass(frozen=True, slots=True)
class PasswordLogIn:
    """See :class:`IPasswordLogIn`."""

    user: str
    password: str = field(repr=False)


@implementer(IDeviceCertificate)
@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """See :class:`IDeviceCertificate`."""

    fingerprint: str


class IIdentity(Interface):
    """Who somebody turned out to be: what the portal gives for credentials."""

    user: User = Attribute("The user, enabled a moment ago.")
    device: Device | None = Attribute("The device, when its certificate proved it.")


@implementer(IIdentity)
@dataclass(frozen=True, slots=True)
class Identity:
    """See :class:`IIdentity`."""

    user: User
    device: Device | None


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Checks passwords against the store.

    Throttling comes before this: each call costs one argon2 verification, whoever asks.
    *store_call* runs the store's methods, *hash_call* the hashing.
    """

    credentialInterfaces = (IPasswordLogIn,)
    _log = Logger()

    def __init__(self, store: Store, store_call: Call, hash_call: Call) -> None:
        self._store = store
        self._store_call = store_call
        self._hash_call = hash_call

    def requestAvatarId(self, credentials: IPasswordLogIn) -> Deferred[bytes | tuple[()]]:
        """Fire with the user's name, or with :class:`Refused`, or with why we cannot tell."""
        return Deferred.fromCoroutine(self._check(credentials.user, credentials.password))

    async def _check(self, name: str, password: str) -> bytes:
        user = await self._store_call(self._store.user, name)
        on_file = user.password_hash if user else None
        # Before any refusal, so that unknown, disabled and wrong take equally long.
        fits = await self._hash_call(verify_password, on_file, password)
        if user is None:
            raise Refused("unknown user")
        if not fits:
            raise Refused("wrong password")
        if user.disabled:
            raise Refused("user disabled")
        # The hash took its time.  A password changed meanwhile must not let the old one in: the
        # caller would note it as proved *after* the change.
        now = await self._store_call(self._store.user, name)
        if now is None or (now.id, now.password_changed) != (user.id, user.password_changed):
            raise Refused("user changed during log-in")
        if needs_rehash(user.password_hash):
            await self._rehash(user, password)
        return name.encode("ascii")

    async def _rehash(self, user: User, password: str) -> None:
        try:
            better = await self._hash_call(hash_password, password)
            await self._store_call(self._store.replace_hash, user.id, user.password_hash, better)
        except (
            PyvpnError
        ) as error:  # a full disk, a busy pool: the password was right all the same
            self._log.warn("hash of {user} not renewed: {error}", user=user.name, error=error)


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Knows devices by their certificates, without a password and without a hash.

    *unix* gives the time in unix seconds.
    """

    credentialInterfaces = (IDeviceCertificate,)

    def __init__(
        self,
        store: Store,
        store_call: Call,
        unix: Callable[[], float],
        reauth_after: float | None = None,
    ) -> None:
        self._store = store
        self._store_call = store_call
        self._unix = unix
        self.reauth_after = reauth_after
        """Seconds until a device must prove the password again; None: never.  May change live."""

    def requestAvatarId(self, credentials: IDeviceCertificate) -> Deferred[bytes | tuple[()]]:
        """Fire with name and fingerprint, or with :class:`Refused` or :class:`PasswordNeeded`."""
        return Deferred.fromCoroutine(self._check(credentials.fingerprint))

    async def _check(self, fingerprint: str) -> bytes:
        found = await self._store_call(self._store.holder, fingerprint)
        if found is None:
            raise Refused("certificate of a device that is not on file")
        user, device = found
        if user.disabled:
            raise Refused("user disabled")
        if why := self.password_needed(user, device):
            raise PasswordNeeded(why)
        return f"{user.name}/{fingerprint}".encode("ascii")

    def password_needed(self, user: User, device: Device) -> str:
        """Why a *device* of *user* must prove the password again; empty: it need not."""
        if device.authenticated < user.password_changed:
            return "password changed since"
        if (
            self.reauth_after is not None
            and self._unix() - device.authenticated > self.reauth_after
        ):
            return "password proved too long ago"
        return ""


@implementer(IRealm)
class Realm:
    """Turns the id that a checker vouched for into an :class:`IIdentity`, fresh from the store."""

    def __init__(self, store: Store, store_call: Call) -> None:
        self._store = store
        self._store_call = store_call

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[tuple[type[Interface], object, Callable[[], None]]]:
        """Fire with ``(IIdentity, identity, logout)``; *logout* has nothing to do.

        Fires with :class:`Refused` when the user is not on file or disabled, or the device not
        that user's: the store may have changed while the checker was busy.
        """
        if IIdentity not in interfaces or not isinstance(avatarId, bytes):
            raise NotImplementedError("this realm gives an IIdentity, and to nobody anonymous")
        return Deferred.fromCoroutine(self._identify(avatarId))

    async def _identify(
        self, avatar_id: bytes
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        name, _, fingerprint = avatar_id.decode("utf-8").partition("/")
        user: User | None
        device: Device | None = None
        if fingerprint:
            found = await self._store_call(self._store.holder, fingerprint)
            if found is None or found[0].name != name:
                raise Refused("device removed during log-in")
            user, device = found
        else:
            user = await self._store_call(self._store.user, name)
            if user is None:
                raise Refused("unknown user")
        if user.disabled:
            raise Refused("user disabled")
        return IIdentity, Identity(user, device), _nothing_to_do


def _nothing_to_do() -> None:
    """Log out: what a session holds is given back by the session."""


def make_portal(
    store: Store,
    store_call: Call,
    hash_call: Call,
    unix: Callable[[], float],
    reauth_after: float | None = None,
    checkers: Iterable[ICredentialsChecker] = (),
) -> Portal:
    """The portal that knows passwords and device certificates from *store*.

    *checkers* come later and win: one for :class:`IPasswordLogIn` takes the place of ours, one
    for an interface of its own stands beside.
    """
    return Portal(
        Realm(store, store_call),
        [
            PasswordChecker(store, store_call, hash_call),
            CertificateChecker(store, store_call, unix, reauth_after),
            *checkers,
        ],
    )
