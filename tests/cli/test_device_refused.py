"""``pyvpn device add``: what cannot be."""

from __future__ import annotations

import gzip
import os

from click.testing import CliRunner

from pyvpn.cli import main
from pyvpn.crypto.x25519 import key_to_base64, public_of
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.store.schema import SCHEMA_VERSION
from tests.cli.devices import OTHER, OWN, DeviceCase
from tests.store.test_migration import OLD

# The points that give zero with every private key, and two spellings of others by numbers that
# no key has: https://cr.yp.to/ecdh.html#validate, and the prime itself.
LOW_ORDER = (
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
)
NOT_CANONICAL = ("f6" + "ff" * 30 + "7f", "09" + "00" * 30 + "80")


class RefusedTests(DeviceCase):
    """What cannot be is one line, and changes nothing."""

    def assertNothingDone(self) -> None:
        self.assertEqual(([], []), (self.devices(), self.leases()))

    def test_keys(self) -> None:
        """What is no key, or one that no device can have, is refused without repeating it."""
        no_key = "a key is 32 bytes in base64: 44 characters, the last of them ="
        for text in (
            "",
            "x",
            OWN[:-1],
            OWN + "=",
            f" {OWN}",
            OWN[:-2] + "B=",
            OWN.replace("=", "A"),
            OWN[:-3] + "é==",
            "\ud800" * 44,
            public_of(b"\x51" * 32).hex(),
        ):
            result = self.add("--public-key", text)
            self.assertRefused(result, f"--public-key: {no_key}")
            self.assertNotIn(OWN[:20], result.stderr)
        for point in (*LOW_ORDER, *NOT_CANONICAL):
            text = key_to_base64(bytes.fromhex(point))
            self.assertRefused(self.add("--public-key", text), "no device has that key")
        self.assertNothingDone()

    def test_keys_of_others(self) -> None:
        """Neither the server's own key nor that of another device is taken; it says whose."""
        server = key_to_base64(load_or_make_wireguard_key(self.directory).public)
        self.assertRefused(self.add("--public-key", server), "the server's own key")
        self.assertNothingDone()
        self.added("--public-key", OWN)
        for user in ("anna", "bert"):
            refused = self.add("--public-key", OWN, user=user, name="tab")
            self.assertRefused(refused, "on file for anna's device 'phone'")
        self.assertEqual(1, len(self.devices()))
        self.added("--public-key", OTHER, name="tab")

    def test_names(self) -> None:
        """Names that people could not read or type are refused, and those that are taken."""
        for name in ("", " ", "a ", "a\nb", "a\x1b[2J", "x" * 65, "\ud800", "\u202eab"):
            self.assertRefused(self.add(name=name), "1 to 64 printable characters")
        self.assertRefused(self.add(name="17"), "taken for a device's number")
        self.assertNothingDone()
        self.added(name="Ännas Händy 2")
        refused = self.add(name="Ännas Händy 2")
        self.assertRefused(refused, "the user has a device 'Ännas Händy 2' already")

    def test_user(self) -> None:
        """An unknown user is answered with the nearest name, and no key is made for nothing."""
        self.assertRefused(self.add(user="ana"), "no user 'ana'", "did you mean 'anna'?")
        self.assertFalse((self.directory / "wireguard.key").exists())

    def test_switched_off(self) -> None:
        """Without WireGuard on the server there is nothing that an app could reach."""
        self.configure("", "[wireguard]\nlisten = none")
        where = f"{self.config}:6: [wireguard] listen = none"
        self.assertRefused(self.add(), where, "no WireGuard app can reach")
        self.assertNothingDone()

    def test_not_wireguard(self) -> None:
        """Only WireGuard apps are added by hand; who tries otherwise reads how it goes."""
        result = self.run_command("add", "anna", "laptop")
        self.assertEqual(2, result.exit_code)
        self.assertIn("puts itself on file", " ".join(result.stderr.split()))
        self.assertNothingDone()

    def test_places(self) -> None:
        """No configuration, no store, a damaged or an open one, a bad key file: one line each."""
        missing = CliRunner().invoke(main, ["device", "list", "--config", "/does/not/exist.ini"])
        self.assertRefused(missing, "/does/not/exist.ini")
        (self.directory / "wireguard.key").touch(0o600)
        self.assertRefused(self.add(), "wireguard.key is not a WireGuard key")
        (self.directory / "wireguard.key").unlink()
        self.path.chmod(0o644)
        self.assertRefused(self.add(), f"chmod 600 {self.path}")
        self.path.chmod(0o600)
        self.path.write_bytes(b"x" * 5000)
        self.assertRefused(self.add(), "is damaged")
        self.path.unlink()
        for command in (("list",), ("remove", "anna", "x"), ("reset", "anna", "x")):
            self.assertRefused(self.run_command(*command), f"{self.path} does not exist")
        self.assertRefused(self.add(), f"{self.path} does not exist")
        self.assertFalse(self.path.exists())
        self.configure("mtu = huge")
        self.assertRefused(self.add(), f"{self.config}:4: [tunnel] mtu = 'huge'")

    def test_not_writable(self) -> None:
        """Without permission the answer says who has it."""
        self.path.chmod(0o400)
        if os.access(self.path, os.W_OK):
            self.skipTest("root may write everywhere")
        self.assertRefused(self.add(), "run this as root, or as the server's own user")

    def test_old_store(self) -> None:
        """A store of an older pyvpn is brought up to date; one of a newer is left alone."""
        self.path.write_bytes(gzip.decompress(OLD.read_bytes()))
        self.added(user="anna", name="tab")
        self.assertEqual(["läptop", "phone", "phone", "tab"], [d.name for d in self.devices()])
        store = self.open()
        store._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        self.assertRefused(self.add(), f"has schema {SCHEMA_VERSION + 1}, this pyvpn knows")
