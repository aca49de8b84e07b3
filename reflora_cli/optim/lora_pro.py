"""LoRA-Pro: steps of both factors that together are closest to a step of the weight (Wang et al. 2024, arXiv
2407.18242).

Steps along uA [r, in] and uB [out, r] move the weight along G~ = s (B uA + uB A), to first order. With G the gradient
of the weight and the factors' own gA = s B^T G, gB = s G A^T, those for which G~ is closest to G are

    uA = s^-2 (B^T B)^-1 gA + X A        uB = s^-2 (I - P_B) gB (A A^T)^-1 - B X

with any X [r, r], where P_B = B (B^T B)^-1 B^T and P_A = A^T (A A^T)^-1 A. Then G~ = P_B G + G P_A - P_B G P_A, which
depends on BA alone. X is the one for which uA and uB are closest to gA and gB, the solution of

    B^T B X + X A A^T = s^-2 (B^T (I - P_B) gB (A A^T)^-1 - (B^T B)^-1 gA A^T)

of which the first term is zero without damping. In a first step, at B = 0, uA = gA and uB = s^-2 gB (A A^T)^-1.

Under gradient descent BA moves alike, to first order in the rate, from all of its factorizations; X and the product of
both steps see them. Rates are those of the weight: s has no part in G~. With different rates for A and B the terms with
X do not cancel.

Where we differ from the authors' code (mrflogs/LoRA-Pro): s is that of the pair, where theirs is 16 / 8 whatever is
configured; inverses are damped relative to BA (`factors/linalg.py`) instead of by 1e-8, so that the damping does not
see the factorization; the first step is taken as the paper has it, where their counter has left it behind already; and
r x r matrices are float64, with symmetric eigendecompositions.

This file is the rule, by which an optimizer gets uA and uB as gradients: AdamW then has moments of these. The paper's
AdamW has moments of G~: `optim/lora_pro_dense.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors.linalg import cholesky, inverse_grams, or_identity, without_zero_rows
from reflora_cli.factors.pair import FactorPair
from reflora_cli.factors.sylvester import solve_sylvester
from reflora_cli.optim.preconditioned import SINGLE_PRECISION
from reflora_cli.optim.rule import StatelessRule
from reflora_cli.optim.stacks import (
    PairGroup,
    factoring_device,
    group_pairs,
    groups_with_gradients,
    has_float64,
    mapped,
)

FULL_RANK = 1e-12
"""The least pivot of A A^T scaled to a unit diagonal with which it is inverted on its own, at B = 0."""


class LoRAProRule(StatelessRule):
    """gA <- uA and gB <- uB in place, from the first step on; it remembers nothing.

    damping: see `inverse_grams`.

    A pair of which a factor has no gradient is left alone, as is one whose factors have no inverse Grams.
    """

    def __init__(self, pairs: Sequence[FactorPair], damping: float) -> None:
        self._pairs, self._damping = tuple(pairs), damping
        self._groups = group_pairs(pairs)
        self._plain: list[tuple[PairGroup, Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        self._plain = []
        for group in groups_with_gradients(self._groups, self._pairs):
            closest = Closest(group, self._damping)
            gA, gB = gradients_of(group)
            uA, uB = closest.to_gradients(gA, gB)
            torch._foreach_copy_([*gA, *gB], [*uA, *uB])
            self._plain.append((group, closest.plain))

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        pass

    def stepped_plainly(self) -> list[str]:
        """Return modules whose factors had no inverse Grams, and whose B is not zero."""
        found = [zip(group.pairs, plain.tolist(), strict=True) for group, plain in self._plain]
        return [pair.name for own in found for pair, is_plain in own if is_plain]


class Closest:
    """What turns gradients of the N pairs of a group, with their factors as they are, into the closest steps.

    plain: a bool [N], whether a pair's gradients stay as they are: it has no inverse Grams, and its B is not zero.
    """

    def __init__(self, group: PairGroup, damping: float) -> None:
        self._A: list[Tensor] = [pair.A for pair in group.pairs]
        self._B: list[Tensor] = [pair.B for pair in group.pairs]
        self._device, self._place = group.device, factoring_device(group.device)
        exact = damping < SINGLE_PRECISION and has_float64(group.device)
        self._precision = torch.float64 if exact else torch.float32
        self._gram_a, self._gram_b = group.grams(torch.float64)
        squares = torch.tensor([pair.scale**2 for pair in group.pairs], dtype=torch.float64, device=self._place)
        inverses = inverse_grams(self._gram_a, self._gram_b, damping)
        at_zero, inverse_at_zero = self._at_zero()
        self.plain = ~(inverses.valid | at_zero)
        self._adjusted = inverses.valid[:, None, None]
        of_b = or_identity(inverses.valid, inverses.B / squares[:, None, None])
        of_a = torch.where(at_zero[:, None, None], inverse_at_zero, inverses.A) / squares[:, None, None]
        self._for_a, self._for_b = of_b, or_identity(~self.plain, of_a)
        self._projecting = torch.where(self._adjusted, inverses.B, 0.0)

    def to_gradients(self, gA: Sequence[Tensor], gB: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return uA, N of [r, in], and uB, N of [out, r], with X: closest to the gradients themselves too."""
        by_a = self._small(mapped(lambda g, A: g @ A.mT, self._large(gA), self._large(self._A)))
        by_b = self._small(mapped(lambda B, g: B.mT @ g, self._large(self._B), self._large(gB)))
        removed = self._projecting @ by_b @ self._for_b
        C = by_b @ self._for_b - self._gram_b @ removed - self._for_a @ by_a
        X = solve_sylvester(self._gram_b, self._gram_a, torch.where(self._adjusted, C, 0.0))
        return self._steps(gA, gB, X, removed + X)

    def to_weight(self, gA: Sequence[Tensor], gB: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return uA and uB without X, which G~ does not see."""
        by_b = self._small(mapped(lambda B, g: B.mT @ g, self._large(self._B), self._large(gB)))
        removed = self._projecting @ by_b @ self._for_b
        return self._steps(gA, gB, torch.zeros_like(removed), removed)

    def _steps(
        self, gA: Sequence[Tensor], gB: Sequence[Tensor], X: Tensor, Z: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return for_a gA + X A and gB for_b - B Z."""
        matrices = [own.to(self._device, self._precision) for own in (self._for_a, X, self._for_b, Z)]
        uA = mapped(lambda M, g, X, A: M @ g + X @ A, matrices[0], self._large(gA), matrices[1], self._large(self._A))
        uB = mapped(lambda g, M, B, Z: g @ M - B @ Z, self._large(gB), matrices[2], self._large(self._B), matrices[3])
        return uA, uB

    def _at_zero(self) -> tuple[Tensor, Tensor]:
        """Return for which pairs B = 0 and A has full rank [N], and (A A^T)^-1 for those, float64 [N, r, r]."""
        L, pivot = cholesky(or_identity(self._gram_a.isfinite().flatten(1).all(1), self._gram_a))
        found = (self._gram_b == 0).flatten(1).all(1) & without_zero_rows(self._gram_a) & (pivot > FULL_RANK)
        return found, torch.cholesky_inverse(or_identity(found, L))

    def _large(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [own.to(self._precision) for own in tensors]

    def _small(self, matrices: list[Tensor]) -> Tensor:
        return torch.stack(matrices).to(self._place).double()


def gradients_of(group: PairGroup) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of A and of B of all pairs, which have them."""
    return (
        [pair.A.grad for pair in group.pairs if pair.A.grad is not None],
        [pair.B.grad for pair in group.pairs if pair.B.grad is not None],
    )
