"""DARE: entries of changes dropped at random, and the others rescaled.

Yu et al. 2023, arXiv 2311.03099. Every entry of a change (W_eff - W)_k [out, in] stays with probability p = `density`
and is divided by p, so that the expected change is the change itself; then the changes are summed with their weights.
As the result has no low rank, it is truncated afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dare(changes: Sequence[Tensor], density: float, generator: torch.Generator) -> Tensor:
    """Return the sum [out, in] of weighted changes [out, in], each with its own entries dropped.

    density: the probability with which an entry stays. generator: on the CPU; what it draws decides which entries stay.
    """
    return torch.stack([dropped(own, density, generator) for own in changes]).sum(dim=0)


def dropped(change: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Return the change with entries dropped and the others divided by `density`."""
    stays = torch.rand(change.shape, generator=generator, dtype=change.dtype) < density
    return change * stays / density
