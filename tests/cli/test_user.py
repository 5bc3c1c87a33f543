"""``pyvpn user``, as an operator types it."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

from click.testing import CliRunner, Result

from pyvpn.cli import main
from pyvpn.store import User
from pyvpn.store.passwords import hash_password, verify_password
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from tests.store.cases import NOON, StoreCase

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)


class UserCase(StoreCase):
    """A configuration, and its state directory."""

    def setUp(self) -> None:
        super().setUp()
        self.config = self.directory / "server.ini"
        self.configure()

    def configure(self, tunnel: str = "") -> None:
        """Write a configuration with these lines in [tunnel]."""
        self.config.write_text(
            f"[server]\nstate_dir = {self.directory}\n[tunnel]\n{tunnel}\n", encoding="utf-8"
        )

    def run_command(self, *words: str, stdin: str | bytes = "") -> Result:
        """``pyvpn user WORDS --config ...``"""
        arguments = ["user", *words, "--config", str(self.config)]
        return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)

    def assertDone(self, result: Result, *said: str) -> None:
        """It worked, and said these words."""
        self.assertEqual((0, ""), (result.exit_code, result.stderr))
        for words in said:
            self.assertIn(words, result.stdout)

    def assertRefused(self, result: Result, *said: str) -> None:
        """It failed, with exit 1 and one line that has these words."""
        self.assertEqual((1, ""), (result.exit_code, result.stdout))
        self.assertEqual(1, result.stderr.count("\n"), result.stderr)
        for words in said:
            self.assertIn(words, result.stderr)

    def users(self) -> list[User]:
        """Who is on file."""
        store = Store(self.path)
        try:
            return store.users()
        finally:
            store.close()

    def prepare(self, *names: str) -> None:
        """Put users on file, without the cost of a hash each."""
        store = Store(self.path)
        for name in names:
            store.add_user(name, HASH, NOON)
        store.close()


class AddTests(UserCase):
    """``pyvpn user add``"""

    def test_add(self) -> None:
        """A user is added with the password from standard input, also before the first start."""
        self.assertDone(self.run_command("add", "anna", stdin=f"{PASSWORD}\n"), "User anna added")
        [anna] = self.users()
        self.assertEqual("anna", anna.name)
        self.assertTrue(verify_password(anna.password_hash, PASSWORD))
        self.assertNotIn(PASSWORD.encode(), self.path.read_bytes())

    def test_lineEnds(self) -> None:
        """The end of the line is not part of the password, whatever wrote it; spaces are."""
        for number, (line, password) in enumerate(
            (
                (b"correct horse", "correct horse"),
                (b"correct horse\r\n", "correct horse"),
                (b" correct horse \n", " correct horse "),
                (b"correct horse\nbattery\n", "correct horse"),
            )
        ):
            self.assertDone(self.run_command("add", f"user{number}", stdin=line))
            self.assertTrue(verify_password(self.users()[number].password_hash, password))

    def test_normalised(self) -> None:
        """A password typed with combining accents is the one typed with whole letters."""
        self.run_command("add", "anna", stdin="cafe\u0301 creme\n")
        self.assertTrue(verify_password(self.users()[0].password_hash, "caf\u00e9 creme"))

    def test_badPassword(self) -> None:
        """A password that cannot be is refused in one line that does not repeat it."""
        for line, said in (
            (b"", "no password: type it at a terminal, or send one line"),
            (b"seven77\n", "has 7 characters: take 8 or more"),
            (b"\n", "has 0 characters"),
            (b"caf\xe9 creme\n", "not UTF-8"),
            (b"with\0a null\n", "without NUL"),
            (b"x" * 1025 + b"\n", "at most 1024 bytes"),
            (b"x" * 100_000 + b"\n", "at most 1024 bytes"),
        ):
            result = self.run_command("add", "anna", stdin=line)
            self.assertRefused(result, said)
            self.assertNotIn("seven77", result.stderr)
        self.assertEqual([], self.users())

    def test_badName(self) -> None:
        """A name that cannot be is refused before the password is asked for."""
        for name in ("", "anna smith", "änna", "a" * 65, "anna/x", "a\nb"):
            self.assertRefused(self.run_command("add", name), "a user name is")
        self.assertFalse(self.path.exists())

    def test_twice(self) -> None:
        """A name that is taken is refused, and the user unchanged."""
        self.prepare("anna")
        before = self.users()
        result = self.run_command("add", "anna", stdin="another horse\n")
        self.assertRefused(result, "there is a user 'anna' already")
        self.assertEqual(before, self.users())

    def test_noOption(self) -> None:
        """There is no way to write a password where other users of the machine can read it."""
        for words in (("add", "anna", PASSWORD), ("add", "anna", "--password", PASSWORD)):
            self.assertEqual(2, self.run_command(*words, stdin=f"{PASSWORD}\n").exit_code)
        self.assertFalse(self.path.exists())

    def test_stateDir(self) -> None:
        """The state directory can be named instead of a configuration."""
        words = ["user", "add", "anna", "--state-dir", str(self.directory / "other")]
        self.assertDone(CliRunner().invoke(main, words, input=PASSWORD))
        self.assertTrue((self.directory / "other" / self.path.name).exists())


class ChangeTests(UserCase):
    """``pyvpn user passwd | disable | enable | remove``"""

    def setUp(self) -> None:
        super().setUp()
        self.prepare("anna", "bert")

    def test_passwd(self) -> None:
        """A new password counts at once; the old one no more."""
        result = self.run_command("passwd", "anna", stdin="another horse\n")
        self.assertDone(result, "every device asks for it")
        anna, bert = self.users()
        self.assertTrue(verify_password(anna.password_hash, "another horse"))
        self.assertLess(NOON, anna.password_changed)
        self.assertEqual((HASH, NOON), (bert.password_hash, bert.password_changed))

    def test_badPassword(self) -> None:
        """A password that is too short changes nothing."""
        before = self.users()
        self.assertRefused(self.run_command("passwd", "anna", stdin="short\n"), "8 or more")
        self.assertEqual(before, self.users())

    def test_disable(self) -> None:
        """A user is locked out and let in again; the operator learns what that does now."""
        result = self.run_command("disable", "anna")
        self.assertDone(result, "live sessions end within a second")
        self.assertEqual([True, False], [user.disabled for user in self.users()])
        self.assertDone(self.run_command("enable", "anna"), "User anna enabled")
        self.assertEqual([False, False], [user.disabled for user in self.users()])

    def test_remove(self) -> None:
        """A removed user is gone, and only that one."""
        result = self.run_command("remove", "anna")
        self.assertDone(result, "live sessions end within a second")
        self.assertEqual(["bert"], [user.name for user in self.users()])

    def test_unknown(self) -> None:
        """A mistyped name is answered with the nearest one, and nothing changes."""
        before = self.users()
        for command in ("passwd", "disable", "enable", "remove", "address"):
            result = self.run_command(command, "ana", stdin=PASSWORD)
            self.assertRefused(result, "no user 'ana'", "did you mean 'anna'?")
            self.assertRefused(self.run_command(command, "xyz"), "`pyvpn user list`")
        self.assertEqual(before, self.users())


class AddressTests(UserCase):
    """``pyvpn user address``"""

    def setUp(self) -> None:
        super().setUp()
        self.prepare("anna", "bert")

    def fixed(self) -> tuple[str | None, str | None]:
        """The addresses kept for anna."""
        anna = self.users()[0]
        four, six = (
            str(ip_address(packed)) if packed else None for packed in (anna.fixed4, anna.fixed6)
        )
        return four, six

    def test_set(self) -> None:
        """Addresses of both families are kept, one after the other or at once."""
        result = self.run_command("address", "anna", "10.73.0.50")
        self.assertDone(
            result,
            "Kept for anna: 10.73.0.50; "
            "a device gets it at its next log-in, within a second if here.",
        )
        self.run_command("address", "anna", "fd70:7976:706e::50")
        self.assertEqual(("10.73.0.50", "fd70:7976:706e::50"), self.fixed())
        self.run_command("address", "anna", "FD70:7976:706E::0051", "10.73.0.51")
        self.assertEqual(("10.73.0.51", "fd70:7976:706e::51"), self.fixed())

    def test_show(self) -> None:
        """Without an address it says which are kept, and changes nothing."""
        self.assertDone(self.run_command("address", "anna"), "Kept for anna: no address.")
        self.run_command("address", "anna", "10.73.0.50", "fd70:7976:706e::50")
        result = self.run_command("address", "anna")
        self.assertDone(result, "Kept for anna: 10.73.0.50 and fd70:7976:706e::50.")

    def test_clear(self) -> None:
        """Addresses are given up again."""
        self.run_command("address", "anna", "10.73.0.50")
        self.assertDone(self.run_command("address", "anna", "--clear"), "no address")
        self.assertEqual((None, None), self.fixed())
        self.run_command("address", "bert", "10.73.0.50")

    def test_edges(self) -> None:
        """The first and last address that can be leased can be kept, too."""
        for address in ("10.73.0.2", "10.73.0.254"):
            self.assertDone(self.run_command("address", "anna", address))

    def test_never(self) -> None:
        """An address that no device can get is refused, with the reason."""
        for address, said in (
            ("10.73.0.1", "the server's own"),
            ("fd70:7976:706e::1", "the server's own"),
            ("10.73.0.0", "nobody's address"),
            ("10.73.0.255", "nobody's address"),
            ("fd70:7976:706e::", "nobody's address"),
            ("10.74.0.50", "outside of"),
            ("fe80::1", "outside of"),
            ("fd70:7976:706e::50%eth0", "not an IP address"),
            ("10.73.0.50/24", "'10.73.0.50/24' is not an IP address"),
            ("10.73.0.300", "not an IP address"),
            ("laptop", "not an IP address"),
            ("", "not an IP address"),
        ):
            self.assertRefused(self.run_command("address", "anna", address), said)
        self.assertEqual((None, None), self.fixed())

    def test_names(self) -> None:
        """What is outside of the server's network is told with the place to look at."""
        self.configure("network4 = 10.9.0.0/29")
        result = self.run_command("address", "anna", "10.73.0.50")
        self.assertRefused(result, f"{self.config}:4: [tunnel] network4 = 10.9.0.0/29")
        self.assertDone(self.run_command("address", "anna", "10.9.0.6"))

    def test_familyOff(self) -> None:
        """Without a network of that family there is nothing to keep."""
        self.configure("network6 = none")
        result = self.run_command("address", "anna", "fd70:7976:706e::50")
        self.assertRefused(result, "[tunnel] network6 = none")

    def test_taken(self) -> None:
        """An address is kept for one user; the other is named."""
        self.run_command("address", "anna", "10.73.0.50")
        self.assertRefused(self.run_command("address", "bert", "10.73.0.50"), "'anna'")

    def test_twoOfOneFamily(self) -> None:
        """Two addresses of one family cannot both be meant."""
        result = self.run_command("address", "anna", "10.73.0.50", "10.73.0.51")
        self.assertRefused(result, "one address of each family")
        self.assertEqual((None, None), self.fixed())

    def test_contradiction(self) -> None:
        """Neither can an address and --clear."""
        result = self.run_command("address", "anna", "10.73.0.50", "--clear")
        self.assertEqual(2, result.exit_code)
        self.assertEqual((None, None), self.fixed())


class ListTests(UserCase):
    """``pyvpn user list``"""

    def fill(self) -> None:
        """Two users, one with a device that has a lease."""
        store = Store(self.path)
        anna = store.add_user("anna", HASH, NOON)
        store.add_user("bert.long-name", HASH, NOON)
        device = store.add_device(anna.id, "ab" * 32, "läptop\n", NOON)
        store.save_lease(Lease(device.id, anna.id, b"\x0a\x49\x00\x32", None, None))
        store.set_fixed("anna", b"\x0a\x49\x00\x32", None)
        store.set_disabled("bert.long-name", True)
        store.set_limits("bert.long-name", 10_000_000, 500_000)
        store.close()

    def test_table(self) -> None:
        """People get a table."""
        self.fill()
        result = self.run_command("list")
        self.assertDone(result)
        rows = [line.split() for line in result.stdout.splitlines()]
        self.assertEqual(
            ["NAME", "STATE", "DEVICES", "SINCE", "KEPT", "ADDRESS", "LIMITS"], rows[0]
        )
        self.assertEqual(["anna", "enabled", "1", "10.73.0.50", "-"], [*rows[1][:3], *rows[1][4:]])
        self.assertEqual(
            ["bert.long-name", "disabled", "0", "-", "up", "10M,", "down", "500k"],
            [*rows[2][:3], *rows[2][4:]],
        )
        self.assertEqual(1, len({line.index(" 0 ") for line in result.stdout.splitlines()[2:]}))

    def test_json(self) -> None:
        """Programs get JSON, with everything but the hashes."""
        self.fill()
        result = self.run_command("list", "--json")
        self.assertDone(result)
        self.assertNotIn("argon2", result.stdout)
        anna, bert = json.loads(result.stdout)
        moment = "2023-11-14T22:13:20+00:00"
        device = {
            "name": "läptop\n",
            "fingerprint": "ab" * 32,
            "public_key": None,
            "created": moment,
            "authenticated": moment,
            "address4": "10.73.0.50",
            "address6": None,
        }
        expected = {
            "name": "anna",
            "disabled": False,
            "fixed4": "10.73.0.50",
            "fixed6": None,
            "limit_up": None,
            "limit_down": None,
            "created": moment,
            "password_changed": moment,
            "devices": [device],
        }
        self.assertEqual(expected, anna)
        self.assertEqual((True, []), (bert["disabled"], bert["devices"]))
        self.assertEqual((10_000_000, 500_000), (bert["limit_up"], bert["limit_down"]))

    def test_empty(self) -> None:
        """An empty store is not an error; people are told how to go on."""
        self.prepare()
        self.assertDone(self.run_command("list"), "`pyvpn user add NAME`")
        self.assertEqual([], json.loads(self.run_command("list", "--json").stdout))


class PlaceTests(UserCase):
    """Where the users are."""

    def test_noStore(self) -> None:
        """A state directory without a store is named, and none is made by looking."""
        for command in (("list",), ("remove", "anna"), ("disable", "anna")):
            self.assertRefused(self.run_command(*command), f"{self.path} does not exist")
        self.assertFalse(self.path.exists())

    def test_noConfiguration(self) -> None:
        """A configuration that is not there is named."""
        missing = Path("/does/not/exist.ini")
        result = CliRunner().invoke(main, ["user", "list", "--config", str(missing)])
        self.assertRefused(result, str(missing))

    def test_badConfiguration(self) -> None:
        """A mistake in the configuration is told with its place."""
        self.configure("mtu = huge")
        self.assertRefused(self.run_command("list"), f"{self.config}:4: [tunnel] mtu = 'huge'")

    def test_damaged(self) -> None:
        """A damaged store is one line, no traceback."""
        self.path.write_bytes(b"x" * 5000)
        self.path.chmod(0o600)
        self.assertRefused(self.run_command("list"), str(self.path), "is damaged")

    def test_openToOthers(self) -> None:
        """So is one that others may read."""
        self.prepare("anna")
        self.path.chmod(0o644)
        self.assertRefused(self.run_command("list"), f"chmod 600 {self.path}")
