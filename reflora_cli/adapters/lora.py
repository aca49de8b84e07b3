"""LoRA: y = W x + b + s B A drop(x).

Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from reflora_cli.adapters.low_rank import LowRankLayer


@final
class LoRALinear(LowRankLayer):
    """A frozen weight with an additive low-rank update."""

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x)

    def merged(self) -> Tensor:
        return self.dense_sum()
