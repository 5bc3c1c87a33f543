"""Log-in, client against server through real TLS."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from pyvpn.crypto.certificates import make_authority, make_key
from pyvpn.errors import HostError
from pyvpn.store.passwords import hash_password
from pyvpn.store.sqlite import DEVICES_PER_USER
from pyvpn.tunnel.leases import Lease
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code, LogIn, LogInAnswer
from tests.net.test_tls import DEVICE_KEY, UNIX, device_certificate
from tests.server.office import PASSWORD, Caller, OfficeCase, fingerprint
from tests.store.cases import NOON

WRONG = "wrong horse"


class FirstLogInTests(OfficeCase):
    """A device that is not known yet."""

    def test_password(self) -> None:
        """User and password bring a certificate, which is on file from then on."""
        caller = self.call()
        answer = caller.log_in(device="anna's laptop")

        self.assertEqual((True, Code.OK), (answer.success, answer.code))
        [device] = self.store.devices()
        self.assertEqual(fingerprint(answer.certificate.encode()), device.fingerprint)
        self.assertEqual((self.anna.id, "anna's laptop"), (device.user, device.name))
        self.assertEqual(1, self.office.verified())

    def test_certificate(self) -> None:
        """Known by its certificate, a device needs no password, and no hash is computed."""
        first = self.call()
        first.log_in()
        hashed = self.office.verified()

        data = first.again().answer(Command.LOG_IN, LogIn().to_bytes())

        answer = LogInAnswer.from_bytes(data)
        self.assertEqual((True, Code.OK, ""), (answer.success, answer.code, answer.certificate))
        self.assertEqual(hashed, self.office.verified())
        self.assertEqual(1, len(self.store.devices()))

    def test_one_answer_for_all(self) -> None:
        """Wrong password, unknown user, disabled, no such name: byte for byte the same answer."""
        self.add_bob()
        self.store.set_disabled("bob", True)
        answers = []
        for user, password in (
            ("anna", WRONG),
            ("nobody", PASSWORD),
            ("bob", PASSWORD),
            ("bob", WRONG),
        ):
            self.office.clock.advance(3600)  # each is the first attempt
            caller = self.call()
            before = self.office.verified()
            answers.append(
                caller.answer(Command.LOG_IN, caller.request(user, password).to_bytes())
            )
            self.assertEqual(1, self.office.verified() - before, user)

        self.assertEqual(1, len(set(answers)), answers)
        self.assertRefused(Code.BAD_CREDENTIALS, LogInAnswer.from_bytes(answers[0]))
        self.assertEqual([], self.store.devices())
        self.assertEqual({"bad-credentials": 4}, self.office.statistics.refused)

    def test_malformed(self) -> None:
        """What is no log-in at all is told no more than that."""
        wrong = self.call().answer(Command.LOG_IN, self.call().request("x", WRONG).to_bytes())
        for data in (
            b"",
            b"{",
            b"[]",
            b"\xff",
            b'{"user": 7}',
            b'{"user": "anna", "password": ["x"]}',
            b'{"user": "an na", "password": "x"}',
            b'{"user": "anna", "user": "bob", "password": "x"}',
            b'{"user": "anna"}',
            b'{"password": "x"}',
            b"{" * 2000,
            LogIn(user="anna").to_bytes(),
        ):
            self.assertEqual(wrong, self.call().answer(Command.LOG_IN, data), data)

        self.assertEqual(1, self.office.verified())

    def test_certificate_request(self) -> None:
        """A request that cannot be signed is refused, after the password and not before."""
        for text in ("", "no PEM", make_key().decode()):
            caller = self.call()
            request = LogIn(user="anna", password=PASSWORD, certificate_request=text)
            answer = LogInAnswer.from_bytes(caller.answer(Command.LOG_IN, request.to_bytes()))
            self.assertRefused(Code.BAD_REQUEST, answer)
            self.assertFalse(caller.register().success)

            wrong = LogIn(user="anna", password=WRONG, certificate_request=text)
            answer = LogInAnswer.from_bytes(caller.answer(Command.LOG_IN, wrong.to_bytes()))
            self.assertRefused(Code.BAD_CREDENTIALS, answer)
            self.office.clock.advance(3600)  # each is the first attempt

        self.assertEqual([], self.store.devices())

    def test_three_attempts(self) -> None:
        """The third refusal is still answered, and ends the connection."""
        caller = self.call()
        for number in range(3):
            self.assertFalse(caller.is_ended())
            self.assertRefused(Code.BAD_CREDENTIALS, caller.log_in(f"user{number}", WRONG))

        self.assertTrue(caller.is_ended())

    def test_too_many_devices(self) -> None:
        """A user with as many devices as one may have, all here, is told so."""
        for number in range(DEVICES_PER_USER):
            device = self.add_device(self.store, self.anna, number)
            self.store.save_lease(
                Lease(device.id, self.anna.id, bytes([10, 73, 0, 10 + number]), None, None)
            )

        self.assertRefused(Code.TOO_MANY_DEVICES, self.call().log_in())

    def test_removed_meanwhile(self) -> None:
        """A user who is removed while the password is checked is nobody."""
        caller = self.call()
        self.office.storage.held = True
        asked = caller.ask(Command.LOG_IN, caller.request().to_bytes())
        while self.office.storage.made.count("add_device") == 0:
            if self.office.storage._waiting and len(self.office.storage.made) == 3:
                self.store.remove_user("anna")
            self.office.storage.go_on(1)
        self.office.settle()

        answer = LogInAnswer.from_bytes(self.successResultOf(asked))
        self.assertRefused(Code.BAD_CREDENTIALS, answer)


class KnownDeviceTests(OfficeCase):
    """A device with a certificate of ours."""

    def setUp(self) -> None:
        super().setUp()
        self.laptop = self.call()
        self.laptop.log_in()

    def by_certificate(self, caller: Caller | None = None) -> LogInAnswer:
        """Log in without user and password."""
        caller = caller or self.laptop.again()
        return LogInAnswer.from_bytes(caller.answer(Command.LOG_IN, b"{}"))

    def test_password_changed(self) -> None:
        """After a change the password is needed once, on the same connection."""
        self.office.advance(10)
        other = hash_password("another horse")
        self.store.set_password("anna", other, self.office.unix())
        self.office.advance(10)
        caller = self.laptop.again()
        self.assertRefused(Code.PASSWORD_NEEDED, self.by_certificate(caller))
        self.assertRefused(Code.BAD_CREDENTIALS, caller.log_in())

        answer = caller.log_in(password="another horse")

        self.assertEqual((True, ""), (answer.success, answer.certificate))
        self.assertEqual(1, len(self.store.devices()))
        self.assertTrue(self.by_certificate().success)

    def test_reauth_after(self) -> None:
        """The operator may ask for the password again after a time."""
        self.fresh(reauth_after=3600.0)
        laptop = self.call()
        laptop.log_in()
        self.assertTrue(self.by_certificate(laptop.again()).success)
        self.office.clock.advance(3601)

        self.assertRefused(Code.PASSWORD_NEEDED, self.by_certificate(laptop.again()))

    def test_disabled(self) -> None:
        """The certificate of a disabled user says no more than a wrong password."""
        wrong = self.call().answer(Command.LOG_IN, self.laptop.request("x", WRONG).to_bytes())
        self.store.set_disabled("anna", True)

        self.assertEqual(wrong, self.laptop.again().answer(Command.LOG_IN, b"{}"))

    def test_removed(self) -> None:
        """So does that of a user who is gone, and of a namesake's device."""
        self.store.remove_user("anna")
        self.assertRefused(Code.BAD_CREDENTIALS, self.by_certificate())
        self.store.add_user("anna", hash_password(PASSWORD), NOON)

        self.assertRefused(Code.BAD_CREDENTIALS, self.by_certificate())

    def test_password_of_another(self) -> None:
        """Another user's password on a known device makes a device of that user."""
        self.add_bob()
        self.store.set_password("anna", hash_password("another horse"), self.office.unix() + 1)
        self.office.advance(5)
        caller = self.laptop.again()
        self.assertRefused(Code.PASSWORD_NEEDED, self.by_certificate(caller))

        answer = caller.log_in("bob")

        self.assertTrue(answer.success)
        self.assertNotEqual("", answer.certificate)
        self.assertEqual(2, len(self.store.devices()))

    def test_foreign_certificate(self) -> None:
        """A certificate of another authority is refused in TLS; nothing is answered."""
        key = make_key()
        foreign = device_certificate(key, make_authority(key, UNIX))
        caller = self.call(key=DEVICE_KEY, certificate=foreign)

        self.assertFalse(caller.link.is_up)
        self.assertTrue(caller.is_ended())
        self.assertEqual([], caller.owner.of("ready"))

    def test_unknown_certificate(self) -> None:
        """One of our authority whose device is not on file is a stranger."""
        caller = self.call(key=DEVICE_KEY, certificate=device_certificate())
        self.assertRefused(Code.BAD_CREDENTIALS, self.by_certificate(caller))

        self.assertTrue(caller.log_in().success)

    def test_no_throttle(self) -> None:
        """Who guesses at the name does not keep the known device out."""
        for _ in range(5):
            self.call().log_in(password=WRONG)
        self.assertRefused(Code.SLOW_DOWN, self.call().log_in())

        self.assertTrue(self.by_certificate().success)


class ThrottleTests(OfficeCase):
    """Guessing."""

    def test_before_the_hash(self) -> None:
        """After a few wrong ones the answer is to slow down, and no hash is computed for it."""
        for _ in range(3):
            self.assertRefused(Code.BAD_CREDENTIALS, self.call().log_in(password=WRONG))
        hashed = self.office.verified()

        answer = self.call().log_in(password=WRONG)

        self.assertRefused(Code.SLOW_DOWN, answer)
        self.assertTrue(0 < answer.retry_after <= 300)
        self.assertEqual(hashed, self.office.verified())
        self.assertRefused(Code.SLOW_DOWN, self.call().log_in())

    def test_waiting(self) -> None:
        """Who waits as long as was said may try again."""
        for _ in range(4):
            answer = self.call().log_in(password=WRONG)
        self.office.clock.advance(answer.retry_after)

        self.assertTrue(self.call().log_in().success)

    def test_unknown_names(self) -> None:
        """A name that does not exist is slowed down like one that does."""
        answers: dict[str, list[bytes]] = {}
        for number, user in enumerate(("anna", "nobody")):
            for _ in range(6):
                caller = self.call(f"192.0.2.{number + 50}")
                request = caller.request(user, WRONG).to_bytes()
                answers.setdefault(user, []).append(caller.answer(Command.LOG_IN, request))

        self.assertEqual(answers["anna"], answers["nobody"])
        self.assertIn(b"slow-down", answers["anna"][-1])

    def test_side_by_side(self) -> None:
        """Attempts that are under way count as well."""
        self.office.hashing.held = True
        callers = [self.call() for _ in range(10)]
        asked = [
            caller.ask(Command.LOG_IN, caller.request(password=WRONG).to_bytes())
            for caller in callers
        ]
        self.office.hashing.go_on()
        self.office.settle()

        codes = [LogInAnswer.from_bytes(self.successResultOf(each)).code for each in asked]
        self.assertEqual(3, codes.count(Code.BAD_CREDENTIALS))
        self.assertEqual(7, codes.count(Code.SLOW_DOWN))
        self.assertEqual(3, self.office.verified())


class TroubleTests(OfficeCase):
    """The server's own troubles."""

    def test_busy(self) -> None:
        """When all hashing threads are taken one shall come back soon, and nothing is held against
        anybody.
        """
        self.office.hashing.failing = "verify_password"
        for _ in range(20):
            caller = self.call()
            answer = caller.log_in()
            self.assertRefused(Code.SLOW_DOWN, answer)
            self.assertEqual(1.0, answer.retry_after)
            caller.hang_up()
        self.office.hashing.failing = ""

        self.assertTrue(self.call().log_in().success)

    def test_disk(self) -> None:
        """A disk that fails is the server's fault, and said so; nothing is on file."""
        self.office.storage.failure = HostError("disk full")
        caller = self.call()
        for function in ("user", "add_device"):
            self.office.storage.failing = function
            self.assertRefused(Code.SERVER_ERROR, caller.log_in())
            self.assertEqual([], self.store.devices())
        self.office.storage.failing = ""

        self.assertTrue(caller.log_in().success)

    def test_stopping(self) -> None:
        """A shutdown while a password is hashed leaves no traceback."""
        self.office.hashing.held = True
        caller = self.call()
        asked = caller.ask(Command.LOG_IN, caller.request().to_bytes())
        self.office.hashing.stop()
        self.office.settle()

        answer = LogInAnswer.from_bytes(self.successResultOf(asked))
        self.assertRefused(Code.SERVER_ERROR, answer)
        self.assertEqual([], self.flushLoggedErrors(CancelledError))

    def test_gone_meanwhile(self) -> None:
        """A client that goes while its password is hashed leaves nothing behind."""
        self.office.hashing.held = True
        caller = self.call()
        caller.ask(Command.LOG_IN, caller.request().to_bytes())
        caller.hang_up()
        self.office.hashing.go_on()

        self.assertEqual(0, self.office.clients.connections)
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual([], self.office.clock.getDelayedCalls())
