"""PrecLoRA: ScaledGD with the damping of its paper (Zhang and Pilanci 2024, arXiv 2402.02347).

With A [r, in] and B [out, r] as they are before the step, and a number d,

    gA <- (B^T B + d I)^-1 gA        gB <- gB (A A^T + d I)^-1

are what the optimizer gets as gradients, from the first step on: at B = 0 gA is zero, and so is its product. d is
absolute. The authors' default is 1e-6, and they tune it for each task, to as much as 100 under Adam. It depends on how
BA is factored, and so does the step; with `scaled-gd` the damping does not (`optim/scaled_gd.py`).

Soon after B = 0, where B^T B is as small as d, gradients of A are up to 1 / (2 sqrt(d)) times those of the weight.
Under AdamW they are remembered in the second moment for as long as a thousand steps, in which A then hardly moves. On
matrix factorization a larger d avoids that, at 100 all but LoRA; a warm-up of plain steps does not (`docs/log.md`).

Where we differ from the authors' code (pilancilab/Riemannian_Preconditioned_LoRA): under Adam theirs preconditions gB
by the A that has just been stepped, and has neither bias correction nor AdamW's epsilon; the paper, PEFT's
`create_riemannian_optimizer` and we take the A before the step, and AdamW is the usual one. Theirs takes raw gradients
without a word where an inverse fails; here one exists for all finite factors.
"""

from __future__ import annotations

from reflora_cli.factors.shifted_grams import shifted_inverse_grams
from reflora_cli.optim.preconditioned import PreconditionedRule


class PrecLoRARule(PreconditionedRule):
    """gA <- (GB + d I)^-1 gA and gB <- gB (GA + d I)^-1, saved under the names of ScaledGD's.

    Its damping is d, which is absolute.
    """

    keys = ("GA_inverse", "GB_inverse")
    matrices_of = staticmethod(shifted_inverse_grams)
