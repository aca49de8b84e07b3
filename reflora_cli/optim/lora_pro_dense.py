"""LoRA-Pro with moments of the weight's step, as its authors run it under AdamW (arXiv 2407.18242, algorithm 2).

G~ [out, in] and the closest steps uA, uB to a gradient are those of `optim/lora_pro.py`. With the moments of G~

    M <- b1 M + (1 - b1) G~        V <- b2 V + (1 - b2) G~ * G~
    D = (M / (1 - b1^t)) / (sqrt(V / (1 - b2^t)) + eps)

in step t = 1, 2, ..., where * multiplies entry by entry, D takes the place of the gradient of the weight: A and B step
along the uA and uB that are closest to it, of gA = s B^T D and gB = s D A^T. Rates are those of full fine-tuning,
far below LoRA's. M and V are two matrices of the size of each adapted weight, in float32.

Where we differ from the authors' code, beyond `optim/lora_pro.py`: t begins at 1, where theirs begins at 2, which makes
the first direction 0.74 times as long, and squares are not rounded to bfloat16. Decay is decoupled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.lora_pro import Closest, gradients_of
from reflora_cli.optim.pair_adamw import MOMENTS
from reflora_cli.optim.pair_member import PairMember, Settings
from reflora_cli.optim.stacks import PairGroup


class DenseLoRAProMember(PairMember):
    """Steps pairs of factors by LoRA-Pro's AdamW. damping: see `Closest`.

    The moments are remembered as A's.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        pairs: Sequence[FactorPair],
        damping: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, pairs, {"betas": betas, "eps": eps})
        self._damping = damping

    def step_pairs(self, group: PairGroup, settings: Settings) -> None:
        closest = Closest(group, self._damping)
        uA, uB = closest.to_weight(*gradients_of(group))
        directions = [
            self._direction(pair, pair.scale * (pair.B.to(a.dtype) @ a + b @ pair.A.to(b.dtype)), settings[pair.A])
            for pair, a, b in zip(group.pairs, uA, uB, strict=True)
        ]
        self._move(group, *closest.to_gradients(*seen_by_factors(group, directions)), settings)

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a factor, at zero: of A, both moments of its pair [out, in]; of B, nothing."""
        for pair in self._pairs:
            if parameter is pair.A:
                shape, dtype = (pair.B.shape[0], pair.A.shape[1]), torch.promote_types(pair.A.dtype, torch.float32)
                return {moment: torch.zeros(shape, dtype=dtype, device=pair.A.device) for moment in MOMENTS}
        return {}

    def _direction(self, pair: FactorPair, step: Tensor, setting: dict[str, Any]) -> Tensor:
        """Advance the pair's moments by G~ [out, in], and return D."""
        for factor in (pair.A, pair.B):
            self.begun(factor)["step"] += 1
        (first, second), t = (self.state[pair.A][moment] for moment in MOMENTS), self.state[pair.A]["step"]
        (b1, b2), step = setting["betas"], step.to(first.dtype)
        first.lerp_(step, 1 - b1)
        second.mul_(b2).addcmul_(step, step, value=1 - b2)
        D: Tensor = (first / (1 - b1**t)) / ((second / (1 - b2**t)).sqrt_() + setting["eps"])
        return D

    def _move(self, group: PairGroup, uA: list[Tensor], uB: list[Tensor], settings: Settings) -> None:
        """Let the factors decay and step, each at the rate of its group."""
        for pair, *steps in zip(group.pairs, uA, uB, strict=True):
            for factor, step in zip((pair.A, pair.B), steps, strict=True):
                rate, decay = settings[factor]["lr"], settings[factor]["weight_decay"]
                factor.mul_(1 - rate * decay).add_(step.to(factor.dtype), alpha=-rate)


def seen_by_factors(group: PairGroup, weights: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients s B^T D and s D A^T of the factors for those D of the weights, N of [out, in]."""
    known = [
        (pair.scale, pair.A.to(D.dtype), pair.B.to(D.dtype), D) for pair, D in zip(group.pairs, weights, strict=True)
    ]
    return [s * (B.mT @ D) for s, _, B, D in known], [s * (D @ A.mT) for s, A, _, D in known]
