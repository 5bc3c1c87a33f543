"""Log-in: by the device's certificate, or by password and with a certificate for the next time.

Before somebody is known, every cause of refusal has one answer, and a user who does not exist
costs the work of one who does; what it was stands in our log.  Throttling comes before the hash;
a device that its certificate proves is held up by its own guesses only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.logger import Logger

from pyvpn.auth import DeviceCertificate, Identity, IIdentity, PasswordLogIn, PasswordNeeded
from pyvpn.crypto.certificates import fingerprint_of_pem, sign_request
from pyvpn.errors import PeerError
from pyvpn.net.control import ControlLink
from pyvpn.net.link_owner import LinkClosed
from pyvpn.net.threads import Busy, DaemonThreads
from pyvpn.net.tls import ServerIdentity, peer_fingerprint
from pyvpn.server.visit import Statistics, Visit
from pyvpn.store.records import Device, Gone, TooManyDevices
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.throttle import Throttle
from pyvpn.wire.messages import Code, LogIn, LogInAnswer

_log = Logger()

BUSY_SECONDS = 1.0
"""When to come back if all threads that hash are taken."""

# The name in every device's certificate.  Whose it is stands in our records, under its
# fingerprint: a client shows the certificate before it has verified who asks.
_DEVICE = "pyvpn device"

_MESSAGES = {
    Code.BAD_CREDENTIALS: "user or password is wrong",
    Code.SLOW_DOWN: "too many attempts; try again later",
    Code.PASSWORD_NEEDED: "this device must log in with its password again",
    Code.TOO_MANY_DEVICES: "the user has as many devices as one may have, all connected",
    Code.BAD_REQUEST: "the certificate request cannot be signed",
}


class LogIns:
    """Turns what a client shows into a user and a device.

    Args:
        portal: twisted.cred's, with all checkers in it.
        identity: gives the authority that signs devices, as it is at the moment.
        now: CLOCK_BOOTTIME seconds.
        unix: wall clock seconds, for what is written to disk.
        storage: the one thread that *store* is used from.
    """

    def __init__(
        self,
        *,
        portal: Portal,
        identity: Callable[[], ServerIdentity],
        store: Store,
        storage: DaemonThreads,
        throttle: Throttle,
        now: Callable[[], float],
        unix: Callable[[], float],
        statistics: Statistics,
    ) -> None:
        self._portal = portal
        self._identity = identity
        self._store = store
        self._storage = storage
        self._throttle = throttle
        self._now = now
        self._unix = unix
        self._statistics = statistics

    async def log_in(self, link: ControlLink, visit: Visit, data: bytes) -> LogInAnswer:
        """Treat one log-in; afterwards ``visit.user`` and ``visit.device`` say who it is."""
        if visit.user is not None:
            return LogInAnswer(
                success=False, code=Code.BAD_REQUEST, message="you are logged in already"
            )
        try:
            request = LogIn.from_bytes(data)
        except PeerError:
            # One answer for all causes: what was wrong with it is our business.
            return self._refuse(link, Code.BAD_CREDENTIALS)
        known = None
        fingerprint = peer_fingerprint(link.transport)
        if fingerprint is not None:
            try:
                identity = await self._prove(DeviceCertificate(fingerprint))
            except PasswordNeeded:
                if not request.password:
                    return self._refuse(link, Code.PASSWORD_NEEDED)
                known = await self._device_of(request.user, fingerprint)
            except UnauthorizedLogin as refused:
                self._log_refusal("a known certificate", visit, refused)
            else:
                return self._admit(visit, identity, identity.device, "")
        if not request.user or not request.password:
            return self._refuse(link, Code.BAD_CREDENTIALS)
        return await self._by_password(link, visit, request, known)

    async def _by_password(
        self, link: ControlLink, visit: Visit, request: LogIn, known: Device | None
    ) -> LogInAnswer:
        # Nobody can keep a device out that is proved by guessing at its user's name, or from its
        # place.  No user's name begins so.
        who = (visit.source, request.user) if known is None else (None, f"device {known.id}")
        wait = self._throttle.begin(*who, self._now())
        if wait > 0:
            return self._refuse(link, Code.SLOW_DOWN, wait)
        self._statistics.passwords += 1
        try:
            identity = await self._prove(PasswordLogIn(request.user, request.password))
        except UnauthorizedLogin as refused:
            self._throttle.failed(*who, self._now())
            self._log_refusal(request.user, visit, refused)
            return self._refuse(link, Code.BAD_CREDENTIALS)
        except Busy:
            self._throttle.abandoned(*who, self._now())
            return self._refuse(link, Code.SLOW_DOWN, BUSY_SECONDS)
        except BaseException:
            self._throttle.abandoned(*who, self._now())
            raise
        self._throttle.succeeded(*who, self._now())
        if link.is_closed:
            # Nobody would get the certificate, and the device might push out one that is in use.
            raise LinkClosed("gone before the log-in was answered")
        unix = self._unix()
        if known is not None and known.user == identity.user.id:
            await self._storage.run(self._store.set_authenticated, known.id, unix)
            proved = replace(known, authenticated=unix)
            return self._admit(visit, identity, proved, "")
        authority = self._identity()
        try:
            certificate = sign_request(
                request.certificate_request.encode(),
                authority.authority_key,
                authority.authority_certificate,
                _DEVICE,
                unix,
            )
        except PeerError as error:
            _log.info("certificate request of {user}: {why}", user=request.user, why=str(error))
            return self._refuse(link, Code.BAD_REQUEST)
        try:
            device = await self._storage.run(
                self._store.add_device,
                identity.user.id,
                fingerprint_of_pem(certificate),
                request.device or "device",
                unix,
            )
        except Gone:
            return self._refuse(link, Code.BAD_CREDENTIALS)
        except TooManyDevices:
            return self._refuse(link, Code.TOO_MANY_DEVICES)
        return self._admit(visit, identity, device, certificate.decode())

    async def _device_of(self, user: str, fingerprint: str) -> Device | None:
        """The device with that certificate, if it is *user*'s."""
        found = await self._storage.run(self._store.holder, fingerprint)
        return found[1] if found is not None and found[0].name == user else None

    async def _prove(self, credentials: Any) -> Identity:
        _, identity, _ = await self._portal.login(credentials, None, IIdentity)
        assert isinstance(identity, Identity)
        return identity

    def _admit(
        self, visit: Visit, identity: Identity, device: Device | None, certificate: str
    ) -> LogInAnswer:
        visit.user, visit.device = identity.user, device
        return LogInAnswer(success=True, code=Code.OK, certificate=certificate)

    def _refuse(self, link: ControlLink, code: Code, retry_after: float = 0) -> LogInAnswer:
        self._statistics.refuse(code)
        if code != Code.PASSWORD_NEEDED:
            link.fault("refused log-in")
        return LogInAnswer(
            success=False, code=code, message=_MESSAGES[code], retry_after=retry_after
        )

    @staticmethod
    def _log_refusal(who: str, visit: Visit, refused: UnauthorizedLogin) -> None:
        _log.info(
            "log-in as {who} from {place} refused: {cause}",
            who=who,
            place=visit.place,
            cause=getattr(refused, "cause", str(refused)),
        )
