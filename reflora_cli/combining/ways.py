"""The ways to combine the weighted changes of one module into one change of low rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from reflora_cli.combining.changes import Change, Dense, LowRank, concatenated, dense_sum
from reflora_cli.combining.dare import dare
from reflora_cli.combining.request import USUAL_DENSITY, CombineRequest
from reflora_cli.combining.ties import ties
from reflora_cli.combining.truncated import Truncated, truncated
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Combining

Way = Callable[[Sequence[Change], int], Truncated]
"""A function from the weighted changes of a module, and the rank to which it may truncate, to one change."""


def way_of(request: CombineRequest) -> Way:
    """Return the function that a request asks for. A search without a rank concatenates what it has found."""
    density = USUAL_DENSITY if request.density is None else request.density
    match request.how:
        case Combining.SEARCH if request.rank is None:
            return exact_sum
        case Combining.CONCAT:
            return exact_sum
        case Combining.SVD | Combining.SEARCH:
            return truncated_sum
        case Combining.TIES:
            return lambda changes, rank: truncated(Dense(ties([own.dense() for own in changes], density)), rank)
        case Combining.DARE:
            drawn = torch.Generator().manual_seed(request.seed or 0)
            return lambda changes, rank: truncated(Dense(dare([own.dense() for own in changes], density, drawn)), rank)


def exact_sum(changes: Sequence[Change], rank: int) -> Truncated:
    """Return the sum of changes with factors, of any rank. Raises InputError for a change that has none."""
    return Truncated(concatenated(factors_of(changes)), lost=0.0, whole=0.0)


def factors_of(changes: Sequence[Change]) -> list[LowRank]:
    """Return the changes, all of which have factors. Raises InputError for one that has none."""
    factors = [own for own in changes if isinstance(own, LowRank)]
    if len(factors) < len(changes):
        what = "an adapter's change of weights is not a product of two factors, so its factors cannot be concatenated"
        remedy = "use --how svd, with a --rank at which the reported loss is small"
        raise InputError(Problem(what, "--how", remedy=remedy))
    return factors


def truncated_sum(changes: Sequence[Change], rank: int) -> Truncated:
    """Return the sum of changes, truncated; through the factors alone where all changes have them."""
    factors = [own for own in changes if isinstance(own, LowRank)]
    whole = concatenated(factors) if len(factors) == len(changes) else Dense(dense_sum(changes))
    return truncated(whole, rank)
