"""What twistd is told, before anything runs: options, configuration, password."""

from __future__ import annotations

import getpass
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from pyvpn import client_tap, server_tap
from pyvpn.client.device import Device
from pyvpn.crypto.certificates import sign_request
from pyvpn.net import process
from tests.configfile import PIN
from tests.net.test_tls import AUTHORITY, AUTHORITY_KEY, UNIX


class TapCase(SynchronousTestCase):
    """An ini file, and twistd's own options."""

    def setUp(self) -> None:
        self.addCleanup(process._let_go_of_terminal)
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        self.ini = self.place / "pyvpn.ini"
        self.twistd: dict[str, Any] = {
            "uid": None,
            "gid": None,
            "nodaemon": True,
            "pidfile": "twistd.pid",
        }

    def write(self, text: str) -> None:
        self.ini.write_text(text)
        self.ini.chmod(0o600)

    def parse(self, options: usage.Options) -> usage.Options:
        """Let twistd parse its command line."""
        options.parent = self.twistd  # type: ignore[assignment]  # twistd's is a dictionary too
        options.parseOptions(["--config", str(self.ini)])
        return options

    def refused(self, options: usage.Options) -> str:
        """The line that is printed instead of a start."""
        error = self.assertRaises(SystemExit, self.parse, options)
        self.assertNotIn("\n", str(error))
        return str(error)


class ServerTapTests(TapCase):
    """``twistd vpnserver``"""

    def test_good(self) -> None:
        """The configuration is read, and no pid file is left in the folder."""
        self.write(f"[server]\nstate_dir = {self.place}\n")
        options = self.parse(server_tap.Options())

        self.assertEqual(self.place, options["server"].state_dir)
        self.assertIsNone(self.twistd["pidfile"])

    def test_wrong(self) -> None:
        """A wrong line is one line with its place; a missing file too."""
        self.write("[tunnel]\nmtu = 12\n")
        self.assertIn(f"{self.ini}:2: [tunnel] mtu = '12'", self.refused(server_tap.Options()))
        self.ini.unlink()
        self.assertIn("no such file", self.refused(server_tap.Options()))

    def test_uid(self) -> None:
        """--uid is refused before anything is read."""
        self.twistd["uid"] = 1000
        self.assertIn("--uid", self.refused(server_tap.Options()))

    def test_default(self) -> None:
        """Without --config it is the usual place."""
        self.assertEqual("/etc/pyvpn/server.ini", server_tap.Options()["config"])
        self.assertEqual("/etc/pyvpn/client.ini", client_tap.Options()["config"])

    def test_help(self) -> None:
        """The help names the option, and every signal."""
        for options in (server_tap.Options(), client_tap.Options()):
            text = str(options)
            for word in ("--config", "HUP", "USR2", "TERM"):
                self.assertIn(word, text)

    def test_service(self) -> None:
        """The service is made and nothing is started; the reactor counts monotonically."""
        self.patch(reactor, "seconds", reactor.seconds)
        self.write(f"[server]\nstate_dir = {self.place}/state\n")
        for nodaemon in (True, False):
            self.twistd["nodaemon"] = nodaemon
            service = server_tap.makeService(self.parse(server_tap.Options()))  # type: ignore[arg-type]
            self.assertEqual(("pyvpn server", 0), (service.name, service.running))
        self.assertFalse((self.place / "state").exists())


class Terminal(io.StringIO):
    """A standard input with a person behind it."""

    def isatty(self) -> bool:
        return True


class ClientTapTests(TapCase):
    """``twistd vpnclient``"""

    def setUp(self) -> None:
        super().setUp()
        self.patch(sys, "stdin", io.StringIO())
        self.prompts: list[str] = []

    def configure(self, more: str = "", user: str = "anna@") -> None:
        """Write a file with these lines in [client]."""
        self.write(
            f"[client]\nserver = pyvpn://{user}vpn.example.org:51820?pin={PIN}\n"
            f"state_dir = {self.place}/state\n{more}\n"
        )

    def sit_down(self, typed: str | type[BaseException]) -> None:
        """Somebody is at the terminal, and types that."""
        self.patch(sys, "stdin", Terminal())

        def ask(prompt: str) -> str:
            self.prompts.append(prompt)
            if isinstance(typed, str):
                return typed
            raise typed

        self.patch(getpass, "getpass", ask)
        self.patch(sys, "stderr", io.StringIO())

    def enroll(self) -> None:
        """The server knows this device."""
        device = Device(self.place / "state", PIN)
        request = device.request().encode()
        device.keep(sign_request(request, AUTHORITY_KEY, AUTHORITY, "anna", UNIX).decode())

    def test_asked(self) -> None:
        """At a terminal the password is asked for once, and by whom and for what is said."""
        self.configure()
        self.sit_down("correct horse")
        options = self.parse(client_tap.Options())

        self.assertEqual("correct horse", options["typed_password"])
        self.assertEqual(["Password of anna at vpn.example.org:51820: "], self.prompts)

    def test_normal_form(self) -> None:
        """What is typed with combining accents is the password typed with whole letters."""
        self.configure()
        self.sit_down("cafe\u0301")
        self.assertEqual("caf\u00e9", self.parse(client_tap.Options())["typed_password"])

    def test_nothing_typed(self) -> None:
        """No answer is no password: said at once, and not tried."""
        self.configure()
        for typed in ("", EOFError, KeyboardInterrupt):
            self.sit_down(typed)
            self.assertIn("no password was given", self.refused(client_tap.Options()))

    def test_impossible(self) -> None:
        """What cannot be a password is refused before it is sent."""
        self.configure()
        for typed in ("x" * 1025, "a\0b", "\udcff"):
            self.sit_down(typed)
            self.assertIn("at most 1024 bytes", self.refused(client_tap.Options()))

    def test_no_terminal(self) -> None:
        """Without a terminal it is said where the password can be put."""
        self.configure()
        line = self.refused(client_tap.Options())
        self.assertIn("password_file", line)
        self.assertIn(str(self.ini), line)

    def test_no_user(self) -> None:
        """A password needs a user."""
        self.configure(user="")
        self.sit_down("x")
        self.assertIn("no user", self.refused(client_tap.Options()))
        self.assertEqual([], self.prompts)

    def test_not_needed(self) -> None:
        """A known device, a password in the file or the first generation ask for none."""
        self.configure("password = correct horse")
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.write(
            "[client]\nserver = vpn.example.org:51005\nprotocol = plain-tcp\n"
            f"state_dir = {self.place}/state\n[tunnel]\naddress = 182.1.1.101/24\n"
        )
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.enroll()
        self.configure()
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.assertEqual([], self.prompts)

    def plain_udp(self, more: str = "") -> None:
        """Write a file for the first generation's UDP program."""
        self.write(
            f"[client]\nserver = vpn.example.org\nprotocol = plain-udp\n"
            f"state_dir = {self.place}/state\n{more}\n"
        )

    def test_plain_udp(self) -> None:
        """The first generation's UDP program has a password and no user: it is asked for."""
        self.plain_udp()
        self.sit_down("cafe\u0301")
        # As it stands: the other side compares bytes.
        self.assertEqual("cafe\u0301", self.parse(client_tap.Options())["typed_password"])
        self.assertEqual(["Password of the server at vpn.example.org:2003: "], self.prompts)
        self.plain_udp("password = horse")
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.assertFalse((self.place / "state").exists())

    def test_plain_udp_without_password(self) -> None:
        """Without it, or with one that cannot be, nothing is tried."""
        self.plain_udp()
        line = self.refused(client_tap.Options())
        self.assertIn("password_file", line)
        self.assertIn(str(self.ini), line)
        for typed in ("", "r", "e", "a\0b", "x" * 1025, "\udcff", EOFError, KeyboardInterrupt):
            self.sit_down(typed)
            self.assertIn("no password was given", self.refused(client_tap.Options()))

    def test_wanted_again(self) -> None:
        """A known device whose password the server wanted asks at a terminal, and only there."""
        self.configure()
        self.enroll()
        Device(self.place / "state", PIN).password_wanted = True
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.sit_down("correct horse")
        self.assertEqual("correct horse", self.parse(client_tap.Options())["typed_password"])
        self.sit_down("")
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        Device(self.place / "state", PIN).password_wanted = False
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])
        self.assertEqual(2, len(self.prompts))

    def test_open_files(self) -> None:
        """A file with a password, or a key, that others may read stops the start."""
        self.configure("password = correct horse")
        self.ini.chmod(0o640)
        self.assertIn(f"chmod 600 {self.ini}", self.refused(client_tap.Options()))
        self.configure()
        self.enroll()
        key = self.place / "state" / "device.key"
        key.chmod(0o644)
        self.assertIn(f"chmod 600 {key}", self.refused(client_tap.Options()))

    def test_password_file(self) -> None:
        """A password file that is not there is said at the start."""
        self.configure(f"password_file = {self.place}/password")
        self.assertIn("password_file", self.refused(client_tap.Options()))
        (self.place / "password").write_text("correct horse\n")
        os.chmod(self.place / "password", stat.S_IRUSR)
        self.assertIsNone(self.parse(client_tap.Options())["typed_password"])

    def test_uid(self) -> None:
        """--uid is refused here too."""
        self.configure("password = x")
        self.twistd["gid"] = 1000
        self.assertIn("--gid", self.refused(client_tap.Options()))

    def test_service(self) -> None:
        """The service is made and nothing is started."""
        self.patch(reactor, "seconds", reactor.seconds)
        self.configure("password = correct horse")
        service = client_tap.makeService(self.parse(client_tap.Options()))  # type: ignore[arg-type]

        self.assertEqual(("pyvpn client", 0), (service.name, service.running))
        self.assertFalse((self.place / "state").exists())
