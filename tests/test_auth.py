"""Who may log in, and what a refusal gives away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

from argon2 import PasswordHasher
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pyvpn.auth import (
    CertificateChecker,
    DeviceCertificate,
    Identity,
    IDeviceCertificate,
    IIdentity,
    IPasswordLogIn,
    PasswordLogIn,
    PasswordNeeded,
    Realm,
    Refused,
    make_portal,
)
from pyvpn.errors import HostError
from pyvpn.store import User
from pyvpn.store.passwords import hash_password, needs_rehash, verify_password
from tests.store.cases import NOON, StoreCase

P = ParamSpec("P")
T = TypeVar("T")

HASH = hash_password("correct horse")
CERTIFICATE = "ab" * 32


class Calls:
    """Stands where the threads are: runs what it is given, and notes in which order.

    *before* is called before the function of that name runs: what happens meanwhile.
    The function called *failing* fails, as on a broken disk.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.made: list[tuple[str, tuple[object, ...]]] = []
        self.before: dict[str, Callable[[], object]] = {}

    def __call__(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        self.made.append((f.__name__, args))
        self.before.pop(f.__name__, lambda: None)()
        if f.__name__ == self.failing:
            return fail(HostError("out of order"))
        return maybeDeferred(f, *args, **kwargs)

    def names(self) -> list[str]:
        """The functions that ran."""
        return [name for name, _ in self.made]


class AuthCase(StoreCase):
    """A portal on a store with one user, anna, who has one device."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.anna = self.store.add_user("anna", HASH, NOON)
        self.laptop = self.store.add_device(self.anna.id, CERTIFICATE, "laptop", NOON)
        self.clock = Clock()
        self.clock.advance(NOON)
        self.store_calls, self.hash_calls = Calls(), Calls()

    def portal(
        self, reauth_after: float | None = None, checkers: Sequence[ICredentialsChecker] = ()
    ) -> Portal:
        """Ours, with its threads replaced."""
        return make_portal(
            self.store,
            self.store_calls,
            self.hash_calls,
            self.clock.seconds,
            reauth_after,
            checkers,
        )

    def log_in(
        self, credentials: PasswordLogIn | DeviceCertificate, portal: Portal | None = None
    ) -> Identity:
        """Who the portal says that is; raises what it refuses with."""
        login = (portal or self.portal()).login(credentials, None, IIdentity)
        interface, identity, logout = self.successResultOf(login)
        self.assertIs(IIdentity, interface)
        assert isinstance(identity, Identity)
        logout()
        return identity

    def refusal(
        self, credentials: PasswordLogIn | DeviceCertificate, portal: Portal | None = None
    ) -> UnauthorizedLogin:
        """With what the portal refuses."""
        login = (portal or self.portal()).login(credentials, None, IIdentity)
        error = self.failureResultOf(login, UnauthorizedLogin).value
        assert isinstance(error, UnauthorizedLogin)
        return error


class PasswordTests(AuthCase):
    """A name and a password."""

    def test_right(self) -> None:
        """The right password tells who it is, and no device."""
        identity = self.log_in(PasswordLogIn("anna", "correct horse"))
        self.assertEqual(Identity(self.anna, None), identity)

    def assertRefused(self, user: str, password: str, cause: str) -> None:
        """Refused for *cause*, which only the log may know, after exactly one verification."""
        self.hash_calls.made.clear()
        error = self.refusal(PasswordLogIn(user, password))
        assert isinstance(error, Refused)
        self.assertEqual("bad credentials", str(error))
        self.assertEqual(cause, error.cause)
        self.assertEqual(["verify_password"], self.hash_calls.names())

    def test_wrong(self) -> None:
        """A wrong password is refused."""
        self.assertRefused("anna", "wrong horse", "wrong password")

    def test_unknown(self) -> None:
        """An unknown name is refused with the same words and the same work."""
        for name in ("bert", "", "Anna", "\ud800", "anna/" + CERTIFICATE):
            self.assertRefused(name, "correct horse", "unknown user")

    def test_disabled(self) -> None:
        """A disabled user is refused likewise, whether the password is right or wrong."""
        self.store.set_disabled("anna", True)
        self.assertRefused("anna", "correct horse", "user disabled")
        self.assertRefused("anna", "wrong horse", "wrong password")

    def test_equalWork(self) -> None:
        """What is asked of the store and the hash does not depend on whether a name exists."""
        seen = set()
        for name in ("anna", "bert"):
            for calls in (self.store_calls, self.hash_calls):
                calls.made.clear()
            self.refusal(PasswordLogIn(name, "wrong horse"))
            seen.add((*self.store_calls.names(), *self.hash_calls.names()))
        self.assertEqual({("user", "verify_password")}, seen)

    def test_enabledAgain(self) -> None:
        """What was disabled works again once it is enabled."""
        self.store.set_disabled("anna", True)
        self.store.set_disabled("anna", False)
        self.log_in(PasswordLogIn("anna", "correct horse"))

    def meanwhile(self, happens: Callable[[], object]) -> Refused:
        """The refusal of a right password, when *happens* while it is being hashed."""
        self.hash_calls.before["verify_password"] = happens
        error = self.refusal(PasswordLogIn("anna", "correct horse"))
        assert isinstance(error, Refused)
        return error

    def test_removedMeanwhile(self) -> None:
        """A user who is removed while the password is checked does not get in."""
        error = self.meanwhile(lambda: self.store.remove_user("anna"))
        self.assertEqual("user changed during log-in", error.cause)

    def test_disabledMeanwhile(self) -> None:
        """Nor does one who is disabled."""
        error = self.meanwhile(lambda: self.store.set_disabled("anna", True))
        self.assertEqual("user disabled", error.cause)

    def test_passwordMeanwhile(self) -> None:
        """Nor somebody with the old password, when it is changed at that moment."""
        error = self.meanwhile(lambda: self.store.set_password("anna", "new", NOON + 1))
        self.assertEqual("user changed during log-in", error.cause)

    def test_addressMeanwhile(self) -> None:
        """What does not concern the log-in does not disturb it."""
        self.hash_calls.before["verify_password"] = lambda: self.store.set_fixed(
            "anna", b"\x0a\x49\x00\x32", None
        )
        identity = self.log_in(PasswordLogIn("anna", "correct horse"))
        self.assertEqual(b"\x0a\x49\x00\x32", identity.user.fixed4)

    def test_noSecretInText(self) -> None:
        """The text of credentials, as it may stand in a traceback, has no password in it."""
        self.assertNotIn("horse", repr(PasswordLogIn("anna", "correct horse")))


class RehashTests(AuthCase):
    """Hashes grow with the settings, when their password passes by."""

    def setUp(self) -> None:
        super().setUp()
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
        self.store.replace_hash(self.anna.id, HASH, cheap)

    def on_file(self) -> User:
        """Anna, as she is on file now."""
        user = self.store.user("anna")
        assert user is not None
        return user

    def test_renewed(self) -> None:
        """A log-in with the right password renews a cheap hash; it is no new password."""
        identity = self.log_in(PasswordLogIn("anna", "correct horse"))
        user = self.on_file()
        self.assertFalse(needs_rehash(user.password_hash))
        self.assertTrue(verify_password(user.password_hash, "correct horse"))
        self.assertEqual(NOON, user.password_changed)
        self.assertEqual(user, identity.user)

    def test_notByWrong(self) -> None:
        """A wrong password renews nothing."""
        before = self.on_file()
        self.refusal(PasswordLogIn("anna", "wrong horse"))
        self.assertEqual(before, self.on_file())

    def test_full(self) -> None:
        """A full disk keeps nobody out whose password is right; the log says it."""
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.store_calls.failing = "replace_hash"
        self.log_in(PasswordLogIn("anna", "correct horse"))
        [event] = [event for event in events if event.get("user") == "anna"]
        self.assertEqual(LogLevel.warn, event["log_level"])


class CertificateTests(AuthCase):
    """A device that TLS has proved."""

    device = DeviceCertificate(CERTIFICATE)

    def test_known(self) -> None:
        """A device on file is known without any hash."""
        self.assertEqual(Identity(self.anna, self.laptop), self.log_in(self.device))
        self.assertEqual([], self.hash_calls.names())

    def assertRefused(self, cause: str) -> None:
        """Refused for *cause*, in the words of every refusal."""
        error = self.refusal(self.device)
        assert isinstance(error, Refused)
        self.assertEqual("bad credentials", str(error))
        self.assertEqual(cause, error.cause)

    def test_unknown(self) -> None:
        """A certificate that is not on file opens nothing, though our authority signed it."""
        self.store.remove_user("anna")
        self.assertRefused("certificate of a device that is not on file")

    def test_disabled(self) -> None:
        """The device of a disabled user stays out."""
        self.store.set_disabled("anna", True)
        self.assertRefused("user disabled")

    def test_removedMeanwhile(self) -> None:
        """A user who is removed at that moment stays out."""
        calls = self.store_calls

        def look() -> None:
            calls.before["holder"] = lambda: self.store.remove_user("anna")

        calls.before["holder"] = look
        self.assertRefused("device removed during log-in")

    def test_disabledMeanwhile(self) -> None:
        """A user who is disabled at that moment stays out."""
        calls = self.store_calls

        def look() -> None:
            calls.before["holder"] = lambda: self.store.set_disabled("anna", True)

        calls.before["holder"] = look
        self.assertRefused("user disabled")

    def test_replacedMeanwhile(self) -> None:
        """The device of a removed user does not become one of a namesake's."""

        def replace() -> None:
            self.store.remove_user("anna")
            self.store.add_user("anna", HASH, NOON)

        def look() -> None:
            self.store_calls.before["holder"] = replace

        self.store_calls.before["holder"] = look
        self.assertRefused("device removed during log-in")

    def test_passwordChanged(self) -> None:
        """After a change of the password a device must prove the new one once."""
        self.store.set_password("anna", HASH, NOON + 1)
        error = self.refusal(self.device)
        assert isinstance(error, PasswordNeeded)
        self.assertEqual("password changed since", error.cause)
        self.store.set_authenticated(self.laptop.id, NOON + 2)
        self.log_in(self.device)

    def test_disabledBeforePassword(self) -> None:
        """A disabled user is not asked for a password: that would tell that it matters."""
        self.store.set_password("anna", HASH, NOON + 1)
        self.store.set_disabled("anna", True)
        self.assertRefused("user disabled")

    def test_reauth(self) -> None:
        """The password is due after the configured time, not before."""
        portal = self.portal(reauth_after=3600)
        self.clock.advance(3600)
        self.log_in(self.device, portal)
        self.clock.advance(1)
        error = self.refusal(self.device, portal)
        assert isinstance(error, PasswordNeeded)
        self.assertEqual("password proved too long ago", error.cause)

    def test_reauthNever(self) -> None:
        """Without such a time a device is known for ever."""
        self.clock.advance(20 * 365 * 86400)
        self.log_in(self.device)

    def test_reauthLive(self) -> None:
        """The time can be changed while the server runs."""
        portal = self.portal()
        self.clock.advance(3601)
        self.log_in(self.device, portal)
        checker = portal.checkers[IDeviceCertificate]
        assert isinstance(checker, CertificateChecker)
        checker.reauth_after = 3600
        self.assertIsInstance(self.refusal(self.device, portal), PasswordNeeded)


class TroubleTests(AuthCase):
    """A server that cannot tell does not say that the password was wrong."""

    def test_outOfOrder(self) -> None:
        """A broken store and a broken hash are errors of their own."""
        password, device = PasswordLogIn("anna", "correct horse"), DeviceCertificate(CERTIFICATE)
        for credentials, calls, failing in (
            (password, self.store_calls, "user"),
            (password, self.hash_calls, "verify_password"),
            (device, self.store_calls, "holder"),
        ):
            calls.failing = failing
            login = self.portal().login(credentials, None, IIdentity)
            self.failureResultOf(login, HostError)
            calls.failing = ""


@implementer(ICredentialsChecker)
class Directory:
    """Somebody else's checker: one password for all, kept elsewhere."""

    credentialInterfaces = (IPasswordLogIn,)

    def requestAvatarId(self, credentials: IPasswordLogIn) -> Deferred[bytes | tuple[()]]:
        """Fire with the name, as such checkers do."""
        if credentials.password != "open sesame":
            return fail(UnauthorizedLogin())
        return succeed(credentials.user.encode("utf-8"))


class PluggedTests(AuthCase):
    """Other checkers can take part."""

    def test_replaces(self) -> None:
        """A checker for passwords takes the place of ours; devices are known as before."""
        portal = self.portal(checkers=[Directory()])
        identity = self.log_in(PasswordLogIn("anna", "open sesame"), portal)
        self.assertEqual(Identity(self.anna, None), identity)
        self.refusal(PasswordLogIn("anna", "correct horse"), portal)
        self.log_in(DeviceCertificate(CERTIFICATE), portal)

    def test_onFile(self) -> None:
        """Whom it lets in must still be on file here and enabled: no name comes out of nowhere."""
        portal = self.portal(checkers=[Directory()])
        for name in ("bert", "bärt", "anna/cd", ""):
            error = self.refusal(PasswordLogIn(name, "open sesame"), portal)
            self.assertIsInstance(error, Refused)
        self.store.set_disabled("anna", True)
        self.refusal(PasswordLogIn("anna", "open sesame"), portal)


class InterfaceTests(SynchronousTestCase):
    """The parts fit where twisted.cred expects them."""

    def test_provided(self) -> None:
        """Each part provides the interface it is used by."""
        portal = make_portal(None, Calls(), Calls(), float)  # type: ignore[arg-type]  # not called
        verifyObject(IRealm, portal.realm)
        self.assertEqual({IPasswordLogIn, IDeviceCertificate}, set(portal.checkers))
        for checker in portal.checkers.values():
            verifyObject(ICredentialsChecker, checker)
        verifyObject(IPasswordLogIn, PasswordLogIn("anna", "secret"))
        verifyObject(IDeviceCertificate, DeviceCertificate("ab"))
        anna = User(1, "anna", HASH, False, None, None, NOON, NOON)
        verifyObject(IIdentity, Identity(anna, None))

    def test_otherAvatars(self) -> None:
        """Who asks the realm for something else than an identity has a bug."""
        realm = Realm(None, Calls())  # type: ignore[arg-type]  # not called
        self.assertRaises(NotImplementedError, realm.requestAvatar, b"anna", None, IRealm)
        self.assertRaises(NotImplementedError, realm.requestAvatar, (), None, IIdentity)
