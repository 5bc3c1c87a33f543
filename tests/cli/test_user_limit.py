"""``pyvpn user limit``, as an operator types it."""

from __future__ import annotations

from tests.cli.test_user import UserCase


class LimitTests(UserCase):
    """``pyvpn user limit``"""

    def setUp(self) -> None:
        super().setUp()
        self.prepare("anna", "bert")

    def limits(self, number: int = 0) -> tuple[int | None, int | None]:
        """Those of anna, or another."""
        user = self.users()[number]
        return user.limit_up, user.limit_down

    def test_set(self) -> None:
        """One direction or both; what is not named stays; nobody else is limited."""
        result = self.run_command("limit", "anna", "--up", "10M", "--down", "2.5M")
        self.assertDone(result, "Limits of anna: up 10M, down 2.5M.")
        self.assertEqual((10_000_000, 2_500_000), self.limits())
        self.assertDone(self.run_command("limit", "anna", "--up", "500k"), "up 500k, down 2.5M")
        self.assertEqual((500_000, 2_500_000), self.limits())
        self.assertEqual((None, None), self.limits(1))

    def test_remove(self) -> None:
        """The word none ends a limit, in any case of letters."""
        self.run_command("limit", "anna", "--up", "10M", "--down", "1G")
        self.assertDone(self.run_command("limit", "anna", "--up", "None"), "anna: down 1G.")
        self.assertDone(self.run_command("limit", "anna", "--down", "none"), "anna: none.")
        self.assertEqual((None, None), self.limits())

    def test_show(self) -> None:
        """Without options it says what the limits are, and changes nothing."""
        self.assertDone(self.run_command("limit", "anna"), "Limits of anna: none.")
        self.run_command("limit", "anna", "--down", "64k")
        self.assertDone(self.run_command("limit", "anna"), "Limits of anna: down 64k.")
        self.assertEqual((None, 64_000), self.limits())

    def test_refused(self) -> None:
        """What cannot be is answered with the option, the value and what to write."""
        for text in (
            "10",
            "63.999k",
            "101G",
            "10m",
            "10 Mbit",
            "",
            "-5M",
            "1e9",
            "1.5",
            "0",
            "\u0661M",
        ):
            result = self.run_command("limit", "anna", "--up", "1M", "--down", text)
            self.assertRefused(
                result, f"--down {text!r}: write none, or bits a second from 64k to 100G", "2.5M"
            )
        self.assertEqual((None, None), self.limits())

    def test_nobody(self) -> None:
        """A name that nobody has is answered with the nearest one."""
        result = self.run_command("limit", "ana", "--up", "1M")
        self.assertRefused(result, "there is no user 'ana': did you mean 'anna'?")

    def test_taught(self) -> None:
        """``--help`` says how it is written, and what it holds for."""
        said = " ".join(self.run_command("limit", "--help").stdout.split())
        for words in ("--up 10M --down 50M", "none ends the limit", "Each device", "rate-limit"):
            self.assertIn(words, said)
