"""The update of NoRA+: ScaledGD whose matrices have norm 1 (Li et al. 2024, arXiv 2410.18965).

With M = (B^T B + d I)^-1 and N = (A A^T + d I)^-1 [r, r] of the factors before the step, d = 1e-6 unless set,

    gA <- M gA / ||M||_F        gB <- gB N / ||N||_F

from the first step on: at B = 0 gA is zero and M / ||M||_F is I / sqrt(r). Directions are those of PrecLoRA
(`optim/preclora.py`), and the size of the inverse is gone: nothing blows up soon after B = 0. Under AdamW a constant
factor of a gradient has no effect, so that what differs from PrecLoRA there is how this factor changes over time.

The authors' code (BingcongLi/NoRA) does it after every micro-batch, to gradients in which those of earlier ones have
been multiplied already, and before clipping. Here it is done once in a step, to the gradient of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reflora_cli.factors.linalg import InverseGrams, or_identity
from reflora_cli.factors.shifted_grams import shifted_inverse_grams
from reflora_cli.optim.preconditioned import PreconditionedRule


def normalized_inverse_grams(gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float = 0.0) -> InverseGrams:
    """Return the matrices of `shifted_inverse_grams`, each over its Frobenius norm; the identity for the same pairs."""
    own = shifted_inverse_grams(gram_a, gram_b, damping, least_pivot)
    of_a, of_b = (M / torch.linalg.matrix_norm(M, keepdim=True) for M in (own.A, own.B))
    return InverseGrams(or_identity(own.valid, of_a), or_identity(own.valid, of_b), own.valid)


class NormalizedScaledGDRule(PreconditionedRule):
    """gA <- M gA / ||M||_F and gB <- gB N / ||N||_F, saved under the names of ScaledGD's.

    Its damping is d, which is absolute.
    """

    keys = ("GA_inverse", "GB_inverse")
    matrices_of = staticmethod(normalized_inverse_grams)

    def stepped_plainly(self) -> list[str]:
        """Return none: all pairs with finite factors have matrices, which at rank 1 are the identity for every pair."""
        return []
