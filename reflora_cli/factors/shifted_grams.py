"""Inverses of Gram matrices to which a multiple of the identity is added, for many pairs at once.

(B^T B + d I)^-1 and (A A^T + d I)^-1 exist for all finite factors, at B = 0 too. What d does depends on the size of the
Grams, and so on how BA is factored; `factors/linalg.py` has the damping that does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.factors.linalg import LARGEST, InverseGrams, cholesky, finite, or_identity


def shifted_inverse_grams(gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float = 0.0) -> InverseGrams:
    """Return (A A^T + d I)^-1 and (B^T B + d I)^-1, float64 [N, r, r], for d the damping, which is absolute.

    gram_a, gram_b: A A^T and B^T B, float64 [N, r, r]. A pair is not valid where a factor is not finite, where an
    inverse would be larger than LARGEST, and where a sum, scaled to a unit diagonal, has a smaller pivot than
    `least_pivot`.
    """
    usable = finite(gram_a, gram_b)
    sums = or_identity(usable.repeat(2), torch.cat([gram_a, gram_b]))
    eye = torch.eye(sums.shape[-1], dtype=sums.dtype, device=sums.device)
    L, pivots = cholesky(sums + damping * eye)
    inverses = torch.cholesky_inverse(L)
    bounded = (inverses.diagonal(dim1=-2, dim2=-1) <= LARGEST).all(-1)
    valid = usable & ((pivots >= least_pivot) & bounded).view(2, -1).all(0)
    of_a, of_b = or_identity(valid.repeat(2), inverses).chunk(2)
    return InverseGrams(of_a, of_b, valid)
