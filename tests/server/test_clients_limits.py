"""How fast a user's devices may be, while they are here and when they come."""

from __future__ import annotations

from tests.server.office import OfficeCase


class LimitTests(OfficeCase):
    """``pyvpn user limit``, for native devices: anna's are limited, bob is here, too."""

    def setUp(self) -> None:
        super().setUp()
        self.add_bob()
        self.caller, self.other = self.call(), self.call()
        self.caller.join()
        self.other.join("bob")

    def limits(self) -> list[tuple[int | None, int | None]]:
        """What holds of anna's sessions, and of bob's."""
        return [
            (each.limit_in and each.limit_in.bits, each.limit_out and each.limit_out.bits)
            for each in self.office.clients.sessions.values()
        ]

    def test_limits(self) -> None:
        """Limits: they hold for who is here, who stays and is told nothing, and for who comes."""
        self.assertEqual([(None, None)] * 2, self.limits())
        for wanted in ((64_000, None), (None, 5), (7, 8), (None, None), (1, 2)):
            self.store.set_limits("anna", *wanted)
            self.office.look()
            self.assertEqual([wanted, (None, None)], self.limits())
        self.assertEqual(([], False), (self.caller.notices(), self.caller.is_ended()))
        tablet = self.call()
        tablet.join(device="tablet")
        self.assertEqual([(1, 2), (None, None), (1, 2)], self.limits())
        one, _, other = self.office.clients.sessions.values()
        self.assertIsNot(one.limit_in, other.limit_in)

    def test_limited_again(self) -> None:
        """Who comes back after the session ended has the limits again."""
        self.store.set_limits("anna", 64_000, 128_000)
        self.office.look()
        self.caller.hang_up()
        self.office.advance(61)
        self.caller.rejoin()
        self.assertIn((64_000, 128_000), self.limits())
