"""LoRA-FA with projected gradients: the step of B that is closest to that of the weight, A being held.

Zhang et al. 2023, LoRA-FA, arXiv 2308.03303. With GA = A A^T [r, r], s the scale of the update and gB = s G A^T the
gradient of B [out, r], for G [out, in] that of the weight,

    gB <- s^-2 gB GA^-1

after which s gB A = G A^T GA^-1 A: the step of the weight is its own gradient, projected on the rows of A. It is the
least-squares fit of G by s gB A. GA^-1 is the pseudo-inverse, computed once in float64 since A does not change, and
the product runs in float32. PEFT's LoraFAOptimizer inverts GA + 1e-8 I in every step, and multiplies in bfloat16.

AdamW behind it cancels s^-2 and the diagonal part of GA^-1, which for a random A is nearly all of it. Under gradient
descent W moves as with full fine-tuning within the rows of A, at any alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.rule import StatelessRule
from reflora_cli.optim.stacks import PairGroup, group_pairs


class ProjectedRule(StatelessRule):
    """gB <- s^-2 gB GA^-1 in place, for pairs whose A is held; it remembers nothing that A does not say."""

    def __init__(self, pairs: Sequence[FactorPair]) -> None:
        self._groups = group_pairs(pairs)
        self._inverses: list[Tensor] = []

    @torch.no_grad()
    def before_step(self) -> None:
        # Not earlier: a run that continues has its A only after the rule was made.
        if not self._inverses:
            self._inverses = [inverse_gram(group) for group in self._groups]
        for group, inverse in zip(self._groups, self._inverses, strict=True):
            group.precondition(inverse, inverse)  # no A has a gradient

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        pass

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)
        self._inverses = []


def inverse_gram(group: PairGroup) -> Tensor:
    """Return s^-2 GA^-1 [N, r, r] of all pairs of a group, float32, on their device."""
    gram, _ = group.grams(torch.float64)
    scales = torch.tensor([pair.scale for pair in group.pairs], dtype=torch.float64, device=gram.device)
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True) / scales.square()[:, None, None]
    return inverse.to(group.device, torch.float32)
