"""LoRA-XS: y = W x + b + s U X V drop(x), where only the small square X [r, r] is trained.

Banaei et al. 2024, arXiv 2405.17604. With the r largest singular triplets of the frozen weight, W = U diag(sigma) V^T,

    U = U_r [out, r]        V = diag(sigma_r) V_r^T [r, in]

are held, and X begins normal with a deviation of 1e-5: the adapted model begins very near its base. It is LoRA with
A = V held and B = U X, and so are its product, which keeps no input for a gradient, its gradient, U^T gB, and its file.
A run that continues takes U and V from its checkpoint: singular vectors have no signs of their own, and another library
may choose others.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.fused import ScaledSum, scaled_sum
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.low_rank import FILE_A, FILE_B
from reflora_cli.factors.pair import FactorPair, Role


@final
class LoRAXSLinear(AdapterLayer):
    """A frozen W [out, in], held U [out, r] and V [r, in], and a trained X [r, r], float32; zero until it is started.

    rank: r, at most min(out, in). deviation: that of X at the start.
    """

    peft_type: ClassVar[str] = "LORA"
    offset_rank: ClassVar[int] = 0
    U: Tensor
    V: Tensor

    def __init__(self, frozen: FrozenWeight, rank: int, scale: float, dropout: float, deviation: float) -> None:
        super().__init__(frozen)
        device = frozen.device
        self.register_buffer("U", torch.zeros(frozen.out_features, rank, device=device), persistent=False)
        self.register_buffer("V", torch.zeros(rank, frozen.in_features, device=device), persistent=False)
        self.X = nn.Parameter(torch.zeros(rank, rank, device=device))
        self.scale, self.deviation = scale, deviation
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def start_itself(self, draw: torch.Generator) -> None:
        U, sigma, V = torch.linalg.svd(self.frozen.dense(), full_matrices=False)
        self.U.copy_(U[:, : self.rank])
        self.V.copy_(sigma[: self.rank, None] * V[: self.rank])
        self.X.copy_(torch.empty(self.X.shape).normal_(std=self.deviation, generator=draw))

    @property
    def rank(self) -> int:
        return self.X.shape[0]

    @property
    def B(self) -> Tensor:
        """U X [out, r], in float32 whatever autocast says."""
        with torch.autocast(self.X.device.type, enabled=False):
            return self.U @ self.X

    def forward(self, x: Tensor) -> Tensor:
        return scaled_sum(x, self.dropout, self.V, self.B, ScaledSum(self.scale, self.frozen))

    @torch.no_grad()
    def merged(self) -> Tensor:
        return torch.addmm(self.frozen.dense(), self.B, self.V, alpha=self.scale)

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def roles(self) -> dict[str, Role]:
        return {"X": Role.DECAYED}

    def tensors(self) -> dict[str, Tensor]:
        return {FILE_A: self.V, FILE_B: self.B}

    def constants(self) -> dict[str, Tensor]:
        return {"U": self.U, "V": self.V}
