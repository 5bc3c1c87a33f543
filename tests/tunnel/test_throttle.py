"""The throttle: guessing is slow from wherever it comes, and users are not locked out by it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.throttle import Throttle
from tests.tunnel.packets import packed

HOME, CAFE = packed("198.51.100.7"), packed("203.0.113.9")
HOUR = 3600.0


def source(number: int) -> bytes:
    return (0x0B000000 + number).to_bytes(4)


def guess(throttle: Throttle, origin: bytes | None, name: str, now: float) -> bool:
    """Try a wrong password; whether it was evaluated."""
    if throttle.begin(origin, name, now) > 0:
        return False
    throttle.failed(origin, name, now)
    return True


def log_in(throttle: Throttle, origin: bytes | None, name: str, now: float) -> bool:
    """Try the right password; whether it was evaluated."""
    if throttle.begin(origin, name, now) > 0:
        return False
    throttle.succeeded(origin, name, now)
    return True


class BackOffTests(SynchronousTestCase):
    """One person at one machine."""

    def test_pauses_grow(self) -> None:
        """Three mistakes are free, then each doubles the pause, up to five minutes."""
        throttle, now, pauses = Throttle(), 0.0, []
        for _ in range(14):
            pauses.append(throttle.wait(HOME, f"name{now}", now))  # no name twice
            now += pauses[-1]
            self.assertTrue(guess(throttle, HOME, f"name{now}", now))

        self.assertEqual([0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], pauses)

    def test_waiting_is_enough(self) -> None:
        """The pause is over when it is over, and asking earlier does not prolong it."""
        throttle = Throttle()
        for _ in range(3):
            guess(throttle, HOME, "anna", 10.0)

        self.assertEqual(0.5, throttle.begin(HOME, "anna", 10.5))
        self.assertEqual(0.25, throttle.begin(HOME, "anna", 10.75))
        self.assertTrue(log_in(throttle, HOME, "anna", 11.0))

    def test_pause_counts_from_the_answer(self) -> None:
        """A slow evaluation does not eat the pause."""
        throttle = Throttle()
        for _ in range(3):
            throttle.begin(HOME, "anna", 10.0)
        throttle.failed(HOME, "anna", 14.0)

        self.assertEqual(1.0, throttle.wait(HOME, "anna", 14.0))

    def test_forgotten_after_an_hour(self) -> None:
        """After a quiet hour a machine begins anew."""
        throttle, now = Throttle(), 0.0
        for _ in range(9):
            now += throttle.wait(HOME, "anna", now)
            guess(throttle, HOME, "anna", now)

        self.assertGreater(throttle.wait(HOME, "bob", now + 1), 0)
        for _ in range(3):
            self.assertTrue(guess(throttle, HOME, "bob", now + HOUR))

    def test_success_costs_nothing(self) -> None:
        """Any number of log-ins that succeed never has to wait."""
        throttle = Throttle()
        for turn in range(1000):
            self.assertTrue(log_in(throttle, HOME, "anna", turn / 100))

    def test_never_evaluated(self) -> None:
        """An attempt that the server had no time for costs the client nothing."""
        throttle = Throttle()
        for _ in range(100):
            self.assertEqual(0.0, throttle.begin(HOME, "anna", 0.0))
            throttle.abandoned(HOME, "anna", 0.0)

    def test_never_ended(self) -> None:
        """An attempt whose connection is cut before the answer is not free."""
        throttle = Throttle()
        started = [throttle.begin(HOME, "anna", 0.0) for _ in range(5)]

        self.assertEqual([0, 0, 0, 1, 1], started)

    def test_side_by_side(self) -> None:
        """Of a hundred attempts at once three pass from one machine, ten from a hundred."""
        one, many = Throttle(), Throttle()
        from_one = [one.begin(HOME, "anna", 0.0) for _ in range(100)]
        from_many = [many.begin(source(n), "anna", 0.0) for n in range(100)]

        self.assertEqual((3, 10), (from_one.count(0.0), from_many.count(0.0)))

    def test_own_account_between_guesses(self) -> None:
        """Logging in to an account of one's own does not reset what one's guesses cost."""
        throttle, now, evaluated = Throttle(), 0.0, 0
        while now < HOUR:
            evaluated += guess(throttle, HOME, f"victim{now}", now)
            log_in(throttle, HOME, "mallory", now)
            now += 1.0

        self.assertLessEqual(evaluated, 30)

    def test_version_6_network(self) -> None:
        """All addresses of a /64 share one back-off."""
        throttle = Throttle()
        passed = sum(
            throttle.begin(packed(f"2001:db8::{n}"), f"name{n}", 0.0) == 0 for n in range(50)
        )

        self.assertEqual(3, passed)
        self.assertEqual(0.0, throttle.wait(packed("2001:db8:0:1::1"), "anna", 0.0))


class GuessingTests(SynchronousTestCase):
    """Ten thousand guesses at one name."""

    def test_from_one_source(self) -> None:
        """From one machine no more than thirty in an hour are evaluated."""
        throttle = Throttle()
        evaluated = sum(guess(throttle, HOME, "anna", n * 0.36) for n in range(10_000))

        self.assertLessEqual(evaluated, 30)
        self.assertGreaterEqual(evaluated, 10)

    def test_from_a_thousand_sources(self) -> None:
        """From a thousand machines together it is no more, and the user still gets in at once."""
        throttle = Throttle()
        self.assertTrue(log_in(throttle, HOME, "anna", 0.0))
        evaluated = 0
        for n in range(10_000):
            now = 1.0 + n * 0.3599
            evaluated += guess(throttle, source(n % 1000), "anna", now)
            if n % 1000 == 999:
                self.assertTrue(log_in(throttle, HOME, "anna", now))
                self.assertGreater(throttle.wait(CAFE, "anna", now), 0)

        self.assertLessEqual(evaluated, 30)

    def test_friend_who_guesses(self) -> None:
        """From where the user has logged in before guessing is slow as well."""
        throttle = Throttle()
        log_in(throttle, HOME, "anna", 0.0)
        evaluated = sum(guess(throttle, HOME, "anna", n * 0.36) for n in range(10_000))

        self.assertLessEqual(evaluated, 30)

    def test_names_that_do_not_exist(self) -> None:
        """The throttle knows no accounts: every name is slowed alike."""
        one, other = Throttle(), Throttle()
        for n in range(200):
            self.assertEqual(
                guess(one, source(n), "anna", n * 9.0), guess(other, source(n), "nobody", n * 9.0)
            )

    def test_behind_a_relay(self) -> None:
        """Behind a trusted relay only the name counts: others there are not held up."""
        throttle = Throttle()
        passed = [guess(throttle, None, "anna", 0.0) for _ in range(20)]

        self.assertEqual(10, sum(passed))
        self.assertEqual(180.0, throttle.wait(None, "anna", 0.0))
        self.assertTrue(log_in(throttle, None, "bob", 0.0))

    def test_success_refunds_the_name(self) -> None:
        """A log-in that succeeds takes nothing from its name's bucket, from anywhere."""
        throttle = Throttle()
        for n in range(100):
            self.assertTrue(log_in(throttle, None, "anna", 0.0))
            self.assertTrue(log_in(throttle, source(n), "anna", 0.0))

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=150))
    def test_any_hour(self, guesses: list[tuple[int, int]]) -> None:
        """However guesses at a name are spread, no hour has more than thirty evaluated."""
        throttle, now, evaluated = Throttle(), 0.0, []
        for pause, origin in guesses:
            now += pause
            if guess(throttle, source(origin), "anna", now):
                evaluated.append(now)

        for start in evaluated:
            self.assertLessEqual(sum(start <= then < start + HOUR for then in evaluated), 30)


class BoundsTests(SynchronousTestCase):
    """Memory."""

    def test_bounded(self) -> None:
        """However many sources and names come, no more than the capacity is remembered."""
        throttle = Throttle(capacity=100)
        for n in range(2000):
            guess(throttle, source(n), f"name{n}", float(n))
            log_in(throttle, source(n), f"name{n}", float(n))

        self.assertLessEqual(len(throttle), 300)

    def test_refused_attempts_leave_nothing(self) -> None:
        """Attempts that must wait make no entries: a flood of them pushes nobody out."""
        throttle = Throttle(capacity=4)
        for _ in range(4):
            guess(throttle, HOME, "anna", 0.0)
        before = len(throttle)
        for n in range(1000):
            throttle.begin(HOME, f"other{n}", 0.5)
            throttle.wait(CAFE, f"other{n}", 0.5)

        self.assertEqual(before, len(throttle))

    def test_least_recent_goes_first(self) -> None:
        """Who was active last is remembered longest."""
        throttle = Throttle(capacity=2)
        for origin in (HOME, CAFE, CAFE, CAFE, HOME, HOME):
            throttle.begin(origin, f"{origin.hex()}", 0.0)
        guess(throttle, source(1), "else", 0.0)

        self.assertEqual(0.0, throttle.wait(CAFE, "new", 0.0))
        self.assertGreater(throttle.wait(HOME, "new", 0.0), 0)
