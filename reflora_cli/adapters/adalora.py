"""AdaLoRA: y = W x + b + s B diag(E) A drop(x), triplets of which the least important are given up while it trains.

Zhang et al. 2023, AdaLoRA, arXiv 2303.10512. A [r, in], E [r, 1] and B [out, r] have the form of a singular value
decomposition; a penalty keeps the rows of A and the columns of B near orthonormal, and E is set to zero where a triplet
is given up (both in `optim/budget.py`). A and B begin normal with deviation 0.02, E at zero. The scale is that of the
authors' code and PEFT's, s = alpha / (r + 1e-5), for the r at the start: it does not follow the number of triplets.

The product is LoRA's with E A in A's place, and autograd carries its gradient on to E and A.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.fused import ScaledSum, scaled_sum
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.factors.pair import FactorPair, Role, Triplets

FILE_A, FILE_E, FILE_B = "lora_A", "lora_E", "lora_B"
DEVIATION = 0.02


def scale_for(alpha: float, rank: int) -> float:
    """Return s, for the number of triplets at the start."""
    return alpha / (rank + 1e-5)


@final
class AdaLoRALinear(AdapterLayer):
    """A frozen W [out, in] with trained A [k, in], E [k, 1] and B [out, k], float32; k is 0 where all were given up."""

    peft_type: ClassVar[str] = "ADALORA"

    def __init__(
        self, frozen: FrozenWeight, triplets: tuple[Tensor, Tensor, Tensor], scale: float, dropout: float
    ) -> None:
        """triplets: A, E and B, which are copied."""
        super().__init__(frozen)
        device, layout = frozen.device, torch.contiguous_format
        self.A, self.E, self.B = (
            nn.Parameter(own.detach().to(device, torch.float32, copy=True, memory_format=layout)) for own in triplets
        )
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def start_itself(self, draw: torch.Generator) -> None:
        for factor in (self.A, self.B):
            factor.copy_(torch.empty(factor.shape).normal_(std=DEVIATION, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_sum(x, self.dropout, self.E * self.A, self.B, ScaledSum(self.scale, self.frozen))

    @torch.no_grad()
    def merged(self) -> Tensor:
        return torch.addmm(self.frozen.dense(), self.B, self.E * self.A, alpha=self.scale)

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def triplets(self, name: str) -> list[Triplets]:
        return [Triplets(name, self.A, self.E, self.B)]

    def roles(self) -> dict[str, Role]:
        return {"A": Role.DECAYED, "E": Role.DECAYED, "B": Role.DECAYED}

    def tensors(self) -> dict[str, Tensor]:
        return {FILE_A: self.A, FILE_E: self.E, FILE_B: self.B}
