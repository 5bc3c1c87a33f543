"""The server's WireGuard key, made by whoever comes first."""

from __future__ import annotations

import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.errors import ConfigError
from pyvpn.net.wireguard_key import KEY_FILE, load_or_make_wireguard_key

# RFC 7748 section 6.1: Alice's keys; the private one as the curve uses it, clamped.
PRIVATE = bytes.fromhex("70076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c6a")
PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")


class WireGuardKeyTests(SynchronousTestCase):
    """A file of one line."""

    def setUp(self) -> None:
        """Begin with a state directory."""
        self.state = Path(tempfile.mkdtemp(prefix="pyvpn-key-"))
        self.addCleanup(shutil.rmtree, self.state)
        self.path = self.state / KEY_FILE

    def write(self, content: bytes, mode: int = 0o600) -> None:
        self.path.unlink(missing_ok=True)
        self.path.touch(0o600)
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def test_made_once(self) -> None:
        """It is made at the first call, private, and the same from then on; also the directory."""
        state = self.state / "below"
        first = load_or_make_wireguard_key(state)

        self.assertEqual(first.private, load_or_make_wireguard_key(state).private)
        self.assertEqual(0o600, stat.S_IMODE((state / KEY_FILE).stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(state.stat().st_mode))
        self.assertEqual(f"{key_to_base64(first.private)}\n", (state / KEY_FILE).read_text())

    def test_not_the_same(self) -> None:
        """Two servers have two keys."""
        one, other = (load_or_make_wireguard_key(self.state / name) for name in "ab")
        self.assertNotEqual(one.private, other.private)

    def test_at_once(self) -> None:
        """Server and commands that make it at one moment have one and the same."""
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(lambda _: load_or_make_wireguard_key(self.state), range(8)))
        self.assertEqual(1, len({key.private for key in keys}))
        self.assertEqual([KEY_FILE], [each.name for each in self.state.iterdir()])

    def test_brought_along(self) -> None:
        """A key that `wg genkey` wrote is taken, with or without the end of the line."""
        text = key_to_base64(PRIVATE).encode()
        for content in (text, text + b"\n", text + b"\r\n"):
            self.write(content)
            self.assertEqual(PUBLIC, load_or_make_wireguard_key(self.state).public)

    def test_no_key(self) -> None:
        """What is no key is refused with what to do, never repeated, and left as it was."""
        text = key_to_base64(PRIVATE).encode()
        for content in (b"", text[:-1], text + b"A", text + b"\n" + text, b"\xff" * 44, bytes(32)):
            self.write(content)
            told = str(self.assertRaises(ConfigError, load_or_make_wireguard_key, self.state))
            self.assertIn(f"{self.path} is not a WireGuard key", told)
            self.assertIn("backup", told)
            self.assertNotIn(text.decode()[:20], told)
            self.assertEqual(content, self.path.read_bytes())

    def test_open_to_others(self) -> None:
        """One that others can read is refused."""
        self.write(key_to_base64(PRIVATE).encode(), 0o644)
        error = self.assertRaises(ConfigError, load_or_make_wireguard_key, self.state)
        self.assertIn(f"chmod 600 {self.path}", str(error))
