"""Everything at once, from a seed: what a user of the simulator can run with seeds of his own."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import pairwise
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.testing.simulator.__main__ import main
from pyvpn.testing.simulator.chaos import NAMES, Chaos
from pyvpn.testing.simulator.inside import Inside, Transfer
from pyvpn.testing.simulator.mishaps import LASTING, OF_SERVER, Kind, Mishap, draw
from pyvpn.testing.simulator.network import Network

SEEDS = range(101, 104)
"""In every run; ``make stories`` tells as many others as one likes."""


def mishap(at: float, kind: Kind, seconds: float = 0.0, victim: int = 0) -> Mishap:
    """One of middling strength."""
    return Mishap(at, kind, victim, seconds, 0.5)


class ChaosTests(SynchronousTestCase):
    """A client of ours and a stock one, and whatever can befall them."""

    def test_seeds(self) -> None:
        """At least twelve mishaps, together; then all is well."""
        for seed in SEEDS:
            verdict = Chaos(seed, 3.0).tell()

            self.assertEqual([], verdict.problems, f"seed {seed}")
            self.assertGreaterEqual(verdict.kinds, 12)

    def test_again(self) -> None:
        """One seed is one story, to the byte."""
        first, second = (Chaos(100, 1.0).tell() for _ in range(2))

        self.assertEqual(first, second)

    def test_otherSeed(self) -> None:
        """Another seed is another story."""
        first, second = (Chaos(seed, 0.1, []).tell().digest for seed in (1, 2))

        self.assertNotEqual(first, second)

    def test_eachAlone(self) -> None:
        """Each mishap by itself, for both clients."""
        for kind in Kind:
            who = range(1 if kind in OF_SERVER else len(NAMES))
            story = [mishap(2.0, kind, 12.0 if kind in LASTING else 0.0, each) for each in who]
            verdict = Chaos(7, 0.5, story).tell()

            self.assertEqual([], verdict.problems, str(kind))


class BadVerdictTests(SynchronousTestCase):
    """What should not be is said: a judge who never says no is none."""

    def problems(self, chaos: Chaos) -> str:
        return "; ".join(chaos.tell().problems)

    def test_neverBack(self) -> None:
        """A line that stays cut."""
        chaos = Chaos(1, 0.2, [mishap(1.0, Kind.NOTHING, 1.0)])
        self.patch(chaos, "_end", lambda over: None)

        said = self.problems(chaos)

        self.assertIn("native: 60 s after the last mishap nothing passes", said)
        self.assertIn("native: a transfer hangs", said)
        self.assertIn("native: no UDP 60 s after", said)
        self.assertIn("the server has 0 sessions, not 1", said)
        self.assertNotIn("stock", said)

    def test_changedInside(self) -> None:
        """Packets that are changed inside the tunnel, or come twice, and wrong hashes."""
        for change, expected in (
            (lambda packet: [packet[:-1] + bytes((packet[-1] ^ 1,))], "packet that was not sent"),
            (lambda packet: [packet, packet], "came twice"),
            (lambda packet: [packet[:16] + bytes(4) + packet[20:]], "packet that was not sent"),
        ):
            chaos = Chaos(1, 0.2, [mishap(1.0, Kind.NOTHING, 1.0)])

            def begin(chaos: Chaos = chaos, change: object = change) -> None:
                taker = chaos.server.tun.taker
                assert taker is not None
                assert callable(change)
                chaos.server.tun.taker = lambda packets: taker(
                    [each for packet in packets for each in change(packet)]
                )

            chaos.clock.callLater(5.0, begin)
            self.assertIn(expected, self.problems(chaos))

    def test_logged(self) -> None:
        """A bug of ours that somebody caught and logged."""
        chaos = Chaos(1, 0.2, [mishap(1.0, Kind.NO_UDP, 9.0)])

        def fail(now: float) -> None:
            raise ZeroDivisionError("a bug")

        chaos.clock.callLater(5.0, lambda: setattr(chaos.native.data.choice, "tick", fail))
        said = self.problems(chaos)

        self.assertIn("logged: the data channel met a bug of ours", said)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_hash(self) -> None:
        """A transfer knows a wrong byte, and a missing end."""
        network = Network(1)
        inside = Inside(network)
        one = inside.member(
            "one", bytes((10, 0, 0, 1)), lambda packet: inside.arrived(two, [packet])
        )
        two = inside.member(
            "two", bytes((10, 0, 0, 2)), lambda packet: inside.arrived(one, [packet])
        )
        done: list[Transfer] = []
        for wrong in False, True:
            transfer = Transfer(one, two, b"up" * 5000, b"down" * 5000, done.append)
            if wrong:
                transfer.wanted[0] = bytes(16)
            network.clock.advance(10)
            self.assertEqual([transfer], done)
            self.assertEqual((not wrong, False), (transfer.is_right, transfer.is_broken))
            done.clear()
        transfer = Transfer(one, two, b"up" * 5000, b"down" * 5000, done.append)
        two.crash()
        two.boot()
        network.clock.advance(2000)
        self.assertEqual([transfer], done)
        self.assertEqual((False, True), (transfer.is_right, transfer.is_broken))


class DrawTests(SynchronousTestCase):
    """What happens when."""

    def test_draw(self) -> None:
        """Every kind is there, in order; the longer the more; one seed is one schedule."""
        short, long = (draw(Random(1), seconds, 2) for seconds in (60.0, 600.0))
        self.assertEqual(set(Kind), {each.kind for each in short})
        self.assertEqual(set(Kind), {each.kind for each in long})
        self.assertGreater(len(long), len(short))
        self.assertEqual(long, draw(Random(1), 600.0, 2))
        self.assertNotEqual(long, draw(Random(2), 600.0, 2))
        for one, other in pairwise(long):
            self.assertLessEqual(one.at, other.at)
        self.assertTrue(any(one.end > other.at for one, other in pairwise(long)), "none together")

    def test_told(self) -> None:
        """A line says when, whom, what, how much and how long."""
        self.assertEqual(
            "    1.0 s  native   packets are lost (21%) for 5.0 s",
            mishap(1, Kind.LOSS, 5).told(NAMES),
        )
        self.assertIn("all      the server", mishap(1, Kind.SERVER_RESTART, 5).told(NAMES))


class CommandTests(SynchronousTestCase):
    """``python -m pyvpn.testing.simulator``."""

    def run_it(self, *arguments: str) -> tuple[int, str]:
        out = StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            try:
                status = main(arguments)
            except SystemExit as error:
                status = int(error.code or 0)
        return status, out.getvalue()

    def test_run(self) -> None:
        """Two stories, each told twice: schedule and verdict, and 0."""
        status, said = self.run_it("--seed", "5", "--runs", "2", "--minutes", "0.1", "--again")

        self.assertEqual(0, status, said)
        self.assertIn("Story of seed 5", said)
        self.assertIn("the NAT has forgotten its flows", said)
        self.assertIn("2 stories, 0 of them bad", said)

    def test_quiet(self) -> None:
        """A line for each that is well, with its trace."""
        status, said = self.run_it("--seed", "5", "--minutes", "0.1", "--quiet")

        self.assertEqual((0, 1), (status, said.count("\n")), said)
        self.assertRegex(said, r"seed 5: well; .* kinds, .*; trace [0-9a-f]{32}")

    def test_bad(self) -> None:
        """A bad one is 1, and is told in full also when quiet."""
        self.patch(Chaos, "_judge_state", lambda chaos: chaos._problem("a made-up one"))
        status, said = self.run_it("--seed", "5", "--minutes", "0.1", "--quiet")

        self.assertEqual(1, status)
        self.assertIn("BAD: a made-up one", said)
        self.assertIn("Story of seed 5", said)

    def test_usage(self) -> None:
        """Numbers that are none are refused with 2; --help teaches."""
        for wrong in (["--runs", "0"], ["--minutes", "-1"], ["--seed", "x"], ["--minutes", "nan"]):
            self.assertEqual(2, self.run_it(*wrong)[0])
        status, said = self.run_it("--help")
        self.assertEqual(0, status)
        self.assertIn("Exit status: 0 all is well", said)
        for kind in Kind:
            self.assertIn(kind.value, said)
