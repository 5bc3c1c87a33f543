"""Looks whether TCP works outside the tunnel again, beside the connection that runs through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from pyvpn.client.machine import Link
from pyvpn.net.control import ControlLink


class Scouts:
    """The links of the attempt that is under way; several, as addresses are tried side by side."""

    def __init__(self, make_link: Callable[[], Link]) -> None:
        self._make_link = make_link
        self._links: list[ControlLink] = []
        self._scouting: Deferred[Any] | None = None

    @property
    def is_looking(self) -> bool:
        """Whether an attempt is under way."""
        return self._scouting is not None

    def begin(self, scouting: Deferred[Any]) -> None:
        """Take an attempt that has been begun; what it comes to is seen by its links."""
        self._scouting = scouting
        scouting.addErrback(lambda failure: None)  # as expected
        scouting.addBoth(self._over)

    def make(self) -> Link:
        """Return a new link, which is one of ours."""
        link = self._make_link()
        assert isinstance(link, ControlLink)
        self._links.append(link)
        return link

    def __contains__(self, link: object) -> bool:
        """Whether *link* is one of ours."""
        return link in self._links

    def remove(self, link: ControlLink) -> None:
        """Know *link* no more."""
        self._links.remove(link)

    def drop(self) -> None:
        """Look no more."""
        scouting, self._scouting = self._scouting, None
        if scouting is not None:
            scouting.cancel()
        links, self._links = self._links, []
        for link in links:
            if link.transport is not None:
                link.abort()

    def _over(self, _: object) -> None:
        self._scouting = None
