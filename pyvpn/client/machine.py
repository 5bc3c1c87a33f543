"""The client's states, and nothing else: what is done in them is the connection's business.

::

    idle --begin--> connecting --secured--> introducing --accepted--> configuring --ready--> up
                        ^             ^                                    ^                 |
                        |             |                                    +-----renewed-----+
                        |             +---------------------------------------better---------+
                        |                                                                    |
                        |          every state but idle and stopped --failed--> waiting <----+
                        +------------------------------retry----------------------+
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from automat import TypeMachineBuilder

from pyvpn.tunnel.session import Carrier
from pyvpn.wire.messages import RegisterAnswer


class Setback(Exception):
    """Why there is no tunnel now, and for how long the server asks not to be asked again."""

    def __init__(
        self,
        why: str,
        seconds: float = 0.0,
        *,
        serious: bool = False,
        final: bool = False,
        stranger: bool = False,
    ) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.serious = serious
        """A person must do something: said as an error, not as a passing trouble."""
        self.final = final
        """The server itself has ended the session, so its tunnel is over, too."""
        self.stranger = stranger
        """Who answered was not our server, which may still be reached another way."""


class Link(Carrier, Protocol):
    """A connection to the server, of whichever protocol."""

    transport: Any
    is_up: bool

    def expect_within(self, seconds: float | None, what: str = "") -> None:
        """Give up unless called again before so long; None: wait for nothing."""

    def close(self) -> None:
        """End it in good order."""

    def abort(self) -> None:
        """End it now."""


class Deeds(Protocol):
    """What is done when a state is entered: by the client's connection."""

    def connect(self) -> None:
        """Look the server up, try its addresses, agree on TLS and version."""

    def introduce(self, link: Link) -> None:
        """Verify the server, log in, register."""

    def configure(self, link: Link, offer: RegisterAnswer) -> None:
        """Bring the interface into the state that was agreed."""

    def carry(self) -> None:
        """Packets flow; heartbeats begin."""

    def exchange(self, link: Link) -> None:
        """Go on with *link* instead of the connection that we have, from the log-in on."""

    def wait(self, setback: Setback) -> None:
        """Drop the connection, keep the interface, set the alarm for the next try."""

    def leave(self) -> None:
        """Say goodbye and drop everything; nothing follows."""


class Course(Protocol):
    """What can happen to a client."""

    def begin(self) -> None:
        """The service starts."""

    def secured(self, link: Link) -> None:
        """The transport is up and both ends speak the same version."""

    def accepted(self, link: Link, offer: RegisterAnswer) -> None:
        """The server took us in."""

    def renewed(self, link: Link, offer: RegisterAnswer) -> None:
        """It took us in once more, on the same connection."""

    def ready(self) -> None:
        """The interface has its addresses and routes."""

    def better(self, link: Link) -> None:
        """A connection outside the tunnel stands, while the one that we have runs through it."""

    def failed(self, setback: Setback) -> None:
        """Whatever was under way, or up, is no more."""

    def retry(self) -> None:
        """The pause is over, or something happened that makes waiting pointless."""

    def stop(self) -> None:
        """The service stops."""


def _build() -> Callable[[Deeds], Course]:
    builder = TypeMachineBuilder(Course, Deeds)  # type: ignore[type-abstract]  # Automat's way
    idle = builder.state("idle")
    connecting = builder.state("connecting")
    introducing = builder.state("introducing")
    configuring = builder.state("configuring")
    up = builder.state("up")
    waiting = builder.state("waiting")
    stopped = builder.state("stopped")

    @idle.upon(Course.begin).to(connecting)
    def begin(course: Course, deeds: Deeds) -> None:
        deeds.connect()

    @connecting.upon(Course.secured).to(introducing)
    def secured(course: Course, deeds: Deeds, link: Link) -> None:
        deeds.introduce(link)

    @introducing.upon(Course.accepted).to(configuring)
    def accepted(course: Course, deeds: Deeds, link: Link, offer: RegisterAnswer) -> None:
        deeds.configure(link, offer)

    @up.upon(Course.renewed).to(configuring)
    def renewed(course: Course, deeds: Deeds, link: Link, offer: RegisterAnswer) -> None:
        deeds.configure(link, offer)

    @up.upon(Course.better).to(introducing)
    def better(course: Course, deeds: Deeds, link: Link) -> None:
        deeds.exchange(link)

    @configuring.upon(Course.ready).to(up)
    def ready(course: Course, deeds: Deeds) -> None:
        deeds.carry()

    @waiting.upon(Course.retry).to(connecting)
    def retry(course: Course, deeds: Deeds) -> None:
        deeds.connect()

    for state in (connecting, introducing, configuring, up):

        @state.upon(Course.failed).to(waiting)
        def failed(course: Course, deeds: Deeds, setback: Setback) -> None:
            deeds.wait(setback)

    for state in (connecting, introducing, configuring, up, waiting):

        @state.upon(Course.stop).to(stopped)
        def stop(course: Course, deeds: Deeds) -> None:
            deeds.leave()

    # What comes too late, from a connection that is being dropped, changes nothing.
    for state in (idle, stopped):
        state.upon(Course.stop).to(stopped).returns(None)
    for state in (idle, waiting, stopped):
        state.upon(Course.failed).loop().returns(None)
    for state in (idle, connecting, introducing, configuring, up, stopped):
        state.upon(Course.retry).loop().returns(None)
    for state in (idle, introducing, configuring, up, waiting, stopped):
        state.upon(Course.secured).loop().returns(None)
    for state in (idle, connecting, configuring, up, waiting, stopped):
        state.upon(Course.accepted).loop().returns(None)
    for state in (idle, connecting, introducing, configuring, waiting, stopped):
        state.upon(Course.renewed).loop().returns(None)
    for state in (idle, connecting, introducing, configuring, waiting, stopped):
        state.upon(Course.better).loop().returns(None)
    for state in (idle, connecting, introducing, up, waiting, stopped):
        state.upon(Course.ready).loop().returns(None)
    for state in (connecting, introducing, configuring, up, waiting, stopped):
        state.upon(Course.begin).loop().returns(None)
    return builder.build()


make_course = _build()
"""Returns a new machine, in state idle, that acts on the given :class:`Deeds`."""
