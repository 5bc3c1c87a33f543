"""The clock of a simulation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pyvpn.testing.simulator.clock import ProcessClock, SimClock


class HoldTests(SynchronousTestCase):
    """Calls that are put aside for a while, as a machine's are that sleeps."""

    def test_held(self) -> None:
        """A call that is held is made as much later as that took; others are not touched."""
        clock, made = SimClock(0.0), []
        slow = clock.callLater(5.0, lambda: made.append(("slow", clock.seconds())))
        clock.callLater(6.0, lambda: made.append(("other", clock.seconds())))
        clock.advance(2.0)
        held = clock.hold(lambda call: call is slow)
        clock.advance(100.0)
        self.assertEqual([("other", 6.0)], made)
        self.assertTrue(slow.active())
        clock.release(held, 100.0)
        clock.advance(10.0)
        self.assertEqual([("other", 6.0), ("slow", 105.0)], made)

    def test_changedMeanwhile(self) -> None:
        """One that was cancelled while it was held is not made; one put off, when that says."""
        clock, made = SimClock(0.0), []
        calls = [clock.callLater(5.0, made.append, number) for number in range(2)]
        held = clock.hold(lambda call: True)
        self.assertEqual(2, len(held))
        calls[0].cancel()
        calls[1].reset(7.0)
        clock.release(held, 50.0)
        clock.advance(8.0)
        self.assertEqual([1], made)
        clock.advance(100.0)
        self.assertEqual([1], made)


class ClockTests(SynchronousTestCase):
    """Calls happen when they are due."""

    def setUp(self) -> None:
        self.clock = SimClock(0.0)
        self.told: list[tuple[float, object]] = []

    def tell(self, what: object) -> None:
        self.told.append((self.clock.seconds(), what))

    def test_interfaces(self) -> None:
        """It is a reactor's time."""
        verifyObject(IReactorTime, self.clock)
        verifyObject(IDelayedCall, self.clock.callLater(1, self.tell, 1))

    def test_order(self) -> None:
        """Each call has its own time, and equal ones the order in which they were asked for."""
        for delay, what in ((2, "c"), (1, "a"), (2, "d"), (1, "b")):
            self.clock.callLater(delay, self.tell, what)
        self.clock.schedule(1, self.tell, "e")
        self.clock.run(3)

        self.assertEqual([(1, "a"), (1, "b"), (1, "e"), (2, "c"), (2, "d")], self.told)
        self.assertEqual(3, self.clock.seconds())
        self.assertEqual(5, self.clock.events)

    def test_now(self) -> None:
        """What is to happen now happens after what is due already, by a run and by steps."""

        def now() -> None:
            self.clock.soon(self.tell, "c")
            self.clock.callLater(0, self.tell, "d")
            self.clock.callLater(0, self.tell, "never").cancel()
            self.clock.schedule(self.clock.seconds(), self.tell, "e")

        for advance in (lambda: self.clock.run(5), lambda: [*iter(self.clock.step, False)]):
            self.told.clear()
            at = self.clock.seconds() + 1
            self.clock.schedule(at, now)
            self.clock.callLater(1, self.tell, "b")
            advance()
            self.assertEqual([(at, each) for each in "bcde"], self.told)

    def test_not_before(self) -> None:
        """A call waits for its time, and one made by another call for its own."""
        self.clock.callLater(1, lambda: self.clock.callLater(1, self.tell, "later"))
        self.clock.advance(1.5)
        self.assertEqual([], self.told)
        self.assertEqual(2, self.clock.next_due)
        self.clock.advance(0.5)
        self.assertEqual([(2, "later")], self.told)
        self.assertEqual(float("inf"), self.clock.next_due)

    def test_changes(self) -> None:
        """A call can be cancelled, put off and brought forward, until it was made."""
        calls = [self.clock.callLater(n, self.tell, n) for n in (1, 2, 3)]
        calls[0].cancel()
        calls[1].delay(5)
        calls[2].reset(1)
        self.assertEqual([False, True, True], [call.active() for call in calls])
        self.assertEqual([calls[2], calls[1]], self.clock.getDelayedCalls())
        self.assertEqual(7, calls[1].getTime())
        self.clock.run(10)

        self.assertEqual([(1, 3), (7, 2)], self.told)
        self.assertRaises(AlreadyCancelled, calls[0].cancel)
        self.assertRaises(AlreadyCalled, calls[1].cancel)
        self.assertRaises(AlreadyCalled, calls[2].reset, 1)

    def test_exception(self) -> None:
        """A bug ends the run where it is, and the rest can still be run."""
        self.clock.callLater(1, lambda: [][0])
        self.clock.callLater(2, self.tell, "next")
        self.assertRaises(IndexError, self.clock.run, 3)
        self.assertEqual(1, self.clock.seconds())
        self.clock.run(3)
        self.assertEqual([(2, "next")], self.told)

    def test_run_while(self) -> None:
        """One can wait for something, and not for ever."""
        self.clock.callLater(5, self.tell, "here")
        self.assertFalse(self.clock.run_while(lambda: not self.told, 4))
        self.assertEqual(4, self.clock.seconds())
        self.assertTrue(self.clock.run_while(lambda: not self.told, 4))
        self.assertEqual(5, self.clock.seconds())

    def test_sweep(self) -> None:
        """A timer that is put off again and again takes no memory."""
        call = self.clock.callLater(1, self.tell, "at last")
        for _ in range(10_000):
            call.reset(1)
        self.assertLess(len(self.clock._heap), 200)
        self.clock.run(2)
        self.assertEqual([(1, "at last")], self.told)

    def test_process(self) -> None:
        """Of a process that was killed nothing happens any more, of the others everything."""
        killed, other = ProcessClock(self.clock), ProcessClock(self.clock)
        verifyObject(IReactorTime, killed)
        for process in (killed, other):
            process.callLater(1, self.tell, "early")
            process.callLater(3, self.tell, "late")
        self.assertEqual(2, len(killed.getDelayedCalls()))
        self.clock.run(2)
        killed.kill()
        killed.callLater(1, self.tell, "after")
        self.assertEqual(2, killed.seconds())
        self.clock.run(5)

        self.assertEqual([(1, "early"), (1, "early"), (3, "late")], self.told)

    def test_last_words(self) -> None:
        """What a killed process still does to its calls brings none of them back."""
        killed = ProcessClock(self.clock)
        calls = [killed.callLater(1, self.tell, number) for number in range(3)]
        killed.kill()
        self.assertTrue(calls[0].active())
        calls[0].cancel()
        calls[1].reset(2)
        calls[2].delay(2)
        self.clock.advance(10)
        self.assertEqual([], self.told)
        self.assertEqual(0, self.clock.events)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["later", "cancel", "reset", "delay", "advance"]),
                st.integers(0, 20),
                st.integers(0, 5),
            ),
            max_size=60,
        )
    )
    def test_as_twisted(self, story: list[tuple[str, int, int]]) -> None:
        """Whatever is asked of it, it calls the same as Twisted's own test clock, in order."""
        clocks: list[SimClock | Clock] = [SimClock(0.0), Clock()]
        made: list[list[tuple[float, int]]] = [[], []]
        for clock, told in zip(clocks, made, strict=True):
            calls: list[IDelayedCall] = []

            def tell(
                number: int, clock: IReactorTime = clock, told: list[tuple[float, int]] = told
            ) -> None:
                told.append((clock.seconds(), number))

            for what, number, amount in story:
                call = calls[number % len(calls)] if calls else None
                if what == "later":
                    calls.append(clock.callLater(amount, tell, len(calls)))
                elif what == "advance":
                    for _ in range(amount):
                        clock.advance(1)
                elif call is not None and call.active():
                    if what == "cancel":
                        call.cancel()
                    elif what == "reset":
                        call.reset(amount)
                    else:
                        call.delay(amount)
                clock.advance(0)  # Twisted's would see the next second before it called
            for _ in range(20 * len(story)):
                clock.advance(1)
        self.assertEqual(sorted(made[1]), sorted(made[0]))
        if not any(what in ("reset", "delay") for what, _, _ in story):
            self.assertEqual(made[1], made[0])
