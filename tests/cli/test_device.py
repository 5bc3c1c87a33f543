"""``pyvpn device list | remove | reset``, as an operator types them."""

from __future__ import annotations

import json

from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.store import Remembered
from pyvpn.store.sqlite import Store
from pyvpn.tunnel.leases import Lease
from pyvpn.wire.datagram import Path as PeerPath
from tests.cli.devices import OWN, DeviceCase, address
from tests.store.cases import NOON


class ListTests(DeviceCase):
    """``pyvpn device list``"""

    def fill(self) -> None:
        """Two native devices of bert's, a stock one of anna's."""

        def put(store: Store) -> None:
            laptop = store.add_device(2, "ab" * 32, "läptop\n", NOON)
            store.save_lease(Lease(laptop.id, 2, address("10.73.0.2"), None, None))
            away = store.add_device(2, "cd" * 32, "away", NOON + 1)
            store.save_lease(Lease(away.id, 2, address("10.73.0.3"), None, NOON))

        self.in_store(put)
        self.added("--public-key", OWN, "--preshared-key")
        heard = Remembered(3, PeerPath(address("192.0.2.7"), 40000), NOON, bytes(12))
        self.in_store(lambda store: store.save_peers([heard]))

    def test_table(self) -> None:
        """People get a table, by user; a name cannot play with the terminal."""
        self.fill()
        result = self.run_command("list")
        self.assertDone(result)
        rows = [line.split() for line in result.stdout.splitlines()]
        self.assertIn("NUMBER  KIND       ADDRESSES", result.stdout)
        self.assertEqual(["anna", "phone", "3", "wireguard"], rows[1][:4])
        self.assertEqual(["10.73.0.254,", "fd70:7976:706e::ffff"], rows[1][4:6])
        self.assertEqual(OWN, rows[1][-1])
        expected = ["bert", "läptop\\n", "1", "pyvpn", "10.73.0.2", "connected", "ab" * 32]
        self.assertEqual(expected, rows[2])
        self.assertEqual(["bert", "away", "2", "pyvpn", "10.73.0.3"], rows[3][:5])
        self.assertRegex(rows[3][5], r"2023-11-1\d")

    def test_one_user(self) -> None:
        """Of one user, if one is named."""
        self.fill()
        result = self.run_command("list", "anna")
        self.assertEqual(2, len(result.stdout.splitlines()))
        self.assertRefused(self.run_command("list", "ana"), "did you mean 'anna'?")

    def test_json(self) -> None:
        """Programs get JSON, with everything but secrets."""
        self.fill()
        result = self.run_command("list", "--json")
        self.assertDone(result)
        _, away, phone = json.loads(result.stdout)
        secret = self.devices()[2].preshared_key
        self.assertNotIn(key_to_base64(secret or b""), result.stdout)
        self.assertEqual(
            ("pyvpn", "cd" * 32, None),
            tuple(away[key] for key in ("kind", "fingerprint", "public_key")),
        )
        created = phone.pop("created")
        self.assertEqual(
            {
                "user": "anna",
                "name": "phone",
                "number": 3,
                "kind": "wireguard",
                "fingerprint": None,
                "public_key": OWN,
                "has_preshared_key": True,
                "address4": "10.73.0.254",
                "address6": "fd70:7976:706e::ffff",
                "authenticated": None,
                "endpoint": "192.0.2.7:40000",
                "heard": "2023-11-14T22:13:20+00:00",
            },
            phone,
        )
        self.assertRegex(created, r"^20\d\d-\d\d-\d\dT")

    def test_never_heard(self) -> None:
        """A device that never came is told from one that did."""
        self.added()
        self.assertIn(" never ", self.run_command("list").stdout)

    def test_empty(self) -> None:
        """No devices are no error; people are told how to go on."""
        self.assertDone(self.run_command("list"), "`pyvpn device add --help`")
        self.assertEqual([], json.loads(self.run_command("list", "--json").stdout))


class RemoveTests(DeviceCase):
    """``pyvpn device remove | reset``"""

    def setUp(self) -> None:
        super().setUp()
        self.added("--public-key", OWN)
        for number, user in enumerate((1, 1, 2)):
            fingerprint = f"{number}" * 64
            self.in_store(
                lambda store, user=user, of=fingerprint: store.add_device(user, of, "mac", NOON)
            )

    def numbers(self) -> list[int]:
        return [device.id for device in self.devices()]

    def test_remove(self) -> None:
        """A device goes with its address, by its name, its number or its key."""
        self.assertDone(self.run_command("remove", "anna", "phone"), "ends within a second")
        self.assertEqual(([2, 3, 4], []), (self.numbers(), self.leases()))
        self.added("--public-key", OWN, name="again")
        for name, left in ((OWN, [2, 3, 4]), ("3", [2, 4]), ("0" * 64, [4])):
            self.assertDone(self.run_command("remove", "anna", name))
            self.assertEqual(left, self.numbers())

    def test_which(self) -> None:
        """A name that two devices have is not enough; nor is another user's device meant."""
        refused = self.run_command("remove", "anna", "mac")
        self.assertRefused(refused, "2 devices", "the number (2 or 3)", "`pyvpn device list anna`")
        self.assertRefused(self.run_command("remove", "anna", "4"), "no device '4'")
        self.assertRefused(self.run_command("remove", "anna", "phon"), "did you mean 'phone'?")
        self.assertRefused(self.run_command("remove", "ana", "mac"), "did you mean 'anna'?")
        self.assertEqual([1, 2, 3, 4], self.numbers())
        self.assertDone(self.run_command("remove", "bert", "mac"))
        self.assertEqual([1, 2, 3], self.numbers())

    def test_named_like_a_number(self) -> None:
        """A machine that calls itself by another's number does not have that one removed."""
        self.in_store(lambda store: store.add_device(1, "9" * 64, "2", NOON))
        self.assertRefused(self.run_command("remove", "anna", "2"), "the number (2 or 5)")
        self.assertDone(self.run_command("remove", "anna", "9" * 64))
        self.assertDone(self.run_command("remove", "anna", "2"))
        self.assertEqual([1, 3, 4], self.numbers())

    def test_reset(self) -> None:
        """The timestamp is forgotten, for the server to see."""
        heard = Remembered(1, None, NOON, b"\xff" * 12)
        self.in_store(lambda store: store.save_peers([heard]))
        self.assertDone(self.run_command("reset", "anna", "phone"), "is forgotten")
        self.assertEqual([heard._replace(received=None, resets=1)], self.open().peers())

    def test_nothing_to_reset(self) -> None:
        """A device without a WireGuard key has no such timestamp."""
        refused = self.run_command("reset", "bert", "mac")
        self.assertRefused(refused, "bert's device 'mac' has no WireGuard key")
        self.assertRefused(self.run_command("reset", "anna", "x"), "no device 'x'")
