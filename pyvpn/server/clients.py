"""The server's side of the control channel: log-in, registration, goodbye.

A connection climbs three steps, and each has a time limit: TLS and version (10 s), log-in
(20 s), registration (20 s).  Before log-in nothing but log-in is answered; before registration
no packet passes.  The *session* is the device's: a new connection of the same device takes it
over, and whatever the old one still says changes nothing.

(A long file: every rule of who may take whose place is between two of these steps.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger

from pyvpn.errors import HostError, PeerError
from pyvpn.net.control import ControlLink
from pyvpn.net.threads import Busy, DaemonThreads
from pyvpn.server.grants import Grants
from pyvpn.server.login import LogIns
from pyvpn.server.natives import Natives
from pyvpn.server.terms import Terms
from pyvpn.server.visit import Statistics, Visit
from pyvpn.store.records import Device, Gone, User
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.leases import Lease, Leases, PoolEmpty
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import Command
from pyvpn.wire.framed import CAPABILITY
from pyvpn.wire.messages import Answer, ChosenCarrier, Code, LogInAnswer, Notice, Register
from pyvpn.wire.native import LEAST_MTU
from pyvpn.wire.rebuild import SuperPacket

_log = Logger()

SECURE_SECONDS = 10.0
LOG_IN_SECONDS = 20.0
REGISTER_SECONDS = 20.0
REPLACED_SECONDS = 60.0
KICKED_SECONDS = 60.0
"""How long a client that was replaced or kicked is asked to stay away."""

_RETURNS = 2
"""A laptop may well go from one network to another and back; one that does so twice while the old
connection is still there is probably two."""

_CARRIERS = ("tcp", "udp")


class Clients:
    """Everybody who is connected, and the rules by which one comes to be.

    Implements :class:`pyvpn.net.link_owner.LinkOwner`.

    Args:
        now: CLOCK_BOOTTIME seconds.
        unix: wall clock seconds, for what is written to disk.
        source_of: the packed address of a link's far end, or None behind a trusted relay, and
            its spelling for people.
        storage: the one thread that *store* is used from.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        unix: Callable[[], float] = time.time,
        source_of: Callable[[ControlLink], tuple[bytes | None, str]],
        log_ins: LogIns,
        statistics: Statistics,
        store: Store,
        storage: DaemonThreads,
        leases: Leases,
        router: Router,
        terms: Terms,
        admission: Admission,
        counters: Counters,
    ) -> None:
        self.terms = terms
        self.admission = admission
        self.sessions: dict[int, Session] = {}
        self.natives: Natives | None = None
        """How they come by UDP, too; None: they do not."""
        self.statistics = statistics
        self._now = now
        self._unix = unix
        self._source_of = source_of
        self._log_ins = log_ins
        self._store = store
        self._storage = storage
        self._grants = Grants(leases, store, storage, unix)
        self._router = router
        self._counters = counters
        self._visits: dict[ControlLink, Visit] = {}
        self._uncut: set[ControlLink] = set()
        self._connections = 0  # since we began
        # By whom it was had before, and how often it came back.
        self._replaced: dict[Session, tuple[str, int]] = {}
        self._owners: dict[int, User] = {}  # by device: as whom its session logged in
        self._reachable = terms.reachable()
        self._registering = DeferredLock()  # one grant at a time: committed before the next

    # -- LinkOwner

    def connected(self, link: ControlLink) -> None:
        source, place = self._source_of(link)
        self._connections += 1
        self._visits[link] = Visit(source, place, self._connections)
        link.expect_within(SECURE_SECONDS, "TLS handshake")
        self._admit(link, source)

    def _admit(self, link: ControlLink, source: bytes | None) -> None:
        victim = self.admission.admit(link, source)
        if isinstance(victim, ControlLink):
            victim.abort(PeerError("too many connections that have not logged in"))

    def ready(self, link: ControlLink) -> None:
        visit = self._visits[link]
        before = visit.source
        visit.source, visit.place = self._source_of(link)
        link.expect_within(LOG_IN_SECONDS, "log-in")
        if visit.source != before and self.admission.done(link):
            # A relay's PROXY header has been read by now: it counts where it really comes from.
            self._admit(link, visit.source)

    def heard(self, link: ControlLink) -> None:
        visit = self._visits[link]
        if visit.session is not None:
            visit.session.heard_from(link, self._now())
        elif visit.user is None and link.unasked_answers > visit.unasked_answers:
            visit.unasked_answers = link.unasked_answers
            self._fault(link, "answered before log-in")

    def packets(self, link: ControlLink, packets: list[bytes]) -> None:
        visit = self._visits[link]
        session = visit.session
        if session is None or session.link is not link:
            self._counters.drop(Drop.NOT_REGISTERED, len(packets))
            if visit.user is None:
                self._fault(link, "sent packets before log-in")
            return
        self._router.packets_from_session(session, packets, self._now())

    def super_packets(self, link: ControlLink, packets: list[SuperPacket]) -> None:
        """Super-packets arrived, by a link that was registered for them."""
        session = self._visits[link].session
        if session is None or session.link is not link:
            self._counters.drop(Drop.NOT_REGISTERED, sum(each.segments for each in packets))
            return
        self._router.super_packets_from_session(session, packets, self._now())

    @property
    def any_uncut(self) -> bool:
        """Whether there is a link that takes super-packets uncut."""
        return bool(self._uncut)

    def question(
        self, link: ControlLink, command: int, data: bytes
    ) -> bytes | Deferred[bytes] | None:
        visit = self._visits[link]
        if command == Command.LOG_IN:
            return self._exclusive(link, visit, self._log_in(link, visit, data))
        if visit.user is None:
            self._fault(link, "asked before log-in")
            return _refusal(Code.NOT_LOGGED_IN, "log in first")
        if command == Command.REGISTER:
            return self._exclusive(link, visit, self._register(link, visit, data))
        if command == Command.HEARTBEAT:
            return b""
        if command == Command.CARRIER:
            return self._choose(link, visit, data)
        self._fault(link, f"unknown command {command}")
        return _refusal(Code.UNKNOWN_COMMAND, f"command {command} is not known here")

    def statement(self, link: ControlLink, command: int, data: bytes) -> None:
        visit = self._visits[link]
        if command == Command.GOODBYE and visit.session is not None:
            if visit.session.link is link:
                _log.info("{name} left", name=visit.session.name)
                self._end(visit.session)
            link.close()
        elif visit.user is None:
            self._fault(link, "spoke before log-in")

    def lost(self, link: ControlLink, reason: Exception) -> None:
        self.admission.done(link)
        self._uncut.discard(link)
        visit = self._visits.pop(link)
        session = visit.session
        if session is not None and session.detach(link):
            # What the client has said of it may be on its way; nothing else is there, anyway.
            session.carrier = session.peer
            _log.info(
                "{name}: connection lost ({reason}), {what}",
                name=session.name,
                reason=str(reason),
                what=f"session kept for {self.terms.expiry:g} s"
                if session.carrier is None
                else "packets go by UDP",
            )

    # -- log-in

    def _exclusive(
        self, link: ControlLink, visit: Visit, story: Coroutine[Any, Any, bytes]
    ) -> Deferred[bytes] | bytes:
        """Run *story*, one at a time for each connection."""
        if visit.busy:
            story.close()
            self._fault(link, "asked again before the answer")
            return _refusal(Code.BAD_REQUEST, "wait for the answer to the question before")
        visit.busy = True

        def over(result: Any) -> Any:
            visit.busy = False
            return result

        def trouble(failure: Any) -> bytes:
            if failure.check(PeerError):
                self._fault(link, str(failure.value))
                return _refusal(Code.BAD_REQUEST, str(failure.value))
            # A full disk, a thread pool that is full or stopped: ours, and they may come again.
            failure.trap(HostError, Busy, CancelledError)
            _log.error("cannot answer {place}: {why}", place=visit.place, why=str(failure.value))
            return _refusal(Code.SERVER_ERROR, "the server is in trouble; try again later")

        answer: Deferred[bytes] = Deferred.fromCoroutine(story)
        return answer.addBoth(over).addErrback(trouble)

    async def _log_in(self, link: ControlLink, visit: Visit, data: bytes) -> bytes:
        answer = await self._log_ins.log_in(link, visit, data)
        if answer.success and not link.is_closed:
            self.admission.done(link)
            link.raise_limit()
            link.expect_within(REGISTER_SECONDS, "registration")
        return answer.to_bytes()

    # -- registration

    async def _register(self, link: ControlLink, visit: Visit, data: bytes) -> bytes:
        user, device = visit.user, visit.device
        assert user is not None
        assert device is not None
        request = Register.from_bytes(data)
        await self._registering.acquire()
        try:
            if link not in self._visits:
                return b""  # gone while others had their turn: on a slow disk that may be many
            # The account may have changed since log-in, by hand on the command line.
            current = await self._storage.run(self._store.owner, device.id)
            if current is None or not _may_stay(user, current):
                return self._changed(link)
            lease, waited = await self._grants.grant(current, device, request)
            if (
                waited
                and device.id not in self.sessions
                and not await self._unchanged(current, device)
            ):
                return self._changed(link)
        except Gone:
            return self._changed(link)
        except PoolEmpty as refused:
            self.statistics.refuse(Code.POOL_EMPTY)
            return _refusal(Code.POOL_EMPTY, str(refused))
        finally:
            self._registering.release()
        if link.is_closed:
            self._let_go(device)
            return b""
        if self._is_late(visit, device):
            # What a process said that is no more, overtaken by what came after it.
            link.end_after_answer(PeerError("the device is here by a later connection"))
            return _refusal(Code.REPLACED, "the device is here by a later connection")
        session = self._attach(link, visit, current, device, lease, request)
        answer = self.terms.answer(lease)
        session.framed = None
        if CAPABILITY in request.capabilities:
            link.carry_super_packets(self.super_packets)
            self._uncut.add(link)
            session.framed = link
            answer = replace(answer, capabilities=(CAPABILITY,))
        if self.natives is not None:
            answer = self.natives.welcome(session, request, answer)
        return answer.to_bytes()

    def _is_late(self, visit: Visit, device: Device) -> bool:
        """Whether *device* is here by a connection that was made after that of *visit*."""
        session = self.sessions.get(device.id)
        link = None if session is None else session.link
        return isinstance(link, ControlLink) and self._visits[link].number > visit.number

    async def _unchanged(self, user: User, device: Device) -> bool:
        """Whether the account is as it was before the disk was busy with the lease of *device*.

        Who looks for changes knows nobody who has no session yet.
        """
        try:
            latest = await self._storage.run(self._store.owner, device.id)
        except BaseException:
            self._let_go(device)
            raise
        if latest is not None and _same_terms(user, latest):
            return True
        self._let_go(device)
        return False

    def _let_go(self, device: Device) -> None:
        """Take back what was granted to *device*, unless it has a session all the same."""
        if device.id not in self.sessions:
            self._grants.release(device.id, device.name)

    def _changed(self, link: ControlLink) -> bytes:
        link.end_after_answer(PeerError("the account has changed"))
        return _refusal(Code.NOT_LOGGED_IN, "log in again")

    def _attach(
        self,
        link: ControlLink,
        visit: Visit,
        user: User,
        device: Device,
        lease: Lease,
        request: Register,
    ) -> Session:
        # If it has one it is in use, and so is its lease, which cannot have changed.
        session = self.sessions.get(device.id) or self._begin(user, device, lease)
        stays = self.natives is not None and self.natives.carries(session, request)
        # What comes from its own address there has come through its tunnel.
        inside = visit.source in session.addresses
        previous = session.join(link, self._now(), keep=stays, carries=not inside)
        visit.session = session
        self._owners[device.id] = user
        if self.natives is not None and self.natives.returning is not None:
            self.natives.returning.met(device, user)
        link.expect_within(None)
        link.end_after_silence(self.terms.silence)
        if isinstance(previous, ControlLink) and previous is not link:
            self._replace(previous, visit, session)
        _log.info(
            "{name} is here from {place}: {addresses}",
            name=session.name,
            place="its tunnel" if inside else visit.place,
            addresses=", ".join(_spell(lease)),
        )
        return session

    def _begin(self, user: User, device: Device, lease: Lease) -> Session:
        session = Session(
            device=device.id,
            user=user.id,
            name=f"{user.name}/{device.name}",
            addresses=tuple(one for one in (lease.address4, lease.address6) if one is not None),
            reachable=self._reachable,
            heard=self._now(),
        )
        self._router.add(session)
        self._router.limits.set(session, user.limit_up, user.limit_down, self._now())
        self.sessions[device.id] = session
        self._owners[device.id] = user
        return session

    def resume(self, user: User, device: Device) -> Session | None:
        """The session of a device that comes by UDP alone, begun if there is none.

        None: there is none, and its lease is gone, or would be another one.
        """
        session = self.sessions.get(device.id)
        if session is None:
            lease = self._grants.resume(user, device)
            session = None if lease is None else self._begin(user, device, lease)
        return session

    def _replace(self, previous: ControlLink, visit: Visit, session: Session) -> None:
        """End the connection that the device had before the one of *visit*."""
        here, there = visit.place, self._visits[previous].place
        replaced, returns = self._replaced.get(session, ("", 0))
        returns = returns + 1 if here == replaced != there else 0
        self._replaced[session] = there, returns
        if returns >= _RETURNS:
            _log.warn(
                "{name}: {here} and {there} take it from each other; if these are two machines, "
                "one has a copy of the other's state_dir: stop the client there, remove its "
                "state_dir and log in anew",
                name=session.name,
                here=here,
                there=there,
            )
        words = (
            "the same device logged in again; if that was another machine, its state_dir is a "
            "copy of this one's: remove it there, and log in anew"
        )
        _notify(previous, Code.REPLACED, words, REPLACED_SECONDS)
        previous.close()

    def _choose(self, link: ControlLink, visit: Visit, data: bytes) -> bytes:
        """The client says how packets shall travel."""
        session = visit.session
        if session is None or session.link is not link:
            return _refusal(Code.BAD_REQUEST, "register first")
        try:
            chosen = ChosenCarrier.from_bytes(data)
        except PeerError as error:
            self._fault(link, str(error))
            return _refusal(Code.BAD_REQUEST, str(error))
        if chosen.carrier not in _CARRIERS:
            return _refusal(Code.BAD_REQUEST, "carrier is tcp or udp")
        if 0 < chosen.mtu < LEAST_MTU:
            return _refusal(Code.BAD_REQUEST, f"mtu is 0, or {LEAST_MTU} or more")
        session.choose(chosen.epoch, chosen.carrier == "udp", chosen.mtu)
        return Answer(success=True, code=Code.OK).to_bytes()

    # -- what the service does with sessions

    def offer(self, terms: Terms) -> None:
        """Replace the terms; connected clients are told and keep their sessions."""
        self.terms = terms
        self._reachable = terms.reachable()
        data = terms.settings().to_bytes()
        for session in self.sessions.values():
            session.reachable = self._reachable
            if isinstance(session.link, ControlLink):
                session.link.end_after_silence(terms.silence)
                answer = session.link.ask(Command.SETTINGS, data)
                answer.addErrback(self._settings_unanswered, session.name)

    def _settings_unanswered(self, failure: Any, name: str) -> None:
        failure.trap(PeerError)
        _log.info("{name}: settings not confirmed: {why}", name=name, why=str(failure.value))

    def expire(self, sessions: list[Session]) -> None:
        """End sessions that nothing was heard of for too long."""
        for session in sessions:
            _log.info("{name} expired", name=session.name)
            self.dismiss(session, Code.EXPIRED, "nothing was heard for too long", 0.0)

    def interrupted(self, devices: Iterable[int]) -> None:
        """Note that the leases of *devices* are in use on disk: they were here at a restart."""
        self._grants.interrupted.update(devices)

    def expire_leases(self) -> Deferred[None] | None:
        """End the leases of devices that were away for too long."""
        return self._grants.expire()

    def dismiss(
        self, session: Session, code: Code, message: str, retry_after: float = KICKED_SECONDS
    ) -> None:
        """End *session* from our side, telling the client why."""
        _log.info("{name} is sent away: {why}", name=session.name, why=message)
        link = session.link
        self._end(session)
        if isinstance(link, ControlLink):
            _notify(link, code, message, retry_after)
            link.close()

    def users_changed(self, users: dict[int, User]) -> None:
        """Hold every session against the accounts as they are now."""
        for session in list(self.sessions.values()):
            then, current = self._owners[session.device], users.get(session.user)
            if current is None:
                self.dismiss(session, Code.KICKED, "the account was removed")
            elif current.disabled:
                self.dismiss(session, Code.DISABLED, "the account is disabled")
            elif current.password_changed != then.password_changed:
                self.dismiss(session, Code.LOG_IN_AGAIN, "the password was changed", 0.0)
            elif (current.fixed4, current.fixed6) != (then.fixed4, then.fixed6):
                self.dismiss(session, Code.LOG_IN_AGAIN, "the address was changed", 0.0)
            else:
                self._router.limits.set(session, current.limit_up, current.limit_down, self._now())

    def say_goodbye(self, seconds: float) -> None:
        """Tell everybody that the server goes, and when to come back; end all connections."""
        for link in list(self._visits):
            if link.is_up and self._visits[link].user is not None:
                _notify(link, Code.SHUTTING_DOWN, "the server is shutting down", seconds)
                link.close()
            else:
                link.abort()

    @property
    def connections(self) -> int:
        return len(self._visits)

    def _end(self, session: Session) -> None:
        """Forget *session*; its lease stays the device's, free to be evicted."""
        self._forget(session)
        self._grants.release(session.device, session.name)

    def _forget(self, session: Session) -> None:
        self._router.remove(session)
        self.sessions.pop(session.device, None)
        self._owners.pop(session.device, None)
        self._replaced.pop(session, None)
        if self.natives is not None:
            self.natives.end(session)
        link = session.link
        if isinstance(link, ControlLink):
            session.detach(link)
            if link in self._visits:
                self._visits[link].session = None

    def _fault(self, link: ControlLink, what: str) -> None:
        self.statistics.faults += 1
        link.fault(what)


def _may_stay(then: User, current: User) -> bool:
    """Whether who logged in as *then* may be the user *current*."""
    return not current.disabled and current.password_changed == then.password_changed


def _same_terms(one: User, other: User) -> bool:
    return _may_stay(one, other) and _granted(one) == _granted(other)


def _granted(user: User) -> tuple[object, ...]:
    return user.fixed4, user.fixed6, user.limit_up, user.limit_down


def _refusal(code: Code, message: str) -> bytes:
    return LogInAnswer(success=False, code=code, message=message).to_bytes()


def _notify(link: ControlLink, code: Code, message: str, retry_after: float) -> None:
    notice = Notice(code=code, message=message, retry_after=retry_after)
    link.tell(Command.NOTICE, notice.to_bytes())


def _spell(lease: Lease) -> list[str]:
    return [str(ip_address(one)) for one in (lease.address4, lease.address6) if one]
