"""RefLoRA-S: factors rescaled to equal norms after the optimizer's step (arXiv 2505.18877, scalar variant).

The best S among the multiples of the identity is ||B|| / ||A||. Handed to Adam as a preconditioner a scalar does
nothing, for Adam ignores the scale of its gradients; so, as in the authors' code (zhangyilang/RefLoRA), the factors are
really refactored and Adam's moments follow, exactly. With p = sqrt(||B|| / ||A||):

    A <- p A      m_A <- m_A / p      v_A <- v_A / p^2
    B <- B / p    m_B <- p m_B        v_B <- p^2 v_B

BA stays as it is and ||A|| = ||B||. SGD's momentum, a sum of gradients, follows as m does. Where we differ from that
code: a pair with a zero factor is left alone instead of divided by zero, and the count of steps is part of the
checkpoint. AMSGrad's running maximum is not transported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.refactoring import RefactoringRule
from reflora_cli.optim.stacks import scale_each

GRADIENTS = {"exp_avg": 1, "exp_avg_sq": 2, "momentum_buffer": 1}
"""What optimizers remember of a parameter, and as which power of its gradients it scales."""
LEAST_RATIO = 1e-12
"""Norms further apart than this are left alone: p^2 would carry float32 moments out of their range."""


class RefLoRASRule(RefactoringRule):
    """Refactors as a `RefactoringRule` does; without a warm-up, factors that are not zero are refactored before the
    first step too, right here.
    """

    def __init__(self, pairs: Sequence[FactorPair], warmup: int, interval: int) -> None:
        super().__init__(pairs, warmup, interval)
        if self._is_due():
            self.refactor({})

    def refactor(self, state: Mapping[Tensor, Any]) -> None:
        refactor(self._pairs, state)


@torch.no_grad()
def refactor(pairs: Sequence[FactorPair], state: Mapping[Tensor, Any]) -> None:
    """Give the factors of every pair equal norms, in place, and let their moments follow.

    state: the moments in GRADIENTS by parameter; a parameter without them has had no gradient yet, or its optimizer
    remembers none. Pairs with a zero, non-finite or hopelessly small factor are multiplied by 1, so that nothing is
    decided on the host.
    """
    for device in dict.fromkeys(pair.A.device for pair in pairs):
        As: list[Tensor] = [pair.A for pair in pairs if pair.A.device == device]
        Bs: list[Tensor] = [pair.B for pair in pairs if pair.A.device == device]
        p = _balancing_scalars(torch.stack(torch._foreach_norm(As)), torch.stack(torch._foreach_norm(Bs)))
        _rescale(As, state, p)
        _rescale(Bs, state, 1 / p)


def _balancing_scalars(norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Return p [N] of N pairs from the norms [N] of their factors; 1 where a factor is as good as zero, or not
    finite."""
    ratios = norms_b / norms_a
    usable = (ratios > LEAST_RATIO) & (ratios < 1 / LEAST_RATIO)
    return torch.where(usable, ratios, 1).sqrt()


def _rescale(factors: Sequence[Tensor], state: Mapping[Tensor, Any], p: Tensor) -> None:
    """Multiply each factor by its own p [N] and transport its moments."""
    by = p.unbind()
    scale_each(factors, by)
    for moment, power in GRADIENTS.items():
        moved = [n for n, factor in enumerate(factors) if moment in state.get(factor, {})]
        inverse = (1 / p.pow(power)).unbind()
        scale_each([state[factors[n]][moment] for n in moved], [inverse[n] for n in moved])
