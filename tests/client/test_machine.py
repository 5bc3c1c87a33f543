"""The client's states: every input in every one of them."""

from __future__ import annotations

from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.machine import Course, Link, Setback, make_course
from pyvpn.wire.messages import RegisterAnswer

LINK = cast(Link, object())
OFFER = RegisterAnswer(success=True, code="ok")
SETBACK = Setback("why")

INPUTS: dict[str, tuple[Any, ...]] = {
    "begin": (),
    "secured": (LINK,),
    "accepted": (LINK, OFFER),
    "renewed": (LINK, OFFER),
    "ready": (),
    "failed": (SETBACK,),
    "retry": (),
    "stop": (),
}
# How each state is reached.
PATHS = {
    "idle": (),
    "connecting": ("begin",),
    "introducing": ("begin", "secured"),
    "configuring": ("begin", "secured", "accepted"),
    "up": ("begin", "secured", "accepted", "ready"),
    "waiting": ("begin", "failed"),
    "stopped": ("begin", "stop"),
}
# What leads on, what is done then, and the state after it. All else changes nothing.
STEPS = {
    ("idle", "begin"): ("connect", "connecting"),
    ("connecting", "secured"): ("introduce", "introducing"),
    ("introducing", "accepted"): ("configure", "configuring"),
    ("configuring", "ready"): ("carry", "up"),
    ("up", "renewed"): ("configure", "configuring"),
    ("waiting", "retry"): ("connect", "connecting"),
    **{
        (state, "failed"): ("wait", "waiting")
        for state in ("connecting", "introducing", "configuring", "up")
    },
    **{
        (state, "stop"): ("leave", "stopped")
        for state in ("connecting", "introducing", "configuring", "up", "waiting")
    },
    ("idle", "stop"): (None, "stopped"),
}


class KeepingDeeds:
    """Keeps what is to be done."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def connect(self) -> None:
        self.done.append(("connect",))

    def introduce(self, link: Link) -> None:
        self.done.append(("introduce", link))

    def configure(self, link: Link, offer: RegisterAnswer) -> None:
        self.done.append(("configure", link, offer))

    def carry(self) -> None:
        self.done.append(("carry",))

    def wait(self, setback: Setback) -> None:
        self.done.append(("wait", setback))

    def leave(self) -> None:
        self.done.append(("leave",))


def put(course: Course, name: str) -> None:
    """Let *name* happen."""
    getattr(course, name)(*INPUTS[name])


def deeds_of(*names: str) -> list[tuple[Any, ...]]:
    """All that is done when these happen."""
    deeds = KeepingDeeds()
    course = make_course(deeds)
    for name in names:
        put(course, name)
    return deeds.done


class CourseTests(SynchronousTestCase):
    """What happens, and what is done about it."""

    def test_every_input_in_every_state(self) -> None:
        """Only what belongs there leads on; what comes too late or early changes nothing."""
        for state, path in PATHS.items():
            for name in INPUTS:
                before = deeds_of(*path)
                done = [deed[0] for deed in deeds_of(*path, name)[len(before) :]]
                deed, after = STEPS.get((state, name), (None, state))
                self.assertEqual([] if deed is None else [deed], done, (state, name))
                self.assertEqual(after, self.state_after(*path, name), (state, name))

    def state_after(self, *names: str) -> str:
        """The state those lead to, told by what each further input does."""
        for state in PATHS:
            reactions = [STEPS.get((state, name), (None, state))[0] for name in INPUTS]
            found = []
            for name in INPUTS:
                done = deeds_of(*names, name)[len(deeds_of(*names)) :]
                found.append(done[0][0] if done else None)
            if reactions == found:
                return state
        return "none of them"

    def test_arguments(self) -> None:
        """Link, offer and setback are handed on."""
        self.assertEqual(
            [
                ("connect",),
                ("introduce", LINK),
                ("configure", LINK, OFFER),
                ("carry",),
                ("wait", SETBACK),
                ("connect",),
                ("leave",),
            ],
            deeds_of(
                "begin",
                "secured",
                "accepted",
                "ready",
                "failed",
                "failed",
                "retry",
                "stop",
                "stop",
            ),
        )

    def test_for_ever(self) -> None:
        """It tries as often as it must."""
        names = ["begin", *["failed", "retry"] * 500]
        self.assertEqual(501, len([d for d in deeds_of(*names) if d == ("connect",)]))

    def test_failure_while_done(self) -> None:
        """A deed that fails at once, inside its own state's entry, leads to waiting."""

        class Hasty(KeepingDeeds):
            def connect(self) -> None:
                super().connect()
                if len(self.done) == 1:
                    course.failed(SETBACK)

        deeds = Hasty()
        course = make_course(deeds)
        course.begin()
        course.retry()

        self.assertEqual(["connect", "wait", "connect"], [deed[0] for deed in deeds.done])

    def test_setback(self) -> None:
        """A setback says why, for how long, and whether a person must act."""
        setback = Setback("no", 7.0, serious=True)
        self.assertEqual(("no", 7.0, True), (str(setback), setback.seconds, setback.serious))
        self.assertEqual((0.0, False), (SETBACK.seconds, SETBACK.serious))
