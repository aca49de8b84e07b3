"""PiSSA: a pair that begins as the strongest part of W, which is taken out of the frozen weight.

Meng et al. 2024, arXiv 2404.02948. With the singular values sigma of W [out, in] in descending order, and
W = U diag(sigma) V^T,

    B = U_r diag(sigma_r / s)^1/2    [out, r]
    A = diag(sigma_r / s)^1/2 V_r^T  [r, in]

so that s B A is the best approximation of W of rank r, and W - s B A has the other singular values. The pair is
balanced: A A^T = B^T B.

The decomposition is exact, or that of W within a subspace found by subspace iteration from random vectors (Halko,
Martinsson, Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1). All of it is float32, on W's device.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERSAMPLING = 10
"""The number of random vectors beyond the rank: Halko, Martinsson and Tropp find 5 or 10 enough."""


@torch.no_grad()
def principal_pair(
    W: Tensor, rank: int, scale: float, iterations: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32: scale B A is the part of W with its r largest singular values.

    W: [out, in], float32. rank: at most min(out, in). iterations: those of the subspace; None: exactly decomposed.
    generator: that of the random vectors, on the CPU.
    """
    U, sigma, V = leading_triplets(W, rank, iterations, generator)
    return balanced_pair(U[:, :rank], sigma[:rank], V[:rank], scale)


def balanced_pair(U: Tensor, sigma: Tensor, V: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] with scale B A = U diag(sigma) V and A A^T = B^T B.

    U: [out, r], sigma: [r], V: [r, in], r singular triplets of a matrix.
    """
    root = (sigma / scale).sqrt()
    return root[:, None] * V, U * root


def leading_triplets(
    W: Tensor, rank: int, iterations: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, k], sigma [k] and V^T [k, in] of W itself, or of its projection onto its leading subspace, k at
    least the rank. Arguments are those of `principal_pair`.
    """
    if iterations is None:
        U, sigma, V = torch.linalg.svd(W, full_matrices=False)
        return U, sigma, V
    out_features, in_features = W.shape
    width = min(rank + OVERSAMPLING, out_features, in_features)
    drawn = torch.randn(in_features, width, generator=generator).to(W.device)
    Q = torch.linalg.qr(W @ drawn).Q
    for _ in range(iterations):
        # Each half of an iteration is made orthonormal: otherwise small singular values are lost in float32.
        Q = torch.linalg.qr(W.T @ Q).Q
        Q = torch.linalg.qr(W @ Q).Q
    U, sigma, V = torch.linalg.svd(Q.T @ W, full_matrices=False)
    return Q @ U, sigma, V
