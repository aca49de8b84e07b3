"""LoRA-One: a pair that begins as the strongest part of one step of full fine-tuning, which is taken.

Zhang, Liu, Chen 2025, arXiv 2502.01235. With the gradient G [out, in] of the loss with respect to W over some training
rows, and -G = U diag(sigma) V^T, sigma in descending order,

    B = U_r diag(sigma_r / (gamma sigma_1))^1/2      [out, r]
    A = diag(sigma_r / (gamma sigma_1))^1/2 V_r^T    [r, in]

W stays as it is: the adapted weight W + s B A has taken the best step of rank r of gradient descent, at a rate of
s / (gamma sigma_1), so that its largest singular value is s / gamma, and the model does not begin as its base. The pair
is balanced. Their theory goes on with preconditioned steps,

    gA <- (B^T B + lambda I)^-1 gA        gB <- gB (A A^T + lambda I)^-1,

which is ScaledGD's rule (`optim/scaled_gd.py`), here from the first step on and with our damping of 1e-3 in the place
of lambda = 1e-6. At this start, where both Grams are diag(sigma_r / (gamma sigma_1)), that lambda does to the strongest
direction what a damping of 1.1e-2 would do, and what 1.3e-4 would do to one as weak as lambda.

The formula is that of the authors' code, whose README has sigma in the place of its root and leaves sigma_1 out. In it
s is alpha / sqrt(r) and gamma 128. What they have released leaves the preconditioners out, as update `plain` does, and
decomposes in 512 random dimensions; here the decomposition is exact or randomized, as PiSSA's. With DoRA the magnitudes
begin at the row norms of W + s B A, as theirs do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.adapters.pissa import balanced_pair, leading_triplets
from reflora_cli.methods.starts import LoRAOneStart


@torch.no_grad()
def one_step_pair(G: Tensor, rank: int, choice: LoRAOneStart, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32.

    G: [out, in], float32, not zero. rank: at most min(out, in). generator: that of a randomized decomposition, on the
    CPU.
    """
    U, sigma, V = leading_triplets(-G, rank, choice.iterations, generator)
    return balanced_pair(U[:, :rank], sigma[:rank] / sigma[0], V[:rank], choice.gamma)
