"""``pyvpn device add``, as an operator types it."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

from click.testing import CliRunner

from pyvpn.cli import main
from pyvpn.cli.stock import Plan
from pyvpn.config import load_server
from pyvpn.crypto.x25519 import key_from_base64, key_to_base64, public_of
from pyvpn.errors import HostError
from pyvpn.net import netlink
from pyvpn.net.wireguard_key import load_or_make_wireguard_key
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from tests.cli.devices import OWN, DeviceCase, address, parse
from tests.store.cases import NOON


class AddTests(DeviceCase):
    """``pyvpn device add``: what it prints and what it keeps."""

    def test_whole_file(self) -> None:
        """The file has what an app needs, to the byte; the rest is said beside it."""
        self.configure("dns = 192.168.77.53, 192.168.77.54")
        result = self.add()
        private = parse(result.stdout)["Interface"]["PrivateKey"]
        server = key_to_base64(load_or_make_wireguard_key(self.directory).public)
        self.assertEqual(
            f"""\
# phone of anna, for the VPN at 198.18.2.2:51820
[Interface]
PrivateKey = {private}
Address = 10.73.0.254/32, fd70:7976:706e::ffff/128
DNS = 192.168.77.53, 192.168.77.54
MTU = 1420

[Peer]
PublicKey = {server}
AllowedIPs = 192.168.77.0/24, 10.73.0.0/24, fd70:7976:706e::/64
Endpoint = 198.18.2.2:51820
PersistentKeepalive = 25
""",
            result.stdout,
        )
        self.assertEqual(
            "Device phone of anna is on file: 10.73.0.254 and fd70:7976:706e::ffff.\n",
            result.stderr,
        )

    def test_on_file(self) -> None:
        """On file is the public key to the private one shown, and the lease, for good."""
        private = key_from_base64(self.added()["Interface"]["PrivateKey"])
        [device] = self.devices()
        self.assertEqual(
            (None, "phone", public_of(private), None),
            (device.fingerprint, device.name, device.public_key, device.preshared_key),
        )
        addresses = address("10.73.0.254"), address("fd70:7976:706e::ffff")
        self.assertEqual([Lease(device.id, 1, *addresses, None, True)], self.leases())

    def test_shown_once(self) -> None:
        """The private key is stored nowhere, in no spelling."""
        text = self.added()["Interface"]["PrivateKey"]
        private = key_from_base64(text)
        for path in self.directory.rglob("*"):
            content = path.read_bytes()
            for secret in (private, text.encode(), private.hex().encode()):
                self.assertNotIn(secret, content, path)

    def test_own_key(self) -> None:
        """With a key of the app's own there is a place for the private one, and none is made."""
        result = self.add("--public-key", OWN)
        file = parse(result.stdout)
        self.assertNotIn("PrivateKey", file["Interface"])
        self.assertIn(f"# key is {OWN}\n#PrivateKey = \n", result.stdout)
        self.assertEqual(OWN, key_to_base64(self.devices()[0].public_key or b""))

    def test_preshared_key(self) -> None:
        """A preshared key is made if asked for, kept and printed; two devices have two."""
        first = self.added("--preshared-key")["Peer"]["PresharedKey"]
        second = self.added("--preshared-key", "--public-key", OWN, name="tab")
        on_file = [key_to_base64(each.preshared_key or b"") for each in self.devices()]
        self.assertEqual([first, second["Peer"]["PresharedKey"]], on_file)
        self.assertNotEqual(*on_file)

    def test_nothing_configured(self) -> None:
        """What is switched off is not in the file."""
        self.configure("network6 = none\nroutes = none\nmtu = 1280", "[wireguard]\nkeepalive = 0")
        file = self.added()
        self.assertEqual(["PrivateKey", "Address", "MTU"], list(file["Interface"]))
        self.assertEqual(["PublicKey", "AllowedIPs", "Endpoint"], list(file["Peer"]))
        self.assertEqual("10.73.0.254/32", file["Interface"]["Address"])
        self.assertEqual("1280", file["Interface"]["MTU"])
        self.assertEqual("10.73.0.0/24", file["Peer"]["AllowedIPs"])

    def test_routes(self) -> None:
        """Routes that are written are taken, and not the host's; none lies inside another."""
        self.configure("routes = 10.0.0.0/8, 10.9.0.0/16, fd77::/64")
        allowed = self.added()["Peer"]["AllowedIPs"]
        self.assertEqual("10.0.0.0/8, fd77::/64, fd70:7976:706e::/64", allowed)

    def test_routes_not_known(self) -> None:
        """A host that cannot say its networks is told of, and the file has the tunnel's own."""

        def fail(exclude: object) -> None:
            raise HostError("netlink: Operation not permitted")

        self.patch(netlink, "own_networks", fail)
        result = self.add()
        self.assertEqual(0, result.exit_code)
        self.assertIn("(netlink: Operation not permitted)", result.stderr)
        self.assertIn("[tunnel] routes = ...", result.stderr)
        allowed = parse(result.stdout)["Peer"]["AllowedIPs"]
        self.assertEqual("10.73.0.0/24, fd70:7976:706e::/64", allowed)

    def test_no_route_to_the_world(self) -> None:
        """Where nobody knows the server's address, a person is asked to write it."""
        self.patch(netlink, "default_source", lambda *_: None)
        result = self.add()
        self.assertIn("Endpoint = ADDRESS-OF-THIS-SERVER:51820\n", result.stdout)
        self.assertIn("in the place of ADDRESS-OF-THIS-SERVER", result.stderr)

    def test_disabled(self) -> None:
        """A device of a user who is locked out is put on file, with a word about that."""
        self.in_store(lambda store: store.set_disabled("anna", True))
        self.assertIn("anna is disabled", self.add().stderr)

    def test_state_dir(self) -> None:
        """The state directory may be another than the configured one, for users and keys."""
        other = self.directory / "other"
        store = Store(other / self.path.name)
        store.add_user("cleo", "hash", NOON)
        store.close()
        self.added("--state-dir", str(other), user="cleo")
        self.assertTrue((other / "wireguard.key").exists())
        self.assertFalse((self.directory / "wireguard.key").exists())


class AddressTests(DeviceCase):
    """Which address a new device gets."""

    def lease(self, user: str, name: str, four: str, released: float | None) -> None:
        """A native device with a lease."""

        def put(store: Store) -> None:
            owner = store.user(user)
            assert owner is not None
            device = store.add_device(owner.id, name.ljust(64, "0"), name, NOON)
            store.save_lease(Lease(device.id, owner.id, address(four), None, released))

        self.in_store(put)

    def four(self, *words: str, name: str = "phone") -> str:
        return self.added(*words, name=name)["Interface"]["Address"].split("/")[0]

    def test_chosen(self) -> None:
        """One that is asked for, of either family or both; the other is found."""
        file = self.added("--address", "fd70:7976:706e::50")
        self.assertEqual("10.73.0.254/32, fd70:7976:706e::50/128", file["Interface"]["Address"])
        file = self.added(
            "--address", "FD70:7976:706e:0::51", "--address", "10.73.0.51", name="tab"
        )
        self.assertEqual("10.73.0.51/32, fd70:7976:706e::51/128", file["Interface"]["Address"])

    def test_kept(self) -> None:
        """The one kept for the user, for the first device; for the next one another."""
        self.in_store(lambda store: store.set_fixed("anna", address("10.73.0.50"), None))
        self.assertEqual("10.73.0.50", self.four())
        self.assertEqual("10.73.0.254", self.four(name="tab"))

    def test_kept_and_away(self) -> None:
        """Not if a laptop has it that is only away; unless it is asked for."""
        self.in_store(lambda store: store.set_fixed("anna", address("10.73.0.50"), None))
        self.lease("anna", "laptop", "10.73.0.50", NOON)
        self.assertEqual("10.73.0.254", self.four())
        self.assertEqual("10.73.0.50", self.four("--address", "10.73.0.50", name="tab"))
        self.assertEqual([True, True], [lease.pinned for lease in self.leases()])

    def test_taken(self) -> None:
        """What is not to be had is refused, with whose it is; nothing is on file then."""
        self.lease("bert", "laptop", "10.73.0.20", None)
        self.in_store(lambda store: store.set_fixed("bert", address("10.73.0.30"), None))
        self.added("--address", "10.73.0.40", user="bert", name="tab")
        before = self.devices()
        for text, said in (
            ("10.73.0.20", "in use by bert's device 'laptop': choose another"),
            ("10.73.0.40", "in use by bert's device 'tab': choose another"),
            ("10.73.0.30", "kept for bert: see `pyvpn user address bert`"),
            ("10.73.0.1", "the server's own address"),
            ("10.73.0.255", "nobody's address"),
            ("10.74.0.1", "outside of"),
            ("fd70:7976:706e::1", "the server's own address"),
            ("fd00::1", "outside of"),
            ("10.73.0.9/24", "not an IP address"),
            ("home", "not an IP address"),
            ("", "not an IP address"),
        ):
            self.assertRefused(self.add("--address", text), said)
        two = ("--address", "10.73.0.50", "--address", "10.73.0.51")
        self.assertRefused(self.add(*two), "one address of each family")
        self.assertEqual(before, self.devices())

    def test_family_off(self) -> None:
        """A family that is switched off has no address to ask for."""
        self.configure("network6 = none")
        refused = self.add("--address", "fd70:7976:706e::50")
        self.assertRefused(refused, "[tunnel] network6 = none")

    def test_not_for_others(self) -> None:
        """What a stock device has cannot be kept for another user, by `pyvpn user address`."""
        self.added("--address", "10.73.0.50")
        words = ["user", "address", "bert", "10.73.0.50", "--config", str(self.config)]
        result = CliRunner().invoke(main, words)
        self.assertRefused(result, "belongs to anna's device 'phone'")

    def test_full(self) -> None:
        """In a full pool who was away longest gives way; if nobody is, it is said."""
        self.configure("network4 = 10.73.0.0/30")
        self.lease("bert", "laptop", "10.73.0.2", NOON)
        self.assertEqual("10.73.0.2", self.four())
        refused = self.add(name="tab")
        self.assertRefused(refused, "none of the 1 addresses is free", "a larger network")
        self.assertEqual(["laptop", "phone"], [device.name for device in self.devices()])

    def test_at_once(self) -> None:
        """Commands at the same moment choose different addresses."""
        server = load_server(self.config)
        owner = self.users()[0]
        load_or_make_wireguard_key(self.directory)

        def add(number: int) -> bytes | None:
            store = self.open()
            plan = Plan.make(server, self.directory, (), None)
            _, lease = plan.put_on_file(store, owner, f"phone{number}", False, NOON)
            return lease.address4

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(add, range(6)))
        expected = [address(f"10.73.0.{254 - n}") for n in range(6)]
        self.assertEqual(sorted(expected), sorted(each for each in answers if each))


class OutputTests(DeviceCase):
    """``--output`` and ``--qr``"""

    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "anna.conf"

    def test_output(self) -> None:
        """The file is written for our eyes only, whatever the umask; nothing is printed."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        result = self.add("--output", str(self.file))
        self.assertEqual((0, ""), (result.exit_code, result.stdout))
        self.assertEqual(0o600, stat.S_IMODE(self.file.stat().st_mode))
        self.assertIn("PrivateKey", parse(self.file.read_text())["Interface"])

    def test_there_already(self) -> None:
        """What is there is not replaced, nor is a link followed; nothing is put on file."""
        link = self.directory / "link.conf"
        link.symlink_to(self.directory / "elsewhere")
        self.file.write_text("mine")
        for path in (self.file, link):
            self.assertRefused(self.add("--output", str(path)), f"{path} is there already")
        self.assertEqual(("mine", []), (self.file.read_text(), self.devices()))
        self.assertFalse((self.directory / "elsewhere").exists())

    def test_no_place(self) -> None:
        """A directory that is not there is named, and nothing put on file."""
        path = self.directory / "no" / "anna.conf"
        self.assertRefused(self.add("--output", str(path)), f"{path}: cannot be written")
        self.assertEqual([], self.devices())

    def test_nothing_left(self) -> None:
        """When the device cannot be put on file no file is left behind."""
        words = ("--output", str(self.file), "--address", "10.73.0.50")
        self.in_store(lambda store: store.set_fixed("bert", address("10.73.0.50"), None))
        self.assertRefused(self.add(*words), "kept for bert")
        self.assertFalse(self.file.exists())

    def test_disk_full(self) -> None:
        """When the file cannot be written the device is off file again: its key is lost."""

        def fail(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        load_or_make_wireguard_key(self.directory)
        self.patch(os, "fsync", fail)
        result = self.add("--output", str(self.file))
        self.assertRefused(result, "No space left on device: nothing was put on file")
        self.assertEqual(([], []), (self.devices(), self.leases()))
        self.assertFalse(self.file.exists())

    def test_qr(self) -> None:
        """A QR code is drawn beside the file and not into it."""
        result = self.add("--qr")
        self.assertEqual(0, result.exit_code)
        parse(result.stdout)
        drawn = [line for line in result.stderr.splitlines() if "█" in line]
        self.assertLess(25, len(drawn))
        self.assertEqual(1, len({len(line) for line in drawn}))
        self.assertNotIn("\x1b", result.stderr)

    def test_no_qr_by_itself(self) -> None:
        """Where no terminal is, nothing is drawn unasked."""
        self.assertNotIn("█", self.add().stderr)

    def test_qr_without_key(self) -> None:
        """Without the private key it would be of no use: said, and nothing done."""
        result = self.add("--qr", "--public-key", OWN)
        self.assertEqual(2, result.exit_code)
        self.assertIn("of no use to an app", " ".join(result.stderr.split()))
        self.assertEqual([], self.devices())

    def test_too_long_for_qr(self) -> None:
        """A file that no QR code can hold is printed all the same, with a word about that."""
        routes = ", ".join(f"fd00:1111:2222:{n:x}::/64" for n in range(1, 250))
        self.configure(f"routes = {routes}")
        result = self.add("--qr")
        self.assertEqual(0, result.exit_code)
        self.assertIn("too many for a QR code. Let [tunnel] routes be fewer.", result.stderr)
