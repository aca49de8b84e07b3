"""LoRA-GA: a pair that begins with singular vectors of the gradient, so that its first step is nearest to that of W.

Wang et al. 2024, arXiv 2407.05000. With the gradient G = U diag(sigma) V^T [out, in] of the loss with respect to W over
some training rows, sigma in descending order,

    c = out^1/4 / gamma^1/2
    A = c V_{1..r}^T       [r, in]
    B = c U_{r+1..2r}      [out, r]

and the frozen weight is W - s B A. The gradients are then gA = s B^T G and gB = s G A^T, and a small step of gradient
descent along them moves s B A by

    s (B gA + gB A) = s^2 c^2 U_{1..2r} diag(sigma_{1..2r}) V_{1..2r}^T,

a multiple of the best approximation of G of rank 2r (their theorem): A and B take disjoint vectors for that. Where 2r
exceeds min(out, in), B takes the last r of all, and the vectors in the middle count twice. Of the scales that their
code has this is `stable`, made for s = alpha / sqrt(r); gamma is 64 in their runs, and 16 by default in their code and
in PEFT. The decomposition is exact or randomized, as PiSSA's.

PEFT 0.21.2 multiplies B by sigma too and leaves c out of A. Its pair is out of balance by the size of the gradient, and
its first step is no multiple of that approximation. It also refuses quantized weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.adapters.pissa import leading_triplets
from reflora_cli.methods.starts import LoRAGAStart


@torch.no_grad()
def gradient_pair(G: Tensor, rank: int, choice: LoRAGAStart, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32.

    G: [out, in], float32. rank: at most min(out, in). generator: that of a randomized decomposition, on the CPU.
    """
    U, _, V = leading_triplets(G, 2 * rank, choice.iterations, generator)
    last = min(2 * rank, len(V))
    c = G.shape[0] ** 0.25 / choice.gamma**0.5
    return c * V[:rank], c * U[:, last - rank : last]
