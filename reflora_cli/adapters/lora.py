"""LoRA: y = W x + b + s B A drop(x).

Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.layer import AdapterLayer


@final
class LoRALinear(AdapterLayer):
    """A frozen weight with an additive low-rank update."""

    def __init__(self, frozen: FrozenWeight, pair: tuple[Tensor, Tensor], scale: float, dropout: float) -> None:
        super().__init__(frozen, pair, scale, dropout)
        self.magnitude = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x)
        return y + self.low_rank(self.dropout(x))

    def merged(self) -> Tensor:
        return self.dense_sum()
