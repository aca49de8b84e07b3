"""TIES: changes trimmed, signs elected, entries that agree averaged.

Yadav et al. 2023, arXiv 2306.01708. Of every change T_k = w_k (W_eff - W)_k [out, in] only the `density` share of the
entries that are largest in magnitude stays; the others become 0. The sign of an entry is that of the sum of the trimmed
T_k, and the result is the mean of those T_k whose entry is not 0 and has this sign. The weights w_k are part of the
changes. As the result has no low rank, it is truncated afterwards.

Entries are those of the changes, never of the factors: A and B are determined up to an invertible matrix only, so that
trimmed factors would depend on how a change happens to be written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(changes: Sequence[Tensor], density: float) -> Tensor:
    """Return the TIES merge [out, in] of weighted changes [out, in]. density: the share of entries that stay."""
    kept = torch.stack([trimmed(own, density) for own in changes])
    sign = kept.sum(dim=0).sign()
    agrees = (kept.sign() == sign) & (kept != 0)
    return (kept * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def trimmed(change: Tensor, density: float) -> Tensor:
    """Return the change with all but its largest entries at 0: round(density * out * in) of them stay, at least one."""
    count = max(1, round(density * change.numel()))
    flat = change.flatten()
    places = flat.abs().topk(count).indices
    return torch.zeros_like(flat).scatter_(0, places, flat[places]).view_as(change)
