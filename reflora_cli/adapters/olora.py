"""OLoRA: a pair that begins as the first columns and rows of W = Q R, which are taken out of the frozen weight.

Buyukakyuz 2024, arXiv 2406.01775. With the thin decomposition of W [out, in] into orthonormal Q [out, k] and upper
triangular R [k, in], k = min(out, in),

    B = Q[:, :r]  [out, r]
    A = R[:r]     [r, in]

and the frozen weight is W - s B A, as PEFT's `olora` has it. The columns of B are orthonormal, so that A has the size
of W and the pair is not balanced. The factors are not divided by s: where s is not 1, what is taken out is s times the
part of W that these rows and columns make, and for s = 2 the frozen weight has that part with the opposite sign.

PEFT decomposes the weight of a Conv1D as it is stored, [in, out], and fails on one that is not square; here W is
[out, in] however it is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def leading_pair(W: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32: the first r rows of R and columns of Q in W = Q R.

    W: [out, in], float32. rank: at most min(out, in).
    """
    Q, R = torch.linalg.qr(W)
    return R[:rank], Q[:, :rank]
