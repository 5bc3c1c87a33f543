"""Few combinations in which every two values meet: what breaks, mostly breaks by two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

FIRSTS = 32
"""Combinations that are tried as the first, at most: a matter of a second, or two."""

Combination = dict[str, object]
Pair = tuple[tuple[str, object], tuple[str, object]]


def every(dimensions: Mapping[str, Sequence[object]]) -> list[Combination]:
    """Return all combinations of one value of each of *dimensions*."""
    names = list(dimensions)
    return [dict(zip(names, values, strict=True)) for values in product(*dimensions.values())]


def pairs(combination: Combination) -> set[Pair]:
    """Return the pairs of values, of two dimensions each, that meet in *combination*."""
    return set(combinations(combination.items(), 2))


def pairwise(dimensions: Mapping[str, Sequence[object]]) -> list[Combination]:
    """Return combinations in which each value of a dimension meets each of every other.

    The same for the same *dimensions*: always the first of those that bring most pairs together
    which have not met, from whichever of some first ones the fewest follow.
    """
    wanted = every(dimensions)
    firsts = wanted[:: len(wanted) // FIRSTS + 1]
    return min((_covering(wanted, first) for first in firsts), key=len)


def _covering(wanted: list[Combination], first: Combination) -> list[Combination]:
    new = {id(each): pairs(each) for each in wanted}
    left = set().union(*new.values()) - pairs(first)
    chosen = [first]
    while left:
        best = max(wanted, key=lambda each: len(new[id(each)] & left))
        chosen.append(best)
        left -= new[id(best)]
    return chosen
