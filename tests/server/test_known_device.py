"""A device that must show its password again, while others guess."""

from __future__ import annotations

from pyvpn.store.passwords import hash_password
from pyvpn.tunnel.throttle import NAME_BURST, NAME_INTERVAL
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code, LogInAnswer
from tests.server.office import HOME, PASSWORD, Caller, OfficeCase

WRONG, NEW = "wrong horse", "another horse"
OTHER = hash_password(NEW)


class PasswordAgainTests(OfficeCase):
    """The password was changed, so the certificate alone is not enough."""

    def setUp(self) -> None:
        super().setUp()
        self.laptop = self.call()
        self.laptop.log_in()
        self.laptop.hang_up()
        self.office.clock.advance(10)
        self.store.set_password("anna", OTHER, self.office.unix())
        self.office.clock.advance(10)

    def guess(self, place: str, user: str = "anna", **options: bytes) -> str:
        """The code for a wrong password."""
        caller = self.call(place, **options)
        code = caller.log_in(user, WRONG).code
        caller.hang_up()
        return code

    def of_the_device(self, user: str = "anna", password: str = NEW) -> LogInAnswer:
        """The device, which is told to log in by password, does so."""
        caller = self.laptop.again()
        first = LogInAnswer.from_bytes(caller.answer(Command.LOG_IN, b"{}"))
        self.assertRefused(Code.PASSWORD_NEEDED, first)
        answer = caller.log_in(user, password)
        caller.hang_up()
        return answer

    def test_guesses_at_the_name(self) -> None:
        """Guesses at the user's name from everywhere do not keep the device out."""
        codes = [self.guess(f"192.0.2.{100 + number}") for number in range(NAME_BURST + 1)]
        self.assertEqual([Code.BAD_CREDENTIALS] * NAME_BURST + [Code.SLOW_DOWN], codes)

        self.assertTrue(self.of_the_device().success)

    def test_guesses_from_its_place(self) -> None:
        """Nor do guesses from its own place."""
        codes = [self.guess(HOME) for _ in range(4)]
        self.assertEqual(Code.SLOW_DOWN, codes[-1])

        self.assertTrue(self.of_the_device().success)

    def test_device_guesses(self) -> None:
        """A device itself has ten guesses, then one in three minutes, wherever it is."""
        codes = [self.of_the_device(password=WRONG).code for _ in range(NAME_BURST + 1)]
        self.assertEqual([Code.BAD_CREDENTIALS] * NAME_BURST + [Code.SLOW_DOWN], codes)
        self.assertRefused(Code.SLOW_DOWN, self.of_the_device())
        # Which is nothing to others, of the same place and name.
        self.assertEqual(Code.BAD_CREDENTIALS, self.guess(HOME))
        self.office.clock.advance(NAME_INTERVAL)

        self.assertTrue(self.of_the_device().success)

    def test_another_name(self) -> None:
        """To guess at another user's name it is a stranger."""
        self.add_bob()
        codes = [self.of_the_device("bob", WRONG).code for _ in range(4)]
        self.assertEqual([Code.BAD_CREDENTIALS] * 3 + [Code.SLOW_DOWN], codes)
        self.assertRefused(Code.SLOW_DOWN, self.of_the_device("bob", PASSWORD))

        self.assertTrue(self.of_the_device().success)

    def test_no_certificate(self) -> None:
        """A stranger who guesses at the same name is held up, whoever else is not."""
        for number in range(NAME_BURST):
            self.guess(f"192.0.2.{100 + number}")
        self.assertTrue(self.of_the_device().success)

        stranger = Caller(self.office, "192.0.2.200")
        self.assertRefused(Code.SLOW_DOWN, stranger.log_in(password=NEW))
