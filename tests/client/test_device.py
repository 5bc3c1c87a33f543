"""What makes a machine the device it is, on its disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.device import Device, server_name
from pyvpn.config import load_client
from pyvpn.crypto.certificates import make_key, sign_request
from pyvpn.errors import ConfigError, HostError, PeerError
from tests.configfile import PIN
from tests.net.test_tls import AUTHORITY, AUTHORITY_KEY, UNIX, device_certificate


class DeviceTests(SynchronousTestCase):
    """Key and certificate."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp())

    def device(self, server: str = "one") -> Device:
        return Device(self.place, server)

    def certificate(self, device: Device) -> str:
        """One for its key."""
        request = device.request().encode()
        return sign_request(request, AUTHORITY_KEY, AUTHORITY, "anna", UNIX).decode()

    def test_first_start(self) -> None:
        """A key is made, for us alone, and there is no certificate."""
        device = self.device()
        path = self.place / "device.key"
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(self.place.stat().st_mode))
        self.assertEqual(path.read_bytes(), device.key)
        self.assertIsNone(device.certificate)

    def test_kept(self) -> None:
        """Key and certificate are there again at the next start, for that server only."""
        first = self.device()
        text = self.certificate(first)
        first.keep(text)

        self.assertEqual(
            (first.key, text.encode()), (self.device().key, self.device().certificate)
        )
        other = self.device("two")
        self.assertEqual((first.key, None), (other.key, other.certificate))

    def test_set_aside(self) -> None:
        """A certificate that was refused is not shown again, and stays on disk all the same:
        one refusal must not make a password necessary for ever.
        """
        device = self.device()
        device.keep(self.certificate(device))
        kept = device.certificate
        device.set_aside()

        self.assertIsNone(device.certificate)
        self.assertEqual((device.key, kept), (self.device().key, self.device().certificate))

    def test_no_certificate_of_ours(self) -> None:
        """A server that sends nonsense, or another's certificate, does not get it kept."""
        device = self.device()
        device.keep(self.certificate(device))
        good = device.certificate
        for text in ("", "nonsense", device.key.decode(), device_certificate().decode(), "\xff"):
            self.assertRaises(PeerError, device.keep, text)

        self.assertEqual(good, device.certificate)
        self.assertEqual(good, self.device().certificate)

    def test_broken_certificate(self) -> None:
        """A file that holds no certificate of our key is as good as none."""
        device = self.device()
        whole = self.certificate(device)
        device.keep(whole)
        [path] = self.place.glob("*.crt")
        for content in (b"", b"\0" * 100, whole.encode()[:200], device_certificate()):
            path.write_bytes(content)
            self.assertIsNone(self.device().certificate)
        path.write_text(whole)
        self.assertIsNotNone(self.device().certificate)

    def test_broken_key(self) -> None:
        """A broken key stops the start, with its file and what to do."""
        self.device()
        path = self.place / "device.key"
        other = rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        for content in (b"", b"nonsense", make_key()[:60], other):
            path.write_bytes(content)
            error = self.assertRaises(ConfigError, self.device)
            self.assertIn(f"{path} does not hold", str(error))
            self.assertNotIn("\n", str(error))

    def test_open_to_others(self) -> None:
        """Key or certificate that others may read stop it too."""
        device = self.device()
        device.keep(self.certificate(device))
        for path in self.place.iterdir():
            path.chmod(0o644)
            self.assertIn(f"chmod 600 {path}", str(self.assertRaises(ConfigError, self.device)))
            path.chmod(0o600)
        self.place.chmod(0o770)
        self.assertRaises(ConfigError, self.device)

    def test_no_place(self) -> None:
        """A state directory that cannot be is the host's fault."""
        self.place.write_text("")
        self.assertRaises(HostError, self.device)

    def test_server_name(self) -> None:
        """Servers are told apart by their pin, or else by their name."""
        for link, name in (
            (f"pyvpn://anna@vpn.example.org:51820?pin={PIN}", PIN),
            ("vpn.example.org:443, other.example.org", "vpn.example.org"),
        ):
            path = self.mktemp()
            Path(path).write_text(f"[client]\nserver = {link}\n")
            os.chmod(path, 0o600)
            self.assertEqual(name, server_name(load_client(path)))
