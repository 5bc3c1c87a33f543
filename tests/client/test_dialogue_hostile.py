"""What a client makes of answers: of careless servers, hostile ones, and the original program."""

from __future__ import annotations

import ssl
from ipaddress import IPv4Interface
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.device import Device
from pyvpn.client.dialogue import (
    NativeDialogue,
    PlainDialogue,
    passing,
    setback_of,
)
from pyvpn.client.machine import Setback
from pyvpn.config import ClientConfig, load_client
from pyvpn.errors import PeerError
from pyvpn.net.link_owner import VersionRefused
from pyvpn.net.tls import ServerNotVerified
from pyvpn.tunnel.backoff import Backoff
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code, LogIn, LogInAnswer, PlainAnswer, RegisterAnswer
from tests.configfile import PIN
from tests.net.links import Bench, answer
from tests.net.test_tls import device_certificate

OK = LogInAnswer(success=True, code="ok").to_bytes()


class HostileServerTests(SynchronousTestCase):
    """The test is the server, and answers what it likes."""

    def setUp(self) -> None:
        place = Path(self.mktemp())
        self.device = Device(place, PIN)
        path = Path(self.mktemp())
        path.write_text(f"[client]\nserver = pyvpn://anna@vpn.example.org:1?pin={PIN}\n")
        self.config: ClientConfig = load_client(path)

    def meet(self, *answers: bytes) -> tuple[Bench, Deferred[RegisterAnswer]]:
        """Be introduced to a server that gives these answers."""
        bench = Bench(initiator=True)
        dialogue = NativeDialogue(self.config, self.device, lambda: "secret", "laptop")
        told = Deferred.fromCoroutine(dialogue.introduce(bench.link))
        for number, data in enumerate(answers, 1):
            bench.receive(answer(number, data))
        return bench, told

    def test_what_is_said(self) -> None:
        """Without a certificate the first word is user, password and a request; then register."""
        bench, _ = self.meet(OK)
        first, second = bench.line.frames()
        self.assertEqual((Command.LOG_IN, Command.REGISTER), (first.command, second.command))
        said = LogIn.from_bytes(first.data)
        self.assertEqual(("anna", "secret", "laptop"), (said.user, said.password, said.device))
        self.assertIn("CERTIFICATE REQUEST", said.certificate_request)
        self.assertLess(len(first.data), 4096)

    def test_largest_log_in(self) -> None:
        """The longest password and names still fit into a stranger's frame."""
        bench = Bench(initiator=True)
        dialogue = NativeDialogue(self.config, self.device, lambda: '"' * 1024, "\N{SNOWMAN}" * 64)
        Deferred.fromCoroutine(dialogue.introduce(bench.link)).addErrback(lambda _: None)
        [first] = bench.line.frames()

        self.assertLessEqual(len(first.data) + 8, 4096)
        bench.hang_up()

    def test_junk(self) -> None:
        """An answer that is none is the server's fault, and a passing trouble."""
        for junk in (b"", b"{", b"[]", b"{}", b'{"success": 1, "code": "ok"}', b"\xff" * 50):
            for answers in ((junk,), (OK, junk)):
                _, told = self.meet(*answers)
                error = self.failureResultOf(told, PeerError).value
                self.assertFalse(passing(error).serious)

    @given(st.lists(st.binary(max_size=300) | st.just(OK), min_size=1, max_size=3))
    def test_anything(self, answers: list[bytes]) -> None:
        """Whatever a server answers, it is a lease, a setback or a PeerError."""
        bench, told = self.meet(*answers)
        bench.hang_up()
        outcome: list[object] = []
        told.addBoth(outcome.append)
        [found] = outcome
        if isinstance(found, Failure):
            self.assertIsInstance(found.value, PeerError | Setback)
        else:
            self.assertIsInstance(found, RegisterAnswer)

    def test_certificate(self) -> None:
        """A certificate that is not ours is not kept: the next start would stumble over it."""
        for text in ("nonsense", device_certificate().decode()):
            data = LogInAnswer(success=True, code="ok", certificate=text).to_bytes()
            _, told = self.meet(data)
            error = self.failureResultOf(told, Setback).value
            assert isinstance(error, Setback)
            self.assertTrue(error.serious)
            self.assertIsNone(self.device.certificate)

    def test_refusals(self) -> None:
        """A refusal says what the server said, safely, with its code."""
        data = LogInAnswer(success=False, code="slow-down", message="\x1b[2Jbad", retry_after=9.0)
        _, told = self.meet(data.to_bytes())
        setback = self.failureResultOf(told, Setback).value
        assert isinstance(setback, Setback)
        self.assertEqual(9.0, setback.seconds)
        self.assertTrue(str(setback).isprintable())

    def test_refused_registration(self) -> None:
        """A registration that is answered like a log-in is understood all the same."""
        refusal = LogInAnswer(success=False, code=Code.SERVER_ERROR, message="disk").to_bytes()
        _, told = self.meet(OK, refusal)
        setback = self.failureResultOf(told, Setback).value
        assert isinstance(setback, Setback)

        self.assertIn("disk (server-error)", str(setback))
        self.assertGreaterEqual(setback.seconds, 5)


class SetbackTests(SynchronousTestCase):
    """What each code means for the next try."""

    LEAST = {  # noqa: RUF012 - a table of this test
        Code.BAD_CREDENTIALS: 300.0,
        Code.PASSWORD_NEEDED: 300.0,
        Code.DISABLED: 300.0,
        Code.TOO_MANY_DEVICES: 300.0,
        Code.ADDRESS_REFUSED: 300.0,
        Code.QUOTA: 300.0,
        Code.REPLACED: 60.0,
        Code.KICKED: 60.0,
        Code.BAD_REQUEST: 60.0,
        Code.POOL_EMPTY: 30.0,
        Code.ADDRESS_TAKEN: 30.0,
        Code.SERVER_ERROR: 5.0,
    }

    @given(st.sampled_from(list(Code)), st.floats(0, 1e308), st.floats(0, 1), st.booleans())
    def test_never_sooner(
        self, code: Code, retry_after: float, chance: float, established: bool
    ) -> None:
        """Nobody comes back sooner than the code allows, or the server asks, or ever later than
        hours.
        """
        setback = setback_of(code, "why", retry_after, "what")
        backoff = Backoff(60.0, lambda: chance)
        if established:
            backoff.established()
        pause = backoff.pause(setback.seconds)

        self.assertGreaterEqual(pause, self.LEAST.get(code, 0.0))
        self.assertGreaterEqual(pause, min(retry_after, 3600.0))
        self.assertLessEqual(pause, 3600 * 1.25)

    def test_at_once(self) -> None:
        """Where the server says so one comes back quickly."""
        for code in (Code.SHUTTING_DOWN, Code.LOG_IN_AGAIN, Code.EXPIRED, Code.SLOW_DOWN):
            self.assertEqual(1.5, setback_of(code, "", 1.5, "what").seconds)

    def test_unknown_code(self) -> None:
        """A code of the future: wait a minute."""
        setback = setback_of("moon-phase", "", 0.0, "what")
        self.assertEqual((60.0, "what: moon-phase (moon-phase)"), (setback.seconds, str(setback)))

    def test_serious(self) -> None:
        """What a person must mend is said as an error."""
        for code in Code:
            setback = setback_of(code, "why", 0.0, "what")
            serious = self.LEAST.get(code, 0.0) >= 300 and code != Code.QUOTA
            self.assertEqual(serious or code == Code.BAD_REQUEST, setback.serious, code)

    def test_passing(self) -> None:
        """Troubles of the network pass; a wrong server or version do not pass by themselves."""
        for error, serious in (
            (ConnectionDone(), False),
            (ConnectionRefusedError(), False),
            (PeerError("junk"), False),
            (PeerError(), False),
            (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert"), False),
            (ssl.SSLError(1), False),
            (ssl.SSLError(), False),
            (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), False),
            (ssl.SSLError(7, b"octets"), False),
            (ServerNotVerified("not for x"), True),
            (VersionRefused("the server does not speak 2.0"), True),
        ):
            setback = passing(error)
            self.assertEqual(serious, setback.serious, error)
            self.assertEqual(300.0 if serious else 0.0, setback.seconds)
            self.assertTrue(str(setback))
        alert = passing(ssl.SSLError(1, "tlsv13 alert"))
        self.assertEqual("TLS failed: tlsv13 alert", str(alert))
        self.assertEqual("TLS failed: connection closed", str(passing(ssl.SSLError())))


class PlainDialogueTests(SynchronousTestCase):
    """Our client with the original server."""

    def setUp(self) -> None:
        self.bench = Bench(initiator=True, up=False, version=1.0)
        self.dialogue = PlainDialogue(IPv4Interface("182.1.1.101/24"))

    def introduce(self, data: bytes) -> Deferred[RegisterAnswer]:
        """Meet a server that answers *data*."""
        self.bench.receive(b"\x01")
        told = Deferred.fromCoroutine(self.dialogue.introduce(self.bench.link))
        self.bench.receive(answer(1, data))
        return told

    def test_bytes(self) -> None:
        """It says what the original client says."""
        self.introduce(b"{}").addErrback(lambda _: None)

        self.assertEqual(
            bytes.fromhex(
                "3ff000000000000000000018 00000001 00000001 00000000000000000000ffff b6010165"
            ),
            self.bench.line.take(),
        )

    def test_registered(self) -> None:
        """The one network behind the server becomes the route; there are no heartbeats."""
        told = self.introduce(b'{"success": true, "message": "", "bypass": "192.168.1.0/24"}')
        offer = self.successResultOf(told)

        self.assertEqual(("182.1.1.101/24", ""), (offer.address4, offer.address6))
        self.assertEqual((("192.168.1.0/24",), 1500), (offer.routes, offer.mtu))
        self.assertFalse(self.dialogue.has_heartbeats or self.dialogue.tls)

    def test_no_network(self) -> None:
        """A server without a bypass network offers none."""
        offer = self.successResultOf(self.introduce(PlainAnswer(True, "", "").to_bytes()))
        self.assertEqual((), offer.routes)

    def test_refused(self) -> None:
        """A taken address is said, with the server's reason, and not asked for all the time."""
        for data, why in (
            (b'{"success": false, "message": "in use", "bypass": ""}', "in use"),
            (b'{"success": false}', "no reason given"),
        ):
            self.setUp()
            error = self.failureResultOf(self.introduce(data), Setback).value
            assert isinstance(error, Setback)
            self.assertIn(f"refused 182.1.1.101: {why}", str(error))
            self.assertGreaterEqual(error.seconds, 60)

    def test_junk(self) -> None:
        """Junk is a passing trouble."""
        for junk in (b"", b"null", b'{"success": "yes"}', b"\0" * 20):
            self.setUp()
            self.failureResultOf(self.introduce(junk), PeerError)
