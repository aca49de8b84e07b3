"""LoRAHub: weights with which the changes of adapters are summed, searched on a few rows without gradients.

Huang et al. 2023, arXiv 2307.13269. Weights w_k from -1.5 to 1.5, all 0 in the beginning, are chosen so that

    mean loss of the rows + 0.05 mean |w_k|

is least, by nevergrad's NGOpt. The paper composes factors, (sum w_k B_k)(sum w_k A_k), which has cross terms B_j A_k
of different adapters; here a weight changes by sum w_k (W_eff - W)_k exactly, through factors side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from reflora_cli.adapters.inject import attach
from reflora_cli.combining.few_rows import FewRows, few_rows
from reflora_cli.combining.mixture import Mixture, layers_of, mixtures
from reflora_cli.combining.reading import Reader
from reflora_cli.combining.request import CombineRequest, SearchRequest
from reflora_cli.console.reporter import Reporter, Work
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.extras import EXTRAS

PENALTY = 0.05
"""The factor of mean |w|."""
BOUND = 1.5
"""The largest magnitude of a weight."""


@dataclass(frozen=True)
class Searched:
    """The weights that were found, one for each adapter, and what the user should see of the search."""

    weights: tuple[float, ...]
    facts: Mapping[str, Any]


@torch.no_grad()
def search_weights(request: CombineRequest, readers: Sequence[Reader], reporter: Reporter) -> Searched:
    """Return the best weights of those that were tried. Raises InputError where none is better than the base alone."""
    search = request.search or SearchRequest()
    optimizer = make_optimizer(len(readers), search.steps, request.seed or 0)
    rows = few_rows(request, [own.source for own in readers], reporter)
    model = rows.objective.base.model
    mixed = mixtures(readers, model)
    attach(model, layers_of(mixed), [], {})
    best, least, alone = (0.0,) * len(readers), float("inf"), objective_at(rows, mixed, (0.0,) * len(readers))
    with reporter.counting(Work("search weights", search.steps, "steps")) as tell:
        for step in range(search.steps):
            asked = optimizer.ask()
            weights = tuple(map(float, asked.value))
            value = objective_at(rows, mixed, weights)
            optimizer.tell(asked, value)
            if value < least:
                best, least = weights, value
            tell(step + 1, partial("{:.4f}".format, least))
    if least >= alone:
        what = "no weights were found whose loss is less than that of the base without adapters"
        found, remedy = f"{least:.4f} after {search.steps} steps", "try more --rows or more --steps"
        raise InputError(Problem(what, "--how search", found, f"less than {alone:.4f}", remedy))
    return Searched(best, {"rows": len(rows.rows), "steps": search.steps, "before": alone, "after": least})


def objective_at(rows: FewRows, mixed: Mapping[str, Mixture], weights: Sequence[float]) -> float:
    """Return what is minimized, at these weights."""
    for own in mixed.values():
        own.weigh(weights)
    return rows.loss() + PENALTY * sum(map(abs, weights)) / len(weights)


def make_optimizer(count: int, steps: int, seed: int) -> Any:
    """Return nevergrad's optimizer of so many weights. Raises InputError where nevergrad is not installed."""
    EXTRAS["search"].require("--how search")
    import nevergrad
    import numpy

    space = nevergrad.p.Array(init=[0.0] * count, lower=[-BOUND] * count, upper=[BOUND] * count)
    space.random_state = numpy.random.RandomState(seed)
    return nevergrad.optimizers.NGOpt(space, budget=steps)
