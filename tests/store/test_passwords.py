"""Password hashes."""

from __future__ import annotations

from argon2 import Parameters, PasswordHasher, extract_parameters
from argon2.low_level import Type
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.store import passwords
from pyvpn.store.passwords import hash_password, needs_rehash, verify_password


class PasswordTests(SynchronousTestCase):
    """A password is recognised from its hash, and from nothing else."""

    on_file = hash_password("correct horse")

    def test_right(self) -> None:
        """The right password fits."""
        self.assertTrue(verify_password(self.on_file, "correct horse"))

    def test_wrong(self) -> None:
        """Another one does not, nor the empty one, nor one that differs in a space."""
        for wrong in ("correct horsf", "", "correct horse "):
            self.assertFalse(verify_password(self.on_file, wrong))

    def test_nobody(self) -> None:
        """Without an account no password fits, the empty one neither."""
        for anything in ("correct horse", "", "\0"):
            self.assertFalse(verify_password(None, anything))
            self.assertFalse(verify_password("", anything))

    def test_unreadable(self) -> None:
        """A hash nobody can read fits no password and is no reason to stop."""
        for unreadable in ("!", "$argon2id$", "$1$salt$hash", self.on_file[:-10] + "\n"):
            self.assertFalse(verify_password(unreadable, "correct horse"))
            self.assertTrue(needs_rehash(unreadable))

    def test_salted(self) -> None:
        """Equal passwords cannot be told from their hashes."""
        self.assertNotEqual(self.on_file, hash_password("correct horse"))

    def test_parameters(self) -> None:
        """argon2id, 19 MiB, two passes, one lane: what the documentation says."""
        expected = Parameters(Type.ID, 19, 16, 32, 2, 19 * 1024, 1)
        self.assertEqual(expected, extract_parameters(self.on_file))

    def test_nobodyCostsTheSame(self) -> None:
        """Verifying for an unknown user takes exactly the work of a real one."""
        self.assertEqual(
            extract_parameters(self.on_file),
            extract_parameters(passwords._NOBODY),  # the point is that nobody else sees it
        )

    def test_rehash(self) -> None:
        """Hashes of older, cheaper settings are due for renewal; today's are not."""
        cheaper = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
        self.assertTrue(needs_rehash(cheaper))
        self.assertTrue(verify_password(cheaper, "correct horse"))
        self.assertFalse(needs_rehash(self.on_file))
