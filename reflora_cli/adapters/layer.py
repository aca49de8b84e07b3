"""What an adapter layer is: a frozen weight, a pair of factors, and the two questions asked of them.

Abstract here, final in `lora.py` and `dora.py`. A and B are float32 whatever the base's dtype; their products run in
the dtype of the activations, so no float32 copy of a half-precision activation is made.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.factors.pair import Factored, FactorPair


class AdapterLayer(nn.Module, Factored):
    """A frozen W [out, in] with an update given by A [r, in], B [out, r] and s; dropout acts on the update's input."""

    def __init__(self, frozen: FrozenWeight, pair: tuple[Tensor, Tensor], scale: float, dropout: float) -> None:
        super().__init__()
        A, B = (factor.to(frozen.weight.device, torch.float32) for factor in pair)
        self.frozen = frozen
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> y [..., out]."""

    @abstractmethod
    def merged(self) -> Tensor:
        """The dense weight [out, in], float32 and detached, that computes the same function in evaluation mode."""

    @property
    def weight(self) -> Tensor:
        """The base's weight as stored: some models ask their linear layers for its dtype or device."""
        return self.frozen.weight

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    def low_rank(self, x: Tensor) -> Tensor:
        """x [..., in] -> s B A x [..., out]."""
        return F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype)) * self.scale

    def dense_sum(self) -> Tensor:
        """W + s B A [out, in], float32 and detached."""
        return torch.addmm(self.frozen.dense(), self.B.detach(), self.A.detach(), alpha=self.scale)

    def pair(self, name: str) -> FactorPair:
        """The factors, under the module's name in the model."""
        return FactorPair(name, self.A, self.B, self.scale)


def flat(x: Tensor) -> Tensor:
    """[..., k] -> [n, k], a view where it can be."""
    return x.reshape(-1, x.shape[-1])
