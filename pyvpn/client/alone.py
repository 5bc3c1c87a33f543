"""By UDP alone: what a device on file does while TCP does not lead to the server.

The last registration is on disk.  When the control connection cannot be had, a WireGuard
handshake is begun with what it says, and when packets go by UDP the control connection is made
through the tunnel, to the server's own address there.  One outside is better, for packets may
ride it when UDP stops: so it is looked for all the while, and taken as soon as there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pyvpn.client.data_channel import DataChannel
from pyvpn.errors import HostError, PeerError
from pyvpn.tunnel.choice import Transport
from pyvpn.wire.messages import RegisterAnswer, Settings

_log = Logger()

PATIENCE_SECONDS = 2.0
"""So long TCP is tried before UDP is begun with, too."""
GIVE_UP_SECONDS = 4.0
"""So long it is tried outside when packets go by UDP already; then through the tunnel."""
LOOK_SECONDS = 1.0
FIRST_SCOUT, LAST_SCOUT = 10.0, 60.0
"""The pauses between two looks whether TCP works outside double up to this."""


class Deeds(Protocol):
    """What is to be done for it."""

    def agree(self, offer: RegisterAnswer) -> Deferred[int]:
        """Bring the interface into the state that *offer* says; fires with the MTU."""

    def begin_alone(self, offer: RegisterAnswer, mtu: int) -> None:
        """Have the data channel come by itself."""

    def give_up(self) -> bool:
        """Try outside no longer: fail, and try again at once.  False: the server does answer."""

    def scout(self) -> None:
        """Try outside, beside the connection that there is."""


class Memory(Protocol):
    """What we use of :class:`pyvpn.client.memory.Memory`."""

    def recall(self) -> RegisterAnswer | None:
        """What was kept; None: nothing that can be used."""

    def keep(self, answer: RegisterAnswer) -> None:
        """Keep *answer* instead of what was kept before."""


class Alone:
    """The rules for one client.

    Args:
        memory: the last registration.
    """

    def __init__(self, reactor: Any, deeds: Deeds, data: DataChannel, memory: Memory) -> None:
        self._reactor = reactor
        self._deeds = deeds
        self._data = data
        self._memory = memory
        self._offer: RegisterAnswer | None = None
        self._alarm: IDelayedCall | None = None
        self._began = 0.0
        self._begun = False
        self._inside_next = False
        self._gave_up = False
        self._tried = False  # to come, since TCP is tried
        self._stopped = False
        self._pause = FIRST_SCOUT

    def use(self, memory: Memory) -> None:
        """Keep what there is to keep elsewhere: it is another server from now on, perhaps."""
        self._memory, self._offer = memory, None

    # -- what happens to the connection

    def place(self) -> tuple[str, int] | None:
        """Where to connect through the tunnel now; None: it is outside's turn."""
        turn, self._inside_next = self._inside_next, False
        return self._inside() if turn and self._data.choice.is_sure else None

    def trying(self) -> None:
        """A connection outside is being tried from now on."""
        self._tried = False
        self._began = self._reactor.seconds()
        at_once = self._data.transport == Transport.UDP
        self._arm(0.0 if at_once else PATIENCE_SECONDS, self._look)

    def arrived(self) -> None:
        """The server answers: what it said earlier is of no use any more."""
        self._drop_alarm()

    def lost(self) -> None:
        """The connection that there was is no more: outside is tried first."""
        self._drop_alarm()
        self._inside_next = False
        if self._offer is not None:
            self._keep(self._offer)  # the server may be elsewhere than it was then

    def failed(self, is_inside: bool) -> None:
        """A try has come to nothing."""
        self._drop_alarm()
        gave_up, self._gave_up = self._gave_up, False
        self._inside_next = not is_inside
        if not is_inside:
            self._come()
            if not gave_up:
                self._data.doubted()  # it may be the server that is gone, and not TCP

    def refused(self) -> None:
        """The server itself does not want us: not by any other way either, until it does."""
        self._drop_alarm()
        self._inside_next = False

    def registered(self, offer: RegisterAnswer, is_inside: bool) -> None:
        """The server has taken us in."""
        self._drop_alarm()
        self._inside_next = False
        self._keep(offer)
        if is_inside:
            self._pause = FIRST_SCOUT
            self._scout_later()

    def changed(self, settings: Settings) -> None:
        """The server has changed what it offers."""
        offer = self._offer
        if offer is not None:
            self._keep(
                replace(
                    offer,
                    routes=settings.routes,
                    dns=settings.dns,
                    mtu=settings.mtu or offer.mtu,
                    heartbeat=settings.heartbeat or offer.heartbeat,
                    expiry=settings.expiry or offer.expiry,
                )
            )

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True
        self._drop_alarm()

    # -- inside

    def _keep(self, offer: RegisterAnswer) -> None:
        self._offer = offer
        kept = self._data.worth_keeping(offer)
        if kept.wireguard_key and kept.wireguard_endpoints:
            self._memory.keep(kept)

    def _come(self) -> None:
        """Begin by UDP, unless that is under way."""
        if self._begun or self._data.choice.has_peer or self._data.transport == Transport.TCP:
            return
        if self._tried:  # and could not: it will not be otherwise a second later
            return
        self._tried = True
        offer = self._memory.recall()
        if offer is None or not offer.success or not offer.wireguard_endpoints:
            return
        self._begun = True
        agreeing = self._deeds.agree(offer)
        agreeing.addCallback(self._agreed, offer)
        agreeing.addErrback(self._not_agreed)
        agreeing.addBoth(self._come_over)

    def _come_over(self, _: object) -> None:
        self._begun = False

    def _agreed(self, mtu: int, offer: RegisterAnswer) -> None:
        if not self._data.choice.has_peer and not self._stopped:
            self._offer = offer
            _log.info("the server is not reached by TCP: trying UDP alone")
            self._deeds.begin_alone(offer, mtu)

    def _not_agreed(self, failure: Any) -> None:
        failure.trap(PeerError, HostError)
        _log.warn("not by UDP alone: {why}", why=failure.getErrorMessage())

    def _look(self) -> None:
        """The connection is not there yet."""
        self._come()
        waited = self._reactor.seconds() - self._began
        if self._inside() and self._data.choice.is_sure and waited >= GIVE_UP_SECONDS:
            self._gave_up = True
            if self._deeds.give_up():
                return
            self._gave_up = False
        self._arm(LOOK_SECONDS, self._look)

    def _inside(self) -> tuple[str, int] | None:
        """Where the server takes control connections through the tunnel; None: nowhere."""
        offer = self._offer
        if offer is None or not offer.tunnel_port:
            return None
        server = offer.server4 or offer.server6
        return (server.partition("/")[0], offer.tunnel_port) if server else None

    def _scout_later(self) -> None:
        self._arm(self._pause, self._scout)
        self._pause = min(2 * self._pause, LAST_SCOUT)

    def _scout(self) -> None:
        self._scout_later()
        self._deeds.scout()

    def _arm(self, seconds: float, what: Callable[[], None]) -> None:
        self._drop_alarm()
        self._alarm = self._reactor.callLater(seconds, what)

    def _drop_alarm(self) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
