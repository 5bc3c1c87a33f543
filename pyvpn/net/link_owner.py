"""What a control link tells the one it works for, and why it ends."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred

from pyvpn.errors import PeerError


class TransactionTimeout(PeerError):
    """The peer did not answer a question in time."""


class LinkClosed(PeerError):
    """The connection ended before the answer came."""


class VersionRefused(PeerError):
    """The server does not speak our version of the protocol."""


class LinkOwner(Protocol):
    """What a :class:`~pyvpn.net.control.ControlLink` tells the one it works for.

    *link* is that link.  It is not named as a type here: the link knows its owner's side, and
    two files that need each other are one.
    """

    def connected(self, link: Any) -> None:
        """The TCP connection is there; nothing has been proved."""

    def ready(self, link: Any) -> None:
        """TLS (where there is TLS) is up and the versions agree: frames may flow."""

    def heard(self, link: Any) -> None:
        """Something arrived; called once per read, after its content was delivered."""

    def question(self, link: Any, command: int, data: bytes) -> bytes | Deferred[bytes] | None:
        """The peer wants an answer; None leaves it without one."""

    def statement(self, link: Any, command: int, data: bytes) -> None:
        """The peer says something that wants no answer."""

    def packets(self, link: Any, packets: list[bytes]) -> None:
        """Inner packets arrived."""

    def lost(self, link: Any, reason: Exception) -> None:
        """The connection is over; called once, and last."""
