"""``pyvpn link``, ``join`` and ``cleanup``, as an operator types them."""

from __future__ import annotations

import stat
from ipaddress import ip_address
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.cli import main
from pyvpn.config import load_client
from pyvpn.crypto.certificates import make_key
from pyvpn.net import netlink
from pyvpn.net.journal import Journal, Rule
from pyvpn.net.private_files import write_private
from pyvpn.net.process import StateLock
from pyvpn.net.tls import load_or_make_identity
from tests.configfile import PIN

LINK = f"pyvpn://anna@vpn.example.org:51820?pin={PIN}"


class LinkCase(SynchronousTestCase):
    """A folder to work in."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        self.state = self.place / "state"
        self.ini = self.place / "pyvpn.ini"

    def run_command(self, *words: str) -> Result:
        return CliRunner().invoke(main, list(words), catch_exceptions=False)

    def done(self, *words: str) -> str:
        """What it says when it works."""
        result = self.run_command(*words)
        self.assertEqual((0, ""), (result.exit_code, result.stderr))
        return result.stdout

    def refused(self, *words: str) -> str:
        """The line with which it fails."""
        result = self.run_command(*words)
        self.assertEqual((1, ""), (result.exit_code, result.stdout), result.stderr)
        self.assertEqual(1, result.stderr.count("\n"), result.stderr)
        return result.stderr


class LinkTests(LinkCase):
    """``pyvpn link``"""

    def setUp(self) -> None:
        super().setUp()
        self.patch(netlink, "default_source", lambda *_: ip_address("198.18.2.2"))
        self.configure()

    def configure(self, more: str = "") -> None:
        self.ini.write_text(f"[server]\nstate_dir = {self.state}\n{more}\n")

    def test_link(self) -> None:
        """The link says where the server is and its pin, the same every time."""
        link = self.done("link", "anna", "--config", str(self.ini)).strip()
        pin = load_or_make_identity(self.state, 0.0).pin

        self.assertEqual(f"pyvpn://anna@198.18.2.2:51820?pin={pin}", link)
        self.assertEqual(link, self.done("link", "anna", "--config", str(self.ini)).strip())

    def test_running(self) -> None:
        """While the server runs its files are read, and none is written."""
        self.done("link", "--config", str(self.ini))
        before = (self.state / "server.crt").read_bytes()
        self.take_lock()
        self.configure("public_endpoints = vpn.example.org\n[tls]\nnames = other.example.org")

        self.assertIn("vpn.example.org", self.done("link", "--config", str(self.ini)))
        self.assertEqual(before, (self.state / "server.crt").read_bytes())

    def test_never_ran(self) -> None:
        """Keys are made if there are none, but not while a server is about to make them."""
        self.state.mkdir(0o700)
        lock = self.take_lock()
        line = self.refused("link", "--config", str(self.ini))
        self.assertIn("in use by another pyvpn process", line)
        self.assertEqual(["lock"], [each.name for each in self.state.iterdir()])
        lock.release()
        self.done("link", "--config", str(self.ini))

        self.take_lock()  # it is not kept

    def test_another_key(self) -> None:
        """After server.key was exchanged the link has the new one's pin."""
        old = self.done("link", "--config", str(self.ini))
        write_private(self.state / "server.key", make_key())
        new = self.done("link", "--config", str(self.ini))

        self.assertNotEqual(old, new)
        self.assertIn(load_or_make_identity(self.state, 0.0).pin, new)

    def test_own_certificate(self) -> None:
        """With a certificate of the operator's the pin is of that, and nothing is made."""
        other = load_or_make_identity(self.place / "other", 0.0)
        place = self.place / "other"
        self.configure(
            f"[tls]\ncertificate = {place}/server.crt\nprivate_key = {place}/server.key"
        )

        self.assertIn(other.pin, self.done("link", "--config", str(self.ini)))
        self.assertFalse((self.state / "server.key").exists())

    def take_lock(self) -> StateLock:
        """Be the server."""
        lock = StateLock(str(self.state))
        lock.take()
        self.addCleanup(lock.release)
        return lock

    def test_no_user(self) -> None:
        """Without a user it holds none."""
        self.configure("public_endpoints = vpn.example.org")
        link = self.done("link", "--config", str(self.ini))
        self.assertTrue(link.startswith("pyvpn://vpn.example.org:51820?pin="), link)

    def test_bad_user(self) -> None:
        """A name that cannot be is refused."""
        self.assertIn("a user name is", self.refused("link", "a b", "--config", str(self.ini)))

    def test_no_route(self) -> None:
        """A host without any route gets a link with a gap, that a person must fill."""
        self.patch(netlink, "default_source", lambda *_: None)
        self.assertIn("ADDRESS-OF-THIS-SERVER", self.done("link", "--config", str(self.ini)))

    def test_wrong_file(self) -> None:
        """A wrong configuration is one line."""
        self.configure("listen = x")
        self.assertIn(f"{self.ini}:3", self.refused("link", "--config", str(self.ini)))


class JoinTests(LinkCase):
    """``pyvpn join``"""

    def test_join(self) -> None:
        """The file is written, private, and means what the link said; what to do next is said."""
        ini = self.place / "new" / "client.ini"
        said = self.done("join", LINK, "--config", str(ini))

        self.assertEqual(0o600, stat.S_IMODE(ini.stat().st_mode))
        config = load_client(ini)
        self.assertEqual((PIN, "anna"), (config.pin, config.user))
        self.assertIn(f"twistd -n vpnclient --config {ini}", said)
        self.assertEqual([ini], list(ini.parent.iterdir()))

    def test_user(self) -> None:
        """The user may be named beside; if none is, that is said."""
        link = LINK.replace("anna@", "")
        self.assertIn("No user is named yet", self.done("join", link, "--config", str(self.ini)))
        self.done("join", link, "--user", "bob", "--config", str(self.ini), "--force")
        self.assertEqual("bob", load_client(self.ini).user)

    def test_there_already(self) -> None:
        """A file that is there is not touched without --force."""
        self.ini.write_text("# mine\n")
        self.assertIn("--force", self.refused("join", LINK, "--config", str(self.ini)))
        self.assertEqual("# mine\n", self.ini.read_text())
        self.done("join", LINK, "--config", str(self.ini), "--force")
        self.assertEqual("anna", load_client(self.ini).user)

    def test_no_link(self) -> None:
        """What is no link is refused, with the name of the file; nothing is left behind."""
        for link in ("", "pyvpn://", "pyvpn://a b@x", LINK[:-5], "http://x/", "pyvpn://x?pin=1"):
            line = self.refused("join", link, "--config", str(self.ini))
            self.assertNotIn(".new", line)
            self.assertEqual([], list(self.place.iterdir()), link)

    def test_more_than_a_link(self) -> None:
        """A link cannot bring other options with it."""
        for end in "\n\r\x0b\x0c\x1c\x85\u2028":
            for words in (
                (f"{LINK}{end}password_env = HOME",),
                (LINK, "--user", f"x{end}[tunnel]"),
            ):
                line = self.refused("join", *words, "--config", str(self.ini))
                self.assertIn("a link is one line", line)
                self.assertFalse(self.ini.exists())

    def test_password_in_the_link(self) -> None:
        """A password in the link is refused and not shown."""
        link = LINK.replace("anna", "anna:secret")
        self.assertNotIn("secret", self.refused("join", link, "--config", str(self.ini)))

    def test_no_place(self) -> None:
        """A folder that cannot be is one line."""
        (self.place / "file").write_text("")
        line = self.refused("join", LINK, "--config", str(self.place / "file" / "client.ini"))
        self.assertIn("client.ini: ", line)


class CleanupTests(LinkCase):
    """``pyvpn cleanup``"""

    def setUp(self) -> None:
        super().setUp()
        self.state.mkdir(mode=0o700)

    def test_nothing_left(self) -> None:
        """Nothing was left behind."""
        self.assertIn("Nothing is left", self.done("cleanup", "--state-dir", str(self.state)))

    def test_left_behind(self) -> None:
        """What a crash left is undone, and forgotten."""
        undone: list[tuple[object, ...]] = []
        self.patch(netlink, "delete_rule", lambda *which: undone.append(which))
        Journal(str(self.state / "host.json")).write(Rule(4, 7, 8))
        self.ini.write_text(f"[server]\nstate_dir = {self.state}\n")

        self.assertIn("Nothing is left", self.done("cleanup", "--config", str(self.ini)))
        self.done("cleanup", "--config", str(self.ini))
        self.assertEqual([(4, 7, 8)], undone)

    def test_running(self) -> None:
        """While the daemon runs it is refused."""
        lock = StateLock(str(self.state))
        lock.take()
        self.addCleanup(lock.release)
        line = self.refused("cleanup", "--state-dir", str(self.state))
        self.assertIn("in use by another pyvpn process", line)

    def test_no_state(self) -> None:
        """A directory that is not there is not made."""
        gone = self.place / "gone"
        self.assertIn("is not there", self.refused("cleanup", "--state-dir", str(gone)))
        self.assertFalse(gone.exists())
