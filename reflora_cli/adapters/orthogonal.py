"""Orthogonal start: neither A nor B is zero, B A is, and so nothing is taken out of W.

PEFT's `orthogonal`, proposed in datta0.github.io/posts/rethink-lora-init (2024), which has no paper. The rows of a
random orthonormal Q [r, r] are dealt out to P [r/2, r], the first and every second one after it, and to R [r/2, r], the
others, so that R P^T = 0. With N_A [in, r/2] and N_B [r/2, out] standard normal,

    A = (N_A P)^T / 10    [r, in]
    B = N_B^T R / 10      [out, r]

Both have rank r/2, B A = 0 but for rounding, and from the first step both have gradients: those of LoRA's A are zero
there. The rank must be even.
"""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonal_pair(
    rank: int, in_features: int, out_features: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32 on the CPU, with B A = 0. rank: even. generator: on the CPU; from the
    same state PEFT draws the same.
    """
    Q = torch.linalg.qr(torch.randn(rank, rank, generator=generator)).Q
    drawn_A = torch.randn(in_features, rank // 2, generator=generator)
    drawn_B = torch.randn(rank // 2, out_features, generator=generator)
    return (drawn_A @ Q[0::2]).T / 10, drawn_B.T @ Q[1::2] / 10
