"""MiLoRA: a pair that begins as the weakest part of W, which is taken out of the frozen weight.

Wang et al. 2024, arXiv 2406.09044. With the singular values sigma of W [out, in] in descending order,
W = U diag(sigma) V^T, and the index r for the last r of them, a pair is made as PiSSA makes it of the first r:

    B = U_r diag(sigma_r / s)^1/2    [out, r]
    A = diag(sigma_r / s)^1/2 V_r^T  [r, in]

so that W - s B A is the best approximation of W of rank min(out, in) - r. What W knows best stays frozen; the pair is
balanced and small. The decomposition is exact: a random subspace finds the strongest directions only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.adapters.pissa import balanced_pair


@torch.no_grad()
def minor_pair(W: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32: scale B A is the part of W with its r smallest singular values.

    W: [out, in], float32. rank: at most min(out, in).
    """
    U, sigma, V = torch.linalg.svd(W, full_matrices=False)
    return balanced_pair(U[:, -rank:], sigma[-rank:], V[-rank:], scale)
