"""RefLoRA: gradients preconditioned by the matrix S that balances the factors (arXiv 2505.18877, full variant).

Zhang, Li and Giannakis (NeurIPS 2025) refactor (A, B) -> (P^T A, B P^-T) with S = P P^T, take a gradient step, and
refactor back. For gradient descent that is

    A <- A - eta S^-1 gA        B <- B - eta gB S

and these two products are what the optimizer is given here, as in the authors' code (zhangyilang/RefLoRA): neither the
factors nor moments are transformed. Under gradient descent BA then moves in the same way from all of its factorizations
(`pair_sgd.py`). Under AdamW, which the paper's runs and ours use by default, it does not, and the part of S that is a
constant scalar or diagonal has no effect: what acts is its mixing of rows and columns, and its change over time.
`linalg.py` says how S is computed. Where we differ from the authors' code:

* S is damped, and computed in float64 for all modules at once; the large products with factors and gradients run in
  float32 where damping makes that enough;
* with an interval of k, S is renewed every k-th step and the last S is applied at every step; the authors' code feeds
  Adam raw gradients in between, which have other units;
* a pair without an S steps plainly, as one with a zero or non-finite factor (the exact limit at B = 0 would freeze it
  for ever), or with a BA of lower rank where damping is weak;
* the count of steps and an S still in use are part of the checkpoint, so a resumed run does not repeat its warm-up.
"""

from __future__ import annotations

from reflora_cli.factors.linalg import balancing_metric
from reflora_cli.optim.preconditioned import PreconditionedRule


class RefLoRARule(PreconditionedRule):
    """gA <- S^-1 gA and gB <- gB S, saved as `S.<module>` and `S_inverse.<module>`."""

    keys = ("S", "S_inverse")
    matrices_of = staticmethod(balancing_metric)
