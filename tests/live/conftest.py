"""What the live tests stand on: the sandbox, its namespaces, and the lab.

When live tests are among the chosen ones, the whole pytest process enters the sandbox, after
collecting and before the first test: rootless that is possible only while it has one thread.
So the unit tests of the same run are in there too; none of them needs the host's network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count

import pytest
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from pyvpn.errors import PyvpnError
from pyvpn.testing import sandbox
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import Namespace
from tests.live.far import Far
from tests.live.figures import Missed
from tests.live.office import Office
from tests.live.travellers import Source

_names = count(1)
_no_sandbox: str | None = "the sandbox was not entered"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have a figure that was missed taken again; see figures.py."""
    for item in items:
        if item.path.parent.name == "live":
            # Both: the names of all errors that led to one are compared, of the last the type.
            again = pytest.mark.flaky(
                reruns=2,
                only_rerun=[f"^{Missed.__name__}:"],
                condition=lambda error: isinstance(error, Missed),
            )
            item.add_marker(again)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the sandbox if live tests are to be run."""
    global _no_sandbox
    live = [item for item in session.items if item.path.parent.name == "live"]
    if not live or session.config.option.collectonly:
        return
    try:
        sandbox.check_tools()
        sandbox.enter()
    except PyvpnError as error:
        _no_sandbox = str(error)
    else:
        _no_sandbox = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly which live tests could not run, and what would let them."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if "/live/" in report.nodeid and isinstance(report.longrepr, tuple):
            reasons.setdefault(report.longrepr[2], []).append(report.nodeid)
    for reason, tests in reasons.items():
        terminalreporter.section(f"{len(tests)} live tests could not run")
        terminalreporter.line(reason.removeprefix("Skipped: "))
        for test in tests:
            terminalreporter.line(f"    {test}")


@pytest.fixture(scope="session")
def in_sandbox() -> None:
    """Skip, with the reason, where no sandbox is to be had."""
    if _no_sandbox is not None:
        pytest.skip(_no_sandbox)


@pytest.fixture(scope="session")
def tun(in_sandbox: None) -> None:
    """Skip, with the reason, where no TUN device can be opened."""
    if problem := sandbox.tun_problem():
        pytest.skip(problem)


@pytest.fixture
def make_namespace(in_sandbox: None) -> Iterator[Callable[[], Namespace]]:
    """Make as many fresh, empty namespaces as the test calls for, removed after it."""
    with ExitStack() as made:

        def make() -> Namespace:
            namespace = Namespace(f"test{next(_names)}")
            made.callback(namespace.close)
            return namespace

        yield make


@pytest.fixture
def namespace(make_namespace: Callable[[], Namespace]) -> Namespace:
    """One fresh, empty network namespace, removed after the test."""
    return make_namespace()


@pytest.fixture(scope="module")
def lab(tun: None) -> Iterator[Lab]:
    """The lab of pyvpn.testing.lab, built once for a module, stopped and removed after it."""
    with Lab() as built:
        yield built


@pytest.fixture
def office(lab: Lab) -> Iterator[Office]:
    """An office to put a VPN into; looked over, when the test has passed, for what it left."""
    made = Office(lab)
    try:
        yield made
        made.close()
    finally:
        made.abandon()


@pytest.fixture(scope="module")
def source(lab: Lab) -> Iterator[Source]:
    """Somebody in the office who sends without end."""
    with closing(Source(lab)) as made:
        yield made


@pytest.fixture(scope="module")
def far(lab: Lab) -> Iterator[Far]:
    """Somebody in the office to exchange bytes and datagrams with."""
    with closing(Far(lab)) as made:
        yield made


@pytest.fixture(autouse=True)
def no_logged_errors() -> Iterator[None]:
    """Fail a test in which Twisted logged an error: outside trial nobody else would."""
    errors: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            errors.append(failure.getTraceback() if failure else str(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert not errors, "logged during the test:\n" + "\n".join(errors)
