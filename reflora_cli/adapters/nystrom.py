"""NoRA's start: A as a sketch of the frozen weight, as in Nystrom's approximation (Li et al. 2024, arXiv 2410.18965).

With W [out, in], s the pair's scale, and Omega [r, out] of independent standard normal entries,

    A = (sigma / s) Omega W    [r, in]        B = 0    [out, r]

so that the rows of A are combinations of those of W, and the adapted weight is W still. If the weight that is looked
for were W's own part of rank r, one step of ScaledGD on B at a rate of 1 would find it.

In the authors' code (BingcongLi/NoRA) the start has no effect: it sets `.data` of the linear module instead of that of
its weight, before the pretrained weight is there. As released, NoRA is LoRA. This is the paper's formula.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sketched_rows(W: Tensor, rank: int, scale: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Return A [r, in] = (sigma / scale) Omega W in W's dtype, on its device.

    W: [out, in]. generator: that of Omega, on the CPU.
    """
    Omega = torch.randn(rank, W.shape[0], generator=generator).to(W)
    return (Omega @ W).mul_(sigma / scale)
