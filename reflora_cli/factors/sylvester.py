"""Sylvester equations with positive semidefinite coefficients, for many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.factors.linalg import or_identity


def solve_sylvester(P: Tensor, Q: Tensor, C: Tensor) -> Tensor:
    """Return the X with P X + X Q = C, float64 [N, r, r], for symmetric positive semidefinite P and Q.

    With P = U diag(p) U^T and Q = V diag(q) V^T, U^T X V has the entries of U^T C V over p_i + q_j. Components where
    that sum is zero to rounding are zero, and so is X where a matrix is not finite.
    """
    sound = (P + Q + C).isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(or_identity(sound.repeat(2), torch.cat([P, Q])))
    (p, q), (U, V) = values.clamp(min=0).chunk(2), vectors.chunk(2)
    sums = p[:, :, None] + q[:, None, :]
    solvable = (sums > torch.finfo(sums.dtype).eps * sums.amax((1, 2), keepdim=True)) & sound[:, None, None]
    inner = U.mT @ torch.where(sound[:, None, None], C, 0.0) @ V
    X: Tensor = U @ torch.where(solvable, inner / torch.where(solvable, sums, 1.0), 0.0) @ V.mT
    return X
