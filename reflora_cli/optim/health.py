"""What can be seen of each adapter while it trains: sizes of its factors, and the spectrum of their product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from reflora_cli.factors.linalg import effective_rank, product_spectrum
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.stacks import group_pairs

DIGITS = 4
"""Significant digits: a run logs thousands of these."""


@torch.no_grad()
def pair_health(pairs: Sequence[FactorPair], damping: float | None) -> dict[str, dict[str, float | None]]:
    """By module, of the factors as they are:

    norm_A, norm_B   Frobenius norms
    ratio            norm_B / norm_A
    condition        largest over least singular value of BA; None from 1e6 on, where it cannot be told from infinity
    effective_rank   exp of the entropy of the singular values, 1 to r (Roy & Vetterli 2007); 0 for BA = 0
    damped           share of directions whose singular value lies below `damping` times the largest; absent without
    """
    found: dict[str, dict[str, float | None]] = {}
    for group in group_pairs(pairs):
        gram_a, gram_b = group.grams(torch.float64)
        norms = [gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() for gram in (gram_a, gram_b)]
        sigma = product_spectrum(gram_a, gram_b)
        columns = {
            "norm_A": norms[0],
            "norm_B": norms[1],
            "ratio": norms[1] / norms[0],
            "condition": sigma[:, 0] / sigma[:, -1],
            "effective_rank": effective_rank(sigma),
        }
        if damping is not None:
            columns["damped"] = (sigma <= damping * sigma[:, :1]).double().mean(dim=1)
        values = torch.stack(list(columns.values()), dim=1).tolist()
        for pair, own in zip(group.pairs, values, strict=True):
            found[pair.name] = {name: rounded(value) for name, value in zip(columns, own, strict=True)}
    return found


def rounded(value: float) -> float | None:
    """JSON has no infinity."""
    return float(f"{value:.{DIGITS}g}") if abs(value) < float("inf") else None


def unreached(modules: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """Return the modules none of whose parameters has a gradient other than zero. modules: parameters by module."""
    return [name for name, own in modules.items() if not any(is_reached(parameter.grad) for parameter in own)]


def is_reached(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())
