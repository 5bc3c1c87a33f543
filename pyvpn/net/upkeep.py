"""Keeps a TUN, and what hangs on it, the way it was meant, whatever others do to them.

Somebody may delete the device, set it down and up again (which loses its routes and IPv6
addresses), or flush routes, rules and nft tables.  The TUN notices its deletion, and the kernel
tells of changed interfaces; the rest does not announce itself reliably, so everything is looked
at every few seconds besides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pyvpn.errors import HostError, PyvpnError
from pyvpn.net.rtnetlink import LINK_NEWS, News
from pyvpn.net.threads import DaemonThreads
from pyvpn.net.tun import Tun

_log = Logger()

CHECK_SECONDS = 3.0
NEWS_SECONDS = 0.5
"""After news everything is looked at once in so long: with containers they come in swarms."""
REPAIR_TRIES = 8
REPAIR_PAUSE = 0.25
"""A device that is deleted again while it is being made gets two seconds in all."""


class Upkeep:
    """See the module.

    Args:
        netlink: the one thread in which the host is changed.
        make_so: brings addresses, routes and the rest into the wanted state, changing only what
            differs; called in the netlink thread.
        lost: called with a reason when the device was deleted and cannot be had again.
    """

    tun: Tun
    """To be set before anything else is called; told to call :meth:`deleted`."""

    def __init__(
        self,
        reactor: Any,
        netlink: DaemonThreads,
        make_so: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.is_open = False
        self._reactor = reactor
        self._netlink = netlink
        self._make_so = make_so
        self._lost = lost
        self._repairing = False
        self._checking: LoopingCall | None = None
        self._news = News(reactor, LINK_NEWS, self._heard)
        self._soon: IDelayedCall | None = None
        self._complaint = ""

    def open(self) -> None:
        """Make the device if it is not there.

        Raises:
            HostError: the kernel does not give it.
        """
        if not self.is_open:
            self.tun.open()
            self.is_open = True

    def begin(self) -> None:
        """Hand out packets, and look after everything from now on; repeatable."""
        if self.is_open:
            self.tun.start()
        if self._checking is None:
            self._checking = LoopingCall(self._check)
            self._checking.clock = self._reactor
            self._checking.start(CHECK_SECONDS, now=False)
            with suppress(OSError):  # then it takes a little longer
                self._news.open()

    def close(self) -> None:
        """Give the device back, and with it its addresses and routes."""
        if self._checking is not None:
            self._checking.stop()
            self._checking = None
        self._news.close()
        if self._soon is not None and self._soon.active():
            self._soon.cancel()
        self.is_open = False
        self.tun.close()

    def deleted(self, why: str) -> None:
        """The TUN says that it is gone."""
        self.is_open = False
        if self._checking is not None and not self._repairing:
            _log.warn("{why}: making it anew", why=why)
            self._repairing = True
            repair = Deferred.fromCoroutine(self._repair())
            repair.addErrback(lambda failure: _log.failure("the repair failed", failure))

    async def _repair(self) -> None:
        problem = ""
        try:
            for _ in range(REPAIR_TRIES):
                try:
                    self.open()
                    await self._netlink.run(self._make_so)
                except CancelledError:
                    return
                except PyvpnError as error:
                    problem = str(error)
                    self.is_open = False
                    self.tun.close()
                if self._checking is None:  # closed meanwhile
                    return
                if self.is_open:
                    self.tun.start()
                    return
                await deferLater(self._reactor, REPAIR_PAUSE)
        finally:
            self._repairing = False
        self._lost(problem or f"{self.tun.name} is deleted again and again")

    def _heard(self) -> None:
        if self._soon is None or not self._soon.active():
            self._soon = self._reactor.callLater(NEWS_SECONDS, self._check)

    def _check(self) -> Deferred[None] | None:
        if self._repairing or not self.is_open:
            return None
        return self._netlink.run(self._make_so).addCallbacks(self._fine, self._not_fine)

    def _fine(self, _: None) -> None:
        self._complaint = ""

    def _not_fine(self, failure: Failure) -> None:
        # A device deleted in this moment is the TUN's to notice; all else is said once.
        if failure.check(HostError):
            if failure.getErrorMessage() != self._complaint:
                self._complaint = failure.getErrorMessage()
                _log.warn("{why}", why=self._complaint)
        elif not failure.check(PyvpnError, CancelledError):
            _log.failure("the periodic check failed", failure)
