"""The client as a Twisted service: begins, reads its file again, says how it is, and ends.

It owns what a connection stands on, and what it takes from the host and gives back.  What becomes
of the connection is :class:`pyvpn.client.connection.Connection`'s business.
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pyvpn.client.approach import Approach
from pyvpn.client.changes import ANYWHERE, HostChanges, ways_out
from pyvpn.client.connection import Connection
from pyvpn.client.data_channel import DataChannel
from pyvpn.client.device import Device, server_name
from pyvpn.client.dialogue import Dialogue, NativeDialogue, PlainDialogue
from pyvpn.client.interface import TunnelInterface
from pyvpn.client.memory import Memory
from pyvpn.client.outside import this_machine
from pyvpn.client.plain_udp import PlainUdpDialogue
from pyvpn.client.status import log_status
from pyvpn.config import ClientConfig, load_client, read_password
from pyvpn.errors import HostError, PyvpnError
from pyvpn.net.host import Host
from pyvpn.net.process import (
    StateLock,
    end_with_failure,
    own_signals,
    refuse_to_start,
    set_aside_the_past,
)
from pyvpn.net.processor import suites
from pyvpn.net.threads import DaemonThreads
from pyvpn.tunnel.backoff import Backoff
from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Counters

_log = Logger()

UNDO_SECONDS = 1.2


class ClientService(Service):
    """One client of one server.

    Args:
        config: from :func:`pyvpn.config.load_client`.
        typed_password: what a person typed at the start, if the file names none.
        daemonised: twistd has left the terminal, so an error must reach it another way.
    """

    name = "pyvpn client"

    def __init__(
        self,
        config: ClientConfig,
        reactor: Any,
        *,
        typed_password: str | None = None,
        daemonised: bool = False,
    ) -> None:
        self.config = config
        self.reactor = reactor
        self.counters = Counters()
        self.data: DataChannel | None = None
        self.connection: Connection | None = None
        """There is one from :meth:`startService` on."""
        self._typed_password = typed_password
        self._daemonised = daemonised
        self._lock = StateLock(str(config.state_dir))
        self._netlink = DaemonThreads(reactor, 1, "netlink", 100)
        self._backoff = Backoff(config.tunnel.max_backoff, random.SystemRandom().random)
        self._device: Device | None = None
        self._leaving: Deferred[Any] | None = None

    # -- start

    def startService(self) -> None:
        try:
            connection = self._prepare()
        except PyvpnError as error:
            self._lock.release()
            refuse_to_start(error, self._daemonised)
        super().startService()
        self.reactor.callWhenRunning(connection.begin)
        # Who waits for the connection need not wait for that, too.
        self.reactor.callWhenRunning(set_aside_the_past, False)

    def _prepare(self) -> Connection:
        config = self.config
        self._lock.take()
        self._lock.write_pid()
        own_signals(
            self.reactor, stop=self.reactor.stop, reload=self.reload, status=self.log_status
        )
        self.host = Host(str(config.state_dir), "client")
        self._netlink.call(self.host.reconcile)
        self.interface = TunnelInterface(
            self.reactor, config, self.host, self._netlink, self.counters, self._interface_lost
        )
        self._approach = Approach(self.reactor, config)
        self.connection = connection = Connection(
            self.reactor,
            self._approach,
            self.interface,
            self._backoff,
            self.counters,
            self._left,
        )
        if not config.plain:
            self.data = DataChannel(
                self.reactor,
                Transport(config.transport),
                this_machine(self.reactor, config),
                self.interface.router,
                self.interface.session,
                self.counters,
                connection.tell_carrier,
            )
            self.interface.sent = self.data.arm
        connection.dialogue = self._make_dialogue(config)
        self._approach.configure(config, self._device)
        if self.data is not None:
            connection.use_udp(self.data, Memory(config.state_dir, server_name(config)))
        # Now, so that a missing right is said at once and not after the log-in.
        self.interface.open()
        if config.tunnel.fwmark:
            self.host.hold_table(config.tunnel.table)
        self._changes = HostChanges(self.reactor, connection.network_changed, self._ways_out)
        self._changes.begin()
        return connection

    def _make_dialogue(self, config: ClientConfig) -> Dialogue:
        if config.plain:
            _log.warn("protocol = {it}: this tunnel is not encrypted", it=config.protocol)
        if config.protocol == "plain-udp":
            return PlainUdpDialogue(config, self._password)
        if config.protocol == "plain-tcp":
            return PlainDialogue(config.tunnel.address[0])  # type: ignore[arg-type]  # IPv4, checked
        assert self.data is not None
        self._device = Device(config.state_dir, server_name(config))
        name = config.device_name or socket.gethostname()
        data = self.data
        return NativeDialogue(
            config,
            self._device,
            self._password,
            name,
            data.introduction,
            lambda: data.capabilities,
        )

    def _password(self) -> str | None:
        return read_password(self.config) or self._typed_password

    # -- inside

    def _ways_out(self) -> dict[str, str]:
        places = () if self.data is None else self.data.places
        return ways_out((*ANYWHERE, *places), self.config.tunnel.fwmark)

    def _interface_lost(self, why: str) -> None:
        end_with_failure(self.reactor, why)

    # -- signals

    def reload(self) -> None:
        """SIGHUP: read the file again, judge by it, and connect at once."""
        try:
            fresh = load_client(self.config.path)
            refuse_changes(self.config, fresh)
            dialogue = self._make_dialogue(fresh)
        except PyvpnError as error:
            _log.error("configuration not applied, nothing was changed: {error}", error=str(error))
            return
        connection = self.connection
        assert connection is not None
        if connection.alone is not None and server_name(fresh) != server_name(self.config):
            connection.alone.use(Memory(fresh.state_dir, server_name(fresh)))
            if self.data is not None:
                self.data.ended("another server is configured")
        self.config, connection.dialogue = fresh, dialogue
        self._approach.configure(fresh, self._device)
        self.interface.configure(fresh)
        if self.data is not None:
            self.data.wireguard.suites = suites(fresh.tunnel.cipher)
        self._backoff.most = fresh.tunnel.max_backoff
        _log.info("configuration read again: connecting anew")
        connection.anew("configuration read again")

    def log_status(self) -> None:
        """SIGUSR2: write the state of things to the log."""
        assert self.connection is not None
        log_status(self.connection, self.interface, self.counters)

    # -- stop

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        if self.connection is not None:
            self.connection.stop()
        return self._leaving

    def _left(self, farewell: float) -> None:
        self._leaving = Deferred.fromCoroutine(self._undo(farewell))

    async def _undo(self, farewell: float) -> None:
        if farewell:
            await deferLater(self.reactor, farewell, lambda: None)
        self._changes.end()
        if self.connection is not None and self.connection.alone is not None:
            self.connection.alone.stop()
        if self.data is not None:
            self.data.close()
        self.interface.close()
        work = self._netlink.run(self.host.undo).addTimeout(UNDO_SECONDS, self.reactor)
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a time-out; the next start mends it
            _log.warn("not everything was undone in time, the next start will: {e}", e=str(error))
        self._netlink.stop()
        self._lock.release()


def refuse_changes(before: ClientConfig, fresh: ClientConfig) -> None:
    """Raise HostError if *fresh* differs in what cannot change while the client runs."""
    for where, same in (
        ("[client] state_dir", fresh.state_dir == before.state_dir),
        ("[client] protocol", fresh.protocol == before.protocol),
        ("[client] transport", fresh.transport == before.transport),
        ("[tunnel] device", fresh.tunnel.device == before.tunnel.device),
        ("[tunnel] table", fresh.tunnel.table == before.tunnel.table),
        ("[tunnel] fwmark", fresh.tunnel.fwmark == before.tunnel.fwmark),
    ):
        if not same:
            raise HostError(f"{where} cannot change while the client runs")
