"""The control link on the real reactor: real sockets, real TLS, real name look-up.

Everything else about it is tested in memory; here stands what only a kernel can show.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from pyvpn.config import Endpoint
from pyvpn.net.connect import MarkedReactor
from pyvpn.net.control import ControlLink
from pyvpn.net.tls import ServerIdentity, check_pin, client_options, load_or_make_identity
from pyvpn.net.tls import server_options as options_of
from pyvpn.net.tls_transport import connect_by_tls
from pyvpn.server.listen import Door, LinkFactory, Relays, listen_everywhere
from pyvpn.testing import sandbox
from pyvpn.wire.command import VERSION, Command

MARK = 0x51820


class Echo:
    """Answers every question of any number of links with its own data."""

    def connected(self, link: ControlLink) -> None: ...

    def ready(self, link: ControlLink) -> None: ...

    def heard(self, link: ControlLink) -> None: ...

    def question(self, link: ControlLink, command: int, data: bytes) -> bytes:
        return data

    def statement(self, link: ControlLink, command: int, data: bytes) -> None: ...

    def packets(self, link: ControlLink, packets: list[bytes]) -> None: ...

    def lost(self, link: ControlLink, reason: Exception) -> None: ...


class Owner(Echo):
    """Has one link, and says when it came up and when it went."""

    def __init__(self) -> None:
        self.up: Deferred[ControlLink] = Deferred()
        self.over: Deferred[Exception] = Deferred()

    def ready(self, link: ControlLink) -> None:
        self.up.callback(link)

    def lost(self, link: ControlLink, reason: Exception) -> None:
        self.over.callback(reason)


@pytest.fixture
def identity(tmp_path: Path) -> ServerIdentity:
    return load_or_make_identity(tmp_path, time.time())


@pytest_twisted.async_yield_fixture
async def port(in_sandbox: None, identity: ServerIdentity) -> AsyncIterator[int]:
    """A listening server on every address; its port."""
    links = LinkFactory(Echo(), reactor, version=VERSION, tls=True)
    door = Door(links, options_of(identity), Relays())
    listening = listen_everywhere(reactor, [Endpoint("", 0)], door)
    yield listening[0].getHost().port
    for each in listening:
        await each.stopListening()


async def connect(port: int, pin: str, host: str) -> tuple[ControlLink, Owner]:
    """A client's link to *host*, made as the client makes it."""
    owner = Owner()

    def verify(link: ControlLink) -> None:
        if not check_pin(link.transport, pin):
            raise ValueError("another pin")

    class Links(Factory[Any]):
        noisy = False

        def buildProtocol(self, addr: object) -> ControlLink:
            return ControlLink(owner, reactor, version=VERSION, initiator=True, verify=verify)

    endpoint = HostnameEndpoint(MarkedReactor(reactor, MARK), host, port, timeout=5)
    options = client_options(host, pin, None, None, None)
    link = await connect_by_tls(options, endpoint, Links())
    return link, owner


@pytest_twisted.ensureDeferred
async def test_question_is_answered(port: int, identity: ServerIdentity) -> None:
    """A question travels through real TLS and comes back; the socket is marked and prompt."""
    link, owner = await connect(port, identity.pin, "127.0.0.1")
    await owner.up.addTimeout(5, reactor)
    answer = await link.ask(Command.HEARTBEAT, b"are you there?")
    handle = link.transport.socket

    assert answer == b"are you there?"
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == MARK
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == link.queue_bytes
    link.abort()
    await owner.over.addTimeout(5, reactor)


@pytest_twisted.ensureDeferred
async def test_wrong_pin_hears_nothing(port: int, identity: ServerIdentity) -> None:
    """To a server with another key the client says nothing and goes."""
    other = identity.pin[:-4] + ("AAAA" if identity.pin[-4:] != "AAAA" else "BBBB")
    link, owner = await connect(port, other, "127.0.0.1")
    reason = await owner.over.addTimeout(5, reactor)

    assert str(reason) == "another pin"
    assert not link.is_up


@pytest_twisted.ensureDeferred
async def test_every_address_is_tried(port: int, identity: ServerIdentity) -> None:
    """A name whose first address is dead leads to the second."""
    sandbox.NAMES.write_text(
        f"{sandbox.NAMES.read_text()}\n::2 twofold.test\n127.0.0.1 twofold.test\n"
    )
    link, owner = await connect(port, identity.pin, "twofold.test")
    await owner.up.addTimeout(8, reactor)

    assert link.transport.getPeer().host == "127.0.0.1"
    link.abort()
    await owner.over.addTimeout(5, reactor)


@pytest_twisted.ensureDeferred
async def test_ipv4_client_of_a_dual_stack_port(port: int, identity: ServerIdentity) -> None:
    """One socket takes IPv6 and IPv4 clients alike."""
    for host in ("127.0.0.1", "::1"):
        link, owner = await connect(port, identity.pin, host)
        await owner.up.addTimeout(5, reactor)
        assert await link.ask(Command.HEARTBEAT, host.encode()) == host.encode()
        link.abort()
        await owner.over.addTimeout(5, reactor)
