"""LoRA: y = W x + b + s B A drop(x).

Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from reflora_cli.adapters.frozen import autocast_dtype
from reflora_cli.adapters.fused import LoRAFunction, ScaledSum
from reflora_cli.adapters.layer import flat
from reflora_cli.adapters.low_rank import LowRankLayer


@final
class LoRALinear(LowRankLayer):
    """A frozen weight with an additive low-rank update."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            plain: Tensor = self.frozen(x)
            return plain + self.low_rank(self.dropout(x))
        rows = flat(x.to(autocast_dtype(x)))
        dropped = self.dropout(rows) if self.training and self.dropout.p > 0 else None
        apply: Callable[..., Tensor] = LoRAFunction.apply
        y = apply(rows, dropped, self.A, self.B, ScaledSum(self.scale, self.frozen))
        return y.view(*x.shape[:-1], -1)

    def merged(self) -> Tensor:
        return self.dense_sum()
