"""What a client says until it is taken in: log-in and registration, in either generation."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import IPv4Interface
from typing import Any, Protocol

from twisted.logger import Logger

from pyvpn.client.device import Device
from pyvpn.client.machine import Setback
from pyvpn.config import ClientConfig
from pyvpn.errors import ConfigError, PeerError
from pyvpn.net.control import ControlLink
from pyvpn.net.link_owner import VersionRefused
from pyvpn.net.tls import ServerNotVerified, check_pin
from pyvpn.wire.command import PLAIN_VERSION, VERSION, Command
from pyvpn.wire.framed import CAPABILITY as FRAMES
from pyvpn.wire.messages import (
    Code,
    LogIn,
    LogInAnswer,
    PlainAnswer,
    Register,
    RegisterAnswer,
    encode_plain_address,
)
from pyvpn.wire.offload import CAPABILITY

_log = Logger()

PLAIN_MTU = 1500

# A person must act before these can go well: asking again soon would only be noise.
_PATIENT_SECONDS = 300.0
_AWAY_SECONDS = 60.0
_MOST_SECONDS = 3600.0

_LEAST_PAUSE = {
    Code.BAD_CREDENTIALS: _PATIENT_SECONDS,
    Code.PASSWORD_NEEDED: _PATIENT_SECONDS,
    Code.DISABLED: _PATIENT_SECONDS,
    Code.TOO_MANY_DEVICES: _PATIENT_SECONDS,
    Code.KICKED: _AWAY_SECONDS,
    Code.REPLACED: _AWAY_SECONDS,
    Code.QUOTA: _PATIENT_SECONDS,
    Code.POOL_EMPTY: 30.0,
    Code.ADDRESS_TAKEN: 30.0,
    Code.ADDRESS_REFUSED: _PATIENT_SECONDS,
    Code.BAD_REQUEST: _AWAY_SECONDS,
    Code.SERVER_ERROR: 5.0,
}
_SERIOUS = frozenset(
    (
        Code.BAD_CREDENTIALS,
        Code.PASSWORD_NEEDED,
        Code.DISABLED,
        Code.TOO_MANY_DEVICES,
        Code.ADDRESS_REFUSED,
        Code.BAD_REQUEST,
    )
)

_PASSING = frozenset((Code.SHUTTING_DOWN, Code.SLOW_DOWN, Code.SERVER_ERROR, Code.BAD_REQUEST))
"""After these the session may be what it was."""


def setback_of(code: str, message: str, retry_after: float, what: str) -> Setback:
    """What a refusal or a notice means for the next try: never sooner than the code allows."""
    least = _LEAST_PAUSE.get(Code(code), 0.0) if code in set(Code) else _AWAY_SECONDS
    seconds = min(max(least, retry_after), _MOST_SECONDS)
    return Setback(
        f"{what}: {message or code} ({code})",
        seconds,
        serious=code in _SERIOUS,
        final=code not in _PASSING,
    )


class Dialogue(Protocol):
    """One generation's way to be taken in."""

    version: float
    tls: bool
    has_heartbeats: bool

    @property
    def is_on_file(self) -> bool:
        """Whether the server knows us already, so that we may come by UDP alone."""

    def verify(self, link: Any) -> None:
        """Called before a single byte is sent.

        Raises:
            Setback: this is not our server.
        """

    async def introduce(self, link: Any) -> RegisterAnswer:
        """Log in and register, by a link of this generation.

        Raises:
            Setback: the server refused.
            PeerError: it did not keep to the protocol, or fell silent.
        """

    def ended(self, link: Any, reason: Exception) -> None:
        """The connection has ended for *reason*: it may concern what we say at the next one."""


class NativeDialogue:
    """pyvpn's own protocol: the server by its pin or name, us by certificate or password.

    Args:
        password: gives the password, or None when there is none; asked only when needed.
        device_name: what people shall call this machine.
        by_udp: our WireGuard key in base64 (empty: we shall not come by UDP), how packets travel
            now, and which session the tunnel is of, as the server named it.
        capabilities: the words for what we can do by UDP.
    """

    version = VERSION
    tls = True
    has_heartbeats = True

    def __init__(
        self,
        config: ClientConfig,
        device: Device,
        password: Callable[[], str | None],
        device_name: str,
        by_udp: Callable[[], tuple[str, str, str]] = lambda: ("", "tcp", ""),
        capabilities: Callable[[], tuple[str, ...]] = lambda: (CAPABILITY,),
    ) -> None:
        self._capabilities = capabilities
        self._by_udp = by_udp
        self._config = config
        self._device = device
        self._password = password
        self._device_name = device_name

    @property
    def is_on_file(self) -> bool:
        return self._device.certificate is not None

    def verify(self, link: ControlLink) -> None:
        pin = self._config.pin
        if pin is not None and not check_pin(link.transport, pin):
            raise Setback(
                "the server's key is not the one this client was told to expect (pin): either "
                "somebody is in between, or the server was set up anew; nothing was sent to it",
                _PATIENT_SECONDS,
                serious=True,
                stranger=True,
            )

    async def introduce(self, link: ControlLink) -> RegisterAnswer:
        await self._log_in(link)
        link.raise_limit()
        wanted = {
            interface.version: str(interface.ip) for interface in self._config.tunnel.address
        }
        key, carrier, agreement = self._by_udp()
        request = Register(
            address4=wanted.get(4, ""),
            address6=wanted.get(6, ""),
            capabilities=(FRAMES, *self._capabilities()) if key else (FRAMES,),
            wireguard_key=key,
            carrier=carrier,
            agreement=agreement,
        )
        answer = RegisterAnswer.from_bytes(await link.ask(Command.REGISTER, request.to_bytes()))
        if not answer.success:
            raise setback_of(answer.code, answer.message, 0.0, "the server gave no address")
        return answer

    async def _log_in(self, link: ControlLink) -> None:
        if self._device.certificate is not None:
            answer = await self._ask(link, LogIn())
            if answer.success:
                self._device.password_wanted = False
                return
            if answer.code not in (Code.PASSWORD_NEEDED, Code.BAD_CREDENTIALS):
                raise self._refused(answer)
            _log.info("not by certificate alone: {why}", why=answer.message)
        self._device.password_wanted = True  # until it is settled
        try:
            password = self._password()
        except ConfigError as error:
            raise Setback(str(error), _PATIENT_SECONDS, serious=True) from None
        if password is None:
            raise Setback(
                "the server asks for a password and none is configured: set password_file in "
                "[client], or start the client anew at a terminal, where it asks",
                _PATIENT_SECONDS,
                serious=True,
            )
        request = LogIn(
            user=self._config.user,
            password=password,
            device=self._device_name,
            certificate_request=self._device.request(),
        )
        answer = await self._ask(link, request)
        if not answer.success:
            raise self._refused(answer)
        self._device.password_wanted = False
        if answer.certificate:
            try:
                self._device.keep(answer.certificate)
            except PeerError as error:
                raise Setback(str(error), _PATIENT_SECONDS, serious=True) from None

    async def _ask(self, link: ControlLink, request: LogIn) -> LogInAnswer:
        return LogInAnswer.from_bytes(await link.ask(Command.LOG_IN, request.to_bytes()))

    def ended(self, link: ControlLink, reason: Exception) -> None:
        if self._device.certificate is not None and refuses_certificate(reason, link):
            _log.warn("the server does not accept this device's certificate: logging in anew")
            self._device.set_aside()

    def _refused(self, answer: LogInAnswer) -> Setback:
        return setback_of(answer.code, answer.message, answer.retry_after, "log-in refused")


class PlainDialogue:
    """The first generation's: name an address, and be told the one network behind the server."""

    version = PLAIN_VERSION
    tls = False
    has_heartbeats = False
    is_on_file = False

    def __init__(self, address: IPv4Interface) -> None:
        self._address = address

    def verify(self, link: ControlLink) -> None:
        """Nothing can be verified."""

    def ended(self, link: ControlLink, reason: Exception) -> None:
        """We say the same again."""

    async def introduce(self, link: ControlLink) -> RegisterAnswer:
        link.raise_limit()
        data = await link.ask(Command.REGISTER, encode_plain_address(self._address.ip.packed))
        answer = PlainAnswer.from_bytes(data)
        if not answer.success:
            message = answer.message or "no reason given"
            raise Setback(f"the server refused {self._address.ip}: {message}", _AWAY_SECONDS)
        return RegisterAnswer(
            success=True,
            code=Code.OK,
            address4=str(self._address),
            routes=(answer.bypass,) if answer.bypass else (),
            mtu=PLAIN_MTU,
            heartbeat=10.0,
        )


def reason_of(error: ssl.SSLError) -> str:
    """What OpenSSL says went wrong, in its words; empty if it says nothing."""
    reason: str | None = getattr(error, "reason", None)  # what others than OpenSSL make has none
    if reason:
        return reason.replace("_", " ").lower()
    return " ".join(each for each in error.args if isinstance(each, str))


def refuses_certificate(reason: Exception, link: ControlLink) -> bool:
    """Whether *link* ended for *reason* because the server did not take our certificate.

    In TLS 1.3 a server says so after the client's handshake.  Anybody on the way can send an
    alert before that, so only a verified server's counts.
    """
    return (
        link.is_verified
        and not link.is_up
        and isinstance(reason, ssl.SSLError)
        and "alert" in reason_of(reason)
    )


def passing(error: Exception) -> Setback:
    """A trouble that the next try may not have: the network, a restart, a slow server."""
    if isinstance(error, ServerNotVerified):
        return Setback(
            f"{error}; use the link with the pin that the server prints, or set ca_file",
            _PATIENT_SECONDS,
            serious=True,
            stranger=True,
        )
    if isinstance(error, VersionRefused):
        return Setback(f"{error}: one of the two is too old", _PATIENT_SECONDS, serious=True)
    if isinstance(error, ssl.SSLError):
        return Setback(f"TLS failed: {reason_of(error) or 'connection closed'}")
    return Setback(str(error) or type(error).__name__)
