"""BaLoRA: factors that are balanced after the optimizer's step (Castin et al. 2026, arXiv 2605.31484).

Of all factorizations of one BA, those with A A^T = B^T B have the best conditioned loss. With S A A^T S = B^T B, as in
RefLoRA, and T = S^1/2 [r, r], symmetric, for A [r, in] and B [out, r]

    A <- T A        B <- B T^-1

balances them, and BA stays as it is. Balanced factorizations differ from each other by orthogonal matrices. The paper's
algorithm takes that of the singular value decomposition, A = diag(sigma)^1/2 V^T and B = U diag(sigma)^1/2, whose rows
change their signs and order from one step to the next. T is the nearest one, to first order, and changes continuously.
Gradient descent does not see the difference. AdamW does, since its moments are those of the rows as they were: with the
singular vectors it was far behind LoRA on matrix factorization, with T ahead of it (`docs/log.md`).

As published, moments stay as they are. Or they are transported with the factors, as experiment: gradients become
T^-1 gA and gB T, so that, exactly but for the second moments of AdamW, of which it keeps diagonals only,

    m_A <- T^-1 m_A        v_A <- (T^-1 * T^-1) v_A        m_B <- m_B T        v_B <- v_B (T * T)

where * multiplies entry by entry. SGD's momentum follows as m does. AMSGrad's running maximum stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors.frames import frames_of
from reflora_cli.factors.linalg import NOISE
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.refactoring import RefactoringRule
from reflora_cli.optim.stacks import PairGroup, group_pairs, has_float64, mapped

FIRST, SECOND = ("exp_avg", "momentum_buffer"), "exp_avg_sq"
"""What optimizers remember: sums of gradients, and sums of their squares."""
Moments = Callable[[PairGroup, Tensor, Tensor, Mapping[Tensor, Any]], None]
"""What happens to the moments of pairs whose factors become T A and B T^-1, for T and T^-1 [N, r, r]."""


class BalancedRule(RefactoringRule):
    """Balances the factors of every pair.

    moments: what happens to the optimizer's moments, `keep_moments` or `transport_moments`.

    A pair whose BA is zero, or whose factors are both numerically singular, stays as it is; one that is not finite does
    not become so. Directions in which BA is weaker than NOISE times its largest singular value are not balanced to the
    end.
    """

    def __init__(self, pairs: Sequence[FactorPair], warmup: int, interval: int, moments: Moments) -> None:
        super().__init__(pairs, warmup, interval)
        self._groups, self._moments = group_pairs(pairs), moments

    @torch.no_grad()
    def refactor(self, state: Mapping[Tensor, Any]) -> None:
        for group in self._groups:
            frames = frames_of(*group.grams(torch.float64), NOISE)
            precision = torch.float64 if has_float64(group.device) else torch.float32
            T, inverse = (own.to(group.device, precision) for own in (frames.balancing_a, frames.balancing_b))
            from_left([pair.A for pair in group.pairs], T)
            from_right([pair.B for pair in group.pairs], inverse)
            self._moments(group, T, inverse, state)


def keep_moments(group: PairGroup, T: Tensor, inverse: Tensor, state: Mapping[Tensor, Any]) -> None:
    """Leave the moments as they are."""


def transport_moments(group: PairGroup, T: Tensor, inverse: Tensor, state: Mapping[Tensor, Any]) -> None:
    """Turn the moments into those of the new factors; parameters without moments have had no gradient yet."""
    for key, of_a, of_b in (*((first, inverse, T) for first in FIRST), (SECOND, inverse.square(), T.square())):
        has_a = [n for n, pair in enumerate(group.pairs) if key in state.get(pair.A, {})]
        has_b = [n for n, pair in enumerate(group.pairs) if key in state.get(pair.B, {})]
        from_left([state[group.pairs[n].A][key] for n in has_a], of_a[has_a])
        from_right([state[group.pairs[n].B][key] for n in has_b], of_b[has_b])


def from_left(tensors: Sequence[Tensor], matrices: Tensor) -> None:
    """X <- M X in place for each X [r, in] and its M of `matrices` [N, r, r], multiplied in their dtype."""
    if tensors:
        torch._foreach_copy_(list(tensors), mapped(lambda X, M: M @ X.to(M.dtype), tensors, matrices))


def from_right(tensors: Sequence[Tensor], matrices: Tensor) -> None:
    """X <- X M in place for each X [out, r] and its M of `matrices` [N, r, r], multiplied in their dtype."""
    if tensors:
        torch._foreach_copy_(list(tensors), mapped(lambda X, M: X.to(M.dtype) @ M, tensors, matrices))
