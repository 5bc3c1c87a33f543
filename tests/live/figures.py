"""Figures that a live test measures and promises: gaps, times, rates, CPU.

They are taken on a machine that does other things, too.  One that was missed is therefore taken
again, twice at most (``conftest.py`` asks pytest-rerunfailures for it): pytest prints each such
test as RERUN, and the summary counts them.  Nothing else that fails is tried again: a wrong
hash, a lost lease or a line in a log is wrong the first time.
"""

from __future__ import annotations

from collections.abc import Mapping


class Missed(AssertionError):
    """A figure was measured and is not what is promised."""


def below(measured: float, bound: float) -> None:
    """Raise Missed unless *measured* is below *bound*."""
    if not measured < bound:
        raise Missed(f"{measured:.4g} is not below {bound:.4g}")


def above(measured: float, bound: float) -> None:
    """Raise Missed unless *measured* is above *bound*."""
    if not measured > bound:
        raise Missed(f"{measured:.4g} is not above {bound:.4g}")


def between(lowest: float, measured: float, highest: float) -> None:
    """Raise Missed unless *measured* is one of the two bounds or between them."""
    if not lowest <= measured <= highest:
        raise Missed(f"{measured:.4g} is not from {lowest:.4g} to {highest:.4g}")


def all_below(measured: Mapping[str, float], bound: float) -> None:
    """Raise Missed unless every one of the *measured* is below *bound*; it names the others."""
    if over := {what: f"{one:.4g}" for what, one in measured.items() if not one < bound}:
        raise Missed(f"not below {bound:.4g}: {over}")
