"""ScaledGD: gradients preconditioned by the inverse Gram matrices of the factors (arXiv 2005.08898).

It is due to Tong, Ma and Chi (2020); for LoRA it is known as Riemannian preconditioned LoRA or PrecLoRA (Zhang and
Pilanci 2024, arXiv 2402.02347). With GA = A A^T and GB = B^T B [r, r] of the factors before the step,

    gA <- GB^-1 gA        gB <- gB GA^-1

Each half is the step of Gauss and Newton with the other factor fixed, and BA moves by the projections of the weight's
gradient on the columns of B and the rows of A: under gradient descent alike from all of its factorizations. Under AdamW
it does not. `linalg.py` says how the inverses are computed. Where we differ from the authors' code
(pilancilab/Riemannian_Preconditioned_LoRA):

* they add d I to both Grams, a number of a size that depends on how BA is factored, and tune it for every task from
  1e-7 to 100. Here GB is damped by f GA^-1 and GA by f GB^-1, where sqrt(f) is a share of the largest singular value of
  BA: the theorem holds with damping too;
* under AdamW they precondition gB by the A that has just been updated; both papers, and we, by the one before;
* AdamW is the usual one, with bias correction;
* a pair whose Grams cannot be inverted steps plainly and is named, as with RefLoRA, and so do all pairs during the
  warm-up: GB^-1 gA is of size 1 / ||B||, so that under gradient descent a step taken soon after B = 0 can be too long.
"""

from __future__ import annotations

from reflora_cli.factors.linalg import inverse_grams
from reflora_cli.optim.preconditioned import PreconditionedRule


class ScaledGDRule(PreconditionedRule):
    """gA <- GB^-1 gA and gB <- gB GA^-1, saved as `GA_inverse.<module>` and `GB_inverse.<module>`."""

    keys = ("GA_inverse", "GB_inverse")
    matrices_of = staticmethod(inverse_grams)
