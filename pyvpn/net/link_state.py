"""What becomes of a TUN's interface: its MTU, up or down, its name, wherever it is moved.

Others set these (``ip link``), also after they have moved the interface to another network
namespace, as one does to give a container nothing but the tunnel.  We stay where we are.  So:

* What the interface is called and where it is, its descriptor knows (TUNGETIFF, TUNGETDEVNETNS).
* An interface elsewhere is looked at from here, by the number that our namespace has for its
  namespace.  The other way, to enter it (``setns``), takes CAP_SYS_ADMIN, which the units do not
  grant, and a socket in it would keep it, and so the interface, alive after its deletion.
* That something has changed is heard by netlink; from other namespaces only with
  CAP_NET_BROADCAST, which root has.  Who has not finds out within a second.

pyroute2 is not used, for the reasons given in :mod:`pyvpn.net.rtnetlink`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import Interface, implementer

from pyvpn.errors import HostError, Misuse
from pyvpn.net.rtnetlink import LINK_NEWS, Link, News, NewsReactor, Questions

POLL_SECONDS = 1.0

_TUNGETIFF = 0x800454D2
_TUNGETDEVNETNS = 0x54E3
_REQUEST_SIZE = 40  # bytes of struct ifreq, the name in front
_NAME_SIZE = 16


class ILinkSystem(Interface):
    """The system calls it takes.  All raise OSError, as the kernel would."""

    def open() -> None:
        """Get ready, in the network namespace we are in."""

    def look(fd: int) -> tuple[Link, bool]:
        """Return what the interface of the TUN *fd* is now, and whether it is in our namespace."""

    def close() -> None:
        """Undo `open`."""

    def news(reactor: NewsReactor, heard: Callable[[], None]) -> News:
        """Make what calls *heard* when there may be a change."""


@implementer(ILinkSystem)
class KernelLinkSystem:
    """The real one."""

    def __init__(self) -> None:
        self._questions: Questions | None = None
        self._home = (0, 0)

    def open(self) -> None:
        self.close()
        found = os.stat("/proc/thread-self/ns/net")
        self._home = (found.st_dev, found.st_ino)
        self._questions = Questions()

    def look(self, fd: int) -> tuple[Link, bool]:
        assert self._questions is not None
        answer: bytes = fcntl.ioctl(fd, _TUNGETIFF, bytes(_REQUEST_SIZE))
        name = os.fsdecode(answer[:_NAME_SIZE].rstrip(b"\0"))
        try:
            # Without a third argument, which would be a pointer: the namespace, as a descriptor.
            there = fcntl.ioctl(fd, _TUNGETDEVNETNS)
        except OSError:  # a kernel before 5.2
            return self._questions.link(name), True
        try:
            found = os.fstat(there)
            if (found.st_dev, found.st_ino) == self._home:
                return self._questions.link(name), True
            number = self._questions.number_of_namespace(there)
        finally:
            os.close(there)  # or the namespace would outlive its deletion
        return self._questions.link(name, number), False

    def close(self) -> None:
        if self._questions is not None:
            self._questions.close()
            self._questions = None

    @staticmethod
    def news(reactor: NewsReactor, heard: Callable[[], None]) -> News:
        return News(reactor, LINK_NEWS, heard)


class LinkReactor(NewsReactor, Protocol):
    """What we ask of the reactor."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object
    ) -> IDelayedCall: ...


class LinkWatch:
    """Watches the interface of one TUN.

    That the interface is gone is the TUN's to tell; here it just does not change any more.

    Args:
        reactor: where we listen and wait.
        descriptor: the TUN's, or -1 while it has none: :meth:`pyvpn.net.tun.Tun.fileno`.
        changed: takes what the interface is now, each time it is something else.
        system: the kernel, unless a test has another.
    """

    def __init__(
        self,
        reactor: LinkReactor,
        descriptor: Callable[[], int],
        changed: Callable[[Link], None],
        system: ILinkSystem | None = None,
    ) -> None:
        self.now: Link | None = None
        """As last seen; None before :meth:`start`."""
        self._reactor = reactor
        self._descriptor = descriptor
        self._changed = changed
        self._system: ILinkSystem = KernelLinkSystem() if system is None else system
        self._news = self._system.news(reactor, self.look)
        self._at_home = True
        self._poll: IDelayedCall | None = None
        self._told_of_bug = False

    _log = Logger()

    def start(self) -> Link:
        """Begin to watch; return what the interface is now, which *changed* is not told.

        Raises:
            HostError: the kernel does not let us.
            Misuse: the TUN is not open.
        """
        if self._descriptor() == -1:
            raise Misuse("a TUN that is not open has no interface to watch")
        try:
            self._system.open()
            self._news.open()
            # After that: a change in between is heard of.
            self.now, at_home = self._system.look(self._descriptor())
        except OSError as error:
            self.stop()
            raise HostError(f"cannot watch the tunnel's interface: {error.strerror}") from error
        self._settle(at_home)
        self._wait()
        return self.now

    def stop(self) -> None:
        """Watch no more; may be stopped, or started, again."""
        self._news.close()
        self._system.close()
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        self._at_home = True

    def look(self) -> None:
        """Tell of a change, if there is one; called when there may be."""
        fd = self._descriptor()
        if fd == -1:  # closed, perhaps to be opened again
            return
        try:
            found, at_home = self._system.look(fd)
        except OSError:  # gone, or on its way to elsewhere: then it will be there the next time
            return
        self._settle(at_home)
        if found != self.now:
            self.now = found
            try:
                self._changed(found)
            except Exception:  # noqa: BLE001 - raised into the reactor, a bug would end the watch
                if not self._told_of_bug:
                    self._told_of_bug = True
                    self._log.failure("a change of {link} was lost to a bug of ours", link=found)

    def _settle(self, at_home: bool) -> None:
        if at_home != self._at_home:
            self._at_home = at_home
            with suppress(OSError):  # no right to it: we look every second
                self._news.listen_everywhere(not at_home)

    def _wait(self) -> None:
        self._poll = self._reactor.callLater(POLL_SECONDS, self._look_and_wait)

    def _look_and_wait(self) -> None:
        self._wait()
        self.look()
