"""Few choices of many settings in which any two values of two settings are together at least once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from random import Random

Value = tuple[str, str]
"""A setting and a value of it."""
Pair = frozenset[Value]
CANDIDATES = 40
"""Of which the best is taken as the next choice."""


def all_pairs(values: Mapping[str, Sequence[str]]) -> set[Pair]:
    """All pairs of values of two settings."""
    single = [[(name, value) for value in own] for name, own in values.items()]
    return {frozenset(pair) for one, other in combinations(single, 2) for pair in product(one, other)}


def pairs_in(choice: Mapping[str, str]) -> set[Pair]:
    return {frozenset(pair) for pair in combinations(choice.items(), 2)}


def covering(values: Mapping[str, Sequence[str]], refused: Collection[Pair]) -> list[dict[str, str]]:
    """Choices of a value for every setting in which all pairs occur but the refused ones, none of which does.

    Every setting must have a value that no refused pair has.
    """
    draw, missing, found = Random(0), all_pairs(values) - set(refused), list[dict[str, str]]()
    while missing:
        candidates = [candidate(values, refused, missing, draw) for _ in range(CANDIDATES)]
        found.append(max(candidates, key=lambda choice: len(missing & pairs_in(choice))))
        missing -= pairs_in(found[-1])
    return found


def candidate(
    values: Mapping[str, Sequence[str]], refused: Collection[Pair], missing: set[Pair], draw: Random
) -> dict[str, str]:
    """A choice with one pair that is missing, and one value after the other that brings the most of them."""
    choice = dict(draw.choice(sorted(map(sorted, missing))))
    for name in draw.sample(list(values), len(values)):
        if name not in choice:
            possible = [own for own in values[name] if not pairs_in({**choice, name: own}) & set(refused)]
            choice[name] = max(possible, key=lambda own: len(missing & pairs_in({**choice, name: own})))
    return {name: choice[name] for name in values}
