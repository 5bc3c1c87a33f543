"""How a client is taken in: the real client against the real server, through real TLS."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred

from pyvpn.client.device import Device
from pyvpn.client.dialogue import NativeDialogue, passing
from pyvpn.client.machine import Setback
from pyvpn.config import ClientConfig, load_client
from pyvpn.errors import ConfigError, PeerError
from pyvpn.net.link_owner import LinkClosed
from pyvpn.net.tls import client_options
from pyvpn.store.passwords import hash_password
from pyvpn.wire.messages import Code, RegisterAnswer
from tests.configfile import OTHER_PIN
from tests.net.test_tls import AUTHORITY, HOST, IDENTITY
from tests.server.office import PASSWORD, Caller, OfficeCase
from tests.store.cases import NOON


class DialogueCase(OfficeCase):
    """A client with a configuration, a state directory and a password."""

    def setUp(self) -> None:
        super().setUp()
        self.state = Path(self.mktemp())
        self.password: str | None = PASSWORD
        self.asked = 0

    def config(self, tunnel: str = "", pin: str | None = None) -> ClientConfig:
        """What its file means."""
        path = Path(self.mktemp())
        path.write_text(
            f"[client]\nserver = pyvpn://anna@{HOST}:51820?pin={pin or IDENTITY.pin}\n"
            f"state_dir = {self.state}\n[tunnel]\n{tunnel}\n"
        )
        path.chmod(0o600)
        return load_client(path)

    def give_password(self) -> str | None:
        self.asked += 1
        return self.password

    def come(
        self, tunnel: str = "", pin: str | None = None, settle: bool = True
    ) -> tuple[Caller, Deferred[RegisterAnswer]]:
        """Connect and be introduced, with the device that is on the disk."""
        config = self.config(tunnel, pin)
        device = Device(self.state, IDENTITY.pin)
        dialogue = NativeDialogue(config, device, self.give_password, "anna's laptop")
        caller = Caller(
            self.office, key=device.key, certificate=device.certificate, verify=dialogue.verify
        )
        told = Deferred.fromCoroutine(dialogue.introduce(caller.link))
        if settle:
            self.office.settle()
        return caller, told

    def joined(self, tunnel: str = "") -> RegisterAnswer:
        """The same, and it must succeed."""
        _, told = self.come(tunnel)
        answer: RegisterAnswer = self.successResultOf(told)
        return answer

    def setback(self) -> Setback:
        """The same, and it must be refused."""
        _, told = self.come()
        error = self.failureResultOf(told, Setback).value
        assert isinstance(error, Setback)
        return error


class LogInTests(DialogueCase):
    """Log in and register."""

    def test_first_and_second(self) -> None:
        """The password is needed once; from then on the certificate is enough."""
        first = self.joined()
        self.assertEqual((1, 1), (self.asked, self.office.verified()))
        second = self.joined()

        self.assertEqual((1, 1), (self.asked, self.office.verified()))
        self.assertEqual(first, second)
        [device] = self.store.devices()
        self.assertEqual("anna's laptop", device.name)

    def test_super_packets(self) -> None:
        """It says that it takes super-packets, and is told that the server does."""
        self.assertIn("offload-frames", self.joined().capabilities)

    def test_wanted(self) -> None:
        """The addresses that the file asks for are asked for."""
        answer = self.joined("address = 10.73.0.77, fd70::77")

        self.assertEqual(("10.73.0.77/24", "fd70::77/64"), (answer.address4, answer.address6))

    def test_wrong_password(self) -> None:
        """A wrong password is a person's business: serious, and not tried again for minutes."""
        self.password = "wrong"
        setback = self.setback()

        self.assertTrue(setback.serious)
        self.assertGreaterEqual(setback.seconds, 300)
        self.assertIn("bad-credentials", str(setback))
        self.assertIsNone(Device(self.state, IDENTITY.pin).certificate)

    def test_slow_down(self) -> None:
        """Who is told to slow down waits for as long as was said."""
        self.password = "wrong"
        for _ in range(3):
            self.setback()
        setback = self.setback()

        self.assertIn("slow-down", str(setback))
        self.assertGreater(setback.seconds, 0)

    def test_password_changed(self) -> None:
        """After a change the new password is taken, on the same connection, by the same device."""
        self.joined()
        self.office.advance(5)
        self.store.set_password("anna", hash_password("another horse"), self.office.unix())
        self.office.advance(5)
        self.password = None
        self.setback()
        self.assertTrue(Device(self.state, IDENTITY.pin).password_wanted)
        self.password = "another horse"
        self.joined()

        self.assertFalse(Device(self.state, IDENTITY.pin).password_wanted)
        self.assertEqual(3, self.asked)
        self.assertEqual(1, len(self.store.devices()))

    def test_removed_and_made_again(self) -> None:
        """A device that the server has forgotten logs in by password, and is a new one."""
        self.joined()
        before = Device(self.state, IDENTITY.pin).certificate
        self.store.remove_user("anna")
        self.store.add_user("anna", hash_password(PASSWORD), NOON)
        self.joined()

        after = Device(self.state, IDENTITY.pin).certificate
        self.assertNotEqual(before, after)
        self.joined()
        self.assertEqual(2, self.asked)

    def test_no_password(self) -> None:
        """Without any password it is said what to do; nothing more is sent."""
        self.password = None
        setback = self.setback()
        self.assertTrue(setback.serious)
        self.assertGreaterEqual(setback.seconds, 300)
        self.assertIn("password_file", str(setback))

        self.assertEqual(0, self.office.verified())

    def test_password_file_gone(self) -> None:
        """So it is when its file has gone meanwhile."""

        def gone() -> str:
            raise ConfigError("client.ini:3: password_file: No such file")

        self.give_password = gone  # type: ignore[method-assign]  # the person's doing
        setback = self.setback()

        self.assertTrue(setback.serious)
        self.assertIn("client.ini:3", str(setback))

    def test_disabled(self) -> None:
        """A disabled user's device is told no more than a stranger."""
        self.joined()
        self.store.set_disabled("anna", True)

        self.assertIn(Code.BAD_CREDENTIALS, str(self.setback()))

    def test_pool_empty(self) -> None:
        """No address left: try again, but not at once."""
        self.fresh(pool4="10.73.0.0/30")
        self.call().join(device="other")
        setback = self.setback()

        self.assertFalse(setback.serious)
        self.assertGreaterEqual(setback.seconds, 30)
        self.assertIn(Code.POOL_EMPTY, str(setback))


class VerifyTests(DialogueCase):
    """Is it our server?"""

    def test_wrong_pin(self) -> None:
        """Another key than the one we were told: nothing is sent, not even the version."""
        caller, told = self.come(pin=OTHER_PIN)
        self.failureResultOf(told, LinkClosed)

        setback = caller.owner.reason()
        assert isinstance(setback, Setback)
        self.assertTrue(setback.serious)
        self.assertGreaterEqual(setback.seconds, 300)
        self.assertEqual([], self.office.storage.made)

    def test_by_name(self) -> None:
        """Without a pin name and authority decide; what is wrong is a person's business."""
        good = Path(self.mktemp())
        good.write_bytes(AUTHORITY)
        for host, ca_file, verified in (
            (HOST, good, True),
            ("other.example.org", good, False),
            (HOST, None, False),
        ):
            caller = Caller(self.office, options=client_options(host, None, ca_file, None, None))
            self.assertEqual(verified, caller.link.is_up)
            if not verified:
                setback = passing(caller.owner.reason())
                self.assertTrue(setback.serious, setback)
                self.assertGreaterEqual(setback.seconds, 300)
                self.assertIn("ca_file", str(setback))

    def test_server_gone(self) -> None:
        """A server that goes in the middle is a passing trouble."""
        self.office.hashing.held = True
        caller, told = self.come()
        caller.far_io.disconnecting = True
        self.office.settle()

        error = self.failureResultOf(told, PeerError).value
        setback = passing(error)
        self.assertEqual((False, 0.0), (setback.serious, setback.seconds))

    def test_silent_server(self) -> None:
        """A server that does not answer is given up after 15 s."""
        self.office.hashing.held = True
        _, told = self.come()
        self.office.advance(14)
        self.assertNoResult(told)
        self.office.advance(1)

        self.assertIn("no answer to log_in", str(self.failureResultOf(told, PeerError).value))
